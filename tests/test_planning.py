"""The pure heart of plan: manifest, snapshots and lockfile in, decisions and problems out, and nothing else touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.commit import next_lockfile
from kitaru.core.planning import Desired, Draft, Facts, draft_plan
from kitaru.core.review import tampered
from kitaru.errors import Problem
from kitaru.model.lockfile import AddVersion, Lockfile, Move, Release, VersionTable
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.plan import Plan
from kitaru.model.route import Protection, RouteTarget, parse_target
from kitaru.model.snapshot import Commit, LocalStack, NamedStack, Snapshot
from tests.lock_strategies import AT, BY, FEW, FLOWS, RULES, TAGS, holder, locks

STACK = NamedStack(name="local", spec=LocalStack(type="local"))
EMPTY = Lockfile(project="research")
COMMIT = Commit(sha="c" * 40)


def place(message: str, *path: Any, hint: str = "") -> Problem:
    return Problem(message, file="/".join(map(str, path)), hint=hint)


def built(flow: str, content: str) -> Snapshot:
    return Snapshot(flow=flow, target="flows/work.py:agent", source=content.ljust(64, "0"), stack=STACK)


def desired(flow: str = "agent", content: str = "a", **routes: Any) -> Desired:
    wishes: dict[str, RouteTarget] = {tag: parse_target(wish) for tag, wish in routes.items()}
    spec = FlowSpec.model_construct(**{**FlowSpec(target="flows/work.py:agent").__dict__, "routes": wishes})
    return Desired(name=flow, spec=spec, snapshot=built(flow, content))


def drafted(
    lock: Lockfile,
    *flows: Desired,
    tables: dict[str, VersionTable] | None = None,
    prune: bool = False,
    protect: dict[str, Protection] | None = None,
) -> Draft:
    return draft_plan(
        facts(
            lock,
            manifest().model_copy(update={"protect": protect or {}}),
            desired=tuple(replace(flow, table=(tables or {}).get(flow.name)) for flow in flows),
            only=tuple(flow.name for flow in flows),
            prune=prune,
        )
    )


def facts(lock: Lockfile, declared: Manifest, **given: Any) -> Facts:
    return Facts(**{"desired": (), **given}, manifest=declared, place=place, commit=COMMIT, lock=lock)


def manifest(*flows: str) -> Manifest:
    return Manifest(
        kitaru=1, project="research", flows={flow: FlowSpec(target="flows/work.py:agent") for flow in flows}
    )


def carried_out(lock: Lockfile, draft: Draft) -> Lockfile:
    assert draft.problems == []
    following = next_lockfile(lock, draft.edits, at=AT, by=BY)
    assert isinstance(following, Lockfile), following
    return following


def as_plan(draft: Draft) -> Plan:
    return Plan(
        project="research",
        store="file:///s",
        base=0,
        base_entry="",
        manifest="m",
        commit=COMMIT,
        tree="t",
        flows=tuple(draft.flows),
        edits=tuple(draft.edits),
    )


def routes(lock: Lockfile, flow: str = "agent") -> dict[str, tuple[int, ...]]:
    return {tag: route.versions for tag, route in lock.flows[flow].routes.items()}


wishes = st.dictionaries(
    st.sampled_from(TAGS),
    st.just("head") | st.integers(1, 4) | st.lists(st.integers(1, 4) | st.just("head"), min_size=1, unique=True),
)


def known_tables(lock: Lockfile) -> dict[str, VersionTable]:
    """The tables that a store with this lockfile would hold."""
    return {
        flow: VersionTable(
            flow=flow,
            releases=tuple(
                Release(version=n, snapshot=holder(flow, n).snapshot, source="s", at=AT, by=BY)
                for n in range(1, state.latest + 1)
            ),
        )
        for flow, state in lock.flows.items()
    }


@FEW
@given(locks, st.sampled_from(FLOWS), st.sampled_from("abc"), wishes, st.booleans(), RULES)
def test_what_is_carried_out_is_not_planned_again(
    lock: Lockfile, flow: str, content: str, asked: dict[str, Any], prune: bool, protect: dict[str, Protection]
) -> None:
    """From any state, any wishes: the plan's edits fit that state, do what it shows, and leave nothing to do."""
    tables = known_tables(lock)
    want = desired(flow, content, **asked)
    draft = drafted(lock, want, tables=tables, prune=prune, protect=protect)
    if draft.problems:
        assert all(problem.file.startswith(f"flows/{flow}/routes/") for problem in draft.problems)
        return
    plan = as_plan(draft)
    assert Plan.parse(plan.canonical()) == plan
    assert tampered(Plan.parse(plan.redacted.canonical()), plan) == ()
    following = carried_out(lock, draft)
    assert following.flows[flow].protect == protect
    tables = {**tables, **_grown(tables, draft, flow)}
    again = drafted(following, want, tables=tables, prune=prune, protect=protect)
    assert (again.edits, again.problems) == ([], [])
    assert all(plan.action == "keep" and not plan.build for plan in again.flows)


