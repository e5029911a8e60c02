"""Tracebacks show the user's code: no frame of Kitaru, paths of the project, and all that errors are chained to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest

from kitaru import checkpoint, errors, flow
from kitaru.flows.flow import Flow
from kitaru.model.execution import Execution
from kitaru.run.user_code import roots_of, user_traceback
from kitaru.values import stored
from tests import isolated_steps as steps
from tests.execution_lab import Lab
from tests.repository import Repository, kitaru

HERE = "tests/test_tracebacks.py"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "store")


def failed(lab: Lab, flow: Flow[..., Any], **options: Any) -> Execution:
    exec_id = lab.open(flow, **options)
    with pytest.raises(errors.KitaruError):
        lab.go_on(flow, exec_id)
    return lab.load(exec_id)


def flow_text(execution: Execution) -> str:
    assert execution.failure is not None
    return execution.failure.traceback


def call_text(execution: Execution, attempt: int = 0) -> str:
    failure = execution.checkpoints[0].attempts[attempt].failure
    assert failure is not None
    return failure.traceback


def frames(text: str) -> list[str]:
    """The functions of the frames, in order."""
    return [line.rpartition(" in ")[2] for line in text.splitlines() if line.lstrip(" |").startswith("File ")]


def deeper() -> None:
    raise LookupError("not there")


@checkpoint
def looks() -> None:
    deeper()


@flow
def looking() -> None:
    looks()


@flow
async def looking_async() -> None:
    await asyncio.gather(asyncio.create_task(looks_async()))


@checkpoint
async def looks_async() -> None:
    deeper()


@pytest.mark.parametrize(
    ("chosen", "body", "call"),
    [(looking, "looking", "looks"), (looking_async, "looking_async", "looks_async")],
)
def test_no_frame_of_kitaru_is_shown(lab: Lab, chosen: Flow[..., Any], body: str, call: str) -> None:
    """Of a checkpoint its own frames, of the flow the body's and the checkpoint's: neither before nor between."""
    execution = failed(lab, chosen)
    assert frames(call_text(execution)) == [call, "deeper"]
    assert frames(flow_text(execution)) == [body, call, "deeper"]
    for text in (call_text(execution), flow_text(execution)):
        assert text.startswith("Traceback (most recent call last):\n")
        assert text.endswith("LookupError: not there\n")
        assert "kitaru" not in text.replace(str(Path(__file__).parents[1]), "")


def test_what_an_error_is_chained_to_is_kept(lab: Lab) -> None:
    """Causes, contexts, groups within groups and notes, each with its own user frames."""

    @checkpoint
    def fails() -> None:
        try:
            deeper()
        except LookupError as error:
            error.add_note("looked everywhere")
            found = error
        try:
            try:
                deeper()
            except LookupError:
                raise KeyError("second")  # noqa: B904 - its context is what is looked for
        except KeyError as second:
            group = ExceptionGroup("several", [found, ExceptionGroup("inner", [ValueError("third")])])
            raise group from second

    @flow
    def failing() -> None:
        fails()

    text = call_text(failed(lab, failing))
    assert frames(text) == ["fails", "deeper", "fails", "fails", "fails", "deeper"]
    for words in (
        "During handling of the above exception, another exception occurred",
        "The above exception was the direct cause of the following exception",
        "KeyError: 'second'",
        "| ExceptionGroup: several (2 sub-exceptions)",
        "looked everywhere",
        "| ValueError: third",
    ):
        assert words in text
    assert "/kitaru/run/" not in text


def test_a_timeout_shows_where_the_code_was(lab: Lab) -> None:
    """The last frame is the line that ran when the time was over, in a task and for the whole flow, too."""

    def spin() -> None:
        while True:
            time.sleep(0.005)

    @checkpoint(timeout=0.2)
    def slow() -> None:
        spin()

    @checkpoint(timeout=0.2)
    async def slow_async() -> None:
        await asyncio.sleep(60)

    @flow
    def one() -> None:
        slow()

    @flow
    def one_async() -> None:
        slow_async()

    @flow(timeout=0.3)
    def whole() -> None:
        spin()

    text = call_text(failed(lab, one))
    assert frames(text) == ["slow", "spin"]
    assert "Interrupted" not in text
    assert frames(call_text(failed(lab, one_async))) == ["slow_async", "sleep"]
    text = flow_text(failed(lab, whole, timeout=0.3))
    assert frames(text) == ["whole", "spin"]
    assert "KitaruTimeoutError: flow 'whole'" in text


def test_cleaning_up_that_fails_is_shown_with_the_timeout(lab: Lab) -> None:
    """What the user's code raised when it was stopped is the cause; what stopped it shows the user's frames only."""

    @checkpoint(timeout=0.2)
    def untidy() -> None:
        try:
            while True:
                time.sleep(0.005)
        finally:
            raise OSError("no cleaning up")

    @flow
    def calling() -> None:
        untidy()

    text = call_text(failed(lab, calling))
    assert frames(text) == ["untidy", "untidy"]
    assert text.index("OSError: no cleaning up") < text.index("KitaruTimeoutError")


def test_a_mistake_in_a_call_ends_at_the_users_line(lab: Lab) -> None:
    """Wrong arguments and results are refused by Kitaru; what is shown is the line that passed them."""

    @checkpoint
    def takes(n: int) -> Any:
        return object()

    @flow
    def wrong_arguments() -> None:
        takes()  # type: ignore[call-arg]

    @flow
    def wrong_result() -> None:
        takes(1)

    text = flow_text(failed(lab, wrong_arguments))
    assert frames(text) == ["wrong_arguments"] and "missing a required argument: 'n'" in text
    execution = failed(lab, wrong_result)
    assert frames(flow_text(execution)) == ["wrong_result"]
    assert frames(call_text(execution)) == [] and call_text(execution).startswith("kitaru.errors.KitaruValueError: ")


def test_a_defect_of_kitaru_shows_its_frames(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is none of Kitaru's own and was raised inside it: the frames that lead there stay."""

    @checkpoint
    def fine() -> int:
        return 1

    @flow
    def calling() -> None:
        fine()

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    exec_id = lab.open(calling)
    monkeypatch.setattr(stored, "put", broken)
    with pytest.raises(errors.KitaruError):
        lab.go_on(calling, exec_id)
    names = frames(flow_text(lab.load(exec_id)))
    assert names[0] == "calling" and names[-1] == "broken"


