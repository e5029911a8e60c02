"""A plan as text with the gravest changes last, and as a comment on a pull request with them first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from kitaru.cli.views.words import ago, command_line, count, listed, style
from kitaru.model.address import short
from kitaru.model.jsonable import shown_line
from kitaru.model.plan import Drift, FlowPlan, Held, Plan, RouteMove
from kitaru.model.route import DEFAULT_TAG, Assignment, describe_holders


@dataclass(frozen=True, slots=True)
class Group:
    """Flows of a plan with the same changes, and these changes as (kind, text) lines.

    Of several flows the versions are ``old`` and ``new``: their numbers differ.
    """

    flows: tuple[FlowPlan, ...]
    lines: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its flows."""
        return tuple(flow.flow for flow in self.flows)


def groups(plan: Plan, *, all_files: bool = False, gravest_last: bool = False) -> list[Group]:
    """The flows that change, gravest first; flows with the same changes are one group."""
    changing = [flow for flow in plan.flows if flow.action != "keep" or flow.moves or flow.held]
    together: dict[Any, list[FlowPlan]] = {}
    for flow in sorted(changing, key=gravity, reverse=gravest_last):
        together.setdefault((flow.action, _lines(flow, all_files, alone=False)), []).append(flow)
    return [
        Group(tuple(flows), lines if len(flows) > 1 else _lines(flows[0], all_files, alone=True))
        for (_, lines), flows in together.items()
    ]


def _lines(flow: FlowPlan, all_files: bool, *, alone: bool) -> tuple[tuple[str, str], ...]:
    lines = list(_build(flow, all_files))
    lines += [("bad" if one.severe else "warn", one.text) for one in flow.consequences]
    lines += [_move(move, flow, alone=alone) for move in flow.moves]
    lines += [("warn", held_words(held)) for held in flow.held]
    lines += [("dim", f"unmanaged: {text}") for text in flow.unmanaged]
    return (*lines, *(("warn", f"note: {text}") for text in flow.notes))


def gravity(flow: FlowPlan) -> int:
    """0 for a flow that breaks its callers, up to 3 for one without consequences."""
    if any(one.kind == "breaking_inputs" and one.severe for one in flow.consequences):
        return 0
    if flow.action == "retire" or any(one.severe for one in flow.consequences):
        return 1
    return 2 if flow.consequences or flow.held else 3


def breaking_words(plan: Plan) -> str:
    """``3 flows break their callers: a, b, c``; empty if none does."""
    names = tuple(flow.flow for flow in plan.flows if gravity(flow) == 0)
    verb = "1 flow breaks its" if len(names) == 1 else f"{len(names):,} flows break their"
    return f"{verb} callers: {listed(names)}" if names else ""


def guard_lines(plan: Plan) -> list[str]:
    """``agent, greeter: stable moves only from branch main``: a reason of several flows is one line."""
    together: dict[str, list[str]] = {}
    for flow, _, why in (text.partition(": ") for text in plan.guards):
        together.setdefault(why, []).append(flow)
    return [f"{listed(flows)}: {why}" for why, flows in together.items()]


FILES_SHOWN = 12

ONCE_ROUTED = "breaking for callers once their route leads there"
"""Of a version with breaking changes that is unrouted, or that only new routes lead to."""

ALLOWED = re.compile(r" only from (branch [^\s,;]+|a clean commit)")
"""What a guard's sentence says is needed. All guards together are said at the end once more, in short."""


def plan_lines(plan: Plan, *, all_files: bool = False) -> list[str]:
    """The plan, line by line; one line if nothing changes."""
    warnings = [style(f"warning: {text}", "warn") for text in plan.warnings]
    warnings += [style(f"refused: {text}", "warn") for text in guard_lines(plan)]
    rest = _left_alone(plan)
    found = groups(plan, all_files=all_files, gravest_last=True)
    if not found and not rest and not warnings:
        return [f"{summary(plan)} {style(f'({_base(plan)})', 'dim')}"]
    lines = [style(f"Plan for project {plan.project}", "bold"), style(_base(plan), "dim"), ""]
    for group in found:
        lines += [_title(group), *(style(f"      {text}", kind) for kind, text in group.lines), ""]
    broken = breaking_words(plan)
    last = f"{summary(plan)} {style(f'{broken}.', 'bad')}" if broken else summary(plan)
    return [*lines, *rest, *warnings, *([""] if warnings else []), last]


