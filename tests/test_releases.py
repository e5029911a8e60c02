"""The lock log: numbered entries decide, the hint only helps, and damage is told and never guessed around."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.lockfile import Edit, Lockfile
from kitaru.model.snapshot import Commit
from kitaru.release import releases as module
from kitaru.release.releases import Lost, Releases
from kitaru.store.local import LocalStore
from tests.lock_strategies import mint, move
from tests.repository import WallClock, Watched

PROJECT = "research"
HINT = address.lock_hint(PROJECT)


class Log:
    """A lock log on a real disk, and what can happen to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Watched(LocalStore(folder, f"file://{folder}"))
        self.releases = Releases(self.store, PROJECT, WallClock())

    def write(self, *edits: Edit, by: str = "Ann") -> Lockfile:
        lock = self.releases.append(self.releases.head(verified=True), edits, by=by)
        assert isinstance(lock, Lockfile), lock
        return lock

    def grow(self, count: int, flows: int = 1) -> Lockfile:
        """``count`` generations, each with one new version of one of the flows."""
        lock = self.releases.head()
        latest = {name: state.latest for name, state in lock.flows.items()}
        for number in range(count):
            flow = f"flow_{number % flows:03d}"
            latest[flow] = latest.get(flow, 0) + 1
            before = (latest[flow] - 1,) if latest[flow] > 1 else None
            edits = (mint(flow, latest[flow]), move(flow, "default", latest[flow], expects=before))
            following = self.releases.append(lock, edits, by="Ann")
            assert isinstance(following, Lockfile)
            lock = following
        return lock

    def reads(self) -> int:
        """Requests that one look at the newest state makes."""
        self.store.calls.clear()
        self.releases.head()
        return len(self.store.calls)

    def path(self, key: str) -> Path:
        return self.folder / key

    def damage(self, key: str, body: bytes) -> None:
        self.path(key).unlink()
        self.path(key).write_bytes(body)

    def entry(self, number: int) -> Path:
        return self.path(address.generation(PROJECT, number))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "store")


def test_an_empty_store_is_generation_0(log: Log) -> None:
    """Nothing was written: no flows, generation 0, found in few requests."""
    assert log.releases.head() == Lockfile(project=PROJECT)
    assert log.reads() <= 3


def test_a_fresh_hint_costs_two_reads(log: Log) -> None:
    """After any number of generations: the hint, and the slot behind it."""
    for count in (1, 30):
        lock = log.grow(count)
        assert log.reads() == 2
        log.store.calls.clear()
        assert log.releases.head(verified=True) == lock
        assert len(log.store.calls) == 3


