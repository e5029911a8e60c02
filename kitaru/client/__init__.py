"""Owns every verb, once; the command line and the SDK are faces of it.

May import: release, run, upkeep, wiring, model.
Must never know: printing, argv.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from kitaru.client.session import Session
from kitaru.ports import Reporter
from kitaru.settings import Asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kitaru.client.deployments import Deployments
    from kitaru.client.executions import Artifacts, ExecutionsClient
    from kitaru.client.history import History, Housekeeping
    from kitaru.client.project import Applied, Checked, Project
    from kitaru.model.plan import Plan
    from kitaru.release.importing import Imported

__all__ = ["KitaruClient", "configure"]

_configured: dict[str, str | None] = {}


def configure(*, store: str | None = None, project: str | None = None, stack: str | None = None) -> None:
    """Set the defaults of all clients of this process; None leaves a default as it is.

    Stronger than the environment and the files, weaker than an argument or a decorator.
    """
    given = {"store": store, "project": project, "stack": stack}
    _configured.update({name: value for name, value in given.items() if value is not None})


class KitaruClient:
    """One connection to a store and a project.

    Which ones: the arguments, ``configure``, ``KITARU_STORE`` and ``KITARU_PROJECT``, the manifest in reach,
    ``pyproject.toml``, or a folder of the user's own. Nothing is read or written before a verb needs it.
    """

    def __init__(
        self,
        *,
        store: str | None = None,
        project: str | None = None,
        manifest: str | Path | None = None,
        target: str | None = None,
        reporter: Reporter | None = None,
        hosts_runs: bool = False,
    ) -> None:
        """``hosts_runs``: this process exists for its runs, as ``kitaru run`` does: a run from source has the main
        thread while ``handle.wait()`` blocks there, so that its timeouts and child processes work.
        """
        asked = Asked(
            store=store or _configured.get("store"),
            project=project or _configured.get("project"),
            manifest=Path(manifest) if manifest is not None else None,
            target=target,
            stack=_configured.get("stack"),
        )
        self.session = Session(asked, reporter, hosts_runs=hosts_runs)

    @cached_property
    def executions(self) -> ExecutionsClient:
        """Verbs about executions."""
        from kitaru.client.executions import ExecutionsClient

        return ExecutionsClient(self.session)

    @cached_property
    def artifacts(self) -> Artifacts:
        """Verbs about the named values that executions saved."""
        from kitaru.client.executions import Artifacts

        return Artifacts(self.session)

    @cached_property
    def deployments(self) -> Deployments:
        """Verbs about released versions."""
        from kitaru.client.deployments import Deployments

        return Deployments(self.session)

    @cached_property
    def history(self) -> History:
        """Verbs that look back: history, differences, whether the record is sound."""
        from kitaru.client.history import History

        return History(self.session)

    @cached_property
    def housekeeping(self) -> Housekeeping:
        """Verbs that free space, in the store and on this machine."""
        from kitaru.client.history import Housekeeping

        return Housekeeping(self.session)

    @cached_property
    def project(self) -> Project:
        """The producer's verbs, in full."""
        from kitaru.client.project import Project

        return Project(self.session)

    def import_flows(self, flows: Sequence[str] = (), *, dry_run: bool = False) -> Imported:
        """Write into the manifest the flows and routes that only the store has, of these flows or of all."""
        from kitaru.client.working_tree import importer

        done = importer(self.session).run(flows, dry_run=dry_run)
        self.session.forget_manifest()
        return done

    def validate(self) -> Checked:
        """Every check that needs no store: manifest, targets, inputs. Raises with all problems at once."""
        return self.project.validate()

    def plan(
        self,
        flows: Sequence[str] = (),
        *,
        prune: bool = False,
        force: bool = False,
        allow_dirty: bool = False,
        ignoring: Sequence[Path] = (),
    ) -> Plan:
        """The plan that apply would carry out, for the flows named, or for all. Writes nothing.

        ``force`` passes over rollbacks and the order of commits; the plan shows which. Files of ``ignoring`` do not
        count as changes of the repository.
        """
        from kitaru.client.project import Scope

        return self.project.plan(Scope(flows, prune, force, allow_dirty, ignoring))

    def apply(
        self,
        flows: Sequence[str] = (),
        *,
        plan: Plan | None = None,
        saved: bool = False,
        prune: bool = False,
        force: bool = False,
        allow_dirty: bool = False,
        message: str = "",
        ignoring: Sequence[Path] = (),
    ) -> Applied:
        """Carry out a plan, made now unless one is given; all of it at once, or none of it.

        ``saved``: the plan comes from a file, and is made again first. Guards and commit are those of this repository,
        never of the file. Raises ``KitaruConflictError`` when another writer moved what it wants to move; nothing has
        moved then. Files of ``ignoring`` do not count as changes.
        """
        from kitaru.client.project import Scope

        scope = Scope(flows, prune, force, allow_dirty, ignoring)
        return self.project.apply(scope, plan, saved=saved, message=message)
