"""What a rollback took off a route stays off it after the hold, for who has not seen how that hold ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru import KitaruClient
from kitaru.cli.views.plan_markdown import plan_markdown
from kitaru.client.project import read_plan
from kitaru.core.commit import next_lockfile
from kitaru.core.holding import REMEMBERED, barred, marks_of, remembered, returns
from kitaru.core.tagging import rolled_back, tagged
from kitaru.model.lockfile import Drop, FlowState, Lockfile, Move, Rename
from kitaru.model.route import Assignment, HeldOff, Pin, Route
from tests.applying import generation, new_version, routed
from tests.lock_strategies import AT, BY, after, holder, mint, move
from tests.repository import Repository, git, kitaru

C1, C2 = "1" * 40, "2" * 40

# --- what is remembered -----------------------------------------------------------------------------------------------


def numbered(*versions: int) -> tuple[Assignment, ...]:
    return tuple(holder("agent", version) for version in versions)


def held(reason: str = "bad") -> Lockfile:
    """Five versions; default went from v3 to v4, and was rolled back."""
    lock = Lockfile(project="research")
    for version in range(1, 6):
        lock = after(lock, mint("agent", version))
    lock = after(lock, move("agent", "default", 4))
    return after(lock, *rolled_back(lock, "agent", "default", numbered(3), reason))


def default(lock: Lockfile) -> Route:
    return lock.flows["agent"].routes["default"]


def ended(lock: Lockfile, commit: str) -> Lockfile:
    """The same after an apply from ``commit`` that agrees with where the route is."""
    route, marks = default(lock), marks_of(lock.flows["agent"], "default")
    known = remembered(route, marks, route.holders, commit=commit)
    agreed = Move(
        kind="move", flow="agent", tag="default", holders=route.holders, expects=route.holders, held_off=known
    )
    return after(lock, agreed)


def marks(lock: Lockfile) -> list[tuple[tuple[int, ...], str, str]]:
    """Versions, commit and reason of each thing that is remembered."""
    found = lock.flows["agent"].held_off.get("default", ())
    return [(tuple(one.version for one in mark.left), mark.commit, mark.reason) for mark in found]


def test_the_end_of_a_hold_is_remembered_with_its_commit() -> None:
    """What was held off, who rolled back, when and why, and where it ended; nothing as long as the hold lives."""
    assert held().flows["agent"].held_off == {}
    (mark,) = ended(held(), C1).flows["agent"].held_off["default"]
    assert mark == HeldOff(left=numbered(4), by=BY, at=AT, reason="bad", commit=C1)
    lock = held()
    assert marks(after(lock, *tagged(lock, "agent", "default", holder("agent", 5), exclusive=True))) == [
        ((4,), "", "bad")
    ]
    assert marks(after(lock, *tagged(lock, "agent", "default", holder("agent", 4), exclusive=True))) == []


def test_a_second_rollback_takes_the_first_one_along() -> None:
    """Both end with the same commit, each with its own reason."""
    lock = held("v4 is bad")
    lock = after(lock, *rolled_back(lock, "agent", "default", numbered(2), "v3 too"))
    (first,) = lock.flows["agent"].held_off["default"]
    assert (first.left, first.goes_on) == (numbered(4), True)
    assert marks(ended(lock, C1)) == [((4,), C1, "v4 is bad"), ((3,), C1, "v3 too")]
    assert not any(mark.goes_on for mark in ended(lock, C1).flows["agent"].held_off["default"])


def test_a_rollback_that_the_manifest_agrees_with_is_remembered_too() -> None:
    """It leaves no hold; who made it and when is told from the generation."""
    lock = after(Lockfile(project="research"), mint("agent", 1))
    lock = after(lock, mint("agent", 2), move("agent", "default", 2))
    edits = rolled_back(lock, "agent", "default", numbered(1), "bad", said=Pin(1))
    following = next_lockfile(lock, edits, at="2026-01-02T00:00:00.000000Z", by="Cid", via="rollback")
    assert isinstance(following, Lockfile)
    assert default(following).hold is None
    (mark,) = following.flows["agent"].held_off["default"]
    assert mark == HeldOff(left=numbered(2), by="Cid", at="2026-01-02T00:00:00.000000Z", reason="bad")


def test_only_the_last_few_are_remembered_and_a_version_once() -> None:
    """A version that was rolled back twice keeps the newer story; an end without a commit does not free it."""
    lock = held()
    for version in (5, 4, 2, 1, 2):
        lock = ended(lock, C1)
        lock = after(lock, *tagged(lock, "agent", "default", holder("agent", version), exclusive=True))
        lock = after(lock, *rolled_back(lock, "agent", "default", numbered(3), f"v{version}"))
    lock = after(lock, *tagged(lock, "agent", "default", holder("agent", 3), exclusive=True))
    assert len(marks(lock)) == REMEMBERED
    assert marks(lock) == [((4,), C1, "v4"), ((1,), C1, "v1"), ((2,), C1, "v2")]


def test_what_is_remembered_follows_the_flow_and_outlives_a_deletion() -> None:
    """It survives a rename, a new version and a deletion; an entry written before, which forgot, still does so."""
    lock = ended(held(), C1)
    renamed = after(lock, Rename(kind="rename", flow="writer", was="agent", expects=5))
    assert renamed.flows["writer"].held_off == lock.flows["agent"].held_off
    assert renamed.flows["agent"].held_off == {}
    assert marks(after(lock, mint("agent", 6))) == marks(lock)
    table = lock.flows["agent"].table
    drop = Drop(kind="drop", flow="agent", version=4, table="t", expects=table)
    assert b"remembers" not in drop.canonical()
    assert after(lock, drop).flows["agent"].held_off == {}
    assert marks(after(lock, drop.model_copy(update={"remembers": True}))) == marks(lock)


def test_a_flow_without_rollbacks_is_stored_as_before() -> None:
    """No key, no byte: states and entries of earlier releases keep their digests."""
    lock = after(Lockfile(project="research"), mint("agent", 1), move("agent", "default", 1))
    assert b"held_off" not in lock.canonical()
    edit = move("agent", "default", 1)
    assert b"held_off" not in edit.canonical() and b"converts" not in edit.canonical()
    state = ended(held(), C1).flows["agent"]
    assert FlowState.parse(state.canonical()) == state


def test_a_version_returns_by_its_number_or_by_its_content() -> None:
    """What the route leads to already does not come back, and each version is told once, by its newest rollback."""
    old = HeldOff(left=numbered(2), by="Ann", at="2026-11-22T09:00:00Z", reason="slow", commit=C1)
    new = old.model_copy(update={"reason": "loses orders", "commit": C2})
    route = Route(holders=numbered(1))
    (one,) = returns(route, (old, new), numbered(2))
    assert one.text == "v2 was rolled back by Ann on 2026-11-22: loses orders"
    copy = Assignment(version=7, snapshot=holder("agent", 2).snapshot)
    (same,) = returns(route, (new.model_copy(update={"reason": ""}),), (copy,))
    assert same.text == "v7 has the content of v2, which was rolled back by Ann on 2026-11-22"
    assert returns(Route(holders=numbered(2)), (new,), (copy,)) == ()
    assert returns(Route(holders=(copy,)), (new,), numbered(2)) == ()
    assert returns(route, (new,), numbered(3)) == ()
    assert barred((one,), lambda sha: sha == C2) is None
    assert barred((one,), lambda sha: sha == C1) == one
    free = returns(route, (new.model_copy(update={"commit": ""}),), numbered(2))
    assert barred(free, lambda _sha: False) is None


# --- over a real repository and store ---------------------------------------------------------------------------------


@pytest.fixture
def stale(repository: Repository, own_world: Path) -> Repository:
    """Ann applied v1 and the bad v2, rolled back, reverted and applied; Bob's clone still stands at the bad commit."""
    repository.apply()
    new_version(repository, "bad")
    repository.apply()
    bob = repository.clone(own_world / "bob")
    kitaru("rollback", "agent", "-m", "it loses orders", cwd=repository.folder).must()
    git(repository.folder, "revert", "--no-edit", "HEAD")
    repository.apply()
    assert route_of(repository).hold is None
    return bob


