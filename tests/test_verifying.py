"""store verify: a sound store is called sound; whatever was changed, swapped, dropped or cut off is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.cli.views.history import verified_lines
from kitaru.client.history import Verified
from kitaru.errors import KitaruIntegrityError, KitaruUsageError
from kitaru.model import address
from kitaru.model.address import canonical_json, digest
from kitaru.model.lockfile import Generation, Lockfile
from kitaru.release.releases import Releases
from kitaru.store.appended import AppendedLog
from kitaru.upkeep import verify as verify_module
from kitaru.wiring import Silent
from tests.applying import everything
from tests.lock_strategies import mint, move
from tests.repository import MANIFEST, Repository, WallClock, Watched, kitaru
from tests.s3_servers import S3Server
from tests.test_releases import HINT, PROJECT, Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Nine generations of three flows."""
    made = Log(tmp_path / "store")
    made.grow(9, flows=3)
    return made


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Log:
    """The same, as a large project writes it: no entry holds a full state."""
    monkeypatch.setattr("kitaru.release.releases.FULL_STATE_BYTES", 0)
    made = Log(tmp_path / "large")
    made.grow(9, flows=3)
    return made


def verify(log: Log, **given: Any) -> Verified:
    client = KitaruClient(store=log.store.url, project=PROJECT)
    client.session.store = log.store
    return client.history.verify(**given)


def rewrite(log: Log, number: int, **changed: Any) -> str:
    """Write generation ``number`` anew with other content; the digest of its new bytes."""
    path = log.entry(number)
    entry = Generation.parse(path.read_bytes()).model_copy(update=changed)
    path.unlink()
    path.write_bytes(entry.canonical())
    return digest(entry.canonical())


def texts(found: Verified) -> str:
    return "\n".join(f"{fault.key}: {fault.message}" for fault in found.problems)


def test_a_sound_log(log: Log) -> None:
    """Nothing wrong: the number of generations, and the digest of the newest."""
    found = verify(log)
    assert found.sound, texts(found)
    assert (found.generations, found.head) == (9, digest(log.entry(9).read_bytes()))
    assert (found.first_bad, found.problems, found.notes) == (None, (), ())


def test_an_empty_project_is_sound(tmp_path: Path) -> None:
    """A project that nobody wrote to has no generations, and nothing is wrong with it."""
    log = Log(tmp_path / "empty")
    found = verify(log, deep=True)
    assert found.sound
    assert (found.generations, found.head) == (0, "")
    assert found.notes == (f"nothing there: no generation of project {PROJECT} in {log.store.url}",)


def test_a_large_project_is_folded_without_full_states(large: Log) -> None:
    """Where no entry holds the state, folding the edits from the first on leads to every digest."""
    assert verify(large).sound


def test_each_generation_is_read_once(log: Log) -> None:
    """One read a generation, one for the hint, one listing."""
    log.store.calls.clear()
    assert verify(log).sound
    assert (log.store.count("read"), log.store.count("names"), len(log.store.calls)) == (10, 1, 11)


