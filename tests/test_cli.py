"""The command line: what goes to standard output, what to people, which exit code, and what a saved plan is worth."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kitaru._version import __version__
from kitaru.cli import assemble
from kitaru.cli.options import example_inputs
from kitaru.model import address
from tests.repository import CHECKOUT, FLOWS, MANIFEST, Done, Repository, finish, kitaru, start


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


# --- the first story, command by command ------------------------------------------------------------------------------


def test_plan_apply_plan(repository: Repository) -> None:
    """A plan says what to type next; apply says where the project is; then there is nothing to do."""
    assert "1 to create, 1 version to build, 1 route to move" in do(repository, "plan").must().out
    done = do(repository, "apply", "--yes").must()
    assert "Applied: generation 1 of project research." in done.out
    assert """try it: kitaru invoke agent --input '{"topic": "..."}' --wait""" in done.out
    assert "No changes: 1 flow as the manifest says." in do(repository, "plan").must().out
    assert "No changes" in do(repository, "apply", "--yes").must().out


def test_detailed_exit_codes(repository: Repository) -> None:
    """0: no change, 2: changes, 1: any error, a wrong manifest and a wrong option among them."""
    assert do(repository, "plan").code == 0
    assert do(repository, "plan", "--detailed-exitcode").code == 2
    do(repository, "apply", "--yes").must()
    assert do(repository, "plan", "--detailed-exitcode").code == 0
    assert do(repository, "plan", "nope", "--detailed-exitcode").code == 1
    assert do(repository, "plan", "--detailed-exitcode", "--store", "ftp://x").code == 1
    repository.manifest("flows: [")
    assert do(repository, "plan", "--detailed-exitcode").code == 1
    assert do(repository, "plan").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ["plan"],
        ["apply", "--yes"],
        ["plan"],
        ["validate"],
        ["flow", "list"],
        ["flow", "deployments", "list", "agent"],
        ["flow", "deployments", "show", "agent"],
        ["executions", "list"],
        ["invoke", "agent", "--input", '{"topic": "x"}', "--wait"],
        ["executions", "get", "x"],
        ["init"],
    ],
    ids=" ".join,
)
def test_json_is_alone_on_standard_output(repository: Repository, words: list[str]) -> None:
    """With -o json standard output is one JSON document with the command's name, errors included."""
    if words[0] not in ("plan", "init", "validate", "apply"):
        repository.apply()
    data = do(repository, *words, "-o", "json").json
    assert data["command"] == {"flow": ".".join(words[:-1] if words[-1] == "agent" else words)}.get(
        words[0], ".".join(words[:2]) if words[0] == "executions" else words[0]
    )
    assert sum(key in data for key in ("item", "items", "error")) == 1
    if "items" in data:
        assert data["count"] == len(data["items"])


def test_the_json_of_a_plan_is_stable(repository: Repository) -> None:
    """The same plan is the same JSON, byte for byte, and holds what a script needs."""
    first, second = do(repository, "plan", "-o", "json"), do(repository, "plan", "-o", "json")
    assert first.out == second.out
    item = first.json["item"]
    assert (item["base"], item["project"]) == (0, "research")
    assert item["flows"][0]["build"]["version"] == 1
    assert [edit["kind"] for edit in item["edits"]] == ["add_version", "move"]


def test_errors_in_json_name_their_kind(repository: Repository) -> None:
    """code, type, message, hint, and every problem with its place."""
    repository.manifest(MANIFEST.replace("target:", "tarket:"))
    done = do(repository, "plan", "-o", "json").must(2)
    error = done.json["error"]
    assert (error["code"], error["type"]) == ("manifest", "KitaruManifestError")
    assert all(problem["file"].endswith("kitaru.yaml") for problem in error["problems"])
    assert {problem["line"] for problem in error["problems"]} <= {6, 7}


def test_files_are_listed(repository: Repository) -> None:
    """plan --files shows what the snapshot will hold, with sizes."""
    out = do(repository, "plan", "--files").must().out
    assert "source of agent: 1 files" in out or "source of agent: 1 file," in out
    assert "flows/work.py" in out


# --- saved plans ------------------------------------------------------------------------------------------------------


