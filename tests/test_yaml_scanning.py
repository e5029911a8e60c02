"""The quick reader of YAML: where it has an answer, it is ruamel's, event for event and place for place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import Event

from kitaru.manifest.yaml_scanning import scanned
from tests.manifest_files import FULL, LAYERED
from tests.manifest_texts import Written, manifests

RANDOM = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
OUTER = {"StreamStartEvent", "StreamEndEvent", "DocumentStartEvent", "DocumentEndEvent"}


def told(events: list[Event]) -> list[Any]:
    """All that a reader looks at."""
    found = []
    for one in events:
        name = type(one).__name__
        if name in OUTER:
            continue
        marks = [(mark.index, mark.line, mark.column) for mark in (one.start_mark, one.end_mark)]
        more = [getattr(one, field, None) for field in ("anchor", "value", "style", "flow_style", "ctag")]
        found.append((name, marks, more))
    return found


def from_ruamel(text: str) -> list[Any] | str:
    try:
        events = list(YAML(typ="safe", pure=True).parse(text))
    except (YAMLError, ValueError, OverflowError, IndexError, AttributeError, KeyError, TypeError, AssertionError) as e:
        return f"{type(e).__name__}: {e}"
    assert sum(type(one).__name__ == "DocumentStartEvent" for one in events) <= 1
    return told(events)


def agrees(text: str) -> bool:
    """Whether there is an answer, which is ruamel's then."""
    found = scanned(text)
    if found is not None:
        assert told(found) == from_ruamel(text)
    return found is not None


PIECES = st.sampled_from(
    [
        *("\n", "\n", "\n", "\n  ", "\n  ", "\n    ", "\n- ", "\n  - ", "\r\n", " ", "  "),
        *("a", "b:", "a: ", "a: 1", "b: x y", "c:", "'q'", '"d"', "'e': ", '"f": ', '"\\n"', "''", "'it''s'", "a:b"),
        *(
            "{",
            "}",
            "[",
            "]",
            ", ",
            ",",
            "{x: 1}",
            "[1, 2]",
            "{}",
            "{ }",
            "[]",
            '{"k":1}',
            ": ",
            ":",
            "-",
            "- ",
            "- - ",
        ),
        *("#c", " # c", "&n ", "&n", "*n", "<<: *n", "|", ">", "!t ", "?", "? ", "%", "@", "=", "~", "-1", "http://x"),
        *(
            "é",
            "\u2028",
            "\x85",
            "\t",
            "\ufeff",
            "\U0001f600",
            "---",
            "...",
            "\\",
            "`",
            "null",
            "yes",
            "0x1",
            "1.5",
            "$",
            "(",
        ),
    ]
)


@RANDOM
@given(st.lists(PIECES, max_size=14).map("".join))
@example("a:\n- b\n-\n  - c\n- d: 1\n  e:\nf:\n")
@example("a: {b: [1, {c: }, ], 'd':  # c\n  x y, \"e\":1}\n")
@example("a: &n\n  b: *n\n")
@example("a: |")
def test_any_text_is_read_as_ruamel_reads_it(text: str) -> None:
    """Pieces of YAML in any order: what is answered is ruamel's answer."""
    event("read" if agrees(text) else "left to ruamel")


LINES = st.lists(
    st.tuples(
        st.sampled_from(["", "", "  ", "  ", "    ", "      ", "- ", "  - ", "    -   "]),
        st.sampled_from(
            [
                *("a:", "b: 1", "c: x y  # why", "'d': 'e'", 'f: "g\\u00e9"', "# alone", "", "h: {i: 1, j: [k, l: m]}"),
                *("n: [1,\n  2]", "o: {p: 1,\n\n # c\n  q: f.py:x ,}", "r: &s", "r: &s t", "u: *s", "<<: *s", "v", "-"),
                *(
                    "w: |\n      text\n",
                    "w: >-  # c\n    x\n\n     y",
                    "w: |+\n  x\n\n",
                    "- >2\n     x",
                    "w: &n |\n\n  x",
                    "# d",
                    "x: {<<: *s, y: 1}",
                    '"z":',
                    "1: 90",
                    "a: b: c",
                    "a:b",
                    "a: b#c",
                    "a: -",
                    "a: -x",
                ),
            ]
        ),
    ).map("".join),
    max_size=9,
)


