"""The child process that imports flows: ``python -m kitaru.source.discovery_child FD``, its job on standard input.

The job is JSON: ``{"trees": [[folder, [[name, target], ...]], ...], "home": folder}``. Each tree is looked at by a copy
of this process, so that none sees what another imported, and Kitaru is started but once. Answers are JSON lines on the
descriptor ``FD``, which no import can print into: ``{"begin": name}``, then ``{"name": name, "facts": ...}`` or
``{"name": name, "problem": ...}``, and at last ``{"end": true}``. Whoever started this process knows from a ``begin``
without an answer which import never came back.
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
    """Answer for every target, and end without running what the imported code registered for the exit."""
    answers = int(sys.argv[1])
    os.set_inheritable(answers, False)
    job = json.loads(sys.stdin.buffer.read())
    _close_input()
    binding.provide(_refuse_to_run)
    _forget_launch_folder(job["home"])
    if len(job["trees"]) > 1:
        # What looking at a flow loads is loaded here, for all the copies.
        facts_of(flow(_sample))
    for root, targets in job["trees"]:
        if len(job["trees"]) == 1:
            describe_targets(Path(root), targets, answers)
        else:
            _describe_apart(Path(root), targets, answers)
    _say(answers, {"end": True})
    os._exit(0)


def _sample(number: int) -> int:
    return number


def _describe_apart(root: Path, targets: list[tuple[str, str]], answers: int) -> None:
    """In a copy of this process; where an import ends the copy, this one ends in the same way."""
    reader, writer = os.pipe()
    copy = os.fork()
    if copy == 0:
        os.chdir(root)
        describe_targets(root, targets, answers)
        os.write(writer, b".")
        os._exit(0)
    os.close(writer)
    code = os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])
    # What the import left running may still hold the other end.
    os.set_blocking(reader, False)
    try:
        came_back = os.read(reader, 1)
    except BlockingIOError:
        came_back = b""
    os.close(reader)
    if came_back:
        return
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


def describe_targets(root: Path, targets: list[tuple[str, str]], answers: int) -> None:
    """Import each target from ``root`` and write its answer to the descriptor ``answers``."""
    process = os.getpid()
    path = list(sys.path)
    for name, target in targets:
        _say(answers, {"begin": name})
        answer = _answer(root, target)
        if os.getpid() != process:
            # The import forked, and this is the copy.
            os._exit(0)
        _say(answers, {"name": name, **answer})
        _forget_neighbours(root)
        sys.path[:] = path


def _answer(root: Path, target: str) -> dict[str, Any]:
    try:
        return {"facts": facts_of(load_target(root, target)).data()}
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


def _say(answers: int, message: dict[str, Any]) -> None:
    body = json.dumps(message).encode() + b"\n"
    while body:
        body = body[os.write(answers, body) :]


def _close_input() -> None:
    """Let code that reads its standard input find the end of it."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _forget_launch_folder(home: str) -> None:
    """Move the folder that Kitaru itself was found in, where it is a checkout, behind all that is installed."""
    if home and home in sys.path:
        sys.path.remove(home)
        sys.path.append(home)


def _forget_neighbours(root: Path) -> None:
    """Forget the modules of ``root`` that were found through a target's own folder.

    ``import prompts`` means another file for ``a/flow.py`` than for ``b/flow.py``; a module that is found from the root
    means the same for all, and is imported once.
    """
    top = root.resolve()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and file.startswith(f"{top}{os.sep}"):
            place = str(top.joinpath(*name.split(".")))
            if file not in (f"{place}.py", f"{place}{os.sep}__init__.py"):
                del sys.modules[name]


def _refuse_to_run() -> NoReturn:
    raise KitaruContextError(
        "a flow was started while its module was being imported",
        hint="put the call under if __name__ == '__main__':",
    )


if __name__ == "__main__":
    main()
