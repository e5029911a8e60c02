"""Tracebacks as users read them: their own frames alone, and paths that are the same on every machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kitaru.errors import (
    KitaruBackendError,
    KitaruDivergenceError,
    KitaruExecutionError,
    KitaruInputError,
    KitaruRuntimeError,
    KitaruUserCodeError,
    KitaruValueError,
)
from kitaru.masking import Masking
from kitaru.model.event import Failure, Origin
from kitaru.run.journal import Fenced, Stopped
from kitaru.run.timeouts import Interrupted
from kitaru.values.typed_json import find_class, type_name

if TYPE_CHECKING:
    from traceback import FrameSummary, TracebackException


PACKAGE = str(Path(__file__).parents[1]) + os.sep
AUTHORING = f"{PACKAGE}flows{os.sep}"
"""The functions that users call. Any error raised there is about their call."""

LIBRARY = str(Path(os.__file__).parent) + os.sep
INSTALLED = tuple(LIBRARY + name + os.sep for name in ("site-packages", "dist-packages"))
MACHINERY = ("<frozen importlib", "<frozen runpy", f"{LIBRARY}importlib{os.sep}")
"""The first part of the file names of frames that only import."""


class ChildTraceback(Exception):
    """The traceback of an exception in a process of its own, as text: the cause of the one that is raised here."""

    def __str__(self) -> str:
        return f"in the process of its own\n\n{self.args[0].rstrip()}"


def user_traceback(error: BaseException, roots: Sequence[str] = ()) -> str:
    """``error`` as Python prints it, with causes, contexts, groups and notes, and without the frames of Kitaru.

    An error that is none of Kitaru's, and was raised in Kitaru, keeps the frames that lead to it: they show a defect.
    Paths below ``roots`` are relative to them.
    """
    import traceback  # slow to load, and needed only when something failed

    found = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    _clean(found, error, set())
    if isinstance(error.__cause__, ChildTraceback) and not found.stack:
        text = str(error.__cause__.args[0]).rstrip() + "\n"
    else:
        text = "".join(found.format())
    for root in roots:
        text = text.replace(f'File "{root.rstrip(os.sep)}{os.sep}', 'File "')
    return text


def roots_of(file: str, target: str) -> tuple[str, ...]:
    """The folders that ``target`` (``flows/research.py:research`` or ``package.module:research``) is relative to,
    for the ``file`` that it names: as it is written, and without symbolic links. Empty if it is neither.
    """
    place = target.partition(":")[0]
    dotted = place.replace(".", "/")
    for ending in (place, f"{dotted}.py", f"{dotted}/__init__.py"):
        ending = os.sep + ending.replace("/", os.sep)
        if file.endswith(ending) and len(file) > len(ending):
            root = file.removesuffix(ending)
            return tuple(dict.fromkeys((root, os.path.realpath(root))))
    return ()


def _clean(found: TracebackException, error: BaseException | None, seen: set[int]) -> None:
    """Leave out frames of ``found``, and of all that it is chained to."""
    if id(found) in seen:
        return
    seen.add(id(found))
    child = error is not None and isinstance(error.__cause__, ChildTraceback)
    found.stack[:] = _user_frames(found.stack, explained=child or _is_ours(error))
    if not found.stack:
        found.stack = None  # type: ignore[assignment]  # then its heading is left out, too
    if found.__cause__ is not None:
        _clean(found.__cause__, error.__cause__ if error is not None else None, seen)
    if found.__context__ is not None:
        _clean(found.__context__, error.__context__ if error is not None else None, seen)
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for number, part in enumerate(found.exceptions or ()):
        _clean(part, members[number] if number < len(members) else None, seen)


def _is_ours(error: BaseException | None) -> bool:
    return type(error).__module__.startswith("kitaru.")


def _user_frames(frames: Sequence[FrameSummary], *, explained: bool) -> list[FrameSummary]:
    """Without Kitaru's frames, and the frames of the standard library below these, as asyncio's.

    ``explained``: the error's message says all; else the frames of Kitaru that raised it are kept, as a defect's.
    """
    kept: list[FrameSummary] = []
    dropping = True
    for frame in frames:
        kind = _kind(frame.filename)
        dropping = kind == "kitaru" or (dropping and kind == "library")
        if not dropping:
            kept.append(frame)
    if not kept:
        return [] if explained else list(frames)
    if dropping and not explained and not frames[-1].filename.startswith(AUTHORING):
        kept += frames[frames.index(kept[-1]) + 1 :]
    return kept


def _kind(file: str) -> str:
    if file.startswith((PACKAGE, *MACHINERY)):
        return "kitaru"
    return "library" if file.startswith(LIBRARY) and not file.startswith(INSTALLED) else "user"


TRACEBACK_LIMIT = 16 * 1024
"""Characters of a recorded traceback; the end of it is kept."""

MESSAGE_LIMIT = 4 * 1024


def origin_of(error: BaseException) -> Origin:
    """The origin of ``error``."""
    if isinstance(error, KitaruDivergenceError):
        return "divergence"
    if isinstance(error, KitaruBackendError):
        return "backend"
    if isinstance(error, (KitaruValueError, KitaruInputError)):
        return "runtime"
    return "user_code"


def failure_of(error: BaseException, roots: Sequence[str] = (), mask: Masking | None = None) -> Failure:
    """``error`` as it is recorded: its traceback is the user's, relative to ``roots``, and ``mask`` hides secrets."""
    message, text = _message(error), user_traceback(error, roots)
    if mask is not None:
        message, text = mask(message), mask(text)
    if len(message) > MESSAGE_LIMIT:
        message = f"{message[:MESSAGE_LIMIT]}…"
    if len(text) > TRACEBACK_LIMIT:
        text = f"… {text[-TRACEBACK_LIMIT:]}"
    return Failure(type_name(type(error)), message, text, origin_of(error))


