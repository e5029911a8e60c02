"""The client and the flow object: which store and project a call works with, and what the guides promise of handles."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kitaru
from kitaru import KitaruClient, client, flow, wiring
from kitaru.errors import (
    KitaruInputError,
    KitaruSourceError,
    KitaruStackError,
    KitaruStateError,
    KitaruTimeoutError,
    KitaruUsageError,
    KitaruUserCodeError,
)
from kitaru.flows.flow import Flow
from kitaru.settings import Asked
from tests.repository import MANIFEST, Repository, Watched, new_git, until

GATE = threading.Event()


@kitaru.checkpoint
def shout(text: str) -> str:
    return text.upper()


@flow
def loud(text: str, times: int = 1) -> str:
    return shout(text) * times


@flow
def patient() -> str:
    GATE.wait(30)
    return "done"


@flow
def bad() -> None:
    raise LookupError("nowhere")


@flow
def shadowed(stack: str, inputs: str) -> str:
    return f"{stack} {inputs}"


@pytest.fixture
def alone(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder: no manifest, no Git, no variables."""
    folder = own_world / "alone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(client, "_configured", {})
    GATE.clear()
    yield folder
    GATE.set()


# --- which store, which project ---------------------------------------------------------------------------------------


def settings(**given: Any) -> tuple[str, str]:
    found = KitaruClient(**given).session.settings
    return found.store, found.project


