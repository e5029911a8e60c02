"""The repository around the manifest in reach, for verbs that build from it or edit it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kitaru import wiring
from kitaru.client.session import Session
from kitaru.core.consequences import InUse, Stored
from kitaru.core.routing import Order, changed_keys, changed_spec, flow_name
from kitaru.errors import (
    KitaruError,
    KitaruInputError,
    KitaruManifestError,
    KitaruSourceError,
    KitaruUsageError,
    Problem,
)
from kitaru.manifest.port import ManifestFile
from kitaru.model import address
from kitaru.model.lockfile import Lockfile
from kitaru.model.manifest import FlowSpec
from kitaru.model.snapshot import Commit, ImageSettings, Snapshot
from kitaru.release.importing import Importer
from kitaru.release.manifest_sync import ManifestSync, Mode, check_mode
from kitaru.release.mover import Release
from kitaru.release.planner import Planner
from kitaru.release.workshop import Workshop, declared, made_up, owner_of
from kitaru.settings import MANIFEST, Settings, ci_branch

if TYPE_CHECKING:
    from kitaru.flows.flow import Flow
    from kitaru.release.applier import Applier

TARGET_HINT = "kitaru deploy flows/research.py:research_agent"


# --- the manifest in reach --------------------------------------------------------------------------------------------


def manifest_sync(session: Session, mode: Mode) -> ManifestSync:
    """The manifest in reach, for a verb that changes the store.

    A verb that leaves the manifest alone does without one that can't be read: the applied rules bind anyway.
    """
    check_mode(mode)
    settings = session.settings
    if mode == "only" and settings.manifest is None:
        raise KitaruUsageError("there is no kitaru.yaml here to edit", hint="kitaru init")

    read = partial(wiring.load_manifest, settings)  # as the file is now: a client may live longer than one state of it
    file: ManifestFile | None = None
    try:
        file = read() if settings.manifest is not None else None
    except KitaruManifestError:
        if mode != "leave":
            raise
    session.forget_manifest()
    other = partial(_other_manifest, session, file)
    return ManifestSync(mode, file, read, wiring.edit, _elsewhere(session.settings, file), other)


def _elsewhere(settings: Settings, file: ManifestFile | None) -> str:
    """Why the manifest is not about the store and project that the verb acts on; empty if it is."""
    if file is None:
        return ""
    project, store = file.manifest.project, file.manifest.store
    if settings.project != project:
        return f"it is about project {project}, this is {settings.project}"
    own = replace(settings, store=store or settings.store, base=file.root if store else settings.base)
    if wiring.absolute_store(own) != wiring.absolute_store(settings):
        return f"it is about store {store}, this is {settings.store}"
    return ""


def _other_manifest(session: Session, file: ManifestFile | None, flow: str, lock: Lockfile) -> str:
    """The path of another manifest of the repository that declares the flow; else nothing."""
    state = lock.flow(flow)
    if file is None or state is None or not state.managed:
        return ""
    try:
        prefix = wiring.git_path(file.root, "--show-prefix")
    except KitaruSourceError:
        return ""
    other = state.owner or MANIFEST
    declared = state.owner != owner_of(prefix, file.path.name) and flow in wiring.Repository(
        file, session.settings
    ).declared_by(other, prefix)
    return other if declared else ""


def importer(session: Session) -> Importer:
    """The importer of flows into the manifest. Raises ``KitaruUsageError`` if that is about another store."""
    sync, loaded = manifest_sync(session, "only"), session.manifest
    if sync.elsewhere:
        raise KitaruUsageError(
            f"{loaded.path.name} can't take these flows in: {sync.elsewhere}",
            hint="run it without --store and --project, or with those of the manifest",
        )
    workshop: Workshop | None
    try:
        workshop, _ = open_workshop(session, wiring.Repository(loaded, session.settings))
    except KitaruSourceError:
        workshop = None
    repository = partial(wiring.Repository, settings=session.settings)
    return Importer(session.store, session.releases.head(), loaded, sync.editor, workshop, repository)


# --- what is built ----------------------------------------------------------------------------------------------------


def open_workshop(
    session: Session, repository: wiring.Repository, *, allow_dirty: bool = True, ignoring: Sequence[Path] = ()
) -> tuple[Workshop, tuple[str, ...]]:
    """The working tree as it is, and the files that are not committed; those of ``ignoring`` do not count."""
    loaded = repository.loaded
    state = repository.source.commit(allow_dirty=allow_dirty, ignoring=ignoring)
    commit, doubts = _on_branch(state.commit, loaded.root, session)
    workshop = Workshop(
        loaded=loaded,
        source=repository.source,
        describer=repository,
        reporter=session.reporter,
        tree=state.tree,
        commit=commit,
        prefix=state.prefix,
        doubts=doubts,
    )
    return workshop, tuple(state.changed)


def _on_branch(commit: Commit, root: Path, session: Session) -> tuple[Commit, tuple[str, ...]]:
    """The commit with the branch that CI names, if it was checked out without one; and why it is on none.

    Anybody can set variables: a branch that Git has, and that does not contain the commit, does not count.
    """
    branch = ci_branch(commit.sha, session.settings.environ) if commit.branch is None else None
    if branch is None:
        return commit, ()
    if wiring.git.can_be_of(root, commit.sha, branch):
        return commit.model_copy(update={"branch": branch}), ()
    named = f"the variables of CI say that {address.short(commit.sha)} is on {branch}"
    doubt = f"{branch} does not contain it here, so it counts as on no branch"
    return commit, (f"{named}; {doubt} (git fetch, if {branch} is behind)",)


def planner(session: Session) -> Planner:
    """The planner of the session's project; it also adds the consequences of a move."""

    def used_by(flow: str) -> list[InUse]:
        return [InUse(one.exec_id, one.version, one.status) for one in session.executions.open_ones(flow)]

    def stored_inputs(flow: str, limit: int) -> list[Stored]:
        """Inputs that can't be read say nothing."""
        stored = []
        for execution in session.executions.newest(flow=flow, limit=limit):
            with suppress(KitaruError):
                inputs = session.value(execution.inputs, f"the inputs of {execution.exec_id}", as_plain=True)
                if isinstance(inputs, dict):
                    stored.append(Stored(execution.exec_id, inputs))
        return stored

    return Planner(
        store=session.store,
        project=session.project,
        releases=session.releases,
        check_inputs=wiring.check_inputs,
        used_by=used_by,
        stored_inputs=stored_inputs,
        store_id=wiring.store_id(session.store),
    )