def test_a_saved_plan_travels_through_a_file(repository: Repository, own_world: Path) -> None:
    """plan --out, apply FILE: just that is carried out, once."""
    saved = own_world / "p.json"
    assert f"kitaru apply {saved}" in do(repository, "plan", "--out", saved).must().out
    assert "generation 1" in do(repository, "apply", saved, "--yes").must().out
    do(repository, "apply", saved, "--yes").refused(
        "the plan was made on generation 0", "Ann wrote generation 1", code=1
    )


def test_a_plan_saved_in_the_repository_is_no_change_of_it(repository: Repository) -> None:
    """plan --out plan.json, apply plan.json: as the README types it; and plan --out plan.json again before."""
    for _ in range(2):
        do(repository, "plan", "--files", "--out", "plan.json").must()
    (repository.folder / "notes.txt").touch()
    do(repository, "apply", "plan.json", "--yes").refused("1 file is changed or not committed", "notes.txt")
    (repository.folder / "notes.txt").unlink()
    done = do(repository, "apply", "plan.json", "--yes").must()
    assert "generation 1" in done.out
    assert not repository.client().deployments.get("agent").commit_dirty
    do(repository, "plan").refused("plan.json")


def test_a_plan_saved_below_another_folder(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is found whatever folder the command is typed in."""
    for word in (["plan", "--out"], ["apply", "--yes"]):
        kitaru(*word, "plan.json", cwd=repository.folder / "flows").must()
    assert (repository.folder / "flows" / "plan.json").is_file()
    assert repository.client().session.releases.head().generation == 1


def test_a_plan_saved_beside_uncommitted_work(repository: Repository) -> None:
    """With --allow-dirty the plan's own file is not taken into the source."""
    repository.manifest(MANIFEST.replace('["flows/**"]', '["**"]'))
    do(repository, "plan", "--allow-dirty", "--out", "plan.json").must()
    do(repository, "apply", "plan.json", "--yes").must()
    assert "plan.json" not in do(repository, "plan", "--allow-dirty", "--files", "--out", "plan.json").must().out
    assert repository.client().deployments.get("agent").commit_dirty


@pytest.mark.parametrize("how", ["> p.md", "| tee p.md"])
def test_a_plan_written_into_its_own_repository(repository: Repository, own_world: Path, how: str) -> None:
    """The shell makes that file before the command looks, so it is refused; outside, or ignored by Git, it is not."""

    def typed(line: str) -> subprocess.CompletedProcess[str]:
        words = f"set -o pipefail; {sys.executable} -m kitaru plan -o markdown {line}"
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        run = ("bash", "-c", words)
        return subprocess.run(run, cwd=repository.folder, env=env, capture_output=True, text=True, check=False)

    refused = typed(how)
    assert refused.returncode != 0
    assert "1 file is changed or not committed" in refused.stderr and "p.md" in refused.stderr
    outside = own_world / "p.md"
    (repository.folder / "p.md").unlink()
    assert typed(how.replace("p.md", str(outside))).returncode == 0
    assert outside.read_text().startswith("<!-- kitaru plan")
    repository.write(".gitignore", ".kitaru/\n__pycache__/\np.md\n")
    repository.commit()
    assert typed(how).returncode == 0
    assert (repository.folder / "p.md").read_text().startswith("<!-- kitaru plan")


def test_a_saved_plan_may_be_applied_by_another_clone(repository: Repository, own_world: Path) -> None:
    """CI plans in one checkout and applies in another one of the same commit, with the same store."""
    store = f"file://{own_world / 'store'}"
    saved = own_world / "p.json"
    do(repository, "plan", "--out", saved, "--store", store).must()
    theirs = repository.clone(own_world / "theirs")
    do(theirs, "apply", saved, "--yes", "--store", store).must()
    assert do(repository, "plan", "--detailed-exitcode", "--store", store).code == 0


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[1]", b'{"format": 9}'], ids=str)
def test_a_file_that_is_no_plan(repository: Repository, body: bytes) -> None:
    """Anything else than a plan is refused by its name."""
    (repository.folder / "p.json").write_bytes(body)
    do(repository, "apply", "p.json", "--yes").refused("p.json holds no plan")
    do(repository, "apply", "missing.json", "--yes").refused("missing.json can't be read")


def test_a_plan_that_can_not_be_saved(repository: Repository) -> None:
    """An --out that can't be written is an error, not a plan that nobody has."""
    do(repository, "plan", "--out", "no/such/folder/p.json").refused("can't be written")


def test_nobody_is_asked_where_nobody_is(repository: Repository) -> None:
    """Without a terminal and without --yes nothing is applied."""
    do(repository, "apply").refused("kitaru apply --yes")
    assert not repository.store_folder.exists()


def test_what_to_type_next_leads_to_the_same_place(repository: Repository, own_world: Path) -> None:
    """The commands that plan and apply suggest carry the options that they were given, and work as they are."""
    place = ["--store", f"file://{own_world}/a store", "-f", "kitaru.yaml"]
    out = do(repository, "plan", "agent", "--allow-dirty", *place).must().out
    words = shlex.split(out.partition("carry it out: ")[2])
    assert words == ["kitaru", "apply", "agent", "--allow-dirty", *place]
    assert "apply --prune\n" in do(repository, "plan", "--prune").must().out
    out = do(repository, *words[1:], "--yes").must().out
    words = shlex.split(out.partition("try it: ")[2])
    assert do(repository, *words[1:]).must().out == "HELLO ...\n"
    assert words[-4:] == place
    saved = do(repository, "plan", "--prune", "--out", "p.json", "--store", "file://.kitaru/other").must().out
    assert "saved: kitaru apply p.json --store file://.kitaru/other carries out just this" in saved


@pytest.mark.parametrize(
    ("schema", "given", "made"),
    [
        ({}, {}, {}),
        ({"required": ["a"], "properties": {"a": {"type": "string", "title": "A"}}}, {}, {"a": "..."}),
        ({"required": ["a"], "properties": {"a": {"type": "array"}}}, {"a": [1]}, {}),
        ({"required": ["a"], "properties": {"a": {"type": "array"}}}, {}, None),
        ({"required": ["a"], "properties": {"a": {"type": "string", "pattern": "^x$"}}}, {}, None),
        ({"required": ["a"], "properties": {"a": {"enum": ["red", "blue"], "type": "string"}}}, {}, {"a": "red"}),
        ({"required": ["a", "b"], "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/x"}}}, {}, None),
        ({"required": ["n"], "properties": {"n": {"type": "integer"}, "o": {"type": "string"}}}, {}, {"n": 1}),
    ],
)
def test_example_inputs(schema: dict[str, Any], given: dict[str, Any], made: dict[str, Any] | None) -> None:
    """Only what is required and missing is made up, and only where any value of the type will do."""
    assert example_inputs(schema, given) == made


