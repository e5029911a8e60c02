"""The child process that imports flows: ``python -m kitaru.source.discovery_child FD``, its jobs on standard input.

Standard input holds JSON: ``{"jobs": [{"root": folder, "roots": [...], "environment": {...}, "targets": [[name,
target], ...]}, ...], "home": folder}``. A fork does each job, so that jobs share no modules and Kitaru starts once.
Answers are JSON lines on the descriptor ``FD``, apart from printed output: ``{"begin": name}``, then ``{"name": name,
"facts": ...}`` or ``{"name": name, "problem": ..., "missing": module}``, and at last ``{"end": true}``. A ``begin``
without an answer names the import that never returned.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from kitaru.errors import KitaruContextError, KitaruSourceError, Problem
from kitaru.flows import binding
from kitaru.flows.describe import facts_of
from kitaru.flows.flow import flow
from kitaru.flows.loading import MissingModuleError, load_target


def main() -> NoReturn:
    """Answer for every target, and end without the imported code's exit handlers."""
    answers = int(sys.argv[1])
    os.set_inheritable(answers, False)
    work = json.loads(sys.stdin.buffer.read())
    _close_input()
    binding.provide(_refuse_to_run)
    if work["home"] in sys.path:
        # Installed packages come before Kitaru's own checkout and the modules beside it.
        sys.path.remove(work["home"])
        sys.path.append(work["home"])
    facts_of(flow(_sample))  # imports Kitaru's modules once, for all forks
    for job in work["jobs"]:
        _describe_apart(job, answers)
    _send(answers, {"end": True})
    os._exit(0)


def _sample(number: int) -> int:
    return number


def _describe_apart(job: dict[str, Any], answers: int) -> None:
    """Do the job in a fork; if an import ends the fork, this process ends in the same way."""
    reader, writer = os.pipe()
    copy = os.fork()
    if copy == 0:
        os.environ.update(job["environment"])
        os.chdir(job["root"])
        describe_targets(job, answers)
        os.write(writer, b".")
        os._exit(0)
    os.close(writer)
    code = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
    # A process that the import left running may still hold the other end.
    os.set_blocking(reader, False)
    try:
        done = os.read(reader, 1)
    except BlockingIOError:
        done = b""
    os.close(reader)
    if done:
        return
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def describe_targets(job: dict[str, Any], answers: int) -> None:
    """Import each target of the job and write its answer to the descriptor ``answers``."""
    process = os.getpid()
    path = list(sys.path)
    for name, target in job["targets"]:
        _send(answers, {"begin": name})
        answer = _answer(Path(job["root"]), target, job["roots"])
        if os.getpid() != process:
            os._exit(0)  # the import forked, and this is the copy
        _send(answers, {"name": name, **answer})
        sys.path[:] = path


def _answer(root: Path, target: str, roots: list[str]) -> dict[str, Any]:
    try:
        return {"facts": facts_of(load_target(root, target, roots, alone=True)).data()}
    except KitaruSourceError as error:
        problem = error.problems[0] if error.problems else Problem(error.message, hint=error.hint)
        place = target.partition(":")[0]
        return {
            "problem": {
                "message": problem.message,
                "file": problem.file or (place if place.endswith(".py") else ""),
                "line": problem.line,
                "column": problem.column,
                "hint": problem.hint,
            },
            "missing": error.module if isinstance(error, MissingModuleError) else "",
        }


def _send(answers: int, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode() + b"\n"
    while body:
        body = body[os.write(answers, body) :]


def _close_input() -> None:
    """Make standard input empty for the imported code."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _refuse_to_run() -> NoReturn:
    raise KitaruContextError(
        "a flow was started while its module was being imported",
        hint="put the call under if __name__ == '__main__':",
    )


if __name__ == "__main__":
    main()
