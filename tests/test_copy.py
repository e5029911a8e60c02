"""``kitaru store copy``: a project goes from one kind of store to another, whole, and goes on there."""

from __future__ import annotations

from pathlib import Path

import pytest

from kitaru import KitaruClient
from kitaru.errors import KitaruStoreError
from kitaru.store.copy import copy
from kitaru.store.memory import MemoryStore
from kitaru.store.open import open_store
from tests.repository import Repository, kitaru
from tests.s3_servers import S3Server


@pytest.fixture
def used(repository: Repository) -> Repository:
    repository.apply()
    repository.client().deployments.invoke("agent", {"topic": "x"}).wait(60)
    return repository


def test_a_folder_is_copied_and_goes_on(used: Repository, tmp_path: Path) -> None:
    """What was there, and on a second copy what came since; the copy answers as the first store does."""
    to = f"file://{tmp_path}/copy"
    done = kitaru("store", "copy", "file://.kitaru/store", to, cwd=used.folder).must()
    assert done.out.startswith("copied ") and "sound: 1 generation" in done.out
    there = KitaruClient(store=to, project="research")
    (execution,) = there.executions.list()
    assert there.executions.result(execution) == "HELLO X"
    assert there.deployments.invoke("agent", {"topic": "y"}).wait(60) == "HELLO Y"

    used.client().deployments.invoke("agent", {"topic": "z"}).wait(60)
    again = kitaru("store", "copy", "file://.kitaru/store", to, "-o", "json", cwd=used.folder).must().json["item"]
    assert again["verified"]["sound"] and 0 < again["keys"] < 20
    assert len(list(there.executions.list())) == 3


def test_a_store_without_the_project_is_refused(used: Repository, tmp_path: Path) -> None:
    done = kitaru("store", "copy", f"file://{tmp_path}/none", f"file://{tmp_path}/copy", cwd=used.folder)
    done.refused("there is nothing to copy: looked for project research in store")
    assert not (tmp_path / "copy").exists()


def test_a_copy_that_went_another_way_is_refused(used: Repository, tmp_path: Path) -> None:
    to = f"file://{tmp_path}/copy"
    used.client().housekeeping.copy(to)
    for store in (f"file://{used.store_folder}", to):
        kitaru("flow", "tag", "agent", "stable", "--version", "1", "--no-manifest", "--store", store, cwd=used.folder)
    kitaru("store", "copy", "file://.kitaru/store", to, cwd=used.folder).refused("holds something else under", code=1)


def test_a_folder_goes_to_a_bucket_and_back(
    used: Repository, moto_s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_s3.environment().items():
        monkeypatch.setenv(name, value)
    bucket = moto_s3.new_prefix()
    assert used.client().housekeeping.copy(bucket).verified.sound
    back = KitaruClient(store=bucket, project="research").housekeeping.copy(f"file://{tmp_path}/back")
    assert back.verified.sound
    (execution,) = KitaruClient(store=f"file://{tmp_path}/back", project="research").executions.list()
    assert execution.status == "completed"


def test_a_copy_is_whole_at_each_moment() -> None:
    """Objects before what names them, entries in their order; a writer beside it adds no dangling name."""
    source, target = MemoryStore("memory://copied-from"), MemoryStore("memory://copied-to")
    for key in ("p/lock/1", "p/lock/2", "p/objects/a", "p/index/x"):
        source.create(key, key.encode())
    written: list[str] = []

    class Watched(MemoryStore):
        def create(self, key: str, body: bytes) -> object:  # type: ignore[override]
            written.append(key)
            return target.create(key, body)

    folders = ["p/index/", "p/lock/", "p/objects/"]
    assert copy(source, Watched("memory://watched"), folders, may_change=lambda _: False) == (4, 36)
    assert written == ["p/objects/a", "p/lock/1", "p/lock/2", "p/index/x"]
    with pytest.raises(KitaruStoreError, match="holds something else"):
        target.overwrite("p/lock/2", b"other")
        copy(source, target, folders, may_change=lambda _: False)
    copy(source, target, folders, may_change=lambda key: "lock" in key)
    assert target.read("p/lock/2") == b"p/lock/2"
    assert open_store("memory://copied-to", base=Path()).read("p/index/x") == b"p/index/x"
