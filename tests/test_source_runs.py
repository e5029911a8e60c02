"""Executions that began from source: where they go on, and what is said where they can't."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient, checkpoint, flow
from kitaru.errors import KitaruInputError, KitaruSourceError, KitaruUsageError
from kitaru.model.event import Opened, SourcePlace
from kitaru.run.journal import open_execution, read_entries, read_events
from tests.repository import Done, Repository, finish, kitaru, start

SOURCE = """
from pathlib import Path

from kitaru import checkpoint, flow


@checkpoint
def collect(topic: str) -> str:
    print("collecting")
    return f"notes on {topic}"


@checkpoint
def write(notes: str, mended: str) -> int:
    if not Path(mended).exists():
        raise LookupError("not yet")
    return len(notes)


@flow
def report(mended: str, topic: str = "tea") -> int:
    return write(collect(topic), mended)
"""


def command(*arguments: str | Path, cwd: Path) -> Done:
    return finish(start(*arguments, cwd=cwd))


@pytest.fixture
def begun(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str, Path]:
    """A folder with a flow, an execution of it that failed, and the file that mends it."""
    monkeypatch.chdir(own_world)
    folder, mended = own_world / "began", own_world / "mended"
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "work.py").write_text(SOURCE)
    done = command("run", "flows/work.py:report", "--input", json.dumps({"mended": str(mended)}), cwd=folder)
    done.must(1)
    listed = command("executions", "list", "-o", "json", cwd=folder).json["items"]
    return folder, listed[0]["exec_id"], mended


def test_the_first_entry_says_where_it_began(begun: tuple[Path, str, Path]) -> None:
    """The folder and the host stand beside the target, which is relative to that folder."""
    folder, exec_id, _ = begun
    execution = KitaruClient().executions.get(exec_id)
    assert execution.target == "flows/work.py:report"
    assert execution.source is not None
    assert execution.source.folder == str(folder)
    assert execution.source.host


@pytest.mark.parametrize("verb", ["resume", "retry"])
def test_it_goes_on_from_its_own_folder_wherever_one_is(begun: tuple[Path, str, Path], verb: str) -> None:
    """Started elsewhere on the machine it takes the code from where it began, in the foreground, and says so."""
    _, exec_id, mended = begun
    elsewhere = mended.parent / "elsewhere"
    (elsewhere / "flows").mkdir(parents=True)
    (elsewhere / "flows" / "work.py").write_text("raise SystemError('another project')\n")
    mended.touch()
    done = command("executions", verb, exec_id, cwd=elsewhere).must()
    assert done.out == "12\n"
    assert "in this process, as it began from source" in done.err
    assert "collecting" not in done.said


def test_where_its_folder_is_gone_it_says_where_it_began(begun: tuple[Path, str, Path]) -> None:
    """Resume, retry and replay name the folder and the host, and what would work anywhere; nothing is recorded."""
    folder, exec_id, mended = begun
    mended.touch()
    shutil.rmtree(folder)
    for words in (("resume", exec_id), ("retry", exec_id), ("replay", exec_id, "--from", "write")):
        done = command("executions", *words, cwd=mended.parent)
        done.refused(
            f"began from source at {folder} on host", "(flows/work.py:report)", "which is not here", "deployed"
        )
        assert "commit it" not in done.said
    assert [one.status for one in KitaruClient().executions.list()] == ["failed"]


def test_on_another_machine_a_clone_will_do(begun: tuple[Path, str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the host is another one, the same path here is not the folder; a source with that target is taken."""
    folder, exec_id, mended = begun
    client = KitaruClient()
    store, project = client.session.store, client.session.project
    opened = read_events(read_entries(store, project, exec_id), exec_id)[0]
    assert isinstance(opened, Opened)
    place = SourcePlace(folder=str(folder), host="far 0 1 2")
    far = replace(opened, at="2026-01-01T00:00:00.000000Z", exec_id="ex-" + "1" * 18, source=place)
    open_execution(store, far, "w")
    clone = mended.parent / "clone"
    clone.mkdir()
    mended.touch()
    monkeypatch.chdir(clone)
    with pytest.raises(KitaruSourceError, match="on host far"):
        KitaruClient().executions.resume(far.exec_id)
    shutil.copytree(folder / "flows", clone / "flows")
    assert KitaruClient().executions.resume(far.exec_id).wait(30) == 12


def test_code_that_changed_meanwhile_computes_what_differs(begun: tuple[Path, str, Path]) -> None:
    """What the change leaves alone is reused; a call of a failed execution that is another one now is computed."""
    folder, exec_id, mended = begun
    mended.touch()
    place = folder / "flows" / "work.py"
    place.write_text(SOURCE.replace("return len(notes)", "return -len(notes)"))
    done = command("executions", "replay", exec_id, "--from", "write", cwd=folder).must()
    assert done.out == "-12\n" and "collecting" not in done.said
    place.write_text(SOURCE.replace("collect(topic)", "collect(topic + '!')"))
    done = command("executions", "resume", exec_id, cwd=folder).must()
    assert done.out == "collecting\n13\n"