def test_memory_is_bounded_by_batches(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that are smaller than the log give the same answer, also where reads are parallel."""
    monkeypatch.setattr(verify_module, "BATCH", 4)
    assert verify(log).sound
    far = Log(log.folder)
    far.store = Watched(log.store.inner)
    monkeypatch.setattr(Watched, "url", "s3://far/away")
    assert verify_module.verify(far.store, PROJECT, Silent()).sound


# --- tampering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 4, 8])
@pytest.mark.parametrize(
    "old, new", [(b'"by":"Ann"', b'"by":"Eve"'), (b'"write":"', b'"write":"0')], ids=["by", "write"]
)
def test_a_changed_byte_is_named(log: Log, number: int, old: bytes, new: bytes) -> None:
    """One changed byte in an entry is found, and that entry is the first bad one, whatever the byte was for."""
    body = log.entry(number).read_bytes()
    assert old in body
    log.damage(address.generation(PROJECT, number), body.replace(old, new, 1))
    found = verify(log)
    assert not found.sound
    assert found.first_bad == number
    assert "was changed after it was written" in texts(found)
    assert {fault.generation for fault in found.problems} == {number}


def test_the_newest_entry_is_held_by_the_hint(log: Log) -> None:
    """Nothing follows the newest entry; a change of it shows because the hint tells of another one."""
    rewrite(log, 9, message="nothing to see here")
    found = verify(log)
    assert [fault.key for fault in found.problems] == [HINT]
    assert found.first_bad == 9


@pytest.mark.parametrize("which", ["log", "large"])
def test_swapped_entries_are_named(which: str, request: pytest.FixtureRequest) -> None:
    """Two entries that changed places say the wrong number, and follow nothing."""
    log = request.getfixturevalue(which)
    third, fourth = log.entry(3).read_bytes(), log.entry(4).read_bytes()
    log.damage(address.generation(PROJECT, 3), fourth)
    log.damage(address.generation(PROJECT, 4), third)
    found = verify(log)
    assert found.first_bad == 3
    assert "is generation 4 of project research by its own word" in texts(found)
    assert "is generation 3 of project research by its own word" in texts(found)
    assert {fault.generation for fault in found.problems} <= {3, 4, 5}


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("which", ["log", "large"])
def test_an_entry_rewritten_with_its_own_digests_is_named(
    which: str, number: int, request: pytest.FixtureRequest
) -> None:
    """Who rewrites one entry, sound in itself, is given away by the next one's parent: the entry is named."""
    log = request.getfixturevalue(which)
    entry = Generation.parse(log.entry(number).read_bytes())
    rewrite(log, number, message="as it always was", write="z" * len(entry.write))
    found = verify(log)
    assert [fault.generation for fault in found.problems] == [number]
    (fault,) = found.problems
    assert fault.key == address.generation(PROJECT, number)
    assert f"generation {number + 1} follows one of digest {digest(entry.canonical())[:12]}" in fault.message


def test_a_rewritten_parent_is_told_from_a_rewritten_follower(log: Log) -> None:
    """An entry whose own parent was rewritten does not put the blame on the one before it."""
    rewrite(log, 5, parent="0" * 64)
    found = verify(log)
    assert {fault.generation for fault in found.problems} == {5}
    assert "does not follow generation 4" in texts(found)


@pytest.mark.parametrize("which", ["log", "large"])
def test_edits_that_lead_elsewhere_are_named(which: str, request: pytest.FixtureRequest) -> None:
    """Edits that were exchanged under the digest of the old state do not lead there."""
    log = request.getfixturevalue(which)
    entry = Generation.parse(log.entry(4).read_bytes())
    rewrite(log, 4, edits=(entry.edits[0],))
    found = verify(log)
    assert found.first_bad == 4
    assert "its edits do not lead to the state whose digest it names" in texts(found)
    if which == "large":
        assert any("could not be checked" in note for note in found.notes)


def test_edits_that_never_fitted_are_named(log: Log) -> None:
    """Edits that the state before them does not allow are named with what stood in their way."""
    rewrite(log, 6, edits=(mint("flow_000", 9),))
    assert "its edits do not fit the state before it: flow_000: expected v8, found v2" in texts(verify(log))


def test_a_changed_full_state_is_named(log: Log) -> None:
    """A state that was edited inside an entry is not the one whose digest stands beside it."""
    entry = Generation.parse(log.entry(4).read_bytes())
    assert entry.state is not None
    name, state = next(iter(entry.state.items()))
    rewrite(log, 4, state={**entry.state, name: state.model_copy(update={"latest": 7})})
    assert "the state that it holds is not the one whose digest it names" in texts(verify(log))


@pytest.mark.parametrize("which", ["log", "large"])
def test_a_missing_generation_is_named(which: str, request: pytest.FixtureRequest) -> None:
    """A hole is one problem, which says between which generations it is, and what to restore; the rest is checked."""
    log = request.getfixturevalue(which)
    head = digest(log.entry(9).read_bytes())
    log.entry(5).unlink()
    found = verify(log)
    assert (found.first_bad, found.generations, found.head) == (5, 9, head)
    (fault,) = found.problems
    assert fault.key.endswith("lock/000000000005.json")
    assert fault.message.startswith("is missing between 4 and 6, and no generation is ever deleted: restore it from a")
    assert f"Write nothing until then, and keep a copy of {HINT}" in fault.message
    assert "delete" not in fault.message.partition("ever deleted")[2]
    log.entry(7).unlink()
    log.entry(6).unlink()
    rewrite(log, 8, by="Eve")
    found = verify(log)
    assert "generations 5 to 7 are missing between 4 and 8" in texts(found)
    assert {fault.generation for fault in found.problems} == {5, 8}


@pytest.mark.parametrize("body", [b"", b"{}\n", b"{"])
def test_there_is_no_head_to_note_where_it_is_damaged(log: Log, body: bytes) -> None:
    """The newest entry unreadable, changed or cut off: its digest is not offered; damage before it changes nothing."""
    whole = log.entry(9).read_bytes()
    log.entry(9).write_bytes(body)
    found = verify(log)
    assert (found.head, found.generations, found.first_bad) == ("", 9, 9)
    assert not any(line.startswith("head:") for line in verified_lines(found))
    rewrite(log, 8, by="Eve")
    log.entry(9).write_bytes(whole)
    assert verify(log).head == digest(whole)
    rewrite(log, 9, by="Eve")
    assert verify(log).head == ""
    log.entry(9).unlink()
    assert verify(log).head == ""


@pytest.mark.parametrize("number", [99, 3_000_000, 999_999_999_999])
def test_a_stray_generation_far_away_costs_nothing(log: Log, number: int) -> None:
    """An entry that is far away, and by its own word another one, is one line; no gap is read, or called a loss."""
    log.entry(number).write_bytes(log.entry(9).read_bytes())
    log.store.calls.clear()
    found = verify(log)
    assert (log.store.count("read"), found.generations, found.first_bad) == (11, 9, number)
    assert found.head == digest(log.entry(9).read_bytes())
    assert [(fault.generation, fault.message.partition(":")[0]) for fault in found.problems] == [
        (number, "is a stray entry"),
    ]
    # One that says so itself was written when all before it were there.
    rewrite(log, number, generation=number)
    assert f"generations 10 to {number - 1} are missing between 9 and {number}" in texts(verify(log))


def test_an_unreadable_generation_is_named(log: Log) -> None:
    """An entry that is no JSON any more is named, and does not end the check."""
    log.damage(address.generation(PROJECT, 3), b"{")
    rewrite(log, 7, by="Eve")
    assert {fault.generation for fault in verify(log).problems} == {3, 7}


def test_an_entry_of_another_project_is_named(log: Log) -> None:
    """An entry that was brought from another project's log says so itself."""
    rewrite(log, 2, project="other")
    assert "is generation 2 of project other by its own word" in texts(verify(log))


def test_a_foreign_name_in_the_log_is_named(log: Log) -> None:
    """A file between the generations that nothing reads is shown; it may be somebody's copy."""
    log.path(f"{PROJECT}/lock/000000000004.json.bak").write_bytes(b"x")
    found = verify(log)
    assert [fault.key for fault in found.problems] == [f"{PROJECT}/lock/000000000004.json.bak"]


# --- the hint ---------------------------------------------------------------------------------------------------------


def edited_hint(log: Log, **changed: Any) -> None:
    lock = Lockfile.parse(log.path(HINT).read_bytes()).model_copy(update=changed)
    log.damage(HINT, lock.model_copy(update={"checksum": lock.state_digest}).canonical())


def test_a_damaged_hint_is_named(log: Log) -> None:
    """A hint whose checksum does not fit is left aside by readers, and told here."""
    data = json.loads(log.path(HINT).read_bytes())
    data["flows"]["flow_000"]["latest"] = 40
    log.damage(HINT, canonical_json(data))
    found = verify(log)
    assert [fault.key for fault in found.problems] == [HINT]
    assert "its checksum does not fit" in texts(found)


def test_an_edited_hint_is_named(log: Log) -> None:
    """A hint that is whole in itself and tells another state than the log is named."""
    lock = Lockfile.parse(log.path(HINT).read_bytes())
    flows = {**lock.flows, "flow_000": lock.flows["flow_000"].model_copy(update={"latest": 40})}
    edited_hint(log, flows=flows)
    assert [(fault.key, fault.generation) for fault in verify(log).problems] == [(HINT, 9)]


def test_a_cut_off_log_is_named(log: Log) -> None:
    """Where the newest generations were taken away, the hint still knows of them."""
    log.entry(9).unlink()
    log.entry(8).unlink()
    found = verify(log)
    assert "tells of generation 9, and the log ends with 7" in texts(found)
    assert found.first_bad == 8


def test_an_old_or_lost_hint_is_no_problem(log: Log) -> None:
    """A hint may be behind, and may be gone: readers find the newest state without it."""
    old = log.path(HINT).read_bytes()
    log.grow(2)
    log.damage(HINT, old)
    assert verify(log).sound
    log.path(HINT).unlink()
    found = verify(log)
    assert found.sound
    assert len(found.notes) == 1


# --- what only a noted digest shows -----------------------------------------------------------------------------------


def rewritten_to_the_end(log: Log, number: int) -> None:
    """What a thorough forger does: every entry from ``number`` on, and the hint, fit again."""
    parent, lock = "", None
    for at in range(1, 10):
        changes: dict[str, Any] = {"parent": parent} if at > number else {}
        parent = rewrite(log, at, **changes, **({"message": "forged"} if at == number else {}))
    lock = Lockfile.parse(log.path(HINT).read_bytes())
    edited_hint(log, entry=parent)
    assert lock.generation == 9


def test_a_chain_rewritten_to_its_end_shows_only_against_a_noted_digest(log: Log) -> None:
    """The chain alone can't show it; a digest of the head that was noted before can."""
    noted = verify(log).head
    assert verify(log, expect=noted).sound
    rewritten_to_the_end(log, 4)
    assert verify(log).sound
    found = verify(log, expect=noted)
    assert not found.sound
    assert noted in texts(found)


def test_a_noted_digest_stays_in_the_chain(log: Log) -> None:
    """The digest of an earlier head is found later on, by its first twelve digits as well."""
    noted = verify(log).head
    log.grow(3)
    assert verify(log, expect=noted).sound
    assert verify(log, expect=noted[:12]).sound
    assert not verify(log, expect="0" * 64).sound
    for wrong in ("abc", "x" * 64, noted.upper(), noted + "0"):
        with pytest.raises(KitaruUsageError, match="hexadecimal"):
            verify(log, expect=wrong)


def test_a_writer_at_work_does_not_look_like_damage(log: Log) -> None:
    """A generation that is appended while the check runs is simply not part of it."""
    names = log.store.names

    def names_then_append(prefix: str, *, after: str = "") -> list[str]:
        found = names(prefix, after=after)
        log.grow(1)
        return found

    log.store.names = names_then_append  # type: ignore[method-assign]
    found = verify(log)
    assert found.sound, texts(found)
    assert found.generations == 9


# --- objects and journals ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first_used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test of this module leaves the repository that the others copy: its executions take a while."""
    return tmp_path_factory.mktemp("used") / "repository"


@pytest.fixture
def used(repository: Repository, first_used: Path) -> Repository:
    """Two versions, of which v1 is only in the table, and an execution of each that ended; one file for each entry."""
    if not first_used.exists():
        repository.apply()
        wait(repository)
        repository.change("flows/work.py", "hello", "good morning")
        repository.commit()
        repository.apply()
        wait(repository)
        for journal in (repository.store_folder / "research/executions").glob("*/journal"):
            keep_as_single_files(journal)
        shutil.copytree(repository.folder, first_used)
    else:
        shutil.rmtree(repository.folder)
        shutil.copytree(first_used, repository.folder)
    return repository


def keep_as_single_files(journal: Path) -> None:
    """As stores other than a local disk keep a journal: each entry can then be damaged by itself."""
    bodies = AppendedLog(str(journal), lambda _: None).read_from(1)
    for path in journal.iterdir():
        path.unlink()
    for number, body in enumerate(bodies, start=1):
        (journal / f"{number:012}.json").write_bytes(body)


def wait(repository: Repository) -> None:
    repository.client().deployments.invoke("agent", {"topic": "x"}).wait(60)


def deep(repository: Repository) -> Verified:
    return repository.client().history.verify(deep=True)


def version(repository: Repository, number: int) -> tuple[str, str, str]:
    """Keys of a version's snapshot, source listing and source archive."""
    found = repository.client().deployments.get("agent", version=number)
    assert found.details is not None
    source = found.details.source
    project = "research"
    return (
        address.blob(project, found.snapshot),
        address.blob(project, source),
        address.source_archive(project, source),
    )


def test_everything_is_there(used: Repository) -> None:
    """A table, two snapshots, two sources of two objects each, and two journals."""
    found = deep(used)
    assert found.sound, texts(found)
    assert (found.generations, found.objects, found.executions) == (2, 7, 2)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["snapshot", "listing", "archive"])
