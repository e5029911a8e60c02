"""A Git repository with flows and a manifest, the people who work in it, and the commands that they type."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru import cli as command_line
from kitaru.cli.terminal import Output, terminal
from kitaru.client.project import Applied
from kitaru.flows.loading import ProjectFinder
from kitaru.model import address
from kitaru.model.plan import Plan
from kitaru.store.local import LocalStore
from kitaru.store.port import Listed, Store

CHECKOUT = Path(__file__).resolve().parents[1]

FLOWS = '''
from kitaru import checkpoint, flow

GREETING = "hello"

@checkpoint
def collect(topic: str) -> str:
    return f"{GREETING} {topic}"

@checkpoint
def write(notes: str) -> str:
    return notes.upper()

@flow
def agent(topic: str) -> str:
    """Collect, then write."""
    return write(collect(topic))

@flow
def greeter(name: str = "you", times: int = 1) -> str:
    return " ".join([f"{GREETING} {name}"] * times)
'''

MANIFEST = """\
kitaru: 1
project: research
store: file://.kitaru/store
source: {include: ["flows/**"]}
flows:
  agent:
    target: flows/work.py:agent
    routes:
      default: head
"""


class WallClock:
    """The real time, and real chance."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def token(self, size: int) -> str:
        return "".join(secrets.choice(address.CROCKFORD) for _ in range(size))


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def new_git(folder: Path, user: str = "Ann") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q", "-b", "main")
    set_user(folder, user)


def set_user(folder: Path, user: str) -> None:
    git(folder, "config", "user.name", user)
    git(folder, "config", "user.email", f"{user.lower()}@example.org")
    git(folder, "config", "commit.gpgsign", "false")


@dataclass(frozen=True)
class Repository:
    """A working tree with a ``kitaru.yaml``."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, files: Mapping[str, str] | None = None, manifest: str = MANIFEST) -> Repository:
        new_git(folder)
        repository = cls(folder)
        repository.write(".gitignore", ".kitaru/\n__pycache__/\n")
        for path, text in (files or {"flows/work.py": FLOWS}).items():
            repository.write(path, text)
        repository.manifest(manifest)
        repository.commit()
        return repository

    def write(self, path: str, text: str) -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
        return place

    def manifest(self, text: str) -> Path:
        return self.write("kitaru.yaml", text)

    def change(self, path: str, old: str, new: str) -> None:
        place = self.folder / path
        text = place.read_text(encoding="utf-8")
        assert old in text, old
        place.write_text(text.replace(old, new), encoding="utf-8")

    def commit(self, message: str = "work") -> str:
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "--allow-empty", "-m", message)
        return git(self.folder, "rev-parse", "HEAD")

    def clone(self, folder: Path, user: str = "Bob") -> Repository:
        git(self.folder, "clone", "-q", str(self.folder), str(folder))
        set_user(folder, user)
        return Repository(folder)

    @property
    def store_folder(self) -> Path:
        return self.folder / ".kitaru" / "store"

    def store(self) -> LocalStore:
        return LocalStore(self.store_folder, f"file://{self.store_folder}")

    def client(self, *, wrap: Callable[[Store], Store] | None = None, **given: Any) -> KitaruClient:
        """A client of this repository; ``wrap`` puts something between it and its real store."""
        client = KitaruClient(manifest=self.folder / "kitaru.yaml", **given)
        if wrap is not None:
            client.session.store = wrap(client.session.store)
        return client

    def plan(self, *flows: str, **given: Any) -> Plan:
        return self.client().plan(flows, **given)

    def apply(self, *flows: str, wrap: Callable[[Store], Store] | None = None, **given: Any) -> Applied:
        return self.client(wrap=wrap).apply(flows, **given)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def said(self) -> str:
        return self.out + self.err

    def must(self, code: int = 0) -> Done:
        assert self.code == code, f"exit {self.code}\n{self.out}\n{self.err}"
        return self

    def refused(self, *words: str, code: int = 2, hint: bool = True) -> Done:
        """The command said no, in words: these among them, and what to do next."""
        self.must(code)
        assert "Traceback" not in self.said, self.said
        assert "defect of Kitaru" not in self.said, self.said
        assert "error:" in self.err
        assert not hint or "hint:" in self.err, self.err
        for word in words:
            assert word in self.said, f"{word!r} is not in:\n{self.said}"
        return self


def kitaru(*arguments: str | Path, cwd: Path | None = None, stdin: str = "") -> Done:
    """A command, carried out in this process."""
    out, err = io.StringIO(), io.StringIO()
    before, old_stdin = Path.cwd(), sys.stdin
    terminal.detailed, terminal.interrupted, terminal.command, terminal.chosen = False, False, "", Output.text
    try:
        os.chdir(cwd or before)
        sys.stdin = io.StringIO(stdin)
        with redirect_stdout(out), redirect_stderr(err):
            code = command_line.run([str(one) for one in arguments])
    finally:
        os.chdir(before)
        sys.stdin = old_stdin
    return Done(code, out.getvalue(), err.getvalue())


def start(*arguments: str | Path, cwd: Path, python: str = sys.executable, **environ: str) -> subprocess.Popen[str]:
    """The same as a process of its own, in a group of its own so that a signal reaches it as a terminal's would."""
    return subprocess.Popen(
        [python, "-m", "kitaru", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 60) -> Done:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"the command did not end within {timeout} s:\n{out}\n{err}")
    return Done(process.returncode, out, err)