def test_after_init_a_list_that_is_empty_names_the_store_of_before(begun: tuple[Path, str, Path]) -> None:
    """Runs from before the manifest are in the user's own store: the hint is the command that lists them."""
    folder, exec_id, _ = begun
    assert exec_id in command("executions", "list", cwd=folder).must().out
    kitaru("init", cwd=folder).must()
    done = command("executions", "list", "--flow", "report", cwd=folder).must()
    (hint,) = [line for line in done.err.splitlines() if "own store" in line]
    assert exec_id in command(*hint.partition("kitaru ")[2].split(), cwd=folder).must().out
    assert "own store" not in command("executions", "list", "--flow", "other", cwd=folder).must().said
    done = command("executions", "list", "-o", "json", cwd=folder).must()
    assert done.json["items"] == []


# --- results that are given -------------------------------------------------------------------------------------------


@checkpoint
def count(topic: str) -> int:
    return len(topic)


@checkpoint
def label(number: int) -> str | None:
    return f"n={number}"


@checkpoint
def untyped(text):  # type: ignore[no-untyped-def]
    return {"text": text}


@flow
def typed(topic: str = "tea") -> Any:
    return untyped(label(count(topic)))


def test_a_given_result_of_another_type_is_refused_up_front(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the return annotation says counts, and nothing is opened; a name that is close is offered."""
    monkeypatch.chdir(own_world)
    client = KitaruClient(store=f"file://{own_world}/store", project="lab")
    handle = client.executions.run(typed, {"topic": "tea"})
    handle.wait(30)
    for name, value, words in (
        ("count", "three", "expected int, got str 'three'"),
        ("label", 3, "expected str | None, got int 3"),
    ):
        for verb in (client.executions.replay, client.executions.plan_replay):
            with pytest.raises(KitaruInputError) as caught:
                verb(handle.exec_id, from_="untyped", overrides={f"checkpoint.{name}": value}, flow=typed)
            assert words in caught.value.message
            assert "its recorded result is" in caught.value.hint
    with pytest.raises(KitaruUsageError, match="did you mean label"):
        client.executions.replay(handle.exec_id, from_="untyped", overrides={"checkpoint.lable": ""}, flow=typed)
    with pytest.raises(KitaruUsageError, match="did you mean untyped"):
        client.executions.replay(handle.exec_id, from_="untypd", flow=typed)
    assert len(client.executions.list()) == 1
    given = {"checkpoint.label": None, "checkpoint.untyped": [1]}
    assert client.executions.replay(handle.exec_id, from_=1, overrides=given, flow=typed).wait(30) == [1]


DEPLOYED = (
    SOURCE.replace("LookupError", "OSError")
    + """

class Verdict(BaseModel):
    good: bool
    note: str = ""


@checkpoint
def judge(size: int) -> Verdict:
    return Verdict(good=size > 3)


@flow
def judged(mended: str, topic: str = "tea") -> bool:
    return judge(write(collect(topic), mended)).good
"""
)
MANIFEST = """\
kitaru: 1
project: research
source: {include: ["flows/**"]}
flows:
  judged: {target: "flows/work.py:judged", routes: {default: head}}
"""


def test_two_machines_share_what_is_deployed(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What began on one goes on, and is replayed on either version, on another that has its own clone and cache."""
    source = "from pydantic import BaseModel\n" + DEPLOYED
    mended = own_world / "mended"
    monkeypatch.setenv("KITARU_STORE", f"file://{own_world}/shared")
    repository = Repository.make(own_world / "a", {"flows/work.py": source}, MANIFEST)
    repository.apply()
    one, other = {"KITARU_HOME": str(own_world / "home-a")}, {"KITARU_HOME": str(own_world / "home-b")}
    clone = repository.clone(own_world / "b").folder

    def at(home: dict[str, str], folder: Path, *words: str | Path) -> Done:
        return finish(start(*words, cwd=folder, **home))

    inputs = json.dumps({"mended": str(mended)})
    at(one, repository.folder, "invoke", "judged", "--input", inputs, "--wait").must(1)
    exec_id = at(other, clone, "executions", "list", "-o", "json").json["items"][0]["exec_id"]
    mended.touch()
    assert at(other, clone, "executions", "retry", exec_id, "--wait").must().out == "true\n"

    repository.change("flows/work.py", "judge(write(collect(topic), mended)).good", "not judge(1).good")
    repository.commit()
    repository.apply()
    replay = ("executions", "replay", exec_id, "--from", "judge")
    dry = at(other, clone, *replay, "--version", "2", "--dry-run", "-o", "json").must().json["item"]["calls"]
    assert [(call["name"], call["action"]) for call in dry] == [
        ("collect", "incompatible"),
        ("write", "incompatible"),
        ("judge", "rerun"),
    ]
    assert at(other, clone, *replay, "--version", "2", "--wait").must().out == "true\n"
    assert at(other, clone, *replay, "--wait").must().out == "true\n"

    known = len(at(one, repository.folder, "executions", "list", "-o", "json").json["items"])
    for name, value, words in (
        ("write", '"x"', ("expected a number", 'got text "x"', "its recorded result is: 12")),
        ("judge", "3", ("expected an object (Verdict)", "got a number 3")),
        ("jugde", "{}", ("did you mean judge",)),
    ):
        for more in ((), ("--dry-run",)):
            at(other, clone, *replay, "--override", f"checkpoint.{name}={value}", *more).refused(*words)
    assert len(at(one, repository.folder, "executions", "list", "-o", "json").json["items"]) == known
    given = 'checkpoint.judge={"good": false}'
    assert at(other, clone, *replay, "--override", given, "--wait").must().out == "false\n"