def as_failure(error: BaseException, subject: str) -> BaseException:
    """An error of the user's code, the ``subject``, as its failure: an ``Exception`` in place of anything else.

    Signals stay as they are: Ctrl-C, Kitaru's own, and subclasses of ``SystemExit``, which stop a process.
    """
    if isinstance(error, StopIteration):  # no generator lets it pass
        return KitaruRuntimeError(f"{subject} raised StopIteration")
    if isinstance(error, (Exception, KeyboardInterrupt, Interrupted, Fenced, Stopped)):
        return error
    if isinstance(error, SystemExit):
        if type(error) is not SystemExit:
            return error
        ended = KitaruRuntimeError(f"{subject} called sys.exit({error.code!r}); it ends by returning, or by an error")
    else:
        ended = KitaruRuntimeError(f"{subject} raised {type(error).__name__}: {_message(error)}".removesuffix(": "))
    ended.__cause__ = error
    return ended


@contextmanager
def failing(subject: str) -> Iterator[None]:
    """An error of the block, the user's code, is raised as its failure; see ``as_failure``."""
    try:
        yield
    except BaseException as error:
        failure = as_failure(error, subject)
        if failure is error:
            raise
        raise failure from error


def exception_of(failure: Failure, home: str) -> Exception:
    """A recorded failure as an exception of its own type, so that the flow's ``except`` takes it again.

    ``home``: the module of the checkpoint. ``KitaruRuntimeError`` if the type can't be found or made any more.
    """
    try:
        cls = find_class(failure.type if ":" in failure.type else f"builtins:{failure.type}", home)
        if issubclass(cls, Exception):
            error: Exception = cls.__new__(cls, failure.message)
            error.args = (failure.message,)
            str(error)
            return error
    except Exception:  # a constructor with its own ideas
        pass
    return KitaruRuntimeError(f"{failure.type}: {failure.message}")


def error_of(failure: Failure, *, flow: str, exec_id: str, status: str) -> KitaruExecutionError:
    """The typed error for a recorded failure."""
    kinds: dict[str, type[KitaruExecutionError]] = {
        "user_code": KitaruUserCodeError,
        "divergence": KitaruDivergenceError,
    }
    text = f"{failure.type.rpartition(':')[2]}: {failure.message}" if failure.message else failure.type
    return kinds.get(failure.origin, KitaruExecutionError)(
        f"execution {exec_id} of flow {flow!r} failed: {text}",
        exec_id=exec_id,
        status=status,
        failure_origin=failure.origin,
        hint=f"kitaru executions get {exec_id}",
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # somebody's __str__ is broken; the failure itself must still be recorded
        return f"<{type(error).__name__} without a readable message>"
