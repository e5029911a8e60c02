"""What a plan tells its reviewers: stored inputs that break, executions on what is left, holds, and drift."""

from __future__ import annotations

from typing import Any

import pytest

from kitaru.cli.views.plan import drift_lines, drift_markdown, plan_lines, plan_markdown, ways_out
from kitaru.model.lockfile import Edit, Lockfile, Move, Untag
from kitaru.model.plan import Plan
from kitaru.model.route import Hold, Pin
from tests.applying import new_version, routed
from tests.repository import FLOWS, MANIFEST, Repository, git, kitaru

NUMBERED = FLOWS.replace("def agent(topic: str) -> str:", "def agent(topic: int) -> str:")
WAITING = FLOWS.replace("from kitaru import checkpoint, flow", "from kitaru import checkpoint, flow, wait").replace(
    "    return write(collect(topic))", '    wait(name="approve", timeout=0)\n    return write(collect(topic))'
)


def told(plan: Plan) -> list[tuple[str, bool, str]]:
    return [(one.kind, one.severe, one.text) for flow in plan.flows for one in flow.consequences]


def by_hand(repository: Repository, *edits: Edit, verb: str = "tag") -> Lockfile:
    """What another verb than apply writes."""
    releases = repository.client().session.releases
    done = releases.append(releases.head(verified=True), edits, by="Bob", verb=verb)
    assert isinstance(done, Lockfile), done
    return done


def move(repository: Repository, tag: str, version: int, **more: Any) -> Move:
    state = repository.client().session.releases.head().flow("agent")
    assert state is not None
    table = {one.version: one.snapshot for one in repository.client().deployments.list("agent")}
    route = state.routes.get(tag)
    holder = {"version": version, "snapshot": table[version]}
    expects = route.holders if route else None
    return Move.model_validate(
        {"kind": "move", "flow": "agent", "tag": tag, "holders": (holder,), "expects": expects, **more}
    )


def test_stored_inputs_are_tried_on_a_new_schema(repository: Repository) -> None:
    """The plan counts the stored inputs that the new version would refuse, and shows none of their values."""
    repository.apply()
    for topic in ("12", "secret word"):
        repository.client().deployments.invoke("agent", {"topic": topic}).wait(60)
    repository.write("flows/work.py", NUMBERED)
    repository.commit()
    plan = repository.plan()
    breaking, (kind, severe, text) = told(plan)
    assert breaking == ("breaking_inputs", True, "default: v1 → v2 breaks callers: topic: string → integer")
    assert (kind, severe) == ("stored_inputs", True)
    assert text.startswith("default: v2 would refuse the last 2 stored inputs, such as that of ex-")
    for shown in ("\n".join(plan_lines(plan)), plan_markdown(plan), plan.canonical().decode()):
        assert "would refuse" in shown
        assert "secret word" not in shown


def test_a_compatible_schema_says_that_stored_inputs_fit(repository: Repository) -> None:
    """Reviewers learn as well that nothing breaks."""
    repository.apply()
    repository.client().deployments.invoke("agent", {"topic": "a"}).wait(60)
    repository.write(
        "flows/work.py", FLOWS.replace('(topic: str) -> str:\n    "', '(topic: str, n: int = 1) -> str:\n    "')
    )
    repository.commit()
    assert told(repository.plan()) == [("stored_inputs", False, "default: v2 takes the last stored input")]


def test_executions_on_the_version_that_a_route_leaves_are_counted(repository: Repository) -> None:
    """One waits on v1 when default moves on: the plan says so, and that it goes on with v1."""
    repository.write("flows/work.py", WAITING)
    repository.commit()
    repository.apply()
    handle = repository.client().deployments.invoke("agent", {"topic": "a"})
    with pytest.raises(Exception, match="wait"):
        handle.wait(60)
    new_version(repository, "second")
    assert told(repository.plan()) == [("in_use", False, "1 waits on v1, which default leaves; it goes on with it")]


