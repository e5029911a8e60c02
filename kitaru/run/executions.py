"""The executions of one project: one, many, and which of them lost their runner."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruIntegrityError, KitaruUsageError, KitaruValueError
from kitaru.masking import mask_tree
from kitaru.model import address
from kitaru.model.address import EXEC_ID, parse_timestamp, timestamp
from kitaru.model.event import (
    ArtifactSaved,
    ExecutionOptions,
    Failure,
    MetadataLogged,
    Value,
)
from kitaru.model.execution import (
    ENDED,
    STATUSES,
    Artifact,
    Execution,
    Fold,
    artifact_id,
    fold,
    merge,
    split_artifact_id,
)
from kitaru.ports import Clock
from kitaru.run import journal
from kitaru.run.index import (
    OPEN,
    STARTS_WITHIN,
    WAITING,
    Candidate,
    Filter,
    Index,
    Sign,
    note_end,
    note_lost,
    note_open,
    note_waiting,
    open_key,
    read_sign,
)
from kitaru.run.lease import LEASE_SECONDS, PATIENCE, lapses, last_seen
from kitaru.run.user_code import uninterrupted
from kitaru.stacks.port import Handle, Runner
from kitaru.store.port import Store
from kitaru.values import stored
from kitaru.values.stored import encode
from kitaru.values.typed_json import Unstorable, plain, to_tree, type_name

if TYPE_CHECKING:
    from kitaru.run.state import RunState


MARKED_AFTER = timedelta(minutes=10)
"""A lost execution is marked as such so long after its lease lapsed: more than clocks differ by, or than a process that
is seen to live is given (``PATIENCE``, with the usual lease).