@pytest.mark.parametrize("generations", [1, 2, 3, 7, 64, 200])
@pytest.mark.parametrize("small", [True, False], ids=["full states", "states over the limit"])
def test_a_lost_hint_costs_time_and_never_truth(
    log: Log, generations: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hint the newest state is rebuilt from the log alone, whether or not its entries carry full states."""
    if not small:
        monkeypatch.setattr(module, "FULL_STATE_BYTES", 100)
    lock = log.grow(generations, flows=5)
    carried = sum(1 for path in log.entry(1).parent.iterdir() if '"state":' in path.read_text())
    assert carried == (generations if small else generations // 64)
    log.path(HINT).unlink()
    assert log.releases.head() == lock
    # The hint, the listing, back to the nearest full state, and the slot behind the newest.
    assert log.reads() <= 3 + min(generations, 1 if small else 64)
    assert log.store.count("names") == 1


def test_entries_stay_small_when_the_state_is_large(log: Log) -> None:
    """Past the limit an entry carries its edits; a full state comes every 64th generation only."""
    log.grow(130, flows=130)
    sizes = [log.entry(number).stat().st_size for number in range(60, 131)]
    large = [number for number, size in zip(range(60, 131), sizes, strict=True) if size > module.FULL_STATE_BYTES]
    assert large == [64, 128]
    assert min(sizes) < 2000


@pytest.mark.parametrize("behind", [1, 5, 40])
def test_a_stale_hint_is_only_a_start(log: Log, behind: int) -> None:
    """From a hint of long ago a reader goes on, entry by entry, to the newest."""
    log.grow(10)
    old = log.path(HINT).read_bytes()
    lock = log.grow(behind)
    log.damage(HINT, old)
    assert log.releases.head() == lock


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"format":1}',
        b'{"format":1,"project":"other","generation":1,"entry":"x","flows":{}}',
        b'{"format":1,"project":"research","generation":3,"entry":"x","flows":{}}',
        b'{"format":1,"project":"research","generation":2,"entry":"' + b"0" * 64 + b'","flows":{}}',
    ],
    ids=["cut", "no text", "a list", "half", "another project", "not what the log says", "another history"],
)
def test_a_wrong_hint_is_not_believed(log: Log, body: bytes) -> None:
    """Whatever stands in the hint, a reader with a log to ask gets the log's answer, or goes on from it to the next."""
    lock = log.grow(4)
    log.damage(HINT, body)
    assert log.releases.head() == lock
    following = log.write(mint("flow_000", 5))
    assert following.generation == 5


def forged(log: Log, **changed: object) -> None:
    """The hint with other content, and the checksum that goes with it."""
    claimed = Lockfile.parse(log.path(HINT).read_bytes()).model_copy(update=changed)
    log.damage(HINT, claimed.model_copy(update={"checksum": claimed.state_digest}).canonical())


@pytest.mark.parametrize("changed", [{"generation": 7}, {"flows": {}}, {"entry": "0" * 64}], ids=lambda one: str(*one))
def test_nothing_is_built_upon_a_hint_that_the_log_denies(log: Log, changed: dict[str, object]) -> None:
    """Where the hint is ahead of the log, or of another history or state, who would write is refused; nothing lands."""
    log.grow(3)
    forged(log, **changed)
    with pytest.raises(KitaruIntegrityError, match="nothing is built upon that") as refused:
        log.releases.head(verified=True)
    assert "kitaru store verify" in refused.value.hint
    with pytest.raises(KitaruIntegrityError):
        log.write(mint("flow_000", 4))
    assert not log.entry(4).exists()
    assert not log.entry(8).exists()


def test_a_hint_of_generation_0_is_left_aside(log: Log) -> None:
    """Nobody writes one: the log says what is there."""
    lock = log.grow(3)
    forged(log, generation=0, entry="", flows={})
    assert log.releases.head(verified=True) == lock


def test_a_cut_off_log_is_not_written_on(log: Log) -> None:
    """Without its newest entries, which the hint knows of, no number is given again until that is deleted."""
    log.grow(9)
    log.entry(9).unlink()
    with pytest.raises(
        KitaruIntegrityError, match=r"tells of generation 9, and the lock log .* ends with 8"
    ) as refused:
        log.releases.head(verified=True)
    assert f"delete {HINT}" in refused.value.hint
    assert not log.entry(9).exists()
    log.path(HINT).unlink()
    assert log.write(mint("flow_000", 9)).generation == 9


def test_a_changed_newest_entry_is_not_buried(log: Log) -> None:
    """An entry that is whole in itself and not the one that the hint knows is not written on."""
    log.grow(9)
    path = log.entry(9)
    log.damage(address.generation(PROJECT, 9), path.read_bytes().replace(b'"by":"Ann"', b'"by":"Eve"', 1))
    with pytest.raises(KitaruIntegrityError, match="generation 9 of project research is not the one"):
        log.write(mint("flow_000", 10))
    assert not log.entry(10).exists()


def test_a_log_that_denies_itself_is_not_written_on(log: Log) -> None:
    """With an older hint: an entry that does not follow the one before it is refused, though it holds a full state."""
    log.grow(3)
    old = log.path(HINT).read_bytes()
    log.grow(1)
    log.damage(HINT, old)
    entry = json.loads(log.entry(4).read_bytes())
    log.damage(address.generation(PROJECT, 4), address.canonical_json({**entry, "parent": "0" * 64}))
    with pytest.raises(KitaruIntegrityError, match="generation 4 of project research does not follow"):
        log.releases.head(verified=True)


def test_an_entry_nested_too_deeply_is_damage(log: Log) -> None:
    """JSON of a hundred thousand brackets can't be read, and is no defect; as a hint it is left aside."""
    lock = log.grow(2)
    log.damage(HINT, b"[" * 100_000)
    assert log.releases.head(verified=True) == lock
    log.damage(address.generation(PROJECT, 2), b"[" * 100_000)
    with pytest.raises(KitaruIntegrityError, match="generation 2 of project research can't be read"):
        log.releases.head(verified=True)


def test_a_newer_format_is_named(log: Log) -> None:
    """An entry of a newer Kitaru is refused; a hint of one is left aside, for the log says it all."""
    log.grow(2)
    newer = address.canonical_json({**json.loads(log.path(HINT).read_bytes()), "format": 2, "shards": []})
    log.damage(HINT, newer)
    assert log.releases.head().generation == 2
    entry = address.canonical_json({**json.loads(log.entry(2).read_bytes()), "format": 2, "shards": []})
    log.damage(address.generation(PROJECT, 2), entry)
    with pytest.raises(KitaruStoreFormatError) as refused:
        log.releases.head()
    assert "newer Kitaru" in refused.value.hint
    assert not log.entry(3).exists()


def test_an_edited_hint_routes_nobody(log: Log) -> None:
    """A hint whose holders were changed by hand is left aside, also by readers that check nothing else."""
    log.grow(2)
    expected = log.releases.head()
    edited = json.loads(log.path(HINT).read_bytes())
    for flow in edited["flows"].values():
        flow["snapshot"] = "0" * 64
    log.damage(HINT, address.canonical_json(edited))
    assert log.releases.head() == expected


@pytest.mark.parametrize("limit", [module.FULL_STATE_BYTES, 10], ids=["full states", "edits alone"])
def test_a_tampered_entry_is_found_out(log: Log, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry in the middle, changed by hand, is found by its number, and never read as another state."""
    monkeypatch.setattr(module, "FULL_STATE_BYTES", limit)
    log.grow(3)
    old_hint = log.path(HINT).read_bytes()
    log.grow(3)
    entry = json.loads(log.entry(5).read_bytes())
    entry["edits"][0]["snapshot"] = "0" * 64
    entry["by"] = "Mallory"
    log.damage(address.generation(PROJECT, 5), address.canonical_json(entry))
    log.damage(HINT, old_hint)
    if limit == 10:
        with pytest.raises(KitaruIntegrityError) as refused:
            log.releases.head()
        assert "generation 5" in refused.value.message
        assert refused.value.hint
    else:
        assert log.releases.head().generation == 6


def test_the_newest_entry_can_not_be_changed_unnoticed(log: Log) -> None:
    """A full state that is not what its entry's own digest says is refused."""
    log.grow(3)
    entry = json.loads(log.entry(3).read_bytes())
    entry["state"]["flow_000"]["snapshot"] = "0" * 64
    log.damage(address.generation(PROJECT, 3), address.canonical_json(entry))
    log.path(HINT).unlink()
    with pytest.raises(KitaruIntegrityError):
        log.releases.head()


def test_a_missing_entry_is_named(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that is gone from the middle, where nothing else can tell what it held, is an error that names it."""
    monkeypatch.setattr(module, "FULL_STATE_BYTES", 10)
    log.grow(9)
    log.entry(6).unlink()
    log.path(HINT).unlink()
    with pytest.raises(KitaruIntegrityError) as refused:
        log.releases.head()
    assert "generation 6 of project research is missing" in refused.value.message


@pytest.mark.parametrize("first", [1, 2, 9])
def test_a_log_with_a_gap_is_not_forked(log: Log, first: int) -> None:
    """No hint, generations gone: the newest is found behind the gap, and the full state that it holds is built upon."""
    lock = log.grow(10)
    log.path(HINT).unlink()
    for number in range(first, 10):
        log.entry(number).unlink()
    assert log.releases.head(verified=True) == lock
    assert log.write(mint("flow_000", 11)).generation == 11
    assert not log.entry(first).exists()


@pytest.mark.parametrize("gone", [(1,), (1, 2, 3), (2, 3, 4, 5, 6, 7, 8, 9), (9,)], ids=str)
def test_nothing_is_built_upon_a_state_that_can_not_be_told(
    log: Log, gone: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No hint, generations gone, and no full state behind them: who would read or write is refused; nothing lands."""
    monkeypatch.setattr(module, "FULL_STATE_BYTES", 10)
    log.grow(10)
    log.path(HINT).unlink()
    for number in gone:
        log.entry(number).unlink()
    with pytest.raises(KitaruIntegrityError, match=f"generation {gone[-1]} of project research is missing") as refused:
        log.write(mint("flow_000", 11))
    assert "kitaru store verify" in refused.value.hint
    with pytest.raises(KitaruIntegrityError):
        log.releases.head()
    assert not any(log.entry(number).exists() for number in (*gone, 11))


def test_a_stray_entry_is_no_newest_one(log: Log) -> None:
    """Without a hint: an entry far away that says it is another one is left aside; one that can't say is not."""
    lock = log.grow(3)
    log.path(HINT).unlink()
    log.entry(99).write_bytes(log.entry(3).read_bytes())
    assert log.releases.head(verified=True) == lock
    log.entry(99).write_bytes(b"")
    with pytest.raises(KitaruIntegrityError, match="can't be read"):
        log.releases.head(verified=True)
    assert log.releases.last_number() == 99


def test_a_gap_at_the_hint_is_no_cut_end(log: Log) -> None:
    """Where the entry that an old hint tells of is gone and the log goes on behind it, the refusal says so."""
    log.grow(5)
    old = log.path(HINT).read_bytes()
    log.grow(4)
    log.damage(HINT, old)
    log.entry(5).unlink()
    with pytest.raises(KitaruIntegrityError, match=r"generation 5 .* is missing, and the lock log goes on to 9"):
        log.write(mint("flow_000", 10))
    assert not log.entry(5).exists()


def test_a_lost_race_gives_the_winner(log: Log) -> None:
    """Of two appends on one state the second learns whose generation it is, and has written nothing."""
    lock = log.grow(1)
    assert isinstance(log.releases.append(lock, [mint("flow_000", 2)], by="Ann"), Lockfile)
    outcome = log.releases.append(lock, [mint("other", 1)], by="Bob", commit=Commit(sha="1" * 40))
    assert isinstance(outcome, Lost)
    assert (outcome.winner.by, outcome.winner.generation) == ("Ann", 2)
    assert sorted(log.releases.head().flows) == ["flow_000"]


def test_a_hint_that_can_not_be_written_loses_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation is committed although the hint's write failed; readers find it."""
    from kitaru.errors import KitaruStoreError

    log.grow(2)

    def fail(key: str, body: bytes, *, durable: bool = True) -> None:
        raise KitaruStoreError("the disk is full")

    monkeypatch.setattr(log.store, "overwrite", fail)
    assert log.write(mint("other", 1)).generation == 3
    assert log.releases.head().generation == 3


def test_many_writers_make_one_history(log: Log) -> None:
    """Eight threads, each minting versions of its own flow and of a shared one: every number once, and no gap."""

    def work(worker: int) -> None:
        chance = random.Random(worker)
        for own in range(1, 6):
            while True:
                lock = log.releases.head()
                shared = lock.flows["shared"].latest if "shared" in lock.flows else 0
                edits = [mint("shared", shared + 1), mint(f"own_{worker}", own)]
                chance.shuffle(edits)
                if isinstance(log.releases.append(lock, edits, by=f"w{worker}"), Lockfile):
                    break

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    lock = log.releases.head()
    assert lock.generation == 40
    assert {name: state.latest for name, state in lock.flows.items()} == {
        "shared": 40,
        **{f"own_{worker}": 5 for worker in range(8)},
    }
    entries = [log.releases.entry(number) for number in range(1, 42)]
    assert [found is not None for found in entries] == [True] * 40 + [False]
    minted = [edit.version for found in entries if found for edit in found[0].edits if edit.flow == "shared"]  # type: ignore[union-attr]
    assert minted == list(range(1, 41))
    log.path(HINT).unlink()
    assert log.releases.head() == lock
