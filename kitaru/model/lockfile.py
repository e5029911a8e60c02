"""The released state of a project: each flow's versions and routes, and the log of edits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kitaru.model.address import canonical_json, digest
from kitaru.model.jsonable import record
from kitaru.model.noun import FORMAT, Noun, StoredNoun
from kitaru.model.route import APPLY, Assignment, Hold, Protection, Route
from kitaru.model.snapshot import Commit


class Release(Noun):
    """One version of a flow: never renumbered, never reused. ``by`` is its author, ``commit`` its source.

    A deleted one keeps its number and its row, and is led to by nothing.
    """

    version: int
    snapshot: str
    source: str
    at: str
    by: str
    commit: Commit | None = None
    deleted_at: str = ""
    deleted_by: str = ""

    @property
    def deleted(self) -> bool:
        """Whether the version was deleted."""
        return bool(self.deleted_at)


class VersionTable(Noun):
    """All versions of one flow, ascending: an object, referred to by its digest."""

    format: Literal[1] = FORMAT
    flow: str
    releases: tuple[Release, ...] = ()

    @property
    def versions(self) -> tuple[int, ...]:
        """The numbers of the versions that are not deleted."""
        return tuple(one.version for one in self.releases if not one.deleted)

    def release(self, version: int) -> Release | None:
        """The release of that number, deleted or not; or None."""
        return next((release for release in self.releases if release.version == version), None)

    def newest_with(self, snapshot: str) -> Release | None:
        """The newest release of that snapshot that is not deleted, or None."""
        found = (one for one in reversed(self.releases) if one.snapshot == snapshot and not one.deleted)
        return next(found, None)

    def adding(self, release: Release) -> VersionTable:
        """The table with one release more."""
        return self.model_copy(update={"releases": (*self.releases, release)})

    def deleting(self, version: int, *, at: str, by: str) -> VersionTable:
        """The table with that release marked as deleted."""
        gone = {"deleted_at": at, "deleted_by": by}
        releases = (one.model_copy(update=gone) if one.version == version else one for one in self.releases)
        return self.model_copy(update={"releases": tuple(releases)})


@record()
class Broken:
    """An edit whose requirement no longer holds: its flow and tag, and in ``message`` the state that it met.

    ``generation``, ``by``, ``at``: the last move of the route.
    """

    flow: str
    tag: str | None
    message: str
    generation: int = 0
    by: str = ""
    at: str = ""


class FlowState(Noun):
    """One flow in the lockfile: small, however many versions there are.

    ``latest`` is the highest number ever given, ``snapshot`` its digest, ``table`` the digest of the version table.
    ``managed`` once a manifest declared the flow, ``owner`` being its path below the repository's root ("" for the one
    at the root); ``retired`` once a prune removed it, or commit ``renamed_commit`` renamed it to ``renamed_to`` (its
    numbers stay taken). ``untagged``: the manifest's routes that another verb than apply removed. ``deletions`` counts
    the deleted versions; ``latest_deleted``: the highest is one. ``first_name``: the flow's first name, once a rename
    back made that hard to find. ``protect``: the manifest's rules by tag, as generation ``protect_generation`` applied
    them; they outlive a removal.
    """

    latest: int
    snapshot: str
    table: str
    routes: dict[str, Route] = Field(default_factory=dict)
    managed: bool = False
    retired: bool = False
    owner: str = ""
    renamed_to: str = ""
    renamed_commit: str = ""
    untagged: dict[str, Route] = Field(default_factory=dict)
    deletions: int = 0
    latest_deleted: bool = False
    first_name: str = ""
    protect: dict[str, Protection] = Field(default_factory=dict)
    protect_generation: int = 0

    @property
    def _known(self) -> dict[int, str]:
        held = {holder.version: holder.snapshot for route in self.routes.values() for holder in route.holders}
        return held if self.latest_deleted else {**held, self.latest: self.snapshot}

    def known_version(self, snapshot: str) -> int | None:
        """The newest version of that snapshot, if the state alone knows one."""
        return max((version for version, known in self._known.items() if known == snapshot), default=None)

    def known_snapshot(self, version: int) -> str | None:
        """The snapshot of that version, if the state alone knows it."""
        return self._known.get(version)


class AddVersion(Noun):
    """A new version. Valid while ``expects`` is the flow's highest number (0: no such flow yet), see ``Move``, too."""

    kind: Literal["add_version"]
    flow: str
    version: int
    snapshot: str
    table: str = ""
    managed: bool = True
    owner: str = ""
    expects: int
    deletions: int = 0


