"""What a pipeline needs: its files, one comment, one issue, and the plans that reviewers were shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kitaru import wiring
from kitaru.ci.port import Placed
from kitaru.client.project import read_plan
from kitaru.core.review import elsewhere, no_longer_done, unreviewed
from kitaru.errors import KitaruBackendError, KitaruConflictError, KitaruUsageError
from kitaru.model.plan import Plan
from kitaru.settings import Asked

LINES_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What ``ci init`` did: for whom, each file and what became of it, what is left to paste, and what to know."""

    provider: str
    root: str
    branch: str
    name: str
    store: str
    files: tuple[Any, ...]
    paste: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A plan that reviewers were shown: what to call it, and the file that it was written to."""

    label: str
    path: str


def init(
    provider: str | None,
    *,
    branch: str | None = None,
    python: str = "3.12",
    manifest: Path | None = None,
    target: str | None = None,
    install: str | None = None,
    force: bool = False,
) -> Pipeline:
    """Write the files of a pipeline for the manifest in reach.

    Raises ``KitaruUsageError`` where there is no manifest or nobody says who runs pipelines, ``KitaruSourceError``
    outside a repository, ``KitaruStateError`` with a diff where a file is there and differs.
    """
    files = wiring.files
    loaded = wiring.load_manifest(wiring.settle(Asked(manifest=manifest, target=target)))
    folder = loaded.root.resolve()
    place = wiring.git.upstream(folder)
    root = place.root.resolve()
    chosen: Any = provider or files.provider_of(root, place.urls)
    if chosen not in ("github", "gitlab"):
        raise KitaruUsageError(f"{chosen!r}: expected github or gitlab", hint="kitaru ci init github")
    store = loaded.manifest.store or ""
    choices = files.Choices(
        project=loaded.manifest.project,
        store=store,
        branch=branch or place.branch,
        python=python,
        target=target,
        folder="" if folder == root else folder.relative_to(root).as_posix(),
        install=files.install_command(folder),
        requirement=install or files.own_requirement("[s3]" if store.startswith("s3://") else ""),
    )
    texts = files.render(chosen, choices)
    written = files.write(root, texts, force=force)
    return Pipeline(
        provider=chosen,
        root=str(root),
        branch=choices.branch,
        name=choices.name,
        store=store,
        files=written,
        paste=files.lines_to_paste(written, texts),
        warnings=tuple(_warnings(store, choices.install)),
    )


def _warnings(store: str, install: str) -> list[str]:
    found = []
    if not store.startswith("s3://"):
        where = store or "a folder of the user's own"
        found.append(f"the store is {where}, which jobs can't reach; give the manifest or a target a bucket: s3://…")
    if not install:
        found.append(
            "neither requirements.txt nor pyproject.toml is beside the manifest; "
            "if the flows import more than Kitaru, add a step that installs it"
        )
    return found


def comment(body: str, number: int | None = None, environ: Mapping[str, str] | None = None) -> Placed:
    """Keep one comment up to date on that pull request, or on the job's own."""
    forge = wiring.forge(environ)
    found = forge.request_number() if number is None else number
    if found is None:
        raise KitaruUsageError("this job is for no pull request", hint="kitaru ci comment FILE --number N")
    return forge.comment(found, body)


def issue(title: str, body: str, environ: Mapping[str, str] | None = None) -> Placed:
    """Keep one open issue up to date."""
    return wiring.forge(environ).issue(title, body)


def close_issue(body: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Close the issue that ``issue`` keeps; its address, None where none is open."""
    return wiring.forge(environ).close_issue(body)


def fetch_reviewed(
    into: Path, *, artifact: str, run: str | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Reviewed, ...]:
    """Fetch the plans that reviewers were shown on what was merged since the last apply, or the one of ``run``.

    ``into`` is made, and must be empty: what else lay there would count as reviewed. ``artifact``: on GitHub its name,
    or ``FILE.yml/NAME`` with the workflow that keeps it, else ``NAME.yml``; on GitLab the job and the path in it.
    """
    forge = wiring.forge(environ)
    try:
        into.mkdir(parents=True, exist_ok=True)
        if any(into.iterdir()):
            raise KitaruUsageError(
                f"{into} is not empty; what lies there would count as reviewed", hint="--into FOLDER"
            )
        plans = [forge.approved(run, artifact)] if run else list(forge.reviewed(artifact))
        found = []
        for number, (label, body) in enumerate(plans, 1):
            path = into / f"{number:03}.json"
            path.write_bytes(body)
            found.append(Reviewed(label, str(path)))
    except OSError as error:
        raise KitaruBackendError(f"{into} can't be written: {error.strerror or error}") from error
    return tuple(found)


def must_be_reviewed(plan: Plan, places: Sequence[Path]) -> tuple[str, ...]:
    """What the plans in these files or folders showed and ``plan`` no longer does.

    Raises ``KitaruConflictError`` where ``plan`` does anything that none of them showed. A plan that does nothing needs
    no review.
    """
    files = [path for place in places for path in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    reviewed = [(path, _plan(path)) for path in files]
    for path, one in reviewed:
        if why := elsewhere(plan, one):
            raise KitaruUsageError(f"{path} is no review of this: {why}", hint="--reviewed FILE")
    plans = [one for _, one in reviewed]
    lines = unreviewed(plan, plans)
    if lines:
        more = [f"and {len(lines) - LINES_SHOWN} more"] if len(lines) > LINES_SHOWN else []
        said = "\n".join(f"  {line}" for line in [*lines[:LINES_SHOWN], *more])
        what = "this" if len(lines) == 1 else f"these {len(lines)} things"
        if plans:
            why = f"what was reviewed is not what would be done now. The reviewed plan did not show {what}"
        else:
            why = f"no reviewed plan was found, and the plan would do {what}"
        raise KitaruConflictError(
            f"nothing was applied: {why}:\n{said}",
            hint="let somebody review the plan as it is now (kitaru plan --out FILE); "
            "or, if you stand for it, kitaru apply without --reviewed",
        )
    return no_longer_done(plan, plans)


def _plan(path: Path) -> Plan:
    try:
        return read_plan(path.read_bytes(), str(path))
    except OSError as error:
        raise KitaruUsageError(
            f"the reviewed plan {path} can't be read: {error.strerror}", hint="--reviewed FILE, or a folder of them"
        ) from error
