"""A rule binds as it was last applied: whoever moves the route, from wherever, and only the rule's branch lifts it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.core.commit import next_lockfile
from kitaru.core.protection import check_protected, guards, protect_words, protected, shut_out
from kitaru.errors import KitaruStateError
from kitaru.model.address import canonical_json
from kitaru.model.lockfile import Edit, FlowState, Lockfile, Protect, Rename, Retire, Untag
from kitaru.model.route import Protection
from kitaru.model.snapshot import Commit
from kitaru.store.port import Store
from tests.applying import new_version, routed
from tests.lock_strategies import AT, BY, after, holder, mint, move
from tests.repository import Repository, Watched, git, kitaru

MAIN = {"stable": Protection(branch="main")}
RULES = "protect: {stable: {branch: main}}\n"
ON_MAIN, ON_FEATURE = Commit(sha="1", branch="main"), Commit(sha="1", branch="feature")

# --- the rules --------------------------------------------------------------------------------------------------------


def bound(**rules: Protection) -> Lockfile:
    """A flow with a stable route, and rules that were applied with it."""
    lock = Lockfile(project="research")
    edits: list[Edit] = [mint("agent", 1), move("agent", "stable", 1)]
    return after(lock, *edits, Protect(kind="protect", flow="agent", rules=rules))


@pytest.mark.parametrize("applied", [False, True], ids=["by the manifest", "as applied"])
@pytest.mark.parametrize(
    ("rule", "commit", "count"),
    [
        (Protection(branch="main"), Commit(sha="1", branch="main"), 0),
        (Protection(branch="main"), Commit(sha="1", branch="feature"), 1),
        (Protection(branch="main"), Commit(sha="1"), 1),
        (Protection(branch="main"), Commit(sha="1", branch="x", dirty=True), 2),
        (Protection(), Commit(sha="1", dirty=True), 1),
        (Protection(clean=False), Commit(sha="1", dirty=True), 0),
    ],
)
def test_a_protected_route_moves_as_its_rule_says(rule: Protection, commit: Commit, count: int, applied: bool) -> None:
    """From its branch and a clean commit, whoever holds the rule: the manifest, or the store alone."""
    lock = bound(stable=rule) if applied else bound()
    wanted = {} if applied else {"stable": rule}
    led = (holder("agent", 1),)

    def said(edit: Edit) -> int:
        return len(guards(wanted, [edit], lock, commit))

    assert said(move("agent", "stable", 2, expects=(1,))) == count
    assert said(Untag(kind="untag", flow="agent", tag="stable", expects=led)) == count
    assert said(move("agent", "stable", 1, expects=(1,), exclusive=False)) == count
    assert said(move("agent", "canary", 1)) == 0
    assert said(Untag(kind="untag", flow="agent", tag="canary", expects=led)) == 0
    assert said(move("agent", "stable", 1, expects=(1,))) == 0
    assert said(move("other", "stable", 1)) == (0 if applied else count)


def test_both_rules_bind_a_move_and_an_equal_one_is_told_once() -> None:
    """What was applied and what the manifest says are two rules, where they differ; each tells where it comes from."""
    edit = move("agent", "stable", 2, expects=(1,))
    told = guards({"stable": Protection(branch="release")}, [edit], bound(**MAIN), ON_FEATURE)
    assert told == (
        "agent: route stable moves only from branch main, as applied in generation 1; this commit is on feature",
        "agent: route stable moves only from branch release, as the manifest says; this commit is on feature",
    )
    assert len(guards(MAIN, [edit], bound(**MAIN), ON_FEATURE)) == 1


@pytest.mark.parametrize(
    ("before", "wanted", "words"),
    [
        ({}, MAIN, ""),
        (MAIN, MAIN, ""),
        (MAIN, {}, "agent: protection of stable, as applied in generation 1, is lifted only from branch main; "),
        (MAIN, {"stable": Protection()}, "agent: protection of stable, as applied in generation 1, is changed only"),
        (MAIN, {**MAIN, "canary": Protection()}, ""),
    ],
)
def test_only_its_branch_lifts_a_rule(before: dict[str, Protection], wanted: dict[str, Protection], words: str) -> None:
    """A new rule is anybody's to apply; one that is there goes, or becomes another, from the branch that it names."""
    lock = bound(**before)
    edits = protected("agent", wanted, lock.flows["agent"])
    assert bool(edits) == (before != wanted)
    said = guards(wanted, [*edits, move("agent", "x", 1)], lock, ON_FEATURE)
    assert len(said) == bool(words)
    assert "".join(said).startswith(words)
    assert guards(wanted, edits, lock, ON_MAIN) == ()


