"""Carry out a plan: make its builds exist, then append one generation. Decides nothing that the plan does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from kitaru.core.commit import edit_words
from kitaru.core.protection import guards
from kitaru.core.renames import renamed
from kitaru.core.rollback import refusals
from kitaru.errors import KitaruConflictError, KitaruIntegrityError, KitaruStateError
from kitaru.model import address
from kitaru.model.address import canonical_json, timestamp
from kitaru.model.lockfile import (
    AddVersion,
    Broken,
    Edit,
    FlowState,
    Generation,
    Lockfile,
    Move,
    Release,
    Rename,
    VersionTable,
)
from kitaru.model.manifest import FlowSpec
from kitaru.model.plan import Build, Plan
from kitaru.model.route import Assignment
from kitaru.model.snapshot import Commit
from kitaru.ports import Clock, Reporter, Step
from kitaru.release.planner import author_of
from kitaru.release.releases import Releases, Turns
from kitaru.release.workshop import Workshop
from kitaru.store.objects import has_archive, put_archive, put_object, read_table
from kitaru.store.port import Store

UPLOADS_AT_ONCE = 8
LINES_SHOWN = 10
"""How many of the edits that lost a race, and of the rules that forbid a plan, are shown one by one."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan's edits, with all that they lead to stored. ``tables`` are the version tables that they build upon."""

    edits: tuple[Edit, ...]
    tables: Mapping[str, str]

    def fits(self, flows: Mapping[str, FlowState]) -> bool:
        """Whether these are still the version tables of that state."""
        return all(flow in flows and flows[flow].table == table for flow, table in self.tables.items() if table)