def applier(session: Session) -> Applier:
    """The applier of the session's project."""
    # Late: a plan needs no applier, and threads' machinery comes with it.
    from kitaru.release.applier import Applier

    return Applier(session.store, session.project, session.releases, session.clock, session.reporter)


def stack_doubts(session: Session, snapshots: Iterable[Snapshot]) -> list[str]:
    """What their stacks can't give these snapshots: an invoke from here would be refused."""
    found = []
    for snapshot in snapshots:
        runner = wiring.runner_of(session.settings, snapshot.stack)
        found += [
            f"an invoke from here would be refused: {text} ({cure})"
            for text, cure in runner.lacks(snapshot.canonical())
        ]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Job:
    """A deploy before anything is built: the flow, its entry, and the manifest with that entry."""

    order: Order
    target: str
    spec: FlowSpec
    keys: dict[str, Any]
    before: FlowSpec | None
    loaded: ManifestFile


def deploy_job(
    session: Session,
    sync: ManifestSync,
    target: str | Flow[..., Any],
    tag: str | None,
    *,
    exclusive: bool,
    inputs: Mapping[str, Any] | None,
    image: ImageSettings | None,
    stack: str | None,
) -> Job:
    """The deploy of ``target``: ``flows/work.py:agent``, ``flows.work:agent``, a flow's name, an imported flow.

    Raises ``KitaruUsageError`` for a target that names no flow, ``KitaruSourceError`` for a file that is not there.
    """
    original, text = sync.file, target if isinstance(target, str) else _target_of(target)
    root = _root(session.settings, text)
    if original is not None and text in original.manifest.flows:
        name, text = text, original.manifest.flows[text].target
    else:
        text = _placed(text, root, session.settings.cwd)
        name = flow_name(original.manifest, text) if original is not None else text.rpartition(":")[2]
    before = original.manifest.flows.get(name) if original is not None else None
    keys = changed_keys(before, text, inputs=inputs, image=image, stack=stack)
    try:
        spec = changed_spec(before, keys if before else {"target": text, **keys})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise KitaruUsageError(f"{text} can't be deployed: {problem['msg']}", hint=TARGET_HINT) from error
    loaded = declared(original, name, spec) if original is not None else made_up(root, session.project, name, spec)
    return Job(Order(name, tag, exclusive), text, spec, keys, before, loaded)