def test_the_rule_that_is_lifted_asks_for_a_clean_commit_too() -> None:
    """A working tree with changes lifts no rule that asks for none."""
    lock = bound(stable=Protection())
    edits = protected("agent", {}, lock.flows["agent"])
    (said,) = guards({}, edits, lock, Commit(sha="1", branch="main", dirty=True))
    assert said.endswith("is lifted only from a clean commit; there are changes")


def test_a_rename_takes_no_protected_route_away() -> None:
    """Who calls the old name loses the route, so that a rename is bound as a move is; a removal likewise."""
    rename = Rename(kind="rename", flow="agent", was="old", expects=1)
    for edits in ([rename], [Retire(kind="retire", flow="agent", expects=1)]):
        assert len(guards({}, edits, bound(**MAIN), ON_FEATURE)) == 1
        assert guards({}, edits, bound(**MAIN), ON_MAIN) == ()
        assert guards({}, edits, bound(other=Protection(branch="main")), ON_FEATURE) == ()


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Protection(branch="main"), "it moves only by apply, from branch main, from a clean commit"),
        (Protection(branch="main", clean=False), "it moves only by apply, from branch main"),
        (Protection(), "it moves only by apply, from a clean commit"),
    ],
)
def test_a_verb_says_how_a_protected_route_moves(rule: Protection, words: str, applied: bool) -> None:
    """The error names the branch, where the rule comes from, and the way through a review."""
    wanted, state = ({}, bound(stable=rule).flows["agent"]) if applied else ({"stable": rule}, None)
    with pytest.raises(KitaruStateError) as caught:
        check_protected(wanted, "agent", "stable", state)
    origin = "as applied in generation 1" if applied else "as the manifest says"
    assert caught.value.message == f"route stable of agent is protected: {words} ({origin})"
    assert "--manifest-only" in caught.value.hint
    check_protected(wanted, "agent", "canary", state)


def test_a_change_of_rules_is_told_tag_by_tag() -> None:
    """What is new, what is otherwise, and what is gone, each with what was so until now."""
    edit = Protect(
        kind="protect",
        flow="agent",
        expects={"stable": Protection(branch="main"), "gold": Protection()},
        rules={"stable": Protection(branch="main", clean=False), "canary": Protection(clean=False)},
    )
    assert protect_words(edit) == (
        "canary is protected from now on: only by apply",
        "gold is protected no longer (was: clean commit)",
        "stable is protected otherwise: branch main (was: branch main, clean commit)",
    )


def test_a_flow_without_rules_is_stored_as_before() -> None:
    """No rule, no byte: states of earlier releases keep their digests; and rules that equal a default stay small."""
    state = bound().flows["agent"]
    assert "protect" not in state.canonical().decode()
    ruled = bound(stable=Protection()).flows["agent"]
    assert len(ruled.canonical()) - len(state.canonical()) == len(',"protect":{"stable":{}},"protect_generation":1')
    assert FlowState.parse(ruled.canonical()) == ruled


