"""Checks requirements against this Python, and builds virtual environments that meet them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kitaru._version import DISTRIBUTION, __version__
from kitaru.errors import KitaruStackError
from kitaru.local_cache import using
from kitaru.ports import Reporter, Step

PACKAGE = Path(__file__).resolve().parents[1]

COMMENT = re.compile(r"(^|\s+)#.*$")
FOR_PIP_ALONE = re.compile(r"-|\.{0,2}/|\.{1,2}$|~/|[A-Za-z][A-Za-z0-9+.-]*://|.*\.(whl|zip|tar\.gz|txt)$")
"""Lines that pip accepts and PEP 508 does not: options, paths, bare addresses."""

Find = Callable[[str], Distribution]
"""A distribution by name; raises ``PackageNotFoundError``."""


@dataclass(slots=True)
class Findings:
    """``unmet``: requirement → itself with the reason, in the order of the image; ``notes`` on unchecked ones.

    Example: ``{"httpx>=0.27": "httpx>=0.27 (from tool[web]): 0.25.1 is installed"}``.
    """

    unmet: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def check_installed(requirements: Sequence[str]) -> list[str]:
    """Notes on requirements that can't be checked. Raises ``KitaruStackError`` with all that are not met."""
    findings = check_requirements(requirements)
    if findings.unmet:
        lines = "\n".join(f"  {line}" for line in findings.unmet.values())
        raise KitaruStackError(
            f"the flow's requirements are not met by {sys.executable}:\n{lines}",
            hint=f"{sys.executable} -m pip install {' '.join(map(shlex.quote, findings.unmet))}   (or, for an "
            "environment of its own, set 'environment: venv' on the stack)",
        )
    return findings.notes


def check_requirements(requirements: Sequence[str], *, find: Find = distribution) -> Findings:
    """Compare ``requirements`` (``["httpx[http2]>=0.27"]``) with the installed packages. Raises nothing.

    Checks names, versions, markers, and the requirements of extras to any depth; not the ordinary dependencies of a
    package, as its installer checked those.
    """
    findings = Findings()
    seen: set[str] = set()
    for line in _clean_lines(requirements):
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            if FOR_PIP_ALONE.match(line):
                findings.notes.append(f"{line}: only pip can read this, so it is not checked")
            else:
                findings.unmet[line] = f"{line}: not a requirement: {str(error).splitlines()[0]}"
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            _check(requirement, "", find, findings, seen)
    return findings


def _check(requirement: Requirement, origin: str, find: Find, findings: Findings, seen: set[str]) -> None:
    shown = _without_marker(requirement)
    if shown in seen:
        return
    seen.add(shown)
    installed = None
    try:
        installed = find(requirement.name)
        version = installed.version
    except PackageNotFoundError:
        version = __version__ if _is_kitaru(requirement) else ""  # from a checkout, without a distribution
    if not version:
        findings.unmet[shown] = f"{shown}{origin}: not installed"
        return
    if requirement.url:
        findings.notes.append(f"{shown}: {version} is installed; whether it came from that address is not checked")
    elif not _admits(requirement, version):
        findings.unmet[shown] = f"{shown}{origin}: {version} is installed"
    if requirement.extras and installed is None:
        findings.notes.append(f"{shown}: {requirement.name} runs from a checkout, so its extras are not checked")
        return
    for extra in sorted(requirement.extras):
        assert installed is not None
        name = f"{requirement.name}[{extra}]"
        offered = installed.metadata.get_all("Provides-Extra") or ()
        if canonicalize_name(extra) not in map(canonicalize_name, offered):
            findings.notes.append(f"{name}: {requirement.name} {version} has no extra {extra!r}")
            continue
        for needed in map(Requirement, installed.requires or ()):
            # Added by the extra: its marker is true with it and false without.
            marker, spellings = needed.marker, (extra, canonicalize_name(extra))
            if marker and not marker.evaluate({"extra": ""}) and any(marker.evaluate({"extra": e}) for e in spellings):
                _check(needed, f" (from {name})", find, findings, seen)


def _clean_lines(requirements: Sequence[str]) -> list[str]:
    """The lines without comments and blank ones, as pip reads a requirements file."""
    stripped = (COMMENT.sub("", line).strip() for line in requirements)
    return [line for line in stripped if line]


def _admits(requirement: Requirement, version: str) -> bool:
    # An installed pre-release was chosen, so it counts, as for pip.
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier


def _without_marker(requirement: Requirement) -> str:
    return str(requirement).split(";")[0].strip() if requirement.marker else str(requirement)


def _is_kitaru(requirement: Requirement) -> bool:
    return canonicalize_name(requirement.name) in ("kitaru", DISTRIBUTION)


# --- environments -----------------------------------------------------------------------------------------------------


MARKER = "kitaru-environment.json"
FORMAT = 2
SHOWN_ERRORS = 6
"""The number of pip's error lines in a message; the log has all."""

LONGEST_LINE = 200
"""In characters: pip lists every version of a package in one line."""

MISLEADING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
"""Variables that would make ``venv`` or ``pip`` write to another folder, or Python import from one."""