def _title(group: Group) -> str:
    flow = group.flows[0]
    mark, kind = {"create": ("+", "add"), "retire": ("-", "remove")}.get(flow.action, ("~", "change"))
    if len(group.flows) == 1:
        return style(f"  {mark} {flow.flow}", kind) + f"  {_headline(flow)}"
    heads = {_headline(one) for one in group.flows}
    words = heads.pop() if len(heads) == 1 else "each a new version" if flow.build else ""
    return style(f"  {mark} {len(group.flows):,} flows: {listed(group.names)}", kind) + (f"  {words}" if words else "")


def next_line(plan: Plan, command: str, *, saved: bool) -> str:
    """The command that carries the plan out; if apply refuses it here, the place from which it does not."""
    if plan.guards:
        asked = dict.fromkeys(place for text in plan.guards for place in ALLOWED.findall(text))
        return f"apply refuses this from here; from {' and '.join(asked) or 'where the rules allow it'}: {command}"
    return f"saved: {command} carries out just this" if saved else f"carry it out: {command}"


def summary(plan: Plan) -> str:
    """``Plan: 1 to create, 2 versions to build, 3 routes to move.``"""
    if plan.is_empty:
        kept = count(len(plan.flows), "flow")
        held = [one for flow in plan.flows for one in flow.held]
        if held:
            return f"No changes: {count(len(held), 'route')} held by a rollback, until the manifest agrees."
        return f"No changes: {kept} as the manifest says." if plan.flows else "No changes: the manifest has no flows."
    actions: Counter[str] = Counter(flow.action for flow in plan.flows)
    adopted = sum(move.adopts for _, move in plan.moves)
    moved = len(plan.moves) - adopted
    parts = [
        *(f"{actions[kind]} {words}" for kind, words in ACTIONS.items() if actions[kind]),
        *([f"{count(len(plan.builds), 'version')} to build"] if plan.builds else []),
        *([f"{count(moved, 'route')} to move"] if moved else []),
        *([f"{count(adopted, 'route')} to adopt"] if adopted else []),
    ]
    return f"Plan: {', '.join(parts) or 'records only'}."


ACTIONS = {"create": "to create", "update": "to update", "retire": "to remove"}


def _base(plan: Plan) -> str:
    branch = f" on {plan.commit.branch}" if plan.commit.branch else ""
    dirty = ", with uncommitted changes" if plan.commit.dirty else ""
    return f"store {plan.store}, generation {plan.base}; commit {short(plan.commit.sha)}{branch}{dirty}"


def held_words(held: Held) -> str:
    """``route stable held at v1, rolled back by Ann 2 hours ago (it loses orders); the manifest says v2``."""
    way = f"; {held.way}" if held.way else ""
    why = f" ({held.reason})" if held.reason else ""
    says = f"says {describe_holders(held.wanted)}" if held.wanted else "does not name it"
    return (
        f"route {held.tag} held at {describe_holders(held.holders)}, rolled back by {held.by} {ago(held.at)}{why}; "
        f"{held.why or f'the manifest {says}'}{way}"
    )


def drift_lines(plan: Plan, place: Sequence[str] = ()) -> list[str]:
    """Changes in the store past the manifest, and flows not applied yet.

    ``place``: options for further commands, such as ``("--target", "production")``.
    """
    rows = []
    for one in plan.drift:
        who = f" ({one.via} by {one.by}, {ago(one.at)})" if one.by else ""
        rows.append(f"  {style('!', 'warn')} {one.flow}: {one.text}{who}")
        rows += [style(f"      {way}", "dim") for way in ways_out(plan, one, place)]
    if rows:
        routes = all(one.tag for one in plan.drift)
        changed = f"{count(len(plan.drift), 'route')} changed" if routes else f"{count(len(plan.drift), 'change')} made"
        lines = [style(f"Drift in project {plan.project}: {changed} by hand", "bold"), *rows]
    elif not plan.base:
        lines = [never_applied(plan)]
    else:
        lines = [f"No drift: nobody changed project {plan.project} past its manifest."]
    drifted = {(one.flow, one.tag) for one in plan.drift}
    waiting = [flow.flow for flow in plan.flows if _is_pending(flow, drifted)]
    if waiting:
        lines.append(style(f"not applied yet: {', '.join(waiting)} (kitaru plan shows what)", "dim"))
    return lines


def never_applied(plan: Plan) -> str:
    """The sentence for a project to which nothing was applied."""
    return f"No drift: nothing was applied yet to project {plan.project} in {plan.store}."


