"""A plan as a comment on a pull request: what reviewers must see first, the rest folded away, never too long."""

from __future__ import annotations

from collections.abc import Sequence

from kitaru.cli.views.plan import (
    ONCE_ROUTED,
    Shared,
    gravity,
    grouped_lines,
    held_words,
    is_told,
    never_applied,
    own_consequences,
    own_notes,
    shared_lines,
    shared_notes,
    summary,
    told_together,
    ways_out,
)
from kitaru.cli.views.words import ago
from kitaru.model.address import short
from kitaru.model.jsonable import shown_line
from kitaru.model.plan import Consequence, Drift, FlowPlan, Held, Plan, RouteMove
from kitaru.model.route import describe_holders

LIMIT = 65_000
"""Characters; a comment on GitHub may have 65,536."""

LONGEST_TEXT = 1200
"""Characters of one name or remark; the rest says nothing more to a reader."""

LINES_SHOWN, ROUTES_SHOWN, FILES_SHOWN = 40, 100, 300
"""Of each kind of remark, of the routes that move, and of one flow's files."""

NAMES_ROOM = 20_000
"""Characters for the names of the flows that break their callers, where there are more than ``LINES_SHOWN``."""

CLOSES = "This issue is kept up to date, and closed by the first look that finds no drift."


def plan_markdown(plan: Plan, run: str = "") -> str:
    """The comment, under ``LIMIT`` characters: the flows with the gravest consequences first; what had to go is said.

    ``run``: the address of the CI run whose log has the plan in full; empty where there is none.
    """
    rest = f"the full plan is in the log of [this run]({run})" if run else "`kitaru plan` shows all of it"
    branch = f" on {_code(plan.commit.branch)}" if plan.commit.branch else ""
    dirty = " with uncommitted changes" if plan.commit.dirty else ""
    head = [
        marker("plan", plan),
        f"### Kitaru plan: `{plan.project}`",
        "",
        f"**{summary(plan)}**",
        "",
    ]
    shared = shared_notes(plan)
    flows = sorted(plan.flows, key=gravity)
    told = [(flow, one) for flow in flows for one in own_consequences(flow, shared)]
    severe = [(flow, one) for flow, one in told if one.severe]
    breaking, others = ([pair for pair in severe if _breaks(pair[1]) == yes] for yes in (True, False))
    head += _names(list(dict.fromkeys(flow.flow for flow, _ in breaking)), rest)
    head += _some([f"> :warning: **breaking** `{flow.flow}`: {_code(one.text)}" for flow, one in breaking])
    head += _some([f"> {_code(text)}" for text in shared_lines(plan, shared)])
    head += _some([f"> :warning: {line}" for line in _together(others)])
    head += _some([f"> :anchor: `{flow.flow}`: {_code(held_words(held))}" for flow, held in _held(plan)])
    head += _some([f"> :lock: {_code(text)}" for text in told_together(plan.guards)])
    head += _some([f"> {line}" for line in _together([pair for pair in told if not pair[1].severe])])
    head += _some([f"> :warning: {_code(text)}" for text in plan.warnings])
    if head[-1]:
        head.append("")
    head += _route_table(flows)
    foot = [f"<sub>generation {plan.base} · commit `{short(plan.commit.sha)}`{branch}{dirty}</sub>", ""]
    shown = [flow for flow in flows if flow.action != "keep" or flow.moves or flow.held]
    body = [_section(flow, shared) for flow in shown if not is_told(flow, shared)]
    if plan.unmanaged:
        body.append(
            "\n".join(["Not in the manifest:", "", *_some([f"- {_code(text)}" for text in plan.unmanaged]), ""])
        )
    return _fitted("\n".join(head), body, "\n".join(foot), rest)


