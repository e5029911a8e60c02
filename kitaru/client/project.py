"""The producer's verbs: check the manifest, plan, apply."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.client.working_tree import applier, open_workshop, planner, stack_doubts
from kitaru.core.protection import unplaced
from kitaru.core.renames import declared_twice
from kitaru.core.review import tampered
from kitaru.errors import KitaruConflictError, KitaruIntegrityError, KitaruManifestError, KitaruUsageError
from kitaru.model.address import short
from kitaru.model.lockfile import Lockfile, Retire, Untag
from kitaru.model.plan import Plan
from kitaru.release.workshop import Workshop

ANOTHER = "kitaru plan --out FILE makes a new one"


@dataclass(frozen=True, slots=True, repr=False)
class Applied:
    """The plan that apply carried out, and the generation that the project is at now."""

    plan: Plan
    generation: int
    changed: bool
    by: str = ""
    others_first: bool = False

    def __repr__(self) -> str:
        return f"<Applied: generation {self.generation}{'' if self.changed else ', nothing to do'}>"


@dataclass(frozen=True, slots=True)
class Checked:
    """The flows that validate looked at, and its warnings."""

    project: str
    flows: tuple[str, ...]
    warnings: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Scope:
    """The flows of a plan (none: all), and its options: see ``KitaruClient.plan``."""

    flows: Sequence[str] = ()
    prune: bool = False
    force: bool = False
    allow_dirty: bool = False
    ignoring: Sequence[Path] = ()


class Project:
    """Verbs about a repository's manifest."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._latest: Workshop | None = None
        self._around: wiring.Repository | None = None
        self._reopened: Plan | None = None

    def workshop(self, *, allow_dirty: bool, ignoring: Sequence[Path] = ()) -> Workshop:
        """The manifest at the repository's present state. ``KitaruSourceError`` if that can't be built from.

        ``ignoring`` are files that do not count as changes, such as a saved plan; of a folder, those in it that can be
        plans.
        While that state is the same it is the same workshop: an apply packs nothing that a plan has packed.
        """
        loaded = self._session.manifest
        if self._around is None or self._around.loaded is not loaded:  # a verb of this client may have edited it
            self._around, self._latest = wiring.Repository(loaded, self._session.settings), None
        files = [file for place in ignoring for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
        found, _ = open_workshop(self._session, self._around, allow_dirty=allow_dirty, ignoring=files)
        if self._latest is None or (self._latest.tree, self._latest.commit) != (found.tree, found.commit):
            self._latest = found
        return self._latest

    def validate(self) -> Checked:
        """See ``KitaruClient.validate``."""
        workshop = self.workshop(allow_dirty=True)
        desired = workshop.desired()
        manifest, place = workshop.loaded.manifest, workshop.loaded.problem
        beside = workshop.beside({*manifest.flows, *manifest.moved}, uncommitted=True)
        problems = planner(self._session).input_problems(desired, place)
        problems += declared_twice(workshop.path, manifest.flows, manifest.moved, beside, place)
        if problems:
            raise KitaruManifestError(problems)
        warnings = (*beside.unread, *unplaced(manifest), *workshop.warnings(flow.spec for flow in desired))
        return Checked(manifest.project, tuple(flow.name for flow in desired), warnings)

    def plan(self, scope: Scope) -> Plan:
        """See ``KitaruClient.plan``."""
        plan = self._planned(scope, self._workshop(scope))
        doubts = stack_doubts(self._session, [flow.build.snapshot for flow in plan.flows if flow.build is not None])
        return plan.model_copy(update={"warnings": (*plan.warnings, *doubts)})

    def apply(self, scope: Scope, plan: Plan | None, *, saved: bool, message: str) -> Applied:
        """See ``KitaruClient.apply``. ``saved``: the plan comes from a file, and is checked as by ``reopened``.

        An interruption comes through as long as nothing is committed; after that it is too late, and the result stands.
        """
        if saved:
            _must_be_whole(scope)
        session = self._session
        workshop = self._workshop(scope, dirty=plan is not None and plan.commit.dirty)
        head = session.releases.head(verified=True) if plan is None or saved else None
        if plan is None:
            plan = self._planned(scope, workshop, head)
        elif head is not None:
            plan = self._made_again(plan, workshop, head)
        by = session.actor
        if plan.is_empty:
            return Applied(plan=plan, generation=plan.base, changed=False, by=by)
        if plan.base == 0:
            wiring.probe_store(session.store)
        try:
            lock = applier(self._session).apply(plan, workshop, by=by, saved=saved, message=message, lock=head)
        except KitaruConflictError:
            again = self._planned(scope, workshop) if not saved else None
            if again is None or not again.is_empty:
                raise
            # Somebody else applied the same commit first: what this one wanted is so.
            return Applied(plan=again, generation=again.base, changed=False, by=by, others_first=True)
        return Applied(plan=plan, generation=lock.generation, changed=True, by=by)

    def reopened(self, plan: Plan, scope: Scope = Scope()) -> Plan:
        """A plan from a file, made again from the present state; ``apply(plan=..., saved=True)`` carries it out.

        Raises ``KitaruConflictError`` unless repository, manifest and store are as the file's plan saw them,
        ``KitaruIntegrityError`` if the plan made now is not the one of the file, ``KitaruUsageError`` for
        ``flows`` and ``prune``, which a plan that was made already takes no more.
        """
        _must_be_whole(scope)
        workshop = self._workshop(scope, dirty=plan.commit.dirty)
        self._reopened = self._made_again(plan, workshop, self._session.releases.head(verified=True))
        return self._reopened

    def file_lines(self, plan: Plan, *, allow_dirty: bool, ignoring: Sequence[Path] = ()) -> list[str]:
        """Each distinct source: the flows that share it, its files and their sizes."""
        workshop = self.workshop(allow_dirty=allow_dirty, ignoring=ignoring)
        flows = workshop.loaded.manifest.flows
        groups: dict[str, list[str]] = {}
        for planned in plan.flows:
            if planned.flow in flows:
                groups.setdefault(workshop.spec_of(flows[planned.flow]).digest, []).append(planned.flow)
        lines = []
        for names in groups.values():
            files = workshop.selection(flows[names[0]]).tree.files
            total = sum(file.size for file in files)
            lines.append(f"source of {', '.join(names)}: {len(files)} files, {total:,} bytes")
            lines += [f"  {file.size:>12,}  {file.path}" for file in files]
        return lines

    def _workshop(self, scope: Scope, *, dirty: bool = False) -> Workshop:
        for name in scope.flows:
            if name.endswith(".json") or "/" in name:
                raise KitaruUsageError(
                    f"{name} is no flow; a saved plan is applied alone: it names its flows itself",
                    hint=f"kitaru apply {shlex.quote(name)}",
                )
        return self.workshop(allow_dirty=scope.allow_dirty or dirty, ignoring=scope.ignoring)

    def _planned(self, scope: Scope, workshop: Workshop, head: Lockfile | None = None) -> Plan:
        return planner(self._session).plan(workshop, only=scope.flows, prune=scope.prune, force=scope.force, head=head)

    def _made_again(self, plan: Plan, workshop: Workshop, head: Lockfile) -> Plan:
        """The same plan, made now: a file proves nothing. Raises as ``reopened`` does."""
        self._must_match(plan, workshop)
        # One without edits, too: that nothing is to be done was true of its own generation.
        applier(self._session).must_stand(plan, head)
        if plan is self._reopened:
            return plan
        retires = any(isinstance(edit, Retire) for edit in plan.edits)
        scope = Scope(
            flows=() if retires else [flow.flow for flow in plan.flows],
            prune=retires or any(isinstance(edit, Untag) for edit in plan.edits),
            force=plan.force,
        )
        fresh = self._planned(scope, workshop, head)
        found = ", ".join(tampered(plan, fresh)[:3])
        if found and plan.commit.sha != fresh.commit.sha:
            # The same files in another history: say, one that does not hold what was rolled back.
            here, there = short(fresh.commit.sha), short(plan.commit.sha)
            raise KitaruConflictError(
                f"the saved plan is out of date: it was made at commit {there}; at {here} this differs: {found}",
                hint=ANOTHER,
            )
        if found:
            raise KitaruIntegrityError(f"the saved plan was changed after it was made: {found}", hint=ANOTHER)
        return fresh

    def _must_match(self, plan: Plan, workshop: Workshop) -> None:
        moved = []
        loaded, session = workshop.loaded, self._session
        if plan.project != session.project:
            moved.append(f"it is for project {plan.project}, this is {session.project}")
        if plan.store != session.store.url and not self._is_shared(plan):
            moved.append(f"it is for store {plan.store}, this is {session.store.url}")
        if plan.target != loaded.target:
            moved.append(f"it was made with target {plan.target or 'none'}, this is {loaded.target or 'none'}")
        elif plan.manifest != loaded.digest:
            moved.append(f"{loaded.path.name} has changed since")
        if plan.tree != workshop.tree:
            here, there = short(workshop.commit.sha), short(plan.commit.sha)
            moved.append(f"the source has changed since: it was made at commit {there}, this is {here}")
        if moved:
            raise KitaruConflictError(f"the saved plan is out of date: {'; '.join(moved)}", hint=ANOTHER)

    def _is_shared(self, plan: Plan) -> bool:
        """Whether the plan's store may be this one, though its address is another.

        A folder's path may differ between machines that share it. Then its history is the same, once there is any, and
        the folder itself, if the plan knows it: a copy has the history alone.
        """
        known = not plan.store_id or plan.store_id == wiring.store_id(self._session.store)
        return plan.base > 0 and plan.store.startswith("file:") and known


def _must_be_whole(scope: Scope) -> None:
    """A saved plan is carried out as it was shown: its flows were chosen when it was made."""
    given = [*scope.flows, *(["--prune"] if scope.prune else []), *(["--force"] if scope.force else [])]
    if given:
        raise KitaruUsageError(
            f"a saved plan is carried out whole, as it was made, without {' '.join(given)}",
            hint=f"{shlex.join(['kitaru', 'plan', *given])} --out FILE makes one; then kitaru apply FILE",
        )


def initialise(folder: Path, project: str | None) -> tuple[dict[str, Any], list[str]]:
    """Write ``kitaru.yaml`` in ``folder`` unless there is one; safe to run again.

    The outcome as JSON data, and as lines for a person.
    """
    result = wiring.scaffold(folder, project)
    data = {
        "manifest": str(result.manifest),
        "created": result.created,
        "project": result.project,
        "flows": [str(flow.target) for flow in result.flows],
        "undeclared": [str(flow.target) for flow in result.undeclared],
        "written": [str(path) for path in result.written],
        "problems": [str(problem) for problem in result.problems],
    }
    return data, _init_lines(result)


def _init_lines(result: Any) -> list[str]:
    lines = [f"warning: {problem}" for problem in result.problems]
    if not result.created:
        lines.append(f"{result.manifest} is there already; it was left as it is.")
        if result.undeclared:
            place = "in place of flows: {}" if result.paste.startswith("flows:") else "at the end of flows:"
            lines += [f"These flows are not declared yet; paste this block {place}", "", *result.paste.splitlines()]
        return [*lines, "next: kitaru validate"]
    count = len(result.flows)
    lines.append(f"Wrote {result.manifest}: project {result.project}, {count} {'flow' if count == 1 else 'flows'}.")
    lines += [f"  {flow.target}" for flow in result.flows]
    if not result.flows:
        lines.append("  no @flow found; the file says how to declare one")
    return [*lines, "next: git add -A && git commit -m 'Add kitaru.yaml', then: kitaru plan"]


def read_plan(text: bytes, name: str) -> Plan:
    """A saved plan. Raises ``KitaruUsageError`` for a file that holds none."""
    try:
        return Plan.parse(text)
    except ValidationError as error:
        raise KitaruUsageError(
            f"{name} holds no plan of this release", hint="kitaru plan --out FILE makes one"
        ) from error