def ways_out(plan: Plan, drift: Drift, place: Sequence[str] = ()) -> list[str]:
    """The commands that make the route and the manifest agree again."""
    keep = f"keep it: {command_line('kitaru import', drift.flow, *place)}"
    flow = next((flow for flow in plan.flows if flow.flow == drift.flow), None)
    if flow is None:
        return [keep]
    held = next((one for one in flow.held if one.tag == drift.tag), None)
    if held is not None:
        return _ways_out_of_hold(drift, held, place)
    move = next((one for one in flow.moves if one.tag == drift.tag), None)
    if move is not None and move.after is not None:
        says = f"make kitaru.yaml say {describe_holders(move.before)}" if move.before else "take it out of kitaru.yaml"
        # Import leaves a route alone that is to follow a version which is not built yet.
        waits = flow.build is not None and any(one.version == flow.build.version for one in move.after)
        undo = f"undo it: {command_line('kitaru apply', *place)}"
        return [undo, f"keep it: {says}" if waits else f"{keep} ({says}, as that does)"]
    # A manifest may leave default out, and nobody can remove it.
    untag = f"undo it: {command_line('kitaru flow untag', drift.flow, drift.tag, *place)}"
    return [*([untag] if drift.tag != DEFAULT_TAG else []), keep]


def _ways_out_of_hold(drift: Drift, held: Held, place: Sequence[str]) -> list[str]:
    edit = f"make kitaru.yaml say {describe_holders(held.holders)} for {held.tag}"
    if len(held.holders) == 1:
        back = ("--to", held.holders[0].version, "--write")
        edit = command_line("kitaru rollback", drift.flow, held.tag, *back, *place)
    to = held.wanted[0].version if len(held.wanted) == 1 and not held.why else "N"
    tag = command_line("kitaru flow tag", drift.flow, held.tag, "--version", to, "--exclusive", *place)
    return [
        f"keep it there: {edit}, then merge and apply that, or revert the bad commit; until then it stays",
        f"go forward: {tag}",
    ]


def _is_pending(flow: FlowPlan, drifted: set[tuple[str, str]]) -> bool:
    return flow.build is not None or any((flow.flow, move.tag) not in drifted for move in flow.moves)


def _headline(flow: FlowPlan) -> str:
    renamed = f"renamed from {flow.renamed_from}; " if flow.renamed_from else ""
    if flow.action == "retire":
        return f"{renamed}removed; its {count(flow.version or 0, 'version')} can still be invoked by number"
    if flow.build is None:
        return f"{renamed}v{flow.version}, already built"
    if flow.build.previous is None:
        return f"{renamed}new, v{flow.build.version} from {flow.build.snapshot.target}"
    breaks = any(change.breaking for change in flow.build.changes)
    words = f", {'breaking for callers' if _breaks_now(flow) else ONCE_ROUTED}" if breaks else ""
    return f"{renamed}v{flow.build.previous} → v{flow.build.version}{words}"


def _breaks_now(flow: FlowPlan) -> bool:
    """Whether callers of a route come to the new version; else its breaking changes reach nobody yet."""
    built = flow.build.version if flow.build else None
    return any(one.kind == "breaking_inputs" and built in one.reached for one in flow.consequences)


def _build(flow: FlowPlan, all_files: bool) -> Iterator[tuple[str, str]]:
    met = _breaks_now(flow)
    for change in flow.build.changes if flow.build else ():
        breaking = ("bad", f"{change.text} (breaking)") if met else ("warn", f"{change.text} ({ONCE_ROUTED})")
        yield breaking if change.breaking else ("", change.text)
        shown = change.details if all_files else change.details[:FILES_SHOWN]
        yield from (("", f"  {detail}") for detail in shown)
        if len(change.details) > len(shown):
            yield "dim", f"  and {len(change.details) - len(shown)} more (--files shows all)"


def _move(move: RouteMove, flow: FlowPlan, *, alone: bool) -> tuple[str, str]:
    kind = "route" if move.exclusive else "label"

    def led(holders: tuple[Assignment, ...] | None) -> str:
        if alone or holders is None or flow.build is None or len(holders) != 1:
            return describe_holders(holders)
        return {flow.build.previous: "old", flow.build.version: "new"}.get(
            holders[0].version, describe_holders(holders)
        )

    if move.adopts:
        return "", f"{kind} {move.tag} at {led(move.before)}: {move.reason}"
    last = f"last moved by {move.moved_by}, {ago(move.moved_at)}" if move.moved_by and move.before and alone else ""
    if move.after is None:
        return "remove", "; ".join(filter(None, (f"{kind} {move.tag} removed, was {led(move.before)}", last)))
    start = f"{kind} {move.tag}" + ("" if move.before is None else f": {led(move.before)}")
    return "", f"{start} → {led(move.after)}  ({'; '.join(filter(None, (move.reason, last)))})"