@dataclass(frozen=True, slots=True)
class Applier:
    """Applies plans of one project to one store."""

    store: Store
    project: str
    releases: Releases
    clock: Clock
    reporter: Reporter

    def apply(
        self,
        plan: Plan,
        workshop: Workshop,
        *,
        by: str,
        saved: bool,
        message: str = "",
        lock: Lockfile | None = None,
    ) -> Lockfile:
        """Carry out ``plan`` and return the new state; ``lock`` is the newest one, if that was read already.

        A ``saved`` plan must still stand on the newest generation. Any other goes on after a lost race, as long as each
        edit's own requirement holds. Raises ``KitaruConflictError`` otherwise, with the winner; ``KitaruStateError`` if
        a route may not move from this commit. After an error no route has moved.
        """
        lock = self.releases.newest(lock)
        if saved:
            self.must_stand(plan, lock)
        _must_be_later(plan, workshop)
        flows = _admitted(plan, lock, workshop, self.releases).flows
        prepared = self.prepared(plan, lock, workshop, by)
        self.reporter.step(Step("commit", f"writing generation {lock.generation + 1}"))
        turns = Turns(self.releases)
        while True:
            edits = self._recounted(prepared.edits, flows)
            outcome = self.releases.append(lock, edits, by=by, commit=plan.commit, message=message)
            if isinstance(outcome, Lockfile):
                return outcome
            if isinstance(outcome, tuple):
                raise _conflict(plan, outcome, lock, self.releases)
            if saved:
                raise _stale(plan, outcome.winner)
            lock = turns.again(outcome)
            # Somebody may have renamed a flow meanwhile, or applied a rule, which no edit's own requirement knows of.
            flows = _admitted(plan, lock, workshop, self.releases).flows
            if not prepared.fits(flows):
                # A version was deleted meanwhile: the new table must know.
                prepared = self.prepared(plan, lock, workshop, by)

    def must_stand(self, plan: Plan, lock: Lockfile) -> None:
        """Raise ``KitaruConflictError`` if ``lock`` is not the state that the plan was made on."""
        if (plan.base, plan.base_entry) == (lock.generation, lock.entry):
            return
        if plan.base > lock.generation:
            raise KitaruConflictError(
                f"the plan was made on generation {plan.base}; this store has {lock.generation} only",
                hint=f"the plan is for {plan.store}; check --store and --target",
            )
        following = self.releases.entry(plan.base + 1)
        if following is None:
            raise KitaruConflictError("the plan was made on another history of this project", hint="kitaru plan")
        raise _stale(plan, following[0])

    def prepared(self, plan: Plan, lock: Lockfile, workshop: Workshop, by: str) -> Prepared:
        """Store the objects of the builds; the plan's edits with the digest of each flow's new version table."""
        builds = plan.builds
        flows = _named(plan, lock).flows
        states = {flow: flows.get(flow) for flow, _ in builds}
        rows = {flow: self._rows(flow, state) for flow, state in states.items()}
        self._upload_sources(builds, workshop, rows)
        at = timestamp(self.clock.now())
        tables: dict[str, str] = {}

        def write(flow: str, build: Build) -> str:
            self._write_snapshot(flow, build)
            return self._write_table(flow, build, plan.commit, rows[flow], at, by)

        with ThreadPoolExecutor(max_workers=UPLOADS_AT_ONCE) as pool:
            jobs = [pool.submit(write, flow, build) for flow, build in builds]
            for done, ((flow, build), job) in enumerate(zip(builds, jobs, strict=True), 1):
                tables[flow] = job.result()
                self.reporter.step(Step("build", f"{flow} v{build.version}", done, len(builds)))
        edits = tuple(_completed(edit, tables, plan.commit) for edit in plan.edits)
        return Prepared(edits, {flow: state.table if state else "" for flow, state in states.items()})

    def _recounted(self, edits: tuple[Edit, ...], flows: Mapping[str, FlowState]) -> tuple[Edit, ...]:
        """The edits, each move with its flow's present count of deletions if all its versions are still there."""
        minted = {(edit.flow, edit.version) for edit in edits if isinstance(edit, AddVersion)}
        tables: dict[str, dict[int, Release]] = {}
        found: list[Edit] = []
        for edit in edits:
            state = flows.get(edit.flow)
            if isinstance(edit, Move) and state is not None and state.deletions != edit.deletions:
                if edit.flow not in tables:
                    tables[edit.flow] = {row.version: row for row in self._rows(edit.flow, state)}
                rows = tables[edit.flow]
                wanted = [one for one in edit.holders if (edit.flow, one.version) not in minted]
                if all(_leads_to(rows.get(one.version), one) for one in wanted):
                    edit = edit.model_copy(update={"deletions": state.deletions})
            found.append(edit)
        return tuple(found)

    def _rows(self, flow: str, state: FlowState | None) -> tuple[Release, ...]:
        """The flow's versions. The table's rows alone: a flow that was renamed has another name in an older table."""
        return () if state is None else read_table(self.store, self.project, state.table, flow).releases

    def _upload_sources(
        self,
        builds: tuple[tuple[str, Build], ...],
        workshop: Workshop,
        rows: Mapping[str, tuple[Release, ...]],
    ) -> None:
        """One archive and one listing for each distinct source tree that is not there yet."""
        flows = workshop.loaded.manifest.flows
        sources = {build.snapshot.source: flows[flow] for flow, build in builds}
        needed = {row.source for releases in rows.values() for row in releases if not row.deleted}
        for done, (digest, flow) in enumerate(sources.items(), 1):
            if digest in needed and has_archive(self.store, self.project, digest):
                continue
            selection = workshop.selection(flow)
            if selection.digest != digest:
                raise KitaruConflictError("the source is not the one that was planned", hint="kitaru plan")
            upload = partial(self._packed, workshop, flow, done, len(sources))
            put_archive(self.store, self.project, digest, canonical_json(selection.tree.listing()), upload)

    def _packed(self, workshop: Workshop, flow: FlowSpec, done: int, total: int) -> bytes:
        archive = workshop.archive(flow)
        self.reporter.step(Step("upload", f"source {_size(len(archive))}", done, total))
        return archive

    def _write_snapshot(self, flow: str, build: Build) -> None:
        body = build.snapshot.canonical()
        if address.digest(body) != build.snapshot_digest:
            raise KitaruIntegrityError(
                f"the plan's snapshot of {flow} was changed after it was made", hint="kitaru plan"
            )
        put_object(self.store, self.project, body, sha=build.snapshot_digest)

    def _write_table(self, flow: str, build: Build, commit: Commit, rows: tuple[Release, ...], at: str, by: str) -> str:
        release = Release(
            version=build.version,
            snapshot=build.snapshot_digest,
            source=build.snapshot.source,
            at=at,
            by=by,
            commit=commit,
        )
        table = VersionTable(flow=flow, releases=rows).adding(release)
        return put_object(self.store, self.project, table.canonical())


