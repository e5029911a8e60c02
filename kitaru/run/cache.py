"""Why each call of an execution was taken from the cache, or was not."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kitaru.core.cache_key import MOST_NOTED, Inputs, Noted, Recipe, call_key, explain_miss, inputs_of
from kitaru.errors import KitaruError
from kitaru.flows.checkpoint import Checkpoint
from kitaru.flows.code_digest import Reached, reached
from kitaru.model import address
from kitaru.model.event import Value
from kitaru.model.execution import CheckpointCall, Execution
from kitaru.store import hints
from kitaru.store.port import Store
from kitaru.values.codec import Summaries


@dataclass(frozen=True, slots=True)
class CacheReport:
    """One call: ``word`` is ``hit``, ``miss``, ``off``, ``opaque`` or ``unknown``; ``why`` is a sentence for people."""

    call_id: str
    name: str
    word: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"call_id": self.call_id, "name": self.name, "word": self.word, "why": self.why}


def explain(store: Store, project: str, execution: Execution) -> list[CacheReport]:
    """What the cache did for each call. A listing and up to two reads for each distinct checkpoint."""
    records: dict[str, _Records] = {}
    found = []
    for call in execution.checkpoints:
        if call.name not in records:
            records[call.name] = _Records(store, project, call.name, execution.exec_id)
        found.append(_report(call, execution, records[call.name]))
    return found


class _Records:
    """What an execution, and the newest one before it, noted about one checkpoint."""

    def __init__(self, store: Store, project: str, name: str, exec_id: str) -> None:
        prefix = address.cache_records(project, name)
        ids = [one.removesuffix(".json") for one in store.names(prefix)]
        self.earlier_id = max((one for one in ids if one < exec_id), default="")
        self.own = _read(store, address.cache_record(project, name, exec_id)) if exec_id in ids else None
        earlier = address.cache_record(project, name, self.earlier_id)
        self.earlier = _read(store, earlier) if self.earlier_id else None
        self.calls = _calls(self.own)
        self.earlier_calls = _calls(self.earlier)


def _report(call: CheckpointCall, execution: Execution, records: _Records) -> CacheReport:
    if call.cached_from:
        return CacheReport(call.call_id, call.name, "hit", f"computed by {call.cached_from.replace('/', ', call ', 1)}")
    if call.given_by:
        when = f" when {execution.exec_id} was opened as a replay, at {execution.created_at}"
        return CacheReport(call.call_id, call.name, "off", f"given by {call.given_by}{when}")
    if call.original_call_id:
        return CacheReport(call.call_id, call.name, "off", "its result was copied by a replay")
    if not execution.options.cache:
        return CacheReport(call.call_id, call.name, "off", "the cache is switched off for this execution")
    noted = records.calls.get(call.call_id)
    if noted is None or records.own is None:
        return CacheReport(call.call_id, call.name, "unknown", "what the cache did for this call was not noted")
    earlier = records.earlier["recipe"] if records.earlier else None
    why = explain_miss(records.own["recipe"], noted, earlier, list(records.earlier_calls.values()), records.earlier_id)
    return CacheReport(call.call_id, call.name, noted.word, why)


def _read(store: Store, key: str) -> Mapping[str, Any] | None:
    try:
        content = json.loads(store.read(key) or b"")
        return content if isinstance(content["recipe"]["code"], dict) and _calls(content) is not None else None
    except (ValueError, TypeError, KeyError):
        return None


def _calls(record: Mapping[str, Any] | None) -> dict[str, Noted]:
    return {item["call"]: Noted.from_json(item) for item in record["calls"]} if record else {}


LINGER_SECONDS = 1.0
"""How long hints wait for others before they are written, so that a short run is not slowed by them."""

WRITERS = 8
"""Threads that write what is left when a run ends."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """One call that takes part in the cache."""

    recipe: str
    inputs: Inputs

    @property
    def key(self) -> str:
        """As the call's event records it."""
        return call_key(self.recipe, self.inputs.digest)


@dataclass(frozen=True, slots=True)
class Hint:
    """Where a result was computed, and the result as it is stored."""

    exec_id: str
    call: str
    output: Value
    metadata: Mapping[str, Any]

    @property
    def source(self) -> str:
        """``ex-…/3``."""
        return f"{self.exec_id}/{self.call}"


