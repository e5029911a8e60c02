"""A plan or a version for machines: as it is, but values of environment variables stay where they were written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kitaru.cli.views.words import Style, ago, bare, count
from kitaru.model.address import short
from kitaru.model.lockfile import Protect
from kitaru.model.plan import Build, Consequence, Drift, FlowPlan, Held, Plan, RouteMove
from kitaru.model.route import DEFAULT_TAG, describe_holders

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

Shared = Mapping[str, tuple[str, ...]]
"""Note, or what a rule leads to → the flows that have it; more than one of them."""


def shared_notes(plan: Plan) -> Shared:
    """What several flows have of protection: notes, and routes shut out. All else is about a flow's own version."""
    edits = {edit.flow: edit for edit in plan.edits if isinstance(edit, Protect)}
    pairs = [
        (flow.flow, note)
        for flow in plan.flows
        if (edit := edits.get(flow.flow)) is not None
        for note in flow.notes
        if note.startswith(tuple(f"{tag} is protected " for tag in {*edit.rules, *edit.expects}))
    ]
    pairs += [(flow.flow, one.text) for flow in plan.flows for one in flow.consequences if one.kind == "protected"]
    return {note: flows for note, flows in _grouped(pairs).items() if len(flows) > 1}


def shared_lines(plan: Plan, shared: Shared) -> list[str]:
    """``protect: stable is protected from now on: branch main, in all 1,000 flows``."""
    return [f"protect: {note}, in {_flows(flows, len(plan.flows))}" for note, flows in shared.items()]


def own_notes(flow: FlowPlan, shared: Shared) -> tuple[str, ...]:
    """The notes that are left to say of the flow alone."""
    return tuple(note for note in flow.notes if note not in shared)


def own_consequences(flow: FlowPlan, shared: Shared) -> tuple[Consequence, ...]:
    """The consequences that are left to say of the flow alone."""
    return tuple(one for one in flow.consequences if one.kind != "protected" or one.text not in shared)


def is_told(flow: FlowPlan, shared: Shared) -> bool:
    """Whether the flow has nothing to show but what is said of several at once."""
    own = own_consequences(flow, shared)
    news = (flow.build, flow.moves, flow.held, own, flow.renamed_from, own_notes(flow, shared))
    return flow.action == "update" and bool(flow.notes) and not any(news)


def only_ruled(plan: Plan) -> dict[str, Protect]:
    """Flow → the rules that it comes to have, or loses, where nothing else of it changes."""
    edits = {edit.flow: edit for edit in plan.edits if isinstance(edit, Protect)}
    return {
        flow.flow: edits[flow.flow]
        for flow in plan.flows
        if flow.flow in edits
        and flow.action == "update"
        and not (flow.build or flow.moves or flow.held or flow.renamed_from)
    }


def rule_parts(plan: Plan) -> list[str]:
    """``protect stable in 300 flows``, ``lift the rule of canary in 1 flow``; of the flows that change no further."""
    pairs = [
        (flow, f"protect {tag}" if tag in edit.rules else f"lift the rule of {tag}")
        for flow, edit in only_ruled(plan).items()
        for tag in sorted({*edit.rules, *edit.expects})
        if edit.rules.get(tag) != edit.expects.get(tag)
    ]
    return [f"{text} in {count(len(flows), 'flow')}" for text, flows in _grouped(pairs).items()]


def gravity(flow: FlowPlan) -> int:
    """What must be seen first has the lowest number; flows that are alike stay in the manifest's order."""
    if any(one.kind == "breaking_inputs" and one.severe for one in flow.consequences):
        return 0
    if flow.action == "retire" or any(one.severe for one in flow.consequences):
        return 1
    return 2 if flow.consequences or flow.held else 3


def breaking_words(plan: Plan) -> str:
    """``3 flows break their callers: a, b, c``; empty where none does."""
    names = tuple(flow.flow for flow in plan.flows if gravity(flow) == 0)
    if not names:
        return ""
    verb = "1 flow breaks its" if len(names) == 1 else f"{len(names):,} flows break their"
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"{verb} callers: {', '.join(names[:NAMES_SHOWN])}{more}"


