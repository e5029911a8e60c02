"""One checkpoint call as a sequence of steps: decide, look up, run an attempt, pause, commit.

The steps are a generator that knows neither threads nor event loops. A driver carries out each step, blocking
(``run.drivers``) or awaiting (``run.event_loop``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from kitaru.core.replay import CallIdentity, Compute, Diverged, Reraise, Reuse
from kitaru.errors import KitaruDivergenceError, KitaruError, KitaruTimeoutError, KitaruValueError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.options import next_delay
from kitaru.flows.scope import InCheckpoint, scope
from kitaru.flows.signature import Mismatch, convert
from kitaru.masking import mask_tree
from kitaru.model.event import (
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointLost,
    CheckpointOffered,
    CheckpointStarted,
    Failure,
    MetadataLogged,
    Value,
)
from kitaru.run.cache import Ticket
from kitaru.run.executions import NotesHere
from kitaru.run.journal import RunExpired
from kitaru.run.output import Capture, OutputScope, current_output
from kitaru.run.state import RunState
from kitaru.run.user_code import exception_of, failing, overrun, user_code
from kitaru.values import stored
from kitaru.values.digests import Summaries, digest_arguments
from kitaru.values.stored import Encoded, encode


@dataclass(frozen=True, slots=True)
class Blocking:
    """Asks the driver for the result of ``work``, which waits for the store."""

    work: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Asks the driver to wait."""

    seconds: float


class Attempt:
    """Asks the driver for the result of the checkpoint's body."""

    __slots__ = ()


Step: TypeAlias = Blocking | Pause | Attempt
Outcome: TypeAlias = CheckpointCompleted | CheckpointFailed


class CheckpointScope(InCheckpoint, NotesHere):
    """The scope of a checkpoint's body: its notes are those of the call."""

    __slots__ = ("attempt", "call_id", "name", "run")

    def __init__(self, run: RunState, name: str, call_id: str, attempt: int) -> None:
        self.run = run
        self.name = name
        self.call_id = call_id
        self.attempt = attempt