def _placed(target: str, root: Path, cwd: Path) -> str:
    """The target with its file, looked for from the present folder, then from the root, relative to the root."""
    place, colon, name = target.rpartition(":")
    if not place or not name.isidentifier():
        raise KitaruUsageError(
            f"{target} {'is no target' if colon else 'names no flow'}: "
            "expected path/to/file.py:flow or package.module:flow",
            hint=TARGET_HINT,
        )
    if not place.endswith(".py") and "/" not in place:
        return target
    path = cwd / place if (cwd / place).is_file() else root / place
    if not path.is_file():
        raise KitaruSourceError(f"there is no file {place} in {cwd}", hint=TARGET_HINT)
    path = Path(os.path.normpath(path.absolute().parent.resolve() / path.name))
    if not path.is_relative_to(root):
        raise KitaruSourceError(
            f"{path} is not below {root}, whose source is deployed",
            hint="run the command in the repository that has the file, or give its manifest with -f",
        )
    return f"{path.relative_to(root).as_posix()}:{name}"


def _target_of(flow: Flow[..., Any]) -> str:
    path = Path(flow.func.__code__.co_filename)
    if not path.is_file():
        raise KitaruSourceError(
            f"{flow.name} is in no file, so that no other process could import it",
            hint="put it into a module of the repository, then import it from there",
        )
    return f"{path.absolute()}:{flow.func.__name__}"


def _root(settings: Settings, target: str) -> Path:
    """The folder that targets are relative to: the manifest's, else that of the Git repository around the file."""
    if settings.manifest is not None:
        return settings.manifest.parent.resolve()
    path = settings.cwd / target.rpartition(":")[0]
    return Path(wiring.git_path(path.parent if path.is_file() else settings.cwd, "--show-toplevel")).resolve()


def build(session: Session, job: Job, sync: ManifestSync, head: Lockfile) -> Release:
    """The job's flow, built from the working tree as it is.

    The manifest's own changes do not count as changes: Kitaru itself makes them.
    Raises ``KitaruSourceError`` for code that can't be imported, ``KitaruInputError``, ``KitaruUsageError`` for a flow
    that another manifest of the repository declares.
    """
    ignoring = [job.loaded.path] if sync.file is not None else []
    workshop, changed = open_workshop(session, wiring.Repository(job.loaded, session.settings), ignoring=ignoring)
    order = job.order
    if sync.writes:
        order = Order(order.flow, order.tag, order.exclusive, workshop.owner, job.loaded.manifest.protect)
        _check_ours(order.flow, workshop, head)
    snapshot = _snapshot(job, workshop)
    warnings = (*workshop.doubts, *workshop.warnings([job.spec]), *stack_doubts(session, [snapshot]))
    return Release(order, job.target, snapshot, workshop, job.keys, changed, warnings)


def _snapshot(job: Job, workshop: Workshop) -> Snapshot:
    flow = job.order.flow
    try:
        (desired,) = workshop.desired([flow])
    except KitaruManifestError as error:
        if job.before is not None:
            raise
        # Nothing of it is in a file yet: the target is wrong, not the manifest.
        raise KitaruSourceError(
            "; ".join(problem.message for problem in error.problems),
            hint=next((problem.hint for problem in error.problems if problem.hint), TARGET_HINT),
        ) from error
    schema = {**desired.snapshot.input_schema, "required": []}
    wrong = wiring.check_inputs(schema, job.spec.inputs) if job.spec.inputs else ()
    if wrong:
        raise KitaruInputError(
            f"the inputs don't fit {flow}: {'; '.join(wrong)}",
            problems=tuple(Problem(text) for text in wrong),
            hint="""--input '{"topic": "durable execution"}'""",
        )
    return desired.snapshot


def _check_ours(flow: str, workshop: Workshop, head: Lockfile) -> None:
    state = head.flow(flow)
    owners = [state.owner] if state is not None and state.managed else []
    names = () if owners == [workshop.owner] else (flow,)
    beside = workshop.beside(names, owners=owners, uncommitted=True)
    other = next((found.path for found in beside.found if flow in found.flows), "")
    if other:
        other = f"{other} at the root" if other == MANIFEST else other
        raise KitaruUsageError(
            f"{flow} of project {head.project} is declared by {other} of this repository",
            hint="deploy it from that folder, or declare this flow here under a name of its own",
        )
