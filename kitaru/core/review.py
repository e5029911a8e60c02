"""Whether a plan does only what reviewers were shown: its deeds against those of plans made earlier. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kitaru.core.consequences import FEW, UNTOLD, breaking_words
from kitaru.core.protection import protect_words
from kitaru.model.address import canonical_json
from kitaru.model.lockfile import AddVersion, Edit, Move, Protect, Retire, Untag
from kitaru.model.plan import Build, Consequence, FlowPlan, Plan, RouteMove
from kitaru.model.route import Assignment, describe_holders

OF_EXECUTIONS = ("stored_inputs", "in_use")
"""Kinds of consequences that come and go with executions, and are no deed of the plan."""

NOT_CONTENT = ("table", "expects_table", "deletions")
"""Members of an edit that say where it stands in the store, not what it does."""

Subject = tuple[str, str, str]
"""What a deed is about: its kind, the flow, and the route's tag where it is one."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What a plan made on generation ``base`` does to one subject; ``text`` says it to people."""

    content: bytes
    text: str
    base: int
    build: Build | None = None
    move: RouteMove | None = None


def unreviewed(plan: Plan, reviewed: Sequence[Plan]) -> tuple[str, ...]:
    """What ``plan`` does and none of ``reviewed`` showed, one sentence each; empty if there is nothing.

    Deeds are compared by content: a version by the digest of its snapshot, and by how it was shown to differ from the
    one before it, as long as that is still the one before it; a route by what it leads to before and after. The number
    that a new version gets does not count, nor do times, commits, generations, and what is told of executions: how many
    there are changes from one moment to the next.
    """
    shown = [_deeds(one) for one in reviewed]
    new = tuple(
        _sentence(subject, deed, [one[subject] for one in shown if subject in one])
        for subject, deed in _deeds(plan).items()
        if not any(subject in one and _was_shown(deed, one[subject]) for one in shown)
    )
    return (*new, *_unsaid(plan, reviewed))


def _was_shown(deed: Deed, before: Deed) -> bool:
    now, then = deed.build, before.build
    if deed.content != before.content or now is None or then is None:
        return deed.content == before.content
    if now.previous == then.previous:
        return now.changes == then.changes
    # Another version was built since the review: what was shown is so of the one that was the newest then.
    return before.base < deed.base and (then.previous or 0) < (now.previous or 0)


def _unsaid(plan: Plan, reviewed: Sequence[Plan]) -> Iterator[str]:
    """What breaks callers and no reviewed plan said: it came about since, or was taken out of the file."""
    for flow in plan.flows:
        before = [one for other in reviewed for one in other.flows if one.flow == flow.flow]
        severe = [one for other in before for one in other.consequences if one.severe]
        told = {fact for one in severe for fact in _breaks(one)}
        kinds = {one.kind for one in severe}
        for one in flow.consequences:
            for tag, what in _breaks(one) if one.severe else ():
                if (tag, what) not in told:
                    why = what if what == UNTOLD else f"{what}, which breaks callers"
                    yield f"route {tag} of {flow.flow}: {why}, and nobody was shown"
            if one.severe and one.kind not in (*kinds, "breaking_inputs", *OF_EXECUTIONS):
                yield f"{flow.flow}: {one.text}, which nobody was shown"


def _breaks(one: Consequence) -> Iterator[tuple[str, str]]:
    """What breaks callers of which route, where its text says so. A new version's number does not count."""
    if one.kind != "breaking_inputs":
        return
    if not one.changes and UNTOLD in one.text:
        yield from ((tag, UNTOLD) for tag in one.routes)
    elif one.text == breaking_words(one):
        yield from ((tag, what) for tag in one.routes for what in one.changes)


def no_longer_done(plan: Plan, reviewed: Sequence[Plan]) -> tuple[str, ...]:
    """What the reviewed plans showed and ``plan`` does not do, because it is so already, or no longer wanted."""
    done = _deeds(plan)
    lines = [
        f"{_name(subject)}: {deed.text}"
        for one in reviewed
        for subject, deed in _deeds(one).items()
        if subject not in done
    ]
    return tuple(dict.fromkeys(lines))


def elsewhere(plan: Plan, other: Plan) -> str:
    """Why ``other`` is a plan for another place than ``plan``; empty if it is not."""
    if plan.project != other.project:
        return f"it is for project {other.project}, this is {plan.project}"
    if plan.target != other.target:
        return f"it was made with target {other.target or 'none'}, this is {plan.target or 'none'}"
    if plan.store != other.store and not other.store.startswith("file:"):
        return f"it is for store {other.store}, this is {plan.store}"
    return ""


def _deeds(plan: Plan) -> Mapping[Subject, Deed]:
    """What the plan shows that it does. What people saw counts, not what a changed file may hold beside it."""
    found: dict[Subject, Deed] = {}
    for flow in plan.flows:
        new = flow.build.version if flow.build else None
        if flow.build is not None:
            found["build", flow.flow, ""] = _build(flow.build, plan.base)
        if flow.action == "retire":
            found["removal", flow.flow, ""] = _removal(flow, plan.base)
            continue
        for move in flow.moves:
            content = [_content(move.before, None), _content(move.after, new), move.exclusive]
            label = "" if move.exclusive else ", as a shared label"
            text = f"from {describe_holders(move.before)} to {describe_holders(move.after)}{label}"
            found["route", flow.flow, move.tag] = Deed(canonical_json(content), text, plan.base, move=move)
    notes = {flow.flow: flow.notes for flow in plan.flows}
    for edit in plan.edits:
        if not isinstance(edit, AddVersion | Move | Untag | Retire) and _is_shown(edit, notes.get(edit.flow, ())):
            data = {name: value for name, value in edit.data().items() if name not in NOT_CONTENT}
            text = "; ".join(protect_words(edit)) if isinstance(edit, Protect) else edit.kind
            found[edit.kind, edit.flow, ""] = Deed(canonical_json(data), text, plan.base)
    return found


