"""``moved:``: flows that get another name, or take one back that they had. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from kitaru.core.commit import renamed
from kitaru.core.naming import present_name, way_to
from kitaru.core.planning import Draft, Place
from kitaru.core.resolving import did_you_mean
from kitaru.core.rollback import Contains, why_not_after
from kitaru.model.lockfile import FlowState, Lockfile, Rename
from kitaru.model.manifest import Manifest


def plan_renames(
    draft: Draft, manifest: Manifest, lock: Lockfile, place: Place, only: Collection[str] = ()
) -> Lockfile:
    """Add the renames that ``moved:`` asks for and that are still to be made; the state in which they are made.

    With ``only``, those of the flows that it names, by their new names.

    A rename that was made before is nothing to do; nor is one of a flow that never was, which is a warning in a
    project that has any. A flow that a prune removed is renamed like any other: its numbers go on. A flow may take back
    a name that it had itself, from a commit that contains all that led away from it; any other name that was used stays
    spent, also where the manifest only declares it again.
    """
    edits: list[Rename] = []
    refused: set[str] = set()
    draft.warnings += _never_there(manifest, lock)
    # Of two that become one, it is the one that is there.
    for was in sorted(manifest.moved, key=lambda name: lock.flow(name) is None):
        old = lock.flows.get(was)
        if old is None or old.renamed_to or was in manifest.flows:
            continue
        name = _end_of(manifest, was)
        if only and name not in only:
            continue
        used = name in lock.flows and present_name(lock.flows, name) != was
        used = used or any(edit.flow == name for edit in edits)
        undone = "" if used or draft.force else _undone(lock.flows, was, name, draft.contains.get)
        if used and old.retired:
            draft.warnings.append(_has_its_own(was, name))
        elif used:
            message = f"{was} can't become {name}: project {lock.project} has used that name already"
            draft.problems.append(place(message, "moved", was, hint="choose a name that was never used"))
        elif undone and draft.forward:
            message = f"{was} can't become {name} again: {undone}, which undid that"
            hint = f"pull or merge it; to rename all the same: kitaru apply --force; else declare the flow as {was}"
            draft.problems.append(place(message, "moved", was, hint=hint))
            refused.add(name)
        else:
            draft.warnings += [f"moved: {was} becomes {name} again: {undone} (forward: false)"] if undone else []
            edits.append(Rename(kind="rename", flow=name, was=was, expects=old.latest, retired=old.retired))
    draft.edits += edits
    draft.renamed |= {edit.flow: edit.was for edit in edits}
    made = renamed(lock, edits)
    made = made if isinstance(made, Lockfile) else lock
    for name in manifest.flows:
        now = present_name(made.flows, name)
        if now != name and name not in refused:
            free = now not in manifest.flows
            back = f"to take the name back: moved: {{{now}: {name}}}" if free else f"declare it as {now}"
            hint = f"{back}; for another flow choose a name that was never used"
            draft.problems.append(place(f"{name} was renamed to {now}", "flows", name, hint=hint))
    return made


def _end_of(manifest: Manifest, was: str) -> str:
    name = manifest.moved[was]
    while name in manifest.moved and name not in manifest.flows:
        name = manifest.moved[name]
    return name


def _undone(flows: Mapping[str, FlowState], was: str, name: str, contains: Contains) -> str:
    """Why the commit at hand does not know of the one that took ``name`` from the flow now called ``was``.

    A commit from before that still asks for the rename which was undone; whoever waits for the new name would lose it.
    """
    commits = (flows[one].renamed_commit for one in way_to(flows, name, was))
    return next((why for sha in commits if sha and (why := why_not_after(sha, contains))), "")


def _has_its_own(was: str, name: str) -> str:
    return (
        f"moved: {was} was removed, and {name} has versions of its own; nothing to rename. "
        f"Those of {was} stay where they are; take the line out"
    )


def _never_there(manifest: Manifest, lock: Lockfile) -> Iterator[str]:
    """Old names that the store never had, nor gets by another line of ``moved:``. A new project has none at all."""
    if not lock.generation:
        return
    for was in manifest.moved:
        if was in lock.flows or was in manifest.moved.values():
            continue
        live = [name for name in lock.flows if lock.flow(name) is not None and name not in manifest.flows]
        meant = did_you_mean(was, live)
        yield f"moved: {was} is no flow of project {lock.project}; nothing to rename{meant}"
