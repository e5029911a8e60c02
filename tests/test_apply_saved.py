"""A plan that was saved is carried out as it was shown to people, on the ground that it was made on, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kitaru.client.project import Applied, Scope
from kitaru.core.review import tampered, unreviewed
from kitaru.errors import (
    KitaruConflictError,
    KitaruIntegrityError,
    KitaruStateError,
    KitaruUsageError,
)
from kitaru.model import address
from kitaru.model.plan import Plan
from kitaru.store.port import Store
from tests.applying import TWO, generation, new_version, routed, routes_of
from tests.repository import MANIFEST, Repository, Watched, git, kitaru

# --- saved plans -----------------------------------------------------------------------------------------------------


def apply_saved(repository: Repository, plan: Plan) -> Applied:
    return repository.client().apply(plan=Plan.parse(plan.canonical()), saved=True)


def test_a_saved_plan_is_carried_out(repository: Repository) -> None:
    """A plan that went through a file does what it says."""
    assert apply_saved(repository, repository.plan()).generation == 1
    assert repository.plan().is_empty


@pytest.mark.parametrize("what", ["generation", "manifest", "commit"])
def test_a_saved_plan_is_refused_when_its_ground_moved(repository: Repository, what: str) -> None:
    """Whatever of generation, manifest and source is another than planned: refused, with what moved."""
    repository.manifest(TWO)
    repository.commit()
    plan = repository.plan("agent")
    if what == "generation":
        repository.apply("greeter")
    elif what == "manifest":
        repository.manifest(TWO + "# a comment\n")
        repository.commit()
    else:
        repository.change("flows/work.py", "hello", "good day")
        repository.commit()
    before = generation(repository)
    with pytest.raises(KitaruConflictError) as refused:
        apply_saved(repository, plan)
    said = {
        "generation": "Ann wrote generation 1",
        "manifest": "kitaru.yaml has changed since",
        "commit": "the source has changed since",
    }
    assert said[what] in refused.value.message
    assert "kitaru plan --out" in refused.value.hint
    assert generation(repository) == before


def test_a_plan_without_changes_is_refused_when_its_ground_moved(repository: Repository, own_world: Path) -> None:
    """That nothing is to be done holds for the generation that it was made on: another one is said, and who wrote it.

    So it is for a plan whose edits were taken out of the file: refused on its own generation, and on a later one.
    """
    repository.manifest(routed("{default: head}"))
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    hollow = repository.plan().model_copy(update={"edits": ()})
    with pytest.raises(KitaruIntegrityError, match="was changed after it was made: what it does"):
        apply_saved(repository, hollow)
    repository.apply()
    quiet = own_world / "quiet.json"
    assert "No changes" in kitaru("plan", "--out", quiet, cwd=repository.folder).must().out
    assert "No changes" in kitaru("apply", quiet, "--yes", cwd=repository.folder).must().out
    kitaru(
        *("flow", "tag", "agent", "default", "--version", "1", "--exclusive", "--no-manifest"), cwd=repository.folder
    ).must()
    for form in ("text", "json"):
        done = kitaru("apply", quiet, "--yes", "-o", form, cwd=repository.folder)
        done.refused("made on generation 2, and Ann wrote generation 3", "agent default", code=1)
        assert "No changes" not in done.said
    with pytest.raises(KitaruConflictError, match="made on generation 1, and Ann wrote generation 2"):
        apply_saved(repository, hollow)
    assert (generation(repository), routes_of(repository)) == (3, {"default": (1,)})


def test_a_saved_plan_of_another_store_is_refused(repository: Repository, own_world: Path) -> None:
    """A plan for a later history, or for another one, is not carried out on this one."""
    repository.apply()
    new_version(repository, "second")
    plan = repository.plan()
    elsewhere = repository.client(store=f"file://{own_world / 'elsewhere'}")
    with pytest.raises(KitaruConflictError, match=r"it is for store file://.*, this is file://.*/elsewhere"):
        elsewhere.apply(plan=plan, saved=True)
    older = plan.model_copy(update={"store_id": ""})
    with pytest.raises(KitaruConflictError, match="the plan was made on generation 1; this store has 0"):
        elsewhere.apply(plan=older, saved=True)
    assert not (own_world / "elsewhere").exists()


def test_a_saved_plan_is_not_carried_out_on_a_copy_of_its_store(repository: Repository, own_world: Path) -> None:
    """A copy has the same generations, and is another place: what differs is said, and the command that goes on."""
    repository.apply()
    copy, saved = own_world / "copy", own_world / "plan.json"
    shutil.copytree(repository.store_folder, copy)
    new_version(repository, "second")
    kitaru("plan", "--out", saved, cwd=repository.folder).must()
    done = kitaru("apply", saved, "--yes", "--store", f"file://{copy}", cwd=repository.folder)
    done.refused(
        f"it is for store file://{repository.store_folder}, this is file://{copy}", "--out FILE makes a new one", code=1
    )
    assert repository.client(store=f"file://{copy}").session.releases.head().generation == 1
    kitaru("apply", saved, "--yes", cwd=repository.folder).must()


@pytest.mark.parametrize("plan_is", ["of a shared folder", "older"])
def test_a_store_that_is_found_at_another_path_is_the_same(
    repository: Repository, own_world: Path, plan_is: str
) -> None:
    """A folder that another machine has elsewhere is no other store; a plan of an older release tells no copy."""
    repository.apply()
    new_version(repository, "second")
    plan = repository.plan()
    there = own_world / "mounted" / "elsewhere"
    if plan_is == "older":
        there.parent.mkdir()
        shutil.copytree(repository.store_folder, there)
        written = json.loads(plan.canonical())
        del written["store_id"]
        plan = Plan.parse(address.canonical_json(written))
    else:
        there.parent.symlink_to(repository.store_folder.parent)
        there = there.with_name(repository.store_folder.name)
    done = repository.client(store=f"file://{there}").apply(plan=plan, saved=True)
    assert (done.generation, done.changed) == (2, True)


def test_a_tampered_plan_is_refused(repository: Repository) -> None:
    """A snapshot, an edit or a number changed by hand: refused, and the store is as it was."""
    plan = json.loads(repository.plan().canonical())

    def changed(**what: Any) -> Plan:
        copy = json.loads(json.dumps(plan))
        build = copy["flows"][0]["build"]
        build["snapshot"].update(what.get("snapshot", {}))
        build.update(what.get("build", {}))
        for edit in copy["edits"]:
            edit.update(what.get(edit["kind"], {}))
        return Plan.parse(address.canonical_json(copy))

    for forged in (
        changed(snapshot={"target": "flows/evil.py:agent"}),
        changed(build={"snapshot_digest": "0" * 64}),
        changed(add_version={"snapshot": "0" * 64}),
        changed(add_version={"version": 7}),
        changed(move={"holders": [{"version": 1, "snapshot": "0" * 64}]}),
        changed(move={"holders": [{"version": 9, "snapshot": "0" * 64}]}),
        changed(move={"tag": "stable"}),
    ):
        with pytest.raises(KitaruIntegrityError, match="was changed after it was made"):
            apply_saved(repository, forged)
        assert generation(repository) == 0


def test_a_flow_that_the_manifest_does_not_declare(repository: Repository) -> None:
    """Planning a name that is not there says what is declared."""
    with pytest.raises(KitaruUsageError, match="declares no flow nope; it declares: agent"):
        repository.plan("nope")


def test_one_flow_can_be_applied_alone(repository: Repository) -> None:
    """apply FLOW touches that flow and leaves the other for later."""
    repository.manifest(TWO)
    repository.commit()
    repository.apply("greeter")
    lock = repository.client().session.releases.head()
    assert sorted(lock.flows) == ["greeter"]
    assert [flow for flow, _ in repository.plan().builds] == ["agent"]


def test_a_saved_plan_proves_nothing_about_where_it_is_applied(repository: Repository) -> None:
    """Guards and commit are those of the checkout, whatever stands in the file: protection can't be edited away."""
    repository.manifest(MANIFEST + "protect: {default: {branch: main}}\n")
    repository.commit()
    repository.apply()
    git(repository.folder, "checkout", "-q", "-b", "side")
    new_version(repository, "second")
    plan = repository.plan()
    assert plan.guards
    forged = plan.model_copy(
        update={"guards": (), "commit": plan.commit.model_copy(update={"branch": "main", "sha": "0" * 40})}
    )
    with pytest.raises(KitaruStateError, match="moves only from branch main"):
        repository.client().apply(plan=forged, saved=True)
    assert routes_of(repository) == {"default": (1,)}


