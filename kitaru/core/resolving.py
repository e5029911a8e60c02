"""Which name somebody probably meant. Pure."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kitaru.core.naming import first_name
from kitaru.errors import KitaruSelectorError
from kitaru.model.lockfile import FlowState, Lockfile, VersionTable
from kitaru.model.route import DEFAULT_TAG, Assignment, ByTag, ByVersion, Route, Selector, describe_holders


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'stable'?``, or nothing where no option is like it."""
    import difflib  # Here, as every plan imports this module and almost none has a mistake to tell of.

    close = difflib.get_close_matches(word, list(options), 1, 0.6 if len(word) > 3 else 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def draw(flow: str, tag: str, holders: Sequence[Assignment], key: str) -> Assignment:
    """The holder that ``key`` draws: over many keys, each is drawn in proportion to its weight.

    Weighted rendezvous hashing: where weights change, or a version joins or leaves, only the keys that must move do;
    a version whose share grows keeps every key that it had.
    """
    return max(holders, key=lambda holder: (_score(flow, tag, holder, key), holder.version))


def _score(flow: str, tag: str, holder: Assignment, key: str) -> float:
    digest = hashlib.sha256(f"{flow}\n{tag}\n{holder.version}\n{key}".encode("utf-8", "surrogatepass")).digest()
    # A number strictly between 0 and 1, of 53 bits: all that a float holds exactly.
    chance = (int.from_bytes(digest[:8], "big") >> 11) + 0.5
    return -holder.weight / math.log(chance / 2**53)


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a selector led to, once and for all: an execution stays with it, however routes move.

    ``weights``: what it was drawn from, as (version, percent), where the route is divided.
    """

    flow: str
    version: int
    snapshot: str
    tag: str | None = None
    weights: tuple[tuple[int, int], ...] = ()


def resolve(lock: Lockfile, flow: str, selector: Selector, *, key: str | None = None) -> Resolved | FlowState:
    """The version, or the flow's state where its version table must be read to tell (``in_table`` goes on from there).

    ``key`` is what a version is drawn by where the route is divided by weights; without one nothing is drawn.
    A flow that was removed has no routes any more, but its versions stay.
    Raises ``KitaruSelectorError``: no such flow, no ``default``, an ambiguous tag, an unknown tag, an unknown or
    deleted version.
    """
    state = lock.flows.get(flow)
    if state is None:
        raise _no_flow(lock, flow)
    match selector:
        case ByTag() if state.renamed_to:
            raise KitaruSelectorError(
                f"{flow} was renamed to {state.renamed_to}", hint=f"kitaru invoke {state.renamed_to}"
            )
        case ByTag() if state.retired:
            raise KitaruSelectorError(
                f"{flow} was removed from project {lock.project}, and its routes with it; its versions are still there",
                hint=f"kitaru invoke {flow} --version {state.latest}",
            )
        case ByTag(tag):
            route = state.routes.get(tag)
            if route is None:
                raise _no_tag(flow, state, tag)
            return _through(lock, flow, tag, route, key)
        case ByVersion(version):
            snapshot = state.known_snapshot(version)
            if snapshot is not None:
                return Resolved(flow, version, snapshot)
            if not 1 <= version <= state.latest:
                raise _no_version(flow, state, version)
            return state


def live_flow(lock: Lockfile, flow: str) -> FlowState:
    """The state of a flow whose routes can be moved. Raises ``KitaruSelectorError`` for one that is not there."""
    state = lock.flows.get(flow)
    if state is None:
        raise _no_flow(lock, flow)
    if state.renamed_to:
        raise KitaruSelectorError(f"{flow} was renamed to {state.renamed_to}", hint="kitaru flow list")
    if state.retired:
        raise KitaruSelectorError(
            f"{flow} was removed from project {lock.project}, and its routes with it",
            hint="declare it in kitaru.yaml again and apply, or deploy it",
        )
    return state


def route_of(flow: str, state: FlowState, tag: str) -> Route:
    """The route of that tag. Raises ``KitaruSelectorError`` with the tags that there are."""
    route = state.routes.get(tag)
    if route is None:
        raise _no_tag(flow, state, tag)
    return route


def in_table(table: VersionTable, state: FlowState, version: int) -> Resolved:
    """The version, found in the flow's version table."""
    release = table.release(version)
    if release is None:
        raise _no_version(table.flow, state, version)
    if release.deleted:
        raise KitaruSelectorError(
            f"v{version} of {table.flow} was deleted by {release.deleted_by} at {release.deleted_at[:19]}Z",
            hint=f"kitaru flow deployments list {table.flow}",
        )
    return Resolved(table.flow, version, release.snapshot)


def _through(lock: Lockfile, flow: str, tag: str, route: Route, key: str | None) -> Resolved:
    if len(route.holders) == 1:
        holder = route.holders[0]
        return Resolved(flow, holder.version, holder.snapshot, tag)
    if route.exclusive and key is not None:
        # By the name that the flow began with: a key draws what it drew before a rename.
        holder = draw(first_name(lock.flows, flow), tag, route.holders, key)
        weights = tuple((one.version, one.weight) for one in route.holders)
        return Resolved(flow, holder.version, holder.snapshot, tag, weights)
    if route.exclusive:
        raise KitaruSelectorError(
            f"route {tag} of {flow} is divided: {describe_holders(route.holders)}",
            hint=f"choose one: --version {route.versions[-1]}",
        )
    versions = ", ".join(f"v{version}" for version in route.versions)
    raise KitaruSelectorError(
        f"tag {tag} of {flow} is ambiguous: it is a shared label on {versions}",
        hint=f"kitaru invoke {flow} --version {route.versions[-1]}",
    )


def _no_flow(lock: Lockfile, flow: str) -> KitaruSelectorError:
    have = sorted(name for name, state in lock.flows.items() if not state.retired)
    close = difflib.get_close_matches(flow, have, 1)
    if close:
        return KitaruSelectorError(
            f"{flow} has no deployments in project {lock.project}; did you mean {close[0]}?", hint="kitaru flow list"
        )
    there = f"; it has {', '.join(have[:8])}{' ...' if len(have) > 8 else ''}" if have else ""
    return KitaruSelectorError(
        f"{flow} has no deployments yet in project {lock.project}{there}",
        hint="kitaru deploy path/to/file.py:flow, or declare it in kitaru.yaml and: kitaru apply"
        if not have
        else "kitaru flow list",
    )


def _no_tag(flow: str, state: FlowState, tag: str) -> KitaruSelectorError:
    tags = sorted(state.routes)
    if tag == DEFAULT_TAG:
        others = f"--tag {tags[0]} or " if tags else ""
        return KitaruSelectorError(
            f"{flow} has deployments (v1 to v{state.latest}), but none of them is routed as default"
            if state.latest > 1
            else f"{flow} has a deployment (v1), but it is not routed as default",
            hint=f"choose one with {others}--version {state.latest}, "
            f"or: kitaru flow tag {flow} default --version {state.latest} --exclusive",
        )
    close = difflib.get_close_matches(tag, tags, 1)
    guess = f"; did you mean {close[0]}?" if close else ""
    have = ", ".join(tags) if tags else "none"
    return KitaruSelectorError(
        f"{flow} has no tag {tag}{guess} Its tags: {have}" if guess else f"{flow} has no tag {tag}; its tags: {have}",
        hint=f"kitaru flow deployments list {flow}",
    )


def _no_version(flow: str, state: FlowState, version: int) -> KitaruSelectorError:
    have = "v1" if state.latest == 1 else f"v1 to v{state.latest}"
    return KitaruSelectorError(
        f"{flow} has no version {version}; it has {have}", hint=f"kitaru flow deployments list {flow}"
    )