At once where its process was on this machine and is dead.
"""


class Executions:
    """The executions of one project."""

    def __init__(
        self,
        store: Store,
        project: str,
        clock: Clock,
        runner: Runner,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """``runner``: the stack that knows if the workers that are seen from here are alive."""
        self.store = store
        self.project = project
        self.clock = clock
        self.runner = runner
        self._lease_seconds = lease_seconds
        self._index = Index(store, project, clock, lease_seconds)

    def get(self, exec_id: str) -> Execution:
        """The execution, ``lost`` if its runner is known to be gone. ``KitaruUsageError`` for an unknown id."""
        return self.get_recorded(exec_id)[0]

    def get_recorded(self, exec_id: str) -> tuple[Execution, tuple[bytes, ...]]:
        """As ``get``, with the entries of the journal that say so."""
        whole = self.full_id(exec_id)
        entries = journal.read_entries(self.store, self.project, whole)
        return self._judged(whole, entries, None)

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
            f"there is no execution {text!r} in project {self.project} of {self.store.url}",
            hint="kitaru executions list",
        )

    def ids(self) -> Sequence[str]:
        """All ids, newest first."""
        names = self.store.names(address.executions(self.project))
        return [name.removesuffix("/") for name in reversed(names)]

    def newest(
        self,
        *,
        flow: str | None = None,
        status: str | Collection[str] | None = None,
        version: int | None = None,
        tag: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[Execution]:
        """The executions that fit, newest first; those of ``flow`` under any name that it had.

        ``status``: one, or several. ``since`` and ``until``: when they were opened.
        """
        statuses = frozenset((status,) if isinstance(status, str) else status) if status is not None else None
        wanted = Filter(flow, statuses, version, tag, since, until)
        flows = self._index.names_of(wanted.flow) if wanted.flow is not None else frozenset()
        count = 0
        if limit == 0:
            return
        for candidate in self._index.candidates(wanted, flows):
            execution = self._look_safely(candidate)
            if execution is None or not _fits(execution, wanted, flows):
                continue
            yield execution
            count += 1
            if count == limit:
                return

    def open_ones(self, flow: str) -> Sequence[Execution]:
        """The flow's executions that have not ended, newest first; those that have are not looked at."""
        return list(self.newest(flow=flow, status=frozenset(STATUSES) - ENDED))

    def _look_safely(self, candidate: Candidate) -> Execution | None:
        """As ``_look``, but an execution with damaged records is shown as such, and hides none of the others."""
        try:
            return self._look(candidate)
        except KitaruIntegrityError as error:
            return damaged(self.project, candidate.exec_id, error.message)

    def _look(self, candidate: Candidate) -> Execution | None:
        """From its hint or its summary, else from its journal; None for an id that leads nowhere.

        Hints that are missing or wrong, of one that has ended or is left, are put right.
        """
        exec_id, sign = candidate.exec_id, None
        if candidate.mark is None:
            body = self.store.read(address.summary(self.project, exec_id))
            shown = journal.read_summary(body) if body is not None else None
        else:
            sign = read_sign(self.store.read(address.open_hints(self.project) + candidate.name))
            shown = self._shown(candidate.mark, sign) if sign is not None else None
        if shown is not None:
            return shown
        entries = journal.read_entries(self.store, self.project, exec_id)
        if not entries:
            return None
        execution, entries = self._judged(exec_id, entries, sign)
        if execution.ended:
            note_end(self.store, execution, len(entries))
        elif execution.suspended_at is not None and candidate.mark != WAITING:
            note_waiting(self.store, execution, len(entries))
        elif execution.status == "lost":
            marked = self._mark_lost(execution, len(entries), sign)
            if not marked and candidate.mark is None:
                note_open(self.store, execution)  # when it is older, nothing else would lead to it
        return execution

    def _shown(self, mark: str, sign: Sign) -> Execution | None:
        """As the hint shows it; None if only the journal can tell.

        A lease that lapsed shows a lost execution, if nothing was recorded since and that is certain.
        """
        execution = sign.execution
        if mark != OPEN:
            return execution if execution.status == mark else None
        if execution.runner is None or execution.status not in ("running", "waiting") or sign.until is None:
            return None
        if self.clock.now() <= sign.until and self._may_live(execution):
            return execution
        if execution.status != "running" or self._is_patient(execution, sign):
            return None
        return replace(execution, status="lost") if self._mark_lost(execution, sign.entries, sign) else None

    def _mark_lost(self, execution: Execution, entries: int, sign: Sign | None) -> bool:
        """Mark it for other readers, if its loss is certain; whether it is."""
        if execution.runner is not None and not self._may_live(execution):
            return note_lost(self.store, execution, entries, lambda: True)

        def lapsed_long_ago(seen: Sign | None) -> bool:
            return lapses(execution, seen, 0.0) + MARKED_AFTER < self.clock.now()

        if not lapsed_long_ago(sign):
            return False
        return note_lost(self.store, execution, entries, lambda: lapsed_long_ago(self.sign(execution)))

    def _judged(
        self, exec_id: str, entries: tuple[bytes, ...], sign: Sign | None
    ) -> tuple[Execution, tuple[bytes, ...]]:
        """The execution of this journal, ``lost`` without a runner; and the entries that there are by now."""
        while True:
            execution = (
                fold(journal.read_events(entries, exec_id))
                if entries
                else journal.load(self.store, self.project, exec_id)
            )
            if execution.status not in ("pending", "running") or self.held(execution, sign):
                return execution, entries
            # Its runner may have written, and ended, between the look at the journal and the look at the process.
            newer = journal.read_entries(self.store, self.project, exec_id, entries)
            if len(newer) == len(entries):
                return self._lost(execution), entries
            entries = newer

    def _lost(self, execution: Execution) -> Execution:
        """``execution`` as lost; if its worker died before its first entry, with the reason that it left."""
        launched = self._launched(execution) if execution.runner is None else None
        words = self.runner.startup_failure(launched) if launched is not None else ""
        failure = Failure("WorkerLost", words, origin="runtime") if words else execution.failure
        return replace(execution, status="lost", failure=failure)

    def held(self, execution: Execution, sign: Sign | None = None) -> bool:
        """Whether a runner has it, or may yet begin with it: no other runner should go on with it then.

        ``sign``: its newest lease, if that was read already.
        """
        if execution.ended or execution.suspended_at is not None:
            return False
        if execution.runner is None:
            return self.may_begin_within(execution) > 0
        if not self._may_live(execution):
            return False
        if self.clock.now() <= lapses(execution, None, self._lease_seconds):
            return True
        sign = sign or self.sign(execution)
        return self.clock.now() <= lapses(execution, sign, self._lease_seconds) or self._is_patient(execution, sign)

    def _is_patient(self, execution: Execution, sign: Sign | None) -> bool:
        """Whether its runner, though its lease has lapsed, is a worker that is seen to be at work."""
        if execution.runner is None or not self.runner.alive(execution.runner):
            return False
        silent = self.clock.now() - last_seen(execution, sign)
        return silent.total_seconds() < PATIENCE * self._lease_seconds

    def silent_for(self, execution: Execution) -> float | None:
        """Seconds since the last sign of life of one that runs, if its lease has lapsed; None if all is well."""
        if execution.status != "running" or execution.runner is None:
            return None
        sign, now = self.sign(execution), self.clock.now()
        if now <= lapses(execution, sign, self._lease_seconds):
            return None
        return (now - last_seen(execution, sign)).total_seconds()

    def may_begin_within(self, execution: Execution) -> float:
        """The seconds in which a runner of which the journal knows nothing may yet begin; 0 if none will.

        The end of a process that was started on this machine is known at once; a worker that lives may take its time.
        """
        worker = self._launched(execution)
        alive = self.runner.alive(worker) if worker is not None else None
        if alive is False:
            return 0.0
        if alive and execution.origin == "invoke":
            return float("inf")
        waited = self.clock.now() - parse_timestamp(execution.created_at)
        return max(0.0, (STARTS_WITHIN - waited).total_seconds())

    def _launched(self, execution: Execution) -> Handle | None:
        """The worker that is to begin with an execution, if it is known here."""
        return execution.opener or self.runner.launched(execution.exec_id)

    def _may_live(self, execution: Execution) -> bool:
        return execution.runner is not None and self.runner.alive(execution.runner) is not False

    def sign(self, execution: Execution) -> Sign | None:
        """The newest sign of life of the execution's runner: one read."""
        return read_sign(self.store.read(open_key(execution)))