def _left_alone(plan: Plan) -> list[str]:
    quiet = [flow for flow in plan.flows if flow.action == "keep" and not (flow.moves or flow.held)]
    lines = [style(f"  = {count(len(quiet), 'flow')} unchanged", "dim")] if quiet and not plan.is_empty else []
    lines += [style(f"  = {flow.flow}: unmanaged {text}", "dim") for flow in quiet for text in flow.unmanaged]
    lines += [style(f"  = unmanaged: {text}", "dim") for text in plan.unmanaged]
    return [*lines, ""] if lines else []


# --- Markdown ---------------------------------------------------------------------------------------------------------

LIMIT = 65_000
"""Characters; a comment on GitHub may have 65,536."""

LONGEST_TEXT = 1200
"""Characters of one name or remark."""

NAMES_SHOWN = 3
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
    head = [marker("drift", plan), f"### Kitaru drift: `{plan.project}`", ""]
    if not plan.base:
        return "\n".join([*head, _code(never_applied(plan)), ""])
    if not plan.drift:
        return "\n".join([*head, "Nobody changed the project past its manifest.", ""])
    table = _table(["flow", "what", "changed"], [[f"`{one.flow}`", _code(one.text), _who(one)] for one in plan.drift])
    ways = [
        f"- `{one.flow}`{f' `{one.tag}`' if one.tag else ''}: {_code(way)}"
        for one in plan.drift[:ROUTES_SHOWN]
        for way in ways_out(plan, one, place)
    ]
    return "\n".join([*head, *table, "What to do, for each one of these:", "", *_some(ways), "", CLOSES, ""])


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
    return [
        f"> {icon}{listed([f'`{name}`' for name in names], NAMES_SHOWN)}: {_code(text)}"
        for (_, icon, text), names in ranked
    ]


def _breaking(plan: Plan, rest: str) -> list[str]:
    """The names of all flows that break their callers, if a line would hide some."""
    names = [flow.flow for flow in plan.flows if gravity(flow) == 0]
    if len(names) <= NAMES_SHOWN:
        return []
    reached = accumulate(len(name) + 4 for name in names)
    shown = [name for name, end in zip(names, reached, strict=True) if end <= NAMES_ROOM]
    more = f" and {len(names) - len(shown)} more; {rest}" if len(shown) < len(names) else ""
    return [f"> :warning: **{len(names)} flows break their callers**: {_quoted(shown)}{more}"]


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


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
    rows = [
        [
            *(f"`{flow.flow}`", f"`{move.tag}`{'' if move.exclusive else ' (label)'}"),
            *(describe_holders(move.before), describe_holders(move.after)),
            f"{_code(move.moved_by)}, {ago(move.moved_at)}" if move.before and move.moved_by else "",
        ]
        for flow in sorted(plan.flows, key=gravity)
        for move in flow.moves
        if not move.adopts
    ]
    return _table(["flow", "route", "now", "then", "last moved"], rows) if rows else []


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    left = len(rows) - ROUTES_SHOWN
    more = [["…", f"{left} more", *([""] * (len(head) - 2))]] if left > 0 else []
    lines = [head, ["---"] * len(head), *rows[:ROUTES_SHOWN], *more]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _section(group: Group) -> str:
    flow = group.flows[0]
    title = {"create": "new", "update": "update", "retire": "remove", "keep": "routes"}[flow.action]
    version = f" v{flow.build.version}" if flow.build and len(group.flows) == 1 else ""
    names = flow.flow if len(group.flows) == 1 else f"{len(group.flows):,} flows"
    lines = [f"<details><summary><b>{names}</b> — {title}{version}</summary>", ""]
    if len(group.flows) > 1:
        lines += [_quoted(group.names), ""]
    if flow.renamed_from:
        lines.append(f"- renamed from `{flow.renamed_from}`")
    if flow.build and flow.build.previous is None and len(group.flows) == 1:
        lines.append(f"- built from {_code(flow.build.snapshot.target)}")
    shown = group.lines[:DETAILS_SHOWN]
    for inside, part in groupby(shown, key=lambda line: line[1].startswith("  ")):
        if inside:
            lines += ["", "  ```diff", *(f"  {_diff(text[2:])}" for _, text in part), "  ```", ""]
        else:
            lines += [f"- {'**breaking** ' * (kind == 'bad')}{_code(text)}" for kind, text in part]
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
