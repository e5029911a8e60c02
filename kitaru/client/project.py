"""The producer's verbs: check the manifest, plan, apply."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.client.working_tree import open_workshop, planner
from kitaru.core.protection import unplaced
from kitaru.core.renames import declared_twice
from kitaru.core.review import tampered
from kitaru.errors import KitaruConflictError, KitaruIntegrityError, KitaruManifestError, KitaruUsageError
from kitaru.model.address import short
from kitaru.model.lockfile import Lockfile, Retire, Untag
from kitaru.model.plan import Plan
from kitaru.release.releases import Releases
from kitaru.release.workshop import Workshop

if TYPE_CHECKING:
    from kitaru.release.applier import Applier
    from kitaru.release.planner import Planner


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


class Project:
    """Verbs about a repository's manifest."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._latest: Workshop | None = None
        self._around: wiring.Repository | None = None
        self._reopened: Plan | None = None

    @cached_property
    def releases(self) -> Releases:
        """The project's lock log."""
        return Releases(self._session.store, self._session.project, self._session.clock)

    @property
    def _repository(self) -> wiring.Repository:
        """Around the manifest as it is: a verb of this client may have edited it meanwhile."""
        loaded = self._session.manifest
        if self._around is None or self._around.loaded is not loaded:
            self._around, self._latest = wiring.Repository(loaded, self._session.settings), None
        return self._around

    def workshop(self, *, allow_dirty: bool, ignoring: Sequence[Path] = ()) -> Workshop:
        """The manifest at the repository's present state. ``KitaruSourceError`` if that can't be built from.

        ``ignoring`` are files that do not count as changes, such as a saved plan; of a folder, those in it that can be
        plans.
        While that state is the same it is the same workshop: an apply packs nothing that a plan has packed.
        """
        repository = self._repository
        found, _ = open_workshop(self._session, repository, allow_dirty=allow_dirty, ignoring=_files(ignoring))
        if self._latest is None or (self._latest.tree, self._latest.commit) != (found.tree, found.commit):
            self._latest = found
        return self._latest

    def validate(self) -> Checked:
        """Every check that needs no store: manifest, targets, inputs. Raises with all problems at once."""
        workshop = self.workshop(allow_dirty=True)
        desired = workshop.desired()
        manifest, place = workshop.loaded.manifest, workshop.loaded.problem
        beside = workshop.beside({*manifest.flows, *manifest.moved}, uncommitted=True)
        problems = self._planner().input_problems(desired, place)
        problems += declared_twice(workshop.path, manifest.flows, manifest.moved, beside, place)
        if problems:
            raise KitaruManifestError(problems)
        return Checked(
            project=self._session.manifest.manifest.project,
            flows=tuple(flow.name for flow in desired),
            warnings=(
                *beside.unread,
                *unplaced(manifest),
                *workshop.warnings(flow.spec for flow in desired),
            ),
        )

    def plan(
        self,
        flows: Sequence[str] = (),
        *,
        prune: bool = False,
        force: bool = False,
        allow_dirty: bool = False,
        ignoring: Sequence[Path] = (),
    ) -> Plan:
        """The plan for the flows named, or for all. Writes nothing, takes no lock.

        ``force`` passes over rollbacks and the order of commits; the plan shows which.
        """
        _must_be_names(flows)
        workshop = self.workshop(allow_dirty=allow_dirty, ignoring=ignoring)
        return self._planner().plan(workshop, only=flows, prune=prune, force=force)

    def apply(
        self,
        flows: Sequence[str] = (),
        *,
        plan: Plan | None = None,
        saved: bool = False,
        prune: bool = False,
        force: bool = False,
        allow_dirty: bool = False,
        message: str = "",
        ignoring: Sequence[Path] = (),
    ) -> Applied:
        """Carry out a plan, made now unless one is given; all of it at once, or none of it.

        ``saved``: the plan comes from a file, and is checked as by ``reopened``. Guards and commit are those of
        this repository, never of the file.
        Raises ``KitaruConflictError`` when another writer moved what it wants to move; nothing has moved then.
        An interruption comes through as long as nothing is committed; after that it is too late, and the result stands.
        """
        _must_be_names(flows)
        if saved:
            _must_be_whole(flows, prune, force)
        dirty = allow_dirty or (plan is not None and plan.commit.dirty)
        workshop = self.workshop(allow_dirty=dirty, ignoring=ignoring)
        planner = self._planner()
        head: Lockfile | None = None
        if plan is None:
            head = self.releases.head(verified=True)
            plan = planner.plan(workshop, only=flows, prune=prune, force=force, head=head)
        elif saved:
            head = self.releases.head(verified=True)
            plan = self._made_again(plan, workshop, planner, head)
        by = self._session.actor
        if plan.is_empty:
            return Applied(plan=plan, generation=plan.base, changed=False, by=by)
        if plan.base == 0:
            wiring.probe_store(self._session.store)
        try:
            lock = self._applier().apply(plan, workshop, by=by, saved=saved, message=message, lock=head)
        except KeyboardInterrupt:
            landed = self.releases.landed()
            if landed is None:
                raise
            lock = landed
        except KitaruConflictError:
            if saved:
                raise
            again = planner.plan(workshop, only=flows, prune=prune, force=force)
            if not again.is_empty:
                raise
            # Somebody else applied the same commit first: what this one wanted is so.
            return Applied(plan=again, generation=again.base, changed=False, by=by, others_first=True)
        return Applied(plan=plan, generation=lock.generation, changed=True, by=by)

    def reopened(
        self,
        plan: Plan,
        flows: Sequence[str] = (),
        *,
        prune: bool = False,
        force: bool = False,
        allow_dirty: bool = False,
        ignoring: Sequence[Path] = (),
    ) -> Plan:
        """A plan from a file, made again from the present state; ``apply(plan=..., saved=True)`` carries it out.

        Raises ``KitaruConflictError`` unless repository, manifest and store are as the file's plan saw them,
        ``KitaruIntegrityError`` if the plan made now is not the one of the file, ``KitaruUsageError`` for
        ``flows`` and ``prune``, which a plan that was made already takes no more.
        """
        _must_be_whole(flows, prune, force)
        workshop = self.workshop(allow_dirty=allow_dirty or plan.commit.dirty, ignoring=ignoring)
        head = self.releases.head(verified=True)
        self._reopened = self._made_again(plan, workshop, self._planner(), head)
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

    def _planner(self) -> Planner:
        return planner(self._session, self.releases)

    def _applier(self) -> Applier:
        session = self._session
        # Late: a plan needs no applier, and threads' machinery comes with it.
        from kitaru.release.applier import Applier

        return Applier(session.store, session.project, self.releases, session.clock, session.reporter)

    def _made_again(self, plan: Plan, workshop: Workshop, planner: Planner, head: Lockfile) -> Plan:
        """The same plan, made now: a file proves nothing. Raises as ``reopened`` does."""
        self._must_match(plan, workshop)
        # One without edits, too: that nothing is to be done was true of its own generation.
        self._applier().must_stand(plan, head)
        if plan is self._reopened:
            return plan
        prune = any(isinstance(edit, Untag | Retire) for edit in plan.edits)
        only = () if any(isinstance(edit, Retire) for edit in plan.edits) else [flow.flow for flow in plan.flows]
        fresh = planner.plan(workshop, only=only, prune=prune, force=plan.force, head=head)
        found = tampered(plan, fresh)
        if found and plan.commit.sha != fresh.commit.sha:
            # The same files in another history: say, one that does not hold what was rolled back.
            here, there = short(fresh.commit.sha), short(plan.commit.sha)
            raise KitaruConflictError(
                f"the saved plan is out of date: it was made at commit {there}; at {here} this differs: "
                f"{', '.join(found[:3])}",
                hint="kitaru plan --out FILE makes a new one",
            )
        if found:
            raise KitaruIntegrityError(
                f"the saved plan was changed after it was made: {', '.join(found[:3])}",
                hint="kitaru plan --out FILE makes a new one",
            )
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
            raise KitaruConflictError(
                f"the saved plan is out of date: {'; '.join(moved)}", hint="kitaru plan --out FILE makes a new one"
            )

    def _is_shared(self, plan: Plan) -> bool:
        """Whether the plan's store may be this one, though its address is another.

        A folder's path may differ between machines that share it. Then its history is the same, once there is any, and
        the folder itself, if the plan knows it: a copy has the history alone.
        """
        known = not plan.store_id or plan.store_id == wiring.store_id(self._session.store)
        return plan.base > 0 and plan.store.startswith("file:") and known


