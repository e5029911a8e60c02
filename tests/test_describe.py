"""What a flow says about itself: options, inputs, checkpoints."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, create_model

from kitaru.errors import KitaruSourceError
from kitaru.flows import describe as module
from kitaru.flows.checkpoint import checkpoint
from kitaru.flows.describe import facts_of, input_schema
from kitaru.flows.flow import flow
from kitaru.model.address import canonical_json
from kitaru.model.snapshot import ImageSettings

if TYPE_CHECKING:
    from decimal import Decimal


LIMIT = 5


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Topic(BaseModel):
    """What to look into."""

    title: str = Field(title="The title", description="As people say it")
    depth: int = 3
    default: str = ""


class Opaque:
    pass


@checkpoint
def fetch(url: str) -> str:
    return url


@checkpoint
def summarize(text: str) -> str:
    return text


@checkpoint
def unused() -> None: ...


def helper(url: str) -> list[str]:
    return [summarize(part) for part in [fetch(url)]]


def recursive(url: str) -> Any:
    return recursive(url) or unused


# --- options ----------------------------------------------------------------------------------------------------------


def test_what_the_decorator_says_is_kept_and_silence_is_none() -> None:
    """Options that the decorator gives are facts; those that it does not are left to the manifest."""

    @flow(retries=2, cache=False, stack="prod", image={"base_image": "python:3.12", "requirements": ["httpx"]})
    def loud() -> None:
        """Say it.

        And more.
        """

    @flow
    def silent() -> None: ...

    said = facts_of(loud)
    assert (said.retries, said.cache, said.stack, said.summary) == (2, False, "prod", "Say it.")
    assert said.image == ImageSettings(base_image="python:3.12", requirements=("httpx",))
    nothing = facts_of(silent)
    assert (nothing.retries, nothing.cache, nothing.stack, nothing.image, nothing.summary) == (None,) * 4 + ("",)


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_the_schema_of_plain_parameters() -> None:
    """Types, defaults, what is required; nothing else is allowed, and there are no titles."""

    @flow
    def research(
        topic: str, depth: int = 3, tags: list[str] | None = None, *, mode: Literal["a", "b"] = "a", any=1
    ): ...

    assert input_schema(research) == {
        "type": "object",
        "properties": {
            "topic": {"type": "string"},
            "depth": {"type": "integer", "default": 3},
            "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}], "default": None},
            "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "any": {"default": 1},
        },
        "required": ["topic"],
        "additionalProperties": False,
    }


def test_the_schema_of_no_parameters() -> None:
    """A flow without parameters takes an empty object."""

    @flow
    def nothing(): ...

    assert input_schema(nothing) == {"type": "object", "properties": {}, "additionalProperties": False}


def test_models_enums_and_constraints_are_expressed() -> None:
    """Pydantic models, enums and ``Annotated`` fields are in the schema, properties called title or default too."""

    @flow
    def typed(
        topic: Topic, colour: Colour = Colour.RED, n: Annotated[int, Field(ge=1)] = 1, where: Path = Path("x")
    ): ...

    schema = input_schema(typed)
    good = {"topic": {"title": "t", "default": "d"}, "colour": "blue", "n": 2, "where": "y"}
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(good, schema)
    for bad in ({}, {"topic": {"depth": 1}}, {**good, "n": 0}, {**good, "colour": "green"}, {**good, "more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    assert schema["$defs"]["Topic"]["properties"]["title"] == {"description": "As people say it", "type": "string"}
    assert "default" not in schema["properties"]["colour"] and schema["required"] == ["topic"]
    assert schema["properties"]["n"]["default"] == 1


def test_more_keywords_are_allowed_where_the_flow_takes_them() -> None:
    """``**kwargs`` means that any further input is welcome."""

    @flow
    def open_ended(topic: str, **more: int) -> None: ...

    assert input_schema(open_ended)["additionalProperties"] is True


def test_parameters_may_have_any_name() -> None:
    """Names that mean something to pydantic are names like any other."""

    @flow
    def odd(model_config: int, json: str, _x: int = 1, copy: int = 2, p0: int = 3, schema: int = 4): ...

    schema = input_schema(odd)
    assert list(schema["properties"]) == ["model_config", "json", "_x", "copy", "p0", "schema"]
    assert schema["required"] == ["model_config", "json"]


def test_what_json_schema_cannot_say_is_anything_with_a_note() -> None:
    """A type that can't be expressed, or is imported for type checkers only, spoils no other parameter."""

    @flow
    def vague(a: Opaque, b: Decimal, c: int, d: Any = Opaque(), e: float = float("nan"), f: Any = Opaque): ...  # noqa: B008

    schema = input_schema(vague)
    assert schema["properties"] == {
        "a": {"$comment": "JSON Schema can't express tests.test_describe.Opaque"},
        "b": {"$comment": "the annotation Decimal can't be resolved"},
        "c": {"type": "integer"},
        "d": {},
        "e": {"type": "number"},
        "f": {},
    }
    assert schema["required"] == ["a", "b", "c"]
    assert b"0x" not in canonical_json(schema)