@pytest.mark.parametrize("how", ["dropped", "changed"])
def test_a_lost_or_changed_object_is_named(used: Repository, which: int, how: str) -> None:
    """Each object that a route leads to is a problem where it is gone, and where its bytes are not what they were."""
    key = version(used, 2)[which]
    path = used.store_folder / key
    body = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(body[:-20] + bytes(byte ^ 1 for byte in body[-20:]))
    found = deep(used)
    assert [fault.key for fault in found.problems] == [key]
    assert "missing" in texts(found) or how == "changed"
    assert used.client().history.verify().sound


def test_a_lost_version_table_is_named(used: Repository) -> None:
    """Without its table a flow's versions can't be told; what its routes lead to is checked all the same."""
    state = used.client().session.releases.head().flows["agent"]
    (used.store_folder / address.blob("research", state.table)).unlink()
    snapshot = version_of_default(used)
    (used.store_folder / snapshot).unlink()
    assert {fault.key for fault in deep(used).problems} == {address.blob("research", state.table), snapshot}


def version_of_default(repository: Repository) -> str:
    route = repository.client().session.releases.head().flows["agent"].routes["default"]
    return address.blob("research", route.holders[0].snapshot)


def test_what_no_route_leads_to_must_be_there_until_it_is_deleted(used: Repository) -> None:
    """A version without a route can be invoked by its number, so its objects must be there; a deleted one can't."""
    keys = version(used, 1)
    for key in keys[1:]:
        (used.store_folder / key).unlink()
    assert {fault.key for fault in deep(used).problems} == set(keys[1:])
    (used.store_folder / keys[0]).unlink()
    assert {fault.key for fault in deep(used).problems} == {keys[0]}
    assert "missing" in kitaru("store", "verify", "--deep", cwd=used.folder).must(1).out
    used.client().deployments.delete("agent", version=1)
    found = deep(used)
    assert found.sound, texts(found)


