"""What people and machines get wrong: each time a clear error, what to do next, the right exit code, nothing lost."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kitaru.errors import KitaruConflictError
from kitaru.model import address
from tests.fault_proxy import FaultProxy
from tests.repository import (
    CHECKOUT,
    FLOWS,
    MANIFEST,
    Done,
    Repository,
    finish,
    git,
    kitaru,
    new_git,
    remote,
)
from tests.s3_servers import S3Server, free_port_pairs


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- the manifest -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kitaru: 1\nproject: [", ("kitaru.yaml:",)),
        ("kitaru: 1\n\tproject: x\n", ("kitaru.yaml:2:",)),
        ("", ("kitaru.yaml",)),
        ("- a\n- b\n", ("kitaru.yaml",)),
        (MANIFEST.replace("kitaru: 1", "kitaru: 7"), ("kitaru.yaml:1:",)),
        (MANIFEST.replace("target:", "tarket:"), ("tarket", "did you mean 'target'")),
        (MANIFEST + "flows: {}\n", ("flows", "kitaru.yaml:")),
        (MANIFEST.replace("default: head", "default: yes"), ("kitaru.yaml:9:", "expected a version number")),
        (MANIFEST.replace("default: head", "default: 0"), ("versions count from 1",)),
        (MANIFEST.replace("default: head", "head: 1"), ("tag",)),
        (MANIFEST.replace("project: research", "project: Über uns"), ("lower-case letters",)),
        (MANIFEST.replace("project: research", "project: 3"), ("kitaru.yaml:2:",)),
        (MANIFEST.replace("target: flows/work.py:agent", "target: nothing"), ("path/to/file.py:flow",)),
        (MANIFEST.replace("    routes:", "    stack: prod\n    routes:"), ("prod",)),
        (MANIFEST.replace("    routes:", "    retries: -1\n    routes:"), ("kitaru.yaml:8:", "expected 0 or more")),
        (MANIFEST.replace("    routes:", "    inputs: {tpic: x}\n    routes:"), ("tpic", "did you mean topic")),
        (MANIFEST.replace("    routes:", "    inputs: {topic: 3}\n    routes:"), ("topic", "expected text")),
        (MANIFEST.replace("file://.kitaru/store", "ftp://x/y"), ("ftp://",)),
    ],
)
def test_a_wrong_manifest(repository: Repository, text: str, words: tuple[str, ...]) -> None:
    """Every mistake in kitaru.yaml is told with its place, in plan and in validate, and nothing is written."""
    repository.manifest(text)
    repository.commit()
    done = do(repository, "plan")
    assert done.code == 2, done.said
    for word in words:
        assert word in done.err, f"{word!r} is not in:\n{done.err}"
    assert "Traceback" not in done.said
    assert "defect of Kitaru" not in done.said
    do(repository, "apply", "--yes").must(2)
    assert not repository.store_folder.exists()


def test_all_mistakes_at_once(repository: Repository) -> None:
    """Three mistakes are three problems in one run, in the order of the file."""
    repository.manifest(MANIFEST.replace("target: flows/work.py:agent", "tarket: x").replace("head", "zero"))
    problems = do(repository, "validate", "-o", "json").must(2).json["error"]["problems"]
    assert len(problems) >= 2
    places = [(one["line"], one["column"]) for one in problems]
    assert places == sorted(places)


def test_no_manifest(own_world: Path) -> None:
    """Where there is none: kitaru init."""
    new_git(own_world / "empty")
    for command in ("plan", "validate", "apply"):
        kitaru(command, cwd=own_world / "empty").refused("there is no kitaru.yaml", "hint: kitaru init")
    kitaru("plan", "--manifest", "nope.yaml", cwd=own_world).refused("nope.yaml", hint=False)
    kitaru("plan", "--target", "production", cwd=own_world).refused("kitaru.yaml")


def test_an_unknown_target(repository: Repository) -> None:
    """--target that the manifest doesn't have lists what it has."""
    repository.manifest(MANIFEST + "targets: {production: {store: 's3://x/y'}}\n")
    do(repository, "plan", "--target", "prodution").refused("production", hint=False)


