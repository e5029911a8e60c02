"""One checkpoint call on its way: what is recorded about it, and the events that it adds."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kitaru.core.replay import CallIdentity, Compute, Diverged, Reraise, Reuse
from kitaru.errors import KitaruContextError, KitaruDivergenceError, KitaruError, KitaruTimeoutError, KitaruValueError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.retry import next_delay
from kitaru.flows.scope import scope
from kitaru.flows.signature import Mismatch, convert
from kitaru.flows.waiting import Question
from kitaru.model.event import (
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointOffered,
    CheckpointStarted,
    MetadataLogged,
    Value,
)
from kitaru.run.artifacts import NotesHere
from kitaru.run.cache import Hint, Ticket
from kitaru.run.failures import as_failure, exception_of
from kitaru.run.forked import run_here
from kitaru.run.interrupts import killed_late, time_is_up
from kitaru.run.masking import mask_tree
from kitaru.run.output import OutputScope, current_output
from kitaru.run.run_state import RunState
from kitaru.run.stopping import note_stopped
from kitaru.values import stored
from kitaru.values.codec import Encoded, Summaries, digest_arguments, encode

if TYPE_CHECKING:
    from kitaru.run.isolated import IsolatedAttempt


class CheckpointScope(NotesHere):
    """A checkpoint's body: what is called here is its own affair, and no other checkpoint."""

    __slots__ = ("attempt", "call_id", "name", "run")

    def __init__(self, run: RunState, name: str, call_id: str, attempt: int) -> None:
        self.run = run
        self.name = name
        self.call_id = call_id
        self.attempt = attempt

    def call(self, checkpoint: Checkpoint[..., Any], *_: Any) -> Any:
        """Refused, as everything here: ``KitaruContextError``."""
        name = checkpoint.name
        raise KitaruContextError(
            f"checkpoint {name!r} was called inside checkpoint {self.name!r}",
            hint=f"Checkpoints don't nest. Call {name} in the flow body, or its plain function: {name}.func(...).",
        )

    submit = call
    fan_out = call

    def wait(self, _question: Question) -> Any:
        """Refused, too: an attempt that waits for a person could neither be timed nor tried again."""
        raise KitaruContextError(
            f"wait() was called inside checkpoint {self.name!r}",
            hint="Call it in the flow body, and pass the answer to the checkpoint.",
        )