class Move(Noun):
    """A route leads to these holders from now on. Valid while ``expects`` holds it (None: no such route).

    Nor may a version have been deleted since: ``deletions`` is the flow's count of them. ``hold`` is what a rollback
    leaves behind; a route on hold moves only by an edit that leaves one or ``ends_hold``. ``floor`` is the commit that
    the route remembers from now on (None: the one that it has); ``expects_floor`` is the one until now, if the commit
    at hand must contain it. ``converts``: a shared label becomes an exclusive route, or the other way round.
    """

    kind: Literal["move"]
    flow: str
    tag: str
    holders: tuple[Assignment, ...]
    exclusive: bool = True
    managed: bool = True
    expects: tuple[Assignment, ...] | None = None
    deletions: int = 0
    hold: Hold | None = None
    ends_hold: bool = False
    floor: str | None = None
    expects_floor: str | None = None
    converts: bool = False


class Untag(Noun):
    """A route is gone. Valid while ``expects`` holds it."""

    kind: Literal["untag"]
    flow: str
    tag: str
    expects: tuple[Assignment, ...]


class Manage(Noun):
    """A manifest declares a flow that was there already."""

    kind: Literal["manage"]
    flow: str
    owner: str = ""


class Retire(Noun):
    """A flow is gone, with all its routes; versions stay readable. Valid while ``expects`` is its highest number."""

    kind: Literal["retire"]
    flow: str
    expects: int


class Rename(Noun):
    """A flow has another name: versions and routes go with it, the old name has no routes any more.

    Valid while ``expects`` is the highest number under the old name ``was``, and the new one was never used, or was
    this flow's own. The other edits of the generation use the new name. ``retired``: a prune had removed the flow.
    ``commit`` is the SHA that was applied.
    """

    kind: Literal["rename"]
    flow: str
    was: str
    expects: int
    retired: bool = False
    commit: str = ""


class Drop(Noun):
    """A version is deleted; labels lose it.

    Valid while ``expects`` is the flow's version table, and no exclusive route leads to the version.
    """

    kind: Literal["drop"]
    flow: str
    version: int
    table: str
    expects: str


class Protect(Noun):
    """Rules by tag that bind the flow's routes from now on. Valid while ``expects`` are the present ones."""

    kind: Literal["protect"]
    flow: str
    rules: dict[str, Protection] = Field(default_factory=dict)
    expects: dict[str, Protection] = Field(default_factory=dict)


Edit = Annotated[AddVersion | Move | Untag | Manage | Retire | Rename | Drop | Protect, Field(discriminator="kind")]


class Lockfile(StoredNoun):
    """The state after generation ``generation``; ``entry`` is the digest of that generation's bytes ("" for none)."""

    project: str
    generation: int = 0
    entry: str = ""
    flows: dict[str, FlowState] = Field(default_factory=dict)
    checksum: str = ""
    """In ``kitaru.lock``: the digest of the flows, so that a hint that was damaged or edited is left aside."""

    @property
    def state_digest(self) -> str:
        """The digest of the flows alone: equal for two histories that lead to the same place."""
        return digest(canonical_json({name: flow.data() for name, flow in self.flows.items()}))

    def flow(self, name: str) -> FlowState | None:
        """The state of a flow that is there, None for one that is not or no longer."""
        found = self.flows.get(name)
        return None if found is None or found.retired else found


class Generation(StoredNoun):
    """One entry of the lock log: author, verb, commit, edits, and the state that they lead to.

    ``parent`` is the digest of the previous entry's bytes, ``write`` is unique, ``state_digest`` is that of the state
    after it; ``state`` carries the state itself in small projects and every so often in large ones.
    """

    project: str
    generation: int
    parent: str
    write: str
    at: str
    by: str
    commit: Commit | None = None
    message: str = ""
    verb: str = APPLY
    edits: tuple[Edit, ...]
    state_digest: str
    state: dict[str, FlowState] | None = None
