"""The commit of an execution, and the move that led it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kitaru.core.commit import edit_data
from kitaru.core.renames import present_name
from kitaru.errors import KitaruIntegrityError, KitaruStoreFormatError
from kitaru.model import address
from kitaru.model.execution import Execution
from kitaru.model.lockfile import Generation, Lockfile, Move, Release, VersionTable
from kitaru.model.snapshot import Commit
from kitaru.release.history import Past, commit_data
from kitaru.store.objects import read_table
from kitaru.store.port import Store


@dataclass(frozen=True, slots=True)
class RouteMoved:
    """The move that had brought a tag to the version, when the execution was opened."""

    tag: str
    generation: int
    at: str
    by: str
    verb: str
    message: str
    text: str
    commit: Commit | None

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**data, "commit": commit_data(self.commit)}


@dataclass(frozen=True, slots=True)
class Blame:
    """The version of an execution, and the reason for it.

    ``flow`` is the name that it was started by, ``now`` today's name of the flow. ``route`` is None if it was started
    by version number or from source, or if the log can't tell; ``route_problem`` describes a damaged log ("" else).
    ``words`` are Git's about the commit, if the repository at hand has it. ``original``: the execution that it replays;
    it may have been removed (``original_is_there``).
    """

    exec_id: str
    flow: str
    now: str
    status: str
    origin: str
    created_at: str
    actor: str | None
    target: str
    version: int | None
    previous: int | None
    snapshot: str | None
    release: Release | None
    commit: Commit | None
    tag: str | None
    route: RouteMoved | None
    route_problem: str
    draw: dict[str, Any] | None
    original: str | None
    original_is_there: bool
    words: dict[str, str] | None

    @property
    def commands(self) -> tuple[str, ...]:
        """What to type to see more: each of them works here."""
        found = [f"git show {self.commit.sha[:12]}"] if self.commit is not None and self.words is not None else []
        there = self.release is not None and not self.release.deleted
        if self.version is not None and self.previous is not None and there:
            found.append(f"kitaru diff {self.now} {self.previous} {self.version}")
        if self.original is not None and self.original_is_there:
            found.append(f"kitaru blame {self.original}")
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """As JSON data; every key is always there, null where there is no answer."""
        release = self.release
        return {
            "exec_id": self.exec_id,
            "flow": self.flow,
            "flow_now": self.now,
            "status": self.status,
            "origin": self.origin,
            "created_at": self.created_at,
            "actor": self.actor,
            "target": self.target,
            "version": self.version,
            "snapshot": self.snapshot,
            "source": release.source if release else None,
            "built_at": release.at if release else None,
            "built_by": release.by if release else None,
            "deleted_at": (release.deleted_at or None) if release else None,
            "commit": commit_data(self.commit),
            "git": self.words,
            "tag": self.tag,
            "route": self.route.to_json() if self.route else None,
            "route_problem": self.route_problem or None,
            "draw": self.draw,
            "original_exec_id": self.original,
            "commands": list(self.commands),
        }


def trace(
    store: Store, project: str, lock: Lockfile, execution: Execution, words: Callable[[str], dict[str, str] | None]
) -> Blame:
    """The version that an execution is pinned to, how it was chosen, and its commit. ``words``: a commit's in Git."""
    name = present_name(lock.flows, execution.flow_name)
    state, table = lock.flows.get(name), None
    if state is not None and execution.version is not None:
        table = read_table(store, project, state.table, name)
    release = table.release(execution.version) if table is not None and execution.version is not None else None
    if release is not None and execution.snapshot is not None and release.snapshot != execution.snapshot:
        raise KitaruIntegrityError(
            f"{execution.exec_id} runs another snapshot than v{execution.version} of {name} is",
            hint="kitaru store verify --deep tells what else is wrong",
        )
    commit = release.commit if release is not None else _own_commit(execution)
    route, route_problem = _known_route(Past(store, project), lock, execution, name)
    return Blame(
        exec_id=execution.exec_id,
        flow=execution.flow_name,
        now=name,
        status=execution.status,
        origin=execution.origin,
        created_at=execution.created_at,
        actor=execution.actor,
        target=execution.target,
        version=execution.version,
        previous=_previous(table, execution.version),
        snapshot=execution.snapshot,
        release=release,
        commit=commit,
        tag=execution.tag,
        route=route,
        route_problem=route_problem,
        draw=execution.draw,
        original=execution.original_exec_id,
        original_is_there=_is_there(store, project, execution.original_exec_id),
        words=words(commit.sha) if commit is not None else None,
    )


def _is_there(store: Store, project: str, exec_id: str | None) -> bool:
    return exec_id is not None and store.read(address.journal_entry(project, exec_id, 1)) is not None


def _own_commit(execution: Execution) -> Commit | None:
    return Commit(sha=execution.commit) if execution.commit else None


def _previous(table: VersionTable | None, version: int | None) -> int | None:
    """The version before, as far as it can still be compared with."""
    if table is None or version is None:
        return None
    earlier = (one.version for one in table.releases if one.version < version and not one.deleted)
    return max(earlier, default=None)


def _known_route(past: Past, lock: Lockfile, execution: Execution, name: str) -> tuple[RouteMoved | None, str]:
    """As ``_route``; and the log's problem if it can't tell."""
    try:
        return _route(past, lock, execution, name), ""
    except KitaruStoreFormatError:
        raise
    except KitaruIntegrityError as error:
        return None, error.message


def _route(past: Past, lock: Lockfile, execution: Execution, name: str) -> RouteMoved | None:
    """The move of the tag to the version: from the newest state if it still knows it, else from the log."""
    tag, version = execution.tag, execution.version
    if tag is None or version is None or lock.generation == 0:
        return None
    route = lock.flows[name].routes.get(tag) if name in lock.flows else None
    if route is not None and version in route.versions and route.at <= execution.created_at:
        return _moved(past.entry(route.generation)[0], execution, tag)
    near = past.at_moment(execution.created_at, lock.generation)
    then = past.state(near).flows.get(execution.flow_name) if near else None
    route = then.routes.get(tag) if then is not None else None
    if route is not None and version in route.versions:
        return _moved(past.entry(route.generation)[0], execution, tag)
    entry = past.move_to(execution.flow_name, tag, version, near, lock.generation)
    return _moved(entry, execution, tag) if entry is not None else None


def _moved(entry: Generation, execution: Execution, tag: str) -> RouteMoved:
    moves = (edit for edit in entry.edits if isinstance(edit, Move) and edit.tag == tag)
    fitting = [edit for edit in moves if any(holder.version == execution.version for holder in edit.holders)]
    # A flow that was renamed since has its earlier name in the log.
    named = [edit for edit in fitting if edit.flow == execution.flow_name] or fitting
    return RouteMoved(
        tag=tag,
        generation=entry.generation,
        at=entry.at,
        by=entry.by,
        verb=entry.verb,
        message=entry.message,
        text=edit_data(named[0])["text"] if named else "",
        commit=entry.commit,
    )
