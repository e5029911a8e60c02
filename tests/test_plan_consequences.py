"""What the move of a route means for its callers, whether the version that it comes to is new or long there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kitaru.cli.views.plan import plan_lines, plan_markdown
from kitaru.core.consequences import Snapshots, Stored, consequences, passages
from kitaru.core.review import tampered, unreviewed
from kitaru.errors import KitaruIntegrityError
from kitaru.manifest.inputs import check
from kitaru.model import address
from kitaru.model.plan import Consequence, FlowPlan, Plan, RouteMove
from kitaru.model.route import Assignment
from kitaru.model.snapshot import LocalStack, NamedStack, Snapshot
from kitaru.store.port import Store
from tests.applying import new_version, routed, routes_of
from tests.repository import Repository, Watched, kitaru

# --- sentences -------------------------------------------------------------------------------------------------------

INTEGER, STRING = {"type": "integer"}, {"type": "string"}


def version(*required: str, given: dict[str, Any] | None = None, **optional: Any) -> Snapshot:
    """A snapshot whose flow takes these strings, and what else ``optional`` says."""
    schema = {
        "type": "object",
        "properties": {**dict.fromkeys(required, STRING), **optional},
        "required": list(required),
        "additionalProperties": False,
    }
    return Snapshot(
        flow="agent",
        target="work.py:agent",
        source="1" * 64,
        stack=NamedStack(name="local", spec=LocalStack(type="local")),
        input_schema=schema,
        inputs=given or {},
    )


def holders(**weights: int) -> tuple[Assignment, ...]:
    """``holders(v1=50, v2=50)``."""
    return tuple(Assignment(version=int(name[1:]), snapshot=name, weight=weight) for name, weight in weights.items())


def moved(
    tag: str, before: tuple[Assignment, ...] | None, after: tuple[Assignment, ...] | None, **more: Any
) -> RouteMove:
    return RouteMove(tag=tag, before=before, after=after, **more)


V1, V2 = holders(v1=100), holders(v2=100)
VERSIONS: Snapshots = {"v1": version("topic"), "v2": version("topic", "n"), "v3": version("topic", k=INTEGER)}


def told(
    *moves: RouteMove, versions: Snapshots = VERSIONS, stored: tuple[dict[str, Any], ...] = ()
) -> list[tuple[str, bool, str]]:
    flow = FlowPlan(flow="agent", action="update", moves=moves)
    inputs = [Stored(f"ex-{number}", one) for number, one in enumerate(stored)]
    found = consequences(flow, [], inputs, check, versions)
    return [(one.kind, one.severe, one.text) for one in found]


N_MISSING = "breaks callers: n added, required (string)"


def test_a_route_that_comes_to_other_inputs_breaks_its_callers() -> None:
    """It is said of the route, of the versions that it leaves and comes to, whatever was built."""
    assert told(moved("default", V1, V2)) == [("breaking_inputs", True, f"default: v1 → v2 {N_MISSING}")]
    assert told(moved("default", V2, V1)) == [("breaking_inputs", True, "default: v2 → v1 breaks callers: n removed")]


def test_routes_that_make_the_same_move_share_a_sentence() -> None:
    """One sentence for each pair of versions, with all routes that lead from one to the other."""
    moves = moved("default", V1, V2), moved("stable", V1, V2)
    assert told(*moves) == [("breaking_inputs", True, f"default, stable: v1 → v2 {N_MISSING}")]


@pytest.mark.parametrize(
    "quiet",
    [
        moved("canary", None, V2),
        moved("canary", V1, None),
        moved("default", V1, V1),
        moved("default", V1, holders(v3=100)),
        moved("both", holders(v1=100, v3=100), V2, exclusive=False),
        moved("both", V1, holders(v1=100, v2=100), exclusive=False),
        moved("both", holders(v1=100, v3=100), V2, exclusive=True, converts=True),
    ],
    ids=["new", "gone", "adopted", "compatible", "label of two before", "label of two after", "no label any more"],
)
def test_who_had_no_callers_breaks_none(quiet: RouteMove) -> None:
    """A new route, one that goes, one that stays, and a label that can't be called break nobody."""
    assert told(quiet) == []


def test_a_divided_route_breaks_those_who_come_to_another_version() -> None:
    """Callers go from the versions whose share falls to those whose share grows, and nowhere else."""
    (text,) = [one[2] for one in told(moved("default", V1, holders(v1=50, v2=50)))]
    assert text == f"default: v1 → v2 {N_MISSING}"
    (text,) = [one[2] for one in told(moved("default", holders(v1=90, v2=10), V2))]
    assert text == f"default: v1 → v2 {N_MISSING}"
    flow = FlowPlan(
        flow="agent", action="update", moves=(moved("default", holders(v1=50, v2=50), holders(v1=50, v3=50)),)
    )
    assert [(one.left.version, one.reached.version) for one in passages(flow)] == [(2, 3)]