@pytest.mark.parametrize(
    "more", [b"x", b"\0" * 512, bytes.fromhex("28b52ffd200101000078")], ids=["byte", "nul", "frame"]
)
def test_what_was_appended_to_an_archive_is_named(used: Repository, more: bytes) -> None:
    """Bytes after the end of an archive do not change its tree, and are a problem all the same."""
    key = version(used, 2)[2]
    path = used.store_folder / key
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body + more)
    found = deep(used)
    assert [fault.key for fault in found.problems] == [key]
    assert "unused data" in texts(found)


@pytest.mark.parametrize("left", ["objects", "executions"])
def test_a_log_that_was_removed_is_named(used: Repository, left: str) -> None:
    """Released source, or an execution of a version, can't be there without a log."""
    folder = used.store_folder / "research"
    shutil.rmtree(folder / "lock")
    (folder / "kitaru.lock").unlink()
    shutil.rmtree(folder / {"objects": "executions", "executions": "objects"}[left])
    if left == "objects":
        out = kitaru("store", "verify", cwd=used.folder).must(1).out
        assert "not sound: 1 problem" in out
        assert "there is released source" in out
    else:
        out = kitaru("store", "verify", "--deep", cwd=used.folder).must(1).out
        assert "not sound: 2 problems" in out
        assert "runs v1 of agent, which was never released" in out


