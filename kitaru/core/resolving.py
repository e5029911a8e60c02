"""Flow and selector → version. Pure."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kitaru.core.renames import did_you_mean, first_name
from kitaru.core.rollback import held_versions
from kitaru.errors import KitaruSelectorError
from kitaru.model.lockfile import FlowState, Lockfile, VersionTable
from kitaru.model.route import DEFAULT_TAG, Assignment, ByTag, ByVersion, Route, Selector, describe_holders

SHOWN = 8
"""Names of flows in one sentence."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """The version that a selector led to: an execution stays with it, however routes move.

    ``weights``: the shares that it was drawn from, as (version, percent), if the route is divided.
    """

    flow: str
    version: int
    snapshot: str
    tag: str | None = None
    weights: tuple[tuple[int, int], ...] = ()


def resolve(lock: Lockfile, flow: str, selector: Selector, *, key: str | None = None) -> Resolved | FlowState:
    """The version; or the flow's state if its version table must be read, with which ``in_table`` goes on.

    ``key`` draws a version of a route that is divided by weights; without one nothing is drawn. A flow that was removed
    has no routes any more, but its versions stay.
    Raises ``KitaruSelectorError``: no such flow, no ``default``, an ambiguous or unknown tag.
    """
    state = lock.flows.get(flow)
    if state is None:
        raise _no_flow(lock, flow)
    if isinstance(selector, ByVersion):
        snapshot = state.known_snapshot(selector.version)
        return state if snapshot is None else Resolved(flow, selector.version, snapshot)
    if state.renamed_to:
        raise KitaruSelectorError(f"{flow} was renamed to {state.renamed_to}", hint=f"kitaru invoke {state.renamed_to}")
    if state.retired:
        raise KitaruSelectorError(
            f"{flow} was removed from project {lock.project}, and its routes with it; its versions are still there",
            hint=f"kitaru invoke {flow} --version {state.latest}",
        )
    return _through(lock, flow, selector, route_of(flow, state, selector.tag), key)


def in_table(table: VersionTable, state: FlowState, version: int) -> Resolved:
    """The version, found in the flow's table. Raises ``KitaruSelectorError`` with the versions that there are."""
    release = table.release(version)
    if release is not None and not release.deleted:
        return Resolved(table.flow, version, release.snapshot)
    hint = f"kitaru flow deployments list {table.flow}"
    if release is not None:
        message = f"v{version} of {table.flow} was deleted by {release.deleted_by} at {release.deleted_at[:19]}Z"
        raise KitaruSelectorError(message, hint=hint)
    have = version_words(table.versions) or f"none (v1 to v{state.latest} were deleted)"
    raise KitaruSelectorError(f"{table.flow} has no version {version}; it has {have}", hint=hint)


def version_words(versions: Iterable[int]) -> str:
    """``v1 to v3, v5``; empty for no version."""
    spans: list[list[int]] = []
    for version in sorted(versions):
        if spans and spans[-1][-1] == version - 1:
            spans[-1][1:] = [version]
        else:
            spans.append([version])
    return ", ".join(" to ".join(f"v{one}" for one in span) for span in spans)


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


def _through(lock: Lockfile, flow: str, selector: ByTag, route: Route, key: str | None) -> Resolved:
    tag = selector.tag
    if len(route.holders) == 1:
        holder = route.holders[0]
        return Resolved(flow, holder.version, holder.snapshot, tag)
    if route.exclusive and key is not None:
        # By the name that the flow began with: a key draws what it drew before a rename.
        holder = draw(first_name(lock.flows, flow), tag, route.holders, key)
        weights = tuple((one.version, one.weight) for one in route.holders)
        return Resolved(flow, holder.version, holder.snapshot, tag, weights)
    hint = f"choose one: kitaru invoke {flow} --version {route.versions[-1]}"
    if route.exclusive:
        raise KitaruSelectorError(f"route {tag} of {flow} is divided: {describe_holders(route.holders)}", hint=hint)
    versions = describe_holders(route.holders)
    raise KitaruSelectorError(f"tag {tag} of {flow} is ambiguous: it is a shared label on {versions}", hint=hint)


def draw(flow: str, tag: str, holders: Sequence[Assignment], key: str) -> Assignment:
    """The holder that ``key`` draws: over many keys, each is drawn in proportion to its weight.

    Weighted rendezvous hashing: if weights change, or a version joins or leaves, only the keys that must move do;
    a version whose share grows keeps every key that it had.
    """
    return max(holders, key=lambda holder: (_score(flow, tag, holder, key), holder.version))


def _score(flow: str, tag: str, holder: Assignment, key: str) -> float:
    digest = hashlib.sha256(f"{flow}\n{tag}\n{holder.version}\n{key}".encode("utf-8", "surrogatepass")).digest()
    # A number strictly between 0 and 1, of 53 bits: all that a float holds exactly.
    chance = (int.from_bytes(digest[:8], "big") >> 11) + 0.5
    return -holder.weight / math.log(chance / 2**53)


def _no_flow(lock: Lockfile, flow: str) -> KitaruSelectorError:
    have = sorted(name for name, state in lock.flows.items() if not state.retired)
    if guess := did_you_mean(flow, have):
        message = f"{flow} has no deployments in project {lock.project}{guess}"
        return KitaruSelectorError(message, hint="kitaru flow list")
    there = f"; it has {', '.join(have[:SHOWN])}{' ...' if len(have) > SHOWN else ''}" if have else ""
    deploy = "kitaru deploy path/to/file.py:flow, or declare it in kitaru.yaml and: kitaru apply"
    message = f"{flow} has no deployments yet in project {lock.project}{there}"
    return KitaruSelectorError(message, hint="kitaru flow list" if have else deploy)


def _no_tag(flow: str, state: FlowState, tag: str) -> KitaruSelectorError:
    tags = sorted(state.routes)
    if tag != DEFAULT_TAG:
        guess, have = did_you_mean(tag, tags), ", ".join(tags) or "none"
        message = f"{flow} has no tag {tag or repr(tag)}{guess}; its tags: {have}"
        return KitaruSelectorError(message, hint=f"kitaru flow deployments list {flow}")
    good = set(range(1, state.latest + 1)) - held_versions(state)
    version = max(good, default=state.latest)
    others = f"--tag {tags[0]} or " if tags else ""
    return KitaruSelectorError(
        f"{flow} is not routed as default; it has {version_words(range(1, state.latest + 1))}",
        hint=f"choose one with {others}--version {version}, "
        f"or: kitaru flow tag {flow} default --version {version} --exclusive",
    )
