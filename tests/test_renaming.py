"""What ``moved:`` does: renames to make, renames that were undone, and flows that a prune had removed."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.commit import next_lockfile
from kitaru.core.renames import Renames, first_name, plan_renames, present_name, way_to
from kitaru.errors import KitaruConflictError, KitaruSelectorError, Problem
from kitaru.model.lockfile import Lockfile, Manage, Rename, Retire
from kitaru.model.manifest import Manifest
from tests.applying import routes_of
from tests.lock_strategies import AT, BY, FEW, after, mint, move
from tests.repository import MANIFEST, Repository, git, kitaru

RENAMED = MANIFEST.replace("  agent:\n", "  researcher:\n") + "moved: {agent: researcher}\n"
BACK = MANIFEST + "moved: {researcher: agent}\n"


def begun(*flows: str) -> Lockfile:
    return after(
        Lockfile(project="research"), *(edit for flow in flows for edit in (mint(flow, 1), move(flow, "a", 1)))
    )


def rename(lock: Lockfile, was: str, name: str, commit: str = "", *, retired: bool = False) -> Rename:
    return Rename(kind="rename", flow=name, was=was, expects=lock.flows[was].latest, retired=retired, commit=commit)


def removed(lock: Lockfile, flow: str) -> Lockfile:
    return after(lock, Retire(kind="retire", flow=flow, expects=lock.flows[flow].latest))


def planned(lock: Lockfile, moved: dict[str, str], *flows: str, contains: Collection[str] = ()) -> Renames:
    manifest = Manifest.model_validate(
        {
            "kitaru": 1,
            "project": "research",
            "flows": {flow: {"target": "flows/work.py:agent"} for flow in flows or moved.values()},
            "moved": moved,
        }
    )
    return plan_renames(manifest, lock, _place, contains.__contains__)


def _place(message: str, *path: object, hint: str = "") -> Problem:
    return Problem(message, file="/".join(map(str, path)), hint=hint)


# --- a rename that was undone -----------------------------------------------------------------------------------------


def apply_there_and_back(repository: Repository) -> tuple[str, str]:
    """agent becomes researcher, then agent again; the two commits."""
    repository.apply()
    shas = []
    for text in (RENAMED, BACK):
        repository.manifest(text)
        shas.append(repository.commit())
        repository.apply()
    return shas[0], shas[1]


def test_an_old_commit_does_not_rename_again_what_was_undone(repository: Repository) -> None:
    """A job that runs late, at the commit of the first rename, is refused; callers of the flow notice nothing."""
    there, back = apply_there_and_back(repository)
    git(repository.folder, "checkout", "-q", there)
    refused = kitaru("apply", "--yes", cwd=repository.folder).refused(
        "kitaru.yaml:10:16: agent can't become researcher again",
        f"this commit does not contain {back[:12]}, which undid that",
        "pull or merge it; to rename all the same: kitaru apply --force",
    )
    assert refused.err.count("error:") == 1
    assert routes_of(repository) == {"default": (1,)}
    git(repository.folder, "checkout", "-q", "main")
    assert repository.plan().is_empty


def test_a_commit_that_knows_of_the_way_back_may_rename_again(repository: Repository) -> None:
    """Whoever writes the line anew, on top of the commit that undid it, means it."""
    apply_there_and_back(repository)
    repository.manifest(RENAMED)
    repository.commit()
    repository.apply()
    assert routes_of(repository, "researcher") == {"default": (2,)}
    assert [one.flow for one in repository.client().deployments.flows()] == ["researcher"]


def test_two_commits_of_the_same_files_have_the_same_plan(repository: Repository) -> None:
    """A saved plan with a rename is carried out from another commit of the same files, and that one's it is then."""
    repository.apply()
    repository.manifest(RENAMED)
    repository.commit("on the branch")
    plan = repository.plan()
    git(repository.folder, "commit", "-q", "--amend", "-m", "merged")
    sha = git(repository.folder, "rev-parse", "HEAD")
    assert plan.commit.sha != sha
    repository.client().apply(plan=plan, saved=True)
    assert repository.client().session.releases.head().flows["agent"].renamed_commit == sha


@FEW
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=6), st.sets(st.integers(0, 6)))
def test_every_commit_on_the_way_back_must_be_known(names: list[str], known: set[int]) -> None:
    """From any name to any former one, over any number of renames: all that led away must be in the commit at hand."""
    lock, now = begun("z"), "z"
    for number, name in enumerate(names):
        if name != now:
            lock, now = after(lock, rename(lock, now, name, str(number))), name
    contains = {str(number) for number in known}
    for name in {*names, "z"} - {now}:
        draft = planned(lock, {now: name}, contains=contains)
        way = [lock.flows[one].renamed_commit for one in way_to(lock.flows, name, now)]
        assert way
        assert bool(draft.problems) == (not contains.issuperset(way))
        assert bool(draft.edits) == (not draft.problems)


def test_a_rename_without_a_commit_can_be_done_again() -> None:
    """Stores of before say nothing of commits: what they allowed they allow."""
    lock = begun("agent")
    lock = after(lock, rename(lock, "agent", "researcher"))
    assert "renamed_commit" not in lock.flows["agent"].data()
    assert not planned(lock, {"researcher": "agent"}).problems


