"""store gc: what nothing leads to goes, after a grace period by the store's clock; everything else stays."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.errors import KitaruIntegrityError, KitaruStoreError, KitaruUsageError
from kitaru.model import address
from kitaru.model.lockfile import FlowState, Release, VersionTable
from kitaru.model.route import Assignment, Hold, Route
from kitaru.release.releases import Releases
from kitaru.source.bundle import read_archive
from kitaru.store import objects
from kitaru.store.port import Store
from kitaru.upkeep.collect import Collected, Terms, outlived
from kitaru.upkeep.verify import verify
from kitaru.wiring import Silent
from tests.applying import new_version
from tests.execution_lab import WallClock
from tests.repository import Repository, kitaru
from tests.turns import AgedStore, Cut, CutStore, StoreClock

PROJECT = "research"
DAY = timedelta(days=1)
MONTH = timedelta(days=30)


class Place:
    """A repository and the store that it is applied to, whose clock the tests move."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository.make(folder)
        self.store = AgedStore()

    def client(self, store: Store | None = None) -> KitaruClient:
        client = self.repository.client(wrap=lambda _: store or self.store)
        client.session.clock = StoreClock(getattr(store, "_inner", store) or self.store)  # type: ignore[assignment]
        return client

    def apply(self, word: str = "") -> None:
        if word:
            new_version(self.repository, word)
        assert self.client().apply().changed

    def collect(self, *, delete: bool = True, store: Store | None = None, **terms: Any) -> Collected:
        return self.client(store).housekeeping.collect(delete=delete, **terms)

    def orphan(self, text: bytes = b"nobody leads here") -> str:
        key = address.blob(PROJECT, address.digest(text))
        self.store.create(key, text)
        return key

    @property
    def objects(self) -> set[str]:
        return {key for key in self.store.bodies if "/objects/" in key}


def check_intact(store: Store, project: str = PROJECT) -> None:
    """Every version that is not deleted, and every execution, is there with all that it needs."""
    Releases(store, project, WallClock()).head(verified=True)
    assert not verify(store, project, Silent(), check_archive=read_archive).problems


def amounts(found: Collected) -> dict[str, int]:
    return {one.kind: one.count for one in found.objects}


@pytest.fixture
def place(own_world: Path) -> Place:
    return Place(own_world / "r")


@pytest.fixture
def grown(place: Place) -> Place:
    """Four versions, a month old."""
    place.apply()
    for word in ("second", "third", "fourth"):
        place.apply(word)
    place.store.pass_time(MONTH)
    return place


# --- what goes and what stays ----------------------------------------------------------------------------------------


def test_an_empty_store_has_nothing_to_remove(place: Place) -> None:
    """Where nothing was ever written, nothing is found, and nothing is left behind."""
    found = place.collect()
    assert found.nothing
    assert not place.store.bodies


def test_of_a_living_project_only_outdated_tables_go(grown: Place) -> None:
    """Four versions without terms: each keeps all it has; the three version tables that were replaced go."""
    before = grown.objects
    found = grown.collect()
    assert amounts(found) == {"objects": 3}
    assert len(before - grown.objects) == 3
    assert not found.versions
    check_intact(grown.store)
    assert grown.client().plan().is_empty
    assert [one.version for one in grown.client().deployments.list("agent")] == [1, 2, 3, 4]
    assert grown.collect().nothing


def test_a_dry_run_lists_the_same_and_removes_nothing(grown: Place) -> None:
    """What it says would go is what goes then, to the byte."""
    grown.orphan()
    grown.store.pass_time(MONTH)
    before = dict(grown.store.bodies)
    planned = grown.collect(delete=False, keep_versions=2)
    assert grown.store.bodies == before
    done = grown.collect(keep_versions=2)
    assert done.objects == planned.objects
    assert done.versions == planned.versions
    assert done.later == planned.later
    assert amounts(done) == {"objects": 4}


def test_an_orphan_goes_after_the_grace_period_by_the_stores_clock(grown: Place) -> None:
    """An object that nothing leads to stays for 24 hours, or what --grace says; this machine's clock is not asked."""
    grown.collect()
    key = grown.orphan()
    grown.store.pass_time(timedelta(hours=23))
    assert grown.collect().nothing
    assert key in grown.objects
    assert grown.collect(delete=False, grace=timedelta(hours=22)).objects[0].bytes == 17
    grown.store.pass_time(timedelta(hours=2))
    assert amounts(grown.collect()) == {"objects": 1}
    assert key not in grown.objects


