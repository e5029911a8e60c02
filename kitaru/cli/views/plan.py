"""A plan: as JSON without values of environment variables, and as text with the gravest changes last."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kitaru.cli.views.words import Style, ago, bare, count
from kitaru.model.address import short
from kitaru.model.plan import Build, Drift, FlowPlan, Held, Plan, RouteMove
from kitaru.model.route import DEFAULT_TAG, Assignment, describe_holders

HIDDEN = "***"
"""Stands for a value: output ends in logs and comments that many people read."""


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data."""
    data: dict[str, Any] = plan.model_dump(mode="json")
    for flow in data["flows"]:
        if flow["build"]:
            flow["build"]["snapshot"]["image"] = image_data(flow["build"]["snapshot"]["image"])
    return data


def deployment_data(found: Any) -> dict[str, Any]:
    """One version as JSON data."""
    data: dict[str, Any] = found.to_json()
    if data.get("details"):
        image = data["details"].get("image")
        data["details"] = {**data["details"], **({"image": image_data(image)} if image else {})}
    return data


def image_data(image: Mapping[str, Any]) -> dict[str, Any]:
    """An image's settings: the names of its environment variables without their values."""
    environment = image.get("environment")
    return {**image, **({"environment": dict.fromkeys(environment, HIDDEN)} if environment else {})}


NAMES_SHOWN = 3


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


def listed(names: Sequence[str]) -> str:
    """``a, b, c and 17 more``."""
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


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


def plan_lines(plan: Plan, style: Style = bare, *, all_files: bool = False) -> list[str]:
    """The plan, line by line; one line if nothing changes."""
    warnings = [style(f"warning: {text}", "warn") for text in plan.warnings]
    warnings += [style(f"refused: {text}", "warn") for text in guard_lines(plan)]
    rest = _left_alone(plan, style)
    found = groups(plan, all_files=all_files, gravest_last=True)
    if not found and not rest and not warnings:
        return [f"{summary(plan)} {style(f'({_base(plan)})', 'dim')}"]
    lines = [style(f"Plan for project {plan.project}", "bold"), style(_base(plan), "dim"), ""]
    for group in found:
        lines += [_title(group, style), *(_styled(f"      {text}", kind, style) for kind, text in group.lines), ""]
    broken = breaking_words(plan)
    last = f"{summary(plan)} {style(f'{broken}.', 'bad')}" if broken else summary(plan)
    return [*lines, *rest, *warnings, *([""] if warnings else []), last]


def _styled(text: str, kind: str, style: Style) -> str:
    return style(text, kind) if kind else text


def _title(group: Group, style: Style) -> str:
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
    actions = [flow.action for flow in plan.flows]
    parts = [f"{actions.count('create')} to create"] if "create" in actions else []
    if "update" in actions:
        parts.append(f"{actions.count('update')} to update")
    if "retire" in actions:
        parts.append(f"{actions.count('retire')} to remove")
    if plan.builds:
        parts.append(f"{count(len(plan.builds), 'version')} to build")
    moves = [move for _, move in plan.moves if not move.adopts]
    if moves:
        parts.append(f"{count(len(moves), 'route')} to move")
    adopted = len(plan.moves) - len(moves)
    if adopted:
        parts.append(f"{count(adopted, 'route')} to adopt")
    return f"Plan: {', '.join(parts) or 'records only'}."


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


def drift_lines(plan: Plan, style: Style = bare, place: Sequence[str] = ()) -> list[str]:
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
    options = "".join(f" {shlex.quote(word)}" for word in place)
    flow = next((flow for flow in plan.flows if flow.flow == drift.flow), None)
    if flow is None:
        return [f"keep it: kitaru import {drift.flow}{options}"]
    held = next((one for one in flow.held if one.tag == drift.tag), None)
    if held is not None:
        return _ways_out_of_hold(drift, held, options)
    move = next((one for one in flow.moves if one.tag == drift.tag), None)
    if move is not None and move.after is not None:
        says = f"make kitaru.yaml say {describe_holders(move.before)}" if move.before else "take it out of kitaru.yaml"
        # Import leaves a route alone that is to follow a version which is not built yet.
        waits = flow.build is not None and any(one.version == flow.build.version for one in move.after)
        keep = says if waits else f"kitaru import {drift.flow}{options} ({says}, as that does)"
        return [f"undo it: kitaru apply{options}", f"keep it: {keep}"]
    keep = f"keep it: kitaru import {drift.flow}{options}"
    # A manifest may leave default out, and nobody can remove it.
    undo = [f"undo it: kitaru flow untag {drift.flow} {drift.tag}{options}"] if drift.tag != DEFAULT_TAG else []
    return [*undo, keep]


def _ways_out_of_hold(drift: Drift, held: Held, options: str) -> list[str]:
    route = f"{drift.flow} {held.tag}"
    if len(held.holders) == 1:
        edit = f"kitaru rollback {route} --to {held.holders[0].version} --write{options}"
    else:
        edit = f"make kitaru.yaml say {describe_holders(held.holders)} for {held.tag}"
    to = str(held.wanted[0].version) if len(held.wanted) == 1 and not held.why else "N"
    return [
        f"keep it there: {edit}, then merge and apply that, or revert the bad commit; until then it stays",
        f"go forward: kitaru flow tag {route} --version {to} --exclusive{options}",
    ]


def _is_pending(flow: FlowPlan, drifted: set[tuple[str, str]]) -> bool:
    return flow.build is not None or any((flow.flow, move.tag) not in drifted for move in flow.moves)


def _headline(flow: FlowPlan) -> str:
    if flow.renamed_from:
        return f"renamed from {flow.renamed_from}; {_version_words(flow)}"
    return _version_words(flow)


def _version_words(flow: FlowPlan) -> str:
    if flow.action == "retire":
        return f"removed; its {count(flow.version or 0, 'version')} can still be invoked by number"
    if flow.build is None:
        return f"v{flow.version}, already built"
    if flow.build.previous is None:
        return f"new, v{flow.build.version} from {flow.build.snapshot.target}"
    return f"v{flow.build.previous} → v{flow.build.version}{_breaking_words(flow, flow.build)}"


def _breaks_now(flow: FlowPlan) -> bool:
    """Whether callers of a route come to the new version; else its breaking changes reach nobody yet."""
    built = flow.build.version if flow.build else None
    return any(one.kind == "breaking_inputs" and built in one.reached for one in flow.consequences)


def _breaking_words(flow: FlowPlan, build: Build) -> str:
    if not any(change.breaking for change in build.changes):
        return ""
    return ", breaking for callers" if _breaks_now(flow) else f", {ONCE_ROUTED}"


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


def _left_alone(plan: Plan, style: Style) -> list[str]:
    quiet = [flow for flow in plan.flows if flow.action == "keep" and not (flow.moves or flow.held)]
    lines = [style(f"  = {count(len(quiet), 'flow')} unchanged", "dim")] if quiet and not plan.is_empty else []
    lines += [style(f"  = {flow.flow}: unmanaged {text}", "dim") for flow in quiet for text in flow.unmanaged]
    lines += [style(f"  = unmanaged: {text}", "dim") for text in plan.unmanaged]
    return [*lines, ""] if lines else []
