"""``@flow`` and ``@checkpoint``: what they accept, and what the objects are."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest

from kitaru import Checkpoint, Flow, Retry, checkpoint, errors, flow
from kitaru.flows import binding


@flow
def research(topic: str, depth: int = 3) -> str:
    """Look things up."""
    return topic * depth


@checkpoint
def collect(topic: str) -> str:
    """Collect notes."""
    return topic


def test_decorated_functions_keep_their_face() -> None:
    """Name, docstring, module, signature and the plain function stay reachable."""
    assert isinstance(research, Flow) and isinstance(collect, Checkpoint)
    assert getattr(research, "__name__") == "research"  # noqa: B009 - set by functools
    assert (research.name, research.func.__name__, research.__doc__) == ("research", "research", "Look things up.")
    assert collect.__module__ == __name__ and collect.func("x") == "x"
    assert str(inspect.signature(research)) == str(inspect.signature(research.func))
    assert repr(research) == "<flow research>" and repr(collect) == "<checkpoint collect>"


def test_decorators_work_with_and_without_parentheses() -> None:
    """All four spellings, sync and async."""
    assert isinstance(flow()(lambda_free), Flow) and isinstance(flow(retries=2)(lambda_free), Flow)
    assert flow(retries=2, cache=False, stack="prod", image="python:3.12")(lambda_free).options.retries.further == 2
    assert isinstance(checkpoint()(lambda_free), Checkpoint)
    assert checkpoint(retries=1, type="tool", runtime="inline", cache=True)(lambda_free).options.type == "tool"

    @flow
    async def later() -> None: ...

    assert later.is_async and not research.is_async


def lambda_free() -> None: ...


def generator() -> Any:
    yield 1


class Thing: ...


@pytest.mark.parametrize("decorator", [flow, checkpoint], ids=["flow", "checkpoint"])
@pytest.mark.parametrize(
    "func", [generator, Thing, 3, "name", lambda: 1], ids=["generator", "class", "number", "text", "lambda"]
)
def test_what_is_no_function_with_a_name_is_refused_at_decoration(decorator: Any, func: Any) -> None:
    """Generators, classes, lambdas and values are a usage error on the spot."""
    with pytest.raises(errors.KitaruUsageError):
        decorator(func)


@pytest.mark.parametrize("decorator", [flow, checkpoint], ids=["flow", "checkpoint"])
@pytest.mark.parametrize("retries", [-1, -5])
def test_negative_retries_are_refused_at_decoration(decorator: Any, retries: int) -> None:
    """As the guide says: KitaruUsageError, which is a ValueError."""
    with pytest.raises(errors.KitaruUsageError, match=f"must be a whole number from 0, not {retries}"):
        decorator(retries=retries)(lambda_free)
    with pytest.raises(ValueError):
        decorator(retries=retries)(lambda_free)


@pytest.mark.parametrize("retries", [1.5, "2", True, None])
def test_retries_are_a_whole_number(retries: Any) -> None:
    """Nothing is rounded or guessed."""
    with pytest.raises(errors.KitaruUsageError, match="whole number"):
        checkpoint(retries=retries)(lambda_free)


def test_options_are_checked_where_they_are_written() -> None:
    """What is right is kept as given; what is wrong is refused at decoration."""
    kept = checkpoint(timeout=5, runtime="isolated", retries=Retry(attempts=2))(lambda_free).options
    assert (kept.timeout, kept.runtime, kept.retries) == (5.0, "isolated", Retry(attempts=2))
    assert flow(timeout=0.5)(lambda_free).options.timeout == 0.5
    wrong: list[dict[str, Any]] = [{"runtime": "moon"}, {"serializer": "yaml"}, {"cache": "yes"}]
    for options in wrong:
        with pytest.raises(errors.KitaruUsageError):
            checkpoint(**options)(lambda_free)


def test_names_that_can_be_no_flow_are_refused() -> None:
    """A flow's name is an address in the store."""

    def größe() -> None: ...

    with pytest.raises(errors.KitaruUsageError, match="größe"):
        flow(größe)
    assert checkpoint(größe).name == "größe"