class CallRun:
    """A call with its arguments, bound and digested. Used by one thread, or one task, at a time."""

    __slots__ = (
        "_args_preview",
        "_began",
        "_decision",
        "_encoded",
        "_output_token",
        "_policy",
        "_scope_token",
        "_spent",
        "_started",
        "_summaries",
        "_ticket",
        "args",
        "attempt",
        "cached_value",
        "checkpoint",
        "digest",
        "key",
        "kwargs",
        "name",
        "output",
        "run",
        "scope",
    )

    def __init__(
        self, run: RunState, checkpoint: Checkpoint[..., Any], key: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """``TypeError`` where the arguments don't fit the function."""
        self.run = run
        self.checkpoint = checkpoint
        self.name = checkpoint.name
        self.key = key
        self.args = args
        self.kwargs = kwargs
        self._summaries: Summaries | None = Summaries(run.home)
        self.digest, preview = digest_arguments(checkpoint.parameters.bind(args, kwargs), summaries=self._summaries)
        self._args_preview = preview if run.mask is None else mask_tree(preview, run.mask)
        self._decision = decision = run.decide(CallIdentity(key, self.name, self.digest))
        if not isinstance(decision, Diverged):
            self.key = decision.call
        self._started: CheckpointStarted | None = None
        self._encoded: Encoded | None = None
        self.output: OutputScope | None = None
        self._output_token: Any = None
        self._scope_token: Any = None
        self.attempt = 1
        self._spent = 0
        self._began = 0.0
        self._ticket: Ticket | None = None
        self._policy = checkpoint.policy() if checkpoint.options.retries else None

    @property
    def reusable_inline(self) -> bool:
        """Whether the value is at hand, without a read of the store."""
        return isinstance(self._decision, Reuse) and self._decision.output.stored == "inline"

    def decide(self) -> bool:
        """Whether a recorded value is to be reused.

        Raises the failure that the body met here before, and ``KitaruDivergenceError`` where another call is recorded.
        """
        decision = self._decision
        if isinstance(decision, Compute):
            self.attempt = decision.attempts + 1
            self._spent = decision.spent
            return False
        if isinstance(decision, Reraise):
            self.run.took(self.key)
            raise exception_of(decision.failure, self.checkpoint.func.__module__)
        if isinstance(decision, Diverged):
            raise self._divergence(decision)
        return True

    def reused(self) -> Any:
        """The recorded value; ``KitaruValueError`` where it is no longer what the return annotation says."""
        assert isinstance(self._decision, Reuse)
        output: Value = self._decision.output
        subject = f"the result of checkpoint {self.name!r} (call {self.key})"
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

    def asks_store(self) -> bool:
        """Looks at what the cache knows of this call; whether ``cached`` needs the store then."""
        run, checkpoint = self.run, self.checkpoint
        bound = checkpoint.parameters.bind(self.args, self.kwargs)
        summaries, self._summaries = self._summaries or Summaries(run.home), None
        self._ticket = run.cache.ticket(checkpoint, self.key, bound, summaries, answered=bool(run.waits.answered))
        if self._ticket is None:
            return False
        if run.cache.is_listed(checkpoint, self._ticket):
            run.cache.missed(checkpoint, self._ticket, self.key)
            return False
        return True

    def cached(self) -> CheckpointCompleted | None:
        """The event of a call that an earlier execution made already; ``cached_value`` is its result then."""
        run, ticket = self.run, self._ticket
        assert ticket is not None
        hint = run.cache.find(self.checkpoint, ticket)
        if hint is None or not self._takes(hint):
            run.cache.missed(self.checkpoint, ticket, self.key)
            return None
        run.cache.took(self.checkpoint, ticket, self.key)
        if hint.metadata:
            run.journal.buffer(MetadataLogged(at=run.now(), call=self.key, values=dict(hint.metadata)))
        moment = run.now()
        return CheckpointCompleted(
            at=moment,
            started=moment,
            call=self.key,
            name=self.name,
            attempt=self.attempt,
            input_digest=self.digest,
            args=self._args_preview,
            output=hint.output,
            cached_from=hint.source,
            cache_key=ticket.key,
        )

    def _takes(self, hint: Hint) -> bool:
        """Whether the earlier result is there, whole, and what the return annotation says."""
        home = self.checkpoint.func.__module__
        try:
            value = stored.get(self.run.store, self.run.project, hint.output, subject="a cached result", home=home)
        except KitaruError:
            return False
        if hint.output.type and not self.checkpoint.parameters.result_fits(value):
            return False
        self.cached_value = value
        return True

    def compute(self) -> Any:
        """What the body gives, in this thread; stopped where its timeout is over, or the run is stopped."""
        checkpoint = self.checkpoint
        try:
            if checkpoint.options.runtime == "isolated":
                return self.isolated().run()
            work = partial(run_here, checkpoint.func, *self.args, **self.kwargs)
            return self.run.interrupts.run(work, timeout=checkpoint.options.timeout, late=self.late)
        except BaseException as error:
            failure = self.as_failure(error)
            if failure is error:
                raise
            raise failure from error

    def as_failure(self, error: BaseException) -> BaseException:
        """What the body raised, as the attempt fails."""
        return as_failure(error, f"checkpoint {self.name!r}")

    def isolated(self) -> IsolatedAttempt:
        """An attempt in a process of its own."""
        from kitaru.run.isolated import IsolatedAttempt  # brings subprocess, which few flows need

        return IsolatedAttempt(self)

    def late(self, spent: float) -> KitaruTimeoutError:
        """The failure of an attempt that took too long: it ended after ``spent`` seconds."""
        return KitaruTimeoutError(
            time_is_up(f"checkpoint {self.name!r} (call {self.key})", self.checkpoint.options.timeout or 0.0, spent),
            hint="Give it a longer timeout=, or make less of it in one call; "
            'with runtime="isolated" a process of its own is ended on time, whatever it does.',
        )

    def late_process(self, *, killed: bool) -> KitaruTimeoutError:
        """The same of one in a process of its own. ``killed``: it did not end when it was told to."""
        what, timeout = f"checkpoint {self.name!r} (call {self.key})", self.checkpoint.options.timeout or 0.0
        return KitaruTimeoutError(
            killed_late(what, timeout) if killed else time_is_up(what, timeout, timeout),
            hint="Give it a longer timeout=, or make less of it in one call.",
        )

    def begin(self) -> None:
        """An attempt begins in this context: its start is noted, and its output goes to it."""
        if self.run.journal.stopped is not None:
            raise self.run.journal.stopped  # nothing of it could be recorded any more
        self._began = self._began or time.monotonic()
        self._started = CheckpointStarted(at=self.run.now(), call=self.key, name=self.name, attempt=self.attempt)
        self.run.journal.buffer(self._started)
        timeout = self.checkpoint.options.timeout
        self.run.under_way.begin(self.key, self.name, self.attempt, self._started.at, timeout)
        self.scope = CheckpointScope(self.run, self.name, self.key, self.attempt)
        self._scope_token = scope.set(self.scope)
        if self.run.capture is not None:
            self.output = self.run.capture.begin(self.name, self.key, self.attempt)
            self._output_token = current_output.set(self.output)

    def end(self) -> None:
        """The attempt's body is over, whatever came of it."""
        self.run.under_way.body_over(self.key)
        scope.reset(self._scope_token)
        if self.output is not None and self.run.capture is not None:
            self.run.capture.end(self.output)
            current_output.reset(self._output_token)
            self.output = None

    def completed(self, result: Any) -> CheckpointCompleted | CheckpointFailed:
        """The event for a result. A result that can't be stored ends the call; ``commit`` raises it then."""
        assert self._started is not None
        parameters = self.checkpoint.parameters
        try:
            self._encoded = encode(
                result,
                subject=f"the result of checkpoint {self.name!r}",
                serializer=self.checkpoint.options.serializer,
                typed=parameters.result_fits(result),
            )
        except KitaruValueError as error:
            event, _ = self.failed(error, final=True)
            self.commit(event)
            raise
        return CheckpointCompleted(
            at=self.run.now(),
            started=self._started.at,
            call=self.key,
            name=self.name,
            attempt=self.attempt,
            input_digest=self.digest,
            args=self._args_preview,
            output=self._encoded.value,
            cache_key=self._ticket.key if self._ticket is not None else None,
        )

    def failed(self, error: Exception, *, final: bool = False) -> tuple[CheckpointFailed, float | None]:
        """The event for a failed attempt, and the seconds after which another one follows; None where none does."""
        assert self._started is not None
        delay = None if final else self._delay(error)
        event = CheckpointFailed(
            at=self.run.now(),
            started=self._started.at,
            call=self.key,
            name=self.name,
            attempt=self.attempt,
            input_digest=self.digest,
            args=self._args_preview,
            error=self.run.failure_of(error),
            retry=delay is not None,
            returns=None if delay is not None else self.checkpoint.parameters.returned,
        )
        self._spent += 1
        self.attempt += 1
        return event, delay

    def stopped(self, signal: BaseException) -> None:
        """An attempt's body was stopped in the middle."""
        if self._started is not None:
            note_stopped(self.run, self._started, signal)

    def give_up(self) -> bool:
        """Whether the flow has failed meanwhile, so that no further attempt is worth making."""
        return self.run.abandoned is not None

    def _delay(self, error: Exception) -> float | None:
        policy = self._policy
        if policy is None:
            return None
        elapsed = time.monotonic() - self._began
        chance = self.run.chance() if policy.backoff and policy.jitter else 0.5
        return next_delay(policy, error, failed=self._spent + 1, elapsed=elapsed, chance=chance)

    def commit(self, event: CheckpointCompleted | CheckpointFailed) -> None:
        """Make the event durable, and the bytes that it names before it."""
        try:
            self._commit(event)
        finally:
            if isinstance(event, CheckpointCompleted) or not event.retry:
                self.run.under_way.over(self.key)

    def _commit(self, event: CheckpointCompleted | CheckpointFailed) -> None:
        run = self.run
        if isinstance(event, CheckpointCompleted):
            if self._encoded is not None:
                stored.put(run.store, run.project, self._encoded)
            run.journal.commit(event, replaces=self._started)
            # The value is the flow's to change from now on.
            output = self._encoded.detached() if self._encoded is not None else event.output
            if run.keeps_outputs:
                run.recorded.add(replace(event, output=output))
            if self._ticket is not None and event.cached_from is None:
                run.cache.publish(self._ticket, self.key, output, run.logged.get(self.key, {}))
            return
        run.journal.commit(event, replaces=self._started)
        if run.keeps_outputs:
            run.recorded.add(event)

    def _given(self, value: Any, subject: str) -> Any:
        """A result that whoever replays gave as JSON, as what the checkpoint returns; it is recorded as that."""
        run, parameters = self.run, self.checkpoint.parameters
        try:
            result = convert(value, parameters.annotations.get("return", Any))
            encoded = encode(
                result,
                subject=subject,
                serializer=self.checkpoint.options.serializer,
                typed=parameters.result_fits(result),
            )
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
