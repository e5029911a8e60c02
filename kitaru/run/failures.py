"""Exceptions as they are recorded, and the typed errors that an execution's caller gets."""

from __future__ import annotations

from collections.abc import Sequence

from kitaru.errors import (
    KitaruBackendError,
    KitaruDivergenceError,
    KitaruExecutionError,
    KitaruInputError,
    KitaruRuntimeError,
    KitaruUserCodeError,
    KitaruValueError,
)
from kitaru.model.event import Failure, Origin
from kitaru.ports import Mask
from kitaru.run.interrupts import Interrupted, RunStopped
from kitaru.run.journal import Fenced, Stopped
from kitaru.run.tracebacks import user_traceback
from kitaru.values.typed_json import find_class, type_name

TRACEBACK_LIMIT = 16 * 1024
"""Characters of a recorded traceback; the end of it is kept."""

MESSAGE_LIMIT = 4 * 1024


def origin_of(error: BaseException) -> Origin:
    """Whose doing ``error`` is."""
    if isinstance(error, KitaruDivergenceError):
        return "divergence"
    if isinstance(error, KitaruBackendError):
        return "backend"
    if isinstance(error, (KitaruValueError, KitaruInputError)):
        return "runtime"
    return "user_code"


def failure_of(error: BaseException, roots: Sequence[str] = (), mask: Mask | None = None) -> Failure:
    """``error`` as it is recorded: its traceback is the user's, relative to ``roots``, and ``mask`` hides secrets."""
    message, text = _message(error), user_traceback(error, roots)
    if mask is not None:
        message, text = mask(message), mask(text)
    if len(message) > MESSAGE_LIMIT:
        message = f"{message[:MESSAGE_LIMIT]}…"
    if len(text) > TRACEBACK_LIMIT:
        text = f"… {text[-TRACEBACK_LIMIT:]}"
    return Failure(type_name(type(error)), message, text, origin_of(error))


def as_failure(error: BaseException, what: str) -> BaseException:
    """What the user's code, ``what``, raised, as it fails: an ``Exception`` in the place of any that is none.

    Signals stay what they are: Ctrl-C, Kitaru's own, and subclasses of ``SystemExit``, by which a process is told to
    stop.
    """
    if isinstance(error, (Exception, KeyboardInterrupt, Interrupted, RunStopped, Fenced, Stopped)):
        return error
    if isinstance(error, SystemExit):
        if type(error) is not SystemExit:
            return error
        ended = KitaruRuntimeError(f"{what} called sys.exit({error.code!r}); it ends by returning, or by an error")
    else:
        ended = KitaruRuntimeError(f"{what} raised {type(error).__name__}: {_message(error)}".removesuffix(": "))
    ended.__cause__ = error
    return ended


def exception_of(failure: Failure, home: str) -> Exception:
    """A recorded failure as an exception of its own type, so that the flow's ``except`` takes it again.

    ``home``: the module of the checkpoint. ``KitaruRuntimeError`` where the type can't be found or made any more.
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