def ensure_environment(
    cache: Path,
    requirements: Sequence[str],
    report: Reporter | None = None,
    environ: Mapping[str, str] = os.environ,
    extras: Sequence[str] = (),
) -> Path:
    """The Python of a virtual environment with ``requirements`` and the running Kitaru's own dependencies.

    Kitaru itself is not in it: the worker imports the running one. Environments are kept below ``cache`` by Python
    version and requirements; a missing one is built in tens of seconds, reported as steps of the phase
    ``environment``. Builders of the same environment wait for each other. pip gets ``environ`` and its configuration.
    Raises ``KitaruStackError`` with pip's reason and the path of the whole log.
    """
    lines = _all_requirements(requirements, extras)
    python = [sys.implementation.cache_tag, sys.version, os.path.realpath(sys.executable)]
    key = hashlib.sha256(json.dumps([FORMAT, python, lines]).encode()).hexdigest()[:24]
    folder = cache / "environments" / key
    with using(folder):
        if not _complete(folder):
            # Requirements may hold credentials of an index, and so may pip's log.
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _only_builder(folder.with_suffix(".lock"), report) as lock:
                if not _complete(folder):
                    _build(folder, lines, clean_environ(environ), report, lock)
    return _python_of(folder)


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without the variables of ``MISLEADING``."""
    return {name: value for name, value in environ.items() if name not in MISLEADING}


def own_requirements(extras: Sequence[str] = ()) -> list[str]:
    """The dependencies of the running Kitaru with these extras, in pip's syntax: ``["fsspec>=2026.9", ...]``.

    Raises ``KitaruStackError`` if there is neither a checkout nor an installed distribution.
    """
    try:
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
        optional = project.get("optional-dependencies", {})
        return [*project["dependencies"], *(line for extra in extras for line in optional.get(extra, ()))]
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        pass
    try:
        lines = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError as error:
        raise KitaruStackError(
            f"can't tell what the Kitaru in {PACKAGE} depends on: it has no metadata and no pyproject.toml",
            hint="install Kitaru with pip, or take 'environment: venv' off the stack",
        ) from error
    wanted = [{"extra": extra} for extra in ("", *extras)]
    return [_without_marker(line) for line in lines if line.marker is None or any(map(line.marker.evaluate, wanted))]


def _all_requirements(requirements: Sequence[str], extras: Sequence[str]) -> list[str]:
    """With the dependencies of Kitaru in place of Kitaru; ``KitaruStackError`` for a release that does not run here."""
    foreign, wanted = set[str](), set(extras)
    for line in _clean_lines(requirements):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            foreign.add(line)
            continue
        if not _is_kitaru(requirement):
            foreign.add(line)
        elif _admits(requirement, __version__):
            wanted |= requirement.extras
        else:
            raise KitaruStackError(
                f"the flow's requirements name {requirement}, and {__version__} runs here",
                hint="take Kitaru out of image.requirements: a flow runs with the Kitaru that starts it",
            )
    return sorted(foreign.union(own_requirements(sorted(wanted))))


def _complete(folder: Path) -> bool:
    return (folder / MARKER).exists() and _python_of(folder).exists()


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextmanager
def _only_builder(path: Path, report: Reporter | None) -> Iterator[int]:
    """Hold the lock file at ``path``; gives its descriptor. Waits while another process builds."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(report, "another process is building this environment; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _tell(report: Reporter | None, message: str) -> None:
    if report is not None:
        report.step(Step("environment", message))


def _build(
    folder: Path, requirements: Sequence[str], environ: Mapping[str, str], report: Reporter | None, lock: int
) -> None:
    """Build at the final path, which its scripts hold; complete once it has its ``MARKER``. pip holds the lock, too."""
    if folder.exists():
        shutil.rmtree(folder)
    path, listed = folder.with_suffix(".log"), folder / "requirements.txt"
    with path.open("w", encoding="utf-8") as log:

        def run(*command: str) -> None:
            print("$", *command, file=log, flush=True)
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, pass_fds=(lock,)
            )
            if done.returncode:
                raise _build_failure(path, done.returncode)

        _tell(report, "creating a virtual environment")
        run(sys.executable, "-m", "venv", str(folder))
        listed.write_text("\n".join(requirements) + "\n", "utf-8")
        _tell(report, f"installing {len(requirements)} requirements, Kitaru's own among them")
        pip = (str(_python_of(folder)), "-m", "pip", "install", "--no-input", "--disable-pip-version-check")
        run(*pip, "-r", str(listed))
    marker = folder / (MARKER + ".new")
    marker.write_text(json.dumps({"format": FORMAT, "requirements": list(requirements)}))
    marker.replace(folder / MARKER)
    _tell(report, "the environment is ready; later executions reuse it")


def _build_failure(log: Path, code: int) -> KitaruStackError:
    """The error with the lines from pip's first error on, else with the last ones."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    begin = next((place for place, line in enumerate(lines) if line.lower().startswith("error: ")), -SHOWN_ERRORS)
    unique = dict.fromkeys(line.removeprefix("ERROR: ") for line in lines[begin:])
    shown = [line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…" for line in unique][:SHOWN_ERRORS]
    reason = "\n".join(f"  {line}" for line in shown or [f"exit code {code}"])
    return KitaruStackError(
        f"the environment of the flow can't be built:\n{reason}",
        hint=f"correct the image's requirements, or pip's configuration; the whole log: {log}",
    )