def grouped_lines(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """(flow, text) as (names to show, how many flows, text): what is so of more than a few flows is told once."""
    for text, flows in _grouped(pairs).items():
        if len(flows) > NAMES_SHOWN:
            yield flows[:NAMES_SHOWN], len(flows), text
        else:
            for flow in flows:
                yield (flow,), 1, text


def told_together(guards: Iterable[str]) -> list[str]:
    """The reasons that forbid a plan; what is so of more than a few flows is one line, with how many these are."""
    pairs = [(flow, why) for flow, _, why in (text.partition(": ") for text in guards)]
    return [f"{_named(names, every)}: {why}" for names, every, why in grouped_lines(pairs)]


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for flow, text in pairs:
        found.setdefault(text, []).append(flow)
    return {text: tuple(flows) for text, flows in found.items()}


def _flows(flows: tuple[str, ...], every: int = 0) -> str:
    """``agent, greeter``; ``1,000 flows: a, b, c and 997 more``; ``all 1,000 flows`` where the plan has no more."""
    if len(flows) <= NAMES_SHOWN:
        return ", ".join(flows)
    if len(flows) == every:
        return f"all {every:,} flows"
    return _named(flows[:NAMES_SHOWN], len(flows))


def _named(names: tuple[str, ...], every: int) -> str:
    listed = ", ".join(names)
    return listed if every == len(names) else f"{every:,} flows: {listed} and {every - len(names):,} more"


FILES_SHOWN = 12

ONCE_ROUTED = "breaking for callers once their route leads there"
"""Of a version with breaking changes that is unrouted, or that only new routes lead to."""

ALLOWED = re.compile(r" only from (branch [^\s,;]+|a clean commit)")
"""What a guard's sentence says is needed. All guards together are said at the end once more, in short."""


def plan_lines(plan: Plan, style: Style = bare, *, all_files: bool = False) -> list[str]:
    """The plan, line by line: the flows with the gravest consequences next to the summary."""
    lines = [style(f"Plan for project {plan.project}", "bold"), style(_base(plan), "dim"), ""]
    shared = shared_notes(plan)
    for flow in sorted(plan.flows, key=gravity, reverse=True):
        if (flow.action != "keep" or flow.moves or flow.held) and not is_told(flow, shared):
            lines += [*_flow(flow, style, all_files, shared), ""]
    if shared:
        lines += [*(style(f"  ~ {text}", "change") for text in shared_lines(plan, shared)), ""]
    lines += _left_alone(plan, style, shared)
    lines += [style(f"warning: {text}", "warn") for text in plan.warnings]
    lines += [style(f"refused: {text}", "warn") for text in told_together(plan.guards)]
    if plan.warnings or plan.guards:
        lines.append("")
    broken = breaking_words(plan)
    lines.append(f"{summary(plan)} {style(f'{broken}.', 'bad')}" if broken else summary(plan))
    return lines


def next_line(plan: Plan, command: str, *, saved: bool) -> str:
    """What to type next: the command that carries the plan out; where that is refused here, from where it is not."""
    if plan.guards:
        asked = dict.fromkeys(place for text in plan.guards for place in ALLOWED.findall(text))
        return f"apply refuses this from here; from {' and '.join(asked) or 'where the rules allow it'}: {command}"
    return f"saved: {command} carries out just this" if saved else f"carry it out: {command}"


def summary(plan: Plan) -> str:
    """One sentence that says how much would change."""
    if plan.is_empty:
        kept = count(len(plan.flows), "flow")
        held = [one for flow in plan.flows for one in flow.held]
        if held:
            return f"No changes: {count(len(held), 'route')} held by a rollback, until the manifest agrees."
        return f"No changes: {kept} as the manifest says." if plan.flows else "No changes: the manifest has no flows."
    actions = [flow.action for flow in plan.flows]
    parts = [f"{actions.count('create')} to create"] if "create" in actions else []
    updates = actions.count("update") - len(only_ruled(plan))
    if updates:
        parts.append(f"{updates} to update")
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
    parts += rule_parts(plan)
    return f"Plan: {', '.join(parts) or 'records only'}."


def _base(plan: Plan) -> str:
    branch = f" on {plan.commit.branch}" if plan.commit.branch else ""
    dirty = ", with uncommitted changes" if plan.commit.dirty else ""
    return f"store {plan.store}, generation {plan.base}; commit {short(plan.commit.sha)}{branch}{dirty}"


def _flow(flow: FlowPlan, style: Style, all_files: bool, shared: Shared) -> list[str]:
    marks = {"create": ("+", "add"), "update": ("~", "change"), "retire": ("-", "remove"), "keep": ("~", "change")}
    mark, kind = marks[flow.action]
    lines = [style(f"  {mark} {flow.flow}", kind) + f"  {_headline(flow)}"]
    if flow.build:
        lines += _build(flow.build, style, all_files)
    lines += [style(f"      {one.text}", "bad" if one.severe else "warn") for one in own_consequences(flow, shared)]
    lines += [f"      {_move(move, style)}" for move in flow.moves]
    lines += [style(f"      {held_words(held)}", "warn") for held in flow.held]
    lines += [style(f"      unmanaged: {text}", "dim") for text in flow.unmanaged]
    lines += [style(f"      note: {text}", "warn") for text in own_notes(flow, shared)]
    return lines


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
    """What others changed in the store since the manifest was applied, and what is only not applied yet.

    ``place``: the options that lead a further command to the same store and manifest.
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
    """Why there is no drift where nothing was ever applied."""
    return f"No drift: nothing was applied yet to project {plan.project} in {plan.store}."


def ways_out(plan: Plan, drift: Drift, place: Sequence[str] = ()) -> list[str]:
    """How the route and the manifest come to agree again, each way with the command that does it."""
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


def _breaking_words(flow: FlowPlan, build: Build) -> str:
    """Whom the new version breaks: callers of the routes that come to it, or nobody yet."""
    if any(one.kind == "breaking_inputs" and build.version in one.reached for one in flow.consequences):
        return ", breaking for callers"
    return f", {ONCE_ROUTED}" if any(change.breaking for change in build.changes) else ""


def _build(build: Build, style: Style, all_files: bool) -> list[str]:
    lines = []
    for change in build.changes:
        text = f"      {change.text}"
        lines.append(style(f"{text} (breaking)", "bad") if change.breaking else text)
        shown = change.details if all_files else change.details[:FILES_SHOWN]
        lines += [f"        {detail}" for detail in shown]
        if len(change.details) > len(shown):
            lines.append(style(f"        and {len(change.details) - len(shown)} more (--files shows all)", "dim"))
    return lines


def _move(move: RouteMove, style: Style) -> str:
    kind = "route" if move.exclusive else "label"
    if move.adopts:
        return f"{kind} {move.tag} at {describe_holders(move.before)}: {move.reason}"
    last = f"; last moved by {move.moved_by}, {ago(move.moved_at)}" if move.moved_by and move.before else ""
    if move.before is None:
        text = f"{kind} {move.tag} → {describe_holders(move.after)}"
    elif move.after is None:
        return style(f"{kind} {move.tag} removed, was {describe_holders(move.before)}", "remove") + last
    else:
        text = f"{kind} {move.tag}: {describe_holders(move.before)} → {describe_holders(move.after)}"
    return f"{text}  " + style(f"({move.reason}{last})", "dim")


def _left_alone(plan: Plan, style: Style, shared: Shared) -> list[str]:
    quiet = [flow for flow in plan.flows if flow.action == "keep" and not (flow.moves or flow.held)]
    lines = []
    if quiet and not plan.is_empty:
        lines.append(style(f"  = {count(len(quiet), 'flow')} unchanged", "dim"))
    unseen = [*quiet, *(flow for flow in plan.flows if is_told(flow, shared))]
    lines += [style(f"  = {flow.flow}: unmanaged {text}", "dim") for flow in unseen for text in flow.unmanaged]
    lines += [style(f"  = unmanaged: {text}", "dim") for text in plan.unmanaged]
    return [*lines, ""] if lines else []
