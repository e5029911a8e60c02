"""``moved:``: flows that get another name, or take one back that they had. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from kitaru.core.commit import renamed
from kitaru.core.naming import present_name
from kitaru.core.planning import Draft, Place
from kitaru.core.spelling import did_you_mean
from kitaru.model.lockfile import Lockfile, Rename
from kitaru.model.manifest import Manifest


def plan_renames(draft: Draft, manifest: Manifest, lock: Lockfile, place: Place) -> Lockfile:
    """Add the renames that ``moved:`` asks for and that are still to be made; the state in which they are made.

    A rename that was made before is nothing to do; nor is one of a flow that never was, which is a warning in a
    project that has any. A flow may take back a name that it had itself; any other name that was used stays spent,
    also where the manifest only declares it again.
    """
    edits: list[Rename] = []
    draft.warnings += _never_there(manifest, lock)
    for was, name in manifest.moved.items():
        old = lock.flow(was)
        if old is None or was in manifest.flows:
            continue
        while name in manifest.moved and name not in manifest.flows:
            name = manifest.moved[name]
        used = name in lock.flows and present_name(lock.flows, name) != was
        if used or any(edit.flow == name for edit in edits):
            message = f"{was} can't become {name}: project {lock.project} has used that name already"
            draft.problems.append(place(message, "moved", was, hint="choose a name that was never used"))
        else:
            edits.append(Rename(kind="rename", flow=name, was=was, expects=old.latest))
    draft.edits += edits
    draft.renamed |= {edit.flow: edit.was for edit in edits}
    made = renamed(lock, edits)
    made = made if isinstance(made, Lockfile) else lock
    for name in manifest.flows:
        now = present_name(made.flows, name)
        if now != name:
            there = made.flow(now) is not None and now not in manifest.flows
            back = f"to take the name back: moved: {{{now}: {name}}}" if there else f"declare it as {now}"
            hint = f"{back}; for another flow choose a name that was never used"
            draft.problems.append(place(f"{name} was renamed to {now}", "flows", name, hint=hint))
    return made


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