def test_an_object_that_was_written_again_is_young(grown: Place) -> None:
    """The last write counts, not the first."""
    grown.collect()
    key = grown.orphan()
    grown.store.pass_time(MONTH)
    grown.store.overwrite(key, grown.store.bodies[key][0])
    assert grown.collect().nothing


def test_an_archive_and_its_listing_go_together(grown: Place) -> None:
    """While one of the two is young both stay: who finds an archive relies on its listing."""
    grown.collect()
    listing = b'[["a.py","100644","00"]]\n'
    sha = address.digest(listing)
    blob, archive = address.blob(PROJECT, sha), address.source_archive(PROJECT, sha)
    grown.store.create(blob, listing)
    grown.store.create(archive, b"packed")
    grown.store.pass_time(MONTH)
    for young in (blob, archive):
        grown.store.overwrite(young, grown.store.bodies[young][0])
        assert grown.collect().nothing
        assert {blob, archive} <= grown.objects
        grown.store.pass_time(MONTH)
    grown.collect()
    assert not {blob, archive} & grown.objects


def test_who_holds_an_older_state_finds_all_of_it(grown: Place) -> None:
    """For the grace period the table of an earlier state stays, however old it is."""
    before = grown.client().session.releases.head()
    grown.apply("fifth")
    grown.collect()
    assert address.blob(PROJECT, before.flows["agent"].table) in grown.objects
    grown.store.pass_time(2 * DAY)
    grown.collect()
    assert address.blob(PROJECT, before.flows["agent"].table) not in grown.objects


# --- versions ---------------------------------------------------------------------------------------------------------


def test_versions_go_in_the_log_first_and_their_objects_after_the_grace_period(grown: Place) -> None:
    """--keep-versions 2: two deletions in one generation by verb gc; what they leave goes a day later."""
    client = grown.client()
    found = grown.collect(keep_versions=2)
    assert [(one.flow, one.version) for one in found.versions] == [("agent", 1), ("agent", 2)]
    assert [one.version for one in client.deployments.list("agent")] == [3, 4]
    entry = client.session.releases.entry(found.generation)
    assert entry is not None
    assert (entry[0].verb, [edit.kind for edit in entry[0].edits]) == ("gc", ["drop", "drop"])
    assert found.later.count == 7
    check_intact(grown.store)
    grown.store.pass_time(timedelta(hours=20))
    assert grown.collect(keep_versions=2).nothing
    grown.store.pass_time(timedelta(hours=5))
    later = grown.collect(keep_versions=2)
    assert amounts(later) == {"source archives": 2, "objects": 5}
    check_intact(grown.store)
    assert grown.client().plan().is_empty


def test_with_no_grace_everything_goes_at_once(grown: Place) -> None:
    """--grace 0: the versions and what they leave, in one run."""
    grown.store.pass_time(DAY)
    found = grown.collect(keep_versions=1, grace=timedelta(0))
    assert len(found.versions) == 3
    grown.store.pass_time(timedelta(seconds=1))
    grown.collect(grace=timedelta(0))
    assert len(grown.objects) == 4
    check_intact(grown.store)


def _state(**given: Any) -> tuple[FlowState, VersionTable]:
    rows = tuple(
        Release(
            version=number, snapshot=f"s{number}", source=f"t{number}", at=f"2026-0{number}-01T00:00:00.000000Z", by="A"
        )
        for number in range(1, 7)
    )
    table = VersionTable(flow="agent", releases=rows)
    return FlowState(**{"latest": 6, "snapshot": "s6", "table": "x", **given}), table


def _route(*versions: int, left: tuple[int, ...] = (), exclusive: bool = True) -> Route:
    holders = tuple(Assignment(version=number, snapshot=f"s{number}") for number in versions)
    hold = Hold(left=tuple(Assignment(version=number, snapshot=f"s{number}") for number in left)) if left else None
    return Route(holders=holders, exclusive=exclusive, hold=hold)