# --- the code ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_library_at_all\n", ("no_such_library_at_all", "kitaru.yaml:7:")),
        ("def f(:\n", ("SyntaxError", "flows/work.py")),
        ("raise RuntimeError('at import')\n", ("RuntimeError", "at import", "flows/work.py:1")),
        ("import sys\nsys.exit(3)\n", ("sys.exit", "flows/work.py:2")),
        ("import os\nos._exit(3)\n", ("exit code 3",)),
        ("x = 1\n", ("agent",)),
        ("def agent(topic):\n    return topic\n", ("agent", "@flow")),
        ("from kitaru import checkpoint\n@checkpoint\ndef agent(topic: str) -> str:\n    return topic\n", ("agent",)),
        ("from kitaru import flow\n@flow(retries=-1)\ndef agent() -> None:\n    pass\n", ("retries",)),
        ("from kitaru import flow\n@flow\ndef agent(*args: int) -> None:\n    pass\n", ("args",)),
    ],
)
def test_a_target_that_can_not_be_deployed(repository: Repository, code: str, words: tuple[str, ...]) -> None:
    """What is wrong with the code is told with its cause and the manifest's line, without Kitaru's own traceback."""
    repository.write("flows/work.py", code)
    repository.commit()
    done = do(repository, "plan")
    assert done.code == 2, done.said
    for word in words:
        assert word in done.err, f"{word!r} is not in:\n{done.err}"
    assert "importlib" not in done.err
    assert "kitaru/cli" not in done.err
    assert len(done.err.splitlines()) < 20
    assert not repository.store_folder.exists()


def test_a_file_that_is_not_committed(repository: Repository) -> None:
    """A target that Git doesn't have is named with the way out."""
    repository.write("flows/new.py", FLOWS)
    repository.manifest(MANIFEST.replace("flows/work.py", "flows/new.py"))
    git(repository.folder, "add", "kitaru.yaml")
    git(repository.folder, "commit", "-q", "-m", "x")
    do(repository, "plan").refused("flows/new.py", "--allow-dirty")


# --- Git --------------------------------------------------------------------------------------------------------------


def test_not_a_repository(own_world: Path) -> None:
    """No Git: said, with git init."""
    folder = own_world / "plain"
    folder.mkdir()
    (folder / "kitaru.yaml").write_text(MANIFEST)
    kitaru("plan", cwd=folder).refused("git")


def test_an_empty_repository(own_world: Path) -> None:
    """No commit yet: said, with what to commit."""
    new_git(own_world / "r")
    (own_world / "r" / "kitaru.yaml").write_text(MANIFEST)
    kitaru("plan", cwd=own_world / "r").refused("commit")


def test_a_dirty_tree(repository: Repository) -> None:
    """Changed and untracked files are named, and refused until committed or allowed."""
    repository.change("flows/work.py", "hello", "good day")
    repository.write("flows/new.py", "x = 1\n")
    do(repository, "plan").refused("flows/work.py", "flows/new.py", "--allow-dirty")
    do(repository, "apply", "--yes").must(2)
    assert not repository.store_folder.exists()


def test_a_detached_head_and_a_shallow_clone(repository: Repository, own_world: Path) -> None:
    """Both, as CI makes them, are fine."""
    repository.commit()
    repository.commit()
    git(own_world, "clone", "-q", "--depth", "1", f"file://{repository.folder}", "shallow")
    shallow = Repository(own_world / "shallow")
    git(shallow.folder, "checkout", "-q", "--detach")
    do(shallow, "apply", "--yes").must()
    assert do(shallow, "plan", "--detailed-exitcode").code == 0


def test_a_submodule_in_the_source(repository: Repository, own_world: Path) -> None:
    """A submodule's files are in another repository: refused by its path, with the ways out."""
    other = Repository.make(own_world / "other", {"lib.py": "x = 1\n"})
    command = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(other.folder), "flows/vendored")
    git(repository.folder, *command)
    repository.commit()
    do(repository, "plan").refused("flows/vendored")
    repository.manifest(MANIFEST.replace('["flows/**"]}', '["flows/**"], exclude: ["flows/vendored"]}'))
    repository.commit()
    do(repository, "plan").must()


def test_symlinks_in_the_source(repository: Repository) -> None:
    """One that stays inside is taken along; one that leads out of the source is refused by its path."""
    (repository.folder / "flows/alias.py").symlink_to("work.py")
    repository.commit()
    do(repository, "plan").must()
    (repository.folder / "flows/passwd").symlink_to("/etc/passwd")
    repository.commit()
    do(repository, "plan").refused("flows/passwd")


def test_a_source_that_is_too_large(repository: Repository) -> None:
    """Over the budget: refused with the largest files."""
    repository.manifest(MANIFEST.replace('["flows/**"]}', '["flows/**"], max_size_mb: 1}'))
    (repository.folder / "flows/weights.bin").write_bytes(os.urandom(1_200_000))
    repository.commit()
    do(repository, "plan").refused("flows/weights.bin")