def remote(repository: Repository, url: str, *arguments: str, limit: float = 30, **environ: str) -> Done:
    """A command against a bucket, in a process of its own; the test fails where it takes longer than ``limit``."""
    return finish(start(*arguments, "--store", url, cwd=repository.folder, **environ), timeout=limit)


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What ``condition`` gave, once it was true; the test fails where it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail("it never came to be")
        time.sleep(0.01)
    return found


@dataclass
class Watched:
    """A real store, with every request to it noted."""

    inner: Store
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def durable_across_processes(self) -> bool:
        return self.inner.durable_across_processes

    def count(self, *verbs: str) -> int:
        return sum(1 for verb, _ in self.calls if verb in verbs)

    def read(self, key: str) -> bytes | None:
        self.calls.append(("read", key))
        return self.inner.read(key)

    def create(self, key: str, body: bytes) -> Any:
        self.calls.append(("create", key))
        return self.inner.create(key, body)

    def overwrite(self, key: str, body: bytes, *, durable: bool = True) -> None:
        self.calls.append(("overwrite", key))
        self.inner.overwrite(key, body, durable=durable)

    def names(self, prefix: str, *, after: str = "") -> list[str]:
        self.calls.append(("names", prefix))
        return self.inner.names(prefix, after=after)

    def listed(self, prefix: str) -> Iterator[Listed]:
        self.calls.append(("listed", prefix))
        return self.inner.listed(prefix)

    def remove(self, key: str) -> None:
        self.calls.append(("remove", key))
        self.inner.remove(key)


@pytest.fixture
def own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home, a cache and a Git configuration of the test's own; nothing of the caller's reaches it."""
    for name in list(os.environ):
        if name.startswith(("KITARU_", "GITHUB_", "GITLAB_", "CI_", "GIT_", "AWS_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("KITARU_HOME", str(home / "kitaru"))
    monkeypatch.setenv("NO_COLOR", "1")
    path, finders, loaded = list(sys.path), list(sys.meta_path), set(sys.modules)
    yield tmp_path
    finders += [one for one in sys.meta_path if not (one in finders or isinstance(one, ProjectFinder))]  # six has one
    # Another test has another flows/work.py, and a finder holds its folder.
    sys.path[:] = path
    sys.meta_path[:] = [
        one for one in sys.meta_path if one in finders or not type(one).__module__.startswith("kitaru.")
    ]
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
    sys.modules.pop("flows", None)


@pytest.fixture
def repository(own_world: Path) -> Repository:
    """One flow, declared, committed, not applied."""
    return Repository.make(own_world / "repository")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that this checkout makes."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("kitaru", "schemas", "templates"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    run_checked([*command, "-w", str(folder), str(source)])
    (found,) = folder.glob("kitaru_gitops-*.whl")
    return found


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has Kitaru from its wheel, and the libraries of the Python that runs the tests."""
    import venv

    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    run_checked([*pip, "--target", str(packages), str(wheel)])
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    # Paths alone: a line that begins with import would bring the checkout's editable installation back.
    (packages / "libraries.pth").write_text("".join(f"{path}\n" for path in libraries))
    return folder / "bin" / "python"


def run_checked(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
