"""History and blame: who moved what, when, from which commit, in few reads; and which commit an execution ran."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru import KitaruClient
from kitaru.cli.views.history import WIDTH, chain_note, history_lines
from kitaru.client.history import History
from kitaru.core.commit import edit_data, edit_words
from kitaru.errors import KitaruIntegrityError, KitaruSelectorError, KitaruUsageError
from kitaru.model import address
from kitaru.model.address import digest
from kitaru.model.lockfile import Drop, Edit, Lockfile, Manage, Move, Protect, Rename, Retire, Untag
from kitaru.model.route import Hold, Protection
from kitaru.model.snapshot import Commit
from kitaru.release.history import Past
from kitaru.release.releases import FULL_STATE_EVERY
from tests.applying import new_version, routed
from tests.lock_strategies import FEW, after, fitting, holder, mint, move
from tests.repository import MANIFEST, Done, Repository, git, kitaru
from tests.test_releases import PROJECT, Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "store")


def history(log: Log) -> History:
    client = KitaruClient(store=log.store.url, project=PROJECT)
    client.session.store = log.store
    return client.history


def do(repository: Repository, *arguments: str | Path) -> Done:
    return kitaru(*arguments, cwd=repository.folder)


def numbers(found: object) -> list[int]:
    return [one.generation for one in found.generations]  # type: ignore[attr-defined]


# --- edits in words ---------------------------------------------------------------------------------------------------

WORDS: list[tuple[Edit, str]] = [
    (mint("agent", 3), "v3 built"),
    (move("agent", "default", 1), "default → v1"),
    (move("agent", "stable", 2, expects=(1,)), "stable: v1 → v2"),
    (move("agent", "stable", 2, expects=(2,)), "stable stays at v2"),
    (
        move("agent", "beta", 2, expects=(2,)).model_copy(update={"converts": True}),
        "beta stays at v2, now an exclusive route",
    ),
    (
        move("agent", "beta", 2, expects=(1,), exclusive=False).model_copy(update={"converts": True}),
        "beta: v1 → v2, now a shared label",
    ),
    (
        move("agent", "stable", 1, expects=(1,)).model_copy(update={"ends_hold": True}),
        "stable stays at v1, the hold ends",
    ),
    (move("agent", "benchmark", 1, 2, exclusive=False), "benchmark → v1, v2 (label)"),
    (Untag(kind="untag", flow="agent", tag="canary", expects=(holder("agent", 2),)), "canary removed (was v2)"),
    (Manage(kind="manage", flow="agent"), "declared by the manifest"),
    (Retire(kind="retire", flow="agent", expects=2), "removed with its routes; its versions stay"),
    (Rename(kind="rename", flow="agent", was="helper", expects=2), "renamed from helper"),
    (Drop(kind="drop", flow="agent", version=1, table="a", expects="b"), "v1 deleted"),
    (
        Move(
            kind="move",
            flow="agent",
            tag="beta",
            holders=(holder("agent", 1, 90), holder("agent", 2, 10)),
            expects=(holder("agent", 1),),
        ),
        "beta: v1 → v1 90 %, v2 10 %",
    ),
    (
        Protect(
            kind="protect",
            flow="agent",
            rules={"gold": Protection(), "stable": Protection(branch="main", clean=False)},
            expects={"canary": Protection(branch="side"), "gold": Protection()},
        ),
        "canary is protected no longer (was: branch side, clean commit); stable is protected from now on: branch main",
    ),
]


@pytest.mark.parametrize(("edit", "words"), WORDS, ids=[words for _, words in WORDS])
def test_every_edit_has_words(edit: Edit, words: str) -> None:
    """Each kind of edit is said in a few words, and its JSON holds the same words with kind and flow."""
    assert edit_words(edit) == words
    data = edit_data(edit)
    assert (data["kind"], data["flow"], data["text"]) == (edit.kind, "agent", words)


def test_rules_are_told_to_machines_in_full() -> None:
    """What binds after a change of protection, and what bound before, by tag."""
    edit = Protect(kind="protect", flow="agent", rules={"gold": Protection()}, expects={})
    assert edit_data(edit)["rules"] == {"gold": {"branch": None, "clean": True}}
    assert edit_data(edit)["was"] == {}


def test_a_hold_is_said_with_its_reason() -> None:
    """A rollback's hold shows in the words of its move, and in full in its JSON."""
    held = move("agent", "stable", 1, expects=(2,)).model_copy(
        update={"hold": Hold(left=(holder("agent", 2),), reason="v2 loses orders")}
    )
    assert edit_words(held) == "stable: v2 → v1, on hold"
    assert edit_data(held)["hold"] == {"left": [{"version": 2, "weight": 100}], "reason": "v2 loses orders"}


