"""``save``, ``load`` and ``client.artifacts``: named values, durable when saved, found again by anybody."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import KitaruClient, checkpoint, flow
from kitaru.errors import (
    KitaruExecutionError,
    KitaruIntegrityError,
    KitaruUsageError,
    KitaruUserCodeError,
    KitaruValueError,
)
from kitaru.model import address
from tests.execution_lab import PROJECT, FailingStore, Lab, PowerCut
from tests.repository import until

BIG = "line\n" * 40_000


@dataclass
class Report:
    title: str
    pages: int


@checkpoint
def writes(n: int) -> int:
    kitaru.save("draft", Report(f"draft {n}", n), type="document", tags=["first"])
    kitaru.save("text", BIG)
    return n


@flow
def saving() -> str:
    writes(1)
    writes(2)
    return kitaru.save("summary: all", {"writes": 2})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


@pytest.fixture
def client(lab: Lab) -> KitaruClient:
    return KitaruClient(store=lab.store.url, project=PROJECT)


def test_what_was_saved_is_listed_and_loaded(lab: Lab, client: KitaruClient) -> None:
    """By name, kind and producer, oldest first, with the value as its own type."""
    exec_id = lab.open(saving)
    last = lab.go_on(saving, exec_id)
    found = client.artifacts.list(exec_id)
    assert [(one.name, one.kind, one.producing_call, one.checkpoint) for one in found] == [
        ("draft", "document", "1", "writes"),
        ("text", "output", "1", "writes"),
        ("draft", "document", "2", "writes"),
        ("text", "output", "2", "writes"),
        ("summary: all", "output", None, None),
    ]
    assert found[0].load() == Report("draft 1", 1)
    assert found[1].load() == BIG
    assert found[0].tags == ("first",)
    assert [one.artifact_id for one in client.artifacts.list(exec_id, kind="document", limit=1)] == [
        f"{exec_id}:1:draft"
    ]
    assert [one.name for one in client.artifacts.list(exec_id, producing_call="2")] == ["draft", "text"]
    assert len(client.artifacts.list(exec_id, producing_call="writes", name="text")) == 2
    assert client.artifacts.get(last).load() == {"writes": 2}
    execution = lab.load(exec_id)
    assert execution.artifacts == (last,)
    assert execution.checkpoints[1].artifacts == (f"{exec_id}:2:draft", f"{exec_id}:2:text")


def test_saved_is_durable_though_the_checkpoint_fails(lab: Lab, client: KitaruClient) -> None:
    """When ``save`` returned, the artifact is there, whatever comes of its checkpoint."""

    @checkpoint
    def dies() -> None:
        kitaru.save("partial", [1, 2])
        raise ValueError("after")

    @flow
    def failing() -> None:
        dies()

    exec_id = lab.open(failing)
    with pytest.raises(KitaruUserCodeError):
        lab.go_on(failing, exec_id)
    assert client.artifacts.get(f"{exec_id}:1:partial").load() == [1, 2]


def test_a_power_cut_at_any_write_loses_no_saved_artifact(tmp_path: Path) -> None:
    """At each write the power goes; the execution then goes on elsewhere, and has every artifact once."""
    saved: list[str] = []

    @checkpoint
    def step(n: int) -> int:
        saved.append(kitaru.save(f"part {n}", BIG + str(n)))
        return n

    @flow
    def several() -> int:
        return step(1) + step(2)

    for cut in range(1, 9):
        lab = Lab(tmp_path / str(cut))
        exec_id = lab.open(several)
        saved.clear()
        store = FailingStore(lab.store, cut, after=bool(cut % 2))
        try:
            lab.go_on(several, exec_id, store=store)
        except PowerCut:
            here = set(saved)
            from kitaru.run.executions import read_artifacts

            assert here <= {one.artifact_id for one in read_artifacts(lab.store, PROJECT, exec_id)}
            assert lab.go_on(several, exec_id) == 3
        names = [one.name for one in read_artifacts(lab.store, PROJECT, exec_id)]
        assert sorted(names) == ["part 1", "part 2"]


def test_the_same_name_again_replaces(lab: Lab) -> None:
    """The newest value of a name is the one that ``load`` gives, in another flow and in the same one."""

    @flow
    def again() -> Any:
        kitaru.save("best", 1)
        kitaru.save("best", 2)
        return 0

    first = lab.open(again)
    lab.go_on(again, first)

    @checkpoint
    def reads(exec_id: str) -> Any:
        return kitaru.load(exec_id, "best")

    @flow
    def reader(exec_id: str) -> Any:
        return [reads(exec_id), kitaru.load(exec_id, "best")]

    assert lab.run(reader, exec_id=first) == [2, 2]
    assert len(lab.load(first).artifacts) == 1


@pytest.mark.parametrize("wrong", ["", "..", "latest", "ex-1", "ex-000000000000000000/..", None, 7])
def test_what_is_no_execution_id_is_refused(lab: Lab, wrong: Any) -> None:
    """``load`` says that it expected an id, whatever it was given, and asks the store nothing."""

    @flow
    def reader() -> Any:
        return kitaru.load(wrong, "x")

    with pytest.raises(KitaruUserCodeError, match=r"expected the id of an execution, not") as caught:
        lab.run(reader)
    assert (
        isinstance(caught.value.__cause__, KitaruUsageError) and "kitaru executions list" in caught.value.__cause__.hint
    )


def test_of_several_calls_that_save_one_name_the_last_one_counts(lab: Lab) -> None:
    """As it is documented: what was saved last, whichever call that was."""
    exec_id = lab.open(saving)
    lab.go_on(saving, exec_id)

    @flow
    def reader() -> Any:
        return kitaru.load(exec_id, "draft")

    assert lab.run(reader) == Report("draft 2", 2)


def test_a_missing_name_says_what_there_is(lab: Lab, client: KitaruClient) -> None:
    """A wrong name, a wrong id and a wrong execution are usage errors that help on."""
    exec_id = lab.open(saving)
    lab.go_on(saving, exec_id)

    @flow
    def reader() -> Any:
        return kitaru.load(exec_id, "sumary")

    with pytest.raises(KitaruUserCodeError, match="no artifact 'sumary'; it has: draft, summary: all, text"):
        lab.run(reader)
    with pytest.raises(KitaruUsageError, match="no artifact 'text'"):
        client.artifacts.get(f"{exec_id}:flow:text")
    with pytest.raises(KitaruUsageError, match="no artifact's id"):
        client.artifacts.get("text")
    with pytest.raises(KitaruUsageError, match="there is no execution"):
        client.artifacts.get("ex-000000000000000000:1:text")


@pytest.mark.parametrize("given", [("", 1, "output"), ("a\nb", 1, "output"), ("a", 1, ""), ("x" * 201, 1, "output")])
def test_a_name_must_be_printable(lab: Lab, given: tuple[str, Any, str]) -> None:
    """Names and types are short printable text."""

    @flow
    def naming() -> None:
        kitaru.save(given[0], given[1], type=given[2])

    with pytest.raises(KitaruUserCodeError, match="printable"):
        lab.run(naming)


def test_a_value_that_cannot_be_stored_is_named(lab: Lab) -> None:
    """The error names the artifact and the type."""

    @flow
    def opaque() -> str:
        with pytest.raises(KitaruValueError, match="artifact 'handle'"):
            kitaru.save("handle", object())
        return "on"

    assert lab.run(opaque) == "on"


def test_a_damaged_artifact_is_told(lab: Lab, client: KitaruClient) -> None:
    """Bytes that are not what their digest says are never given out."""
    exec_id = lab.open(saving)
    lab.go_on(saving, exec_id)
    ref = client.artifacts.list(exec_id, name="text")[0]
    lab.store.overwrite(address.blob(PROJECT, ref.record.value.sha256), b"other")
    with pytest.raises(KitaruIntegrityError):
        ref.load()


@checkpoint
def noted(n: int) -> int:
    kitaru.log(rows=n, cost={"euros": 1})
    kitaru.save("table", [n])
    return n


@flow
def cached_notes() -> int:
    return noted(7)


def test_a_cached_result_brings_its_notes(lab: Lab, client: KitaruClient) -> None:
    """A call that takes an earlier result has the metadata and the artifacts of the call that computed it."""
    first = lab.open(cached_notes, cache=True)
    lab.go_on(cached_notes, first)
    until(lambda: set(lab.store.names(f"{PROJECT}/index/cache/")) - {"seen/"})
    for _ in range(2):
        again = lab.open(cached_notes, cache=True)
        lab.go_on(cached_notes, again)
        call = lab.load(again).checkpoints[0]
        assert call.cached_from == f"{first}/1"
        assert call.metadata == {"rows": 7, "cost": {"euros": 1}}
        ref = client.artifacts.list(again, producing_call="noted")[0]
        assert (ref.exec_id, ref.artifact_id, ref.load()) == (again, f"{first}:1:table", [7])


def test_what_has_no_other_form_is_saved_by_pickle_where_that_is_asked_for(tmp_path: Path) -> None:
    """Without ``serializer`` the hint names it; with it the value comes back; any other word is refused."""
    lab, value = Lab(tmp_path), {"pattern": re.compile("a+")}

    @flow
    def saves(serializer: str | None) -> Any:
        saved = kitaru.save("pattern", value, serializer=serializer)
        return kitaru.load(saved.partition(":")[0], "pattern")["pattern"].pattern

    with pytest.raises(KitaruExecutionError) as caught:
        lab.go_on(saves, lab.open(saves, serializer=None))
    assert 'save(name, value, serializer="pickle")' in getattr(caught.value.__cause__, "hint", "")
    with pytest.raises(KitaruExecutionError, match="serializer of save"):
        lab.go_on(saves, lab.open(saves, serializer="yaml"))
    assert lab.go_on(saves, lab.open(saves, serializer="pickle")) == "a+"