def place(repository: Repository) -> tuple[str, ...]:
    return ("--store", f"file://{repository.store_folder}")


def theirs(repository: Repository, bob: Repository) -> KitaruClient:
    return bob.client(store=f"file://{repository.store_folder}")


def route_of(repository: Repository, tag: str = "default") -> Route:
    return repository.client().project.releases.head().flows["agent"].routes[tag]


def head(repository: Repository) -> str:
    return git(repository.folder, "rev-parse", "HEAD").strip()


def test_a_stale_clone_does_not_release_the_bad_version_again(repository: Repository, stale: Repository) -> None:
    """Neither plan nor apply moves the route; both say who rolled back, why, and which commit is lacking."""
    at, revert = generation(repository), head(repository)[:12]
    plan = theirs(repository, stale).plan()
    assert plan.is_empty
    (one,) = plan.flows[0].held
    assert (one.ended[:12], one.reason, [holder.version for holder in one.wanted]) == (revert, "it loses orders", [2])
    assert one.by == "Ann"
    words = f"route default stays at v1: this commit does not contain {revert}, with which the rollback of v2 ended"
    for command in (("plan",), ("apply", "--yes")):
        done = kitaru(*command, *place(repository), cwd=stale.folder).must().out
        assert words in done
        assert "git pull" in done
        assert "v2 was rolled back by Ann on " in done
        assert ": it loses orders" in done
        assert "1 route kept from a version that was rolled back" in done
    assert revert in plan_markdown(plan)
    assert "git pull" in plan_markdown(plan)
    assert plan.drift == ()
    assert generation(repository) == at
    assert route_of(repository).versions == (1,)


