from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from kitaru.model.manifest import DEFAULT_BUDGET_MB, Manifest
from kitaru.model.route import Head, Label, Pin
from kitaru.model.snapshot import ImageSettings, KubernetesStack, LocalStack, parse_image


def manifest(**keys: Any) -> Manifest:
    return Manifest.model_validate({"kitaru": 1, "project": "research", **keys})


def flow(**keys: Any) -> dict[str, Any]:
    return {"target": "flows/research.py:agent", **keys}


def refused(**keys: Any) -> list[tuple[str | int, ...]]:
    with pytest.raises(ValidationError) as error:
        manifest(**keys)
    return [detail["loc"] for detail in error.value.errors()]


def test_a_flow_inherits_the_image_field_by_field() -> None:
    """The flow's own fields win over its decorator's, and those over the manifest's; nothing else is replaced."""
    loaded = manifest(
        image={"base_image": "python:3.11", "user": "one", "environment": {"A": "1"}},
        flows={"agent": flow(image={"user": "three", "environment": {"B": "2"}})},
    )
    decorated = ImageSettings(user="two", platform="linux/amd64")
    assert loaded.image_of(loaded.flows["agent"], decorated) == ImageSettings(
        base_image="python:3.11", user="three", environment={"B": "2"}, platform="linux/amd64"
    )
    assert loaded.image_of(loaded.flows["agent"]).platform is None
    bare = manifest(image="python:3.11", flows={"agent": flow()})
    assert bare.image_of(bare.flows["agent"]) == ImageSettings(base_image="python:3.11")


def test_an_image_may_be_a_text_a_mapping_or_settings() -> None:
    """A bare text is the base image, everywhere."""
    expected = ImageSettings(base_image="python:3.12")
    assert parse_image("python:3.12") == expected
    assert parse_image({"base_image": "python:3.12"}) == expected
    assert parse_image(expected) is expected
    assert parse_image(None) == ImageSettings()
    assert manifest(flows={"a": flow(image="python:3.12")}).flows["a"].image == expected
    with pytest.raises(ValidationError):
        parse_image({"base": "python:3.12"})


def test_a_flow_inherits_the_source_selection_field_by_field() -> None:
    """Nothing is left open: all that Git tracks, nothing excluded, and the default budget stand at the end."""
    loaded = manifest(
        source={"include": ["flows/**"], "max_size_mb": 3},
        flows={"own": flow(source={"exclude": ["*.ipynb"]}), "none": flow(source={"include": []}), "plain": flow()},
    )
    own = loaded.source_of(loaded.flows["own"])
    assert (own.include, own.exclude, own.max_size_mb) == (("flows/**",), ("*.ipynb",), 3)
    assert loaded.source_of(loaded.flows["none"]).include == ()
    bare = manifest(flows={"plain": flow()})
    rest = bare.source_of(bare.flows["plain"])
    assert (rest.include, rest.exclude, rest.max_size_mb) == (("**",), (), DEFAULT_BUDGET_MB)


def test_the_local_stack_is_there_even_when_nobody_declares_it() -> None:
    """No name means local; a declared local wins over the built-in one; an unknown name is None."""
    bare = manifest()
    found = bare.stack_named(None)
    assert found is not None
    assert (found.name, found.spec) == ("local", LocalStack(type="local"))
    assert bare.stack_named("prod") is None
    declared = manifest(
        stacks={
            "local": {"type": "local", "environment": "venv"},
            "prod": {"type": "kubernetes", "namespace": "agents"},
        }
    )
    local, prod = declared.stack_named("local"), declared.stack_named("prod")
    assert local is not None and local.spec == LocalStack(type="local", environment="venv")
    assert prod is not None and prod.spec == KubernetesStack(type="kubernetes", namespace="agents")


def test_routes_become_wishes() -> None:
    """The manifest's routes are values of the model, not raw data."""
    routes = {"default": 1, "canary": "head", "benchmark": [1, 2]}
    loaded = manifest(flows={"agent": flow(routes=routes)})
    assert loaded.flows["agent"].routes == {"default": Pin(1), "canary": Head(), "benchmark": Label((1, 2))}
    assert loaded.flows["agent"].data()["routes"] == routes


@pytest.mark.parametrize("project", ["", "Research", "my project", "-x", "é", "x" * 64, "a/b"])
def test_a_project_name_can_stand_in_every_store(project: str) -> None:
    """Lower-case letters, digits, - and _, at most 63."""
    assert refused(project=project) == [("project",)]


@pytest.mark.parametrize("tag", ["head", "2", "v2", "Stable", "", "a b", "é", "-x"])
def test_a_tag_never_reads_like_a_version(tag: str) -> None:
    """A tag that could be taken for a version, or for head, is refused in routes and in protect."""
    assert refused(flows={"a": flow(routes={tag: 1})}) == [("flows", "a", "routes", tag, "[key]")]
    assert refused(protect={tag: {}}) == [("protect", tag, "[key]")]


@pytest.mark.parametrize("name", ["", "1x", "a b", "a.b", "é", "x" * 101])
def test_a_flow_name_is_plain(name: str) -> None:
    """Letters, digits, _ and -, beginning with a letter or _."""
    assert refused(flows={name: flow()}) == [("flows", name, "[key]")]


@pytest.mark.parametrize("target", ["", "flows/research.py", ":agent", "flows/research.py:", "a.py:b-c", "a:b:c"])
def test_a_target_names_a_place_and_a_function(target: str) -> None:
    """Something before the colon, an identifier behind it."""
    assert refused(flows={"a": {"target": target}}) == [("flows", "a", "target")]


def test_unknown_keys_are_refused_at_every_depth() -> None:
    """No noun of the manifest takes a key that it does not know."""
    places = refused(
        oops=1,
        image={"oops": 1},
        source={"oops": 1},
        stacks={"s": {"type": "local", "oops": 1}},
        flows={"a": flow(oops=1, image={"oops": 1}, source={"oops": 1})},
        targets={"t": {"oops": 1, "image": {"oops": 1}}},
        protect={"stable": {"oops": 1}},
    )
    assert len(places) == 10
    assert all(place[-1] == "oops" for place in places)


def test_a_manifest_survives_its_own_data() -> None:
    """Canonical bytes read back as an equal manifest with the same digest."""
    loaded = manifest(
        image="python:3.11-slim",
        stacks={"prod": {"type": "kubernetes"}},
        flows={"agent": flow(routes={"default": 1, "beta": {2: 10, 1: 90}}, inputs={"topic": ["x", {"y": 1.5}]})},
        targets={"production": {"store": "s3://acme/prod", "flows": {"agent": {"routes": {"default": 2}}}}},
        protect={"default": {"branch": "main"}},
    )
    again = Manifest.parse(loaded.canonical())
    assert again == loaded
    assert again.digest == loaded.digest