def _files(places: Sequence[Path]) -> list[Path]:
    """The files among ``places``, and the plans in the folders among them."""
    return [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]


def _must_be_names(flows: Sequence[str]) -> None:
    for name in flows:
        if name.endswith(".json") or "/" in name:
            raise KitaruUsageError(
                f"{name} is no flow; a saved plan is applied alone: it names its flows itself",
                hint=f"kitaru apply {shlex.quote(name)}",
            )


def _must_be_whole(flows: Sequence[str], prune: bool, force: bool) -> None:
    """A saved plan is carried out as it was shown: its flows were chosen when it was made."""
    given = [*flows, *(["--prune"] if prune else []), *(["--force"] if force else [])]
    if given:
        raise KitaruUsageError(
            f"a saved plan is carried out whole, as it was made, without {' '.join(given)}",
            hint=f"{shlex.join(['kitaru', 'plan', *given])} --out FILE makes one; then kitaru apply FILE",
        )


@dataclass(frozen=True, slots=True)
class Initialised:
    """A manifest for the flows that are here: as JSON data, and as lines for a person."""

    data: dict[str, Any]
    lines: tuple[str, ...]


def initialise(folder: Path, project: str | None) -> Initialised:
    """Write ``kitaru.yaml`` in ``folder`` unless there is one; safe to run again."""
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
    return Initialised(data, tuple(_init_lines(result)))


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