@pytest.mark.parametrize("wish", ["2", "{2: 10, 1: 90}", "{head: 50, 1: 50}"])
def test_a_number_or_a_share_is_no_way_round(repository: Repository, stale: Repository, wish: str) -> None:
    """Every wish that leads the route to the version is bound alike, and so is head of what is built on top of it."""
    stale.manifest(routed(f"{{default: {wish}}}"))
    stale.commit()
    theirs(repository, stale).apply()
    assert route_of(repository).versions == (1,)
    new_version(stale, "third")
    stale.manifest(routed("{default: head}"))
    stale.commit()
    theirs(repository, stale).apply()
    assert route_of(repository).versions == (1,)


def test_a_pinned_route_obeys_the_same_rule(repository: Repository, own_world: Path) -> None:
    """stable: 2 of an old commit, after stable: 1 ended the hold."""
    repository.apply()
    new_version(repository, "bad")
    repository.manifest(routed("{default: head, stable: 2}"))
    repository.commit()
    repository.apply()
    bob = repository.clone(own_world / "bob")
    kitaru("rollback", "agent", "stable", "--to", "1", "-m", "bad", cwd=repository.folder).must()
    repository.manifest(routed("{default: head, stable: 1}"))
    repository.commit()
    repository.apply()
    assert route_of(repository, "stable").hold is None
    theirs(repository, bob).apply()
    assert route_of(repository, "stable").versions == (1,)
    git(bob.folder, "pull", "-q")
    bob.manifest(routed("{default: head, stable: 2}"))
    bob.commit()
    theirs(repository, bob).apply()
    assert route_of(repository, "stable").versions == (2,)


def test_who_has_seen_the_revert_may_revert_it(repository: Repository, stale: Repository) -> None:
    """From a commit that contains it the route moves, and text, markdown and JSON say what comes back."""
    git(stale.folder, "pull", "-q")
    git(stale.folder, "revert", "--no-edit", "HEAD")
    client = theirs(repository, stale)
    plan = client.plan()
    (told,) = [one for one in plan.flows[0].consequences if one.kind == "rolled_back"]
    day = route_of(repository).at[:10]
    assert told.severe
    assert told.text == f"default: v2 was rolled back by Ann on {day}: it loses orders"
    assert (told.routes, told.reached) == (("default",), (2,))
    assert told.text in kitaru("plan", *place(repository), cwd=stale.folder).must().out
    assert f":warning: `agent`: {told.text}" in plan_markdown(plan)
    shown = kitaru("plan", *place(repository), "-o", "json", cwd=stale.folder).must().out
    assert told.text in shown
    client.apply()
    assert route_of(repository).versions == (2,)


def test_a_saved_plan_from_the_old_commit_is_bound_too(repository: Repository, stale: Repository) -> None:
    """What a file holds is made again here and now: carried out, it leaves the route where it is."""
    saved = read_plan(theirs(repository, stale).plan().canonical(), "plan.json")
    assert not theirs(repository, stale).apply(plan=saved, saved=True).changed
    assert route_of(repository).versions == (1,)


def test_a_saved_plan_that_ends_a_hold_survives_a_merge(repository: Repository) -> None:
    """Planned at one commit, carried out at another one with the same files: the end is that of the latter."""
    repository.apply()
    new_version(repository, "bad")
    repository.apply()
    kitaru("rollback", "agent", cwd=repository.folder).must()
    git(repository.folder, "revert", "--no-edit", "HEAD")
    saved = read_plan(repository.plan().canonical(), "plan.json")
    merged = repository.commit("as merged").strip()
    assert repository.client().apply(plan=saved, saved=True).changed
    (mark,) = repository.client().project.releases.head().flows["agent"].held_off["default"]
    assert mark.commit == merged