def test_a_selection_of_nothing(repository: Repository) -> None:
    """Globs that fit no file are an error."""
    repository.manifest(MANIFEST.replace('["flows/**"]', '["flwos/**"]'))
    repository.commit()
    do(repository, "plan").refused("flwos")


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "words"),
    [
        ("gs://bucket/x", "gs://"),
        ("https://host/x", "AWS_ENDPOINT_URL"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("file://", "names no folder"),
    ],
)
def test_a_store_that_can_not_be_one(repository: Repository, store: str, words: str) -> None:
    """An address that Kitaru can't keep a project at is refused by name, and no secret of it is repeated."""
    done = do(repository, "plan", "--store", store).refused(words)
    assert "key:secret" not in done.said


def test_a_bucket_that_is_not_there(repository: Repository, seaweedfs: S3Server) -> None:
    """The bucket is named, and how to make it."""
    remote(repository, "s3://no-such-bucket-here/x", "plan", **seaweedfs.environment()).refused(
        "no-such-bucket-here", code=1
    )


def test_credentials_that_are_refused(repository: Repository, seaweedfs: S3Server) -> None:
    """A wrong key: said so, with the variables, and never the key's secret."""
    environ = {**seaweedfs.environment(), "AWS_SECRET_ACCESS_KEY": "not-the-secret"}
    done = remote(repository, seaweedfs.new_prefix(), "plan", **environ).refused("AWS_", code=1)
    assert "not-the-secret" not in done.said


def test_no_credentials_at_all(repository: Repository, seaweedfs: S3Server) -> None:
    """None found: said within seconds, without asking the network for some."""
    environ = {"AWS_ENDPOINT_URL": seaweedfs.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}
    remote(repository, seaweedfs.new_prefix(), "plan", **environ).refused("AWS_", code=1)