def _completed(edit: Edit, tables: Mapping[str, str], commit: Commit) -> Edit:
    """The edit with the digest of its table, or its commit: two commits of the same files have the same plan."""
    match edit:
        case AddVersion(flow=flow):
            return edit.model_copy(update={"table": tables[flow]})
        case Rename():
            return edit.model_copy(update={"commit": commit.sha})
        case _:
            return edit


def _leads_to(row: Release | None, holder: Assignment) -> bool:
    return row is not None and not row.deleted and row.snapshot == holder.snapshot


def _named(plan: Plan, lock: Lockfile) -> Lockfile:
    """The state in which flows have the names that the plan gives them."""
    made = renamed(lock, plan.edits)
    return made if isinstance(made, Lockfile) else lock


def _admitted(plan: Plan, lock: Lockfile, workshop: Workshop, releases: Releases) -> Lockfile:
    """The state that the plan's edits build upon, flows having the names that it gives them.

    Raises if a flow has another name by now, or a protected route forbids it.
    """
    named = _named(plan, lock)
    _must_have_their_names(plan, named)
    _must_be_free(plan, named, workshop, releases)
    return named


def _must_have_their_names(plan: Plan, named: Lockfile) -> None:
    for edit in plan.edits:
        state = named.flows.get(edit.flow)
        if state is not None and state.renamed_to:
            raise KitaruConflictError(
                f"{edit.flow} was renamed to {state.renamed_to} after the plan was made", hint="kitaru plan"
            )


def _must_be_later(plan: Plan, workshop: Workshop) -> None:
    """Raise ``KitaruStateError`` for a route that would move back. Each edit then holds on to the floor that it saw."""
    older = refusals(plan.edits, workshop.contains)
    if older:
        raise KitaruStateError(
            f"this commit is not later than the one that is live:\n{_lines(older)}",
            hint="a target that several branches share says forward: false",
        )


def _must_be_free(plan: Plan, named: Lockfile, workshop: Workshop, releases: Releases) -> None:
    """Raise ``KitaruStateError`` for protected routes, by the state and the commit at hand, not the plan's guards."""
    wanted = workshop.loaded.manifest.protect
    found = guards(wanted, plan.edits, named, workshop.commit, author_of(releases))
    if not found:
        return
    raise KitaruStateError(
        f"protected routes stand in the way:\n{_lines(found)}",
        hint="apply from that branch, clean; a rule that is not in this manifest yet comes with a merge. "
        "A wrong rule is taken back where it binds: git switch to that branch (-c where it is gone), change protect:, "
        "commit, kitaru apply",
    )


def _lines(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - LINES_SHOWN} more"] if len(texts) > LINES_SHOWN else []
    return "\n".join(f"  {text}" for text in (*texts[:LINES_SHOWN], *more))


def _size(count: int) -> str:
    return f"{count / 1_000_000:.1f} MB" if count >= 100_000 else f"{count / 1000:.1f} kB"


def _to_the_second(at: str) -> str:
    return f"{at[:19]}Z"


def _stale(plan: Plan, winner: Generation) -> KitaruConflictError:
    return KitaruConflictError(
        f"the plan was made on generation {plan.base}, and {winner.by} wrote generation {winner.generation} "
        f"at {_to_the_second(winner.at)}: {describe_edits(winner)}",
        hint="kitaru plan --out FILE makes a new one",
    )


def _conflict(plan: Plan, broken: tuple[Broken, ...], lock: Lockfile, releases: Releases) -> KitaruConflictError:
    lines = []
    for one in broken[:LINES_SHOWN]:
        subject = f"{one.flow} route {one.tag}" if one.tag else one.flow
        who = f" (moved by {one.by} at {_to_the_second(one.at)}, generation {one.generation})" if one.by else ""
        lines.append(f"  {subject}: {one.message}{who}")
    if len(broken) > LINES_SHOWN:
        lines.append(f"  and {len(broken) - LINES_SHOWN} more")
    found = releases.entry(lock.generation)
    by = f"; {found[0].by} wrote it at {_to_the_second(found[0].at)}" if found else ""
    return KitaruConflictError(
        f"somebody else was first: the store is at generation {lock.generation}, the plan was made on "
        f"{plan.base}{by}:\n" + "\n".join(lines),
        hint="kitaru plan shows what is left to do",
    )


def describe_edits(entry: Generation) -> str:
    """The edits of a generation in a few words: ``agent v2 built, agent default: v1 → v2``."""
    parts = [f"{edit.flow} {edit_words(edit)}" for edit in entry.edits]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