def test_what_a_version_fills_in_need_not_be_given() -> None:
    """A required parameter among the representative inputs breaks nobody; one that is no longer among them does."""
    filled = {**VERSIONS, "v2": version("topic", "n", given={"n": "one"}), "v3": version("topic", "n")}
    assert told(moved("default", V1, V2), versions=filled) == []
    assert told(moved("default", V2, holders(v3=100)), versions=filled, stored=({"topic": "a", "n": "one"},)) == [
        ("breaking_inputs", True, "default: v2 → v3 breaks callers: n is now required"),
        ("stored_inputs", True, "default: v3 would refuse the last stored input, such as that of ex-0"),
    ]


def test_stored_inputs_that_were_refused_all_along_say_nothing() -> None:
    """Only what the version that a route leaves takes is tried on the one that it comes to."""
    stored = ({"topic": "a"}, {"topic": "b", "n": "1"}, {"other": "c"})
    assert told(moved("default", V1, V2), stored=stored)[1] == (
        "stored_inputs",
        True,
        "default: v2 would refuse the last stored input that v1 takes, such as that of ex-0",
    )
    assert told(moved("default", V1, holders(v3=100)), stored=stored[:1]) == [
        ("stored_inputs", False, "default: v3 takes the last stored input")
    ]


def test_many_routes_and_changes_fit_a_line() -> None:
    """The first five are named, and how many more there are."""
    versions = {**VERSIONS, "v2": version("topic", *(f"n{number}" for number in range(9)))}
    ((_, _, text),) = told(*(moved(f"tag-{number}", V1, V2) for number in range(8)), versions=versions)
    assert text.startswith("tag-0, tag-1, tag-2, tag-3, tag-4, and 3 more: v1 → v2 breaks callers: n0 added")
    assert text.endswith("; and 4 more")


# --- plans -----------------------------------------------------------------------------------------------------------


def asks_for_n(repository: Repository, routes: str) -> None:
    """The next commit's flow wants ``n`` as well."""
    repository.change("flows/work.py", "def agent(topic: str)", "def agent(topic: str, n: int)")
    repository.manifest(routed(routes))
    repository.commit()


def kinds(plan: Plan) -> list[tuple[str, bool]]:
    return [(one.kind, one.severe) for flow in plan.flows for one in flow.consequences]


@pytest.fixture
def canary(repository: Repository) -> Repository:
    """default leads to v1, which was called once; canary to v2, which asks for more."""
    repository.apply()
    repository.client().deployments.invoke("agent", {"topic": "secret word"}).wait(60)
    asks_for_n(repository, "{default: 1, canary: head}")
    return repository


@pytest.mark.parametrize("routes", ["{default: 2, canary: head}", "{default: {1: 50, 2: 50}, canary: head}"])
def test_a_promotion_says_what_it_breaks(canary: Repository, routes: str) -> None:
    """The canary broke nobody. The promotion to the existing version breaks callers of default, and says so first."""
    assert kinds(canary.plan()) == []
    quiet = plan_markdown(canary.plan())
    assert ":warning:" not in quiet
    assert "n added, required (integer) (breaking for callers once their route leads there)" in quiet
    assert "v1 → v2, breaking for callers once their route leads there" in "\n".join(plan_lines(canary.plan()))
    canary.apply()
    canary.manifest(routed(routes))
    canary.commit()
    plan = canary.plan()
    assert not plan.builds
    assert kinds(plan) == [("breaking_inputs", True), ("stored_inputs", True)]
    text = "default: v1 → v2 breaks callers: n added, required (integer)"
    assert f"> :warning: **breaking** `agent`: {text}" in plan_markdown(plan)
    for shown in (plan_markdown(plan), "\n".join(plan_lines(plan)), plan.canonical().decode()):
        assert text in shown
        assert "default: v2 would refuse the last stored input, such as that of ex-" in shown
        assert "secret word" not in shown


def test_a_build_that_nothing_leads_to_breaks_nobody(repository: Repository) -> None:
    """Its changes are listed, and no warning heads the comment; no execution is read for it."""
    repository.apply()
    asks_for_n(repository, "{default: 1}")
    client = repository.client()
    client.session.executions = None  # type: ignore[assignment]
    plan = client.plan()
    assert [build.version for _, build in plan.builds] == [2]
    assert kinds(plan) == []
    assert ":warning:" not in plan_markdown(plan)


def test_a_plan_reads_only_what_a_moving_route_meets(canary: Repository) -> None:
    """One snapshot for each version that the route leaves or comes to, of six that there are; none is read twice."""
    canary.apply()
    for word in ("third", "fourth", "fifth", "sixth"):
        new_version(canary, word)
        canary.apply()
    canary.manifest(routed("{default: 2, stable: 2, canary: 6}"))
    canary.commit()
    seen: list[Watched] = []

    def watched(store: Store) -> Store:
        seen.append(Watched(store))
        return seen[-1]

    plan = canary.client(wrap=watched).plan()
    assert kinds(plan)[0] == ("breaking_inputs", True)
    table = {one.snapshot for one in canary.client().deployments.list("agent")}
    keys = [address.blob("research", digest) for digest in table]
    assert sorted(seen[0].calls.count(("read", key)) for key in keys) == [0, 0, 0, 0, 1, 1]