# --- history ----------------------------------------------------------------------------------------------------------


def test_only_what_is_shown_is_read(log: Log) -> None:
    """Twenty generations of a hundred cost twenty reads, and two that find the newest; the newest comes first."""
    log.grow(100, flows=3)
    log.store.calls.clear()
    found = history(log).list(limit=20)
    assert numbers(found) == list(range(100, 80, -1))
    assert (found.head, found.more) == (100, True)
    assert len(log.store.calls) == 22


def test_all_of_a_small_log(log: Log) -> None:
    """A limit that the log does not reach, and none, both give everything, and say that there is no more."""
    log.grow(5)
    for limit in (5, 20, None):
        found = history(log).list(limit=limit)
        assert numbers(found) == [5, 4, 3, 2, 1]
        assert not found.more


def test_an_empty_project_has_no_history(log: Log) -> None:
    """Nothing has happened: no generations, no error; a flow that never was is one."""
    assert numbers(history(log).list()) == []
    with pytest.raises(KitaruSelectorError, match="agent has no deployments"):
        history(log).list("agent")


def test_a_flow_that_never_was_costs_no_search(log: Log) -> None:
    """A misspelt flow is refused from the newest state alone, with the name that was meant."""
    log.grow(40, flows=3)
    log.store.calls.clear()
    with pytest.raises(KitaruSelectorError, match="did you mean 'flow_001'"):
        history(log).list("flow_0001")
    assert len(log.store.calls) == 2


def test_one_flow_among_many(log: Log) -> None:
    """A flow's history holds just its own edits, and ends where the flow began without looking further."""
    log.grow(100)
    lock = log.grow(60, flows=30)
    found = history(log).list("flow_007", limit=None)
    assert numbers(found) == [138, 108]
    assert all(edit["flow"] == "flow_007" for one in found.generations for edit in one.edits)
    assert found.reached > 1
    assert not found.more
    assert lock.generation == 160


def test_edits_of_others_are_counted(log: Log) -> None:
    """A generation that touched several flows shows one flow's edits, and how many more there were."""
    log.write(mint("agent", 1), move("agent", "default", 1), mint("greeter", 1), move("greeter", "default", 1))
    (one,) = history(log).list("greeter").generations
    assert [edit["text"] for edit in one.edits] == ["v1 built", "default → v1"]
    assert one.others == 2