def test_direct_calls_name_run_and_invoke() -> None:
    """A flow is started, not called."""
    with pytest.raises(errors.KitaruUsageError, match="'research' can't be called") as caught:
        research("x")
    assert "research.run(" in caught.value.hint and "research.invoke(" in caught.value.hint


class RecordingClient:
    """Stands at the one place where a flow object leaves for the client."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.executions = self.deployments = self

    def run(self, *args: Any, **options: Any) -> str:
        self.calls.append(("run", args, options))
        return "handle"

    def invoke(self, *args: Any, **options: Any) -> str:
        self.calls.append(("invoke", args, options))
        return "handle"


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> RecordingClient:
    client = RecordingClient()
    monkeypatch.setattr(binding, "_factory", [lambda: client])
    return client


def test_run_hands_over_bound_inputs_and_options(client: RecordingClient) -> None:
    """Positional, named and ``inputs=`` arguments become one dict, with the defaults."""
    none = {"stack": None, "retries": None, "cache": None, "image": None}
    handle: Any = research.run("a")
    assert handle == "handle"
    research.run(topic="b", depth=1, retries=2, stack="s")
    research.run(inputs={"topic": "c"}, cache=False)
    assert client.calls == [
        ("run", (research, {"topic": "a", "depth": 3}), none),
        ("run", (research, {"topic": "b", "depth": 1}), {**none, "retries": 2, "stack": "s"}),
        ("run", (research, {"topic": "c", "depth": 3}), {**none, "cache": False}),
    ]


def test_a_parameter_named_like_an_option_is_given_through_inputs(client: RecordingClient) -> None:
    """``tag`` and ``stack`` of the flow's own stay reachable."""

    @flow
    def deploys(tag: str, stack: str = "own") -> None: ...

    deploys.run(inputs={"tag": "mine", "stack": "its"}, stack="prod")
    deploys.invoke(inputs={"tag": "mine"}, tag="stable")
    assert client.calls[0][1][1] == {"tag": "mine", "stack": "its"} and client.calls[0][2]["stack"] == "prod"
    assert client.calls[1][2] == {"flow": "deploys", "inputs": {"tag": "mine"}, "version": None, "tag": "stable"}


def test_wrong_options_and_inputs_never_reach_the_client(client: RecordingClient) -> None:
    """They are refused where they are written."""
    with pytest.raises(errors.KitaruUsageError, match="from 0"):
        research.run("a", retries=-1)
    with pytest.raises(errors.KitaruInputError, match="topic: missing"):
        research.run()
    with pytest.raises(errors.KitaruInputError, match="both by name and in inputs"):
        research.run(topic="a", inputs={"topic": "b"})
    with pytest.raises(errors.KitaruInputError, match="must be a mapping"):
        research.run(inputs=["topic"])  # type: ignore[arg-type]
    assert not client.calls


def test_decorated_functions_can_be_copied() -> None:
    """Libraries that deep-copy configuration don't stumble over them."""
    assert copy.copy(collect).name == "collect"


def test_a_method_is_told_what_it_lacks() -> None:
    """A checkpoint among methods is given no self: the error names the class and the way out, which works."""

    class Research:
        @checkpoint
        def collect(self, n: int) -> int:
            return n

        @staticmethod
        @checkpoint
        def count(n: int) -> int:
            return n

    with pytest.raises(TypeError, match=r"argument: 'n'; it is a method of Research, .* no self: put @staticmethod"):
        Research.collect.parameters.bind((3,), {})
    assert Research().count.parameters.bind((3,), {}) == {"n": 3}
    with pytest.raises(TypeError, match=r"argument: 'n'$"):
        Research.count.parameters.bind((), {})
    with pytest.raises(errors.KitaruUsageError) as refused:
        checkpoint(staticmethod(lambda_free))
    assert refused.value.hint == "@staticmethod goes above @checkpoint."
