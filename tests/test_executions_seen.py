"""What a person sees of executions that were cancelled, lost, retried or answered, and of names that lead nowhere."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.errors import KitaruStateError
from tests.durable_flows import FLOWS, MANIFEST
from tests.repository import Done, Repository, finish, kitaru, start, until

MORE = """

@flow(retries=2)
def third_time(folder: str) -> str:
    noted(folder, "tried")
    with open(f"{folder}/ran") as file:
        tries = file.read().count("tried")
    if tries < 3:
        raise ValueError(f"try number {tries}")
    return "lucky"


@checkpoint(retries=1)
def talkative(folder: str) -> str:
    noted(folder, "talked")
    with open(f"{folder}/ran") as file:
        tries = file.read().count("talked")
    print("talk number", tries)
    if tries < 2:
        raise ConnectionError("not yet")
    return "said"


@checkpoint
def quiet() -> int:
    return 1


@flow
def talk(folder: str) -> str:
    quiet()
    return talkative(folder)


@flow
def busy(folder: str) -> str:
    future = sleepy.submit(folder)
    wait(schema=bool, name="approve", question="Go on?", timeout=600)
    return future.result()
"""
NAMES = ("third_time", "talk", "busy")


@pytest.fixture
def house(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    manifest = MANIFEST + "".join(
        f"  {name}: {{target: 'flows/work.py:{name}', routes: {{default: head}}}}\n" for name in NAMES
    )
    repository = Repository.make(own_world / "repository", {"flows/work.py": FLOWS + MORE}, manifest)
    monkeypatch.chdir(repository.folder)
    monkeypatch.setenv("KITARU_ACTOR", "Ann")
    repository.apply()
    return repository


def invoke(flow: str, folder: Path, *more: str, **inputs: Any) -> Done:
    return kitaru("invoke", flow, "--input", json.dumps({"folder": str(folder), **inputs}), *more)


def executions(*words: str | Path) -> Done:
    return kitaru("executions", *words)


def under_way(client: KitaruClient, exec_id: str) -> None:
    until(lambda: client.executions.get(exec_id).open_waits and client.executions.get(exec_id).checkpoints)


def test_nothing_is_alive_in_a_cancelled_execution(house: Repository, tmp_path: Path) -> None:
    """Calls that were under way are cancelled, a wait is no longer asked: in text, in JSON and on the page."""
    client = house.client()
    exec_id = invoke("busy", tmp_path).must().out.strip()
    under_way(client, exec_id)
    executions("cancel", exec_id).must()
    shown = executions("get", exec_id).must().out
    calls = [line for line in shown.splitlines() if re.match(r"  . (\d+ sleepy\(|approve )", line)]
    assert len(calls) == 2
    assert all(line.startswith("  - ") for line in calls)
    assert "? approve" not in shown and "waits for an answer" not in shown
    assert re.search(r"cancelled by Ann \d+ s ago", shown)
    assert f"kitaru executions replay {exec_id} --from sleepy" in shown
    data = executions("get", exec_id, "-o", "json").must().json["item"]
    assert data["cancelled_by"] == "Ann"
    assert [one["status"] for one in data["checkpoints"]] == ["cancelled"]
    assert [one["status"] for one in data["checkpoints"][0]["attempts"]] == ["cancelled"]
    assert data["checkpoints"][0]["ended_at"] == data["ended_at"]
    assert [one["status"] for one in data["waits"]] == ["cancelled"]
    executions("get", exec_id, "--html", tmp_path / "page.html").must()
    page = (tmp_path / "page.html").read_text()
    assert 'data-status="running"' not in page and 'data-status="open"' not in page
    assert page.count('data-status="cancelled"') == 2
    assert "Waits for an answer" not in page and "None yet." not in page


def test_a_lost_execution_shows_no_call_under_way(house: Repository, tmp_path: Path) -> None:
    """The call that its runner left is marked, without a time that nobody knows; resume is what to type."""
    client = house.client()
    exec_id = invoke("long", tmp_path).must().out.strip()
    until(lambda: client.executions.get(exec_id).checkpoints)
    runner = until(lambda: client.executions.get(exec_id).runner)
    os.kill(runner.data["pid"], signal.SIGKILL)
    until(lambda: client.executions.get(exec_id).status == "lost")
    shown = executions("get", exec_id).must().out
    (call,) = [line for line in shown.splitlines() if " sleepy(" in line and line.startswith("  ✗ ")]
    assert call.endswith("its runner is gone")
    assert f"kitaru executions resume {exec_id}" in shown


def test_a_wait_whose_runner_died_is_still_open(house: Repository, tmp_path: Path) -> None:
    """The question stands, the call that was under way beside it does not; the answer brings the execution back."""
    client = house.client()
    exec_id = invoke("busy", tmp_path).must().out.strip()
    under_way(client, exec_id)
    runner = client.executions.get(exec_id).runner
    assert runner is not None
    assert re.search(r"  … \d+ sleepy\(", executions("get", exec_id).must().out)
    os.kill(runner.data["pid"], signal.SIGKILL)
    until(lambda: client.executions.left_alone(client.executions.get(exec_id)))
    shown = executions("get", exec_id).must().out
    assert "its runner is gone" in shown and not re.search(r"  … \d+ sleepy\(", shown)
    assert "  ? approve" in shown and f"kitaru executions input {exec_id}" in shown
    executions("cancel", exec_id).must()
    assert not client.executions.left_alone(client.executions.get(exec_id))


def test_a_run_that_is_cancelled_from_elsewhere_says_so(house: Repository, tmp_path: Path) -> None:
    """``kitaru run`` ends with exit 1, and says on standard error that it was cancelled, and by whom."""
    client = house.client()
    inputs = json.dumps({"folder": str(tmp_path)})
    running = start("run", "flows/work.py:long", "--input", inputs, cwd=house.folder)
    (found,) = until(lambda: client.executions.list(status="running"))
    until(lambda: (tmp_path / "ran").exists())
    client.executions.cancel(found.exec_id)
    done = finish(running).must(1)
    assert done.out == ""
    assert re.search(r"'long' was cancelled by Ann", done.err), done.err
    assert f"kitaru executions get {found.exec_id}" in done.err


def test_a_list_with_nothing_in_it_says_why(house: Repository, tmp_path: Path) -> None:
    """An empty project has none yet; a filter that nothing fits is named."""
    first = "No executions yet. Start one: kitaru invoke FLOW\n"
    assert executions("list").must().out == first
    assert executions("list", "--status", "failed").must().out == first
    invoke("talk", tmp_path, "--wait").must()
    none = executions("list", "--flow", "nope", "--status", "lost").must().out
    assert none == "No execution matches --flow nope --status lost. All of them: kitaru executions list\n"
    assert executions("list", "--flow", "nope", "-o", "json").must().json["items"] == []
    assert "talk" in executions("list", "--flow", "talk").must().out
    assert "more: --limit" in executions("list", "--limit", "1").must().err


def test_logs_of_a_checkpoint_that_is_not_there(house: Repository, tmp_path: Path) -> None:
    """A wrong name is refused with those that there are; a checkpoint that printed nothing is said to have."""
    done = invoke("talk", tmp_path, "--wait", "-o", "json").must()
    exec_id = done.json["item"]["exec_id"]
    executions("logs", exec_id, "--checkpoint", "talkativ").refused("did you mean talkative?")
    executions("logs", exec_id, "--checkpoint", "nope").refused("no checkpoint 'nope'", "quiet, talkative")
    executions("logs", exec_id, "--checkpoint", "nope", "--follow").refused("quiet, talkative")
    silent = executions("logs", exec_id, "--checkpoint", "quiet").must()
    assert (silent.out, silent.err) == ("", "quiet printed nothing\n")
    assert executions("logs", exec_id, "--checkpoint", "quiet", "-o", "json").must().out == ""
    assert executions("logs", exec_id, "--checkpoint", "1").must().err == "1 printed nothing\n"
    again = invoke("talk", tmp_path, "--wait", "-o", "json").must().json["item"]["exec_id"]
    cached = executions("logs", again, "--checkpoint", "talkative").must()
    assert cached.out == ""
    assert f"kitaru executions logs {exec_id} --checkpoint talkative" in cached.err


def test_verbose_logs_name_the_attempt(house: Repository, tmp_path: Path) -> None:
    """-v: time, stream, checkpoint, call and attempt before each line."""
    exec_id = invoke("talk", tmp_path, "--wait", "-o", "json").must().json["item"]["exec_id"]
    lines = executions("logs", exec_id, "-v").must().out.splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert len(lines) == 2
    for number, line in enumerate(lines, start=1):
        expected = rf"{stamp}  stdout  talkative, call 2, attempt {number}:  talk number {number}"
        assert re.fullmatch(expected, line), line


def test_attempts_of_the_flow_are_shown(house: Repository, tmp_path: Path) -> None:
    """``get`` lists them with how each ended, and so does the page; a single attempt is no news."""
    exec_id = invoke("third_time", tmp_path, "--wait", "-o", "json").must().json["item"]["exec_id"]
    shown = executions("get", exec_id).must().out
    assert "  attempts  3\n" in shown
    for number in (1, 2):
        assert re.search(rf"^    {number}  failed     +\S.*s  ValueError: try number {number}$", shown, re.M), shown
    assert re.search(r"^    3  completed  +\S+ m?s$", shown, re.M), shown
    executions("get", exec_id, "--html", tmp_path / "page.html").must()
    page = (tmp_path / "page.html").read_text()
    assert "Attempts of the flow" in page and "ValueError: try number 2" in page
    single = invoke("talk", tmp_path, "--wait", "-o", "json").must().json["item"]["exec_id"]
    assert "attempts  " not in executions("get", single).must().out


def test_retry_and_resume_say_when_to_use_which() -> None:
    """Each names its own case, and the other."""
    retry, resume = (executions(command, "--help").must().out for command in ("retry", "resume"))
    assert "failed execution again" in retry and "resume" in retry and "replay" in retry
    assert "no runner" in resume and "lost" in resume and "retry" in resume
    assert retry.replace("retry", "resume") != resume


def test_an_answer_tells_what_became_of_it(house: Repository, tmp_path: Path) -> None:
    """-o json: answered, whether somebody goes on with it, and a status from after the answer."""
    client = house.client()
    parked, kept, polled = (invoke("review", tmp_path, topic=str(n)).must().out.strip() for n in (1, 2, 3))
    until(lambda: all(client.executions.get(one).suspended_at for one in (parked, kept, polled)))
    item = executions("input", parked, "--value", "true", "-o", "json").must().json["item"]
    assert (item["wait"], item["answered"], item["resumed"]) == ("approve", True, True)
    assert item["status"] in ("running", "completed")
    item = executions("input", kept, "--value", "true", "--no-resume", "-o", "json").must().json["item"]
    assert (item["answered"], item["resumed"], item["status"]) == (True, False, "waiting")
    shown = executions("get", kept).must().out
    assert f"answered; go on with it: kitaru executions resume {kept}" in shown
    assert "waits for an answer" not in shown
    resumed = executions("resume", kept, "--wait").must()
    assert resumed.out == "DRAFT ON 2\n"
    assert "waits for an answer" not in resumed.err
    item = executions("input", polled, "--abort", "-o", "json").must().json["item"]
    assert (item["aborted"], item["status"]) == (True, "cancelled")


def test_an_answer_that_a_runner_polls_for(house: Repository, tmp_path: Path) -> None:
    """The status is told once the runner has taken the answer, not from before."""
    client = house.client()
    exec_id = invoke("review", tmp_path, patience=600).must().out.strip()
    until(lambda: client.executions.pending_waits(exec_id))
    item = executions("input", exec_id, "--value", "true", "-o", "json").must().json["item"]
    assert item["answered"] is True
    assert item["status"] in ("running", "completed")


def test_an_answer_is_given_in_one_way(house: Repository, tmp_path: Path) -> None:
    """Two ways exclude each other, by name; none is asked for with the question; nothing to answer is said as such."""
    client = house.client()
    exec_id = invoke("review", tmp_path).must().out.strip()
    until(lambda: client.executions.get(exec_id).suspended_at)
    executions("input", exec_id, "--value", "true", "--abort").refused("--value and --abort exclude each other")
    executions("input", exec_id, "-i", "--abort").refused("--abort and --interactive exclude each other")
    executions("input", exec_id).refused("no answer was given", "Publish it?", "--abort to decline")
    executions("input", exec_id, "--value", "true").must()
    client.executions.handle(exec_id).wait(30)
    executions("input", exec_id).refused("was answered by", code=1)


def test_following_a_lost_execution_ends(house: Repository, tmp_path: Path) -> None:
    """Its lines are printed, then one line says that its runner is gone and what to type; the exit code is 1."""
    client = house.client()
    exec_id = invoke("long", tmp_path).must().out.strip()
    until(lambda: (tmp_path / "ran").exists())
    runner = until(lambda: client.executions.get(exec_id).runner)
    os.kill(runner.data["pid"], signal.SIGKILL)
    until(lambda: client.executions.get(exec_id).status == "lost")
    for more in ((), ("--grouped",), ("-o", "json")):
        done = executions("logs", exec_id, "--follow", *more)
        assert done.code == 1
        said = f"{exec_id} lost its runner before it ended; go on with it: kitaru executions resume {exec_id}\n"
        assert done.err == said
        assert "error" not in done.out
    with pytest.raises(KitaruStateError, match="lost its runner"):
        list(client.executions.logs(exec_id, follow=True))


def test_several_statuses_are_listed_together(house: Repository, tmp_path: Path) -> None:
    """``--status`` again, or with commas, gives those of any of them, newest first, up to the limit."""
    ids = []
    for number, flow in enumerate(("third_time", "talk", "third_time", "talk")):
        folder = tmp_path / str(number)
        folder.mkdir()
        if flow == "talk":
            ids.append(invoke(flow, folder, "--wait", "-o", "json").must().json["item"]["exec_id"])
        else:
            failed = kitaru("invoke", flow, "--input", json.dumps({"folder": str(folder / "nowhere")}), "--wait")
            assert failed.code == 1
            ids.append(executions("list", "-o", "json").must().json["items"][0]["exec_id"])
    newest = ids[::-1]

    def listed(*words: str) -> list[str]:
        return [one["exec_id"] for one in executions("list", "-o", "json", *words).must().json["items"]]

    assert listed("--status", "failed") == [newest[1], newest[3]]
    assert listed("--status", "failed", "--status", "completed") == newest
    assert listed("--status", "completed,failed", "--limit", "3") == newest[:3]
    assert listed("--status", "completed, completed") == [newest[0], newest[2]]
    refused = executions("list", "--status", "failed,broken")
    assert refused.code == 2 and "status 'broken': expected one of" in refused.err
    none = executions("list", "--status", "lost,cancelled").must().out
    assert none == "No execution matches --status lost,cancelled. All of them: kitaru executions list\n"
    assert [one.exec_id for one in house.client().executions.list(status=("failed", "lost"))] == [newest[1], newest[3]]