def _grown(tables: dict[str, VersionTable], draft: Draft, flow: str) -> dict[str, VersionTable]:
    table = tables.get(flow, VersionTable(flow=flow))
    for plan in draft.flows:
        if plan.build:
            fresh = Release(version=plan.build.version, snapshot=plan.build.snapshot_digest, source="s", at=AT, by=BY)
            table = table.adding(fresh)
    return {flow: table}


@FEW
@given(locks, st.sampled_from(FLOWS), wishes)
def test_other_flows_are_left_alone(lock: Lockfile, flow: str, asked: dict[str, Any]) -> None:
    """A plan of one flow has no edit of another."""
    assert {edit.flow for edit in drafted(lock, desired(flow, **asked), tables=known_tables(lock)).edits} <= {flow}


def test_head_and_number_mean_the_same_on_an_empty_store() -> None:
    """``1`` and ``head`` lead to the version that the first apply builds."""
    lock = carried_out(EMPTY, drafted(EMPTY, desired(default=1, canary="head", mark=[1, "head"])))
    assert routes(lock) == {"default": (1,), "canary": (1,), "mark": (1,)}


def test_a_number_stays_and_head_goes_on() -> None:
    """New content moves head and leaves numbers where they are."""
    lock = carried_out(EMPTY, drafted(EMPTY, desired(default=1, canary="head")))
    lock = carried_out(lock, drafted(lock, desired(content="b", default=1, canary="head")))
    assert routes(lock) == {"default": (1,), "canary": (2,)}


def test_each_move_has_its_reason() -> None:
    """The plan says why a route moves."""
    draft = drafted(EMPTY, desired(stable=1, canary="head"))
    assert {move.tag: move.reason for move in draft.flows[0].moves} == {
        "default": "the first version gets default",
        "stable": "the manifest says so",
        "canary": "head is the version that this commit builds",
    }


@pytest.mark.parametrize("wish", [2, [1, 2], 99])
def test_a_number_beyond_what_is_built(wish: Any) -> None:
    """A version that this apply does not build either is a problem at that route, and makes no edit of it."""
    draft = drafted(EMPTY, desired(default="head", stable=wish))
    (problem,) = draft.problems
    assert "has no version yet, and this apply builds v1" in problem.message
    assert not [edit for edit in draft.edits if isinstance(edit, Move) and edit.tag == "stable"]


def test_default_as_a_label_is_a_problem() -> None:
    """default: [1] is refused where it stands."""
    (problem,) = drafted(EMPTY, desired(default=[1])).problems
    assert "default is always exclusive" in problem.message
    assert problem.file == "flows/agent/routes/default"


def test_needs_nothing_when_nothing_changed() -> None:
    """Known content and known pins are told from the lockfile alone; new content and other pins are not."""
    lock = carried_out(EMPTY, drafted(EMPTY, desired(default=1)))
    lock = carried_out(lock, drafted(lock, desired(content="b", default="head")))
    state = lock.flows["agent"]
    assert desired(content="b", default=2).is_told_by(state)
    assert not desired(content="c", default=2).is_told_by(state)
    assert not desired(content="b", stable=1).is_told_by(state)
    assert desired(content="b", stable=9).is_told_by(state)