def test_a_quiet_plan_asks_no_executions(repository: Repository) -> None:
    """Consequences cost reads only where something has any."""
    repository.apply()
    client = repository.client()
    client.session.executions = None  # type: ignore[assignment]
    assert client.plan().is_empty


def test_a_hold_is_honoured_and_shown_until_the_manifest_agrees(repository: Repository) -> None:
    """A rollback stays, whatever Git says, until the manifest names the version itself."""
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    state = repository.client().session.releases.head().flows["agent"]
    hold = Hold(left=state.routes["default"].holders, reason="it loses orders")
    by_hand(repository, move(repository, "default", 1, hold=hold.model_dump()), verb="rollback")
    plan = repository.plan()
    assert plan.is_empty
    (held,) = plan.flows[0].held
    assert (held.tag, held.reason, held.by) == ("default", "it loses orders", "Bob")
    shown = "\n".join(plan_lines(plan))
    assert "route default held at v1, rolled back by Bob" in shown
    assert "(it loses orders); the manifest says v2" in shown
    assert "held at v1" in plan_markdown(plan)
    new_version(repository, "third")
    repository.apply()
    assert repository.client().session.releases.head().flows["agent"].routes["default"].versions == (1,)
    repository.manifest(routed("{default: 1}"))
    repository.commit()
    plan = repository.plan()
    assert [move.reason for _, move in plan.moves] == ["the manifest agrees: the rollback's hold ends"]
    repository.apply()
    route = repository.client().session.releases.head().flows["agent"].routes["default"]
    assert (route.hold, route.versions) == (None, (1,))
    repository.manifest(routed("{default: head}"))
    repository.commit()
    repository.apply()
    assert repository.client().session.releases.head().flows["agent"].routes["default"].versions == (3,)


def test_drift_is_what_others_changed(repository: Repository) -> None:
    """Moved, removed and added by hand is drift; a manifest that was not applied yet is none."""
    repository.manifest(routed("{default: 1, stable: 1, canary: head}"))
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    assert repository.plan().drift == ()
    untag = Untag(
        kind="untag",
        flow="agent",
        tag="stable",
        expects=repository.client().session.releases.head().flows["agent"].routes["stable"].holders,
    )
    by_hand(repository, move(repository, "default", 2), untag, move(repository, "extra", 1, managed=False))
    plan = repository.plan()
    assert {one.tag: one.text for one in plan.drift} == {
        "default": "default leads to v2; the manifest says v1",
        "stable": "stable was removed; the manifest says v1",
        "extra": "extra leads to v1; the manifest does not name it",
    }
    assert {(one.via, one.by) for one in plan.drift} == {("tag", "Bob")}
    assert "3 routes changed by hand" in drift_lines(plan)[0]
    assert "| `agent` | stable was removed" in drift_markdown(plan)
    assert {one.tag: ways_out(plan, one) for one in plan.drift} == {
        "default": ["undo it: kitaru apply", "keep it: kitaru import agent (make kitaru.yaml say v2, as that does)"],
        "stable": ["undo it: kitaru apply", "keep it: kitaru import agent (take it out of kitaru.yaml, as that does)"],
        "extra": ["undo it: kitaru flow untag agent extra", "keep it: kitaru import agent"],
    }
    (way,) = [one for one in ways_out(plan, plan.drift[0]) if one.startswith("keep it: ")]
    kitaru(*way.removeprefix("keep it: kitaru ").split(" (")[0].split(), cwd=repository.folder).must()
    routes = repository.client().session.manifest.manifest.flows["agent"].routes
    assert (routes["default"], routes["extra"], "stable" in routes) == (Pin(2), Pin(1), False)
    assert repository.plan(allow_dirty=True).drift == ()
    git(repository.folder, "checkout", "-q", "kitaru.yaml")
    repository.apply()
    assert [one.tag for one in repository.plan().drift] == ["extra"]


