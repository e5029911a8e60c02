"""Edits of kitaru.yaml by commands: just what was asked for changes, and not a byte more."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, example, given, settings
from hypothesis import strategies as st

from kitaru.errors import KitaruBackendError, KitaruConflictError, KitaruManifestError
from kitaru.manifest.edit import edit_preview, edited, write
from kitaru.manifest.reading import read_manifest
from kitaru.manifest.yaml import parse
from kitaru.model.manifest import FlowSpec
from kitaru.model.route import Head, Label, Pin, RouteTarget, Split, parse_target
from kitaru.model.snapshot import ImageSettings
from tests.manifest_files import FULL, HEAD, LAYERED
from tests.manifest_texts import FLOWS, TAGS, WISHES, Written, manifests

RANDOM = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


def said(body: bytes) -> Any:
    """What a manifest means; it is a valid one."""
    read_manifest(body, "kitaru.yaml", None)
    return parse(body.decode("utf-8-sig")).data


def set_route(body: bytes, flow: str, tag: str, wish: RouteTarget, **place: Any) -> bytes:
    return edited(body, {flow: {"routes": {tag: wish}}}, **place)


def remove_route(body: bytes, flow: str, tag: str, **place: Any) -> bytes:
    return edited(body, {}, [(flow, tag)], **place)


def set_flow(body: bytes, flow: str, keys: Any, **place: Any) -> bytes:
    return edited(body, {flow: keys}, **place)


def removed_lines(before: bytes, after: bytes) -> list[str]:
    return [line[1:] for line in edit_preview(before, after)[2:] if line.startswith("-")]


def added_lines(before: bytes, after: bytes) -> list[str]:
    return [line[1:] for line in edit_preview(before, after)[2:] if line.startswith("+")]


def refused(*given: Any, edit: Any = set_route, **more: Any) -> KitaruManifestError:
    with pytest.raises(KitaruManifestError) as caught:
        edit(*given, **more)
    return caught.value


# --- any manifest -----------------------------------------------------------------------------------------------------


@RANDOM
@given(manifests(), st.sampled_from(FLOWS), st.sampled_from(TAGS), WISHES)
def test_a_route_is_set_and_nothing_else(written: Written, flow: str, tag: str, wish: Any) -> None:
    """Whatever the style of the manifest, it means what was wanted; all other lines and all comments stay."""
    before = said(written.body)
    try:
        body = set_route(written.body, flow, tag, parse_target(wish))
    except KitaruManifestError as error:
        assert flow not in written.flows or b"&" in written.body or "would be lost" in str(error), error
        event("refused")
        return
    wanted = json.loads(json.dumps(before))
    routes = wanted["flows"][flow].get("routes") or {}
    wanted["flows"][flow]["routes"] = {**routes, tag: wish}
    assert said(body) == wanted
    old = (before["flows"][flow].get("routes") or {}).get(tag)
    gone = [line for line in removed_lines(written.body, body) if line.partition("#")[0].strip()]
    assert len(gone) <= (1 + len(old) if isinstance(old, list | dict) else 2)
    if not isinstance(old, list | dict):
        kept = body.decode()
        assert all(line.partition("#")[2] in kept for line in gone)
    assert (b"\r\n" in written.body) == (b"\r\n" in body)
    assert body.startswith(b"\xef\xbb\xbf") == written.body.startswith(b"\xef\xbb\xbf")
    if b"\r\n" in body:
        assert body.count(b"\n") == body.count(b"\r\n")


@RANDOM
@given(manifests(), st.sampled_from(FLOWS), WISHES)
def test_adding_a_route_and_removing_it_gives_the_same_bytes(written: Written, flow: str, wish: Any) -> None:
    """A tag that was not there leaves no trace when it goes again, but for a comma before the closing brace."""
    try:
        body = set_route(written.body, flow, "fresh", parse_target(wish))
        again = remove_route(body, flow, "fresh")
    except KitaruManifestError as error:
        assert flow not in written.flows or b"&" in written.body or "would be lost" in str(error), error
        return
    if b"routes: {}" not in written.body:
        assert said(again) == said(written.body)
        assert again == written.body or b"&" in written.body or re.search(rb",\s*}", written.body)


def _reads(body: bytes) -> dict[str | None, Any]:
    """What the manifest says without a target, and with each that it has."""
    targets = said(body).get("targets") or {}
    return {name: read_manifest(body, "kitaru.yaml", name) for name in (None, *targets)}


@RANDOM
@given(manifests(), st.sampled_from(["live", "stage"]), st.sampled_from(FLOWS), st.sampled_from(TAGS), WISHES)
def test_an_edit_for_one_target_changes_that_target_alone(
    written: Written, target: str, flow: str, tag: str, wish: Any
) -> None:
    """What every other target reads, and the manifest itself, is the same; a tag that goes again leaves no trace."""
    before = _reads(written.body)
    assume(target in before and flow in written.flows)
    image = ImageSettings(base_image="python:3.13", requirements=("httpx",))
    fresh = parse_target(wish)
    try:
        moved = set_route(written.body, flow, tag, fresh, target=target)
        built = set_flow(written.body, flow, {"image": image.data(), "routes": {tag: fresh}}, target=target)
        led = set_route(written.body, flow, "fresh", fresh, target=target)
        back = remove_route(led, flow, "fresh", target=target)
    except KitaruManifestError as error:
        assert b"&" in written.body or "would be lost" in str(error), error
        event("refused")
        return
    for body in (moved, built, led):
        after = _reads(body)
        for name in before.keys() - {target}:
            assert after[name] == before[name].model_copy(update={"targets": after[name].targets})
    assert _reads(moved)[target].flows[flow].routes == {**before[target].flows[flow].routes, tag: fresh}
    assert _reads(built)[target].flows[flow].image == image
    assert back == written.body
    old = before[target].flows[flow].routes.get(tag)
    if old is not None:
        again = set_route(moved, flow, tag, old, target=target)
        assert _reads(again)[target].flows == before[target].flows


@RANDOM
@given(manifests(), st.sampled_from(FLOWS), st.sampled_from(TAGS), st.integers(1, 99))
def test_setting_a_route_back_gives_the_same_bytes(written: Written, flow: str, tag: str, number: int) -> None:
    """A route that is moved and moved back stands as it stood."""
    old = ((said(written.body)["flows"] or {}).get(flow, {}).get("routes") or {}).get(tag)
    if old is None or b"&" in written.body or isinstance(old, dict | list):
        return
    moved = set_route(written.body, flow, tag, Pin(number))
    assert set_route(moved, flow, tag, parse_target(old)) == written.body


@RANDOM
@given(manifests(), st.sampled_from(FLOWS), st.sampled_from(TAGS))
def test_a_route_is_removed_and_nothing_else(written: Written, flow: str, tag: str) -> None:
    """A tag goes with its line, and ``routes`` where it was the last, unless its braces stay."""
    before = said(written.body)
    try:
        body = remove_route(written.body, flow, tag)
    except KitaruManifestError as error:
        assert b"&" in written.body or "would be lost" in str(error), error
        return
    wanted = json.loads(json.dumps(before))
    routes = ((wanted["flows"] or {}).get(flow) or {}).get("routes") or {}
    if tag in routes:
        del routes[tag]
        if not routes:
            del wanted["flows"][flow]["routes"]
            braces = json.loads(json.dumps(wanted))
            braces["flows"][flow]["routes"] = {}
            assert said(body) in (wanted, braces)
            return
    else:
        assert body == written.body
    assert said(body) == wanted


SPEC: dict[str, Any] = {
    "target": "f.py:new",
    "inputs": {"topic": "a: b", "none": None, "é": [1, {"x": "yes"}]},
    "retries": 2,
    "timeout": 1.5,
    "image": {"requirements": ["httpx>=0.27"] * 9},
    "routes": {"default": 1, "beta": {"2": 10, "1": 90}, "both": [1, "head"]},
}


@RANDOM
@given(manifests())
def test_a_flow_is_added_beside_the_others(written: Written) -> None:
    """A flow is declared at the end, and says just what was given; nothing else in the file means anything else."""
    body = set_flow(written.body, "new", SPEC)
    before = said(written.body)
    assert said(body) == {**before, "flows": {**(before["flows"] or {}), "new": SPEC}}


@RANDOM
@given(manifests(), st.sampled_from(FLOWS))
def test_only_the_keys_given_change(written: Written, flow: str) -> None:
    """A flow that is there keeps what is not named, its other routes included."""
    before = said(written.body)
    if flow not in written.flows:
        return
    try:
        body = set_flow(written.body, flow, {"retries": 7, "inputs": {"n": 1}, "routes": {"stable": 4}})
    except KitaruManifestError as error:
        assert b"&" in written.body or "would be lost" in str(error), error
        return
    routes = before["flows"][flow].get("routes") or {}
    changed = {**before["flows"][flow], "retries": 7, "inputs": {"n": 1}, "routes": {**routes, "stable": 4}}
    assert said(body) == {**before, "flows": {**before["flows"], flow: changed}}


@RANDOM
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: (HEAD + text).encode("utf-8", "replace")))
@example(b"flows: [1]")
@example(b"flows: {agent: 3}")
@example(b"flows: {agent: {routes: [x]}}")
@example(b"- a")
@example(b"")
@example(b"a: &a [*a]")
@example(HEAD.encode() + b"flows: {agent: {routes: 3}}")
@example(HEAD.encode() + b"? flows\n: agent: {}")
def test_garbage_ends_in_words(body: bytes) -> None:
    """A file that is no manifest is refused in words, or edited; never a traceback."""
    edits: list[Callable[[], bytes]] = [
        lambda: set_route(body, "agent", "stable", Pin(1)),
        lambda: set_route(body, "agent", "stable", Pin(1), target="live"),
        lambda: remove_route(body, "agent", "stable"),
        lambda: set_flow(body, "agent", SPEC),
    ]
    for edit in edits:
        try:
            assert isinstance(edit(), bytes)
        except KitaruManifestError as error:
            assert error.problems


@RANDOM
@given(manifests(), st.data())
def test_a_damaged_manifest_ends_in_words(written: Written, data: st.DataObject) -> None:
    """The same for a manifest out of which a piece was cut."""
    start = data.draw(st.integers(0, len(written.body)))
    body = written.body[:start] + written.body[start + data.draw(st.integers(0, 9)) :]
    for flow in FLOWS:
        try:
            assert isinstance(set_route(body, flow, "stable", Pin(1)), bytes)
            assert isinstance(remove_route(body, flow, "stable"), bytes)
        except KitaruManifestError as error:
            assert error.problems


# --- one by one -------------------------------------------------------------------------------------------------------


def changed_lines(text: str, *given: Any, edit: Any = set_route, **more: Any) -> tuple[list[str], list[str]]:
    before = text.encode()
    after = edit(before, *given, **more)
    return removed_lines(before, after), added_lines(before, after)


@pytest.mark.parametrize(
    ("wish", "spelled"),
    [
        (Pin(3), "3"),
        (Head(), "head"),
        (Label((3, None)), "[3, head]"),
        (Split(((1, 90), (2, 10))), "{2: 10, 1: 90}"),
        (Split(((1, 90), (None, 10))), "{head: 10, 1: 90}"),
    ],
)
def test_wishes_are_spelled_as_in_the_guide(wish: RouteTarget, spelled: str) -> None:
    """A number, head, a list, and weights with the newest version first."""
    gone, new = changed_lines(FULL, "research_agent", "stable", wish)
    assert (gone, new) == (["      stable: 1"], [f"      stable: {spelled}"])


def test_a_comment_beside_the_value_stays() -> None:
    """What somebody noted beside a route is still true of it, or theirs to change."""
    text = HEAD + "flows:\n  a:\n    target: a.py:a\n    routes:\n      'stable':   1   # since May\n"
    assert changed_lines(text, "a", "stable", Pin(2))[1] == ["      'stable':   2   # since May"]


def test_a_new_route_stands_before_the_comments_of_what_follows() -> None:
    """A comment at the end of a block belongs to the next one."""
    text = HEAD + (
        "flows:\n  a:\n    target: a.py:a\n    routes:\n      stable: 1\n\n  # the second\n  b: {target: b.py:b}\n"
    )
    body = set_route(text.encode(), "a", "canary", Head()).decode()
    assert "      stable: 1\n      canary: head\n\n  # the second\n  b:" in body


def test_a_comment_is_never_lost_with_the_braces_around_it() -> None:
    """Braces over several lines with comments in them are left to a person."""
    routes = "    routes: {\n      a1: 1,  # one\n      b1: 2,  # two\n    }\n"
    text = HEAD + "flows:\n  a:\n    target: a.py:a\n" + routes
    error = refused(text.encode(), "a", "a1", Pin(3))
    assert "'# one' would be lost" in error.problems[0].message
    assert error.hint == "edit the file by hand: flows.a.routes.a1: 3"


def test_json_stays_json() -> None:
    """A manifest in JSON is still JSON after every edit."""
    text = json.dumps(
        {"kitaru": 1, "project": "p", "flows": {"a": {"target": "a.py:a", "routes": {"x1": 1}}}}, indent=1
    )
    body = set_route(text.encode(), "a", "canary", Head())
    body = set_flow(body, "b", SPEC)
    body = set_route(body, "b", "beta", Label((1, 2)))
    assert json.loads(body)["flows"]["a"]["routes"] == {"x1": 1, "canary": "head"}
    assert json.loads(body)["flows"]["b"]["routes"]["beta"] == [1, 2]


SHARED = HEAD + (
    "flows:\n"
    "  a:\n"
    "    target: a.py:a\n"
    "    routes: &shared\n"
    "      default: &one 1  # first\n"
    "      stable: *one\n"
    "  b: {target: b.py:b, routes: *shared}\n"
    "  c:\n"
    "    target: c.py:c\n"
    "    routes:\n"
    "      <<: *shared\n"
)


def test_a_route_beside_a_merge_key_changes_for_one_flow_alone() -> None:
    """The flow gets a key of its own; others that share the routes keep what they have."""
    assert changed_lines(SHARED, "c", "stable", Pin(2)) == ([], ["      stable: 2"])


@pytest.mark.parametrize(("flow", "line"), [("a", 6), ("b", 9)])
def test_shared_values_are_refused_with_the_edit_to_make(flow: str, line: int) -> None:
    """An edit that would change the routes of another flow is left to a person, who is shown the edit."""
    (problem,) = refused(SHARED.encode(), flow, "canary", Pin(2)).problems
    assert problem.hint == f"edit the file by hand: flows.{flow}.routes.canary: 2"
    assert (problem.line, problem.file) == (line, "kitaru.yaml")


def test_a_value_with_an_anchor_is_left_alone() -> None:
    """Another route takes it by an alias."""
    text = HEAD + "flows:\n  a:\n    target: a.py:a\n    routes:\n      x1: &one 1  # first\n      x2: *one\n"
    for error in (refused(text.encode(), "a", "x1", Pin(2)), refused(text.encode(), "a", "x1", edit=remove_route)):
        assert "aliases such as *one share values" in error.problems[0].message


def test_a_route_goes_to_the_overlay() -> None:
    """--target edits the overlay of that name, which gets an entry of the flow where it has none yet."""
    body = LAYERED.encode()
    overlaid = set_route(body, "agent", "stable", Pin(4), target="production")
    assert said(overlaid)["targets"]["production"]["flows"]["agent"]["routes"] == {"canary": "head", "stable": 4}
    alone = set_route(body, "extra", "stable", Pin(4), target="production")
    assert said(alone)["targets"]["production"]["flows"]["extra"]["routes"] == {"stable": 4}
    inherited = set_route(body, "agent", "stable", Pin(4), target="here")
    assert said(inherited)["flows"] == said(body)["flows"]
    assert read_manifest(inherited, "kitaru.yaml", "here").flows["agent"].routes["stable"] == Pin(4)


def test_an_overlay_can_not_take_away_what_it_inherits() -> None:
    """A route that overlay and base both have is refused, since the base's would show again."""
    error = refused(LAYERED.encode(), "agent", "canary", edit=remove_route, target="production")
    assert "every target inherits" in error.problems[0].message