def test_a_search_stops_somewhere(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit a search looks at so many generations and says so; without one it looks at all."""
    monkeypatch.setattr("kitaru.client.history.SEARCHED", 50)
    log.write(mint("agent", 1))
    log.write(move("agent", "default", 1))
    log.grow(100)
    found = history(log).list("agent", limit=20)
    assert (numbers(found), found.reached, found.more) == ([], 53, True)
    assert numbers(history(log).list("agent", limit=None)) == [2, 1]


def test_a_renamed_flow_keeps_its_past(log: Log) -> None:
    """Under its new name a flow has the history of its old one; the old name shows that it was renamed."""
    log.write(mint("helper", 1), move("helper", "default", 1))
    log.write(Rename(kind="rename", flow="agent", was="helper", expects=1))
    log.write(move("agent", "stable", 1))
    words = {one.generation: [edit["text"] for edit in one.edits] for one in history(log).list("agent").generations}
    assert words == {3: ["stable → v1"], 2: ["renamed from helper"], 1: ["v1 built", "default → v1"]}
    assert numbers(history(log).list("helper")) == [2, 1]


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[Edit, ...]]:
    """The edits of generations that could follow one another."""
    lock, entries = Lockfile(project=PROJECT), []
    for _ in range(draw(st.integers(1, 6))):
        if edits := draw(fitting(lock)):
            lock = after(lock, *edits)
            entries.append(edits)
    return entries


@FEW
@given(logs())
def test_reading_backwards_tells_the_same_log(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[Edit, ...]]
) -> None:
    """Of any log: every generation once, newest first; a flow's are those that touch it; the state at n is the fold."""
    log = Log(tmp_path_factory.mktemp("log"))
    states = [log.releases.head()]
    touched: dict[str, list[int]] = {}
    for number, edits in enumerate(entries, 1):
        states.append(log.write(*edits))
        for edit in edits:
            if isinstance(edit, Rename):
                touched[edit.was].append(number)
                touched[edit.flow] = list(touched[edit.was])
        for name in {edit.flow for edit in edits if not isinstance(edit, Rename)}:
            touched.setdefault(name, []).append(number)
    past = Past(log.store, PROJECT)
    assert [one.generation for one in past.page(len(entries)).generations] == list(range(len(entries), 0, -1))
    for state in states:
        assert past.state(state.generation) == state
    for name, numbers_of in touched.items():
        found = past.page(len(entries), flow=name).generations
        assert [one.generation for one in found] == numbers_of[::-1]
        assert all(one.edits for one in found)


def test_the_state_of_a_large_project_is_near(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where full states are rare, the state at any generation costs the entries back to the last one and no more."""
    monkeypatch.setattr("kitaru.release.releases.FULL_STATE_BYTES", 0)
    log.grow(3 * FULL_STATE_EVERY, flows=5)
    log.store.calls.clear()
    assert Past(log.store, PROJECT).state(2 * FULL_STATE_EVERY + 5).generation == 2 * FULL_STATE_EVERY + 5
    assert len(log.store.calls) <= FULL_STATE_EVERY
    assert min(key for _, key in log.store.calls) >= address.generation(PROJECT, FULL_STATE_EVERY)


def test_what_is_there_around_a_gap_is_shown(log: Log) -> None:
    """Generations before and after a gap are shown, and a note says what is missing; none of the others is blamed."""
    log.grow(6)
    log.entry(4).unlink()
    log.entry(3).unlink()
    happened = history(log).list()
    assert [one.generation for one in happened.generations] == [6, 5, 2, 1]
    assert (happened.missing, happened.unchained, happened.more) == ((4, 3), (), False)
    assert history(log).list(limit=2).missing == ()
    of_flow = history(log).list("flow_000")
    assert [one.generation for one in of_flow.generations] == [6, 5, 2, 1]
    lines = history_lines(happened, None, "research")
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert [line.split("  ")[0] for line in heads] == ["6", "5", "2", "1"]
    assert (chain_note(happened) or "").startswith("warning: 2 generations missing from the log, the oldest is 3. ")
    log.entry(1).unlink()
    happened = history(log).list(limit=None)
    assert (happened.missing, happened.reached, happened.more) == ((4, 3, 1), 1, False)


def test_the_state_behind_a_gap_is_not_guessed(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has to be folded through a generation that is missing is an error that says which one it is."""
    monkeypatch.setattr("kitaru.release.releases.FULL_STATE_BYTES", 0)
    log.grow(6)
    log.entry(4).unlink()
    with pytest.raises(KitaruIntegrityError, match="generation 4 of project research is missing") as refused:
        Past(log.store, PROJECT).state(5)
    assert "kitaru store verify" in refused.value.hint


def test_a_gap_is_damage_for_the_command_too(repository: Repository) -> None:
    """Exit code 1, with all that is left on standard output, in both forms."""
    repository.apply()
    for version in ("second", "third"):
        new_version(repository, version)
        repository.apply()
    (repository.store_folder / address.generation("research", 2)).unlink()
    done = do(repository, "history", "--all").must(1)
    assert [line[:1] for line in done.out.splitlines() if line[:1].strip()] == ["3", "1"]
    assert "1 generation missing from the log, the oldest is 2. Look: kitaru store verify" in done.err
    found = do(repository, "history", "-o", "json").must(1).json
    assert [one["generation"] for one in found["items"]] == [3, 1]
    assert (found["missing"], found["unreadable"], found["problem"]) == ([2], [], None)


@pytest.mark.parametrize("body", [b"", b"{}\n"], ids=["empty", "no generation"])
def test_an_unreadable_generation_hides_no_other(repository: Repository, body: bytes) -> None:
    """The rest is shown, with a note and exit code 1; though it is the newest, hint or no hint."""
    repository.apply()
    for version in ("second", "third"):
        new_version(repository, version)
        repository.apply()
    entries = {n: repository.store_folder / address.generation("research", n) for n in (2, 3)}
    whole = entries[2].read_bytes()
    entries[2].write_bytes(body)
    done = do(repository, "history").must(1)
    assert [line[:1] for line in done.out.splitlines() if line[:1].strip()] == ["3", "1"]
    assert "1 generation unreadable, the oldest is 2. Look: kitaru store verify" in done.err
    found = do(repository, "history", "-o", "json").must(1).json
    assert ([one["generation"] for one in found["items"]], found["unreadable"]) == ([3, 1], [2])
    entries[2].write_bytes(whole)
    entries[3].write_bytes(body)
    for hinted in (True, False):
        found = do(repository, "history", "-o", "json").must(1).json
        assert ([one["generation"] for one in found["items"]], found["unreadable"]) == ([2, 1], [3])
        assert (found["problem"] is None) == hinted
        (repository.store_folder / address.lock_hint("research")).unlink(missing_ok=True)


def test_missing_generations_without_a_hint_are_shown(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is gone, and no full state tells what it held: what is left is shown, with what is missing and why."""
    monkeypatch.setattr("kitaru.release.releases.FULL_STATE_BYTES", 10)
    log.grow(4)
    log.entry(1).unlink()
    log.path(address.lock_hint(PROJECT)).unlink()
    happened = history(log).list()
    assert (numbers(happened), happened.missing, happened.head, happened.whole) == ([4, 3, 2], (1,), 4, False)
    assert "generation 1 of project research is missing" in happened.problem
    assert numbers(history(log).list("flow_000")) == [4, 3, 2]
    assert (chain_note(happened) or "").startswith("warning: 1 generation missing from the log, the oldest is 1; ")


def test_a_log_that_is_gone_is_one_line(repository: Repository) -> None:
    """Only the hint is left: what it tells of is missing, and no flow is named where none was asked for."""
    repository.apply()
    shutil.rmtree(repository.store_folder / "research" / "lock")
    done = do(repository, "history").must(1)
    assert done.out.splitlines() == ["Nothing in what is left of generations 1 to 1."]
    assert "1 generation missing from the log, the oldest is 1. Look: kitaru store verify" in done.err
    done = do(repository, "history", "agent").must(1)
    assert done.out.splitlines() == ["Nothing of agent in what is left of generations 1 to 1."]


REFUSED = [("plan",), ("build", "flows/work.py:agent", "--no-manifest"), ("apply", "--yes")]


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[0])
def test_no_verb_forks_a_log_that_lost_its_beginning(
    repository: Repository, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hint and first generation gone, no full state in the second: refused with exit code 1; nothing is written."""
    monkeypatch.setattr("kitaru.release.releases.FULL_STATE_BYTES", 10)
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    new_version(repository, "third")
    first = repository.store_folder / address.generation("research", 1)
    first.unlink()
    (repository.store_folder / address.lock_hint("research")).unlink()
    do(repository, *words).refused("generation 1 of project research is missing", "kitaru store verify", code=1)
    assert [path.name for path in first.parent.iterdir()] == ["000000000002.json"]
    assert "1 generation missing from the log, the oldest is 1" in do(repository, "history").must(1).err


# --- the command ------------------------------------------------------------------------------------------------------


def test_history_is_pleasant_to_read(repository: Repository) -> None:
    """Number, when, who, verb, commit and branch; the message; each flow's edits; nothing wider than 80 columns."""
    first = repository.commit()
    repository.apply()
    repository.manifest(routed("{default: 1, canary: head, a-rather-long-name-of-a-label: [1, head]}"))
    repository.change("flows/work.py", "hello", "good morning")
    second = repository.commit()
    repository.apply(message="a reason that is so long that it takes more than one line of a terminal of this width")
    out = do(repository, "history").must().out
    lines = out.splitlines()
    assert lines[0].startswith("2  ")
    assert lines[0].endswith(f"Ann  apply  {second[:12]} on main")
    assert '    "a reason that is so long' in out
    assert "    agent  v2 built; canary → v2; " in " ".join(out.split("\n      "))
    assert any(line.startswith("1  ") and line.endswith(f"Ann  apply  {first[:12]} on main") for line in lines)
    assert "    agent  v1 built; default → v1" in out
    assert max(map(len, lines)) <= WIDTH
    assert do(repository, "history", "--limit", "1").must().out.splitlines()[-1] == (
        "1 older generation: --limit N, or --all"
    )
    assert "Nothing has happened in project other yet" in do(repository, "history", "--project", "other").must().out
    do(repository, "history", "agnt").refused("did you mean 'agent'")


@pytest.mark.parametrize("columns", [60, 160])
def test_history_fills_the_terminal(repository: Repository, columns: int) -> None:
    """On a terminal lines break where it ends, be that before column 80 or far behind it."""
    repository.commit()
    repository.apply(message=" ".join(["reason"] * 40))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    environ.pop("COLUMNS", None)
    command = [sys.executable, "-m", "kitaru", "history"]
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(command, cwd=repository.folder, env=environ, stdout=theirs)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says so where the other end is closed
            while body := screen.read(65536):
                shown += body
        assert process.wait(60) == 0
    widest = max(map(len, shown.decode().splitlines()))
    assert columns - len(" reason") < widest <= columns


def test_a_changed_entry_is_told_beside_the_history(repository: Repository) -> None:
    """An entry that the one after it does not know is shown, with one line of warning; whole logs have none."""
    repository.apply()
    repository.change("flows/work.py", "hello", "good morning")
    repository.commit()
    repository.apply()
    assert "warning" not in do(repository, "history").must().err
    path = repository.store_folder / address.generation("research", 1)
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body.replace(b'"by":"Ann"', b'"by":"Eve"', 1))
    line = "warning: generation 1 does not fit the log: generation 2 names another parent. Look: kitaru store verify"
    assert line in do(repository, "history").must().err.splitlines()
    assert line in do(repository, "history", "agent", "-o", "json").must().err.splitlines()
    # The newest alone was read: nothing is known of the one before it.
    assert "warning" not in do(repository, "history", "--limit", "1").must().err


def test_a_rollback_shows_its_verb_and_its_hold(repository: Repository) -> None:
    """A generation says which verb wrote it, and why a route is on hold."""
    repository.apply()
    releases = repository.client().session.releases
    lock = releases.head(verified=True)
    (one,) = lock.flows["agent"].routes["default"].holders
    held = Move(
        kind="move",
        flow="agent",
        tag="default",
        holders=(one,),
        expects=(one,),
        hold=Hold(left=(one,), reason="v2 loses orders"),
    )
    assert isinstance(releases.append(lock, [held], by="Bob", verb="rollback"), Lockfile)
    first, second = do(repository, "history", "--limit", "1").must().out.splitlines()[:2]
    assert first.endswith("Bob  rollback")
    assert second == "    agent  default stays at v1, on hold (v2 loses orders)"


def test_the_json_of_history_is_stable(repository: Repository) -> None:
    """Every key is there for every generation; each digest is that of the entry's bytes."""
    repository.apply()
    data = do(repository, "history", "-o", "json").must().json
    assert (data["command"], data["count"]) == ("history", 1)
    (one,) = data["items"]
    assert set(one) == {"generation", "digest", "at", "by", "verb", "commit", "message", "edits", "others"}
    assert one["digest"] == digest((repository.store_folder / address.generation("research", 1)).read_bytes())
    assert set(one["commit"]) == {"sha", "branch", "dirty"}
    assert one["edits"][1] == {
        "kind": "move",
        "flow": "agent",
        "text": "default → v1",
        "tag": "default",
        "before": None,
        "after": [{"version": 1, "weight": 100}],
        "exclusive": True,
        "floor": one["commit"]["sha"],
    }


# --- blame ------------------------------------------------------------------------------------------------------------


def invoked(repository: Repository, **given: object) -> str:
    handle = repository.client().deployments.invoke("agent", {"topic": "x"}, **given)  # type: ignore[arg-type]
    handle.wait(60)
    return str(handle.exec_id)


def test_blame_names_the_commit_and_who_moved_the_route(repository: Repository) -> None:
    """After the route has moved on, an execution still leads to its own commit, and to who moved the route there."""
    sha = repository.commit("Say hello\n\nAnd a body that nobody asked for.")
    repository.apply(message="first")
    first = invoked(repository)
    git(repository.folder, "config", "user.name", "Bob")
    repository.change("flows/work.py", "hello", "good morning")
    repository.commit("Be polite")
    repository.apply()
    found = repository.client().history.blame(first)
    assert (found.execution.version, found.execution.tag, found.previous) == (1, "default", None)
    assert found.commit == Commit(sha=sha, branch="main")
    assert found.words is not None
    assert (found.words["author"], found.words["subject"]) == ("Ann", "Say hello")
    assert found.release is not None
    assert found.release.by == "Ann"
    assert found.route is not None
    assert (found.route["generation"], found.route["by"], found.route["message"]) == (1, "Ann", "first")
    second = repository.client().history.blame(invoked(repository))
    assert second.route is not None
    assert (second.route["generation"], second.route["by"], second.route["text"]) == (2, "Bob", "default: v1 → v2")
    assert second.commands[-1] == "kitaru diff agent 1 2"


@pytest.mark.parametrize("how", ["missing", "unreadable"])
def test_blame_does_without_the_move(repository: Repository, how: str) -> None:
    """The generation of the move is damaged: commit, version and target are shown, and that the mover can't be told."""
    sha = repository.commit("Say hello")
    repository.apply()
    exec_id = invoked(repository)
    new_version(repository, "second")
    repository.apply()
    moved = repository.store_folder / address.generation("research", 1)
    if how == "missing":
        moved.unlink()
    else:
        moved.write_bytes(b"{}\n")
    out = " ".join(do(repository, "blame", exec_id).must().out.split())
    assert "runs agent v1" in out
    assert sha[:12] in out
    assert "target flows/work.py:agent" in out
    what = {"missing": "is missing from the lock log", "unreadable": "can't be read"}[how]
    assert f"who moved it there can't be told: generation 1 of project research {what} (kitaru store verify)" in out
    found = do(repository, "blame", exec_id, "-o", "json").must().json["item"]
    assert (found["version"], found["commit"]["sha"], found["route"]) == (1, sha, None)
    assert found["route_problem"] == f"generation 1 of project research {what}"


def test_blame_is_not_stopped_by_damage_elsewhere(repository: Repository) -> None:
    """A generation that the route has nothing to do with can't be read: who moved the route is told all the same."""
    repository.apply()
    new_version(repository, "second")
    repository.apply()
    exec_id = invoked(repository)
    for version in ("third", "fourth", "fifth", "sixth"):
        new_version(repository, version)
        repository.apply()
    # In the middle, where the search for the moment begins.
    (repository.store_folder / address.generation("research", 4)).write_bytes(b"")
    found = repository.client().history.blame(exec_id)
    assert found.route is not None
    assert (found.route["generation"], found.route_problem) == (2, "")


def test_blame_in_words(repository: Repository) -> None:
    """Commit, subject, author, who built it, by which route, and commands to type next."""
    sha = repository.commit("Say hello")
    repository.apply()
    exec_id = invoked(repository)
    out = do(repository, "blame", exec_id[-6:]).must().out
    for words in (
        exec_id,
        f"{sha[:12]} on main",
        "Say hello",
        "by route default",
        "generation 1",
        f"git show {sha[:12]}",
    ):
        assert words in out
    assert max(map(len, out.splitlines())) <= WIDTH
    by_number = do(repository, "blame", invoked(repository, version=1)).must().out
    assert "by its version number" in by_number
    do(repository, "blame", "ex-000000000000000000").refused("there is no execution")


def test_blame_of_a_run_from_source(repository: Repository) -> None:
    """What nobody released has no commit and no version, and that is what blame says."""
    done = do(repository, "run", "flows/work.py:greeter", "-o", "json").must()
    found = do(repository, "blame", done.json["item"]["exec_id"]).must()
    assert "greeter from source" in found.out
    assert "none was recorded" in found.out
    data = do(repository, "blame", done.json["item"]["exec_id"], "-o", "json").must().json["item"]
    assert (data["version"], data["commit"], data["route"]) == (None, None, None)


def test_blame_without_the_repository(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer who has no clone learns the commit all the same, without author and subject."""
    repository.apply()
    exec_id = invoked(repository)
    away = tmp_path / "away"
    away.mkdir()
    url = f"file://{repository.store_folder}"
    data = kitaru("blame", exec_id, "--store", url, "--project", "research", "-o", "json", cwd=away).must().json["item"]
    assert data["git"] is None
    assert data["commit"]["sha"] == git(repository.folder, "rev-parse", "HEAD")


def test_blame_tells_a_draw(repository: Repository) -> None:
    """An execution of a divided route says which weights it was drawn from, and by what."""
    repository.apply()
    repository.change("flows/work.py", "hello", "good morning")
    repository.manifest(MANIFEST.replace("default: head", "default: 1\n      canary: head"))
    repository.commit()
    repository.apply()
    repository.manifest(MANIFEST.replace("default: head", "default: {1: 60, 2: 40}\n      canary: head"))
    repository.commit()
    repository.apply()
    exec_id = invoked(repository, idempotency_key="order-1")
    data = do(repository, "blame", exec_id, "-o", "json").must().json["item"]
    assert data["draw"] == {"weights": {"1": 60, "2": 40}, "by": "idempotency key"}
    assert data["route"]["generation"] == 3
    assert "drawn from v1 60 %, v2 40 % by idempotency key" in " ".join(do(repository, "blame", exec_id).out.split())


def test_who_did_it_is_who_git_says(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that Git takes from the environment stand in history, plan, comment and at executions, as in its log."""
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Cleo")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Cleo")
    repository.commit("by Cleo")
    assert git(repository.folder, "log", "-1", "--format=%cn") == "Cleo"
    repository.apply()
    assert [one.by for one in repository.client().history.list().generations] == ["Cleo"]
    found = repository.client().history.blame(invoked(repository))
    assert (found.execution.actor, found.release and found.release.by) == ("Cleo", "Cleo")
    new_version(repository, "second")
    ((_, move),) = repository.plan().moves
    assert move.moved_by == "Cleo"
    assert "| Cleo, " in do(repository, "plan", "-o", "markdown").must().out


def test_blame_proposes_only_what_works(repository: Repository, tmp_path: Path) -> None:
    """Each command that it names works as it stands: none for a version that was deleted, or a commit that is not here.

    The version before may be deleted too: then the next one before that is compared with.
    """
    repository.apply()
    for version in ("second", "third"):
        new_version(repository, version)
        repository.apply()
    exec_id = invoked(repository, version=2)

    def compared() -> list[str]:
        found = repository.client().history.blame(exec_id).commands
        assert found[0] == f"git show {git(repository.folder, 'rev-parse', 'HEAD~1')[:12]}"
        for command in found:
            program, *words = command.split()
            assert program != "git" or git(repository.folder, *words)
            assert program == "git" or do(repository, *words).must()
        return [command for command in found if command.startswith("kitaru diff")]

    assert compared() == ["kitaru diff agent 1 2"]
    do(repository, "flow", "deployments", "delete", "--yes", "agent", "--version", "2").must()
    do(repository, "diff", "agent", "1", "2").refused("v2")
    assert compared() == []
    away = tmp_path / "away"
    away.mkdir()
    url = f"file://{repository.store_folder}"
    done = kitaru("blame", exec_id, "--store", url, "--project", "research", "-o", "json", cwd=away).must()
    assert done.json["item"]["commands"] == []


def test_blame_of_a_replay(repository: Repository) -> None:
    """A replay names the execution that it replays, and how to look at that."""
    repository.apply()
    first = invoked(repository)
    handle = repository.client().executions.replay(first, from_="write")
    handle.wait(60)
    found = repository.client().history.blame(handle.exec_id)
    assert found.execution.original_exec_id == first
    assert f"kitaru blame {first}" in found.commands
    shutil.rmtree(repository.store_folder / "research" / "executions" / first)
    found = repository.client().history.blame(handle.exec_id)
    assert (found.execution.original_exec_id, [one for one in found.commands if "blame" in one]) == (first, [])


def test_blame_after_a_rename(repository: Repository) -> None:
    """A flow that was renamed since is found under its new name, and the move under its old one."""
    repository.apply()
    exec_id = invoked(repository)
    releases = repository.client().session.releases
    done = releases.append(
        releases.head(verified=True), [Rename(kind="rename", flow="helper", was="agent", expects=1)], by="Ann"
    )
    assert isinstance(done, Lockfile)
    found = repository.client().history.blame(exec_id)
    assert (found.execution.flow_name, found.now) == ("agent", "helper")
    assert found.route is not None
    assert (found.route["generation"], found.route["text"]) == (1, "default → v1")
    assert found.commit is not None
    assert "agent v1, now called helper" in do(repository, "blame", exec_id).must().out


def test_a_route_is_found_though_clocks_differ(log: Log) -> None:
    """The move is found near the moment where the log's own times say that it had not happened yet."""
    log.write(mint("agent", 1), move("agent", "default", 1))
    log.write(mint("agent", 2), move("agent", "default", 2, expects=(1,)))
    log.grow(5)
    past = Past(log.store, PROJECT)
    for near in (0, 1, 2, 7):
        entry = past.move_to("agent", "default", 2, near, 7)
        assert entry is not None
        assert entry.generation == 2
    assert past.move_to("agent", "stable", 2, 7, 7) is None


def test_unknown_ids_are_usage_errors(repository: Repository) -> None:
    """An id that leads nowhere is the caller's mistake."""
    repository.apply()
    with pytest.raises(KitaruUsageError):
        repository.client().history.blame("nope")


def test_edits_of_every_kind_are_known() -> None:
    """A kind of edit that is added to the model must have words here."""
    union, _ = get_args(Edit)
    assert {type(edit) for edit, _ in WORDS} == set(get_args(union))