# --- a flow that was removed ------------------------------------------------------------------------------------------


def test_a_removed_flow_is_renamed_with_its_numbers() -> None:
    """It stays removed under the new name, until the manifest's own edit brings it back."""
    lock = removed(begun("agent"), "agent")
    (edit,) = planned(lock, {"agent": "researcher"}).edits
    assert edit == rename(lock, "agent", "researcher", retired=True)
    lock = after(lock, edit)
    assert (lock.flows["researcher"].retired, lock.flows["researcher"].latest) == (True, 1)
    assert present_name(lock.flows, "agent") == "researcher"
    assert first_name(lock.flows, "researcher") == "agent"
    lock = after(lock, Manage(kind="manage", flow="researcher"))
    assert not lock.flows["researcher"].retired


@pytest.mark.parametrize("there", [True, False])
def test_a_rename_holds_for_the_flow_as_it_was_seen(there: bool) -> None:
    """One that was removed after it was planned is not taken along without its routes, nor one that came back."""
    lock = begun("agent")
    lock = lock if there else removed(lock, "agent")
    broken = next_lockfile(lock, [rename(lock, "agent", "researcher", retired=there)], at=AT, by=BY)
    assert isinstance(broken, tuple)
    assert [one.flow for one in broken] == ["agent"]


def test_of_two_that_become_one_it_is_the_one_that_is_there() -> None:
    """A chain whose beginning was removed long ago gives the new name to the flow that is left, and says so."""
    lock = removed(begun("first", "second"), "first")
    draft = planned(lock, {"first": "second", "second": "third"}, "third")
    assert draft.edits == (rename(lock, "second", "third"),)
    assert draft.problems == ()
    assert ["first was removed, and third has versions of its own" in one for one in draft.warnings] == [True]


# --- what a caller of the old name is told ----------------------------------------------------------------------------


def test_a_used_key_does_not_hide_that_the_flow_was_renamed(repository: Repository) -> None:
    """Other inputs under a used key, by the old name: the new name is what the caller needs to know."""
    repository.apply()
    repository.client().deployments.invoke("agent", {"topic": "a"}, idempotency_key="order 1")
    invoke = repository.client().deployments.invoke
    with pytest.raises(KitaruConflictError, match="was used with other inputs"):
        invoke("agent", {"topic": "b"}, idempotency_key="order 1")
    repository.manifest(RENAMED)
    repository.commit()
    repository.apply()
    with pytest.raises(KitaruSelectorError, match="agent was renamed to researcher"):
        invoke("agent", {"topic": "b"}, idempotency_key="order 1")
    with pytest.raises(KitaruConflictError, match="was used with other inputs"):
        invoke("agent", {"topic": "b"}, version=1, idempotency_key="order 1")
    with pytest.raises(KitaruConflictError, match="was used with other inputs"):
        invoke("researcher", {"topic": "b"}, idempotency_key="order 1")
    assert invoke("agent", {"topic": "a"}, idempotency_key="order 1").reused


# --- names that can't be had ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moved", "flows", "told"),
    [
        (
            "{a: b, b: a}",
            "ab",
            [f"{pair} can't swap names, in one step" for pair in ("'a' and 'b'", "'b' and 'a'")],
        ),
        ("{a: b, b: c}", "bc", ["'a' can't take the name of 'b'"]),
        (
            "{a: b, b: c, c: a}",
            "abc",
            [f"{pair}'" for pair in ("'c' can't take the name of 'a", "'a' can't take the name of 'b")],
        ),
    ],
)
def test_names_can_not_be_swapped(repository: Repository, moved: str, flows: str, told: list[str]) -> None:
    """In a circle or in a row, now or later: refused with what can be done instead, and that works."""
    target = "{target: 'flows/work.py:agent', routes: {default: head}}"
    repository.manifest(MANIFEST.partition("flows:")[0] + f"flows: {{a: {target}, b: {target}, c: {target}}}\n")
    repository.commit()
    repository.apply()
    declared = ", ".join(f"{flow}: {target}" for flow in flows)
    repository.manifest(MANIFEST.partition("flows:")[0] + f"flows: {{{declared}}}\nmoved: {moved}\n")
    said = kitaru("validate", cwd=repository.folder).refused("never another flow's").err
    for one in told:
        assert one in said
    assert said.count("can't") == moved.count(":") - ("c" in flows and "a" not in flows)
    assert "remove it here" not in said


def test_what_is_said_of_a_swap_works(repository: Repository) -> None:
    """Names that were never used, for both, in one step."""
    target = "{target: 'flows/work.py:agent', routes: {default: head}}"
    repository.manifest(MANIFEST.partition("flows:")[0] + f"flows: {{a: {target}, b: {target}}}\n")
    repository.commit()
    repository.apply()
    repository.manifest(
        MANIFEST.partition("flows:")[0] + f"flows: {{c: {target}, d: {target}}}\nmoved: {{a: c, b: d}}\n"
    )
    repository.commit()
    assert {one.renamed_from for one in repository.apply().plan.flows} == {"a", "b"}