def test_an_overlay_says_only_what_it_does_not_inherit() -> None:
    """Of inputs and an image just the difference goes there; what would have to be taken away is refused."""
    text = HEAD + "flows:\n  a:\n    target: a.py:a\n    inputs: {n: 1, deep: {x: 1}}\n    image: python:3.12\n"
    body = (text + "targets:\n  live: {}\n  stage: {store: 'file://s'}\n").encode()
    image = {"base_image": "python:3.12", "requirements": ["httpx"]}
    after = set_flow(body, "a", {"inputs": {"n": 1, "deep": {"x": 1, "y": 2}}, "image": image}, target="stage")
    own = {"inputs": {"deep": {"y": 2}}, "image": {"requirements": ["httpx"]}}
    assert said(after)["targets"] == {"live": {}, "stage": {"store": "file://s", "flows": {"a": own}}}
    assert set_flow(body, "a", {"inputs": {"n": 1, "deep": {"x": 1}}}, target="stage") == body
    error = refused(body, "a", {"inputs": {"deep": {"x": 1}}}, edit=set_flow, target="stage")
    assert "every target inherits 'n', which an overlay can't take away" in error.problems[0].message
    assert error.hint == "change flows.a.inputs for every target, or --no-manifest changes the store alone"


def test_a_flow_declared_for_one_target_stands_in_its_overlay() -> None:
    """The others do not get it."""
    body = (HEAD + "flows: {}\ntargets:\n  live:\n    store: file://l\n  stage:\n    store: file://s\n").encode()
    after = set_flow(body, "a", {"target": "a.py:a", "routes": {"default": 1}}, target="stage")
    own = "    flows:\n      a:\n        target: a.py:a\n        routes:\n          default: 1\n"
    assert after.decode() == body.decode() + own


