"""Every error that Kitaru raises: one tree, grouped by the next step of the caller.

KitaruError                             anything Kitaru refuses
├── KitaruUsageError      (ValueError)  fix the call, the file or the command, and try again
│   ├── KitaruManifestError             ... in kitaru.yaml: every problem, with file, line and column
│   ├── KitaruInputError                ... in the inputs of a flow
│   ├── KitaruSelectorError             ... in flow + tag / version: lists what there is
│   ├── KitaruSourceError               ... in the Git repository, or in the code of a flow
│   └── KitaruWaitValidationError       ... in the answer to a wait
├── KitaruContextError  (RuntimeError)  called at the wrong place: outside a flow, inside a checkpoint
├── KitaruStateError    (RuntimeError)  right call, wrong moment: look at the state, then decide
│   ├── KitaruTimeoutError (TimeoutError)
│   └── KitaruConflictError             another writer moved it first: look, then repeat
├── KitaruRuntimeError  (RuntimeError)  it was tried, and failed
│   ├── KitaruExecutionError            an execution ended badly: exec_id, status, failure_origin
│   │   ├── KitaruUserCodeError         ... because the flow's own code raised
│   │   ├── KitaruDivergenceError       ... because the code no longer makes the recorded calls
│   │   └── KitaruCancelledError        ... because it was cancelled
│   ├── KitaruValueError                a value that can't be stored, or no longer be read
│   ├── KitaruStackError                the stack can't run it
│   └── KitaruBackendError              the outside world: network, bucket, disk
│       ├── KitaruStoreError            the object store refused, or did not answer
│       │   ├── KitaruStoreFormatError  written by a newer Kitaru: upgrade
│       │   └── KitaruIntegrityError    bytes that their digest does not fit
│       └── KitaruLogRetrievalError
└── KitaruFeatureNotAvailableError (NotImplementedError)   known, and not in this release

Each carries a stable ``code`` for scripts, a ``hint`` with the next command, and the ``exit_code`` of a
command that ends with it. Nothing here prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem and its place. ``line`` and ``column`` count from 1; 0 means "no such place"."""

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    hint: str = ""

    def __str__(self) -> str:
        """``file:line:column: message``, as much of the place as is known."""
        place = [self.file] if self.file else []
        if self.line:
            place += [str(self.line), str(self.column or 1)]
        return f"{':'.join(place)}: {self.message}" if place else self.message


class KitaruError(Exception):
    """The root of the tree."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            # In Python a traceback is all that most people see of an error.
            self.add_note(f"hint: {hint}")


class KitaruUsageError(KitaruError, ValueError):
    """The call, file or command is wrong as it stands; ``problems`` holds each thing in it that is."""

    code = "usage"
    exit_code = 2

    def __init__(self, message: str, *, problems: Iterable[Problem] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class KitaruManifestError(KitaruUsageError):
    """``kitaru.yaml`` is wrong; ``problems`` holds all of it."""

    code = "manifest"

    def __init__(self, problems: Sequence[Problem], *, hint: str = "") -> None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{len(problems)} {noun}:\n{lines}", problems=problems, hint=hint)


class KitaruInputError(KitaruUsageError):
    """The inputs don't fit the flow's parameters."""

    code = "input"


class KitaruSelectorError(KitaruUsageError, LookupError):
    """Flow and selector lead to no version, or to several."""

    code = "selector"


class KitaruSourceError(KitaruUsageError):
    """The repository or the code in it can't be built as it stands."""

    code = "source"


class KitaruWaitValidationError(KitaruUsageError):
    """The value given to a wait doesn't fit its schema."""

    code = "wait-validation"


class KitaruContextError(KitaruError, RuntimeError):
    """Called at the wrong place: a checkpoint outside a flow, for example."""

    code = "context"
    exit_code = 2


class KitaruStateError(KitaruError, RuntimeError):
    """The thing is not in the state that the call needs."""

    code = "state"


class KitaruTimeoutError(KitaruStateError, TimeoutError):
    """Waited as long as asked; the execution itself goes on."""

    code = "timeout"


class KitaruConflictError(KitaruStateError):
    """Another writer was first, or a saved plan is out of date."""

    code = "conflict"


class KitaruRuntimeError(KitaruError, RuntimeError):
    """It was tried, and failed."""

    code = "runtime"


class KitaruExecutionError(KitaruRuntimeError):
    """An execution ended without a result.

    ``failure_origin`` is one of ``user_code``, ``runtime``, ``backend``, ``divergence``, ``unknown``.
    """

    code = "execution"

    def __init__(
        self,
        message: str,
        *,
        exec_id: str = "",
        status: str = "failed",
        failure_origin: str = "unknown",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.exec_id = exec_id
        self.status = status
        self.failure_origin = failure_origin


class KitaruUserCodeError(KitaruExecutionError):
    """The flow's own code raised."""

    code = "user-code"


class KitaruDivergenceError(KitaruExecutionError):
    """The flow body no longer makes the calls that its journal recorded."""

    code = "divergence"


class KitaruCancelledError(KitaruExecutionError):
    """The execution was cancelled."""

    code = "cancelled"


class KitaruValueError(KitaruRuntimeError):
    """A value that can't be stored as it is, or that no longer fits its type."""

    code = "value"


class KitaruStackError(KitaruRuntimeError):
    """The stack can't run this execution."""

    code = "stack"


class KitaruBackendError(KitaruRuntimeError):
    """Something outside failed."""

    code = "backend"


class KitaruStoreError(KitaruBackendError):
    """The object store refused, or did not answer."""

    code = "store"


class KitaruStoreFormatError(KitaruStoreError):
    """Written in a format that this release does not know."""

    code = "store-format"


class KitaruIntegrityError(KitaruStoreError):
    """Bytes that their digest does not fit."""

    code = "integrity"


class KitaruLogRetrievalError(KitaruBackendError):
    """Runtime logs can't be read."""

    code = "logs"


class KitaruFeatureNotAvailableError(KitaruError, NotImplementedError):
    """Known, and not in this release."""

    code = "not-available"
    exit_code = 2
