"""apply --reviewed: what was shown to reviewers is carried out wherever the store is now, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kitaru.core.review import unreviewed
from kitaru.model.address import canonical_json
from kitaru.model.plan import Consequence, Plan
from tests.applying import TWO, generation, new_version, routed, routes_of
from tests.repository import Repository, kitaru


def save(repository: Repository, name: str = "reviewed.json") -> Path:
    path = repository.folder.parent / name
    kitaru("plan", "--out", path, cwd=repository.folder).must()
    return path


def test_what_was_reviewed_is_applied(repository: Repository) -> None:
    """The same commit, the same store: applied, and once more is no error."""
    plan = save(repository)
    kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder).must()
    assert generation(repository) == 1
    kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder).must()
    assert generation(repository) == 1


def test_another_flow_moved_meanwhile(repository: Repository) -> None:
    """The base moved and the commit is another one, and the plan still does just what was shown: applied."""
    repository.manifest(TWO)
    repository.commit()
    repository.apply("agent")
    plan = save(repository)
    repository.manifest(TWO + "# a remark\n")
    repository.commit("merged")
    repository.apply(message="nothing")
    assert generation(repository) == 2
    # The store is where the plan leads: nothing is left to do, and that is said.
    done = kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder).must()
    assert "not left to do" in done.err


def test_a_plan_on_a_later_generation_does_the_same(repository: Repository) -> None:
    """Somebody applied another flow after the review: the reviewed one is applied on top of that."""
    repository.manifest(TWO)
    repository.commit()
    plan_of_agent = repository.folder.parent / "agent.json"
    kitaru("plan", "agent", "--out", plan_of_agent, cwd=repository.folder).must()
    repository.apply("greeter")
    kitaru("apply", plan_of_agent, "--yes", cwd=repository.folder).refused("generation 0", code=1)
    kitaru("apply", "--yes", "--reviewed", plan_of_agent, cwd=repository.folder).must()
    assert generation(repository) == 2
    assert routes_of(repository) == {"default": (1,)}


def test_other_content_is_refused(repository: Repository) -> None:
    """The source changed after the review: nothing is applied, and what differs is said."""
    plan = save(repository)
    new_version(repository, "unreviewed")
    done = kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder)
    done.refused("nothing was applied", "a new version", "of other content than was reviewed", code=1)
    assert generation(repository) == 0


def test_a_route_that_moved_meanwhile_is_refused(repository: Repository) -> None:
    """The route leads elsewhere than reviewers saw: what they saw and what would happen are both said."""
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    repository.manifest(routed("{default: 1}"))
    repository.commit()
    plan = save(repository)
    repository.manifest(routed("{default: head}"))
    new_version(repository, "third")
    repository.apply()
    repository.manifest(routed("{default: 1}"))
    repository.commit()
    done = kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder)
    done.refused("route default of agent: reviewed was from v2 to v1, now it would be from v3 to v1", code=1)
    assert routes_of(repository) == {"default": (3,)}


def test_the_number_of_a_new_version_does_not_count(repository: Repository) -> None:
    """A version that nobody routes took the number: the reviewed content is applied under the next one."""
    repository.manifest(routed("{default: 1}"))
    repository.commit()
    repository.apply()
    repository.manifest(routed("{default: head}"))
    new_version(repository, "reviewed")
    plan = save(repository)
    kept = (repository.folder / "flows/work.py").read_text()
    repository.manifest(routed("{default: 1}"))
    new_version(repository, "other")
    repository.apply()
    repository.manifest(routed("{default: head}"))
    repository.write("flows/work.py", kept)
    repository.commit()
    kitaru("apply", "--yes", "--reviewed", plan, cwd=repository.folder).must()
    assert routes_of(repository) == {"default": (3,)}


def test_several_reviews_count_together(repository: Repository) -> None:
    """Two requests were merged before one apply: a folder with both plans covers it, one alone does not."""
    folder = repository.folder.parent / "plans"
    folder.mkdir()
    repository.manifest(TWO)
    repository.commit()
    for name in ("agent", "greeter"):
        kitaru("plan", name, "--out", folder / f"{name}.json", cwd=repository.folder).must()
    refused = kitaru("apply", "--yes", "--reviewed", folder / "agent.json", cwd=repository.folder)
    refused.refused("greeter: a new version", "which was not reviewed", code=1)
    kitaru("apply", "--yes", "--reviewed", folder, cwd=repository.folder).must()
    assert generation(repository) == 1


def test_with_no_review_only_nothing_goes_through(repository: Repository) -> None:
    """An empty folder of reviews lets an empty plan through, and no other."""
    folder = repository.folder.parent / "plans"
    folder.mkdir()
    done = kitaru("apply", "--yes", "--reviewed", folder, cwd=repository.folder)
    done.refused("no reviewed plan was found", code=1)
    repository.apply()
    kitaru("apply", "--yes", "--reviewed", folder, cwd=repository.folder).must()


def test_a_saved_plan_must_be_reviewed_too(repository: Repository) -> None:
    """With both, the saved plan is carried out where it is what was reviewed."""
    reviewed = save(repository)
    new_version(repository, "unreviewed")
    saved = save(repository, "saved.json")
    kitaru("apply", saved, "--yes", "--reviewed", reviewed, cwd=repository.folder).refused(
        "nothing was applied", code=1
    )
    kitaru("apply", saved, "--yes", "--reviewed", saved, cwd=repository.folder).must()


def test_a_review_of_another_place_is_refused(repository: Repository) -> None:
    """A plan of another project, or a file that is no plan, is no review."""
    path = save(repository)
    plan = json.loads(path.read_text())
    path.write_bytes(canonical_json({**plan, "project": "other"}))
    kitaru("apply", "--yes", "--reviewed", path, cwd=repository.folder).refused("it is for project other")
    path.write_text("{}")
    kitaru("apply", "--yes", "--reviewed", path, cwd=repository.folder).refused("holds no plan")
    kitaru("apply", "--yes", "--reviewed", "nowhere.json", cwd=repository.folder).refused("can't be read")
    assert generation(repository) == 0


def test_a_forged_digest_or_edit_is_no_review(repository: Repository) -> None:
    """What a reader saw counts: a digest or an edit that was changed beside it reviews nothing."""
    fresh = repository.plan()
    shown = json.loads(save(repository).read_text())
    new_version(repository, "evil")
    evil = repository.plan()
    build = evil.builds[0][1]
    shown["flows"][0]["build"]["snapshot_digest"] = build.snapshot_digest
    shown["flows"][0]["moves"] = [move.data() for move in evil.flows[0].moves]
    shown["edits"] = [edit.data() for edit in evil.edits]
    assert unreviewed(evil, [Plan.parse(canonical_json(shown))])
    assert not unreviewed(evil, [evil])
    assert not unreviewed(fresh, [fresh])


@pytest.mark.parametrize("what", ["gone", "false text", "false file", "made the first", "as it was"])
def test_the_differences_that_were_shown_are_bound(repository: Repository, what: str) -> None:
    """How a new version differs is what reviewers read: taken out of the file, or falsified there, it is no review."""
    repository.apply()
    new_version(repository, "second")
    now, forged = save(repository, "now.json"), repository.folder.parent / "forged.json"
    plan = json.loads(now.read_text())
    build = plan["flows"][0]["build"]
    assert build["changes"] == [{"subject": "source", "text": "source: 1 file changed", "details": ["~ flows/work.py"]}]
    if what == "gone":
        build["changes"] = []
    elif what == "false text":
        build["changes"][0] = {"subject": "summary", "text": "description changed"}
    elif what == "false file":
        build["changes"][0]["details"] = ["~ flows/notes.md"]
    elif what == "made the first":
        del build["previous"], build["changes"]
    forged.write_bytes(canonical_json(plan))
    done = kitaru("apply", now, "--yes", "--reviewed", forged, cwd=repository.folder)
    if what == "as it was":
        done.must()
        return
    shown = {
        "gone": "no difference since v1",
        "false text": "description changed since v1",
        "false file": "source: 1 file changed (~ flows/notes.md) since v1",
        "made the first": "the first one, from flows/work.py:agent",
    }[what]
    truth = "now it would be a new version, source: 1 file changed (~ flows/work.py) since v1"
    done.refused("nothing was applied", f"agent: reviewed was a new version, {shown}, {truth}", code=1)
    assert generation(repository) == 1


def test_differences_from_a_version_that_was_the_newest_then(repository: Repository) -> None:
    """A version was built by hand since the review: what was shown is so of the one before it, and still counts.

    Not so in a plan of the same generation, nor where it names a later version than there is.
    """
    repository.apply()
    text = (repository.folder / "flows/work.py").read_text()
    repository.write("flows/notes.py", "")
    new_version(repository, "second")
    reviewed = repository.plan()
    kept = (repository.folder / "flows/work.py").read_text()
    repository.write("flows/work.py", text + "# by hand\n")
    kitaru("build", "flows/work.py:agent", "--no-manifest", cwd=repository.folder).must()
    repository.write("flows/work.py", kept)
    plan = repository.plan()
    (now,), (then,) = ([build for _, build in one.builds] for one in (plan, reviewed))
    assert (now.previous, then.previous) == (2, 1)
    assert now.changes != then.changes
    assert unreviewed(plan, [reviewed]) == ()
    assert unreviewed(plan, [reviewed.model_copy(update={"base": plan.base})])
    later = reviewed.flows[0].model_copy(update={"build": then.model_copy(update={"previous": 7})})
    (said,) = unreviewed(plan, [reviewed.model_copy(update={"flows": (later,)})])
    assert "since v7, now it would be a new version, source: 1 file changed (~ flows/work.py) since v2" in said


def test_what_is_told_of_executions_is_not_bound(repository: Repository) -> None:
    """Inputs that were stored since the review are counted in the plan of now, and were in no plan that was shown."""
    repository.apply()
    new_version(repository, "second")
    plan = repository.plan()
    (flow,) = plan.flows
    counted = Consequence(kind="stored_inputs", text="v2 would refuse 3 of the last 20", severe=True, count=3, of=20)
    told = flow.model_copy(update={"consequences": (*flow.consequences, counted)})
    assert unreviewed(plan.model_copy(update={"flows": (told,)}), [plan]) == ()


def test_a_removal_is_no_side_effect(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that would be removed and was not shown as removed stays."""
    repository.manifest(TWO)
    repository.commit()
    repository.apply()
    repository.manifest(TWO[: TWO.index("  greeter:")])
    new_version(repository, "second")
    plan = save(repository)
    done = kitaru("apply", "--prune", "--yes", "--reviewed", plan, cwd=repository.folder)
    done.refused("greeter: it is removed, with all its routes, which was not reviewed", code=1)
    assert generation(repository) == 1
