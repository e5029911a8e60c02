"""Why each call of an execution was taken from the cache, or was not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kitaru.core.cache_key import Noted, explain_miss
from kitaru.model import address
from kitaru.model.execution import CheckpointCall, Execution
from kitaru.ports import Store


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
