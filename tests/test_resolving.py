"""From what a user types to a version: every way to miss says what there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.renames import names_of
from kitaru.core.resolving import Resolved, in_table, resolve, version_words
from kitaru.errors import KitaruSelectorError
from kitaru.model.lockfile import Drop, FlowState, Lockfile, Move, Release, Rename, Retire, VersionTable
from kitaru.model.route import ByTag, ByVersion, selector
from tests.lock_strategies import FEW, FLOWS, TAGS, after, holder, locks, mint, move, snapshot

EMPTY = Lockfile(project="research")
FOUR = after(EMPTY, mint("agent", 1), move("agent", "default", 1))
for _number in (2, 3, 4):
    FOUR = after(FOUR, mint("agent", _number))
FOUR = after(FOUR, move("agent", "benchmark", 1, 2, exclusive=False), move("agent", "canary", 3))


def table() -> VersionTable:
    made = VersionTable(flow="agent")
    for version in (1, 2, 3, 4):
        made = made.adding(Release(version=version, snapshot=snapshot("agent", version), source="s", at="t", by="Ann"))
    return made


def refusal(lock: Lockfile, flow: str, tag: str | None = None, version: int | None = None) -> str:
    with pytest.raises(KitaruSelectorError) as refused:
        resolve(lock, flow, selector(tag=tag, version=version))
    assert refused.value.hint
    return f"{refused.value.message}\n{refused.value.hint}"


@FEW
@given(
    locks,
    st.sampled_from(FLOWS) | st.text(max_size=20),
    st.sampled_from(TAGS) | st.text(max_size=20),
    st.integers(-3, 9),
    st.booleans(),
)
def test_it_resolves_or_says_why_not(lock: Lockfile, flow: str, tag: str, version: int, by_tag: bool) -> None:
    """No lockfile and nothing that is typed leads to any other error than a selector's."""
    try:
        found = resolve(lock, flow, ByTag(tag) if by_tag else ByVersion(version))
    except KitaruSelectorError as refused:
        assert refused.hint
        return
    # By version a removed flow is still there.
    state = lock.flows.get(flow) if not by_tag else lock.flow(flow)
    assert state is not None
    if isinstance(found, Resolved):
        assert found.snapshot in {snapshot(name, found.version) for name in names_of(lock.flows, flow)}
        assert found.version <= state.latest
    else:
        assert not by_tag
        assert found == state


def test_each_selector_leads_to_its_version() -> None:
    """Nothing is default, a tag leads where it points, a number is itself."""
    assert resolve(FOUR, "agent", selector()) == Resolved("agent", 1, snapshot("agent", 1), "default")
    assert resolve(FOUR, "agent", selector(tag="canary")) == Resolved("agent", 3, snapshot("agent", 3), "canary")
    assert resolve(FOUR, "agent", selector(version=4)) == Resolved("agent", 4, snapshot("agent", 4))


def test_a_version_that_no_route_holds_is_found_in_the_table() -> None:
    """The lockfile knows the newest version and the routed ones; any other is read from the version table."""
    routed = after(FOUR, move("agent", "benchmark", 1, expects=(1, 2), exclusive=False))
    state = resolve(routed, "agent", ByVersion(2))
    assert isinstance(state, FlowState)
    assert in_table(table(), state, 2) == Resolved("agent", 2, snapshot("agent", 2))
    with pytest.raises(KitaruSelectorError, match="no version 9; it has v1 to v4"):
        in_table(table(), state, 9)


def test_no_deployments_yet_is_said_directly() -> None:
    """A flow that was never deployed: the project is named, and how to deploy."""
    said = refusal(EMPTY, "agent")
    assert "agent has no deployments yet in project research" in said
    assert "kitaru apply" in said


def test_a_name_that_is_nearly_right_is_suggested() -> None:
    """A typing mistake in the flow or the tag is answered with the nearest name."""
    assert "did you mean 'agent'?" in refusal(FOUR, "agnet")
    assert "did you mean 'canary'?" in refusal(FOUR, "agent", tag="canray")


def test_no_default_route_says_what_else_there_is() -> None:
    """Deployments exist, none is default: use --tag or --version, or route default."""
    lock = after(EMPTY, mint("agent", 1), move("agent", "canary", 1))
    said = refusal(lock, "agent")
    assert "agent is not routed as default; it has v1" in said
    assert "--tag canary" in said
    assert "--version 1" in said


