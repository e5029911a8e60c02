"""``flow tag``, ``untag``, ``promote``, ``rollback`` and ``delete``: where a flow's routes lead, moved at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from kitaru import wiring
from kitaru.client.arguments import PREVIOUS
from kitaru.client.session import Session
from kitaru.core import rollback
from kitaru.core.commit import next_lockfile
from kitaru.core.deploying import ManifestEdit
from kitaru.core.resolving import live_flow
from kitaru.core.tagging import (
    Edits,
    agrees,
    described,
    led_with_head,
    promoted,
    rollable,
    rolled_back,
    tagged,
    untagged,
    wish_of,
)
from kitaru.errors import KitaruManifestError, KitaruUsageError, Problem
from kitaru.model.lockfile import Lockfile, Move
from kitaru.model.manifest import Manifest
from kitaru.model.route import DEFAULT_TAG, Route, RouteTarget, describe_holders
from kitaru.release.manifest_sync import Keeper, Kept, Mode
from kitaru.release.mover import Changed, Earlier, Tagger
from kitaru.release.releases import Releases


@dataclass(frozen=True, slots=True)
class Rerouted:
    """What a verb did to one flow. ``changed`` is False where everything was so already.

    ``before`` and ``after`` are the route's holders in words (``nothing`` for no route); ``held`` says that a rollback
    left a hold, ``hold_ended`` that the verb took one away; ``lost`` are the labels that a deleted version held;
    ``skipped`` says which versions a rollback passed over on its way back, and why; ``rolled_back`` who took what the
    route leads to now off it before, and why; ``converted``: a shared label became an exclusive route, or vice versa.
    """

    flow: str
    tag: str
    before: str
    after: str
    exclusive: bool
    changed: bool
    generation: int
    version: int | None = None
    held: bool = False
    lost: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    manifest: Kept = field(default_factory=Kept)
    hold_ended: bool = False
    rolled_back: tuple[str, ...] = ()
    converted: bool = False


@dataclass(frozen=True, slots=True)
class _Deed:
    """One verb on one flow: what it decides in a state, and the tags that it moves there.

    ``keeps_head``: a shared label that the manifest gives head keeps it there.
    """

    flow: str
    verb: str
    decide: Callable[[Lockfile], Edits]
    tags: Callable[[Lockfile], frozenset[str]]
    message: str = ""
    keeps_head: bool = False


class Routing:
    """Verbs that move routes of versions that are there."""

    def __init__(self, session: Session, releases: Releases) -> None:
        self._session = session
        self._releases = releases

    @cached_property
    def _tagger(self) -> Tagger:
        session = self._session
        return Tagger(session.store, session.project, self._releases, session.clock)

    def tag(
        self, flow: str, tag: str, version: int, *, exclusive: bool = False, mode: Mode = "edit", message: str = ""
    ) -> Rerouted:
        """Lead ``tag`` to ``version``: to it alone when ``exclusive``, else as a shared label."""
        keeper = Keeper(self._session, mode)
        managed = self._managed(keeper, flow)

        def decide(lock: Lockfile) -> Edits:
            holder = self._tagger.holder(lock, flow, version)
            return tagged(lock, flow, tag, holder, exclusive=exclusive, managed=managed)

        return self._moved(keeper, _Deed(flow, "tag", decide, _only(tag), message, keeps_head=not exclusive), tag)

    def untag(
        self, flow: str, tag: str, version: int | None = None, *, mode: Mode = "edit", message: str = ""
    ) -> Rerouted:
        """Take ``tag`` off ``version``; off every version, where none is named."""
        keeper = Keeper(self._session, mode)
        deed = _Deed(
            flow,
            "untag",
            lambda lock: untagged(lock, flow, tag, version),
            _only(tag),
            message,
            keeps_head=version is not None,
        )
        return self._moved(keeper, deed, tag)

    def promote(self, flow: str, source: str, to: str, *, mode: Mode = "edit", message: str = "") -> Rerouted:
        """Lead ``to`` to the version that ``source`` leads to, exclusively."""
        keeper = Keeper(self._session, mode)
        managed = self._managed(keeper, flow)
        deed = _Deed(
            flow, "promote", lambda lock: promoted(lock, flow, source, to, managed=managed), _only(to), message
        )
        return self._moved(keeper, deed, to)

    def rollback(
        self,
        flow: str,
        tag: str = DEFAULT_TAG,
        *,
        to: int = PREVIOUS,
        write: bool = False,
        mode: Mode = "edit",
        message: str = "",
    ) -> Rerouted:
        """Lead ``tag`` back, at once, and leave a hold that plan and apply honour until the manifest agrees.

        ``to``: a version, or -1 for where the route led before: a second one goes one further back, never to a version
        that a rollback left. The manifest's edit is told in the result, and made with ``write``.
        """
        keeper = Keeper(self._session, mode)
        spec = keeper.manifest.flows.get(flow) if keeper.declares(flow) and keeper.manifest is not None else None
        said = spec.routes.get(tag) if spec else None
        skipped: tuple[str, ...] = ()

        def decide(lock: Lockfile) -> Edits:
            nonlocal skipped
            target = self._target(lock, flow, tag, to, rollable(lock, flow, tag))
            skipped = target.skipped
            return rolled_back(lock, flow, tag, target.holders, message, said=said)

        deed = _Deed(flow, rollback.ROLLBACK, decide, _only(tag), message)
        return replace(self._moved(keeper, deed, tag, write=write), skipped=skipped)

    def delete(self, flow: str, version: int, *, mode: Mode = "edit", message: str = "") -> Rerouted:
        """Delete a version; its shared labels go with it. ``KitaruStateError`` while an exclusive tag leads to it."""
        if mode == "only":
            raise KitaruUsageError("a version is deleted in the store, never in the manifest alone")
        keeper = Keeper(self._session, mode)
        by = self._actor(keeper)

        def labels(lock: Lockfile) -> frozenset[str]:
            routes = live_flow(lock, flow).routes.items()
            return frozenset(tag for tag, route in routes if not route.exclusive and version in route.versions)

        lost: frozenset[str] = frozenset()

        def decide(lock: Lockfile) -> Edits:
            nonlocal lost
            edits, lost = self._tagger.drop(lock, flow, version, by=by), labels(lock)
            return edits

        deed = _Deed(flow, "delete", decide, labels, message)
        outcome, kept = self._carried_out(keeper, deed, by)
        return Rerouted(
            flow=flow,
            tag="",
            before=f"v{version}",
            after="nothing",
            exclusive=False,
            changed=True,
            generation=outcome.after.generation,
            version=version,
            lost=tuple(sorted(lost)),
            manifest=kept,
        )

    # --- one deed -----------------------------------------------------------------------------------------------------

    def _moved(self, keeper: Keeper, deed: _Deed, tag: str, *, write: bool = True) -> Rerouted:
        outcome, kept = self._carried_out(keeper, deed, self._actor(keeper), write=write)
        before, after = _route(outcome.before, deed.flow, tag), _route(outcome.after, deed.flow, tag)
        return Rerouted(
            flow=deed.flow,
            tag=tag,
            before=describe_holders(before.holders if before else None),
            after=describe_holders(after.holders if after else None),
            exclusive=bool(after.exclusive if after else before and before.exclusive),
            changed=outcome.before is not outcome.after,
            generation=outcome.before.generation if keeper.mode == "only" else outcome.after.generation,
            version=after.versions[-1] if after and len(after.versions) == 1 else None,
            held=bool(after and after.hold),
            manifest=kept,
            hold_ended=keeper.mode != "only" and bool(before and before.hold and not (after and after.hold)),
            rolled_back=rollback.rolled_back(before, after.holders if after else ()),
            converted=bool(before and after and before.exclusive != after.exclusive),
        )

    def _carried_out(self, keeper: Keeper, deed: _Deed, by: str, *, write: bool = True) -> tuple[Changed, Kept]:
        """Move in the store, then in the manifest; everything that can be refused is, before either."""
        if keeper.mode == "only":
            return self._alone(keeper, deed)

        def decide(lock: Lockfile) -> Edits:
            live_flow(lock, deed.flow)
            keeper.check_free(lock, deed.flow, *sorted(deed.tags(lock)))
            return deed.decide(lock)

        lock = self._releases.head(verified=True)
        tags = deed.tags(lock)
        edits = decide(lock)
        foreseen = next_lockfile(lock, edits, at="", by="") if edits else lock
        after = foreseen if isinstance(foreseen, Lockfile) else lock
        declared = keeper.declares(deed.flow)

        def draw(state: Lockfile, manifest: Manifest) -> ManifestEdit:
            return _agreeing(manifest, state, deed.flow, tags)

        if declared and keeper.manifest is not None:
            shown = keeper.rehearse(draw(after, keeper.manifest))
        outcome = self._tagger.change(decide, lock, by=by, verb=deed.verb, message=deed.message, edits=edits)
        tags = deed.tags(outcome.before)
        if not declared:
            return outcome, keeper.untouched(deed.flow, outcome.after)
        return outcome, keeper.keep(draw, outcome.after, self._releases) if write else shown

    def _alone(self, keeper: Keeper, deed: _Deed) -> tuple[Changed, Kept]:
        """Move in the manifest alone, from where its own text leads the routes; the store has the versions."""
        flow, lock = deed.flow, self._releases.head(verified=True)
        keeper.check_declares(flow, lock)
        table = self._tagger.table(lock, flow)

        def foresee(manifest: Manifest) -> Changed:
            spec = manifest.flows.get(flow)
            before = described(lock, flow, spec.routes if spec else {}, table)
            edits = deed.decide(before)
            for version in {one.version for edit in edits if isinstance(edit, Move) for one in edit.holders}:
                self._tagger.holder(lock, flow, version)
            after = next_lockfile(before, edits, at="", by="") if edits else before
            return Changed(before, after if isinstance(after, Lockfile) else before)

        def draw(_lock: Lockfile, manifest: Manifest) -> ManifestEdit:
            return _agreeing(manifest, foresee(manifest).after, flow, deed.tags(lock), keeps_head=deed.keeps_head)

        outcome = foresee(keeper.declaring)
        keeper.rehearse(draw(lock, keeper.declaring))
        kept = keeper.keep(draw, lock)
        if kept.problem:
            raise KitaruManifestError([Problem(kept.problem, file=kept.path)])
        return outcome, kept

    def _target(self, lock: Lockfile, flow: str, tag: str, to: int, route: Route) -> Earlier:
        if to != PREVIOUS:
            return Earlier((self._tagger.holder(lock, flow, to),))
        there = _route(self._releases.head(), flow, tag) if route.generation == 0 else None
        if there is not None and there.exclusive and there.holders != route.holders:
            # The manifest alone is edited, and leads elsewhere than the store: back is where the store still is.
            return Earlier(there.holders)
        return self._tagger.earlier(lock, flow, tag)

    def _managed(self, keeper: Keeper, flow: str) -> bool | None:
        return True if keeper.declares(flow) else None

    def _actor(self, keeper: Keeper) -> str:
        if keeper.loaded is None:
            return self._session.actor
        return wiring.Repository(keeper.loaded, self._session.settings).actor()


def _agreeing(
    manifest: Manifest, lock: Lockfile, flow: str, tags: frozenset[str], *, keeps_head: bool = False
) -> ManifestEdit:
    spec = manifest.flows.get(flow)
    wishes = spec.routes if spec else {}
    routes = live_flow(lock, flow).routes
    changed: dict[str, RouteTarget | None] = {}
    for tag in sorted(tags):
        said, wish = wishes.get(tag), wish_of(routes.get(tag))
        wish = led_with_head(said, wish) if keeps_head else wish
        if wish != said and not agrees(said, routes.get(tag), None):
            changed[tag] = wish
    return ManifestEdit(flow, routes=changed)


def _only(tag: str) -> Callable[[Lockfile], frozenset[str]]:
    return lambda _lock: frozenset({tag})


def _route(lock: Lockfile, flow: str, tag: str) -> Route | None:
    state = lock.flow(flow)
    return state.routes.get(tag) if state else None