def test_a_thousand_flows_are_protected_in_one_generation() -> None:
    """All at once or not at all, and one flow whose rules changed meanwhile is named."""
    names = [f"flow_{number}" for number in range(1000)]
    lock = after(Lockfile(project="research"), *(mint(name, 1) for name in names))
    edits = [edit for name in names for edit in protected(name, MAIN, lock.flows[name])]
    following = next_lockfile(lock, edits, at=AT, by=BY)
    assert isinstance(following, Lockfile)
    assert {state.protect["stable"].branch for state in following.flows.values()} == {"main"}
    grown = len(canonical_json(following.data())) - len(canonical_json(lock.data()))
    assert grown < 1000 * 80
    broken = next_lockfile(following, edits[:1], at=AT, by=BY)
    assert isinstance(broken, tuple)
    assert (broken[0].flow, broken[0].message) == ("flow_0", "its routes are protected otherwise by now")


# --- over a real store ------------------------------------------------------------------------------------------------


@pytest.fixture
def protected_repository(repository: Repository) -> Repository:
    """v1 to v3; stable at v2 and protected, gold a protected label of v1; on a branch whose manifest has no rule."""
    repository.apply()
    for word in ("second", "third"):
        new_version(repository, word)
        repository.apply()
    with_rules = "protect: {stable: {branch: main}, gold: {branch: main}}\n"
    repository.manifest(routed("{default: 3, stable: 2, gold: [1], canary: 1}", with_rules))
    repository.commit()
    repository.apply()
    git(repository.folder, "switch", "-q", "-c", "feature")
    repository.manifest(routed("{default: 3, stable: 2, gold: [1], canary: 1}"))
    repository.commit()
    return repository


def head(repository: Repository) -> Lockfile:
    return repository.client().session.releases.head()


def place(repository: Repository) -> tuple[str, ...]:
    return ("--store", f"file://{repository.store_folder}", "--project", "research")


def test_a_branch_that_deletes_the_rule_is_held_by_it(protected_repository: Repository) -> None:
    """Neither the route moves nor the rule goes; the plan says so beforehand, and the branch of the rule does both."""
    repository, at = protected_repository, head(protected_repository).generation
    repository.manifest(routed("{default: 3, stable: 3, gold: [1], canary: 1}"))
    repository.commit()
    plan = repository.plan()
    assert f"route stable moves only from branch main, as applied in generation {at}" in plan.guards[0]
    assert [text for text in plan.guards if "protection of gold" in text and "is lifted only from branch main" in text]
    assert any("stable is protected no longer" in text for text in plan.flows[0].notes)
    done = kitaru("apply", "--yes", cwd=repository.folder)
    done.refused("protected routes stand in the way", "this commit is on feature", code=1)
    assert head(repository).generation == at
    git(repository.folder, "switch", "-q", "main")
    git(repository.folder, "merge", "-q", "feature")
    repository.apply()
    state = head(repository).flows["agent"]
    assert (state.routes["stable"].versions, state.protect, state.protect_generation) == ((3,), {}, 0)
    assert repository.plan().is_empty


def test_a_rule_is_applied_shown_and_remembered(repository: Repository) -> None:
    """A plan with a new rule alone is not empty: it is shown, written as one generation, and told by history."""
    repository.manifest(routed("{default: head, stable: head}"))
    repository.commit()
    repository.apply()
    repository.manifest(routed("{default: head, stable: head}", RULES))
    repository.commit()
    words = "stable is protected from now on: branch main, clean commit"
    assert words in kitaru("plan", cwd=repository.folder).must().out
    assert words in kitaru("plan", "-o", "markdown", cwd=repository.folder).must().out
    assert repository.apply().changed
    assert head(repository).flows["agent"].protect == MAIN
    assert repository.plan().is_empty
    assert words in kitaru("history", "agent", cwd=repository.folder).must().out