def test_runs_from_source_need_no_log(repository: Repository) -> None:
    """Who only ran flows from source has executions and values, and no log was ever there."""
    kitaru("run", "flows/work.py:agent", "--input", '{"topic": "x"}', cwd=repository.folder).must()
    assert list((repository.store_folder / "research/executions").iterdir())
    out = kitaru("store", "verify", cwd=repository.folder).must().out
    assert "nothing there: no generation of project research in file://" in out
    assert "sound" not in out
    assert (
        "sound: 0 generations, 0 objects, 1 execution"
        in kitaru("store", "verify", "--deep", cwd=repository.folder).must().out
    )


def test_damaged_journals_are_named(used: Repository) -> None:
    """A journal with a gap, and one that can't be read, are named with the key to look at."""
    first, second = sorted((used.store_folder / "research/executions").iterdir())
    entries = sorted((first / "journal").iterdir())
    assert len(entries) > 2
    entries[1].unlink()
    (second / "journal" / "000000000001.json").write_bytes(b"[]")
    found = deep(used)
    assert {fault.key for fault in found.problems} == {
        f"research/executions/{first.name}/journal/000000000002.json",
        f"research/executions/{second.name}/journal/",
    }


def test_the_snapshot_of_an_open_execution_must_be_there(used: Repository) -> None:
    """An execution that has not ended needs its snapshot, though no route leads there any more."""
    executions = sorted((used.store_folder / "research/executions").iterdir())
    journal = sorted((executions[0] / "journal").iterdir())
    for path in [*journal[1:], executions[0] / "summary.json"]:
        path.unlink()
    key = version(used, 1)[0]
    (used.store_folder / key).unlink()
    assert [fault.key for fault in deep(used).problems] == [key]