def test_a_flow_that_is_not_there_is_said_so() -> None:
    """The error names the flows there are, and the command that declares what the store has."""
    error = refused(FULL.encode(), "agent", "stable", Pin(1))
    assert "declares no flow 'agent'; it declares: 'research_agent'" in error.problems[0].message
    assert error.hint == "kitaru import agent"


def test_several_flows_are_declared_at_once() -> None:
    """Each at the end, with a blank line between where the others have one."""
    text = HEAD + "flows:\n  a:\n    target: a.py:a\n\n  b:\n    target: b.py:b\n"
    body = edited(text.encode(), {"c": {"target": "c.py:c"}, "d": FlowSpec(target="d.py:d", retries=2)})
    assert body.decode() == text + "\n  c:\n    target: c.py:c\n\n  d:\n    target: d.py:d\n    retries: 2\n"


def test_the_manifest_of_init_takes_flows(tmp_path: Path) -> None:
    """Where there was no flow, ``flows: {}`` becomes a block."""
    body = set_flow(b"kitaru: 1\nproject: p\nflows: {}\n", "a", {"target": "a.py:a", "routes": {"default": 1}})
    assert body.decode().endswith("flows:\n  a:\n    target: a.py:a\n    routes:\n      default: 1\n")


def test_the_preview_is_a_unified_diff() -> None:
    """What rollback and import print: file names, and the lines around the edit."""
    before = FULL.replace("\n", "\r\n").encode()
    after = set_route(before, "research_agent", "canary", Pin(2))
    preview = edit_preview(before, after, "sub/kitaru.yaml")
    assert preview[:2] == ["--- a/sub/kitaru.yaml", "+++ b/sub/kitaru.yaml"]
    assert [line for line in preview[2:] if line[0] in "+-"] == ["-      canary: head", "+      canary: 2"]
    assert edit_preview(before, before) == []


