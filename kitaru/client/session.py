"""The state that all verbs of one client share: settings, store, clock, actor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.errors import KitaruIntegrityError
from kitaru.manifest.port import ManifestFile
from kitaru.model import address
from kitaru.ports import Reporter
from kitaru.settings import Asked, Settings, find_manifest, lease_seconds
from kitaru.store.port import Store

if TYPE_CHECKING:
    from kitaru.model.execution import Execution
    from kitaru.run.executions import Executions


class Session:
    """One client's connection: everything is made when it is first needed, and then kept."""

    def __init__(self, asked: Asked, reporter: Reporter | None = None, *, hosts_runs: bool = False) -> None:
        """``hosts_runs``: this process exists for its runs; see ``KitaruClient``."""
        self.asked = asked
        self.hosts_runs = hosts_runs
        self.clock = wiring.SystemClock()
        self.reporter: Reporter = reporter or wiring.Silent()

    @cached_property
    def settings(self) -> Settings:
        """Store, project and the rest, settled from arguments, environment and files."""
        settled = wiring.settle(self.asked)
        lease_seconds(settled.environ)  # a mistake there is found before anything is opened
        return settled

    @cached_property
    def store(self) -> Store:
        """The store, opened."""
        return wiring.open_store(self.settings)

    @property
    def project(self) -> str:
        """The project that the verbs act on."""
        return self.settings.project

    @cached_property
    def manifest(self) -> ManifestFile:
        """The manifest in reach. Raises ``KitaruManifestError``, or ``KitaruUsageError`` if there is none."""
        return wiring.load_manifest(self.asked, self.settings.cwd)

    def forget_manifest(self) -> None:
        """The file was changed: it is read anew."""
        self.__dict__.pop("manifest", None)

    def projects(self) -> tuple[str, ...]:
        """The projects that the store has."""
        return tuple(name[:-1] for name in self.store.names("") if name.endswith("/"))

    @property
    def place(self) -> str:
        """The store and the project that were looked at, and the projects that the store has, in words."""
        projects = self.projects()
        there = f"it has {', '.join(projects[:8])}{' ...' if len(projects) > 8 else ''}" if projects else "it is empty"
        return f"looked for project {self.project} in store {self.store.url}: {there}"

    def around(self, file: Path) -> Session:
        """The session for ``file``: this one, or that of the manifest around the file, unless a manifest was named."""
        own, file = self.settings.manifest, file.resolve()
        if self.asked.manifest is not None or (own is not None and file.is_relative_to(own.parent.resolve())):
            return self
        found = find_manifest(file.parent)
        if found is None:
            return self
        return Session(replace(self.asked, manifest=found), self.reporter, hosts_runs=self.hosts_runs)

    @cached_property
    def actor(self) -> str:
        """The person or job that acts, for the records."""
        settings = self.settings
        return wiring.actor_in(settings.manifest.parent if settings.manifest else settings.cwd, settings.environ)

    @cached_property
    def executions(self) -> Executions:
        """The project's executions."""
        return self.executions_in(self.store, self.project)

    def executions_in(self, store: Store, project: str) -> Executions:
        """The executions of any project in any store."""
        # Late: a plan looks at them only where it would remove a flow.
        from kitaru.run.executions import Executions

        return Executions(
            store, project, self.clock, wiring.seen_from_here(self.settings), lease_seconds(self.settings.environ)
        )

    def get_object(self, sha: str, subject: str) -> bytes:
        """The object of that digest, verified. ``subject`` names it in errors: ``snapshot of ex-…``."""
        key = address.blob(self.project, sha)
        body = self.store.read(key)
        if body is None or address.digest(body) != sha:
            raise KitaruIntegrityError(
                f"the {subject} is missing or damaged ({key})", hint="restore that key of the store from a backup"
            )
        return body

    def snapshot_body(self, execution: Execution) -> bytes:
        """The snapshot that an execution is pinned to, verified."""
        return self.get_object(execution.snapshot or "", f"snapshot of {execution.exec_id}")

    def check_inputs(self, schema: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The problems of the inputs, one sentence each."""
        return wiring.check_inputs(schema, inputs)