def test_content_of_an_old_version_is_that_version() -> None:
    """Going back to content that was built before builds nothing; the version table tells its number."""
    lock = carried_out(EMPTY, drafted(EMPTY, desired(default="head")))
    first = lock.flows["agent"].snapshot
    lock = carried_out(lock, drafted(lock, desired(content="b", default="head")))
    lock = carried_out(lock, drafted(lock, desired(content="c", default="head")))
    table = VersionTable(flow="agent", releases=(Release(version=1, snapshot=first, source="s", at=AT, by=BY),))
    draft = drafted(lock, desired(default="head"), tables={"agent": table})
    assert draft.flows[0].build is None
    assert routes(carried_out(lock, draft)) == {"default": (1,)}


def test_absent_flows_are_listed_and_pruned_only_when_asked() -> None:
    """A flow that the manifest no longer names is unmanaged; with prune it is retired, and shown with its routes."""
    lock = carried_out(EMPTY, drafted(EMPTY, desired(), desired("greeter")))
    draft = draft_plan(facts(lock, manifest("agent")))
    assert (draft.edits, draft.unmanaged) == ([], ["greeter (once in the manifest; --prune removes it)"])
    draft = draft_plan(facts(lock, manifest("agent"), prune=True))
    assert [edit.kind for edit in draft.edits] == ["retire"]
    assert [move.after for move in draft.flows[0].moves] == [None]
    draft = draft_plan(facts(lock, manifest(), prune=True))
    assert (draft.edits, len(draft.problems)) == ([], 1)


def two_of_the_same() -> tuple[Lockfile, str]:
    """``default: head`` applied at v1; then somebody built the same content once more, as v2."""
    lock = carried_out(EMPTY, drafted(EMPTY, desired(default="head", mark=["head"])))
    content = lock.flows["agent"].snapshot
    mint = AddVersion(
        kind="add_version", flow="agent", version=2, snapshot=content, table="t", managed=False, expects=1
    )
    following = next_lockfile(lock, [mint], at=AT, by=BY)
    assert isinstance(following, Lockfile)
    return following, content


def test_head_stays_where_it_has_this_content_already() -> None:
    """A newer number of the same content moves no route that follows head; a new route gets the newest."""
    lock, _ = two_of_the_same()
    draft = drafted(lock, desired(default="head", mark=["head"]))
    assert (draft.edits, draft.flows[0].action, draft.flows[0].version) == ([], "keep", 2)
    draft = drafted(lock, desired(default="head", mark=[1, "head"], canary="head", beta={1: 90, "head": 10}))
    assert routes(carried_out(lock, draft)) == {"default": (1,), "mark": (1,), "canary": (2,), "beta": (1, 2)}


def test_head_follows_new_content_all_the_same() -> None:
    """Other content is another version, whatever there is twice."""
    lock, _ = two_of_the_same()
    lock = carried_out(lock, drafted(lock, desired(content="b", default="head", mark=["head"])))
    assert routes(lock) == {"default": (3,), "mark": (3,)}


@pytest.mark.parametrize(("before", "after"), [([1], 1), (1, [1])])
def test_a_label_becomes_a_route_and_the_other_way_round(before: Any, after: Any) -> None:
    """[1] and 1 lead to the same version and are not the same: the plan says so, guards it, and apply does it."""
    lock = carried_out(EMPTY, drafted(EMPTY, desired(default=1, stable=before)))
    draft = drafted(lock, desired(default=1, stable=after))
    (move,) = draft.flows[0].moves
    assert (move.converts, move.adopts, move.exclusive) == (True, False, after == 1)
    assert move.reason == f"the manifest makes it {'an exclusive route' if after == 1 else 'a shared label'}"
    route = carried_out(lock, draft).flows["agent"].routes["stable"]
    assert (route.versions, route.exclusive) == ((1,), after == 1)