NOW = datetime(2026, 6, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "terms", "gone"),
    [
        ({}, {"keep_versions": 2}, [1, 2, 3, 4]),
        ({}, {"keep_versions": 9}, []),
        ({}, {"older_than": timedelta(days=100)}, [1, 2, 3]),
        ({}, {"older_than": timedelta(days=100), "keep_versions": 4}, [1, 2]),
        ({}, {"older_than": timedelta(days=1)}, [1, 2, 3, 4, 5]),
        ({"retired": True}, {"older_than": timedelta(days=1)}, [1, 2, 3, 4, 5, 6]),
        ({"retired": True}, {"keep_versions": 2}, [1, 2, 3, 4]),
        ({"routes": {"default": _route(1)}}, {"keep_versions": 2}, [2, 3, 4]),
        ({"routes": {"bench": _route(1, 3, exclusive=False)}}, {"keep_versions": 2}, [2, 4]),
        ({"routes": {"default": _route(4, left=(2,))}}, {"keep_versions": 2}, [1, 3]),
        ({"untagged": {"stable": _route(3)}}, {"keep_versions": 2}, [1, 2, 4]),
    ],
)
def test_versions_that_are_needed_stay(given: dict[str, Any], terms: dict[str, Any], gone: list[int]) -> None:
    """Never one that a route, a label, a hold or a removed route names, nor the newest of a flow that lives."""
    state, table = _state(**given)
    assert [row.version for row in outlived(state, table, Terms(**terms), NOW, ())] == gone


def test_a_version_that_an_execution_is_pinned_to_stays() -> None:
    """As long as it has not ended."""
    state, table = _state()
    found = outlived(state, table, Terms(keep_versions=2), NOW, {"s2"})
    assert [row.version for row in found] == [1, 3, 4]


def test_deleted_versions_do_not_count_among_the_newest() -> None:
    """--keep-versions counts what is there."""
    state, table = _state()
    table = table.deleting(5, at="2026-06-02T00:00:00.000000Z", by="A")
    assert [row.version for row in outlived(state, table, Terms(keep_versions=2), NOW, ())] == [1, 2, 3]


