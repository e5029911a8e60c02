"""Reading YAML 1.2 where ruamel keeps to older rules: tabs between values, and signs that once ended a line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kitaru.manifest import yaml_events
from kitaru.manifest.manifest_edits import remove_route, set_route
from kitaru.manifest.yaml_events import BREAKS
from kitaru.manifest.yaml_tree import parse, to_data
from kitaru.model.route import Pin
from tests.manifest_files import FLOW
from tests.manifest_texts import Written, manifests


def meant(text: str) -> Any:
    """What ``text`` says; it has no problem."""
    tree = parse(text)
    assert tree.problems == []
    return to_data(tree.root)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a:\t# c\n  b: 1\n", {"a": {"b": 1}}),
        ("a: \t # c\n  b: 1\n", {"a": {"b": 1}}),
        ("a:\t1\n", {"a": 1}),
        ("a: \t 'x'\t# c\nb:\t\t[1,\t2\t]\t\n", {"a": "x", "b": [1, 2]}),
        ("a:\t&x {c: 1}\t# d\nb:\t*x\t# e\n", {"a": {"c": 1}, "b": {"c": 1}}),
        ("a: |\t# c\n  x\ty\nb:\t>-\t\n  z\n", {"a": "x\ty\n", "b": "z"}),
        ("\t# alone\na: 1\n\t\n  \t# alone\nb: 2\n", {"a": 1, "b": 2}),
        ("a:\t1\t# c\r\nb:\t2\r\n", {"a": 1, "b": 2}),
        ("a: {b: 1}\t# c\n", {"a": {"b": 1}}),
        ("a:\n  - 1\t# c\n  - k:\tv\n", {"a": [1, {"k": "v"}]}),
    ],
)
def test_a_tab_separates_what_a_space_separates(text: str, value: Any) -> None:
    """Behind a colon, before a comment, at the end of a line and on a line of its own; text keeps its tabs."""
    assert meant(text) == value


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("a:\n\tb: 1\n", (2, 1), "expected spaces, found a tab: YAML is indented with spaces"),
        ("a:\n  b: 1\n\tc: 2\n", (3, 1), "expected spaces, found a tab: YAML is indented with spaces"),
        ("-\t- x\n", (1, 2), "found a tab (U+0009) where only spaces can be"),
        ("-\tk: v\n", (1, 2), "found a tab (U+0009) where only spaces can be"),
        ("a: x\ty\n", (1, 5), "found a tab (U+0009) where only spaces can be"),
        ("a: x\t\n  y\n", (1, 5), "found a tab (U+0009) where only spaces can be"),
        ("a:\tb: 1\n", (1, 5), "found ':' where no key can be"),
    ],
)
def test_another_tab_is_named_with_its_place(text: str, place: tuple[int, int], message: str) -> None:
    """Indentation is of spaces; a tab that may be part of a text, or of an indent, is not guessed."""
    (problem,) = parse(text).problems
    assert (problem.message, (problem.line, problem.column)) == (message, place)


def test_a_file_full_of_tabs_is_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tab costs a reading of what stands before it: there is an end to that, told as any other tab."""
    monkeypatch.setattr(yaml_events, "MOST_READ", 100)
    text = "".join(f"k{number}:\t1\n" for number in range(40))
    (problem,) = parse(text).problems
    assert "found a tab (U+0009)" in problem.message


@pytest.mark.parametrize("sign", list(BREAKS))
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1 # x%sy: z\nb: 2\n", {"a": 1, "b": 2}),
        ("# x%sy\nb: 2  # %s\n", {"b": 2}),
        ("a: 'x%sy'\n", {"a": "x%sy"}),
        ('a: "x%sy\\u4e00"\n', {"a": "x%sy\u4e00"}),
        ("a: {b: ['x%s', \"%s\"]}\t# %s\n", {"a": {"b": ["x%s", "%s"]}}),
        ("a: |\n  x%sy\nb: x%sy\n", {"a": "x%sy\n", "b": "x%sy"}),
    ],
)
def test_signs_that_ended_a_line_in_yaml_1_1_end_none(text: str, value: Any, sign: str) -> None:
    """In comments, in quotes and in plain text they are characters like any other."""

    def signed(part: Any) -> Any:
        match part:
            case dict():
                return {key: signed(one) for key, one in part.items()}
            case list():
                return [signed(one) for one in part]
        return part.replace("%s", sign) if isinstance(part, str) else part

    assert meant(signed(text)) == signed(value)


def test_what_is_wrong_behind_such_a_sign_has_the_place_that_editors_show() -> None:
    """They end no line, and a message that quotes one names it."""
    (problem,) = parse("a: 1  # \u2028\u2029\nb: @\x85\n").problems
    assert (problem.line, problem.column) == (2, 4)
    (problem,) = parse("a: *x\u2028\n").problems
    assert problem.message == "the alias '*x\\u2028' names no anchor before it"
    (problem,) = parse("a: !<\u2028>\n").problems
    assert "U+2028" in problem.message


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(manifests(), st.sampled_from(["\t#", " \t#", "\t\t #"]), st.sampled_from(["", *BREAKS]))
def test_any_manifest_with_tabs_before_its_comments_says_the_same(written: Written, gap: str, sign: str) -> None:
    """Whatever stands before a comment, and whatever signs are in it."""
    text = written.body.decode("utf-8-sig")
    changed = re.sub(r"(?<=\S) +# ", f"{gap} {sign}", text)
    assert meant(changed) == meant(text)


def test_a_manifest_with_tabs_and_rare_signs_is_edited() -> None:
    """Every byte that is not edited stays."""
    body = (FLOW + "    routes:\t# led\u2028by hand\n      default:\t1\t# \x85one\n").encode()
    after = set_route(body, "agent", "default", Pin(2))
    assert after == body.replace(b"\t1\t", b"\t2\t")
    assert remove_route(set_route(body, "agent", "canary", Pin(3)), "agent", "canary") == body