@pytest.mark.parametrize("place", ["", "undo it: ", "keep it: "])
def test_the_way_out_of_an_added_route_works(repository: Repository, place: str) -> None:
    """What drift says of a route that the manifest does not name ends the drift, typed as it stands; apply does not."""
    repository.apply()
    kitaru("flow", "tag", "agent", "canary", "--version", "1", "--exclusive", "--no-manifest", cwd=repository.folder)
    data = kitaru("plan", "--drift", "-o", "json", cwd=repository.folder).must(2).json
    assert (data["command"], data["count"]) == ("plan", 1)
    (one,) = data["items"]
    commands = dict(way.split(": ") for way in one["ways_out"]) | {"": "kitaru apply --yes"}
    kitaru(*commands[place.removesuffix(": ")].split()[1:], cwd=repository.folder).must()
    repository.commit()
    assert kitaru("plan", "--drift", cwd=repository.folder).code == (0 if place else 2)


def test_a_held_route_says_what_ends_its_hold(repository: Repository) -> None:
    """Apply leaves a hold alone, so the manifest's edit is what is said; writing that ends the drift."""
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    kitaru("rollback", "agent", cwd=repository.folder).must()
    out = kitaru("plan", "--drift", cwd=repository.folder).must(2).out
    assert "keep it there: kitaru rollback agent default --to 1 --write, then merge and apply that" in out
    repository.manifest(routed("{default: 1}"))
    repository.commit()
    repository.apply()
    kitaru("plan", "--drift", cwd=repository.folder).must()


def test_drift_says_where_it_looked(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nightly job that looks in the wrong place finds no drift there, and warns."""
    repository.apply()
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    wrong = kitaru("plan", "--drift", "--store", "file://elsewhere", cwd=repository.folder).must()
    assert "::warning title=kitaru::project research was never applied in file://" in wrong.err
    assert "::warning" not in kitaru("plan", "--drift", cwd=repository.folder).must().said


def test_no_value_of_a_default_or_a_variable_is_shown(repository: Repository) -> None:
    """A plan and a version name what changed; what a default or an environment variable holds stays where it is."""
    image = 'image: {environment: {API_KEY: "clear-text-key"}}'
    repository.manifest(f"{MANIFEST}  greeter:\n    target: flows/work.py:greeter\n    {image}\n")
    repository.commit()
    repository.apply()
    repository.change("flows/work.py", 'name: str = "you"', 'name: str = "hunter2default"')
    repository.commit()
    plan = repository.plan()
    for shown in ("\n".join(plan_lines(plan)), plan_markdown(plan)):
        assert "name: default changed" in shown
        assert "hunter2default" not in shown
        assert "'you'" not in shown
    for form in ("text", "json"):
        out = kitaru("flow", "deployments", "show", "greeter", "-o", form, cwd=repository.folder).must().out
        assert '"API_KEY": "***"' in out
        assert "clear-text-key" not in out


def test_what_is_not_applied_yet_is_no_drift(repository: Repository) -> None:
    """A route that apply moved last, and a route that is new in the manifest, are changes to apply."""
    repository.apply()
    new_version(repository, "second")
    repository.manifest(routed("{default: head, stable: head}"))
    repository.commit()
    plan = repository.plan()
    assert plan.drift == ()
    assert "not applied yet: agent" in "\n".join(drift_lines(plan))


def test_the_exit_code_tells_of_drift(repository: Repository) -> None:
    """0: nothing changed by hand, 2: something did, 1: it can't be told."""
    repository.apply()
    where = ("plan", "--drift", "-f", repository.folder / "kitaru.yaml")
    assert kitaru(*where).code == 0
    new_version(repository, "second")
    assert kitaru(*where).code == 0
    repository.apply()
    by_hand(repository, move(repository, "default", 1))
    found = kitaru(*where)
    assert found.code == 2
    assert "default leads to v1; the manifest says v2 (tag by Bob" in found.out
    repository.manifest("kitaru: 1\nprojct: x\n")
    assert kitaru(*where).code == 1
