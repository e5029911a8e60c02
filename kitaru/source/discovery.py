"""What the flows of a source tree look like, found out by importing them in a child process.

User code is never imported into this process: it may crash, hang, print or end it, and two trees may use one module
name.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from kitaru._version import __version__
from kitaru.errors import KitaruSourceError, Problem
from kitaru.model.address import canonical_json, digest
from kitaru.model.snapshot import FlowFacts
from kitaru.source.unpacked import read_entry, write_entry

DISCOVERY_VARIABLE = "KITARU_DISCOVERY"
"""Set to 1 while flows are imported only to be looked at, so that code may know."""

_Trees = list[tuple[Path, list[tuple[str, str]]]]
"""Source trees, and the name and target of each flow to look at there."""

_CACHE_FORMAT = 1
_MODULE = "kitaru.source.discovery_child"
_CHUNK = 1 << 16
_TAIL_LINES = 5
_TAIL_BYTES = 2_000


def describe(
    root: Path,
    targets: Mapping[str, str],
    *,
    python: str = sys.executable,
    timeout: float = 120,
    on_target: Callable[[str], None] | None = None,
    worktree: Path | None = None,
) -> dict[str, FlowFacts | Problem]:
    """What importing each target from the source tree at ``root`` taught, by the keys of ``targets``, in their order.

    As ``describe_trees``, for one tree.
    """
    return describe_trees({root: targets}, python=python, timeout=timeout, on_target=on_target, worktree=worktree)


def describe_trees(
    trees: Mapping[Path, Mapping[str, str]],
    *,
    python: str = sys.executable,
    timeout: float = 120,
    on_target: Callable[[str], None] | None = None,
    worktree: Path | None = None,
) -> dict[str, FlowFacts | Problem]:
    """What importing the targets of each source tree taught, by their keys, which no two trees share, in their order.

    One child imports all of them, each tree in a copy of itself. An import that crashes or ends the process, or takes
    longer than ``timeout`` seconds, is that target's problem, and the rest go on in a fresh child. ``on_target`` is
    told each key when its answer is there. ``worktree`` is where the trees come from: a module that is there but not
    in the tree is named as such.

    Raises ``KitaruSourceError`` where ``python`` can't run Kitaru at all.
    """
    found: dict[str, FlowFacts | Problem] = {}
    roots = {name: root for root, targets in trees.items() for name in targets}
    targets = {name: target for tree in trees.values() for name, target in tree.items()}

    def take(name: str, answer: FlowFacts | Problem) -> None:
        found[name] = answer
        if on_target is not None:
            on_target(name)

    suspect = ""
    while waiting := [name for name in targets if name not in found]:
        order = sorted(waiting, key=lambda name: name != suspect)
        with _child(_by_tree(order, roots, targets), python) as child:
            for message in child.messages(timeout):
                name = message["name"]
                take(name, _parse_answer(message, roots[name], targets[name], worktree))
            if child.finished:
                continue
            lost = child.begun
            if not lost and order[0] not in found:
                raise KitaruSourceError(
                    f"{python} can't look at the flows: {child.ending(timeout)}", hint="kitaru info shows what it is"
                )
            if lost and (child.timed_out or order[0] == lost):
                place = targets[lost].partition(":")[0]
                cause = f"importing {place} {child.ending(timeout)}"
                take(lost, Problem(cause, file=place if _is_path(place) else ""))
            # What was imported before may have been the cause: try it again where nothing was.
            suspect = lost
    return {name: found[name] for name in targets}


def _by_tree(order: Sequence[str], roots: Mapping[str, Path], targets: Mapping[str, str]) -> _Trees:
    """The targets as they are to be imported: tree by tree, the first one's tree first."""
    trees: dict[Path, list[tuple[str, str]]] = {}
    for name in order:
        trees.setdefault(roots[name], []).append((name, targets[name]))
    return list(trees.items())


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place


# --- the child --------------------------------------------------------------------------------------------------------