def test_damage_in_a_journal_that_is_one_file_is_named(used: Repository) -> None:
    """A changed entry with whole ones after it; a cut end is missed by the summary."""
    wait(used)
    newest = max((used.store_folder / "research/executions").iterdir())
    log = max((newest / "journal").iterdir())
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"hello', b'"hullo').replace(b'"good', b'"gold'))
    assert f"the journal of {newest.name} can't be read: {log} is damaged at byte" in texts(deep(used))
    kitaru("executions", "get", newest.name, cwd=used.folder).refused("is damaged at byte", code=1)
    log.write_bytes(whole[:-1])
    assert f"the summary of {newest.name} tells of" in texts(deep(used))
    log.write_bytes(whole)
    assert deep(used).sound


def first_execution(repository: Repository) -> Path:
    return min((repository.store_folder / "research/executions").iterdir())


def edited(path: Path, old: str, new: str) -> str:
    """Other text in a file of the store, as sed would put it there; the file's key."""
    body = path.read_text()
    assert old in body
    path.unlink()
    path.write_text(body.replace(old, new))
    return path.as_posix().partition(".kitaru/store/")[2]


@pytest.mark.parametrize(
    ("number", "old", "new", "words"),
    [
        (1, '{"topic":"x"}', '{"topic":"y"}', "the inputs in its opened event"),
        (2, '"hello x"', '"hullo x"', "the output in its checkpoint_completed event"),
        (4, '"HELLO X"', '"HULLO X"', "the output in its completed event"),
    ],
)
def test_an_edited_value_in_a_journal_is_named(used: Repository, number: int, old: str, new: str, words: str) -> None:
    """A value inside its entry that no longer has the digest beside it: execution, entry, event and field are said."""
    folder = first_execution(used)
    entry = next(path for path in sorted((folder / "journal").iterdir())[number - 1 :] if old in path.read_text())
    key = edited(entry, old, new)
    found = deep(used)
    assert {fault.key for fault in found.problems} == {key}
    assert words in texts(found)
    assert f"entry {int(entry.stem)} of {folder.name} was changed" in texts(found)


def test_an_edited_result_is_not_shown(used: Repository) -> None:
    """Who asks for the result of an execution is told that it was changed, not given another one."""
    folder = first_execution(used)
    last = max((folder / "journal").iterdir())
    edited(last, '"HELLO X"', '"HULLO X"')
    executions = used.client().executions
    output = executions.get(folder.name).output
    assert output is not None
    with pytest.raises(KitaruIntegrityError, match="is not what the digest beside it says") as refused:
        executions.value(output, "the result")
    assert "kitaru store verify --deep" in refused.value.hint
    kitaru("executions", "get", folder.name, cwd=used.folder).refused("is not what the digest beside it says", code=1)


@pytest.mark.parametrize(
    ("told", "words"),
    [("2", "runs another snapshot than v2 of agent is"), ("7", "runs v7 of agent, which was never released")],
)
def test_an_execution_of_another_version_is_named(used: Repository, told: str, words: str) -> None:
    """The version that an execution names must be the one whose snapshot it runs."""
    folder = first_execution(used)
    key = edited(folder / "journal/000000000001.json", '"version":1', f'"version":{told}')
    found = deep(used)
    assert f"{key}: {folder.name} {words}" in texts(found)
    assert "the summary of" in texts(found)
    kitaru("store", "verify", "--deep", cwd=used.folder).must(1)