def test_nobody_answers(repository: Repository, seaweedfs: S3Server) -> None:
    """The network is down: an error in seconds, not in retries for minutes, that says what was not reached."""
    port = free_port_pairs(1)[0]
    environ = {**seaweedfs.environment(), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    begun = time.monotonic()
    remote(repository, "s3://bucket/x", "plan", limit=40, **environ).refused("bucket", code=1)
    assert time.monotonic() - begun < 25


def test_the_network_fails_in_the_middle_of_apply(repository: Repository, moto_s3: S3Server) -> None:
    """From some request on nothing is let through: apply fails in words, the store is as before, and again works."""
    url = moto_s3.new_prefix()
    with FaultProxy(moto_s3.endpoint) as proxy:
        environ = {**moto_s3.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}
        proxy.choose = lambda method, path: "cut-before" if method == "PUT" and "objects" in path else None
        remote(repository, url, "apply", "--yes", limit=60, **environ).refused(code=1)
        proxy.choose = lambda *_: None
        assert remote(repository, url, "flow", "list", "-o", "json", **environ).must().json["count"] == 0
        assert "generation 1" in remote(repository, url, "apply", "--yes", **environ).must().out


def test_a_lost_reply_at_the_commit_point(repository: Repository, moto_s3: S3Server) -> None:
    """The generation landed and its answer did not: apply knows its own entry, and there is one generation."""
    url = moto_s3.new_prefix()
    with FaultProxy(moto_s3.endpoint) as proxy:
        environ = {**moto_s3.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}
        faults = ["cut-after"]
        proxy.choose = lambda method, path: faults.pop() if method == "PUT" and "/lock/" in path and faults else None
        assert "generation 1" in remote(repository, url, "apply", "--yes", limit=60, **environ).must().out
        assert faults == []
        assert remote(repository, url, "plan", "--detailed-exitcode", **environ).code == 0


def test_a_full_disk(repository: Repository) -> None:
    """The archive can't be written: said so, nothing half is left, and with room again apply works."""
    (repository.folder / "flows/weights.bin").write_bytes(os.urandom(400_000))
    repository.commit()
    do(repository, "plan").must()
    process = subprocess.Popen(
        [sys.executable, "-m", "kitaru", "apply", "--yes"],
        cwd=repository.folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    finish(process).refused("store", code=1)
    assert do(repository, "flow", "list", "-o", "json").must().json["count"] == 0
    assert list(repository.store_folder.rglob("*.zst")) == []
    do(repository, "apply", "--yes").must()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(repository: Repository) -> None:
    """Permission denied: the folder is named."""
    repository.store_folder.parent.mkdir()
    repository.store_folder.parent.chmod(0o500)
    do(repository, "apply", "--yes").refused(str(repository.store_folder), code=1)


def test_a_store_that_is_a_file(repository: Repository) -> None:
    """A file where the store's folder should be."""
    (repository.folder / ".kitaru").mkdir()
    repository.store_folder.write_text("a file")
    done = do(repository, "apply", "--yes")
    assert done.code == 1
    done.refused(str(repository.store_folder), code=1)


def test_a_store_of_a_newer_kitaru(repository: Repository) -> None:
    """A format that this release doesn't know, in the lock log and its hint: upgrade; nothing is written to it."""
    repository.apply()
    for key in (address.lock_hint("research"), address.generation("research", 1)):
        path = repository.store_folder / key
        data = json.loads(path.read_bytes())
        path.unlink()
        path.write_bytes(address.canonical_json({**data, "format": 2}))
    before = everything(repository.store_folder)
    for words in (["plan"], ["apply", "--yes"], ["flow", "list"], ["invoke", "agent", "--input", '{"topic": "x"}']):
        do(repository, *words).refused("format 2", "install a newer Kitaru", code=1)
    assert everything(repository.store_folder) == before


@pytest.mark.parametrize("kind", ["table", "snapshot", "listing", "generation"])
def test_a_damaged_object(repository: Repository, kind: str) -> None:
    """Bytes that changed on disk are named by their key; a plan that needs them fails, and moves nothing."""
    repository.apply()
    state = repository.client().session.releases.head().flows["agent"]
    source = repository.client().deployments.list("agent")[0].snapshot
    snapshot = json.loads((repository.store_folder / address.blob("research", source)).read_bytes())
    key = {
        "table": address.blob("research", state.table),
        "snapshot": address.blob("research", state.snapshot),
        "listing": address.blob("research", snapshot["source"]),
        "generation": address.generation("research", 1),
    }[kind]
    path = repository.store_folder / key
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body[: len(body) // 2])
    if kind == "generation":
        (repository.store_folder / address.lock_hint("research")).unlink()
    repository.change("flows/work.py", "hello", "good day")
    repository.commit()
    before = everything(repository.store_folder)
    do(repository, "plan").refused("research", code=1)
    do(repository, "apply", "--yes").refused(code=1)
    assert everything(repository.store_folder) == before


# --- small mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_idempotency_key(repository: Repository, key: str) -> None:
    """A variable that was never set must not make all requests one."""
    repository.apply()
    given = ["--input", '{"topic": "x"}', "--idempotency-key", key]
    do(repository, "invoke", "agent", *given).refused("the idempotency key is empty")
    assert repository.client().executions.list() == []


def test_a_syntax_error_in_a_target(repository: Repository) -> None:
    """The plan says where: file, line, column, and the line."""
    repository.write("flows/work.py", FLOWS + "\ndef broken(:\n    pass\n")
    repository.commit()
    line = len(FLOWS.splitlines()) + 2
    done = do(repository, "plan")
    done.refused("SyntaxError: invalid syntax", f"flows/work.py:{line}:12: def broken(:", hint=False)


def test_a_hint_is_said_once(repository: Repository) -> None:
    """One problem, one hint."""
    repository.manifest(MANIFEST.replace("target:", "tarket:"))
    err = do(repository, "plan").must(2).err
    hints = [line.strip() for line in err.splitlines() if line.strip().startswith("hint:")]
    assert len(hints) == len(set(hints)), err


def test_a_traceback_shows_the_hint(own_world: Path) -> None:
    """In a script a flow that is called like a function ends in a traceback that says what to call instead."""
    (own_world / "script.py").write_text(
        "from kitaru import flow\n@flow\ndef research_agent(topic: str) -> str:\n    return topic\n\n"
        "research_agent('x')\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=own_world, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    told = done.stderr.partition("kitaru.errors.")[2]
    assert ".run(" in told, done.stderr
    assert ".invoke(" in told, done.stderr


def test_a_race_lost_by_many_flows_is_short(own_world: Path) -> None:
    """Ten of the edits that lost are told, the rest are counted, and times are to the second."""
    flows = "".join(f"  g{n}:\n    target: flows/work.py:greeter\n    routes: {{default: head}}\n" for n in range(15))
    repository = Repository.make(own_world / "r", manifest=MANIFEST + flows)
    ours = repository.client()
    made = ours.plan()
    theirs = repository.clone(own_world / "theirs")
    theirs.change("flows/work.py", "hello", "good day")
    theirs.commit()
    theirs.client(store=f"file://{repository.store_folder}").apply()
    with pytest.raises(KitaruConflictError) as lost:
        ours.apply(plan=made)
    lines = lost.value.message.splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  and 22 more"
    assert not re.search(r"\d\.\d{3,}Z", lost.value.message)
