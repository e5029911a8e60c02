"""Finds the facts about the flows of a source: a child process imports them.

User code is never imported into this process: it may crash, hang, print or end it, and two sources may use one module
name.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kitaru._version import __version__
from kitaru.errors import KitaruSourceError, Problem
from kitaru.local_cache import read_entry, write_entry
from kitaru.model.address import canonical_json, digest
from kitaru.model.snapshot import FlowFacts
from kitaru.source.import_check import shadowed_imports
from kitaru.source.port import Surroundings

DISCOVERY_VARIABLE = "KITARU_DISCOVERY"
"""Set to 1 during an import that only describes flows, so that code can check for it."""

PLACEHOLDER = "hidden-while-importing"
"""The value of a secret's variable during an import, enough for a client that only needs a value."""

_MACHINE = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TMP|TEMP|LD_LIBRARY_PATH|DYLD_\w+|VIRTUAL_ENV|CONDA_\w+"
    r"|SSL_CERT_\w+|PYTHON\w+|GIT_TEST_\w+)$"
)
"""Variables that a process needs to start and to find its libraries; an import sees no others of this shell."""

_MODULE = "kitaru.source.discovery_child"
_KEY_ERROR = re.compile(r"KeyError: '(\w+)'")
_CACHE_FORMAT = 2
_CHUNK = 1 << 16
_START_SECONDS = 60
_TAIL_LINES = 5
_TAIL_BYTES = 2_000


@dataclass(frozen=True)
class Job:
    """The targets to import from the source at ``root``, by key, with the folders to import from and the variables."""

    root: Path
    targets: Mapping[str, str]
    roots: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def describe(
    jobs: Sequence[Job],
    *,
    python: str = sys.executable,
    timeout: float = 120,
    on_target: Callable[[str], None] | None = None,
    worktree: Path | None = None,
    environ: Mapping[str, str] | None = None,
    secrets: Collection[str] = (),
) -> dict[str, FlowFacts | Problem]:
    """The facts about each target, or its problem, by key, in the order of the jobs; no two jobs share a key.

    One child imports all of them, each job in a fork. A target has a problem if its import crashes, ends the process
    or takes longer than ``timeout`` seconds; a fresh child imports the rest. ``on_target`` gets each key with its
    answer. A missing module that exists in ``worktree`` is named. Of ``environ`` the imports see only the machine's own
    variables, and those of ``secrets`` with a placeholder. Raises ``KitaruSourceError`` if ``python`` can't run Kitaru.
    """
    shell = os.environ if environ is None else environ
    answers: dict[str, FlowFacts | Problem] = {}
    job_of = {name: job for job in jobs for name in job.targets}

    def take(name: str, answer: FlowFacts | Problem) -> None:
        answers[name] = answer
        if on_target is not None:
            on_target(name)

    for name, job in job_of.items():
        problem = shadowed_imports(job.root, job.targets[name], job.roots)
        if problem is not None:
            take(name, problem)
    suspect = ""
    while waiting := [name for name in job_of if name not in answers]:
        order = sorted(waiting, key=lambda name: name != suspect)
        with _Child(_grouped(order, job_of), python, _import_environ(shell, secrets)) as child:
            for message in child.messages(timeout):
                name = message["name"]
                take(name, _parse_answer(message, job_of[name], worktree, shell))
            if child.finished:
                continue
            lost = child.begun
            if not lost and order[0] not in answers:
                raise KitaruSourceError(
                    f"{python} can't look at the flows: {child.ending(timeout)}",
                    hint="install Kitaru in an environment that works",
                )
            if lost and (child.timed_out or order[0] == lost):
                place = job_of[lost].targets[lost].partition(":")[0]
                cause = f"importing {place} {child.ending(timeout)}"
                take(lost, Problem(cause, file=place if _is_path(place) else ""))
            # An earlier import may be the cause: try this one again, first in a fresh child.
            suspect = lost
    return {name: answers[name] for name in job_of}


def _grouped(order: Sequence[str], job_of: Mapping[str, Job]) -> list[dict[str, Any]]:
    """The jobs as JSON for the child, the first target's job first."""
    groups: dict[int, dict[str, Any]] = {}
    for name in order:
        job = job_of[name]
        facts = {"root": str(job.root), "roots": job.roots, "environment": dict(job.environment), "targets": []}
        groups.setdefault(id(job), facts)["targets"].append((name, job.targets[name]))
    return list(groups.values())