def test_many_versions_are_deleted_by_several_generations(grown: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No generation deletes more than so many."""
    monkeypatch.setattr("kitaru.upkeep.collect.MOST_DROPS", 2)
    generation = grown.client().session.releases.head().generation
    found = grown.collect(keep_versions=1)
    assert [one.version for one in found.versions] == [1, 2, 3]
    assert found.generation == generation + 2


# --- while others work, one step at a time ---------------------------------------------------------------------------


def test_a_collector_that_dies_at_any_call_leaves_a_sound_store(grown: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at call k, for every k: nothing needed is gone, and the next one, when it may, ends where one would."""
    grown.orphan()
    grown.collect(keep_versions=2)
    grown.store.pass_time(2 * DAY)
    start, finished, cut = grown.store, False, 0
    whole = start.copy()
    grown.collect(store=whole)
    end = {key: body for key, (body, _) in whole.bodies.items()}
    while not finished:
        cut += 1
        store = start.copy()
        try:
            grown.collect(store=CutStore(store, cut))  # type: ignore[arg-type]
            finished = True
        except Cut:
            pass
        check_intact(store)
        store.pass_time(timedelta(hours=2))
        grown.collect(store=store)
        left = {key: body for key, (body, _) in store.bodies.items() if "/gc/running/" not in key}
        assert left == end, cut
    assert cut > 25


def test_a_writer_waits_for_collectors_until_they_are_known_to_be_dead(
    grown: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as a mark stands; one of a killed collector is removed by whoever waited for it."""
    alive, dead = (f"{address.collecting(PROJECT)}{name}" for name in ("alive", "dead"))
    text = b"old bytes"
    grown.orphan(text)
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            grown.store.remove(alive)
        elif len(waits) == 6:
            monkeypatch.setattr(objects, "COLLECTOR_SECONDS", -1.0)

    monkeypatch.setattr(objects.time, "sleep", sleep)
    for mark in (alive, dead):
        grown.store.create(mark, b"{}")
    objects.put_object(grown.store, PROJECT, text)
    assert len(waits) == 6
    assert dead not in grown.store.bodies
    objects.put_object(grown.store, PROJECT, b"new bytes")
    assert len(waits) == 6


def test_a_look_writes_nothing(grown: Place) -> None:
    """Not even for a moment: a store that is read-only, or full, can be looked at."""
    grown.orphan()
    grown.store.pass_time(2 * DAY)

    class ReadOnly(AgedStore):
        def create(self, key: str, body: bytes) -> Any:
            raise KitaruStoreError("read-only")

        overwrite = create  # type: ignore[assignment]

    store = ReadOnly()
    store.now, store.bodies = grown.store.now, dict(grown.store.bodies)
    assert amounts(grown.collect(delete=False, store=store, keep_versions=1))["objects"] == 4


def test_a_full_disk_can_be_freed(grown: Place) -> None:
    """Nothing can be written until something is removed; then versions are deleted, too."""
    grown.orphan()
    grown.store.pass_time(2 * DAY)

    class Full(AgedStore):
        def create(self, key: str, body: bytes) -> Any:
            if len(self.bodies) >= full:
                raise KitaruStoreError("full") from OSError(errno.ENOSPC, "No space left on device")
            return super().create(key, body)

    store = Full()
    store.now, store.bodies = grown.store.now, dict(grown.store.bodies)
    full = len(store.bodies)
    found = grown.collect(store=store, keep_versions=2)
    assert [one.version for one in found.versions] == [1, 2]
    assert len(store.bodies) < full
    check_intact(store)


def test_versions_of_the_last_day_stay(place: Place) -> None:
    """Whatever --keep-versions says: made a moment ago, or led to until a moment ago."""
    place.apply()
    place.apply("second")
    place.store.pass_time(MONTH)
    for word in ("third", "fourth"):
        place.apply(word)
    found = place.collect(keep_versions=1)
    assert [one.version for one in found.versions] == [1]
    assert [one.version for one in place.client().deployments.list("agent")] == [2, 3, 4]
    place.store.pass_time(2 * DAY)
    assert [one.version for one in place.collect(keep_versions=1).versions] == [2, 3]


def test_where_it_cant_be_told_what_is_needed_nothing_goes(grown: Place) -> None:
    """A missing version table is named, and no object is removed."""
    grown.orphan()
    grown.store.pass_time(2 * DAY)
    state = grown.client().session.releases.head().flows["agent"]
    grown.store.remove(address.blob(PROJECT, state.table))
    before = grown.objects
    with pytest.raises(KitaruIntegrityError, match="version table of agent"):
        grown.collect()
    assert grown.objects == before


@pytest.mark.parametrize(
    "wrong",
    [{"keep_versions": 0}, {"older_than": timedelta(0)}, {"grace": timedelta(days=-1)}],
    ids=lambda given: next(iter(given)),
)
def test_terms_that_mean_nothing_are_refused(place: Place, wrong: dict[str, Any]) -> None:
    """In words, before anything is read."""
    with pytest.raises(KitaruUsageError, match="expected"):
        place.collect(**wrong)
    assert not place.store.bodies


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_what_would_go_and_how(repository: Repository) -> None:
    """Dry by default, with the command that does it; -o json has it all; --delete does it."""
    for word in ("", "second", "third"):
        if word:
            new_version(repository, word)
        repository.apply()
    shown = kitaru("store", "gc", "--grace", "0d", "--keep-versions", "1", cwd=repository.folder).must()
    assert "2 versions would be deleted" in shown.out
    assert "agent  v1-v2" in shown.out
    assert "Nothing was removed. To do it: kitaru store gc --delete --keep-versions 1 --grace 0d" in shown.out
    assert len(repository.client().deployments.list("agent")) == 3
    data = (
        kitaru("store", "gc", "--grace", "0d", "--keep-versions", "1", "-o", "json", cwd=repository.folder).must().json
    )
    assert data["command"] == "store.gc"
    assert [one["version"] for one in data["item"]["versions"]] == [1, 2]
    assert {one["kind"] for one in data["item"]["objects"]} == {"objects"}
    done = kitaru(
        *("store", "gc", "--grace", "0d", "--keep-versions", "1", "--delete", "--yes"), cwd=repository.folder
    ).must()
    assert "2 versions deleted" in done.out
    kitaru("store", "gc", "--grace", "0d", "--delete", "--yes", cwd=repository.folder).must()
    assert "Nothing to remove" in kitaru("store", "gc", "--grace", "0d", cwd=repository.folder).must().out
    kitaru("store", "verify", "--deep", cwd=repository.folder).must()
    assert [one.version for one in repository.client().deployments.list("agent")] == [3]


@pytest.mark.parametrize("words", [("--older-than", "soon"), ("--grace", "-1d"), ("--local", "--keep-versions", "2")])
def test_the_command_refuses_what_it_cant_take(repository: Repository, words: tuple[str, ...]) -> None:
    """In words, with what it takes."""
    kitaru("store", "gc", *words, cwd=repository.folder).refused()