# --- the file ---------------------------------------------------------------------------------------------------------


def test_writing_keeps_the_mode_and_follows_a_symlink(tmp_path: Path) -> None:
    """The file behind the link is replaced in one step; the link and the mode are what they were."""
    place, link = tmp_path / "real.yaml", tmp_path / "kitaru.yaml"
    place.write_bytes(b"old")
    place.chmod(0o640)
    link.symlink_to(place)
    write(link, b"old", b"new")
    assert link.is_symlink()
    assert place.read_bytes() == b"new"
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kitaru.yaml", "real.yaml"]


def test_a_file_that_changed_in_the_meantime_is_left_alone(tmp_path: Path) -> None:
    """An edit of bytes that are no longer there is not written."""
    path = tmp_path / "kitaru.yaml"
    path.write_bytes(b"theirs")
    with pytest.raises(KitaruConflictError, match="changed by somebody else"):
        write(path, b"old", b"new")
    assert path.read_bytes() == b"theirs"
    assert [one.name for one in tmp_path.iterdir()] == ["kitaru.yaml"]


def test_the_leftover_of_a_killed_edit_is_no_change(tmp_path: Path) -> None:
    """It lies in a folder that no plan looks at, and the next edit takes its place."""
    path, left = tmp_path / "kitaru.yaml", tmp_path / ".kitaru/kitaru.yaml.edit"
    path.write_bytes(b"old")
    left.parent.mkdir()
    left.symlink_to(tmp_path / "elsewhere")
    write(path, b"old", b"new")
    assert path.read_bytes() == b"new"
    assert not list(left.parent.iterdir())
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_is_gone_is_said_so(tmp_path: Path) -> None:
    """What can't be written is an error in words."""
    with pytest.raises(KitaruBackendError, match="can't be written"):
        write(tmp_path / "kitaru.yaml", b"old", b"new")
    assert not list(tmp_path.iterdir())