def test_an_isolated_checkpoint_shows_its_own_frames(lab: Lab) -> None:
    """The child's traceback is the checkpoint's, with nothing around it; the flow's holds both."""

    @flow
    def calling() -> None:
        steps.raising("typed")

    execution = failed(lab, calling)
    assert frames(call_text(execution)) == ["raising"]
    assert frames(flow_text(execution)) == ["raising", "calling"]
    assert str(Path(errors.__file__).parent) not in call_text(execution) + flow_text(execution)


def test_a_traceback_outside_a_run_reads_the_same() -> None:
    """Nothing is lost of an error that never met Kitaru."""
    with contextlib.suppress(LookupError):
        deeper()
    try:
        deeper()
    except LookupError as error:
        text = user_traceback(error, (str(Path(__file__).parents[1]),))
    assert f'File "{HERE}", line' in text
    assert frames(text) == ["test_a_traceback_outside_a_run_reads_the_same", "deeper"]


@pytest.mark.parametrize(
    ("file", "target", "expected"),
    [
        ("/x/flows/research.py", "flows/research.py:research", ("/x",)),
        ("/x/src/acme/flows.py", "acme.flows:main", ("/x/src",)),
        ("/x/acme/flows/__init__.py", "acme.flows:main", ("/x",)),
        ("/x/other.py", "flows/research.py:research", ()),
        ("<stdin>", "<stdin>:main", ()),
        ("/flows.py", "/flows.py:main", ()),
    ],
)
def test_the_root_is_what_the_target_is_relative_to(file: str, target: str, expected: tuple[str, ...]) -> None:
    """A file's own path without its target; nothing where they don't fit."""
    assert roots_of(file, target) == expected


def test_paths_are_the_projects_wherever_it_was_unpacked(repository: Repository) -> None:
    """An invoked execution, which runs from a cache folder, shows flows/work.py, also of modules beside it."""
    repository.write("flows/lib.py", "def fail():\n    raise RuntimeError('deep')\n")
    repository.write(
        "flows/work.py",
        "from kitaru import checkpoint, flow\nfrom flows.lib import fail\n\n"
        "@checkpoint\ndef step(topic: str) -> str:\n    fail()\n    return topic\n\n"
        "@checkpoint(runtime='isolated')\ndef apart() -> None:\n    fail()\n\n"
        "@flow\ndef agent(topic: str = 'tea') -> str:\n    try:\n        apart()\n    except Exception:\n        pass\n"
        "    return step(topic)\n",
    )
    repository.write("flows/__init__.py", "")
    repository.commit()
    kitaru("apply", "--yes", cwd=repository.folder).must()
    kitaru("invoke", "agent", "--wait", cwd=repository.folder).must(1)
    listed = kitaru("executions", "list", "-o", "json", cwd=repository.folder).must().json
    exec_id = listed["items"][0]["exec_id"]
    item = kitaru("executions", "get", exec_id, "-o", "json", cwd=repository.folder).must().json["item"]
    text = item["failure"]["traceback"]
    assert [line.split(",")[0].strip() for line in text.splitlines() if "File " in line] == [
        'File "flows/work.py"',
        'File "flows/work.py"',
        'File "flows/lib.py"',
    ]
    apart = next(call for call in item["checkpoints"] if call["name"] == "apart")
    assert 'File "flows/lib.py", line 2, in fail' in json.dumps(apart)[:20000].replace('\\"', '"')
