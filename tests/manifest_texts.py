"""Manifests as people write them: any style of YAML, any order, comments everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from kitaru.manifest.yaml import inline

FLOWS = ("agent", "greeter", "zeta")
TAGS = ("nightly", "stable", "canary", "beta", "x.y")
WISHES = st.sampled_from([1, 2, 17, "head", [1, 2], ["head", 3], {"2": 10, "1": 90}, {"head": 5, "1": 95}])
COMMENTS = st.sampled_from(["", "", "", "  # why", " # é: [1, {", "   # tab\tin it"])
BETWEEN = st.sampled_from(["", "", "", "# alone", "  # deeper", "        # deepest", "<blank>"])


@dataclass(frozen=True)
class Written:
    """A manifest's bytes, and which flows stand in it."""

    body: bytes
    flows: tuple[str, ...]


@st.composite
def manifests(draw: st.DrawFn) -> Written:
    """A valid manifest with up to three flows, an overlay now and then, anchors, aliases and merge keys."""
    step = draw(st.sampled_from([2, 3, 4]))
    flows = draw(st.lists(st.sampled_from(FLOWS), unique=True, max_size=3))
    top = ["kitaru: 1" + draw(COMMENTS), 'project: "p"' + draw(COMMENTS)]
    parts = [_flows(draw, flows, step)]
    if draw(st.booleans()) and flows:
        parts.append(_targets(draw, flows[0], step))
    parts.append(["source:", " " * step + 'include: ["**"]' + draw(COMMENTS)])
    lines = list(top)
    for part in draw(st.permutations(parts)):
        lines += [one for line in part for one in (_between(draw), line) if one is not None]
    return Written(_bytes(draw, lines), tuple(flows))


def _bytes(draw: st.DrawFn, lines: list[str]) -> bytes:
    if draw(st.booleans()):
        lines = ["---" + draw(COMMENTS), *lines]
    if draw(st.integers(0, 4)) == 0:
        lines = [*lines, "..."]
    eol = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    text = ("\n".join(lines) + draw(st.sampled_from(["\n", "\n", "", "\n\n"]))).replace("\n", eol)
    return (b"\xef\xbb\xbf" if draw(st.integers(0, 4)) == 0 else b"") + text.encode()


def _between(draw: st.DrawFn) -> str | None:
    found = draw(BETWEEN)
    return None if not found else "" if found == "<blank>" else found


def _flows(draw: st.DrawFn, names: list[str], step: int) -> list[str]:
    if not names:
        return [draw(st.sampled_from(["flows: {}", "flows: {}  # none", "flows: { }"]))]
    style = draw(st.sampled_from(["block", "block", "braces"]))
    if style == "braces":
        inner = [f"{name}: {_in_braces(draw, name)}" for name in names]
        return [f"flows: {{{', '.join(inner)}}}" + draw(COMMENTS)]
    lines = ["flows:" + draw(COMMENTS)]
    anchored: list[str] = []
    for name in names:
        lines += _flow(draw, name, step, anchored)
    return lines


def _flow(draw: st.DrawFn, name: str, step: int, anchored: list[str]) -> list[str]:
    pad = " " * step
    kind = draw(st.sampled_from(["block", "block", "block", "braces", "alias", "merge"]))
    if kind == "braces":
        return [f"{pad}{name}: {_in_braces(draw, name)}" + draw(COMMENTS)]
    anchored, shared = [one for one in anchored if "flow" in one], anchored
    if kind == "alias" and anchored:
        return [f"{pad}{name}: *{draw(st.sampled_from(anchored))}" + draw(COMMENTS)]
    deep = pad * 2
    lines = [f"{deep}target: 'f.py:{name}'" + draw(COMMENTS)]
    if kind == "merge" and anchored:
        lines += [f"{deep}<<: *{draw(st.sampled_from(anchored))}"]
    head = f"{pad}{draw(st.sampled_from([name, chr(34) + name + chr(34)]))}:"
    if draw(st.integers(0, 3)) == 0:
        shared.append(f"flow-{name}")
        head += f" &flow-{name}"
    more = [
        [f"{deep}inputs: {{topic: é}}" + draw(COMMENTS)],
        [f"{deep}inputs:", f"{deep}{pad}text: |\n{deep}{pad}  # not a comment\n{deep}{pad}  second\n"],
        [f"{deep}inputs:", f"{deep}{pad}text: >+\n{deep}{pad}  kept\n\n"],
        [f"{deep}inputs:", f"{deep}{pad}list:", f"{deep}{pad}- a", f"{deep}{pad}-"],
    ]
    tail = [draw(st.sampled_from(more)), _routes(draw, name, deep, pad, shared)]
    for part in draw(st.permutations(tail))[: draw(st.integers(0, 2))]:
        if draw(st.booleans()):
            lines += [one for one in [_between(draw)] if one is not None]
        lines += part
    if any(f"&routes-{name}" in line for line in lines):
        shared.append(f"routes-{name}")
    return [head + draw(COMMENTS), *lines]