def test_of_writers_at_once_none_is_lost(tmp_path: Path) -> None:
    """Whoever writes last has seen what the others wrote: eight at a time, each with a route of its own."""
    path = tmp_path / "kitaru.yaml"
    path.write_text(HEAD + "flows:\n  a: {target: a.py:a}\n")

    def add(number: int) -> None:
        while True:
            before = path.read_bytes()
            try:
                write(path, before, set_route(before, "a", f"tag-{number}", Pin(1)))
            except KitaruConflictError:
                continue
            return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(16)))
    assert said(path.read_bytes())["flows"]["a"]["routes"] == {f"tag-{number}": 1 for number in range(16)}


# --- comments and aliases stay ----------------------------------------------------------------------------------------

IMAGE = {"image": {"base_image": "n:1", "apt_packages": ["git", "vim"], "user": "u"}}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "    image:  # head\n      # above\n      base_image: python:3.11   # keep\n\n      # second\n"
            "      apt_packages: [curl]  # kept2\n    # tail\n    cache: true\n",
            "    image:  # head\n      # above\n      base_image: n:1   # keep\n\n      # second\n"
            "      apt_packages: [git, vim]  # kept2\n      user: u\n    # tail\n    cache: true\n",
        ),
        (
            "    image: python:3.11  # keep\n",
            "    image: {base_image: n:1, apt_packages: [git, vim], user: u}  # keep\n",
        ),
    ],
    ids=["block", "bare"],
)
def test_comments_beside_values_that_change_stay(before: str, after: str) -> None:
    """A key that changes, while another one comes or goes, is changed where it stands: the lines around it stay."""
    head = HEAD + "flows:\n  a:\n    target: a.py:a\n"
    body = set_flow((head + before).encode(), "a", IMAGE)
    assert body.decode() == head + after
    assert said(body)["flows"]["a"]["image"] == IMAGE["image"]


@pytest.mark.parametrize("value", ["\n      - curl  # for x", " [curl, # for x\n      git]"])
def test_an_items_comment_is_never_lost(value: str) -> None:
    """A list is replaced as a whole, so one with comments is left to a person."""
    text = HEAD + f"flows:\n  a:\n    target: a.py:a\n    image:\n      apt_packages:{value}\n"
    error = refused(text.encode(), "a", {"image": {"apt_packages": ["git", "vim"]}}, edit=set_flow)
    assert "'# for x' would be lost" in error.problems[0].message
    assert error.hint == "edit the file by hand: flows.a.image: {apt_packages: [git, vim]}"


def test_an_edit_that_no_command_could_read_is_refused() -> None:
    """With the place that it would have in the edited file, and that nothing was written."""
    body = (HEAD + "flows:\n  a:\n    target: a.py:a\n").encode()
    with pytest.raises(KitaruManifestError, match="the edit would leave this: expected a requirement") as caught:
        set_flow(body, "a", {"image": {"requirements": ["not a req!!"]}}, file="k.yaml")
    assert (caught.value.problems[0].file, caught.value.problems[0].line) == ("k.yaml", 6)
    assert "k.yaml was left as it is" in caught.value.hint