def test_an_execution_of_a_renamed_flow_is_sound(used: Repository) -> None:
    """What ran under a flow's former name is found in the table of the new one."""
    used.manifest(MANIFEST.replace("  agent:\n", "  writer:\n") + "moved: {agent: writer}\n")
    used.commit()
    used.apply()
    assert deep(used).sound


def test_a_cut_off_journal_is_named(used: Repository) -> None:
    """The summary knows how many entries there were, and how the execution ended."""
    folder = first_execution(used)
    entries = sorted((folder / "journal").iterdir())
    entries[-1].unlink()
    found = deep(used)
    assert [fault.key.rpartition("/")[2] for fault in found.problems] == [entries[-1].name]
    text = f"the summary of {folder.name} tells of {len(entries)} entries (completed), its journal ends with"
    assert f"{text} {len(entries) - 1}" in texts(found)


def test_an_edited_summary_is_named(used: Repository) -> None:
    """A list of executions believes the summary: it must say what the journal does."""
    path = first_execution(used) / "summary.json"
    key = edited(path, '"status":"completed"', '"status":"failed"')
    found = deep(used)
    assert [fault.key for fault in found.problems] == [key]
    assert texts(found).endswith("entries do: status")
    edited(path, '"status":"failed"', '"status":"completed"')
    edited(path, '"HELLO X"', '"HULLO X"')
    assert texts(deep(used)).endswith("entries do: output")
    edited(path, "{", "")
    assert "can't be read: it was damaged or edited" in texts(deep(used))


def test_swapped_entries_of_a_journal_are_named(used: Repository) -> None:
    """Each entry knows its own number."""
    folder = first_execution(used)
    key = edited(folder / "journal/000000000002.json", '"n":2', '"n":3')
    assert f"{key}: is entry 3 of {folder.name} by its own word" in texts(deep(used))


def test_json_nested_too_deeply_is_a_problem_and_no_defect(used: Repository) -> None:
    """A hundred thousand brackets in a generation, the hint, a snapshot, a journal or a summary: each is named."""
    snapshot, executions = version(used, 2)[0], sorted((used.store_folder / "research/executions").iterdir())
    keys = [
        address.generation("research", 2),
        address.lock_hint("research"),
        snapshot,
        f"research/executions/{executions[0].name}/summary.json",
        f"research/executions/{executions[1].name}/journal/000000000002.json",
    ]
    for key in keys:
        path = used.store_folder / key
        path.unlink()
        path.write_text("[" * 100_000)
    found = used.client().history.verify()
    assert f"{keys[0]}: can't be read" in texts(found)
    assert f"{keys[1]}: was damaged or edited" in texts(found)
    done = kitaru("store", "verify", "--deep", cwd=used.folder).must(1)
    assert "defect" not in done.out + done.err
    assert "generation 2: can't be read" in done.out


def test_an_unreadable_summary_and_journal_are_named(used: Repository) -> None:
    """The same in the records of executions, where the log itself is sound."""
    first, second = sorted((used.store_folder / "research/executions").iterdir())
    for path in (first / "summary.json", second / "journal/000000000002.json"):
        path.unlink()
        path.write_text("[" * 100_000)
    found = deep(used)
    assert f"the summary of {first.name} can't be read" in texts(found)
    assert f"the journal of {second.name} can't be read" in texts(found)


# --- nothing is written over it ---------------------------------------------------------------------------------------

WRITERS = [
    ("plan",),
    ("apply", "--yes"),
    ("flow", "tag", "agent", "beta", "--version", "1", "--no-manifest"),
    ("store", "gc", "--delete", "--yes", "--keep-versions", "1"),
]


