"""``deploy`` and ``build``: a new version of a flow from the working tree as it is, and exactly one route."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kitaru import wiring
from kitaru.client.arguments import asked_image
from kitaru.client.session import Session
from kitaru.core.commit import next_lockfile
from kitaru.core.deploying import (
    ManifestEdit,
    Order,
    agreeing,
    changed_keys,
    changed_spec,
    check_not_renamed,
    flow_name,
    plan_release,
    proposed,
    tags_of,
)
from kitaru.errors import KitaruInputError, KitaruManifestError, KitaruSourceError, KitaruUsageError, Problem
from kitaru.model.image import ImageSettings
from kitaru.model.lockfile import Lockfile
from kitaru.model.manifest import FlowSpec, Manifest
from kitaru.model.route import describe_holders
from kitaru.model.snapshot import Snapshot
from kitaru.release.applier import Applier
from kitaru.release.manifest_sync import Keeper, Kept, Mode
from kitaru.release.mover import Deployer
from kitaru.release.releases import Releases
from kitaru.release.workshop import Declared, Workshop, declared, made_up
from kitaru.settings import MANIFEST

if TYPE_CHECKING:
    from kitaru.flows.flow import Flow

TARGET_HINT = "kitaru deploy flows/research.py:research_agent"


@dataclass(frozen=True, slots=True)
class Asking:
    """What the caller gave: None is not given, and then the manifest's word, or the decorator's, stands."""

    inputs: Mapping[str, Any] | None = None
    image: str | Mapping[str, Any] | ImageSettings | None = None
    stack: str | None = None
    tag: str | None = None
    exclusive: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """One route that a verb moved, in words: ``before`` is ``nothing`` for a new one."""

    tag: str
    before: str
    after: str
    exclusive: bool


@dataclass(frozen=True, slots=True)
class Released:
    """What a deploy or a build did. ``version`` is None where the manifest alone was edited.

    ``changed`` are the files that were built without being committed.
    """

    flow: str
    target: str
    version: int | None
    generation: int
    moves: tuple[Moved, ...] = ()
    snapshot: Snapshot | None = None
    changed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    manifest: Kept = field(default_factory=Kept)


@dataclass(frozen=True, slots=True)
class _Job:
    """A deploy, settled: which flow, what its entry says, and the manifest that it is built from."""

    order: Order
    target: str
    spec: FlowSpec
    keys: Mapping[str, Any]
    before: FlowSpec | None
    loaded: Declared


class Releasing:
    """Verbs that mint versions."""

    def __init__(self, session: Session, releases: Releases) -> None:
        self._session = session
        self._releases = releases

    def release(self, target: str | Flow[..., Any], asking: Asking, *, verb: str, mode: Mode = "edit") -> Released:
        """Add a version of ``target``, and lead its tag there. Everything that can be refused is, before that.

        Raises ``KitaruUsageError`` (a target, a tag, an image that is none), ``KitaruSourceError`` (no Git repository,
        no commit, code that does not import), ``KitaruManifestError``, ``KitaruInputError``, ``KitaruStateError`` (a
        protected route): nothing has changed then.
        """
        keeper = Keeper(self._session, mode)
        job = self._job(target, asking, keeper, verb)
        head = self._releases.head(verified=True)
        check_not_renamed(job.loaded.manifest, head, job.order.flow)
        keeper.check_free(head, job.order.flow, *tags_of(job.order, head))
        if mode == "only":
            return self._written(job, keeper, head)
        repository = wiring.Repository(job.loaded, self._session.settings)
        workshop, changed = self._workshop(repository, job.loaded, keeper)
        if keeper.writes:
            protect = job.loaded.manifest.protect
            job = replace(job, order=replace(job.order, owner=workshop.owner, protect=protect))
        snapshot = self._snapshot(job, workshop)
        warnings = (*workshop.doubts, *workshop.warnings([job.spec]))
        self._foresee(job, snapshot, keeper, workshop, head)
        if head.generation == 0:
            wiring.probe_store(self._session.store)
        session = self._session
        applier = Applier(session.store, session.project, self._releases, session.clock, session.reporter)
        plan, lock = Deployer(applier).deploy(
            job.order, snapshot, workshop, by=repository.actor(), verb=verb, message=asking.message
        )
        (done,) = plan.flows
        version = done.version or 0
        tags = frozenset(move.tag for move in done.moves)
        edit = agreeing(job.before, lock, job.order.flow, tags, built=version)
        return Released(
            flow=job.order.flow,
            target=job.target,
            version=version,
            generation=lock.generation,
            moves=tuple(
                Moved(move.tag, describe_holders(move.before), describe_holders(move.after), move.exclusive)
                for move in done.moves
            ),
            snapshot=snapshot,
            changed=changed,
            warnings=warnings,
            notes=(*done.notes, *(edit.notes if keeper.writes else ())),
            manifest=self._kept(job, keeper, lock, tags, version),
        )

    # --- what is asked for --------------------------------------------------------------------------------------------

    def _job(self, target: str | Flow[..., Any], asking: Asking, keeper: Keeper, verb: str) -> _Job:
        original = keeper.loaded
        text = self._place(target, keeper) if isinstance(target, str) else self._place_of(target, keeper)
        if original is not None and ":" not in text:
            name, text = text, original.manifest.flows[text].target
        elif original is not None:
            name = flow_name(original.manifest, text)
        else:
            name = text.rpartition(":")[2]
        before = original.manifest.flows.get(name) if original is not None else None
        keys = changed_keys(before, text, inputs=asking.inputs, image=asked_image(asking.image), stack=asking.stack)
        try:
            spec = changed_spec(before, keys if before else {"target": text, **keys})
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise KitaruUsageError(f"{text} can't be deployed: {problem['msg']}", hint=TARGET_HINT) from error
        if original is not None:
            loaded = declared(original, name, spec)
        else:
            loaded = made_up(self._root(target), self._session.project, name, spec)
        tag = None if verb == "build" else "default" if asking.tag is None else asking.tag
        return _Job(Order(name, tag, asking.exclusive), text, spec, keys, before, loaded)

    def _place(self, target: str, keeper: Keeper) -> str:
        """The target with its file relative to the source's root; or the name of a flow that the manifest declares."""
        place, colon, name = target.rpartition(":")
        if not colon:
            if keeper.manifest is not None and target in keeper.manifest.flows:
                return target
            raise KitaruUsageError(
                f"{target} names no flow: expected path/to/file.py:flow or package.module:flow", hint=TARGET_HINT
            )
        if not place or not name.isidentifier():
            raise KitaruUsageError(
                f"{target} is no target: expected path/to/file.py:flow or package.module:flow", hint=TARGET_HINT
            )
        if not place.endswith(".py") and "/" not in place:
            return target
        root = self._root(target)
        here, there = self._session.settings.cwd / place, root / place
        found = here if here.is_file() else there
        if not found.is_file():
            raise KitaruSourceError(f"there is no file {place} in {self._session.settings.cwd}", hint=TARGET_HINT)
        return f"{self._below(root, found)}:{name}"

    def _place_of(self, flow: Flow[..., Any], keeper: Keeper) -> str:
        """The target of an imported flow: its file, and its name there."""
        path = Path(flow.func.__code__.co_filename)
        if not path.is_file():
            raise KitaruSourceError(
                f"{flow.name} is in no file, so that no other process could import it",
                hint="put it into a module of the repository, then import it from there",
            )
        return self._place(f"{path.absolute()}:{flow.func.__name__}", keeper)

    def _root(self, target: str | Flow[..., Any]) -> Path:
        """The folder that targets are relative to: the manifest's, else that of the Git repository around the file."""
        settings = self._session.settings
        if settings.manifest is not None:
            return settings.manifest.parent.resolve()
        text = target if isinstance(target, str) else target.func.__code__.co_filename
        path = settings.cwd / text.rpartition(":")[0] if isinstance(target, str) else Path(text).absolute()
        return wiring.working_tree(path.parent if path.is_file() else settings.cwd).resolve()

    def _below(self, root: Path, path: Path) -> str:
        place = Path(os.path.normpath(path.absolute().parent.resolve() / path.name))
        if not place.is_relative_to(root):
            raise KitaruSourceError(
                f"{place} is not below {root}, whose source is deployed",
                hint="run the command in the repository that has the file, or give its manifest with -f",
            )
        return place.relative_to(root).as_posix()

    # --- what it is built from ----------------------------------------------------------------------------------------

    def _workshop(
        self, repository: wiring.Repository, loaded: Declared, keeper: Keeper
    ) -> tuple[Workshop, tuple[str, ...]]:
        """The working tree as it is; the manifest's own changes count as none, since Kitaru itself makes them."""
        ignoring = [loaded.path] if keeper.loaded is not None else []
        state = repository.source.commit(allow_dirty=True, ignoring=ignoring)
        commit, doubts = self._session.on_branch(state.commit, repository.loaded.root)
        workshop = Workshop(
            loaded=loaded,
            source=repository.source,
            describer=repository,
            reporter=self._session.reporter,
            tree=state.tree,
            commit=commit,
            prefix=state.prefix,
            doubts=doubts,
        )
        return workshop, tuple(state.changed)

    def _snapshot(self, job: _Job, workshop: Workshop) -> Snapshot:
        try:
            (desired,) = workshop.desired([job.order.flow])
        except KitaruManifestError as error:
            if job.before is not None:
                raise
            # Nothing of it is in a file yet: it is the target that is wrong, not the manifest.
            raise KitaruSourceError(
                "; ".join(problem.message for problem in error.problems),
                hint=next((problem.hint for problem in error.problems if problem.hint), TARGET_HINT),
            ) from error
        schema = {**desired.snapshot.input_schema, "required": []}
        found = self._session.check_inputs(schema, job.spec.inputs) if job.spec.inputs else ()
        if found:
            raise KitaruInputError(
                f"the inputs don't fit {job.order.flow}: {'; '.join(found)}",
                problems=tuple(Problem(text) for text in found),
                hint="""--input '{"topic": "durable execution"}'""",
            )
        return desired.snapshot

    # --- what the manifest says then ----------------------------------------------------------------------------------

    def _foresee(self, job: _Job, snapshot: Snapshot, keeper: Keeper, workshop: Workshop, head: Lockfile) -> None:
        """Refuse now what would be refused once the store has changed: a tag, another's flow, an edit."""
        flow = job.order.flow
        plan, edits = plan_release(job.order, snapshot, head)
        if not keeper.writes:
            return
        state = head.flow(flow)
        ours = state is not None and state.managed and state.owner == workshop.owner
        owners = [state.owner] if state is not None and state.managed else []
        beside = workshop.beside(() if ours else (flow,), owners=owners, uncommitted=True)
        other = next((one.path for one in beside.found if flow in one.flows), "")
        if other:
            other = f"{other} at the root" if other == MANIFEST else other
            raise KitaruUsageError(
                f"{flow} of project {head.project} is declared by {other} of this repository",
                hint="deploy it from that folder, or declare this flow here under a name of its own",
            )
        following = next_lockfile(head, edits, at="", by="")
        if isinstance(following, Lockfile):
            tags = frozenset(move.tag for move in plan.moves)
            edit = agreeing(job.before, following, flow, tags, built=plan.version or 0)
            keeper.rehearse(replace(edit, keys=job.keys))

    def _kept(self, job: _Job, keeper: Keeper, lock: Lockfile, tags: frozenset[str], version: int) -> Kept:
        flow = job.order.flow
        if not keeper.writes:
            return keeper.untouched(flow, lock)

        def draw(state: Lockfile, manifest: Manifest) -> ManifestEdit:
            edit = agreeing(manifest.flows.get(flow), state, flow, tags, built=version)
            return replace(edit, keys=job.keys)

        return keeper.keep(draw, lock, self._releases)

    def _written(self, job: _Job, keeper: Keeper, head: Lockfile) -> Released:
        """The manifest alone: the order's tag leads to head, for the pull request that asks for it."""
        edit = replace(proposed(job.before, head, job.order), keys=job.keys)
        keeper.rehearse(edit)
        kept = keeper.keep(lambda _lock, _manifest: edit, head)
        if kept.problem:
            raise KitaruManifestError([Problem(kept.problem, file=kept.path)])
        return Released(job.order.flow, job.target, None, head.generation, manifest=kept)