def _routes(draw: st.DrawFn, name: str, deep: str, pad: str, shared: list[str]) -> list[str]:
    routes = [one for one in shared if "routes" in one]
    if draw(st.booleans()) and routes:
        use = draw(st.sampled_from(routes))
        merged = [f"{deep}routes:", f"{deep}{pad}<<: *{use}" + draw(COMMENTS), f"{deep}{pad}own: 1"]
        return draw(st.sampled_from([[f"{deep}routes: *{use}" + draw(COMMENTS)], merged]))
    tags = draw(st.lists(st.sampled_from(TAGS), unique=True, min_size=1, max_size=4))
    style = draw(st.sampled_from(["block", "block", "inline", "spread", "spread"]))
    pairs = [(tag, draw(WISHES)) for tag in tags]
    if style == "inline":
        return [f"{deep}routes: {{ {', '.join(f'{tag}: {_wish(one)}' for tag, one in pairs)}{draw(_commas())} }}"]
    if style == "spread":
        return _spread(draw, deep, pad, pairs)
    anchor = draw(st.sampled_from(["", "", f" &routes-{name}"]))
    lines = [f"{deep}routes:{anchor}" + draw(COMMENTS)]
    for tag, wish in pairs:
        lines += _block_route(draw, deep + pad, pad, tag, wish)
    return lines


def _commas() -> st.SearchStrategy[str]:
    return st.sampled_from(["", ","])


def _spread(draw: st.DrawFn, deep: str, pad: str, pairs: list[tuple[str, Any]]) -> list[str]:
    """Braces over several lines, with or without a trailing comma."""
    last = draw(_commas())
    lines = [f"{deep}routes: {{" + draw(COMMENTS)]
    for number, (tag, wish) in enumerate(pairs):
        comma = "," if number < len(pairs) - 1 else last
        lines.append(f"{deep}{pad}{tag}: {_wish(wish)}{comma}" + draw(COMMENTS))
    if draw(st.booleans()) and "#" not in lines[-1]:
        return [*lines[:-1], lines[-1].rstrip("\t ") + "}"]
    return [*lines, f"{deep}}}"]


def _block_route(draw: st.DrawFn, indent: str, pad: str, tag: str, wish: Any) -> list[str]:
    if isinstance(wish, list) and draw(st.booleans()):
        dash = indent + draw(st.sampled_from(["", pad]))
        return [f"{indent}{tag}:" + draw(COMMENTS), *(f"{dash}- {one}" + draw(COMMENTS) for one in wish)]
    if isinstance(wish, dict) and draw(st.booleans()):
        return [f"{indent}{tag}:" + draw(COMMENTS), *(f"{indent}{pad}{key}: {one}" for key, one in wish.items())]
    return [f"{indent}{tag}: {_wish(wish)}" + draw(COMMENTS)]


def _wish(wish: Any) -> str:
    if isinstance(wish, dict):
        return "{" + ", ".join(f"{key}: {one}" for key, one in wish.items()) + "}"
    return inline(wish)


def _in_braces(draw: st.DrawFn, name: str) -> str:
    routes = draw(
        st.sampled_from(["", ", routes: {default: 1}", ", routes: {default: head, stable: 2,}", ", routes: {}"])
    )
    return f'{{target: "f.py:{name}"{routes}}}'


def _targets(draw: st.DrawFn, flow: str, step: int) -> list[str]:
    pad = " " * step
    said = draw(st.sampled_from(["{retries: 1}", "{routes: {stable: 3}}"]))
    live = [f"{pad}live:", f"{pad * 2}flows:", f"{pad * 3}{flow}: {said}" + draw(COMMENTS)]
    more = [
        [f"{pad}stage: {{store: 'file://stage'}}" + draw(COMMENTS)],
        [f"{pad}stage: {{}}"],
        [f"{pad}stage:" + draw(COMMENTS), f"{pad * 2}store: 'file://stage'" + draw(COMMENTS)],
        [f"{pad}stage: {{flows: {{{flow}: {{image: 'python:3.12'}}}}}}" + draw(COMMENTS)],
    ]
    beside = draw(st.sampled_from([[], *more]))
    return ["targets:", *draw(st.sampled_from([[*live, *beside], [*beside, *live]]))]