def test_a_branch_that_claims_a_route_is_shown_and_told(repository: Repository) -> None:
    """The plan says loudly who is shut out; who is then refused learns who did it, from where, and the way out."""
    repository.apply()
    git(repository.folder, "switch", "-q", "-c", "claim")
    repository.manifest(routed("{default: head}", "protect: {default: {branch: claim}}\n"))
    sha = repository.commit().strip()[:12]
    words = "default moves only from branch claim from now on; no other branch can move it, or lift that"
    (told,) = repository.plan().flows[0].consequences
    assert (told.kind, told.severe, told.text, told.routes) == ("protected", True, words, ("default",))
    assert words in kitaru("plan", cwd=repository.folder).must().out
    assert f":warning: `agent`: {words}" in kitaru("plan", "-o", "markdown", cwd=repository.folder).must().out
    repository.apply()
    git(repository.folder, "switch", "-q", "main")
    new_version(repository, "second")
    origin = f"as applied in generation 2 by Ann from {sha} on claim"
    guard, lifting = repository.plan().guards
    assert f"route default moves only from branch claim, {origin}; this commit is on main" in guard
    assert "protection of default" in lifting
    done = kitaru("apply", "--yes", cwd=repository.folder)
    done.refused(origin, "git switch to that branch (-c where it is gone), change protect:", code=1)
    git(repository.folder, "branch", "-q", "-D", "claim")
    git(repository.folder, "switch", "-q", "-c", "claim")
    repository.apply()
    assert head(repository).flows["agent"].protect == {}
    git(repository.folder, "switch", "-q", "main")
    new_version(repository, "third")
    repository.apply()
    assert head(repository).flows["agent"].routes["default"].versions == (3,)


def test_a_rule_shuts_nobody_out_of_a_route_that_is_not_there() -> None:
    """Nor does one that names no branch, or the same branch as until now."""
    lock = bound(stable=Protection(branch="main"))
    state = lock.flows["agent"]

    def told(**rules: Protection) -> list[str]:
        (edit,) = protected("agent", rules, state)
        return [one.text.partition(" ")[0] for one in shut_out(edit, state)]

    assert told(stable=Protection(branch="claim"), other=Protection(branch="claim")) == ["stable"]
    assert told(stable=Protection(branch="main", clean=False)) == []
    assert told(stable=Protection()) == []
    assert shut_out(Protect(kind="protect", flow="agent", rules=MAIN), None) == ()


VERBS = (
    ("flow", "tag", "agent", "stable", "--version", "1", "--exclusive"),
    ("flow", "untag", "agent", "stable"),
    ("flow", "tag", "agent", "gold", "--version", "2"),
    ("flow", "untag", "agent", "gold", "--version", "1"),
    ("promote", "agent", "default", "--to", "stable"),
    ("rollback", "agent", "stable", "--to", "1"),
    ("flow", "deployments", "delete", "--yes", "agent", "--version", "1"),
)


def test_no_verb_moves_it_from_anywhere(protected_repository: Repository, own_world: Path) -> None:
    """Not in a checkout whose manifest has no rule, not where there is no manifest, not beside another project's."""
    repository = protected_repository
    nowhere, other = own_world / "nowhere", own_world / "other"
    nowhere.mkdir()
    Repository.make(other, manifest=routed("{default: head}").replace("research", "elsewhere"))
    kitaru("flow", "untag", "agent", "canary", *place(repository), cwd=nowhere).must()
    at = head(repository)
    rule = "is protected: it moves only by apply, from branch main, from a clean commit (as applied in generation 4)"
    for words in VERBS:
        kitaru(*words, cwd=repository.folder).refused(rule, code=1)
        kitaru(*words, "--no-manifest", cwd=repository.folder).refused(rule, code=1)
        kitaru(*words, *place(repository), cwd=nowhere).refused(rule, code=1)
        kitaru(*words, *place(repository), cwd=other).refused(rule, code=1)
    assert head(repository) == at