def _fits(execution: Execution, wanted: Filter, flows: frozenset[str]) -> bool:
    """Whether that is an execution that is asked for; its time was compared before."""
    status = wanted.statuses is None or execution.status in wanted.statuses
    version = wanted.version is None or wanted.version == execution.version
    tag = wanted.tag is None or wanted.tag == execution.tag
    return status and version and tag and (wanted.flow is None or execution.flow_name in flows)


def damaged(project: str, exec_id: str, why: str) -> Execution:
    """The row of a list for an execution with an unreadable journal."""
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


METADATA_LIMIT = 64 * 1024
"""The most that one ``log`` takes, in bytes of JSON: more is an artifact."""

SAVE_PICKLED = 'ask for pickle with save(name, value, serializer="pickle").'

NAME_LIMIT = 200
"""Characters of an artifact's name."""


class NotesHere:
    """``log``, ``save`` and ``load`` of one scope: a checkpoint call, or the flow body if ``call_id`` is None."""

    __slots__ = ()
    run: RunState
    call_id: str | None

    @property
    def process(self) -> int:
        """The process that runs the execution."""
        return self.run.process

    @uninterrupted
    def log(self, metadata: dict[str, Any]) -> None:
        """Merge into the metadata of this call, or of the execution, with the journal's next entry."""
        run, call = self.run, self.call_id
        run.must_go_on()
        if not metadata:
            return
        event = MetadataLogged(at=run.now(), call=call, values=mask_tree(plain_metadata(metadata), run.mask))
        run.journal.buffer(event)
        if call is None:
            run.history.headlines.append(event)
        else:
            run.logged[call] = merge(run.logged.get(call, {}), event.values)

    @uninterrupted
    def save(self, name: str, value: Any, kind: str, tags: Sequence[str], serializer: str | None = None) -> str:
        """Keep a named value; its artifact's id. Durable when it returns."""
        run, call = self.run, self.call_id
        run.must_go_on()
        _check_names(name, kind, tags)
        encoded = encode(value, subject=f"artifact {name!r}", serializer=serializer, way_out=SAVE_PICKLED)
        stored.put(run.store, run.project, encoded)
        event = ArtifactSaved(at=run.now(), call=call, name=name, type=kind, value=encoded.detached(), tags=list(tags))
        run.journal.commit(event)
        return artifact_id(run.exec_id, call, name)

    @uninterrupted
    def load(self, exec_id: str, name: str) -> Any:
        """The newest artifact of that name in an execution of this project."""
        if not isinstance(exec_id, str) or not EXEC_ID.fullmatch(exec_id):
            raise KitaruUsageError(
                f"load(): expected the id of an execution, not {exec_id!r:.80}",
                hint="It looks like ex-…; kitaru executions list shows them, and flow.run(...).exec_id is one.",
            )
        run = self.run
        found = [one for one in read_artifacts(run.store, run.project, exec_id) if one.name == name]
        if not found:
            raise missing(run.store, run.project, exec_id, name)
        return stored.get(run.store, run.project, found[-1].value, subject=f"artifact {name!r}", home=run.home)