def _import_environ(shell: Mapping[str, str], secrets: Collection[str]) -> dict[str, str]:
    kept = {name: value for name, value in shell.items() if _MACHINE.match(name)}
    # A relative entry would lead into the source, the child's folder.
    path = [str(Path(entry).absolute()) for entry in kept.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    home = _kitaru_home()
    entries = [home, *path] if home else path
    return {
        **kept,
        **dict.fromkeys(secrets, PLACEHOLDER),
        **({"PYTHONPATH": os.pathsep.join(entries)} if entries else {}),
        DISCOVERY_VARIABLE: "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place


# --- the child --------------------------------------------------------------------------------------------------------


class _Child:
    """The process that imports. ``begun``: the target whose import has no answer yet."""

    def __init__(self, jobs: list[dict[str, Any]], python: str, env: Mapping[str, str]) -> None:
        self.begun = ""
        self.finished = False
        self.timed_out = False
        self.answers, writer = os.pipe()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        try:
            self.process = subprocess.Popen(
                # -P: a json.py of the source must not stand in the way of the start.
                [python, "-P", "-m", _MODULE, str(writer)],
                cwd=jobs[0]["root"],
                env=env,
                stdin=subprocess.PIPE,
                stdout=self.errors,
                stderr=self.errors,
                pass_fds=(writer,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self.answers)
            self.errors.close()
            raise KitaruSourceError(
                f"{python} can't be started: {error.strerror or error}",
                hint="install Kitaru anew in an environment with a working Python",
            ) from error
        finally:
            os.close(writer)
        assert self.process.stdin is not None
        # A broken pipe: the child ended at once, and the missing answers show it.
        with contextlib.suppress(BrokenPipeError), self.process.stdin as sent:
            sent.write(json.dumps({"jobs": jobs, "home": _kitaru_home()}).encode())

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.answers)
        self._kill()
        self.errors.close()

    def messages(self, timeout: float) -> Iterator[dict[str, Any]]:
        """The child's answers, until it is done, or silent for ``timeout`` seconds, or gone."""
        rest = b""
        deadline = time.monotonic() + max(timeout, _START_SECONDS)
        poll = select.poll()
        poll.register(self.answers, select.POLLIN)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                self.timed_out = True
                return
            chunk = os.read(self.answers, _CHUNK)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for message in map(json.loads, lines):
                deadline = time.monotonic() + timeout
                if "end" in message:
                    self.finished = True
                    return
                self.begun = message.get("begin", "")
                if not self.begun:
                    yield message

    def ending(self, timeout: float) -> str:
        """The child's end in words, with the last lines that it printed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=0 if self.timed_out else 5)
        code = self._kill()
        if self.timed_out:
            ending = f"did not finish within {timeout:g} seconds"
        elif code < 0:
            ending = f"killed the process: {signal.Signals(-code).name}"
        else:
            ending = f"ended the process with exit code {code}"
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - _TAIL_BYTES))
        lines = [line for line in self.errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return ending + "".join(f"\n    {line}" for line in lines[-_TAIL_LINES:])

    def _kill(self) -> int:
        # The whole session, with every process that the imported code started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


def _kitaru_home() -> str:
    """The folder of Kitaru's own package if it is a checkout; empty if it is installed."""
    home = str(Path(__file__).resolve().parents[2])
    installed = {str(Path(path).resolve()) for path in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))}
    return "" if home in installed else home


# --- its answers ------------------------------------------------------------------------------------------------------


def _parse_answer(
    message: dict[str, Any], job: Job, worktree: Path | None, shell: Mapping[str, str]
) -> FlowFacts | Problem:
    if "facts" in message:
        return FlowFacts.model_validate(message["facts"])
    problem = Problem(**message["problem"])
    hidden = _KEY_ERROR.search(problem.message)
    if hidden is not None and hidden[1] in shell:
        hint = f"an import sees image.environment alone: set {hidden[1]} there, or read it when the flow runs"
        return replace(problem, hint=hint)
    target = job.targets[message["name"]]
    left_out = _left_out(job.root, target, message["missing"], worktree) if worktree is not None else None
    if left_out is None:
        return problem
    return replace(
        problem,
        message=f"{problem.message}; {left_out} is in the working tree, but not in the snapshot",
        hint=f"commit {left_out}, or take it in with source.include / source.exclude",
    )


def _left_out(root: Path, target: str, module: str, worktree: Path) -> str | None:
    place = target.partition(":")[0]
    if _is_path(place) and not (root / place).exists():
        return place if (worktree / place).is_file() else None
    if not module:
        return None
    name = module.replace(".", "/")
    folder = f"{place.rpartition('/')[0]}/".lstrip("/") if _is_path(place) else ""
    paths = (f"{base}{path}" for base in ("", folder) for path in (f"{name}.py", f"{name}/__init__.py", name))
    return next((path for path in paths if (worktree / path).exists() and not (root / path).exists()), None)


# --- the cache of facts -----------------------------------------------------------------------------------------------


def facts_cache_get(cache: Path, around: Surroundings, target: str) -> FlowFacts | None:
    """The facts about ``target`` from an earlier import in these surroundings; None if the cache has none."""
    body = read_entry(_facts_entry(cache, around, target))
    with contextlib.suppress(ValidationError):
        return FlowFacts.parse(body) if body is not None else None
    return None


def facts_cache_put(cache: Path, around: Surroundings, target: str, facts: FlowFacts) -> None:
    """Cache ``facts``. Problems are not cached: a missing module may be installed the next time."""
    write_entry(_facts_entry(cache, around, target), facts.canonical())


def _facts_entry(cache: Path, around: Surroundings, target: str) -> Path:
    surroundings = [around.source, around.roots, around.environment]
    key = digest(canonical_json([_CACHE_FORMAT, *surroundings, target, *_installation()]))
    return cache / "facts" / key[:2] / f"{key}.json"


@functools.cache
def _installation() -> list[Any]:
    """This Python and its installed packages: each installation or removal changes the time of their folder."""
    folders = [
        [entry, Path(entry).stat().st_mtime_ns] for entry in sys.path if "-packages" in entry and Path(entry).is_dir()
    ]
    return [sys.version, __version__, os.environ.get("PYTHONPATH", ""), folders]