def test_a_removed_flow_can_still_be_invoked_by_number(repository: Repository) -> None:
    """What plan --prune says of the versions is so; a route of it is refused with how to reach them."""
    repository.apply()
    repository.manifest(MANIFEST.replace("  agent:", "  greeter:").replace("py:agent", "py:greeter"))
    repository.commit()
    assert "agent  removed; its 1 version can still be invoked by number" in do(repository, "plan", "--prune").out
    do(repository, "apply", "--prune", "--yes").must()
    given = ["--input", '{"topic": "x"}', "--wait"]
    do(repository, "invoke", "agent", *given).refused("agent was removed", "kitaru invoke agent --version 1")
    assert do(repository, "invoke", "agent", "--version", "1", *given).must().out == "HELLO X\n"
    assert do(repository, "flow", "deployments", "list", "agent", "-o", "json").must().json["count"] == 1
    do(repository, "flow", "deployments", "show", "agent", "--version", "1").must()
    do(repository, "flow", "deployments", "show", "agent").refused("agent was removed")


# --- looking ----------------------------------------------------------------------------------------------------------


def test_versions_and_their_tags(repository: Repository) -> None:
    """flow list, deployments list and show: * marks exclusive tags, show follows default."""
    repository.apply()
    repository.change("flows/work.py", "hello", "good day")
    repository.manifest(MANIFEST.replace("default: head", "default: 1\n      canary: head\n      mark: [1, 2]"))
    repository.commit()
    repository.apply()
    listed = do(repository, "flow", "list").must().out
    assert "canary* → v2" in listed
    assert "default* → v1" in listed
    lines = do(repository, "flow", "deployments", "list", "agent").must().out.splitlines()
    assert re.search(r"agent +1 +default\*, mark ", lines[1])
    assert re.search(r"agent +2 +canary\*, mark ", lines[2])
    shown = do(repository, "flow", "deployments", "show", "agent").must().out
    assert "flows/work.py:agent" in shown
    assert "v1" in shown.splitlines()[0]
    do(repository, "flow", "deployments", "show", "agent", "--version", "9").refused("it has v1 to v2")
    do(repository, "flow", "deployments", "list", "nope").refused("no deployments")