def test_the_order_in_which_a_store_is_looked_for(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument > configure > environment > manifest with its target > pyproject.toml > the user's own folder."""
    home = alone.parent / "home" / "kitaru"
    assert settings() == (str(home / "data" / "store"), "default")
    (alone / "pyproject.toml").write_text('[tool.kitaru]\nstore = "file://from-pyproject"\nproject = "pyproject"\n')
    assert settings() == ("file://from-pyproject", "pyproject")
    (alone / "kitaru.yaml").write_text(
        "kitaru: 1\nproject: manifest\nstore: file://from-manifest\n"
        "targets: {production: {store: 's3://from-target/x', project: target}}\n"
    )
    assert settings() == ("file://from-manifest", "manifest")
    assert settings(target="production") == ("s3://from-target/x", "target")
    monkeypatch.setenv("KITARU_STORE", "file://from-environment")
    monkeypatch.setenv("KITARU_PROJECT", "environment")
    assert settings() == ("file://from-environment", "environment")
    kitaru.configure(store="file://configured", project="configured")
    assert settings() == ("file://configured", "configured")
    assert settings(store="file://argument", project="argument") == ("file://argument", "argument")


def test_a_relative_store_is_relative_to_the_file_that_names_it(
    own_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a subfolder of the repository the manifest's store is the same one."""
    repository = Repository.make(own_world / "r")
    monkeypatch.chdir(repository.folder / "flows")
    assert KitaruClient().session.store.url == f"file://{repository.store_folder}"


def test_a_manifest_is_not_taken_from_beyond_the_repository(own_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository inside another one that has a manifest does not use that."""
    outer = Repository.make(own_world / "outer")
    new_git(outer.folder / "inner")
    monkeypatch.chdir(outer.folder / "inner")
    assert settings()[1] == "default"


@pytest.mark.parametrize("project", ["Über", "a b", "", "../x", "-x", "a/b", "x" * 80])
def test_a_name_that_can_not_be_a_project(alone: Path, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's name is part of keys: what can't be one is refused before anything is written."""
    monkeypatch.setenv("KITARU_PROJECT", project)
    if project == "":
        assert settings()[1] in ("default", "")
        return
    with pytest.raises(KitaruUsageError, match="can't name a project"):
        settings()


def test_a_broken_pyproject_is_named(alone: Path) -> None:
    """What can't be read, or says what Kitaru doesn't take, is an error that names the file."""
    for text in ("[tool.kitaru\n", '[tool.kitaru]\nstroe = "x"\n', "[tool.kitaru]\nstore = 3\n"):
        (alone / "pyproject.toml").write_text(text)
        with pytest.raises(KitaruUsageError, match=r"pyproject\.toml"):
            settings()


def test_a_client_asks_nothing_before_it_is_used(alone: Path) -> None:
    """Making a client reads and writes nothing, whatever its store is."""
    KitaruClient(store="s3://no-such-bucket-at-all", project="x")
    KitaruClient(store="file://nowhere")
    assert list(alone.iterdir()) == []


# --- the flow object --------------------------------------------------------------------------------------------------


def test_run_works_in_any_folder(alone: Path) -> None:
    """No manifest, no Git, no init: run, wait, get."""
    handle = loud.run(text="hi", times=2)
    assert handle.wait(30) == "HIHI"
    assert (handle.status, handle.get()) == ("completed", "HIHI")
    assert KitaruClient().executions.latest(flow="loud").exec_id == handle.exec_id
    assert list(alone.iterdir()) == []


def test_run_returns_at_once(alone: Path) -> None:
    """The handle is there while the flow runs; get says it is too early, wait gives up when told to."""
    handle = patient.run()
    with pytest.raises(KitaruTimeoutError, match="it goes on"):
        handle.wait(timeout=0.05)
    with pytest.raises(KitaruStateError, match="has not ended"):
        handle.get()
    until(lambda: handle.status == "running")
    GATE.set()
    assert handle.wait(30) == "done"


def test_two_runs_go_on_side_by_side(alone: Path) -> None:
    """Several runs of one process don't wait for one another."""
    slow = patient.run()
    assert loud.run(text="x").wait(30) == "X"
    until(lambda: slow.status == "running")
    GATE.set()
    slow.wait(30)


def test_a_direct_call_is_refused(alone: Path) -> None:
    """my_flow(...) names .run and .invoke."""
    with pytest.raises(KitaruUsageError, match="can't be called directly") as refused:
        loud("x")
    assert "loud.run(...)" in refused.value.hint
    assert "loud.invoke(...)" in refused.value.hint


def test_inputs_that_do_not_fit_start_nothing(alone: Path) -> None:
    """run checks its inputs before an execution exists."""
    for inputs in ({}, {"text": "x", "tims": 2}, {"text": "x", "times": "many"}):
        with pytest.raises(KitaruInputError):
            loud.run(**inputs)  # type: ignore[arg-type]
    with pytest.raises(KitaruInputError, match="both by name and in inputs"):
        loud.run(text="x", inputs={"text": "y"})
    assert KitaruClient().executions.list() == []


def test_negative_retries_are_refused(alone: Path) -> None:
    """At the decorator and at the call."""
    with pytest.raises(KitaruUsageError):
        flow(retries=-1)(lambda: None)
    with pytest.raises(KitaruUsageError):
        loud.run(text="x", retries=-1)


def test_parameters_with_the_names_of_options(alone: Path) -> None:
    """A flow whose own parameter is called stack or inputs gets it through inputs={...}."""
    assert shadowed.run(inputs={"stack": "a", "inputs": "b"}).wait(30) == "a b"


def test_the_result_by_id_or_by_execution(alone: Path) -> None:
    """An id, the end of one, or the execution itself: the same value; an id that leads nowhere is a usage error."""
    handle = patient.run()
    GATE.set()
    assert handle.wait(30) == "done"
    executions = KitaruClient().executions
    for asked in (handle.exec_id, handle.exec_id[-8:], executions.get(handle.exec_id)):
        assert executions.result(asked) == "done"
    with pytest.raises(KitaruUsageError, match="there is no execution"):
        executions.result("ex-000000000000000000")


def test_what_has_not_completed_has_no_result(alone: Path) -> None:
    """None would look like what a flow gave that returns nothing."""
    handle = bad.run()
    with pytest.raises(KitaruUserCodeError):
        handle.wait(30)
    for as_plain in (False, True):
        with pytest.raises(KitaruStateError, match="has no result: it is failed"):
            KitaruClient().executions.result(handle.exec_id, as_plain=as_plain)


def test_a_flow_that_raises(alone: Path) -> None:
    """wait and get raise a KitaruUserCodeError that knows its execution."""
    handle = bad.run()
    for look in (lambda: handle.wait(30), handle.get):
        with pytest.raises(KitaruUserCodeError) as failed:
            look()
        assert (failed.value.exec_id, failed.value.status, failed.value.failure_origin) == (
            handle.exec_id,
            "failed",
            "user_code",
        )
        assert "LookupError: nowhere" in failed.value.message
    assert handle.status == "failed"


def test_a_stack_that_is_not_there(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument, by environment or by configure: an unknown stack is refused with what there is; an argument wins."""
    with pytest.raises(KitaruStackError, match="no stack nope; there are: local"):
        loud.run(text="x", stack="nope")
    monkeypatch.setenv("KITARU_STACK", "nope")
    with pytest.raises(KitaruStackError):
        loud.run(text="x")
    assert loud.run(text="x", stack="local").wait(30) == "X"
    monkeypatch.delenv("KITARU_STACK")
    kitaru.configure(stack="nope")
    with pytest.raises(KitaruStackError):
        loud.run(text="x")
    assert KitaruClient().executions.list(status="failed") == []


def test_an_image_that_is_none(alone: Path) -> None:
    """image= takes a base image or settings; anything else is refused."""
    with pytest.raises(KitaruUsageError, match="image settings"):
        loud.run(text="x", image={"base_imge": "python"})
    assert loud.run(text="x", image="python:3.12").wait(30) == "X"


# --- deployments ------------------------------------------------------------------------------------------------------


def load_agent(repository: Repository) -> Flow[..., Any]:
    return repository.client().executions.load("flows/work.py:agent")


def test_an_imported_flow_invokes_its_deployment(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """my_flow.invoke(...) runs the deployed version, not the source that it was imported from."""
    repository.apply()
    monkeypatch.chdir(repository.folder)
    repository.change("flows/work.py", "hello", "good day")
    agent = load_agent(repository)
    assert agent.invoke(topic="x").wait(30) == "HELLO X"
    assert agent.invoke(topic="x", version=1).wait(30) == "HELLO X"
    assert agent.invoke(inputs={"topic": "x"}, tag="default").wait(30) == "HELLO X"
    assert agent.run(topic="x").wait(30) == "GOOD DAY X"


def test_what_the_client_tells_of_deployments(repository: Repository) -> None:
    """list, get and flows: typed, complete, and one request more than needed at no number of versions."""
    repository.apply()
    repository.change("flows/work.py", "hello", "good day")
    repository.manifest(MANIFEST.replace("default: head", "default: 1\n      canary: head\n      mark: [1, 2]"))
    sha = repository.commit()
    repository.apply()
    deployments = repository.client().deployments
    (found,) = deployments.flows()
    assert (found.flow, found.latest, found.managed) == ("agent", 2, True)
    assert found.routes == {"default": (1,), "canary": (2,), "mark": (1, 2)}
    assert found.exclusive == {"default": True, "canary": True, "mark": False}
    first, second = deployments.list("agent")
    assert (first.version, first.tags) == (1, {"default": True, "mark": False})
    assert (second.version, second.commit_sha, second.by, second.commit_dirty) == (2, sha, "Ann", False)
    assert deployments.get("agent").version == 1
    shown = deployments.get("agent", tag="canary")
    assert (shown.version, shown.target, shown.stack) == (2, "flows/work.py:agent", "local")
    assert shown.input_schema is not None
    assert list(shown.input_schema["properties"]) == ["topic"]
    assert deployments.get("agent", version=2).snapshot == second.snapshot


def test_validate_needs_no_store(repository: Repository) -> None:
    """validate imports the targets and checks inputs, and asks no store, not even one that is out of reach."""
    seen: list[Watched] = []
    checked = repository.client(wrap=lambda store: seen.append(Watched(store)) or seen[0]).validate()
    assert (checked.project, checked.flows) == ("research", ("agent",))
    assert seen[0].calls == []
    repository.manifest(MANIFEST.replace("file://.kitaru/store", "s3://no-such-bucket/x"))
    assert repository.client().validate().flows == ("agent",)


def test_loading_a_target(repository: Repository) -> None:
    """run finds path:flow and module:flow; what is not there, or is none, is said."""
    load = repository.client().executions.load
    assert load("flows/work.py:agent").name == "agent"
    for target, words in (
        ("flows/nope.py:agent", "nope.py"),
        ("flows/work.py:nope", "nope"),
        ("flows/work.py:collect", "collect"),
        ("flows/work.py:GREETING", "GREETING"),
        ("flows/work.py", "flows/work.py"),
    ):
        with pytest.raises((KitaruSourceError, KitaruUsageError), match=words) as refused:
            load(target)
        assert refused.value.hint or any(word in refused.value.message for word in ("did you mean", "its flows are"))


def test_every_public_name_is_there() -> None:
    """What kitaru says it exports can be imported, and has a docstring."""
    for name in kitaru.__all__:
        value = getattr(kitaru, name)
        assert name == "__version__" or value.__doc__, name
    assert importlib.import_module("kitaru").__dir__() == sorted({*vars(kitaru), *kitaru.__all__})
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        kitaru.nope  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["file:{0}/s", "file://localhost{0}/s", "FILE://{0}/s", "{0}/s", "file://{0}/x/../s"])
def test_one_folder_is_one_store_however_it_is_spelled(tmp_path: Path, text: str) -> None:
    """Every spelling of a folder's address leads to the same one."""
    settings = wiring.settle(Asked(store=text.format(tmp_path)), cwd=tmp_path, environ={})
    assert wiring.absolute_store(settings) == f"file://{tmp_path}/s"


def test_a_relative_store_of_the_environment_is_relative_to_the_manifest(tmp_path: Path) -> None:
    """In a subfolder it is the store of the manifest's folder; where there is no manifest it is refused."""
    (tmp_path / "p/docs").mkdir(parents=True)
    environ = {"KITARU_STORE": "file://.kitaru/store", "KITARU_PROJECT": "demo", "KITARU_HOME": str(tmp_path / "home")}
    with pytest.raises(KitaruUsageError, match="relative"):
        wiring.settle(Asked(), cwd=tmp_path / "p/docs", environ=environ)
    (tmp_path / "p/kitaru.yaml").write_text("kitaru: 1\nproject: demo\n")
    settings = wiring.settle(Asked(), cwd=tmp_path / "p/docs", environ=environ)
    assert wiring.absolute_store(settings) == f"file://{tmp_path}/p/.kitaru/store"
