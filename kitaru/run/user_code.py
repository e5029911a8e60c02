"""Running the user's code: its timeouts, its forks, and its failures as users read them.

The user's code on the main thread is interrupted by an interval timer, async code by ``asyncio.timeout``, an isolated
checkpoint by the end of its process. Code on any other thread is left alone: if it takes too long, it has failed when
it returns. The engine's own code is never interrupted.

A process that the user's code forks ends on its way out of that code, and records nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

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
from kitaru.values.typed_json import find_class, type_name

if TYPE_CHECKING:
    from traceback import FrameSummary, TracebackException

P = ParamSpec("P")
T = TypeVar("T")

AGAIN_SECONDS = 1.0
"""So long after an interruption the next one comes, for code that went on all the same (a bare ``except``)."""

PROMPT_SECONDS = 0.5
"""Code that ends so long after its time was interrupted; later, it ended by itself."""


class Interrupted(BaseException):
    """Ends the user's code at once. Not an ``Exception``, so that no flow swallows it."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self.limit = limit


class Limit:
    """The end of a stretch of code, on the monotonic clock."""

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at


class _Main:
    """The timer of the main thread."""

    limits: ClassVar[list[Limit]] = []
    """Of the stretches that the main thread is in, the outermost first."""
    in_engine = True
    """Whether the engine's own code runs there: it learns of its limits when it returns to the user's."""
    handler: Any = None
    """The handler of the signal before."""


def user_code(work: Callable[[], T], seconds: float | None, late: Callable[[float], BaseException]) -> T:
    """``work()``, the user's code, in this thread; see ``run_here``.

    If it takes longer than ``seconds``, ``late(spent)`` is raised, with the seconds that it took: at once on the
    main thread, else when it returns.
    """
    if seconds is None:
        return _open(work)
    began = time.monotonic()
    limit = Limit(began + seconds)
    timed = _begin(limit)
    try:
        value = _open(work)
    except Interrupted as stop:
        _Main.in_engine = True
        if stop.limit is not limit:
            raise
        raise late(time.monotonic() - began).with_traceback(stop.__traceback__) from None
    except Exception as error:
        if time.monotonic() < limit.at:
            raise
        raise late(time.monotonic() - began) from error
    finally:
        if timed:
            _end(limit)
    if time.monotonic() > limit.at:
        raise late(time.monotonic() - began)
    return value


def uninterrupted(func: Callable[P, T]) -> Callable[P, T]:
    """``func`` of the engine, called by the user's code: the timer waits until it returns."""

    @wraps(func)
    def engine(*args: P.args, **kwargs: P.kwargs) -> T:
        if not _on_timed_thread():
            return func(*args, **kwargs)
        before, _Main.in_engine = _Main.in_engine, True
        try:
            return func(*args, **kwargs)
        finally:
            _Main.in_engine = before
            if not before:
                _interrupt_if_due()

    return engine


def overrun(subject: str, timeout: float, spent: float) -> str:
    """The message for ``subject``, such as ``checkpoint 'collect' (call 3)``, that had ``timeout`` seconds."""
    if spent - timeout <= PROMPT_SECONDS:
        return f"{subject} was stopped after {_seconds(timeout)}"
    return f"{subject} had {_seconds(timeout)}, and its code did not return before {_seconds(spent)} were over"


def _seconds(count: float) -> str:
    text = f"{count:.3g}"
    return f"{text} second" if text == "1" else f"{text} seconds"


def _on_timed_thread() -> bool:
    return bool(_Main.limits) and threading.current_thread() is threading.main_thread()


def _open(work: Callable[[], T]) -> T:
    """``work()``, which may be interrupted if this thread is timed."""
    if not _on_timed_thread():
        return run_here(work)
    _interrupt_if_due()
    try:
        _Main.in_engine = False
        return run_here(work)
    finally:
        # The timer may strike just before this line; whoever catches that sets it, too.
        _Main.in_engine = True


def _begin(limit: Limit) -> bool:
    """Set the timer; False if this is another thread, or the program uses the signal itself."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, _ring):
        return False
    if not _Main.limits:
        _Main.handler = signal.signal(signal.SIGALRM, _ring)
    _Main.limits.append(limit)
    _set_timer()
    return True


def _end(limit: Limit) -> None:
    _Main.limits.remove(limit)
    if _Main.limits:
        _set_timer()
    else:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, _Main.handler)


def _set_timer() -> None:
    first = min(limit.at for limit in _Main.limits) - time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, max(first, 1e-6), AGAIN_SECONDS)


def _ring(_number: int, _frame: object) -> None:
    if not _Main.in_engine:
        _interrupt_if_due()


def _interrupt_if_due() -> None:
    now = time.monotonic()
    for limit in _Main.limits:
        if limit.at <= now:
            raise Interrupted(limit)


def run_here(func: Callable[..., T], /, *args: object, **kwargs: object) -> T:
    """``func(*args, **kwargs)``, the user's code. A process that was forked in it ends on its way out:

    with status 0 if it returned, else as its exception says, which it prints.
    """
    process = os.getpid()
    try:
        return func(*args, **kwargs)
    finally:
        if os.getpid() != process:
            _end_fork(sys.exc_info()[1])


async def await_here(func: Callable[..., Awaitable[T]], /, *args: object, **kwargs: object) -> T:
    """``await func(*args, **kwargs)``; otherwise as ``run_here``."""
    process = os.getpid()
    try:
        return await func(*args, **kwargs)
    finally:
        if os.getpid() != process:
            _end_fork(sys.exc_info()[1])


def _end_fork(error: BaseException | None) -> None:
    """End this process, and leave its parent's files and sockets alone."""
    code = 0 if error is None else 1
    with suppress(Exception):
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        elif error is not None:
            import traceback  # slow to load, and needed only here

            where = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without this module
            traceback.print_exception(error.with_traceback(where))
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(code & 0xFF)


# --- failures --------------------------------------------------------------------------------------------------------


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