def test_executions_can_be_listed_and_filtered(repository: Repository) -> None:
    """Newest first, by flow, status and number; part of an id is enough; logs come back."""
    do(repository, "executions", "list").must()
    repository.apply()
    ids = [
        do(repository, "invoke", "agent", "--input", f'{{"topic": "{n}"}}', "--wait", "-o", "json").json["item"][
            "exec_id"
        ]
        for n in range(3)
    ]
    listed = do(repository, "executions", "list", "-o", "json").json["items"]
    assert [one["exec_id"] for one in listed] == ids[::-1]
    assert do(repository, "executions", "list", "--limit", "1", "-o", "json").json["count"] == 1
    assert do(repository, "executions", "list", "--status", "failed", "-o", "json").json["count"] == 0
    assert do(repository, "executions", "list", "--flow", "other", "-o", "json").json["count"] == 0
    do(repository, "executions", "list", "--status", "nope").refused("expected one of", hint=False)
    got = do(repository, "executions", "get", ids[0][-8:]).must().out
    assert ids[0] in got
    assert "HELLO 0" in got
    assert "collect" in got
    do(repository, "executions", "get", "zzzzzzzz").refused("no execution")
    do(repository, "executions", "logs", "zzzzzzzz").refused("no execution")


def test_run_from_source(own_world: Path) -> None:
    """run works with no manifest and no Git; the result is standard output, and exit 1 is a flow that failed."""
    (own_world / "work.py").write_text(FLOWS + "\n@flow\ndef bad() -> None:\n    raise ValueError('no')\n")
    done = kitaru("run", "work.py:agent", "--input", '{"topic": "x"}', cwd=own_world).must()
    assert done.out == "HELLO X\n"
    data = kitaru("run", "work.py:greeter", "-o", "json", cwd=own_world).must().json["item"]
    assert (data["result"], data["status"]) == ("hello you", "completed")
    failed = kitaru("run", "work.py:bad", cwd=own_world).must(1)
    assert "ValueError: no" in failed.err
    kitaru("run", "work.py:bad", "--input", '{"x": 1}', cwd=own_world).refused("x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "expected an object of inputs"),
        ("@missing.json", "missing.json can't be read"),
        ("@binary", "binary can't be read"),
    ],
)
def test_inputs_that_are_none(repository: Repository, given: str, words: str) -> None:
    """--input takes an object, or a file with one."""
    repository.apply()
    (repository.folder / "binary").write_bytes(b"\xff\xfe")
    do(repository, "invoke", "agent", "--input", given).refused(words)


def test_inputs_from_a_file_and_from_standard_input(repository: Repository, own_world: Path) -> None:
    """@file and @- are read."""
    repository.apply()
    (own_world / "inputs.json").write_text('{"topic": "file"}')
    given = f"@{own_world / 'inputs.json'}"
    assert do(repository, "invoke", "agent", "--input", given, "--wait").must().out == "HELLO FILE\n"


# --- the commands themselves ------------------------------------------------------------------------------------------


def commands(group: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path] if path else []
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, (*path, name))
    return found


def test_every_command_explains_itself() -> None:
    """--help of each command exits 0, and has a sentence and its options."""
    import typer

    every = commands(typer.main.get_command(assemble()))
    assert len(every) > 15
    for path in every:
        done = kitaru(*path, "--help").must()
        assert "Usage: kitaru" in done.out
        assert len(done.out.splitlines()) > 4, path


