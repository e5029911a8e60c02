"""Lockfiles and edits for property tests: histories that writers could have made, and edits that may or may not fit."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from kitaru.core.commit import next_lockfile
from kitaru.core.renames import names_of
from kitaru.model.address import digest
from kitaru.model.lockfile import (
    AddVersion,
    Drop,
    Edit,
    Generation,
    Lockfile,
    Manage,
    Move,
    Protect,
    Rename,
    Retire,
    Untag,
)
from kitaru.model.route import Assignment, Protection

FLOWS = ("agent", "greeter", "other")
TAGS = ("default", "stable", "canary", "benchmark")
RULES = st.dictionaries(
    st.sampled_from(TAGS), st.builds(Protection, branch=st.sampled_from((None, "main", "side")), clean=st.booleans())
)
"""Who may move which route, as a manifest says it."""

FEW = settings(max_examples=40, deadline=None)
"""Histories take long to draw; forty of them are enough in every run."""

AT, BY = "2026-11-21T23:13:18.000000Z", "Ann"


def snapshot(flow: str, version: int) -> str:
    """The digest that stands for a version's snapshot."""
    return digest(f"{flow} {version}".encode())


def holder(flow: str, version: int, weight: int = 100) -> Assignment:
    return Assignment(version=version, snapshot=snapshot(flow, version), weight=weight)


def mint(flow: str, version: int, expects: int | None = None, deletions: int = 0) -> AddVersion:
    return AddVersion(
        kind="add_version",
        flow=flow,
        version=version,
        snapshot=snapshot(flow, version),
        table=digest(f"table {flow} {version}".encode()),
        expects=version - 1 if expects is None else expects,
        deletions=deletions,
    )


def move(flow: str, tag: str, *versions: int, expects: tuple[int, ...] | None = None, exclusive: bool = True) -> Move:
    return Move(
        kind="move",
        flow=flow,
        tag=tag,
        holders=tuple(holder(flow, version) for version in versions),
        exclusive=exclusive,
        expects=None if expects is None else tuple(holder(flow, version) for version in expects),
    )


def after(lock: Lockfile, *edits: Edit) -> Lockfile:
    """The state after edits that fit."""
    following = next_lockfile(lock, edits, at=AT, by=BY)
    assert isinstance(following, Lockfile), following
    return following


def entry_for(lock: Lockfile, edits: tuple[Edit, ...], following: Lockfile, /, **changed: Any) -> Generation:
    """The log entry that leads from one state to the next."""
    fields: dict[str, Any] = {
        "project": lock.project,
        "generation": following.generation,
        "parent": lock.entry,
        "write": "w",
        "at": AT,
        "by": BY,
        "edits": edits,
        "state_digest": following.state_digest,
    }
    return Generation(**{**fields, **changed})


@st.composite
def fitting(draw: st.DrawFn, lock: Lockfile) -> tuple[Edit, ...]:
    """Edits of one generation that fit ``lock``, each subject at most once."""
    edits: list[Edit] = []
    for flow in draw(st.lists(st.sampled_from(FLOWS), min_size=1, unique=True)):
        state = lock.flows.get(flow)
        latest = state.latest if state else 0
        live = state is not None and not state.retired
        if state is not None and live and draw(st.integers(0, 9)) == 0:
            edits.append(Retire(kind="retire", flow=flow, expects=latest))
            continue
        if state is None or draw(st.booleans()):
            latest += 1
            edits.append(mint(flow, latest, deletions=state.deletions if state else 0))
        elif draw(st.booleans()) or not live:
            edits.append(Manage(kind="manage", flow=flow))
        if draw(st.booleans()):
            applied = state.protect if state else {}
            edits.append(Protect(kind="protect", flow=flow, rules=draw(RULES), expects=applied))
        for tag in draw(st.lists(st.sampled_from(TAGS), unique=True)):
            route = state.routes.get(tag) if state is not None and live else None
            if route is not None and tag != "default" and draw(st.booleans()):
                edits.append(Untag(kind="untag", flow=flow, tag=tag, expects=route.holders))
                continue
            versions = draw(st.lists(st.integers(1, latest), min_size=1, max_size=3, unique=True))
            many = len(versions) > 1
            edits.append(
                Move(
                    kind="move",
                    flow=flow,
                    tag=tag,
                    holders=tuple(holder(flow, version) for version in sorted(versions)),
                    exclusive=not many,
                    expects=route.holders if route else None,
                    deletions=state.deletions if state else 0,
                    ends_hold=route is not None and route.hold is not None,
                    floor=draw(st.none() | st.sampled_from(("", "c" * 40))),
                )
            )
    return tuple(edits) if edits and draw(st.integers(0, 3)) else draw(renaming_or_dropping(lock)) or tuple(edits)


@st.composite
def renaming_or_dropping(draw: st.DrawFn, lock: Lockfile) -> tuple[Edit, ...]:
    """A rename, or a version's deletion, that fits ``lock``; nothing where neither can be."""
    live = [name for name, state in lock.flows.items() if not state.retired]
    free = [name for name in (*FLOWS, "fourth") if name not in lock.flows]
    if not live:
        return ()
    name = draw(st.sampled_from(live))
    state = lock.flows[name]
    free += sorted(names_of(lock.flows, name) - {name})
    if free and draw(st.booleans()):
        return (Rename(kind="rename", flow=draw(st.sampled_from(free)), was=name, expects=state.latest),)
    held = {version for route in state.routes.values() if route.exclusive for version in route.versions}
    droppable = sorted(set(range(1, state.latest + 1)) - held)
    if not droppable:
        return ()
    version = draw(st.sampled_from(droppable))
    table = digest(f"{state.table} without {version}".encode())
    return (Drop(kind="drop", flow=name, version=version, table=table, expects=state.table),)


@st.composite
def histories(draw: st.DrawFn, most: int = 3) -> tuple[Lockfile, ...]:
    """States that follow one another, the empty one first."""
    lock = Lockfile(project="research")
    states = [lock]
    for number in range(draw(st.integers(0, most))):
        edits = draw(fitting(lock))
        if not edits:
            continue
        lock = after(lock, *edits).model_copy(update={"entry": digest(str(number).encode())})
        states.append(lock)
    return tuple(states)


locks = histories().map(lambda states: states[-1])

ANY_EDIT: st.SearchStrategy[Edit] = st.one_of(
    st.builds(mint, st.sampled_from(FLOWS), st.integers(1, 4), st.integers(0, 4)),
    st.builds(
        lambda flow, tag, version, expects: move(flow, tag, version, expects=expects),
        st.sampled_from(FLOWS),
        st.sampled_from(TAGS),
        st.integers(1, 4),
        st.none() | st.tuples(st.integers(1, 4)),
    ),
    st.builds(
        lambda flow, tag, version: Untag(kind="untag", flow=flow, tag=tag, expects=(holder(flow, version),)),
        st.sampled_from(FLOWS),
        st.sampled_from(TAGS),
        st.integers(1, 4),
    ),
    st.builds(lambda flow: Manage(kind="manage", flow=flow), st.sampled_from(FLOWS)),
    st.builds(
        lambda flow, expects: Retire(kind="retire", flow=flow, expects=expects),
        st.sampled_from(FLOWS),
        st.integers(0, 4),
    ),
    st.builds(
        lambda flow, rules, expects: Protect(kind="protect", flow=flow, rules=rules, expects=expects),
        st.sampled_from(FLOWS),
        RULES,
        RULES,
    ),
)
