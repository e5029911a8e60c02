"""A plan as a comment on a pull request: the gravest changes first, details folded away, never too long."""

from __future__ import annotations

from collections.abc import Sequence

from kitaru.cli.views.plan import (
    NAMES_SHOWN,
    Group,
    gravity,
    groups,
    guard_lines,
    held_words,
    listed,
    never_applied,
    summary,
    ways_out,
)
from kitaru.cli.views.words import ago, count
from kitaru.model.address import short
from kitaru.model.jsonable import shown_line
from kitaru.model.plan import Drift, Plan, RouteMove
from kitaru.model.route import describe_holders

LIMIT = 65_000
"""Characters; a comment on GitHub may have 65,536."""

LONGEST_TEXT = 1200
"""Characters of one name or remark."""

NAMES_ROOM = 20_000
"""Characters for the names of flows that break their callers."""

LINES_SHOWN, ROUTES_SHOWN, DETAILS_SHOWN = 40, 100, 300
"""Remarks of a kind, routes that move, and lines of one group of flows."""

CLOSES = "This issue is kept up to date, and closed by the first look that finds no drift."


def plan_markdown(plan: Plan, run: str = "") -> str:
    """The comment, under ``LIMIT`` characters: gravest changes first, the number of omitted ones at the end.

    ``run``: the address of the CI run with the whole plan in its log, ``https://github.com/a/b/actions/runs/7``.
    """
    rest = f"the full plan is in the log of [this run]({run})" if run else "`kitaru plan` shows all of it"
    branch = f" on {_code(plan.commit.branch)}" if plan.commit.branch else ""
    dirty = " with uncommitted changes" if plan.commit.dirty else ""
    found = groups(plan, all_files=True)
    head = [
        marker("plan", plan),
        f"### Kitaru plan: `{plan.project}`",
        "",
        f"**{summary(plan)}**",
        "",
        *_breaking(plan, rest),
        *_some(_remarks(plan)),
        *_some([f"> :lock: {_code(text)}" for text in guard_lines(plan)]),
        *_some([f"> :warning: {_code(text)}" for text in plan.warnings]),
    ]
    head += ["", *_route_table(plan)] if head[-1] else _route_table(plan)
    log = f" · in full in the log of [this run]({run})" if run else ""
    foot = f"<sub>generation {plan.base} · commit `{short(plan.commit.sha)}`{branch}{dirty}{log}</sub>\n"
    body = [(len(group.flows), _section(group)) for group in found]
    if plan.unmanaged:
        unmanaged = _some([f"- {_code(text)}" for text in plan.unmanaged])
        body.append((0, "\n".join(["Not in the manifest:", "", *unmanaged, ""])))
    return _fitted("\n".join(head), body, foot, rest)


def drift_markdown(plan: Plan, place: Sequence[str] = ()) -> str:
    """Changes in the store past the manifest, with the commands that end each, as the text of an issue.

    ``place``: options for further commands, such as ``("--target", "production")``.
    """
    lines = [marker("drift", plan), f"### Kitaru drift: `{plan.project}`", ""]
    if not plan.base:
        return "\n".join([*lines, _code(never_applied(plan)), ""])
    if not plan.drift:
        return "\n".join([*lines, "Nobody changed the project past its manifest.", ""])
    rows = [f"| `{one.flow}` | {_code(one.text)} | {_who(one)} |" for one in plan.drift[:ROUTES_SHOWN]]
    if len(plan.drift) > ROUTES_SHOWN:
        rows.append(f"| … | {len(plan.drift) - ROUTES_SHOWN} more | |")
    table = ["| flow | what | changed |", "| --- | --- | --- |", *rows, ""]
    ways = [
        f"- `{one.flow}`{f' `{one.tag}`' if one.tag else ''}: {_code(way)}"
        for one in plan.drift[:ROUTES_SHOWN]
        for way in ways_out(plan, one, place)
    ]
    return "\n".join([*lines, *table, "What to do, for each one of these:", "", *_some(ways), "", CLOSES, ""])


def marker(kind: str, plan: Plan) -> str:
    """The first line of a comment or an issue, by which a workflow finds it: ``<!-- kitaru plan research -->``."""
    target = f" --target {plan.target}" if plan.target else ""
    return f"<!-- kitaru {kind} {plan.project}{target} -->"


def _some(lines: list[str]) -> list[str]:
    """The first ``LINES_SHOWN`` lines, and the number of the others."""
    if len(lines) <= LINES_SHOWN:
        return lines
    return [*lines[:LINES_SHOWN], f"{lines[0][:2]}and {len(lines) - LINES_SHOWN} more"]


def _remarks(plan: Plan) -> list[str]:
    """Consequences and held routes, gravest first; an equal one of several flows is one line."""
    together: dict[tuple[int, str, str], list[str]] = {}
    for flow in plan.flows:
        for one in flow.consequences:
            rank = (0 if one.kind == "breaking_inputs" else 1) if one.severe else 3
            icon = {0: ":warning: **breaking** ", 1: ":warning: "}.get(rank, "")
            together.setdefault((rank, icon, one.text), []).append(flow.flow)
        for held in flow.held:
            together.setdefault((2, ":anchor: ", held_words(held)), []).append(flow.flow)
    ranked = sorted(together.items(), key=lambda item: item[0][0])
    return [f"> {icon}{_flows(names)}: {_code(text)}" for (_, icon, text), names in ranked]