def _is_shown(edit: Edit, notes: Sequence[str]) -> bool:
    """A change of protection is shown by its flow's notes, or not at all."""
    return not isinstance(edit, Protect) or all(text in notes for text in protect_words(edit))


def _build(build: Build, base: int) -> Deed:
    # A reader was shown the snapshot, and the digest only stands for what a file leaves out.
    hidden = build.redacted
    claimed = build.snapshot_digest if build == hidden else build.snapshot.digest
    content = canonical_json([hidden.snapshot.digest, claimed])
    return Deed(content, f"a new version, built from {build.snapshot.target}", base, build)


def _removal(flow: FlowPlan, base: int) -> Deed:
    routes = sorted((move.tag, _content(move.before, None)) for move in flow.moves)
    return Deed(canonical_json([list(one) for one in routes]), "it is removed, with all its routes", base)


def _content(holders: tuple[Assignment, ...] | None, new: int | None) -> str | None:
    """Holders as text, a version that is yet to be made without its number."""
    if holders is None:
        return None
    kept = [{**one.data(), "version": 0} if one.version == new else one.data() for one in holders]
    return canonical_json(kept).decode()


def _name(subject: Subject) -> str:
    kind, flow, tag = subject
    return f"route {tag} of {flow}" if kind == "route" else flow


def _sentence(subject: Subject, deed: Deed, before: Sequence[Deed]) -> str:
    name = _name(subject)
    if not before:
        return f"{name}: {deed.text}, which nobody was shown"
    if deed.build is not None and before[-1].build is not None:
        if deed.content == before[-1].content:
            return f"{name}: reviewed was {_shown(before[-1].build)}, where it is {_shown(deed.build)}"
        return f"{name}: the new version is not the one reviewed; what differs: {_unlike(deed.build, before[-1].build)}"
    if deed.move is not None and before[-1].move is not None and deed.text == before[-1].text:
        others = _other_snapshots(deed.move, before[-1].move)
        if not others:
            return f"{name}: it would go {deed.text}, and which of these is new is not as it was reviewed"
        return f"{name}: {others} {'are' if ', ' in others else 'is'} of other content than was reviewed"
    return f"{name}: reviewed was {before[-1].text}, now it would be {deed.text}"


def _other_snapshots(one: RouteMove, other: RouteMove) -> str:
    """The versions by the same number that are not the same."""
    known = {holder.snapshot for holder in (*(other.before or ()), *(other.after or ()))}
    holders = [*(one.before or ()), *(one.after or ())]
    return ", ".join(dict.fromkeys(f"v{holder.version}" for holder in holders if holder.snapshot not in known))


def _shown(build: Build) -> str:
    if build.previous is None:
        return "the first version"
    texts = [one.text for one in build.changes]
    more = [f"and {len(texts) - FEW} more"] if len(texts) > FEW else []
    # A source may differ in other files than was shown, under the same number of them.
    files = [name for one in build.changes for name in one.details]
    named = f" ({', '.join([*files[:FEW], *(['…'] if len(files) > FEW else [])])})" if files else ""
    return f"{'; '.join([*texts[:FEW], *more]) or 'no difference'}{named} since v{build.previous}"


def _unlike(one: Build, other: Build) -> str:
    first, second = one.redacted.snapshot.data(), other.redacted.snapshot.data()
    names = [name.replace("_", " ") for name in sorted({*first, *second}) if first.get(name) != second.get(name)]
    return ", ".join(names) or "values of environment variables"


def tampered(saved: Plan, fresh: Plan) -> tuple[str, ...]:
    """What a plan from a file says otherwise than the one that is made from the same things now; empty if nothing.

    Where it is applied from, who looked at it since, and executions that came and went make no difference; what breaks
    callers does. Values of environment variables are in the file, all of them as they are, or not at all.
    """
    one, other = _sayings(saved.flows), _sayings(fresh.flows)
    hidden = _sayings([flow.redacted for flow in fresh.flows])
    flows = [name for name in dict.fromkeys([*one, *other]) if one.get(name) not in (other.get(name), hidden.get(name))]
    found = [f"what it shows of {name}" for name in flows]
    if len(saved.flows) != len(fresh.flows) and not found:
        found.append("how many flows it shows")
    return tuple(found) if found or _from_anywhere(saved.edits) == _from_anywhere(fresh.edits) else ("what it does",)


def _from_anywhere(edits: Sequence[Edit]) -> list[Edit]:
    """The edits without the commit that routes remember: a merge makes another commit of the same files."""
    return [edit.model_copy(update={"floor": None}) if isinstance(edit, Move) else edit for edit in edits]


def _sayings(flows: Sequence[FlowPlan]) -> dict[str, bytes]:
    found = {}
    for flow in flows:
        kept = tuple(one for one in flow.consequences if one.kind not in OF_EXECUTIONS)
        found[flow.flow] = canonical_json(flow.model_copy(update={"consequences": kept, "unmanaged": ()}).data())
    return found
