"""The names of flows: former ones, those that ``moved:`` gives them, and one manifest for each. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from kitaru.core.rollback import Contains, why_not_after
from kitaru.errors import Problem
from kitaru.model.lockfile import Broken, Edit, FlowState, Lockfile, Rename
from kitaru.model.manifest import Manifest, Neighbours

Place = Callable[..., Problem]
"""(message, *path of keys, hint=) → the problem with the manifest's file, line and column."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'stable'?``, or nothing if no option is like the word."""
    import difflib  # Late: every plan imports this module, and almost none has a mistake in it.

    close = difflib.get_close_matches(word, list(options), 1, 0.6 if len(word) > 3 else 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


GONE = {"routes": {}, "untagged": {}, "managed": False, "owner": "", "retired": True}
"""The fields of a flow that is there no longer: its versions stay."""


# --- the names of one flow --------------------------------------------------------------------------------------------


def present_name(flows: Mapping[str, FlowState], flow: str) -> str:
    """The name that ``flow`` has now: its own, unless it was renamed."""
    while (state := flows.get(flow)) is not None and state.renamed_to:
        flow = state.renamed_to
    return flow


def way_to(flows: Mapping[str, FlowState], name: str, now: str) -> tuple[str, ...]:
    """The names from ``name`` on to the flow now called ``now``, without that one; empty if it is another flow."""
    way = []
    while name != now:
        state = flows.get(name)
        if state is None or not state.renamed_to:
            return ()
        way.append(name)
        name = state.renamed_to
    return tuple(way)


def names_of(flows: Mapping[str, FlowState], flow: str) -> frozenset[str]:
    """The flow's name and every name that it had before."""
    names = {flow}
    while earlier := {name for name, state in flows.items() if state.renamed_to in names} - names:
        names |= earlier
    return frozenset(names)


def first_name(flows: Mapping[str, FlowState], flow: str) -> str:
    """The name that the flow began with: draws by weight and idempotency keys go by it, to outlive a rename."""
    name = present_name(flows, flow)
    state = flows.get(name)
    if state is not None and state.first_name:
        return state.first_name
    # Each name had one name before it, until the first rename back; that one records the first name.
    while (earlier := next((was for was, one in flows.items() if one.renamed_to == name), None)) is not None:
        name = earlier
    return name


# --- moved: -----------------------------------------------------------------------------------------------------------


def renamed(lock: Lockfile, edits: Sequence[Edit]) -> Lockfile | tuple[Broken, ...]:
    """The state in which the flows that ``edits`` rename have their new names, in the same generation."""
    flows = dict(lock.flows)
    broken = []
    for edit in edits:
        if not isinstance(edit, Rename):
            continue
        old = flows.get(edit.was)
        if old is None or old.renamed_to or (old.retired, old.latest) != (edit.retired, edit.expects):
            state = "no such flow" if old is None or old.renamed_to or old.retired else f"v{old.latest}"
            broken.append(Broken(edit.was, None, f"expected v{edit.expects}, found {state}"))
        elif edit.flow in flows and present_name(flows, edit.flow) != edit.was:
            broken.append(Broken(edit.flow, None, "expected a name that was never used"))
        else:
            back = edit.flow in flows
            flows[edit.flow] = old.model_copy(update={"first_name": first_name(flows, edit.was)}) if back else old
            moved = {"renamed_to": edit.flow, "renamed_commit": edit.commit, "first_name": ""}
            flows[edit.was] = old.model_copy(update={**GONE, **moved})
    return tuple(broken) if broken else lock.model_copy(update={"flows": flows})


@dataclass(frozen=True, slots=True)
class Renames:
    """The renames of a plan. ``lock`` is the state in which they are made."""

    lock: Lockfile
    edits: tuple[Rename, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


def plan_renames(
    manifest: Manifest,
    lock: Lockfile,
    place: Place,
    contains: Contains,
    only: Collection[str] = (),
    *,
    force: bool = False,
) -> Renames:
    """The renames of ``moved:`` that are still to be made; with ``only``, of flows with these new names.

    A flow that a prune removed is renamed like any other. A flow takes back a name that it had from a commit that
    contains every rename away from it; ``force``, or ``forward: false``, passes over that. Any other used name stays
    taken.
    """
    edits: list[Rename] = []
    problems: list[Problem] = []
    warnings = list(_never_there(manifest, lock))
    refused: set[str] = set()
    # Of two names that become one, the flow that is there takes it.
    for was in sorted(manifest.moved, key=lambda name: lock.flow(name) is None):
        old = lock.flows.get(was)
        if old is None or old.renamed_to or was in manifest.flows:
            continue
        name = manifest.moved[was]
        while name in manifest.moved and name not in manifest.flows:
            name = manifest.moved[name]
        if only and name not in only:
            continue
        used = name in lock.flows and present_name(lock.flows, name) != was
        used = used or any(edit.flow == name for edit in edits)
        # The name comes back only from a commit that is later than those that took it from the flow.
        away = () if used or force else (lock.flows[one].renamed_commit for one in way_to(lock.flows, name, was))
        undone = next((why for commit in away if (why := why_not_after(commit, contains))), "")
        if used and old.retired:
            own = f"moved: {was} was removed, and {name} has versions of its own; nothing to rename"
            warnings.append(f"{own}. Those of {was} stay where they are; take the line out")
        elif used:
            message = f"{was} can't become {name}: project {lock.project} has used that name already"
            problems.append(place(message, "moved", was, hint="choose a name that was never used"))
        elif undone and manifest.forward:
            message = f"{was} can't become {name} again: {undone}, which undid that"
            hint = f"pull or merge it; to rename all the same: kitaru apply --force; else declare the flow as {was}"
            problems.append(place(message, "moved", was, hint=hint))
            refused.add(name)
        else:
            warnings += [f"moved: {was} becomes {name} again: {undone} (forward: false)"] if undone else []
            edits.append(Rename(kind="rename", flow=name, was=was, expects=old.latest, retired=old.retired))
    made = renamed(lock, edits)
    made = made if isinstance(made, Lockfile) else lock
    for name in manifest.flows:
        now = present_name(made.flows, name)
        if now != name and name not in refused:
            back = f"to take the name back: moved: {{{now}: {name}}}"
            back = f"declare it as {now}" if now in manifest.flows else back
            hint = f"{back}; for another flow choose a name that was never used"
            problems.append(place(f"{name} was renamed to {now}", "flows", name, hint=hint))
    return Renames(made, tuple(edits), tuple(problems), tuple(warnings))


def _never_there(manifest: Manifest, lock: Lockfile) -> Iterator[str]:
    """Old names that the store never had, and gets by no other line of ``moved:``; a new project has none at all."""
    for was in manifest.moved if lock.generation else ():
        if was not in lock.flows and was not in manifest.moved.values():
            meant = did_you_mean(was, [name for name in lock.flows if lock.flow(name) and name not in manifest.flows])
            yield f"moved: {was} is no flow of project {lock.project}; nothing to rename{meant}"


# --- one manifest for each flow ---------------------------------------------------------------------------------------


def taken_over(flow: str, beside: Neighbours) -> str:
    """The manifest that has a flow now, in a sentence; empty if none of them does."""
    for other in beside.found:
        if flow in other.flows:
            return f"{flow} is declared by {other.path} now; apply there takes it over"
        if flow in other.moved:
            return f"{flow} is renamed to {other.moved[flow]} by {other.path} now; apply there takes it over"
    return ""


def declared_twice(
    here: str, flows: Collection[str], moved: Mapping[str, str], beside: Neighbours, place: Place
) -> Iterator[Problem]:
    """The flows of the manifest ``here`` that another one has as well. ``moved``: its renames, old name → new name."""
    for other in beside.found:
        owner = f"{other.path} of this repository"
        for was, name in moved.items():
            if was in other.flows:
                hint = f"remove {was} from {other.path}, or from moved: here"
                yield place(f"{was} is declared by {owner}, and {here} here makes it {name}", "moved", was, hint=hint)
        for flow in flows:
            if flow in other.flows:
                hint = "remove it from one of them, or give this manifest a project of its own"
                yield place(f"{flow} is declared by {owner}, and by {here} here", "flows", flow, hint=hint)
            elif flow in other.moved:
                hint = f"remove it here, or from moved: of {other.path}"
                message = f"{flow} becomes {other.moved[flow]} in {owner}; {here} here declares it"
                yield place(message, "flows", flow, hint=hint)