@pytest.mark.parametrize("words", WRITERS, ids=lambda words: words[0])
@pytest.mark.parametrize("how", ["removed", "edited"])
def test_no_write_makes_a_changed_head_look_sound(used: Repository, how: str, words: tuple[str, ...]) -> None:
    """The newest entry gone, or other bytes in it: plan and every writer refuse and name verify, which still fails."""
    path = used.store_folder / address.generation("research", 2)
    if how == "removed":
        path.unlink()
    else:
        edited(path, '"by":"Ann"', '"by":"Eve"')
    before = everything(used.store_folder)
    kitaru(*words, cwd=used.folder).refused("nothing is built upon that", "kitaru store verify", code=1)
    assert everything(used.store_folder) == before
    out = kitaru("store", "verify", cwd=used.folder).must(1).out
    assert "delete research/kitaru.lock to go on with the log as it is" in " ".join(out.split())


def test_after_a_restore_the_log_goes_on(used: Repository) -> None:
    """A backup without the newest generation: once the hint is deleted, the store is sound and can be written."""
    (used.store_folder / address.generation("research", 2)).unlink()
    (used.store_folder / HINT).unlink()
    kitaru("apply", "--yes", cwd=used.folder).must()
    assert used.client().history.verify().sound


# --- the command ------------------------------------------------------------------------------------------------------


def test_an_empty_digest_is_no_digest(used: Repository) -> None:
    """--expect with an empty variable behind it must not look as if it had been checked."""
    kitaru("store", "verify", "--expect", "", cwd=used.folder).refused("--expect is empty", "prints the digest", code=2)


def test_the_command(used: Repository) -> None:
    """Sound: exit 0, what was looked at, and the digest to note. Not sound: exit 1, every key, the first bad one."""
    done = kitaru("store", "verify", "--deep", cwd=used.folder).must()
    head = digest((used.store_folder / address.generation("research", 2)).read_bytes())
    assert "sound: 2 generations, 7 objects, 2 executions" in done.out
    assert f"head:  {head}" in done.out
    kitaru("store", "verify", "--expect", head, cwd=used.folder).must()
    path = used.store_folder / address.generation("research", 1)
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body.replace(b'"by":"Ann"', b'"by":"Eve"', 1))
    done = kitaru("store", "verify", cwd=used.folder).must(1)
    assert "problem: generation 1: was changed after it was written" in done.out
    assert "research/lock/000000000001.json" in done.out
    assert "not sound: 2 problems; the first bad generation is 1" in done.out
    data = kitaru("store", "verify", "-o", "json", cwd=used.folder).must(1).json
    assert data["command"] == "store.verify"
    item = data["item"]
    assert set(item) == {
        *("sound", "project", "store", "generations", "head", "deep", "objects", "executions"),
        *("first_bad", "problems", "notes"),
    }
    assert (item["sound"], item["first_bad"]) == (False, 1)
    assert set(item["problems"][0]) == {"key", "generation", "message"}


def test_the_help_says_what_it_cannot_show() -> None:
    """Nobody should take a sound chain for more than it is."""
    text = " ".join(kitaru("store", "verify", "--help").must().out.split())
    assert "rewrites the log from one entry to its end" in text
    assert "--expect" in text


def test_moves_that_stay_are_sound(log: Log) -> None:
    """A move that leaves a route where it is keeps who moved it last, in the fold as in the log."""
    log.write(move("flow_000", "default", 3, expects=(3,)))
    assert verify(log).sound


def test_a_bucket_is_verified_in_batches(moto_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """On S3 the same: generations are read several at once, in order, and a changed one is named."""
    for name, value in moto_s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(verify_module, "BATCH", 16)
    client = KitaruClient(store=moto_s3.new_prefix(), project=PROJECT)
    releases = Releases(client.session.store, PROJECT, WallClock())
    lock = releases.head()
    for number in range(1, 41):
        before = (number - 1,) if number > 1 else None
        outcome = releases.append(
            lock, (mint("agent", number), move("agent", "default", number, expects=before)), by="Ann"
        )
        assert isinstance(outcome, Lockfile)
        lock = outcome
    assert (client.history.verify().sound, client.history.verify().head) == (True, lock.entry)
    assert [one.generation for one in client.history.list("agent", limit=3).generations] == [40, 39, 38]
    key = address.generation(PROJECT, 20)
    body = client.session.store.read(key)
    assert body is not None
    client.session.store.overwrite(key, body.replace(b'"by":"Ann"', b'"by":"Eve"', 1))
    assert client.history.verify().first_bad == 20
