"""The state that all verbs of one client share: settings, store, clock, actor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kitaru import wiring
from kitaru.errors import KitaruSelectorError, KitaruValueError
from kitaru.manifest.port import ManifestFile
from kitaru.model.event import JSON_FORMATS, Value
from kitaru.ports import Reporter
from kitaru.settings import Asked, Settings, find_manifest, lease_seconds
from kitaru.store.port import Store
from kitaru.values.stored import get, get_plain
from kitaru.values.typed_json import TypeGone

if TYPE_CHECKING:
    from kitaru.model.execution import Execution
    from kitaru.release.releases import Releases
    from kitaru.run.executions import Executions


IMPORTABLE = (
    "to have it as its own type, make the module of that importable here (the flow's project installed, or its "
    "folder on PYTHONPATH), and the libraries that it uses"
)


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
        return wiring.load_manifest(self.settings)

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

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Say which place was looked at if a flow is missing because the project has none."""
        try:
            yield
        except KitaruSelectorError as error:
            if self.releases.head().flows:
                raise
            raise KitaruSelectorError(f"{error.message}; {self.place}", hint=error.hint) from None

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
        return wiring.actor_in(self.settings.root, self.settings.environ)

    @cached_property
    def releases(self) -> Releases:
        """The project's lock log."""
        from kitaru.release.releases import Releases  # late: a script that runs flows needs none of it

        return Releases(self.store, self.project, self.clock)

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

    def value(self, value: Value, subject: str, *, as_plain: bool = False, exec_id: str = "EXEC") -> Any:
        """A stored value as its own type, or ``as_plain``: as plain data, of any type that has a JSON form.

        ``KitaruValueError`` if this process can't import the type, with the way to have it as plain data. ``exec_id``
        is of the execution that holds it, ``subject`` its name in errors.
        """
        if as_plain and value.format in JSON_FORMATS:
            return get_plain(self.store, self.project, value, subject=subject, checked=True)
        try:
            return get(self.store, self.project, value, subject=subject, checked=True)
        except KitaruValueError as error:
            if not isinstance(error.__cause__, (TypeGone, ImportError)):
                raise
            hint = f"Nothing is lost: {IMPORTABLE}."
            if value.format in JSON_FORMATS:
                asked = "as_plain=True, as in client.executions.result(id, as_plain=True)"
                hint += f" As plain data: {asked}, or kitaru executions get {exec_id}."
            raise KitaruValueError(error.message, hint=hint) from error.__cause__

    def result(self, execution: Execution, *, as_plain: bool = False) -> Any:
        """The result of a completed execution."""
        if execution.output is None:
            return None
        subject = f"the result of {execution.flow_name}"
        return self.value(execution.output, subject, as_plain=as_plain, exec_id=execution.exec_id)