def drift_markdown(plan: Plan, place: Sequence[str] = ()) -> str:
    """What was changed in the store by hand and how that ends, as the text of an issue.

    ``place``: the options that lead a further command to the same store and manifest.
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
    """The first line of a comment or an issue, by which a workflow finds its own again: one for each manifest."""
    target = f" --target {plan.target}" if plan.target else ""
    return f"<!-- kitaru {kind} {plan.project}{target} -->"


def _some(lines: list[str]) -> list[str]:
    """The first of many lines, and how many more there are: what stands above must leave room for the rest."""
    if len(lines) <= LINES_SHOWN:
        return lines
    return [*lines[:LINES_SHOWN], f"{lines[0][:2]}and {len(lines) - LINES_SHOWN} more"]


def _together(told: Sequence[tuple[FlowPlan, Consequence]]) -> list[str]:
    """Consequences with the flows that have them; an equal one of many flows is one line."""
    lines = []
    for names, every, text in grouped_lines((flow.flow, one.text) for flow, one in told):
        listed = ", ".join(f"`{name}`" for name in names)
        who = f"{every:,} flows, {listed} and {every - len(names):,} more" if every > len(names) else listed
        lines.append(f"{who}: {_code(text)}")
    return lines


def _names(flows: Sequence[str], rest: str) -> list[str]:
    """All flows that break their callers, on one line, where not each of them has a line of its own."""
    if len(flows) <= LINES_SHOWN:
        return []
    room, shown = NAMES_ROOM, 0
    while shown < len(flows) and (room := room - len(flows[shown]) - 4) >= 0:
        shown += 1
    more = f" and {len(flows) - shown} more; {rest}" if shown < len(flows) else ""
    names = ", ".join(f"`{name}`" for name in flows[:shown])
    return [f"> :warning: **{len(flows)} flows break their callers**: {names}{more}"]


def _fitted(head: str, sections: list[str], foot: str, rest: str) -> str:
    cut = f"\n_{{}} more; {rest}._\n"
    room = LIMIT - len(foot) - len(cut) - 12
    text = head if len(head) <= room else head[:room].rpartition("\n")[0] + "\n"
    for at, section in enumerate(sections):
        if len(text) + len(section) + 1 > room:
            return f"{text}{cut.format(_flows(len(sections) - at))}\n{foot}"
        text += f"{section}\n"
    return f"{text}\n{foot}"


def _flows(number: int) -> str:
    return "1 flow" if number == 1 else f"{number} flows"


def _breaks(consequence: Consequence) -> bool:
    return consequence.kind == "breaking_inputs"


def _held(plan: Plan) -> list[tuple[FlowPlan, Held]]:
    return [(flow, held) for flow in plan.flows for held in flow.held]


def _route_table(flows: Sequence[FlowPlan]) -> list[str]:
    moves = [(flow.flow, move) for flow in flows for move in flow.moves if not move.adopts]
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


def _section(flow: FlowPlan, shared: Shared) -> str:
    build = flow.build
    title = {"create": "new", "update": "update", "retire": "remove", "keep": "routes"}[flow.action]
    version = f" v{build.version}" if build else ""
    lines = [f"<details><summary><b>{flow.flow}</b> — {title}{version}</summary>", ""]
    if flow.renamed_from:
        lines.append(f"- renamed from `{flow.renamed_from}`")
    if build and build.previous is None:
        lines.append(f"- built from {_code(build.snapshot.target)}")
    met = build is not None and any(_breaks(one) and build.version in one.reached for one in flow.consequences)
    for change in build.changes if build else ():
        mark = f"**{'breaking' if met else ONCE_ROUTED}** " if change.breaking else ""
        lines.append(f"- {mark}{_code(change.text)}")
        if change.details:
            lines += ["", "  ```diff", *(f"  {_diff(detail)}" for detail in change.details[:FILES_SHOWN])]
            if len(change.details) > FILES_SHOWN:
                lines.append(f"  # and {len(change.details) - FILES_SHOWN} more")
            lines += ["  ```", ""]
    for move in flow.moves:
        lines.append(
            f"- route `{move.tag}`: {describe_holders(move.before)} → {describe_holders(move.after)}"
            f" ({_code(move.reason)})"
        )
    lines += [f"- {_code(held_words(held))}" for held in flow.held]
    lines += [f"- {_code(one.text)}" for one in own_consequences(flow, shared)]
    lines += [f"- not managed: {_code(text)}" for text in flow.unmanaged]
    lines += [f"- {_code(text)}" for text in own_notes(flow, shared)]
    return "\n".join([*lines, "", "</details>", ""])


def _diff(detail: str) -> str:
    """``~ path`` as a line that a diff block colours; a name can't end its line, and so not the block."""
    line = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in detail[:LONGEST_TEXT])
    return f"! {line[2:]}" if line.startswith("~ ") else line


_MEANT = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        "@": "&#64;",
        **{mark: f"\\{mark}" for mark in "\\`*[]|"},
        "\t": " ",
    }
)


def _code(text: str) -> str:
    """Text that means itself: it opens no tag, mention, link, code, emphasis or table cell."""
    cut = text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
    return shown_line(cut).translate(_MEANT)


def named(text: str, name: str) -> str:
    """``text`` with ``name`` in its marker and its headline, so that it is another one than the same text without."""
    first, *rest = text.splitlines()
    if first.endswith(" -->"):
        first = f"{first.removesuffix(' -->')} {name} -->"
    if rest and rest[0].startswith("### "):
        rest[0] += f" ({name})"
    return "\n".join([first, *rest, ""])


def _who(drift: Drift) -> str:
    return f"{_code(drift.via)} by {_code(drift.by)}, {drift.at[:19]}Z" if drift.by else ""