@RANDOM
@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_lines_are_read_as_ruamel_reads_them(lines: list[str], eol: str, ended: bool) -> None:
    """The same for whole lines at any depth."""
    text = ("\n".join(lines) + "\n" * ended).replace("\n", eol)
    event("read" if agrees(text) else "left to ruamel")


@RANDOM
@given(manifests(), st.data())
def test_manifests_whole_and_damaged_are_read_as_ruamel_reads_them(written: Written, data: st.DataObject) -> None:
    """A manifest as people write it, and one with a piece cut out or put in."""
    text = written.body.decode("utf-8-sig")
    event("read" if agrees(text) else "left to ruamel")
    start = data.draw(st.integers(0, len(text)))
    agrees(text[:start] + data.draw(PIECES) + text[start + data.draw(st.integers(0, 4)) :])


SCALARS = st.text(st.sampled_from("ab1:-#,{}[]'\"&*?!<>|%@`=~.\\/+$(; é"), max_size=6)
TEMPLATES = st.sampled_from(
    [
        *("k: %s\n", "k:   %s  # c\nl: 1\n", "k: &n %s\n", "k:\n  l: %s\n  m: 1\n", "k:\n  %s\n", "k: %s\n  more\n"),
        *("k:\n- %s\n- b: %s\n  c: 1\n", "k:\n  -   %s\n", "k:\n  - - %s\n    - 1\n", "k: %s\n\n# c\n"),
        *("k: {x: %s}\n", "k: {x: %s, y: %s }\n", "k: {%s: 1}\n", "k: {%s}\n", "k: [%s,\n  %s]\n", "k: {x: %s\n }\n"),
        *("%s: 1\n", "k:\n  %s: 1\n", "k:\n  %s:\n", "k: '%s'\n", 'k: "%s"\n', "'%s': 1\n", 'k: {"%s":%s}\n', "k: %s"),
        *(
            "k: &n 1\nl: *n%s\n",
            "k: &n%s 1\n",
            "k: [1]%s\n",
            "k: {a: 1}%s\n",
            "k: 'q'%s\n",
            "k:%s\n",
            "k: #%s\n",
            "-%s\n",
        ),
    ]
)


@settings(RANDOM, max_examples=1500)
@given(TEMPLATES, SCALARS, SCALARS)
def test_any_value_is_read_as_ruamel_reads_it(template: str, first: str, second: str) -> None:
    """Values and keys of odd signs, wherever a value or a key can stand."""
    text = template.replace("%s", first, 1).replace("%s", second)
    event("read" if agrees(text) else "left to ruamel")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@RANDOM
@given(JSON, st.sampled_from([None, 1, 2]), st.booleans())
def test_json_is_read_as_ruamel_reads_it(value: Any, indent: int | None, escaped: bool) -> None:
    """JSON is YAML, with every escape that it has."""
    text = json.dumps({"kitaru": 1, "x": value}, indent=indent, ensure_ascii=escaped)
    event("read" if agrees(text) else "left to ruamel")


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        LAYERED,
        FULL.replace("\n", "\r\n"),
        "---  # begin\n" + FULL,
        json.dumps({"kitaru": 1, "flows": {"a": {"target": "f.py:a", "inputs": {"text": 'say "é"\n'}}}}, indent=2),
        "a:\n  text: >-\n    more\n    lines\n\n  said: 'in\n    quotes'\n  plain: some\n    words\nb: {c: 'x\n  y'}\n",
        "a: &x {b: 1}\nc: *x\nd:\n  <<: *x\n  e: {<<: *x, f: [*x, 2]}\n",
    ],
    ids=["guide", "layered", "crlf", "begun", "json", "lines", "shared"],
)
def test_what_manifests_are_made_of_is_read_quickly(text: str) -> None:
    """The manifests of the guide, in JSON, with aliases: none of them is left to ruamel."""
    assert agrees(text)
