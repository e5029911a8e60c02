"""A project with a long past, made in seconds: many versions of every flow, and a log of many generations."""

from __future__ import annotations

from kitaru.core.commit import next_lockfile
from kitaru.model import address
from kitaru.model.address import canonical_json, digest
from kitaru.model.lockfile import FlowState, Generation, Lockfile, Move, Release, VersionTable
from kitaru.model.route import Assignment, Route
from kitaru.release.releases import FULL_STATE_BYTES, FULL_STATE_EVERY
from kitaru.store.objects import put_object, read_table
from kitaru.store.port import Store

AT = "2026-01-01T00:00:00.000000Z"
BY = "A long past"


def lengthen(store: Store, lock: Lockfile, *, versions: int, generations: int) -> Lockfile:
    """Give every flow of ``lock`` (generation 1) so many versions, of which its own is the newest, and rewrite the log.

    Generation 1 then holds the whole state, and every further one moves the route ``stable`` of one flow: each is what
    a writer would have written, and follows the one before it. The newest state; ``kitaru.lock`` tells it.
    """
    project = lock.project
    flows = {name: _older(store, project, name, state, versions) for name, state in lock.flows.items()}
    store.remove(address.generation(project, 1))
    lock = Lockfile(project=project, generation=1, flows=flows)
    written = _Digests(flows)
    first = Generation(
        project=project,
        generation=1,
        parent="",
        write="w",
        at=AT,
        by=BY,
        edits=(),
        state_digest=written.digest(),
        state=flows,
    )
    lock = _append(store, lock, first)
    names = sorted(flows)
    for number in range(2, generations + 1):
        name = names[number % len(names)]
        edit = _next_move(name, lock.flows[name])
        following = next_lockfile(lock, [edit], at=AT, by=BY, via="tag")
        assert isinstance(following, Lockfile), following
        written.change(name, following.flows[name])
        whole = written.size <= FULL_STATE_BYTES or number % FULL_STATE_EVERY == 0
        entry = Generation(
            project=project,
            generation=number,
            parent=lock.entry,
            write=f"w{number}",
            at=AT,
            by=BY,
            verb="tag",
            edits=(edit,),
            state_digest=written.digest(),
            state=following.flows if whole else None,
        )
        lock = _append(store, following, entry)
    hint = lock.model_copy(update={"checksum": lock.state_digest})
    store.overwrite(address.lock_hint(project), hint.canonical())
    return lock


def _append(store: Store, lock: Lockfile, entry: Generation) -> Lockfile:
    body = entry.canonical()
    store.create(address.generation(lock.project, entry.generation), body)
    return lock.model_copy(update={"entry": digest(body)})


def _older(store: Store, project: str, name: str, state: FlowState, versions: int) -> FlowState:
    newest = read_table(store, project, state.table, name).releases[-1]
    rows = [
        Release(
            version=number,
            snapshot=digest(f"{name} {number}".encode()),
            source=digest(f"source {number}".encode()),
            at=AT,
            by=BY,
            commit=newest.commit,
        )
        for number in range(1, versions)
    ]
    table = VersionTable(flow=name, releases=(*rows, newest.model_copy(update={"version": versions})))
    held = {"version": versions, "snapshot": newest.snapshot}
    routes = {
        tag: route.model_copy(update={"holders": tuple(holder.model_copy(update=held) for holder in route.holders)})
        for tag, route in state.routes.items()
    }
    stable = Route(holders=(Assignment(**held),), at=AT, by=BY, generation=1)
    return state.model_copy(
        update={
            "latest": versions,
            "table": put_object(store, project, table.canonical()),
            "routes": {**routes, "stable": stable},
        }
    )


def _next_move(name: str, state: FlowState) -> Move:
    before = state.routes["stable"].holders
    version = before[0].version % state.latest + 1
    snapshot = state.snapshot if version == state.latest else digest(f"{name} {version}".encode())
    after = (Assignment(version=version, snapshot=snapshot),)
    return Move(kind="move", flow=name, tag="stable", holders=after, managed=False, expects=before)


class _Digests:
    """The digest of one state after the other, where one flow changes at a time."""

    def __init__(self, flows: dict[str, FlowState]) -> None:
        self._parts = {name: self._part(name, flows[name]) for name in sorted(flows)}

    def change(self, name: str, state: FlowState) -> None:
        """The flow is in this state now."""
        self._parts[name] = self._part(name, state)

    def digest(self) -> str:
        """As ``Lockfile.state_digest``."""
        return digest(b"{" + b",".join(self._parts.values()) + b"}\n")

    @property
    def size(self) -> int:
        """Bytes of the state, as it is written."""
        return sum(map(len, self._parts.values())) + len(self._parts) + 2

    def _part(self, name: str, state: FlowState) -> bytes:
        return canonical_json({name: state.data()})[1:-2]
