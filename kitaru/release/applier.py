"""Carry out a plan: make its builds exist, then append one generation. Decides nothing that the plan does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
    Generation,
    Lockfile,
    Release,
    Rename,
    VersionTable,
)
from kitaru.model.manifest import FlowSpec
from kitaru.model.plan import Build, Plan
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
        self._admit(plan, lock, workshop)
        edits = self.prepared(plan.builds, plan.edits, lock, workshop, by)
        self.reporter.step(Step("commit", f"writing generation {lock.generation + 1}"))
        turns = Turns(self.releases)
        while True:
            outcome = self.releases.append(lock, edits, by=by, commit=workshop.commit, message=message)
            if isinstance(outcome, Lockfile):
                return outcome
            if isinstance(outcome, tuple):
                raise _conflict(plan, outcome, lock, self.releases)
            if saved:
                raise _stale(plan, outcome.winner)
            lock = turns.again(outcome)
            # Somebody may have renamed a flow meanwhile, or applied a rule, which no edit's own requirement knows of.
            self._admit(plan, lock, workshop)

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

    def prepared(
        self, builds: tuple[tuple[str, Build], ...], edits: Sequence[Edit], lock: Lockfile, workshop: Workshop, by: str
    ) -> tuple[Edit, ...]:
        """Store the objects of the builds, by flow; the edits with the digest of each flow's new version table."""
        flows, commit = _named(edits, lock).flows, workshop.commit
        # The rows alone: a flow that was renamed has another name in an older table.
        rows = {
            flow: read_table(self.store, self.project, flows[flow].table, flow).releases if flow in flows else ()
            for flow, _ in builds
        }
        self._upload_sources(builds, workshop, rows)
        at = timestamp(self.clock.now())
        tables: dict[str, str] = {}

        def write(flow: str, build: Build) -> str:
            self._write_snapshot(flow, build)
            snapshot = build.snapshot_digest
            release = Release(
                version=build.version, snapshot=snapshot, source=build.snapshot.source, at=at, by=by, commit=commit
            )
            table = VersionTable(flow=flow, releases=rows[flow]).adding(release)
            return put_object(self.store, self.project, table.canonical())

        with ThreadPoolExecutor(max_workers=UPLOADS_AT_ONCE) as pool:
            jobs = [pool.submit(write, flow, build) for flow, build in builds]
            for done, ((flow, build), job) in enumerate(zip(builds, jobs, strict=True), 1):
                tables[flow] = job.result()
                self.reporter.step(Step("build", f"{flow} v{build.version}", done, len(builds)))
        return tuple(_completed(edit, tables, commit) for edit in edits)

    def _admit(self, plan: Plan, lock: Lockfile, workshop: Workshop) -> None:
        """Raise if a flow has another name by now, a protected route forbids the plan, or a route would move back.

        By the state and the commit at hand, not by the plan's own guards.
        """
        named = _named(plan.edits, lock)
        for edit in plan.edits:
            state = named.flows.get(edit.flow)
            if state is not None and state.renamed_to:
                raise KitaruConflictError(
                    f"{edit.flow} was renamed to {state.renamed_to} after the plan was made", hint="kitaru plan"
                )
        rules = workshop.loaded.manifest.protect
        if found := guards(rules, plan.edits, named, workshop.commit, author_of(self.releases)):
            raise KitaruStateError(
                f"protected routes stand in the way:\n{_lines(found)}",
                hint="apply from that branch, clean; a rule that is not in this manifest yet comes with a merge. "
                "A wrong rule is taken back where it binds: git switch to that branch (-c where it is gone), change "
                "protect:, commit, kitaru apply",
            )
        if older := refusals(plan.edits, workshop.contains):
            raise KitaruStateError(
                f"this commit is not later than the one that is live:\n{_lines(older)}",
                hint="a target that several branches share says forward: false",
            )

    def _upload_sources(
        self, builds: tuple[tuple[str, Build], ...], workshop: Workshop, rows: Mapping[str, tuple[Release, ...]]
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

            def packed(flow: FlowSpec = flow, done: int = done) -> bytes:
                archive = workshop.archive(flow)
                size = len(archive)
                text = f"{size / 1_000_000:.1f} MB" if size >= 100_000 else f"{size / 1000:.1f} kB"
                self.reporter.step(Step("upload", f"source {text}", done, len(sources)))
                return archive

            put_archive(self.store, self.project, digest, canonical_json(selection.tree.listing()), packed)

    def _write_snapshot(self, flow: str, build: Build) -> None:
        body = build.snapshot.canonical()
        if address.digest(body) != build.snapshot_digest:
            raise KitaruIntegrityError(
                f"the plan's snapshot of {flow} was changed after it was made", hint="kitaru plan"
            )
        put_object(self.store, self.project, body, sha=build.snapshot_digest)


def _completed(edit: Edit, tables: Mapping[str, str], commit: Commit) -> Edit:
    """The edit with the digest of its table, or its commit: two commits of the same files have the same plan."""
    match edit:
        case AddVersion(flow=flow):
            return edit.model_copy(update={"table": tables[flow]})
        case Rename():
            return edit.model_copy(update={"commit": commit.sha})
        case _:
            return edit


def _named(edits: Sequence[Edit], lock: Lockfile) -> Lockfile:
    """The state in which flows have the names that the edits give them."""
    made = renamed(lock, edits)
    return made if isinstance(made, Lockfile) else lock


def _lines(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - LINES_SHOWN} more"] if len(texts) > LINES_SHOWN else []
    return "\n".join(f"  {text}" for text in (*texts[:LINES_SHOWN], *more))


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
    for one in broken:
        subject = f"{one.flow} route {one.tag}" if one.tag else one.flow
        who = f" (moved by {one.by} at {_to_the_second(one.at)}, generation {one.generation})" if one.by else ""
        lines.append(f"{subject}: {one.message}{who}")
    found = releases.entry(lock.generation)
    by = f"; {found[0].by} wrote it at {_to_the_second(found[0].at)}" if found else ""
    return KitaruConflictError(
        f"somebody else was first: the store is at generation {lock.generation}, the plan was made on "
        f"{plan.base}{by}:\n{_lines(lines)}",
        hint="kitaru plan shows what is left to do",
    )


def describe_edits(entry: Generation) -> str:
    """The edits of a generation in a few words: ``agent v2 built, agent default: v1 → v2``."""
    parts = [f"{edit.flow} {edit_words(edit)}" for edit in entry.edits]
    return ", ".join(parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