@dataclass
class _Child:
    process: subprocess.Popen[bytes]
    answers: int
    errors: IO[bytes]
    begun: str = ""
    """The target whose import has no answer yet."""
    finished: bool = False
    timed_out: bool = False

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.answers)
        self._kill()
        self.errors.close()

    def messages(self, timeout: float) -> Iterator[dict[str, Any]]:
        """The child's answers, until it is done, or silent for ``timeout`` seconds, or gone."""
        rest = b""
        deadline = time.monotonic() + timeout
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
        """How it ended, for people, with the last lines that it printed."""
        if self.timed_out:
            self._kill()
            what = f"did not finish within {timeout:g} seconds"
        else:
            code = self._wait()
            what = (
                f"killed the process: {signal.Signals(-code).name}"
                if code < 0
                else f"ended the process with exit code {code}"
            )
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - _TAIL_BYTES))
        lines = [line for line in self.errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return what + "".join(f"\n    {line}" for line in lines[-_TAIL_LINES:])

    def _wait(self) -> int:
        try:
            return self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._kill()
            return self.process.wait()

    def _kill(self) -> None:
        # Its whole session, with what the imported code may have started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _child(trees: _Trees, python: str) -> _Child:
    home = _kitaru_home()
    env = {**os.environ, DISCOVERY_VARIABLE: "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    if home:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [home, env.get("PYTHONPATH", "")]))
    answers, writer = os.pipe()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
    try:
        process = subprocess.Popen(
            # -P: a json.py of the tree must not stand in the way of the start; load_target puts the tree in front.
            [python, "-P", "-m", _MODULE, str(writer)],
            cwd=trees[0][0],
            env=env,
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
            pass_fds=(writer,),
            start_new_session=True,
        )
    except OSError as error:
        os.close(answers)
        errors.close()
        raise KitaruSourceError(f"{python} can't be started: {error.strerror or error}", hint="kitaru info") from error
    finally:
        os.close(writer)
    child = _Child(process, answers, errors)
    assert process.stdin is not None
    # A pipe that is broken means that it ended at once; the answers, which never come, tell.
    with contextlib.suppress(BrokenPipeError):
        job = {"trees": [[str(root), targets] for root, targets in trees], "home": home}
        process.stdin.write(json.dumps(job).encode())
        process.stdin.close()
    return child


def _kitaru_home() -> str:
    """The folder that holds Kitaru's own package, where it is not among the installed ones (a checkout); else empty."""
    home = str(Path(__file__).resolve().parents[2])
    installed = {str(Path(path).resolve()) for path in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))}
    return "" if home in installed else home


# --- its answers ------------------------------------------------------------------------------------------------------


def _parse_answer(message: dict[str, Any], root: Path, target: str, worktree: Path | None) -> FlowFacts | Problem:
    if "facts" in message:
        return FlowFacts.model_validate(message["facts"])
    problem = Problem(**message["problem"])
    left_out = _left_out(root, target, message["missing"], worktree) if worktree is not None else None
    if left_out is None:
        return problem
    return Problem(
        f"{problem.message}; {left_out} is in the working tree, but not in the snapshot",
        file=problem.file,
        line=problem.line,
        column=problem.column,
        hint=f"commit {left_out}, or take it in with source.include / source.exclude",
    )


def _left_out(root: Path, target: str, module: str, worktree: Path) -> str | None:
    place = target.partition(":")[0]
    if _is_path(place) and not (root / place).exists():
        return place if (worktree / place).is_file() else None
    if not module:
        return None
    name = module.replace(".", "/")
    folder = place.rpartition("/")[0] if _is_path(place) else ""
    for base in dict.fromkeys(("", folder)):
        for path in (f"{name}.py", f"{name}/__init__.py", name):
            candidate = f"{base}/{path}" if base else path
            if (worktree / candidate).exists() and not (root / candidate).exists():
                return candidate
    return None


# --- what was found out before ----------------------------------------------------------------------------------------


def facts_cache_get(cache: Path, source: str, target: str) -> FlowFacts | None:
    """What ``target`` of the source tree with digest ``source`` taught this Python and Kitaru; None if not known."""
    body = read_entry(_facts_entry(cache, source, target))
    if body is None:
        return None
    try:
        return FlowFacts.parse(body)
    except ValidationError:
        return None


def facts_cache_put(cache: Path, source: str, target: str, facts: FlowFacts) -> None:
    """Remember ``facts``. A problem is never remembered: what is missing may be installed the next time."""
    write_entry(_facts_entry(cache, source, target), facts.canonical())


def _facts_entry(cache: Path, source: str, target: str) -> Path:
    key = digest(canonical_json([_CACHE_FORMAT, source, target, sys.version, __version__]))
    return cache / "facts" / key[:2] / f"{key}.json"