def test_no_deploy_moves_it_from_anywhere(protected_repository: Repository, own_world: Path) -> None:
    """A deploy from another repository, or from this one, leaves the protected route; a free one it moves."""
    repository, at = protected_repository, head(protected_repository).generation
    other = Repository.make(own_world / "other", manifest="")
    (other.folder / "kitaru.yaml").unlink()
    other.commit()
    target = ("deploy", "flows/work.py:agent", "--tag")
    for where, rest in ((repository, ()), (other, place(repository))):
        kitaru(*target, "stable", "--exclusive", *rest, cwd=where.folder).refused("is protected", code=1)
    assert head(repository).generation == at
    kitaru(*target, "trial", "--exclusive", *place(repository), cwd=other.folder).must()


def test_a_rule_of_another_project_binds_nothing_here(protected_repository: Repository, own_world: Path) -> None:
    """The manifest in reach counts where it is about the store and the project that are acted on."""
    rules = "protect: {canary: {branch: main}}\n"
    manifest = routed("{default: head, canary: head}", rules).replace("research", "elsewhere")
    other = Repository.make(own_world / "other", manifest=manifest)
    words = ("flow", "tag", "agent", "canary", "--version", "2", "--exclusive")
    kitaru(*words, *place(protected_repository), cwd=other.folder).must()


def test_a_manifest_that_does_not_read_lifts_nothing(protected_repository: Repository) -> None:
    """A verb that leaves the manifest alone goes without it, and is bound by what was applied."""
    repository = protected_repository
    repository.manifest("kitaru: 1\nprojct: x\n")
    free = ("flow", "tag", "agent", "canary", "--version", "2", "--exclusive", *place(repository))
    kitaru(*free, cwd=repository.folder).refused("projct")
    kitaru(*free, "--no-manifest", cwd=repository.folder).must()
    bound_one = ("rollback", "agent", "stable", "--to", "1", "--no-manifest", *place(repository))
    kitaru(*bound_one, cwd=repository.folder).refused("is protected", code=1)


@pytest.mark.parametrize("how", ["prune", "untag by prune", "rename", "another manifest"])
def test_no_other_way_round(protected_repository: Repository, how: str) -> None:
    """Prune, a rename and another manifest of the repository are refused from the branch, and leave the rule."""
    repository, at = protected_repository, head(protected_repository).generation
    manifest = (repository.folder / "kitaru.yaml").read_text()
    given, name = {"prune": "prune" in how}, "kitaru.yaml"
    if how == "prune":
        repository.manifest(routed("{default: head}").replace("  agent:", "  other:"))
    elif how == "untag by prune":
        repository.manifest(routed("{default: 3, gold: [1], canary: 1}"))
    elif how == "rename":
        repository.manifest(manifest.replace("  agent:", "  writer:") + "moved: {agent: writer}\n")
    else:
        repository.write("other.yaml", manifest.replace("stable: 2", "stable: 3"))
        repository.manifest(routed("{default: head}").replace("  agent:", "  other:"))
        name = "other.yaml"
    repository.commit()
    with pytest.raises(KitaruStateError, match="protected routes stand in the way"):
        KitaruClient(manifest=repository.folder / name).apply(**given)
    assert head(repository).generation == at


def test_a_removed_flow_keeps_its_rules(protected_repository: Repository) -> None:
    """Who declares it again is bound as before; a rename takes the rules along."""
    repository = protected_repository
    git(repository.folder, "switch", "-q", "main")
    manifest = (repository.folder / "kitaru.yaml").read_text()
    repository.manifest(manifest.replace("  agent:", "  writer:") + "moved: {agent: writer}\n")
    repository.commit()
    repository.apply()
    assert set(head(repository).flows["writer"].protect) == {"stable", "gold"}
    repository.manifest(routed("{default: head}").replace("  agent:", "  other:"))
    repository.commit()
    repository.apply(prune=True)
    assert set(head(repository).flows["writer"].protect) == {"stable", "gold"}
    git(repository.folder, "switch", "-q", "-c", "again")
    manifest = routed("{default: 1, stable: 1}").replace("  agent:", "  writer:")
    repository.manifest(f"{manifest}moved: {{agent: writer}}\n")
    repository.commit()
    assert any("protection of stable" in text for text in repository.plan().guards)
    with pytest.raises(KitaruStateError):
        repository.apply()