def test_what_a_saved_plan_hides_is_found(repository: Repository) -> None:
    """A plan whose breaking changes were taken out of the file is refused, and so is a review of it."""
    repository.apply()
    text = (repository.folder / "flows/work.py").read_text()
    repository.write("flows/work.py", text.replace("def agent(topic: str)", "def agent(topic: int)"))
    repository.commit()
    plan = repository.plan()
    flow = plan.flows[0]
    assert flow.build is not None
    quiet = flow.model_copy(update={"build": flow.build.model_copy(update={"changes": ()}), "consequences": ()})
    hidden = plan.model_copy(update={"flows": (quiet,)})
    with pytest.raises(KitaruIntegrityError, match="what it shows of agent"):
        repository.client().apply(plan=hidden, saved=True)
    assert any("breaks callers" in line for line in unreviewed(plan, [hidden]))
    assert unreviewed(plan, [plan]) == ()


# --- what a file tells, and does not ----------------------------------------------------------------------------------

SECRETIVE = MANIFEST.replace(
    "    routes:",
    "    image: {environment: {MODE: clear-text, LEVEL: '3'}, secret_environment_from: [API_KEY]}\n    routes:",
)


@pytest.fixture
def secretive(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A flow with two variables, and a secret whose value is at hand while the plan is made."""
    monkeypatch.setenv("API_KEY", "value-of-a-secret")
    repository.manifest(SECRETIVE)
    repository.commit()
    return repository


def test_a_saved_plan_holds_no_value_of_a_variable(secretive: Repository) -> None:
    """Names are in the file, values are not; and what is applied from it has them."""
    kitaru("plan", "--out", "plan.json", cwd=secretive.folder).must()
    text = (secretive.folder / "plan.json").read_text()
    assert '"environment":{"LEVEL":"***","MODE":"***"}' in text
    assert '"API_KEY"' in text
    assert "clear-text" not in text
    assert "value-of-a-secret" not in text
    kitaru("apply", "plan.json", "--yes", cwd=secretive.folder).must()
    details = secretive.client().deployments.get("agent", version=1).details
    assert details is not None
    assert details.image.environment == {"MODE": "clear-text", "LEVEL": "3"}
    assert secretive.plan(ignoring=[secretive.folder / "plan.json"]).is_empty


def test_a_plan_that_was_saved_with_values_is_carried_out(secretive: Repository) -> None:
    """As earlier releases wrote it."""
    plan = secretive.plan()
    assert b"clear-text" in plan.canonical()
    assert apply_saved(secretive, plan).changed


@pytest.mark.parametrize("said", [{"MODE": "***", "LEVEL": "4"}, {"MODE": "***"}, {"MODE": "other", "LEVEL": "3"}])
def test_variables_that_were_changed_in_the_file_are_found(secretive: Repository, said: dict[str, str]) -> None:
    """All values are there or none, and all names: a reader was shown what is done."""
    plan = secretive.plan()
    (flow,) = plan.flows
    assert flow.build is not None
    image = flow.build.snapshot.image.model_copy(update={"environment": said})
    snapshot = flow.build.snapshot.model_copy(update={"image": image})
    forged = plan.model_copy(
        update={"flows": (flow.model_copy(update={"build": flow.build.model_copy(update={"snapshot": snapshot})}),)}
    )
    with pytest.raises(KitaruIntegrityError, match="was changed after it was made: what it shows of agent"):
        apply_saved(secretive, forged)
    assert unreviewed(plan, [forged]) != ()
    assert generation(secretive) == 0


def test_a_review_without_values_binds_them(secretive: Repository) -> None:
    """The same variables with another value are another version, which nobody reviewed."""
    reviewed = Plan.parse(secretive.plan().redacted.canonical())
    assert unreviewed(secretive.plan(), [reviewed]) == ()
    secretive.manifest(SECRETIVE.replace("clear-text", "another"))
    secretive.commit()
    (sentence, *_) = unreviewed(secretive.plan(), [reviewed])
    assert sentence.endswith("of other content than was reviewed")
    assert "another" not in sentence


def test_a_change_of_protection_is_reviewed(repository: Repository) -> None:
    """A rule counts as shown where the plan's notes show it."""
    repository.apply()
    repository.manifest(MANIFEST + "protect: {default: {branch: main}}\n")
    repository.commit()
    plan = repository.plan()
    assert unreviewed(plan, [plan]) == ()
    quiet = plan.model_copy(update={"flows": tuple(flow.model_copy(update={"notes": ()}) for flow in plan.flows)})
    rule = "agent: default is protected from now on: branch main, clean commit, which was not reviewed"
    assert unreviewed(plan, [quiet]) == (rule,)
    assert unreviewed(plan, [])[0] == rule
    with pytest.raises(KitaruIntegrityError):
        apply_saved(repository, quiet)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every number, text and truth value in JSON data."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*path, key))
    elif value is not None:
        yield path


def test_no_word_of_a_saved_plan_can_be_changed(repository: Repository) -> None:
    """Whatever number, name or digest of its flows and edits is another: found, or no plan at all."""
    rules = "protect: {stable: {branch: main}}\nmoved: {agent: writer}\n"
    repository.manifest(TWO)
    repository.commit()
    repository.apply()
    new_version(repository, "second")
    text = TWO.replace("  agent:", "  writer:").replace("{default: head}", "{default: head, stable: [1, 2]}")
    repository.manifest(text + rules)
    repository.commit()
    plan = repository.plan()
    assert {edit.kind for edit in plan.edits} == {"rename", "add_version", "move", "protect"}
    data = json.loads(plan.redacted.canonical())
    assert tampered(Plan.parse(address.canonical_json(data)), plan) == ()
    tried = 0
    for path in leaves({"flows": data["flows"], "edits": data["edits"]}):
        if "consequences" in path or "unmanaged" in path or "floor" in path:
            continue
        copy = json.loads(json.dumps(data))
        *way, last = path
        place = reduce(lambda part, key: part[key], way, copy)
        old = place[last]
        place[last] = not old if isinstance(old, bool) else old + 1 if isinstance(old, int | float) else f"{old}x"
        try:
            forged = Plan.parse(address.canonical_json(copy))
        except ValidationError:
            continue
        tried += 1
        assert tampered(forged, plan), path
    assert tried > 60


# --- what is asked of whom, and when ----------------------------------------------------------------------------------


def test_the_lock_is_read_once(repository: Repository) -> None:
    """An apply of a saved plan reads the newest state a single time: it is checked, planned and built upon as read."""
    repository.apply()
    new_version(repository, "second")
    plan = Plan.parse(repository.plan().redacted.canonical())
    seen: list[Watched] = []

    def watched(store: Store) -> Store:
        seen.append(Watched(store))
        return seen[-1]

    assert repository.client(wrap=watched).apply(plan=plan, saved=True).generation == 2
    assert seen[0].calls.count(("read", address.lock_hint("research"))) == 1


def test_a_plan_that_was_opened_is_made_but_once(repository: Repository) -> None:
    """The command shows what it then carries out: the same plan, and refused where the store went on meanwhile."""
    plan = Plan.parse(repository.plan().redacted.canonical())
    client = repository.client()
    opened = client.project.reopened(plan)
    repository.apply()
    with pytest.raises(KitaruConflictError, match="Ann wrote generation 1"):
        client.apply(plan=opened, saved=True)
    new_version(repository, "second")
    opened = client.project.reopened(repository.plan())
    done = client.apply(plan=opened, saved=True)
    assert (done.plan is opened, done.generation) == (True, 2)


@pytest.mark.parametrize("given", [{"flows": ("agent",)}, {"prune": True}], ids=["a flow", "prune"])
def test_a_saved_plan_takes_nothing_more(repository: Repository, given: dict[str, Any]) -> None:
    """What it is about was chosen when it was made: a flow, or --prune, beside it would be passed over in silence."""
    plan = repository.plan()
    reopened = partial(repository.client().project.reopened, plan, Scope(**given))
    for verb in (reopened, partial(repository.client().apply, plan=plan, saved=True, **given)):
        with pytest.raises(KitaruUsageError, match="is carried out whole") as refused:
            verb()
        assert "--out FILE" in refused.value.hint


def test_a_refusal_comes_before_the_plan_is_shown(repository: Repository, own_world: Path) -> None:
    """Options that it does not take, a file that was changed, a store that went on: said at once, and nothing else."""
    saved, changed = own_world / "plan.json", own_world / "changed.json"

    def refused(*words: str | Path, code: int = 2) -> str:
        done = kitaru("apply", *words, "--yes", cwd=repository.folder).refused(code=code)
        assert "Plan for project" not in done.said, done.said
        return done.err

    kitaru("plan", "--out", saved, cwd=repository.folder).must()
    changed.write_bytes(saved.read_bytes().replace(b"flows/work.py:agent", b"flows/evil.py:agent"))
    assert "is carried out whole, as it was made, without --prune" in refused(saved, "--prune")
    for words in ((saved, "agent"), ("agent", saved)):
        assert "plan.json is no flow; a saved plan is applied alone" in refused(*words)
    assert "was changed after it was made: what it shows of agent" in refused(changed, code=1)
    assert generation(repository) == 0
    shown = kitaru("apply", saved, "--yes", cwd=repository.folder).must()
    assert "Plan for project research" in shown.out
    assert "Ann wrote generation 1" in refused(saved, code=1)


def test_files_that_are_given_are_no_changes(repository: Repository) -> None:
    """A saved plan in the working tree, or a folder of them, does not make it dirty; any other file does."""
    folder = repository.folder
    kitaru("plan", "--out", "plan.json", cwd=folder).must()
    kitaru("plan", cwd=folder).refused("plan.json")
    kitaru("plan", "--drift", cwd=folder).must()
    (folder / "reviewed").mkdir()
    (folder / "plan.json").rename(folder / "reviewed" / "001.json")
    stray = repository.write("reviewed/notes.txt", "stray")
    kitaru("apply", "--reviewed", "reviewed", "--yes", cwd=folder).refused("reviewed/notes.txt")
    stray.unlink()
    kitaru("apply", "--reviewed", "reviewed", "--yes", cwd=folder).must()
    assert generation(repository) == 1
    new_version(repository, "second")
    (folder / "reviewed" / "001.json").unlink(missing_ok=True)
    repository.commit()
    kitaru("plan", "--out", "plan.json", cwd=folder).must()
    kitaru("apply", "--reviewed", "plan.json", "--yes", cwd=folder).must()
    assert generation(repository) == 2
    repository.change("flows/work.py", "hello", "good day")
    kitaru("plan", "--drift", cwd=folder).must()
