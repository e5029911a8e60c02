"""Results of the flow's own types, for consumers who have none of its source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kitaru import KitaruClient
from kitaru.errors import KitaruValueError
from tests.repository import CHECKOUT, Done, Repository, finish, kitaru

FLOWS = """
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path

from pydantic import BaseModel

from kitaru import checkpoint, flow, save


class Color(Enum):
    red = "crimson"


@dataclass
class Report:
    title: str
    day: date


class Order(BaseModel):
    items: list[str]


class Kept:
    pass


@checkpoint(cache=False)
def mend(path: str) -> None:
    if path and not Path(path).exists():
        raise ConnectionError("away")


@flow
def enum(path: str = "") -> Color:
    save("color", Color.red)
    mend(path)
    return Color.red


@flow
def report() -> Report:
    return Report("tea", date(2026, 1, 2))


@flow
def order() -> list[Order]:
    return [Order(items=["tea"])]


@checkpoint(serializer="pickle")
def keep() -> Kept:
    return Kept()


@flow
def pickled() -> str:
    keep()
    return "kept"


@flow
def frame() -> object:
    import pandas

    return pandas.DataFrame({"a": [1]})
"""

NAMES = ("enum", "report", "order", "pickled", "frame")
MANIFEST = "kitaru: 1\nproject: shop\nstore: file://.kitaru/store\nsource: {include: ['flows/**']}\nflows:\n" + "".join(
    f"  {name}: {{target: 'flows.ret:{name}', routes: {{default: head}}}}\n" for name in NAMES
)

MAIN = "from kitaru.cli import run; sys.exit(run(sys.argv[1:]))"


def launch(code: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def consumer(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of somebody who knows the store, and has no source."""
    repository = Repository.make(own_world / "shop", {"flows/ret.py": FLOWS, "flows/__init__.py": ""}, MANIFEST)
    repository.apply()
    for name in [name for name in sys.modules if name.partition(".")[0] == "flows"]:
        monkeypatch.delitem(sys.modules, name)
    folder = own_world / "consumer"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KITARU_STORE", f"file://{repository.folder}/.kitaru/store")
    monkeypatch.setenv("KITARU_PROJECT", "shop")
    return folder


def test_a_consumer_sees_a_typed_result_as_plain_data(consumer: Path) -> None:
    """``invoke --wait`` of a flow that returns a type of its own exits 0 and prints its data, as text and as JSON."""
    shown: tuple[tuple[str, Any], ...] = (
        ("enum", "crimson"),
        ("report", {"title": "tea", "day": "2026-01-02"}),
        ("order", [{"items": ["tea"]}]),
    )
    for name, plain in shown:
        done = kitaru("invoke", name, "--wait", cwd=consumer).must()
        assert done.out.strip() == (plain if isinstance(plain, str) else json.dumps(plain, indent=2))
        item = kitaru("invoke", name, "--wait", "-o", "json", cwd=consumer).must().json["item"]
        assert item["result"] == plain and item["status"] == "completed"


def test_a_consumer_retries_and_replays_to_a_typed_result(consumer: Path) -> None:
    """So do ``retry --wait``, ``resume --wait`` and ``replay --wait``."""
    gate = consumer / "gate"

    def failed() -> str:
        gate.unlink(missing_ok=True)
        given = ("--input", json.dumps({"path": str(gate)}))
        done = kitaru("invoke", "enum", *given, "--wait", "-o", "json", cwd=consumer)
        assert done.code == 1
        exec_id = KitaruClient().executions.latest().exec_id
        gate.touch()
        return exec_id

    assert kitaru("executions", "retry", failed(), "--wait", cwd=consumer).must().out.strip() == "crimson"
    exec_id = failed()
    assert kitaru("executions", "resume", exec_id, "--wait", cwd=consumer).must().out.strip() == "crimson"
    done = kitaru("executions", "replay", exec_id, "--from", "mend", "--wait", "-o", "json", cwd=consumer).must()
    assert json.loads(done.out)["item"]["result"] == "crimson"


def test_in_python_the_error_says_how_to_read_it(consumer: Path) -> None:
    """Without the module there is no value of its type: the error says what helps, and plain data is there."""
    client = KitaruClient()
    handle = client.deployments.invoke("enum")
    assert handle.wait(60, as_plain=True) == "crimson" and handle.get(as_plain=True) == "crimson"
    assert client.executions.result(handle.exec_id, as_plain=True) == "crimson"
    (saved,) = client.artifacts.list(handle.exec_id)
    assert saved.load(as_plain=True) == "crimson"
    by_id = partial(client.executions.result, handle.exec_id)
    ways: list[Callable[[], Any]] = [handle.wait, handle.get, saved.load, by_id]
    for read in ways:
        with pytest.raises(KitaruValueError, match=r"stored as flows\.ret:Color .*No module named 'flows'") as caught:
            read()
        hint = caught.value.hint or ""
        assert "as_plain=True" in hint and f"kitaru executions get {handle.exec_id}" in hint and "importable" in hint
    shown: Done = kitaru("executions", "get", handle.exec_id, cwd=consumer).must()
    assert 'result    "crimson"' in shown.out


def test_where_the_module_is_importable_the_result_has_its_type(
    consumer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint is true: with the project's folder on the path the same result is an instance of its class."""
    handle = KitaruClient().deployments.invoke("report")
    assert handle.wait(60, as_plain=True) == {"title": "tea", "day": "2026-01-02"}
    monkeypatch.syspath_prepend(str(consumer.parent / "shop"))
    result = handle.wait()
    assert type(result).__name__ == "Report" and result.day.year == 2026


def test_what_can_t_be_read_here_is_said_beside_the_rest(consumer: Path) -> None:
    """An execution with a pickle of an unknown class is shown, with its page; one whose result needs a library that
    is not here completes with exit 0 all the same.
    """
    done = kitaru("invoke", "pickled", "--wait", "-o", "json", cwd=consumer).must()
    exec_id = done.json["item"]["exec_id"]
    kitaru("executions", "get", exec_id, "--html", "page.html", cwd=consumer).must()
    assert "not shown: the value was stored as flows.ret:Kept" in (consumer / "page.html").read_text()
    # The consumer's own interpreter: one in which the frame's library can't be imported.
    lacking = f"import sys; sys.modules['pandas'] = None; sys.argv[0] = 'kitaru'; {MAIN}"
    for form in ("text", "json"):
        done = finish(launch(lacking, "invoke", "frame", "--wait", "-o", form, cwd=consumer)).must()
        assert "it completed; its result can't be shown here: the result of frame was stored as pandas" in done.err
        assert "Nothing is lost" in done.err and "Traceback" not in done.said
    assert done.json["item"]["result"] is None and "pandas" in done.json["item"]["result_error"]