class Call:
    """A call with its arguments, bound and digested. Used by one thread, or one task, at a time."""

    def __init__(
        self,
        run: RunState,
        capture: Capture,
        checkpoint: Checkpoint[..., Any],
        key: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """``TypeError`` if the arguments don't fit the function."""
        self.run = run
        self.capture = capture
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.key = key
        self.args = args
        self.kwargs = kwargs
        self._bound = checkpoint.parameters.bind(args, kwargs)
        self._summaries = Summaries(run.home)
        self.digest, preview = digest_arguments(self._bound, summaries=self._summaries)
        self._args_preview = preview if run.mask is None else mask_tree(preview, run.mask)
        self._decision = decision = run.decide(CallIdentity(key, self.name, self.digest))
        if not isinstance(decision, Diverged):
            self.key = decision.call
        self.attempt = 1
        self._spent = 0
        if isinstance(decision, Compute):
            self.attempt, self._spent = decision.attempts + 1, decision.spent
        if checkpoint.options.retries:
            checkpoint.policy()  # a policy that names an exception which is not there is refused before anything runs
        self._began = 0.0
        self._started: CheckpointStarted | None = None
        self._ticket: Ticket | None = None
        self._tokens: tuple[Any, Any] = (None, None)
        self.output: OutputScope

    def __str__(self) -> str:
        return f"checkpoint {self.name!r} (call {self.key})"

    @property
    def has_outcome(self) -> bool:
        """Whether an outcome was recorded, which this call took when it was made: it does not run."""
        return not isinstance(self._decision, Compute)

    @property
    def reusable_inline(self) -> bool:
        """Whether the value is at hand, without a read of the store."""
        return isinstance(self._decision, Reuse) and self._decision.output.stored == "inline"

    def steps(self) -> Generator[Step, Any, Any]:
        """The call, step by step; its value. Raises the error of the body, ``KitaruDivergenceError`` if another call
        is recorded at this place, or the reason for which the run goes no further.
        """
        decision = self._decision
        if isinstance(decision, Diverged):
            raise self._divergence(decision)
        if isinstance(decision, Reraise):
            self.run.took(self.key)
            raise exception_of(decision.failure, self.checkpoint.func.__module__)
        if isinstance(decision, Reuse):
            return self._reused() if self.reusable_inline else (yield Blocking(self._reused))
        if self._asks_cache() and (hit := (yield Blocking(self._cached))) is not None:
            event, value = hit
            yield Blocking(partial(self._commit, event))
            return value
        while True:
            self._begin()
            try:
                result = yield Attempt()
            except Exception as error:
                event, delay = self._failed(error)
                yield Blocking(partial(self._commit, event))
                if delay is None:
                    raise
                if delay:
                    yield Pause(delay)
                    if self.run.abandoned is not None:  # the flow has failed meanwhile
                        raise
                continue
            except BaseException as signal:
                self._stopped(signal)
                self.run.under_way.pop(self.key, None)
                raise
            finally:
                self._end()
            yield Blocking(partial(self._complete, result))
            return result

    # --- the body -----------------------------------------------------------------------------------------------------

    def body(self) -> Any:
        """The result of a sync or isolated body, run in this thread."""
        checkpoint = self.checkpoint
        with failing(f"checkpoint {self.name!r}"):
            if checkpoint.options.runtime == "isolated":
                from kitaru.run.isolated import run_isolated  # brings subprocess, which few flows need

                return run_isolated(self, self.run.must_go_on)
            return user_code(partial(checkpoint.func, *self.args, **self.kwargs), checkpoint.options.timeout, self.late)

    def late(self, spent: float) -> KitaruTimeoutError:
        """The failure of an attempt that took ``spent`` seconds, more than its timeout."""
        options = self.checkpoint.options
        hint = "Give it a longer timeout=, or make less of it in one call."
        if options.runtime != "isolated":
            hint += ' With runtime="isolated" a process of its own is ended on time, whatever it does.'
        return KitaruTimeoutError(overrun(str(self), options.timeout or 0.0, spent), hint=hint)

    def _begin(self) -> None:
        """An attempt begins in this context: its start is noted, and its output is its own."""
        run = self.run
        if run.journal.stopped is not None:
            raise run.journal.stopped  # nothing of it could be recorded any more
        self._began = self._began or time.monotonic()
        self._started = CheckpointStarted(at=run.now(), call=self.key, name=self.name, attempt=self.attempt)
        run.journal.buffer(self._started)
        run.under_way[self.key] = self._started
        self.scope = CheckpointScope(run, self.name, self.key, self.attempt)
        self.output = self.capture.begin(self.name, self.key, self.attempt)
        self._tokens = scope.set(self.scope), current_output.set(self.output)

    def _end(self) -> None:
        """The attempt is over, whatever came of it."""
        token, output_token = self._tokens
        scope.reset(token)
        self.capture.end(self.output)
        current_output.reset(output_token)

    def _stopped(self, signal: BaseException) -> None:
        """Note that the attempt was stopped and goes no further, unless another runner goes on with it."""
        run = self.run
        if isinstance(signal, RunExpired) or (run.deadline is not None and time.monotonic() > run.deadline):
            why = "the time of the flow was over"
        elif type(signal).__name__ == "CancelledError":  # by name: asyncio is slow to load
            why = "the flow cancelled its task"
        else:
            return
        if run.journal.stopped is not None:
            return
        error = Failure(type="Stopped", message=f"stopped, as {why}", origin="runtime")
        event = CheckpointLost(**self._attempted(), seen=run.now(), error=error, stopped=True)
        run.journal.buffer(event)
        run.keep(event)

    # --- recorded outcomes --------------------------------------------------------------------------------------------

    def _reused(self) -> Any:
        """The recorded value; ``KitaruValueError`` if the return annotation no longer allows it."""
        assert isinstance(self._decision, Reuse)
        output: Value = self._decision.output
        subject = f"the result of {self}"
        home = self.checkpoint.func.__module__
        value = stored.get(self.run.store, self.run.project, output, subject=subject, home=home)
        offer = self.run.recorded[self.key].offer
        if isinstance(offer, CheckpointOffered) and not offer.input_digest:
            return self._given(value, subject)
        if output.type and not self.checkpoint.parameters.result_fits(value):
            raise KitaruValueError(
                f"{subject} was recorded as {output.type}, which its return annotation no longer allows",
                hint="Run the flow as a new execution, or bring the annotation back.",
            )
        self.run.took(self.key)
        return value

    def _given(self, value: Any, subject: str) -> Any:
        """A result that a replay gives as JSON, as the type that the checkpoint returns; it is recorded as that."""
        run, parameters = self.run, self.checkpoint.parameters
        try:
            result = convert(value, parameters.annotations.get("return", Any))
            encoded = self._encode(result, subject)
            stored.put(run.store, run.project, encoded)
            run.took(self.key, encoded.detached())
            return result
        except Mismatch as mismatch:
            raise KitaruValueError(
                f"{subject} was overridden by a value that doesn't fit: {mismatch}",
                hint="Replay it with another --override.",
            ) from None

    def _divergence(self, diverged: Diverged) -> KitaruDivergenceError:
        run = self.run
        run.diverged = KitaruDivergenceError(
            f"flow {run.flow.name!r} no longer makes the calls that execution {run.exec_id} recorded: {diverged}",
            exec_id=run.exec_id,
            failure_origin="divergence",
            hint="Bring back the code and inputs that began it, or start a new execution.",
        )
        return run.diverged

    # --- the cache ----------------------------------------------------------------------------------------------------

    def _asks_cache(self) -> bool:
        """Whether an earlier execution may have made this call, as far as can be told without the store."""
        run = self.run
        answered = bool(run.waits.answered)
        self._ticket = run.cache.ticket(self.checkpoint, self.key, self._bound, self._summaries, answered=answered)
        if self._ticket is None:
            return False
        if self._ticket.is_unknown:
            self._ticket.note("miss")
            return False
        return True

    def _cached(self) -> tuple[CheckpointCompleted, Any] | None:
        """The outcome and value of a call that an earlier execution made, if it is whole and fits the annotation."""
        run, ticket = self.run, self._ticket
        assert ticket is not None
        hint = run.cache.find(ticket)
        if hint is not None:
            home = self.checkpoint.func.__module__
            with suppress(KitaruError):
                value = stored.get(run.store, run.project, hint.output, subject="a cached result", home=home)
                if not hint.output.type or self.checkpoint.parameters.result_fits(value):
                    ticket.note("hit")
                    if hint.metadata:
                        run.journal.buffer(MetadataLogged(at=run.now(), call=self.key, values=dict(hint.metadata)))
                    return self._completed(hint.output, cached_from=hint.source), value
        ticket.note("miss")
        return None

    # --- outcomes -----------------------------------------------------------------------------------------------------

    def _encode(self, result: Any, subject: str) -> Encoded:
        typed = self.checkpoint.parameters.result_fits(result)
        return encode(result, subject=subject, serializer=self.checkpoint.options.serializer, typed=typed)

    def _complete(self, result: Any) -> None:
        """Record the result. One that can't be stored ends the call: that is recorded, and raised."""
        try:
            encoded = self._encode(result, f"the result of checkpoint {self.name!r}")
        except KitaruValueError as error:
            event, _ = self._failed(error, final=True)
            self._commit(event)
            raise
        self._commit(self._completed(encoded.value), encoded)

    def _attempted(self) -> dict[str, Any]:
        """The fields that all events of an attempt's end have."""
        at = self.run.now()
        started = self._started.at if self._started is not None else at
        return {"at": at, "started": started, "call": self.key, "name": self.name, "attempt": self.attempt}

    def _completed(self, output: Value, *, cached_from: str | None = None) -> CheckpointCompleted:
        return CheckpointCompleted(
            **self._attempted(),
            input_digest=self.digest,
            args=self._args_preview,
            output=output,
            cached_from=cached_from,
            cache_key=self._ticket.key if self._ticket is not None else None,
        )

    def _failed(self, error: Exception, *, final: bool = False) -> tuple[CheckpointFailed, float | None]:
        """The event of a failed attempt, and the seconds before the next one; None if none follows."""
        delay = None if final else self._delay(error)
        event = CheckpointFailed(
            **self._attempted(),
            input_digest=self.digest,
            args=self._args_preview,
            error=self.run.failure_of(error),
            retry=delay is not None,
            returns=None if delay is not None else self.checkpoint.parameters.returned,
        )
        self._spent += 1
        self.attempt += 1
        return event, delay

    def _delay(self, error: Exception) -> float | None:
        if not self.checkpoint.options.retries:
            return None
        policy = self.checkpoint.policy()
        elapsed = time.monotonic() - self._began
        chance = self.run.chance() if policy.backoff and policy.jitter else 0.5
        return next_delay(policy, error, failed=self._spent + 1, elapsed=elapsed, chance=chance)

    def _commit(self, event: Outcome, encoded: Encoded | None = None) -> None:
        """Make the event durable, and the bytes that it names before it."""
        run = self.run
        try:
            if encoded is not None:
                stored.put(run.store, run.project, encoded)
            run.journal.commit(event, replaces=self._started)
            if encoded is not None and isinstance(event, CheckpointCompleted):
                if run.keeps_outputs or self._ticket is not None:
                    # The value is the flow's to change from now on.
                    event = replace(event, output=encoded.detached())
                if self._ticket is not None:
                    run.cache.publish(self._ticket, event.output, run.logged.get(self.key, {}))
            run.keep(event)
        finally:
            if isinstance(event, CheckpointCompleted) or not event.retry:
                run.under_way.pop(self.key, None)


def running_loop() -> Any:
    """The event loop that runs in this thread, the flow's own or one that its body started; None if there is none."""
    asyncio = sys.modules.get("asyncio")
    with suppress(RuntimeError):
        return asyncio.get_running_loop() if asyncio is not None else None
    return None