@pytest.mark.parametrize(
    "words",
    [["nope"], ["plan", "--nope"], ["invoke"], ["plan", "-o"], ["invoke", "x", "--version", "x"], ["executions"]],
    ids=" ".join,
)
def test_wrong_usage_exits_2(words: list[str]) -> None:
    """A command or option that is none: usage, exit 2, no traceback."""
    done = kitaru(*words)
    assert done.code == 2 or (words == ["executions"] and done.code in (0, 2))
    assert "Traceback" not in done.said


@pytest.mark.parametrize("words", [["--version"], ["version"]], ids=" ".join)
def test_the_version(words: list[str], own_world: Path) -> None:
    """Said at once."""
    assert finish(start(*words, cwd=own_world)).must().out == f"kitaru {__version__}\n"


@pytest.mark.parametrize("name", ["manifest", "lockfile", "snapshot", "plan", "execution"])
def test_schemas_are_printed(name: str) -> None:
    """schema prints a JSON Schema; the default is the manifest's."""
    schema = kitaru("schema", name).must().json
    assert "properties" in schema or "$defs" in schema or "anyOf" in schema
    assert kitaru("schema").must().json == kitaru("schema", "manifest").must().json
    assert kitaru("schema", name, "-o", "json").must().json == {"command": "schema", "item": schema}
    kitaru("schema", "nope").refused("nope")
    assert kitaru("schema", "nope", "-o", "json").must(2).json["error"]["code"] == "usage"


def test_the_version_is_told_to_machines_too() -> None:
    """version, as every command, has one JSON document for a script."""
    assert kitaru("version", "-o", "json").must().json == {"command": "version", "item": {"version": __version__}}
    assert kitaru("version").must().out == f"kitaru {__version__}\n"


def test_what_was_applied_fits_its_schema(repository: Repository) -> None:
    """Plan, lockfile and snapshot as they are written are valid by the published schemas."""
    import jsonschema

    plan = json.loads(repository.plan().canonical())
    repository.apply()
    lock = json.loads((repository.store_folder / address.lock_hint("research")).read_bytes())
    sha = repository.client().deployments.get("agent").snapshot
    snapshot = json.loads((repository.store_folder / address.blob("research", sha)).read_bytes())
    generation = json.loads((repository.store_folder / address.generation("research", 1)).read_bytes())
    for name, data in (("plan", plan), ("lockfile", lock), ("snapshot", snapshot), ("generation", generation)):
        jsonschema.validate(data, kitaru("schema", name).must().json)


def test_a_reader_that_has_gone_is_no_error(repository: Repository) -> None:
    """kitaru ... | head: no traceback when the pipe is closed."""
    process = start("schema", cwd=repository.folder)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    errors = process.stderr.read()
    process.wait(30)
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_colours_only_where_they_are_seen(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a file or a pipe no escape sequence is written."""
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in do(repository, "plan").must().said
    assert "\x1b" not in finish(start("plan", cwd=repository.folder)).must().said


def test_a_defect_is_told_as_one(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw ends in words that say so, with the place, and not in a traceback."""
    from kitaru import client

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(client.KitaruClient, "plan", broken)
    done = do(repository, "plan").must(1)
    assert "this is a defect of Kitaru" in done.err
    assert "KITARU_DEBUG=1" in done.err
    assert "Traceback" not in done.err
    monkeypatch.setitem(os.environ, "KITARU_DEBUG", "1")
    assert "Traceback" in do(repository, "plan").must(1).err


# --- where it is printed ----------------------------------------------------------------------------------------------


def shell(words: str, folder: Path, **environ: str) -> Done:
    """A command as it is typed into a shell."""
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m kitaru {words}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environ},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


ODD = """
from kitaru import flow

@flow
def odd() -> list[str]:
    print("caf\u00e9 \u2713 \U0001f600")
    return ["\\ud800", "caf\u00e9 \u2713 \U0001f600"]
"""