class Meanwhile(Watched):
    """A store in which somebody else acts just before the first generation is written."""

    def __init__(self, inner: Store, act: Callable[[], Any]) -> None:
        super().__init__(inner)
        self._act: Callable[[], Any] | None = act

    def create(self, key: str, body: bytes) -> Any:
        if "/lock/" in key and self._act is not None:
            act, self._act = self._act, None
            act()
        return super().create(key, body)


@pytest.mark.parametrize("verb", ["tag", "deploy", "apply"])
def test_a_rule_that_is_applied_meanwhile_binds(repository: Repository, own_world: Path, verb: str) -> None:
    """Decided before the rule was there, written after it: refused, since who loses the generation looks again."""
    repository.manifest(routed("{default: 1, stable: 1}"))
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    store = f"file://{repository.store_folder}"
    theirs = repository.clone(own_world / "theirs")
    theirs.manifest(routed("{default: 1, stable: 1}", RULES))
    theirs.commit()
    acted = []

    def protect() -> None:
        acted.append(theirs.client(store=store).apply().generation)

    git(repository.folder, "switch", "-q", "-c", "feature")
    new_version(repository, "third")
    client = repository.client(wrap=lambda inner: Meanwhile(inner, protect))
    with pytest.raises(KitaruStateError, match="as applied in generation 3"):
        if verb == "tag":
            client.deployments.tag("agent", "stable", version=2, exclusive=True, manifest="leave")
        elif verb == "deploy":
            client.deployments.deploy("flows/work.py:agent", tag="stable", exclusive=True, manifest="leave")
        else:
            repository.manifest(routed("{default: 1, stable: head}"))
            repository.commit()
            client.apply()
    assert acted == [3]
    assert head(repository).flows["agent"].routes["stable"].versions == (1,)
    assert head(repository).generation == 3


# --- routes that are not there yet ------------------------------------------------------------------------------------


def test_a_protected_route_that_is_not_placed_yet(repository: Repository) -> None:
    """validate and plan warn, with what was probably meant; reading commands and apply go on."""
    repository.manifest(
        routed("{default: head, stable: 1}", "protect: {stabel: {branch: main}, gold: {branch: main}}\n")
    )
    repository.commit()
    words = "protect: no flow has a route 'stabel' yet; did you mean 'stable'?"
    for command in (("validate",), ("plan",)):
        said = kitaru(*command, cwd=repository.folder).must().said
        assert words in said
        assert "protect: no flow has a route 'gold' yet" in said
    kitaru("flow", "list", cwd=repository.folder).must()
    repository.apply()
    assert repository.plan().is_empty
    kitaru("flow", "tag", "agent", "other", "--version", "1", "--no-manifest", cwd=repository.folder).must()
    kitaru("flow", "tag", "agent", "gold", "--version", "1", cwd=repository.folder).refused("is protected", code=1)


def test_what_an_overlay_or_the_store_routes_is_placed(repository: Repository) -> None:
    """No warning of a tag that another target routes, nor of one that was placed by hand."""
    more = "targets: {live: {flows: {agent: {routes: {stable: 1}}}}}\n"
    repository.apply()
    kitaru("flow", "tag", "agent", "gold", "--version", "1", "--no-manifest", cwd=repository.folder).must()
    rules = "protect: {stable: {branch: main}, gold: {branch: main}, default: {branch: main}}\n"
    repository.manifest(routed("{default: head}", more + rules))
    repository.commit()
    assert repository.plan().warnings == ()
    assert len(repository.client().project.validate().warnings) == 1
