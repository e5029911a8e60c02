"""A plan: the changes of an apply, and why. Apply decides nothing that is not written here."""

from __future__ import annotations

from typing import Final, Literal

from kitaru.model.lockfile import Edit
from kitaru.model.noun import Noun, StoredNoun
from kitaru.model.route import Assignment
from kitaru.model.snapshot import Commit, Snapshot

REDACTED: Final = "***"
"""The sign in a saved plan for the value of an environment variable: many people read such a file."""

Subject = Literal["source", "target", "image", "options", "stack", "inputs", "input_schema", "checkpoints", "summary"]


class Change(Noun):
    """One difference between a version and the one that this commit builds. ``breaking`` for callers of the flow."""

    subject: Subject
    text: str
    details: tuple[str, ...] = ()
    breaking: bool = False


class Build(Noun):
    """A version to make: its snapshot in full, and how it differs from ``previous`` (None: the flow is new).

    In a saved plan the snapshot holds no value of an environment variable; ``snapshot_digest`` binds them all the same.
    """

    version: int
    snapshot_digest: str
    snapshot: Snapshot
    previous: int | None = None
    changes: tuple[Change, ...] = ()

    @property
    def redacted(self) -> Build:
        """The build with the names of its environment variables alone."""
        image = self.snapshot.image
        if not image.environment:
            return self
        hidden = image.model_copy(update={"environment": dict.fromkeys(image.environment, REDACTED)})
        return self.model_copy(update={"snapshot": self.snapshot.model_copy(update={"image": hidden})})


class RouteMove(Noun):
    """A route's change. ``before`` None: it is new; ``after`` None: it goes. ``moved_``: the last move before.

    ``converts``: a shared label becomes an exclusive route, or the other way round.
    """

    tag: str
    before: tuple[Assignment, ...] | None = None
    after: tuple[Assignment, ...] | None = None
    exclusive: bool = True
    converts: bool = False
    reason: str = ""
    moved_at: str = ""
    moved_by: str = ""

    @property
    def adopts(self) -> bool:
        """Whether the route stays: it only comes under the manifest's care, or loses its hold."""
        return self.before is not None and self.before == self.after and not self.converts


class Consequence(Noun):
    """The meaning of a plan for users of a flow. ``severe``: callers break, or a person must know.

    ``count`` executions, of ``of`` that were tried; ``exec_ids`` names a few of them. ``routes`` lead their callers
    from the versions ``left`` to those ``reached``; ``changes`` break them on the way.
    """

    kind: Literal["breaking_inputs", "stored_inputs", "in_use", "renamed", "override", "protected"]
    text: str
    severe: bool = False
    count: int = 0
    of: int = 0
    exec_ids: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    left: tuple[int, ...] = ()
    reached: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()


class Drift(Noun):
    """A change that was made in the store past the manifest, with the verb ``via``.

    ``tag`` is empty if it is about the flow itself.
    """

    flow: str
    tag: str = ""
    text: str
    via: str = ""
    by: str = ""
    at: str = ""


class Held(Noun):
    """A route that a rollback holds at ``holders``, since ``at``, though the manifest wants ``wanted``.

    ``why``: if it wants the same, why that does not end the hold. ``way`` is the edit that ends it.
    """

    tag: str
    holders: tuple[Assignment, ...]
    wanted: tuple[Assignment, ...]
    reason: str = ""
    at: str = ""
    by: str = ""
    why: str = ""
    way: str = ""


class FlowPlan(Noun):
    """The changes of one flow. ``version`` is the one that this commit's content is, or becomes.

    ``renamed_from``: its name until now; ``held``: routes that a rollback keeps in their place.
    """

    flow: str
    action: Literal["create", "update", "keep", "retire"]
    version: int | None = None
    build: Build | None = None
    moves: tuple[RouteMove, ...] = ()
    held: tuple[Held, ...] = ()
    consequences: tuple[Consequence, ...] = ()
    renamed_from: str = ""
    unmanaged: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def redacted(self) -> FlowPlan:
        """The same without the values of environment variables."""
        return self if self.build is None else self.model_copy(update={"build": self.build.redacted})


class Plan(StoredNoun):
    """The whole of it, bound to the generation that it was made on.

    ``base`` and ``base_entry`` name that generation; ``store_id`` tells a store in a folder from a copy of it (empty
    for other stores); ``manifest`` is the digest of the manifest's bytes and target; ``force``: it passes over
    rollbacks and the order of commits; ``guards``: why it may not be applied from here; ``edits``: apply appends them.
    """

    project: str
    store: str
    store_id: str = ""
    base: int
    base_entry: str
    manifest: str
    target: str | None = None
    commit: Commit
    tree: str
    force: bool = False
    flows: tuple[FlowPlan, ...] = ()
    unmanaged: tuple[str, ...] = ()
    drift: tuple[Drift, ...] = ()
    warnings: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()

    def __repr__(self) -> str:
        edits = len(self.edits)
        return f"<Plan for {self.project} on generation {self.base}: {edits} {'edit' if edits == 1 else 'edits'}>"

    @property
    def redacted(self) -> Plan:
        """The plan for a file that others read: without the values of environment variables."""
        return self.model_copy(update={"flows": tuple(flow.redacted for flow in self.flows)})

    @property
    def is_empty(self) -> bool:
        """Whether apply would write nothing."""
        return not self.edits

    @property
    def builds(self) -> tuple[tuple[str, Build], ...]:
        """Flow and build, for each version to make."""
        return tuple((flow.flow, flow.build) for flow in self.flows if flow.build)

    @property
    def moves(self) -> tuple[tuple[str, RouteMove], ...]:
        """Flow and move, for each route that changes."""
        return tuple((flow.flow, move) for flow in self.flows for move in flow.moves)