def plain_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as plain JSON data. ``KitaruValueError`` names the key that has no such form, or says it is too much."""
    copied: dict[str, Any] = {}
    size = 0
    for key, value in metadata.items():
        try:
            text = json.dumps(plain(to_tree(value)), ensure_ascii=False, allow_nan=False)
        except (Unstorable, RecursionError, ValueError) as error:
            reason = error.advice if isinstance(error, Unstorable) else str(error)
            raise KitaruValueError(
                f"log({key}=...): a {type_name(type(value))} can't be logged: {reason}",
                hint=f"Log text, numbers, lists or objects; keep anything else with save({key!r}, value).",
            ) from error
        size += len(text)
        copied[key] = json.loads(text)
    if size > METADATA_LIMIT:
        raise KitaruValueError(
            f"log() was given {size:,} bytes of metadata, more than {METADATA_LIMIT:,}",
            hint="Keep a large value with save(name, value).",
        )
    return copied


def read_artifacts(store: Store, project: str, exec_id: str) -> list[Artifact]:
    """The artifacts of an execution, oldest first. Reads all of its journal.

    A call with a result from the cache, or from the execution that it replays, has the original's.
    Raises ``KitaruUsageError`` for an unknown execution.
    """
    own, borrowed = _own_artifacts(store, project, exec_id)
    for origin, calls in borrowed.items():
        with suppress(KitaruUsageError):  # the original is gone, and its artifacts with it
            known = read_artifacts(store, project, origin)
            own += [replace(one, exec_id=exec_id, call=calls[one.call]) for one in known if one.call in calls]
    return own


def _own_artifacts(store: Store, project: str, exec_id: str) -> tuple[list[Artifact], dict[str, dict[str | None, str]]]:
    """The artifacts of an execution's own journal, and the origins of its calls: origin → call → call."""
    entries = journal.read_entries(store, project, exec_id)
    if not entries:
        raise KitaruUsageError(
            f"there is no execution {exec_id!r} in project {project!r} of {store.url}", hint="kitaru executions list"
        )
    folded = Fold(journal.read_events(entries, exec_id))
    borrowed: dict[str, dict[str | None, str]] = {}
    for call in folded.execution().checkpoints:
        if call.cached_from:
            origin, _, original = call.cached_from.partition("/")
            borrowed.setdefault(origin, {})[original] = call.call_id
    return folded.artifacts(exec_id), borrowed


def select(
    artifacts: Sequence[Artifact], *, name: str | None, kind: str | None, producing_call: str | None
) -> Iterator[Artifact]:
    """Those that fit. ``producing_call`` is a call's id or its checkpoint's name."""
    for one in artifacts:
        if name is not None and one.name != name:
            continue
        if kind is not None and one.kind != kind:
            continue
        if producing_call is None or producing_call in (one.call, one.checkpoint):
            yield one


def find(store: Store, project: str, text: str) -> Artifact:
    """The artifact with that id. ``KitaruUsageError`` for a text that is no id, or leads nowhere."""
    parts = split_artifact_id(text)
    if parts is None:
        raise KitaruUsageError(
            f"{text!r} is no artifact's id; one looks like ex-…:3:report", hint="client.artifacts.list(exec_id)"
        )
    exec_id, call, name = parts
    for one in _own_artifacts(store, project, exec_id)[0]:
        if one.call == call and one.name == name:
            return one
    raise missing(store, project, exec_id, name)


def missing(store: Store, project: str, exec_id: str, name: str) -> KitaruUsageError:
    """The error for an artifact that is not there; it says which ones are."""
    there = sorted({one.name for one in read_artifacts(store, project, exec_id)})
    known = f"it has: {', '.join(there[:10])}{', …' if len(there) > 10 else ''}" if there else "it has none"
    return KitaruUsageError(
        f"execution {exec_id} has no artifact {name!r}; {known}", hint=f"client.artifacts.list({exec_id!r})"
    )


def _check_names(name: str, kind: str, tags: Sequence[str]) -> None:
    for part, text in (("name", name), ("type", kind), *(("tag", tag) for tag in tags)):
        if not isinstance(text, str) or not text or len(text) > NAME_LIMIT or not text.isprintable():
            raise KitaruUsageError(
                f"save(): the {part} must be text of 1 to {NAME_LIMIT} printable characters, not {text!r:.80}",
                hint='save("report", value, type="output", tags=["draft"])',
            )
