"""Whether a plan does only what reviewers saw: its deeds against those of plans made earlier. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kitaru.core.consequences import FEW, UNTOLD, breaking_words
from kitaru.core.protection import protect_words
from kitaru.model.address import canonical_json
from kitaru.model.lockfile import AddVersion, Move, Protect, Retire, Untag
from kitaru.model.plan import Build, Consequence, FlowPlan, Plan
from kitaru.model.route import Assignment, describe_holders

OF_EXECUTIONS = ("stored_inputs", "in_use")
"""Kinds of consequences that come and go with executions, and are no deed of the plan."""

Subject = tuple[str, str, str]
"""A deed's kind, its flow, and the tag of its route: ``("route", "agent", "default")``, ``("build", "agent", "")``."""


@dataclass(frozen=True, slots=True)
class Deed:
    """The change that a plan made on generation ``base`` makes to one subject; ``text`` is for people."""

    content: bytes
    text: str
    base: int
    build: Build | None = None


def unreviewed(plan: Plan, reviewed: Sequence[Plan]) -> tuple[str, ...]:
    """The deeds of ``plan`` that none of ``reviewed`` showed, one sentence each.

    Deeds are compared by content: a version by its snapshot, and by the changes shown since the one before it, as long
    as that is still the one before it; a route by its holders before and after. The number of a new version does not
    count, nor do times, commits, generations, and the executions under way.
    """
    shown = [_deeds(one) for one in reviewed]
    new = tuple(
        _sentence(subject, deed, [one[subject] for one in shown if subject in one])
        for subject, deed in _deeds(plan).items()
        if not any(subject in one and _was_shown(deed, one[subject]) for one in shown)
    )
    return (*new, *_unsaid(plan, reviewed))


def no_longer_done(plan: Plan, reviewed: Sequence[Plan]) -> tuple[str, ...]:
    """The deeds that the reviewed plans showed and ``plan`` lacks: they are done, or no longer wanted."""
    done = _deeds(plan)
    shown = [(subject, deed) for one in reviewed for subject, deed in _deeds(one).items()]
    return tuple(dict.fromkeys(f"{_name(one)}: {deed.text}" for one, deed in shown if one not in done))


def elsewhere(plan: Plan, other: Plan) -> str:
    """Why ``other`` is a plan for another place than ``plan``; empty if it is not."""
    if plan.project != other.project:
        return f"it is for project {other.project}, this is {plan.project}"
    if plan.target != other.target:
        return f"it was made with target {other.target or 'none'}, this is {plan.target or 'none'}"
    shared = other.store.startswith("file:")
    return "" if plan.store == other.store or shared else f"it is for store {other.store}, this is {plan.store}"


def tampered(saved: Plan, fresh: Plan) -> tuple[str, ...]:
    """The parts in which a plan from a file differs from the one made from the same things now; empty if none.

    The commit, the drift since, and the executions under way make no difference; breaking changes do. Values of
    environment variables are in the file, all of them as they are, or not at all.
    """
    one, other = _content_of(saved.flows), _content_of(fresh.flows)
    hidden = _content_of([flow.redacted for flow in fresh.flows])
    flows = [name for name in dict.fromkeys([*one, *other]) if one.get(name) not in (other.get(name), hidden.get(name))]
    if flows or len(saved.flows) != len(fresh.flows):
        return tuple(f"what it shows of {name}" for name in flows) or ("how many flows it shows",)
    # A merge makes another commit of the same files, which routes remember.
    edits, others = (
        [edit.model_copy(update={"floor": None}) if isinstance(edit, Move) else edit for edit in plan.edits]
        for plan in (saved, fresh)
    )
    return () if edits == others else ("what it does",)


def _content_of(flows: Sequence[FlowPlan]) -> dict[str, bytes]:
    found = {}
    for flow in flows:
        kept = tuple(one for one in flow.consequences if one.kind not in OF_EXECUTIONS)
        found[flow.flow] = canonical_json(flow.model_copy(update={"consequences": kept, "unmanaged": ()}).data())
    return found


# --- deeds ------------------------------------------------------------------------------------------------------------