def test_an_ambiguous_shared_tag_is_refused() -> None:
    """A label on two versions leads nowhere; the versions are listed. On one version it is as good as a route."""
    said = refusal(FOUR, "agent", tag="benchmark")
    assert "benchmark of agent is ambiguous: it is a shared label on v1, v2" in said
    assert "--version 2" in said
    one = after(FOUR, move("agent", "benchmark", 2, expects=(1, 2), exclusive=False))
    found = resolve(one, "agent", ByTag("benchmark"))
    assert isinstance(found, Resolved)
    assert found.version == 2


def test_unknown_tags_and_versions_list_what_there_is() -> None:
    """An unknown tag lists the tags, an unknown version the versions."""
    assert "its tags: benchmark, canary, default" in refusal(FOUR, "agent", tag="zzz")
    state = resolve(FOUR, "agent", ByVersion(7))
    assert isinstance(state, FlowState)
    rows = [Release(version=one, snapshot="s", source="s", at="", by="") for one in (1, 2, 3, 5)]
    table = VersionTable(flow="agent", releases=tuple(rows)).deleting(2, at="2026-11-22T09:00:00Z", by="Ann")
    with pytest.raises(KitaruSelectorError, match="agent has no version 7; it has v1, v3, v5"):
        in_table(table, state, 7)
    with pytest.raises(KitaruSelectorError, match="v2 of agent was deleted by Ann"):
        in_table(table, state, 2)
    assert version_words((1, 2, 3, 7)) == "v1 to v3, v7"


def test_a_retired_flow_has_versions_and_no_routes() -> None:
    """After a prune a tag leads nowhere and says why; a version is found as before."""
    lock = after(FOUR, Retire(kind="retire", flow="agent", expects=4))
    assert "agent was removed from project" in refusal(lock, "agent")
    assert "kitaru invoke agent --version 4" in refusal(lock, "agent", tag="canary")
    found = resolve(lock, "agent", ByVersion(4))
    assert isinstance(found, Resolved)
    assert found.version == 4
    assert resolve(lock, "agent", ByVersion(1)) == lock.flows["agent"]


DIVIDED = after(
    FOUR,
    Move(
        kind="move", flow="agent", tag="beta", holders=(holder("agent", 1, 90), holder("agent", 2, 10)), exclusive=True
    ),
)


def test_a_divided_route_is_drawn_from_by_a_key() -> None:
    """The same key draws the same version, and what it was drawn from is told."""
    found = resolve(DIVIDED, "agent", ByTag("beta"), key="order 7")
    assert isinstance(found, Resolved)
    assert found.weights == ((1, 90), (2, 10))
    assert found == resolve(DIVIDED, "agent", ByTag("beta"), key="order 7")
    assert found.snapshot == snapshot("agent", found.version)


def test_a_divided_route_needs_a_key() -> None:
    """Without anything to draw by, the answer says how the route is divided."""
    assert "v1 90 %, v2 10 %" in refusal(DIVIDED, "agent", "beta")


def test_a_renamed_flow_says_its_new_name() -> None:
    """Who calls a flow by its old name learns the new one; by version it is still there."""
    lock = after(FOUR, Rename(kind="rename", flow="researcher", was="agent", expects=4))
    assert "agent was renamed to researcher" in refusal(lock, "agent")
    assert isinstance(resolve(lock, "researcher", ByTag("canary")), Resolved)
    assert isinstance(resolve(lock, "agent", ByVersion(4)), Resolved)


def test_a_deleted_version_is_not_resolved() -> None:
    """Neither by the lockfile alone, where it is the highest, nor by the version table."""
    table_left = table().deleting(4, at="2026-11-22T10:00:00.000000Z", by="Bob")
    state = FOUR.flows["agent"]
    lock = after(FOUR, Drop(kind="drop", flow="agent", version=4, table=table_left.digest, expects=state.table))
    found = resolve(lock, "agent", ByVersion(4))
    assert isinstance(found, FlowState)
    with pytest.raises(KitaruSelectorError, match="v4 of agent was deleted by Bob at 2026-11-22T10:00:00Z"):
        in_table(table_left, found, 4)


def test_tag_and_version_together_are_refused() -> None:
    """A caller means one or the other."""
    with pytest.raises(ValueError, match="not both"):
        selector(tag="stable", version=2)