class _Known:
    """A distinct checkpoint of the run."""

    def __init__(self, recipe: Recipe, code: Reached, noted: list[Noted]) -> None:
        self.recipe = recipe
        self.code = code
        self.digest = recipe.digest
        self.guard = threading.Lock()
        self.there: frozenset[str] | None = None
        self.noted = noted


class Cache:
    """The cache as one run sees it. Every method may be called from any thread; none raises but for the user's code."""

    def __init__(
        self,
        store: Store,
        project: str,
        exec_id: str,
        *,
        home: str,
        on: bool,
        requirements: tuple[str, ...],
        resumed: bool,
    ) -> None:
        """``on`` False: no call of this run takes part. ``requirements``: the libraries that the image asks for.

        ``resumed``: the execution noted what the cache did before.
        """
        self._store = store
        self._project = project
        self._exec_id = exec_id
        self._home = home
        self._on = on
        self._requirements = requirements
        self._resumed = resumed
        self._guard = threading.Lock()
        self._known: dict[int, _Known] = {}
        self._origins: dict[str, bool] = {}
        self._publisher = _Publisher(store)

    def ticket(
        self, checkpoint: Checkpoint[..., Any], call: str, arguments: Any, whole: str, summaries: Summaries
    ) -> Ticket | None:
        """What a call with these bound arguments (``whole`` is their digest) is known by; None where it has no part."""
        if not self._on or checkpoint.options.cache is False:
            where = f"by @checkpoint(cache=False) of {checkpoint.name}" if self._on else "for this execution"
            if (known := self._known_if_on(checkpoint)) is not None:
                self._note(known, Noted(call, "off", why=f"the cache is switched off {where}"))
            return None
        known = self._of(checkpoint, now=True)
        inputs = inputs_of(arguments, whole, self._home, summaries)
        if inputs.opaque:
            why = f"{', '.join(inputs.opaque)} can't be told from another value of its type, so no result fits it"
            self._note(known, Noted(call, "opaque", inputs.parts, why))
            return None
        return Ticket(known.digest, inputs)

    def is_listed(self, checkpoint: Checkpoint[..., Any], ticket: Ticket) -> bool:
        """Whether ``find`` answers None for it without a request."""
        known = self._of(checkpoint)
        return known.there is not None and ticket.inputs.digest not in known.there

    def find(self, checkpoint: Checkpoint[..., Any], ticket: Ticket) -> Hint | None:
        """The result of an earlier execution, if one is known."""
        known = self._of(checkpoint)
        if known.digest != ticket.recipe:  # a registry holds other code since: what that makes is no result of this
            return None
        with known.guard:
            if known.there is None:
                known.there = self._list(known.digest)
        if ticket.inputs.digest not in known.there:
            return None
        with suppress(KitaruError, ValueError, TypeError, KeyError, RecursionError):
            body = self._store.read(address.cache_hint(self._project, known.digest, ticket.inputs.digest))
            content = json.loads(body or b"")
            output, metadata = Value.from_json(content["output"]), dict(content.get("metadata") or {})
            hint = Hint(str(content["exec_id"]), str(content["call"]), output, metadata)
            # What this very execution computed is another call's result, and calls keep their own.
            return hint if hint.exec_id != self._exec_id and self._is_there(hint.exec_id) else None
        return None

    def _is_there(self, exec_id: str) -> bool:
        """Whether an execution exists: one that was collected took its artifacts with it. One read for each, once."""
        known = self._origins.get(exec_id)
        if known is None:
            known = self._store.read(address.journal_entry(self._project, exec_id, 1)) is not None
            self._origins[exec_id] = known
        return known

    def took(self, checkpoint: Checkpoint[..., Any], ticket: Ticket, call: str) -> None:
        """The call has an earlier result."""
        self._note(self._of(checkpoint), Noted(call, "hit", ticket.inputs.parts))

    def missed(self, checkpoint: Checkpoint[..., Any], ticket: Ticket, call: str) -> None:
        """The call is computed."""
        self._note(self._of(checkpoint), Noted(call, "miss", ticket.inputs.parts))

    def publish(self, ticket: Ticket, call: str, output: Value, metadata: Mapping[str, Any]) -> None:
        """Leave a result, and what was logged about it, for later executions. Its event must be durable."""
        content = {"exec_id": self._exec_id, "call": call, "output": output.to_json()}
        if metadata:
            content["metadata"] = dict(metadata)
        body = address.canonical_json(content)
        self._publisher.add(address.cache_hint(self._project, ticket.recipe, ticket.inputs.digest), body)

    def close(self) -> None:
        """Write what is left, in the background: the interpreter waits for it, and nobody else."""
        for known in list(self._known.values()):
            if known.noted:
                key = address.cache_record(self._project, known.recipe.name, self._exec_id)
                content = {"recipe": known.recipe.to_json(), "calls": [noted.to_json() for noted in known.noted]}
                self._publisher.add(key, address.canonical_json(content), merges=self._resumed)
        self._publisher.close()

    def _known_if_on(self, checkpoint: Checkpoint[..., Any]) -> _Known | None:
        return self._of(checkpoint) if self._on else None

    def _of(self, checkpoint: Checkpoint[..., Any], *, now: bool = False) -> _Known:
        """``now``: what registries hold may have changed since it was looked at."""
        known = self._known.get(id(checkpoint))
        if known is None or (now and not known.code.stands()):
            with self._guard:
                known = self._known.get(id(checkpoint))
                if known is None or (now and not known.code.stands()):
                    known = self._known[id(checkpoint)] = self._look_at(checkpoint, known.noted if known else [])
        return known

    def _look_at(self, checkpoint: Checkpoint[..., Any], noted: list[Noted]) -> _Known:
        # Looked at anew in each run: a helper that a notebook defined again is another one.
        code = reached(checkpoint.func)
        recipe = Recipe(
            name=checkpoint.name,
            code=code.parts,
            options={"serializer": checkpoint.options.serializer},
            requirements=self._requirements,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
        )
        return _Known(recipe, code, noted)

    def _list(self, recipe: str) -> frozenset[str]:
        try:
            return frozenset(self._store.names(address.cache_hints(self._project, recipe)))
        except KitaruError:
            return frozenset()

    def _note(self, known: _Known, noted: Noted) -> None:
        if len(known.noted) < MOST_NOTED:
            known.noted.append(noted)