def _deeds(plan: Plan) -> Mapping[Subject, Deed]:
    """The deeds that the plan shows: people saw these, not the other fields of a changed file."""
    found: dict[Subject, Deed] = {}
    for flow in plan.flows:
        new = None
        if flow.build is not None:
            # A reader saw the snapshot; the digest only stands for the values that a file leaves out.
            new, hidden = flow.build.version, flow.build.redacted
            claimed = flow.build.snapshot_digest if flow.build == hidden else flow.build.snapshot.digest
            content = canonical_json([hidden.snapshot.digest, claimed])
            text = f"a new version, {_changes(flow.build)}"
            found["build", flow.flow, ""] = Deed(content, text, plan.base, flow.build)
        if flow.action == "retire":
            routes = sorted([move.tag, _holders(move.before, None)] for move in flow.moves)
            text = "it is removed, with all its routes"
            found["removal", flow.flow, ""] = Deed(canonical_json(routes), text, plan.base)
            continue
        for move in flow.moves:
            content = canonical_json([_holders(move.before, None), _holders(move.after, new), move.exclusive])
            label = "" if move.exclusive else ", as a shared label"
            text = f"from {describe_holders(move.before)} to {describe_holders(move.after)}{label}"
            found["route", flow.flow, move.tag] = Deed(content, text, plan.base)
    notes = {flow.flow: flow.notes for flow in plan.flows}
    for edit in plan.edits:
        if isinstance(edit, AddVersion | Move | Untag | Retire):
            continue
        words = protect_words(edit) if isinstance(edit, Protect) else (edit.kind,)
        # A change of protection is shown by its flow's notes, or not at all.
        if not isinstance(edit, Protect) or all(text in notes.get(edit.flow, ()) for text in words):
            found[edit.kind, edit.flow, ""] = Deed(edit.canonical(), "; ".join(words), plan.base)
    return found


def _holders(holders: tuple[Assignment, ...] | None, new: int | None) -> str:
    """Holders as text, a version that is yet to be made without its number."""
    data = [{**one.data(), "version": 0} if one.version == new else one.data() for one in holders or ()]
    return "" if holders is None else canonical_json(data).decode()


def _was_shown(deed: Deed, before: Deed) -> bool:
    now, then = deed.build, before.build
    if deed.content != before.content or now is None or then is None:
        return deed.content == before.content
    if now.previous == then.previous:
        return now.changes == then.changes
    # Another version was built since the review: the changes shown are those since the newest one then.
    return before.base < deed.base and (then.previous or 0) < (now.previous or 0)


# --- sentences --------------------------------------------------------------------------------------------------------


def _name(subject: Subject) -> str:
    kind, flow, tag = subject
    return f"route {tag} of {flow}" if kind == "route" else flow


def _sentence(subject: Subject, deed: Deed, before: Sequence[Deed]) -> str:
    name = _name(subject)
    if not before:
        return f"{name}: {deed.text}, which was not reviewed"
    if deed.text == before[-1].text:
        return f"{name}: {deed.text}, of other content than was reviewed"
    return f"{name}: reviewed was {before[-1].text}, now it would be {deed.text}"


def _changes(build: Build) -> str:
    """``2 files changed (~ flows/work.py, ~ lib/a.py) since v1``, or ``the first one, from flows/work.py:agent``"""
    if build.previous is None:
        return f"the first one, from {build.snapshot.target}"
    texts = [one.text for one in build.changes]
    more = [f"and {len(texts) - FEW} more"] if len(texts) > FEW else []
    # Other files may have changed under the same number of them.
    files = [name for one in build.changes for name in one.details]
    named = f" ({', '.join([*files[:FEW], *(['…'] if len(files) > FEW else [])])})" if files else ""
    return f"{'; '.join([*texts[:FEW], *more]) or 'no difference'}{named} since v{build.previous}"


def _unsaid(plan: Plan, reviewed: Sequence[Plan]) -> Iterator[str]:
    """Breaking changes that no reviewed plan showed: they came since, or were taken out of the file."""
    for flow in plan.flows:
        before = [one for other in reviewed for one in other.flows if one.flow == flow.flow]
        severe = [one for other in before for one in other.consequences if one.severe]
        shown = {fact for one in severe for fact in _breaks(one)}
        kinds = {one.kind for one in severe}
        for one in flow.consequences:
            for tag, change in _breaks(one) if one.severe else ():
                if (tag, change) not in shown:
                    why = change if change == UNTOLD else f"{change}, which breaks callers"
                    yield f"route {tag} of {flow.flow}: {why}, and was not reviewed"
            if one.severe and one.kind not in (*kinds, "breaking_inputs", *OF_EXECUTIONS):
                yield f"{flow.flow}: {one.text}, which was not reviewed"


def _breaks(one: Consequence) -> Iterator[tuple[str, str]]:
    """(tag, breaking change) as the text of the consequence says; a new version's number does not count."""
    if one.kind != "breaking_inputs":
        return
    if not one.changes and UNTOLD in one.text:
        yield from ((tag, UNTOLD) for tag in one.routes)
    elif one.text == breaking_words(one):
        yield from ((tag, change) for tag in one.routes for change in one.changes)