@pytest.mark.parametrize("how", ["by hand", "dirty"])
def test_a_hold_that_ended_without_a_commit_only_warns(repository: Repository, own_world: Path, how: str) -> None:
    """Nothing can be asked of a commit then; the move goes on, and is told."""
    repository.apply()
    new_version(repository, "bad")
    repository.apply()
    bob = repository.clone(own_world / "bob")
    kitaru("rollback", "agent", "-m", "bad", cwd=repository.folder).must()
    if how == "by hand":
        words = ("flow", "tag", "agent", "default", "--version", "1", "--exclusive", "--no-manifest")
        kitaru(*words, cwd=repository.folder).must()
    else:
        repository.manifest(routed("{default: 1}"))
        repository.apply(allow_dirty=True)
    assert route_of(repository).hold is None
    client = theirs(repository, bob)
    (told,) = [one for one in client.plan().flows[0].consequences if one.kind == "rolled_back"]
    assert told.text.endswith(": bad")
    client.apply()
    assert route_of(repository).versions == (2,)


def test_a_shallow_clone_that_can_not_tell_is_refused(
    repository: Repository, stale: Repository, own_world: Path
) -> None:
    """As with a hold: what it does not know is not contained, and with the history fetched it is."""
    git(repository.folder, "revert", "--no-edit", "HEAD")
    git(own_world, "clone", "-q", "--depth", "1", f"file://{repository.folder}", "shallow")
    shallow = Repository(own_world / "shallow")
    (one,) = theirs(repository, shallow).plan().flows[0].held
    assert "fetch the whole history" in one.why
    git(shallow.folder, "fetch", "-q", "--unshallow")
    assert [move.after for move in theirs(repository, shallow).plan().flows[0].moves if move.after] != []


def test_verbs_move_it_and_say_so(repository: Repository, stale: Repository) -> None:
    """tag, promote, rollback and deploy are a person's own word: allowed, with what comes back in the answer."""
    day = route_of(repository).at[:10]
    said = f"v2 was rolled back by Ann on {day}: it loses orders"
    tag = ("flow", "tag", "agent", "default", "--exclusive", "--no-manifest", "--version")
    done = kitaru(*tag, "2", "-o", "json", cwd=repository.folder).must().json["item"]
    assert done["rolled_back"] == [said]
    assert kitaru(*tag, "1", "-o", "json", cwd=repository.folder).must().json["item"]["rolled_back"] == []
    kitaru("flow", "tag", "agent", "other", "--version", "2", "--exclusive", "--no-manifest", cwd=repository.folder)
    back = ("promote", "agent", "other", "--to", "default", "--no-manifest")
    assert f"note: {said}" in kitaru(*back, cwd=repository.folder).must().said
    kitaru(*tag, "1", cwd=repository.folder).must()
    undo = ("rollback", "agent", "--to", "2", "--no-manifest")
    assert f"note: {said}" in kitaru(*undo, cwd=repository.folder).must().out
    kitaru(*tag, "1", cwd=repository.folder).must()
    deploy = ("deploy", "flows/work.py:agent", "--no-manifest", *place(repository), "--project", "research")
    done = kitaru(*deploy, cwd=stale.folder).must()
    assert "default: v3 has the content of v2, which was rolled back by" in done.said


def test_it_is_looked_after_like_everything_else(repository: Repository, stale: Repository) -> None:
    """history tells when the hold ended, verify finds the log sound, and a new version of old content is known."""
    shown = kitaru("history", "agent", cwd=repository.folder).must().out
    assert "default stays at v1, the hold ends" in shown
    data = kitaru("history", "agent", "-o", "json", cwd=repository.folder).must().json["items"][0]["edits"]
    (edit,) = [one for one in data if one["kind"] == "move"]
    (mark,) = edit["held_off"]
    assert (mark["commit"], mark["reason"], mark["by"]) == (head(repository), "it loses orders", "Ann")
    assert mark["left"] == [{"version": 2, "weight": 100}]
    assert "sound" in kitaru("store", "verify", "--deep", cwd=repository.folder).must().out
    repository.client().deployments.delete("agent", version=2)
    assert marks(repository.client().project.releases.head()) == [((2,), head(repository), "it loses orders")]
    assert "sound" in kitaru("store", "verify", "--deep", cwd=repository.folder).must().out
    theirs(repository, stale).apply()
    assert route_of(repository).versions == (1,)
    assert repository.client().project.releases.head().flows["agent"].latest == 3
