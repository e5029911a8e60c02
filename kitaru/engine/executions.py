"""Executions as their journals tell of them: one, many, and which of them lost their runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta

from kitaru.engine import journal
from kitaru.engine.leases import LEASE_SECONDS, Lease, lapsed, read_lease
from kitaru.engine.listing import Candidate, Listing, completed_calls, note_end, note_open
from kitaru.errors import KitaruIntegrityError, KitaruUsageError
from kitaru.model import address
from kitaru.model.address import parse_timestamp, timestamp
from kitaru.model.event import ExecutionOptions, Failure, RunnerRecord, Value
from kitaru.model.execution import Execution, fold
from kitaru.ports import Clock, RunnerInfo, Store

Alive = Callable[[RunnerInfo], bool | None]
"""Whether that process still runs; None where it can't be known from here."""

STARTS_WITHIN = timedelta(seconds=60)
"""An execution that nobody has begun to run after this long has no runner that will."""


class Executions:
    """The executions of one project."""

    def __init__(
        self, store: Store, project: str, clock: Clock, alive: Alive, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._store = store
        self._project = project
        self._clock = clock
        self._alive = alive
        self._lease_seconds = lease_seconds
        self._listing = Listing(store, project, clock)

    def get(self, exec_id: str) -> Execution:
        """The execution, ``lost`` where its runner is known to be gone. ``KitaruUsageError`` where there is none."""
        return self._with_liveness(journal.load(self._store, self._project, self.full_id(exec_id)))

    def full_id(self, text: str) -> str:
        """``text`` itself when it is an id; else the one id that ends or begins with it."""
        if address.EXEC_ID.fullmatch(text):
            return text
        bare = text.removeprefix("ex-")
        found = [one for one in self.ids() if one.endswith(bare) or one.startswith(f"ex-{bare}")] if bare else []
        if len(found) == 1:
            return found[0]
        if found:
            raise KitaruUsageError(
                f"{text!r} could be {len(found)} executions: {', '.join(found[:4])}", hint="give more of the id"
            )
        raise KitaruUsageError(
            f"there is no execution {text!r} in project {self._project}", hint="kitaru executions list"
        )

    def ids(self) -> Sequence[str]:
        """All ids, newest first."""
        names = self._store.names(address.executions(self._project))
        return [name.removesuffix("/") for name in reversed(names)]

    def newest(
        self, *, flow: str | None = None, status: str | None = None, limit: int | None = None
    ) -> Iterator[Execution]:
        """Executions, newest first, that fit. What that costs is in ``engine.listing``."""
        found = 0
        if limit == 0:
            return
        for candidate in self._listing.candidates(flow=flow, status=status):
            execution = self._look_safely(candidate)
            if execution is None or (flow and execution.flow_name != flow):
                continue
            execution = self._with_liveness(execution)
            if execution.status == "lost" and not candidate.under_way:
                # Its runner never came as far as to say so; when it is older, nothing else would lead to it.
                note_open(self._store, self._project, execution.exec_id, execution.flow_name)
            if status and execution.status != status:
                continue
            yield execution
            found += 1
            if found == limit:
                return

    def open_ones(self, flow: str) -> Sequence[Execution]:
        """The flow's executions that have not ended, newest first."""
        return [one for one in self.newest(flow=flow) if not one.ended]

    def _look_safely(self, candidate: Candidate) -> Execution | None:
        """As ``_look``, but an execution whose records are damaged is shown as such, and hides none of the others."""
        try:
            return self._look(candidate)
        except KitaruIntegrityError as error:
            return damaged(self._project, candidate.exec_id, error.message)

    def _look(self, candidate: Candidate) -> Execution | None:
        """From its summary, else from its journal; None for an id that leads nowhere.

        Hints that are missing or wrong, of one that has ended, are put right.
        """
        exec_id = candidate.exec_id
        if not candidate.under_way:
            body = self._store.read(address.summary(self._project, exec_id))
            summary = journal.read_summary(body) if body is not None else None
            if summary is not None:
                return summary
        entries = journal.read_entries(self._store, self._project, exec_id)
        if not entries:
            return None
        execution = fold(journal.read_events(entries, exec_id))
        if execution.ended:
            note_end(self._store, execution, len(entries), completed_calls(execution))
        return execution

    def _with_liveness(self, execution: Execution) -> Execution:
        if execution.status not in ("pending", "running"):
            return execution
        return execution if self.held(execution) else replace(execution, status="lost")

    def held(self, execution: Execution) -> bool:
        """Whether a runner has it, or may yet begin with it: nobody else should go on with it then."""
        if execution.ended or execution.suspended_at is not None:
            return False
        if execution.runner is None:
            return self._clock.now() - parse_timestamp(execution.created_at) <= STARTS_WITHIN
        if self._alive(_info(execution.runner)) is False:
            return False
        since = execution.runner_since or execution.created_at
        now = self._clock.now()
        if not lapsed(None, "", since, now, self._lease_seconds):
            return True
        return not lapsed(self.lease(execution.exec_id), execution.runner.runner_id, since, now, self._lease_seconds)

    def lease(self, exec_id: str) -> Lease | None:
        """The newest sign of life of the execution's runner: one read."""
        body = self._store.read(address.lease(self._project, exec_id))
        return read_lease(body) if body is not None else None


def damaged(project: str, exec_id: str, why: str) -> Execution:
    """What a list shows of an execution whose journal can't be read."""
    return Execution(
        exec_id=exec_id,
        project=project,
        flow_name="(damaged)",
        status="lost",
        created_at=timestamp(address.exec_moment(exec_id)),
        stack_name="-",
        target="-",
        origin="run",
        options=ExecutionOptions(),
        inputs=Value("json", 0, "", "inline"),
        failure=Failure(type="KitaruIntegrityError", message=why, origin="backend"),
        ended_at=timestamp(address.exec_moment(exec_id)),
    )


def _info(runner: RunnerRecord) -> RunnerInfo:
    return RunnerInfo(runner_id=runner.runner_id, host=runner.host, pid=runner.pid, started=runner.started)