class _Publisher:
    """Writes hints, some time after they came."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ready = threading.Condition(threading.Lock())
        self._queue: deque[tuple[str, bytes, bool]] = deque()
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, key: str, body: bytes, *, merges: bool = False) -> None:
        with self._ready:
            if self._closed:
                return
            self._queue.append((key, body, merges))
            if self._thread is None:
                # Not a daemon: a short script leaves its hints, too.
                self._thread = threading.Thread(target=self._write, name="kitaru-cache", daemon=False)
                self._thread.start()

    def close(self) -> None:
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _write(self) -> None:
        while True:
            with self._ready:
                due = time.monotonic() + LINGER_SECONDS
                while not self._closed and (left := due - time.monotonic()) > 0:
                    self._ready.wait(left)
                closed = self._closed
            others = [
                threading.Thread(target=self._drain, name="kitaru-cache", daemon=False)
                for _ in range(min(WRITERS - 1, len(self._queue) // 16) if closed else 0)
            ]
            for thread in others:
                thread.start()
            self._drain()
            with self._ready:
                if not self._queue and not self._closed:
                    self._thread = None
                    return
                if closed:
                    return

    def _drain(self) -> None:
        while True:
            try:
                key, body, merges = self._queue.popleft()
            except IndexError:
                return
            with suppress(KitaruError, OSError):
                hints.write(self._store, key, self._merged(key, body) if merges else body, durable=False)

    def _merged(self, key: str, body: bytes) -> bytes:
        """A resumed execution notes what it did beside what was noted before it stopped."""
        with suppress(ValueError, TypeError, KeyError):
            before = self._store.read(key)
            if before is not None:
                now, earlier = json.loads(body), json.loads(before)
                calls = {call["call"]: call for call in (*earlier["calls"], *now["calls"])}
                return address.canonical_json({**now, "calls": list(calls.values())[:MOST_NOTED]})
        return body