def test_a_route_leaves_a_version_that_is_damaged(canary: Repository) -> None:
    """Nobody can tell what that breaks: it is said, and the way out stays open."""
    canary.apply()
    (first, _) = sorted(canary.client().deployments.list("agent"), key=lambda one: one.version)
    (canary.store_folder / address.blob("research", first.snapshot)).unlink()
    canary.manifest(routed("{default: 2, canary: head}"))
    canary.commit()
    plan = canary.plan()
    ((kind, severe, text),) = [(c.kind, c.severe, c.text) for flow in plan.flows for c in flow.consequences]
    assert (kind, severe) == ("breaking_inputs", True)
    assert text == "default: v1 → v2 may break callers: the snapshot of v1 can't be read (kitaru store verify)"
    assert unreviewed(plan, [plan]) == ()
    canary.apply()
    assert routes_of(canary)["default"] == (2,)


# --- reviews ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def promotion(canary: Repository) -> Repository:
    """The canary is applied, and the manifest promotes it."""
    canary.apply()
    canary.manifest(routed("{default: 2, canary: head}"))
    canary.commit()
    return canary


def without(plan: Plan, *kinds: str) -> Plan:
    """What the file would hold had somebody taken these consequences out of it."""
    flows = tuple(
        flow.model_copy(update={"consequences": tuple(one for one in flow.consequences if one.kind not in kinds)})
        for flow in plan.flows
    )
    return plan.model_copy(update={"flows": flows})


def test_executions_may_differ_from_the_review_and_broken_callers_may_not(promotion: Repository) -> None:
    """Executions come and go between review and apply. What breaks callers is bound, in a saved plan and a review."""
    plan = promotion.plan()
    calm = without(plan, "stored_inputs", "in_use")
    assert calm != plan
    assert tampered(calm, plan) == ()
    assert unreviewed(plan, [calm]) == ()
    hidden = without(plan, "breaking_inputs")
    said = "route default of agent: n added, required (integer), which breaks callers, and was not reviewed"
    assert unreviewed(plan, [hidden]) == (said,)
    with pytest.raises(KitaruIntegrityError, match="what it shows of agent"):
        promotion.client().apply(plan=hidden, saved=True)
    promotion.client().apply(plan=calm, saved=True)
    assert routes_of(promotion)["default"] == (2,)


@pytest.mark.parametrize(
    "forged", [{"text": "all is well"}, {"severe": False}, {"changes": ()}, {"routes": ("canary",)}]
)
def test_a_warning_that_was_reworded_is_no_review(promotion: Repository, forged: dict[str, Any]) -> None:
    """What people read counts, not what stands beside it in the file."""
    plan = promotion.plan()
    (flow,) = plan.flows
    first, *others = flow.consequences
    changed = first.model_copy(update=forged)
    assert isinstance(changed, Consequence)
    other = plan.model_copy(update={"flows": (flow.model_copy(update={"consequences": (changed, *others)}),)})
    assert unreviewed(plan, [other]) != ()
    assert tampered(other, plan) == ("what it shows of agent",)


def test_a_review_binds_what_breaks_and_not_its_number(repository: Repository) -> None:
    """Another build took the number meanwhile: what was reviewed is applied under the next one."""
    repository.manifest(routed("{default: 1}"))
    repository.commit()
    repository.apply()
    asks_for_n(repository, "{default: head}")
    plan = repository.folder.parent / "reviewed.json"
    kitaru("plan", "--out", plan, cwd=repository.folder).must()
    assert "default: v1 → v2 breaks callers" in json.loads(plan.read_text())["flows"][0]["consequences"][0]["text"]
    kept = (repository.folder / "flows/work.py").read_text()
    repository.manifest(routed("{default: 1}"))
    new_version(repository, "other")
    repository.apply()
    repository.manifest(routed("{default: head}"))
    repository.write("flows/work.py", kept)
    repository.commit()
    kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder).must()
    assert routes_of(repository) == {"default": (3,)}


def test_a_route_to_other_content_by_the_same_number_says_so(repository: Repository) -> None:
    """Only the source differs from what was reviewed: the route's line says that, not the same words twice."""
    repository.apply()
    new_version(repository, "reviewed")
    plan = repository.folder.parent / "reviewed.json"
    kitaru("plan", "--out", plan, cwd=repository.folder).must()
    new_version(repository, "more")
    done = kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder)
    done.refused("route default of agent: from v1 to v2, of other content than was reviewed", code=1)
    assert "reviewed was from" not in done.said