@pytest.mark.parametrize(
    "environ",
    [{}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["utf-8", "latin-1", "ascii"],
)
def test_every_letter_can_be_printed(own_world: Path, environ: dict[str, str]) -> None:
    """Whatever the encoding, and whatever a flow returns: JSON that reads back the same, text with escapes."""
    (own_world / "odd.py").write_text(ODD, encoding="utf-8")
    done = shell("run odd.py:odd -o json", own_world, **environ)
    printed = done.must().out
    body = printed[printed.index("{") :]
    assert json.loads(body)["item"]["result"] == ["\ud800", "caf\u00e9 \u2713 \U0001f600"]
    done = shell("run odd.py:odd", own_world, **environ).must()
    assert "defect" not in done.said


def test_a_worker_prints_every_letter(own_world: Path) -> None:
    """A released flow is not stopped by the locale of whoever invoked it."""
    manifest = MANIFEST.replace("agent", "odd").replace("flows/work.py", "flows/odd.py")
    repository = Repository.make(own_world / "r", {"flows/odd.py": ODD}, manifest)
    environ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shell("apply --yes", repository.folder, **environ).must()
    done = shell("invoke odd --wait -o json", repository.folder, **environ).must()
    assert json.loads(done.out)["item"]["result"][0] == "\ud800"
    (execution,) = repository.client().executions.list()
    assert "caf\u00e9 \u2713" in next(iter(repository.client().executions.logs(execution.exec_id))).text


@pytest.mark.parametrize("words", ["plan", "plan -o json", "--help", "--version", "schema", "flow list -o json"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_disk_behind_standard_output(repository: Repository, words: str, unbuffered: str) -> None:
    """What could not be printed is an error with its reason, and no defect."""
    done = shell(f"{words} >/dev/full", repository.folder, PYTHONUNBUFFERED=unbuffered).must(1)
    assert done.err.splitlines()[-1] == "error: can't write to standard output: No space left on device"
    assert "defect" not in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("words", ["plan", "apply --yes", "--version", "--help"])
def test_a_closed_standard_output(repository: Repository, words: str) -> None:
    """Closed is as good as /dev/null, for the commands that Kitaru itself runs too."""
    done = shell(f"{words} >&-", repository.folder).must()
    assert "defect" not in done.err
    assert done.out == ""
    shell(f"{words} <&- >&- 2>&-", repository.folder).must()
    assert repository.client().session.releases.head().generation == (words == "apply --yes")


# --- words that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["-o json", "--output json", "-ojson", "--output=json"])
@pytest.mark.parametrize(
    ("words", "command"), [("flow list --bogus", "flow.list"), ("nope", ""), ("flow lst", "flow"), ("deploy", "deploy")]
)
def test_wrong_usage_in_json(own_world: Path, words: str, command: str, form: str) -> None:
    """A script that asked for JSON gets the error as JSON too."""
    done = kitaru(*words.split(), *form.split(), cwd=own_world).must(2)
    assert done.json["command"] == command
    assert done.json["error"]["code"] == "usage"
    assert done.json["error"]["message"] in done.err


@pytest.mark.parametrize("word", ["serve", "login", "logout", "auth"])
def test_commands_that_people_look_for(own_world: Path, word: str) -> None:
    """They are named as what is not there, with what does that work."""
    done = kitaru(word, "x", cwd=own_world).must(2)
    assert done.err.startswith(f"error: there is no command {word} in this release; ")
    assert "kitaru" in done.err.partition(";")[2]


@pytest.mark.parametrize("words", [[], ["flow"], ["flow", "deployments"], ["executions"]], ids=" ".join)
def test_a_bare_group_prints_its_help(words: list[str]) -> None:
    """Help and exit 2, and no error."""
    done = kitaru(*words).must(2)
    assert done.err.startswith("Usage: kitaru")
    assert "error:" not in done.err


def test_an_empty_store_is_named(repository: Repository, own_world: Path) -> None:
    """Who looks into the wrong store sees which one it was."""
    url = f"file://{own_world / 'elsewhere'}"
    assert f"No flows in project research of store {url} yet." in do(repository, "flow", "list", "--store", url).out


def test_the_end_of_a_build_is_told(repository: Repository) -> None:
    """Where progress is not a terminal's line, the last step of a phase is printed as well as its first."""
    flows = "".join(f"  g{n}:\n    target: flows/work.py:greeter\n" for n in range(3))
    repository.manifest(MANIFEST + flows)
    repository.commit()
    lines = [line for line in do(repository, "apply", "--yes").must().err.splitlines() if line.startswith("build: ")]
    assert [line.rpartition(" ")[2] for line in lines] == ["[1/4]", "[4/4]"]