def _breaking(plan: Plan, rest: str) -> list[str]:
    """The names of all flows that break their callers, if a line would hide some."""
    names = [flow.flow for flow in plan.flows if gravity(flow) == 0]
    if len(names) <= NAMES_SHOWN:
        return []
    room, shown = NAMES_ROOM, 0
    while shown < len(names) and (room := room - len(names[shown]) - 4) >= 0:
        shown += 1
    more = f" and {len(names) - shown} more; {rest}" if shown < len(names) else ""
    listed_names = ", ".join(f"`{name}`" for name in names[:shown])
    return [f"> :warning: **{len(names)} flows break their callers**: {listed_names}{more}"]


def _flows(names: Sequence[str]) -> str:
    return listed([f"`{name}`" for name in names])


def _fitted(head: str, sections: list[tuple[int, str]], foot: str, rest: str) -> str:
    cut = f"\n_{{}} more; {rest}._\n"
    room = LIMIT - len(foot) - len(cut) - 20
    text = head if len(head) <= room else head[:room].rpartition("\n")[0] + "\n"
    for at, (_, section) in enumerate(sections):
        if len(text) + len(section) + 1 > room:
            omitted = sum(flows for flows, _ in sections[at:])
            return f"{text}{cut.format(count(omitted, 'flow'))}\n{foot}"
        text += f"{section}\n"
    return f"{text}\n{foot}"


def _route_table(plan: Plan) -> list[str]:
    moves = [(flow.flow, move) for flow in sorted(plan.flows, key=gravity) for move in flow.moves if not move.adopts]
    if not moves:
        return []
    rows = [
        f"| `{flow}` | `{move.tag}`{'' if move.exclusive else ' (label)'} | {describe_holders(move.before)} "
        f"| {describe_holders(move.after)} | {_last(move)} |"
        for flow, move in moves[:ROUTES_SHOWN]
    ]
    more = [f"| … | {len(moves) - ROUTES_SHOWN} more | | | |"] if len(moves) > ROUTES_SHOWN else []
    return ["| flow | route | now | then | last moved |", "| --- | --- | --- | --- | --- |", *rows, *more, ""]


def _last(move: RouteMove) -> str:
    return f"{_code(move.moved_by)}, {ago(move.moved_at)}" if move.before and move.moved_by else ""


def _section(group: Group) -> str:
    flow = group.flows[0]
    title = {"create": "new", "update": "update", "retire": "remove", "keep": "routes"}[flow.action]
    version = f" v{flow.build.version}" if flow.build and len(group.flows) == 1 else ""
    names = flow.flow if len(group.flows) == 1 else f"{len(group.flows):,} flows"
    lines = [f"<details><summary><b>{names}</b> — {title}{version}</summary>", ""]
    if len(group.flows) > 1:
        lines += [", ".join(f"`{name}`" for name in group.names), ""]
    if flow.renamed_from:
        lines.append(f"- renamed from `{flow.renamed_from}`")
    if flow.build and flow.build.previous is None and len(group.flows) == 1:
        lines.append(f"- built from {_code(flow.build.snapshot.target)}")
    shown = group.lines[:DETAILS_SHOWN]
    for (kind, text), before in zip(shown, ("", *(text for _, text in shown)), strict=False):
        inside, was_inside = text.startswith("  "), before.startswith("  ")
        if inside and not was_inside:
            lines += ["", "  ```diff"]
        if was_inside and not inside:
            lines += ["  ```", ""]
        lines.append(f"  {_diff(text[2:])}" if inside else f"- {'**breaking** ' * (kind == 'bad')}{_code(text)}")
    if shown and shown[-1][1].startswith("  "):
        lines.append("  ```")
    if len(group.lines) > len(shown):
        lines += ["", f"and {len(group.lines) - len(shown)} more lines"]
    return "\n".join([*lines, "", "</details>", ""])


def _diff(detail: str) -> str:
    """``~ path`` as a line that a diff block colours, ``! path``; no name can end its line or the block."""
    line = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in detail[:LONGEST_TEXT])
    return f"! {line[2:]}" if line.startswith("~ ") else line


# A zero-width joiner after @: forges look for mentions in the rendered text, where an entity is @ again.
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", "@": "@\u200d", **{mark: f"\\{mark}" for mark in "\\`*[]|"}, "\t": " "}
)


def _code(text: str) -> str:
    """Text without effect: it opens no tag, mention, link, code, emphasis or table cell."""
    cut = text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
    return shown_line(cut).translate(_ESCAPES)


def named(text: str, name: str) -> str:
    """``text`` with ``name`` in its marker and headline, so that a workflow tells it from the same text without."""
    first, *rest = text.splitlines()
    if first.endswith(" -->"):
        first = f"{first.removesuffix(' -->')} {name} -->"
    if rest and rest[0].startswith("### "):
        rest[0] += f" ({name})"
    return "\n".join([first, *rest, ""])


def _who(drift: Drift) -> str:
    return f"{_code(drift.via)} by {_code(drift.by)}, {drift.at[:19]}Z" if drift.by else ""