@pytest.mark.parametrize("kind", ["*names", "a, /"])
def test_parameters_that_have_no_name_are_refused(kind: str) -> None:
    """Inputs are given by name, so every parameter needs one."""
    space: dict[str, Any] = {}
    exec(f"def f({kind}): ...", space)
    with pytest.raises(KitaruSourceError, match="inputs are given by name"):
        input_schema(flow(space["f"]))


def test_a_schema_is_the_same_in_every_process() -> None:
    """Another process, with another hash seed, says the same bytes."""
    code = (
        "import sys; from kitaru.flows.describe import input_schema; from kitaru.flows.flow import flow\n"
        "from kitaru.model.address import canonical_json; from typing import *\n"
        "@flow\n"
        "def f(a: Literal['x', 'y', 'z'], b: object = object(), c: Callable[[], int] = print): ...\n"
        "sys.stdout.buffer.write(canonical_json(input_schema(f)))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(module.__file__).parents[2])},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(printed) == 1 and printed != {b""}


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_come_in_the_order_of_the_code() -> None:
    """Those in the body, in functions of the same module and in comprehensions, each once; none that nobody calls."""

    @flow
    def direct(url: str) -> str:
        return summarize(fetch(fetch(url)))

    @flow
    def indirect(urls: list[str]) -> Any:
        text = [helper(url) for url in urls]
        return sorted(text, key=lambda part: summarize(part))

    @flow
    def passed(url: str) -> Any:
        return map(fetch, [url]), fetch.submit(url)

    assert facts_of(direct).checkpoints == ("summarize", "fetch")
    assert facts_of(indirect).checkpoints == ("summarize", "fetch")
    assert facts_of(passed).checkpoints == ("fetch",)


def test_checkpoints_of_a_module_and_of_a_closure_count() -> None:
    """``steps.fetch`` and a checkpoint defined around the flow are found; recursion ends."""
    import tests.test_describe as steps

    @checkpoint
    def near() -> None: ...

    @flow
    def both(url: str) -> Any:
        near()
        recursive(url)
        return steps.fetch(url)

    assert facts_of(both).checkpoints == ("near", "unused", "fetch")


def test_a_default_is_recorded_only_if_the_signature_spells_it() -> None:
    """What a machine works out for itself, or is a secret, is known as a default without its value."""

    @flow
    def computed(
        depth: int = 3,
        words: Any = ("a", -1.5, None, {"k": [True]}),
        run: str = str(uuid.uuid4()),
        key: str = os.environ.get("API_KEY", "none"),
        here: Path = Path(__file__),
        limit: int = LIMIT,
        names: Any = {"b", "a"},  # noqa: B006
        *,
        late: str = "",
        now: str = f"{os.getpid()}",
    ): ...

    schema = input_schema(computed)
    assert "required" not in schema
    known = {name: one["default"] for name, one in schema["properties"].items() if "default" in one}
    assert known == {"depth": 3, "words": ["a", -1.5, None, {"k": [True]}], "late": ""}


class Settings(BaseModel):
    model: str = str(uuid.uuid4())
    made: str = Field(default_factory=lambda: str(uuid.uuid4()))


def test_no_default_of_a_field_is_recorded() -> None:
    """A model's default may be worked out, too."""

    @flow
    def configured(settings: Settings): ...

    assert "default" not in json.dumps(input_schema(configured))


def test_two_classes_of_one_name_keep_their_own_definitions() -> None:
    """Each parameter takes what its own class says."""
    other = create_model("Settings", __module__="elsewhere", depth=(int, ...))

    @flow
    def two(one: Settings, second: Any): ...

    two.func.__annotations__["second"] = other
    schema = input_schema(two)
    jsonschema.validate({"one": {"model": "m"}, "second": {"depth": 1}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"one": {}, "second": {}}, schema)
