"""Notes of a running flow on their way into its journal, and artifacts on their way out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kitaru.errors import KitaruUsageError, KitaruValueError
from kitaru.masking import mask_tree
from kitaru.model.address import EXEC_ID
from kitaru.model.event import ArtifactSaved, CheckpointCompleted, CheckpointFailed, CheckpointStarted, MetadataLogged
from kitaru.model.execution import Artifact, Notes, artifact_id, merge, split_artifact_id
from kitaru.run import journal
from kitaru.run.timeouts import uninterrupted
from kitaru.store.port import Store
from kitaru.values import stored
from kitaru.values.blocks import as_text
from kitaru.values.codec import encode
from kitaru.values.typed_json import Unstorable, plain, to_tree, type_name

if TYPE_CHECKING:
    from kitaru.run.state import RunState

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
            text = json.dumps(plain(to_tree(value)), ensure_ascii=False, allow_nan=False, default=as_text)
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
    notes, names = Notes(), dict[str, str]()
    borrowed: dict[str, dict[str | None, str]] = {}
    for event in journal.read_events(entries, exec_id):
        if isinstance(event, MetadataLogged):
            notes.log(event)
        elif isinstance(event, ArtifactSaved):
            notes.save(event)
        elif isinstance(event, (CheckpointStarted, CheckpointCompleted, CheckpointFailed)):
            names[event.call] = event.name
            if isinstance(event, CheckpointCompleted) and event.cached_from:
                origin, _, call = event.cached_from.partition("/")
                borrowed.setdefault(origin, {})[call] = event.call
    return notes.artifacts(exec_id, names), borrowed


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
