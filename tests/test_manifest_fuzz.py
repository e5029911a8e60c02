from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from kitaru.errors import KitaruManifestError
from kitaru.manifest.reading import load
from kitaru.manifest.yaml import quote, resolve_plain
from kitaru.model.manifest import Manifest
from tests.manifest_files import FLOW, FULL, LAYERED, loaded, put
from tests.manifest_strategies import JSON, MANIFESTS, PRINTABLE, TEXT

SLOW = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dumped(data: Any, style: str) -> str:
    if style == "json":
        return json.dumps(data)
    stream = StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = style == "flow"
    writer.dump(data, stream)
    return stream.getvalue()


@SLOW
@given(data=MANIFESTS, style=st.sampled_from(["json", "block", "flow"]))
def test_any_manifest_survives_being_written_and_read(folder: Path, data: dict[str, Any], style: str) -> None:
    """Model to YAML to model is the identity, whoever writes the YAML."""
    model = Manifest.model_validate_json(json.dumps(data))
    written = model.model_dump(mode="json", exclude_none=True)
    text = dumped(written, style)
    # ruamel writes some rare signs so that it does not itself read them back, such as a key that begins with ?; and it
    # ends lines at three signs that end none in YAML 1.2
    assume(style == "json" or YAML(typ="safe", pure=True).load(text) == written)
    assume(style == "json" or not set("\x85\u2028\u2029") & set(text))
    path = put(folder, text)
    assert load(path).manifest == model


@given(TEXT | PRINTABLE | st.from_regex(r"[-+.0-9a-zA-Z:_~]{1,8}", fullmatch=True))
@SLOW
def test_a_quoted_text_is_read_back_as_that_text(folder: Path, text: str) -> None:
    """``quote`` is safe for any text as a key and as a value, beside a comment."""
    body = (
        f"kitaru: 1\nproject: x\nflows:\n  a:\n    target: a.py:a\n    inputs: {{{quote(text)}: {quote(text)}}}  # c\n"
    )
    assert loaded(folder, body).manifest.flows["a"].inputs == {text: text}


@given(st.text(max_size=20))
def test_plain_scalars_never_raise_but_value_error(text: str) -> None:
    """Whatever stands unquoted is a value of JSON, or refused."""
    try:
        json.dumps(resolve_plain(text), allow_nan=False)
    except ValueError as error:
        assert "finite" in str(error) or "digits" in str(error)


SIGNS = (
    """{ } [ ] , &a *a <<:*a ! !!int !!binary !< !e! | |9 > >- % @ ` " ' # \\ null ~ .inf 0o7 %YAML %TAG kitaru"""
    """ targets: flows: routes: head"""
)
SPACES = [": ", "- ", "\n", "  ", "\t", "? ", "\x00", "\ufeff", "\x85", "\u2028", "---\n", "...\n"]
FRAGMENTS = st.sampled_from([*SPACES, *SIGNS.split()])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from([FULL, LAYERED, FLOW]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(FRAGMENTS | st.text(max_size=3) | st.just("")) + text[end:]
    return text.encode("utf-8", "surrogatepass")


GARBAGE = (
    st.binary(max_size=60)
    | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.lists(FRAGMENTS, max_size=25).map(lambda parts: "".join(parts).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(sorted(Manifest.model_fields)), JSON).map(
        lambda value: json.dumps({"kitaru": 1, "project": "x", **value}).encode()
    )
)


def never_anything_else(folder: Path, body: bytes, target: str | None) -> None:
    try:
        loaded(folder, body, target)
    except KitaruManifestError as error:
        assert error.problems
        lines = body.count(b"\n") + body.count(b"\r") + body.count(b"\xc2\x85") + body.count(b"\xe2\x80") + 2
        for problem in error.problems:
            for text in (problem.message, problem.hint):
                assert text.isprintable(), text
                assert "Input should" not in text and "another kind of value" not in text, text
            assert problem.message
            assert 0 <= problem.line <= lines
            assert (problem.column > 0) == (problem.line > 0)


@settings(SLOW, max_examples=300)
@given(body=GARBAGE, target=st.none() | st.just("p"))
@example(body=b'{"kitaru": 1, "project": "x", "flows": {"a": null}, "moved": {"a": null}}', target=None)
def test_garbage_is_always_a_manifest_error(folder: Path, body: bytes, target: str | None) -> None:
    """Bytes, text, YAML's own signs in any order, and JSON of the wrong shape: only problems, in plain words."""
    never_anything_else(folder, body, target)


@settings(SLOW, max_examples=300)
@given(body=mutated(), target=st.sampled_from([None, "production", "here"]))
def test_a_slip_in_a_good_manifest_is_always_a_manifest_error(folder: Path, body: bytes, target: str | None) -> None:
    """A valid file with a few characters changed loads, or says what is wrong."""
    never_anything_else(folder, body, target)
