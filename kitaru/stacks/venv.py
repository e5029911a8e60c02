"""Checks requirements against this Python, and builds virtual environments that meet them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
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

from kitaru import _version
from kitaru._version import DISTRIBUTION, __version__
from kitaru.errors import KitaruStackError
from kitaru.local_cache import using
from kitaru.ports import Reporter, Step

PACKAGE = Path(__file__).resolve().parents[1]

COMMENT = re.compile(r"(^|\s+)#.*$")
FOR_PIP_ALONE = re.compile(r"-|\.{0,2}/|\.{1,2}$|~/|[A-Za-z][A-Za-z0-9+.-]*://|.*\.(whl|zip|tar\.gz|txt)$")
"""Lines that pip accepts and PEP 508 does not: options, paths, bare addresses."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """One requirement, as written, and the reason why it is not met: ``0.25.1 is installed``, ``not installed``."""

    requirement: str
    reason: str
    wanted_by: str = ""
    """The requirement with the extra that adds it, ``httpx[http2]``; empty if the image names it itself."""

    def __str__(self) -> str:
        origin = f" (from {self.wanted_by})" if self.wanted_by else ""
        return f"{self.requirement}{origin}: {self.reason}"


@dataclass(slots=True)
class Findings:
    """``unmet`` in the order of the requirements; ``notes`` on those that were not checked."""

    unmet: list[Unmet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Find = Callable[[str], Distribution]
"""A distribution by name; raises ``PackageNotFoundError``."""


def clean_lines(requirements: Sequence[str]) -> list[str]:
    """The lines without comments and blank ones, as pip reads a requirements file."""
    stripped = (COMMENT.sub("", line).strip() for line in requirements)
    return [line for line in stripped if line]


def check_requirements(requirements: Sequence[str], *, find: Find = distribution) -> Findings:
    """Compare ``requirements`` (``["httpx[http2]>=0.27"]``) with the installed packages. Raises nothing.

    Checks names, versions, markers, and the requirements of extras to any depth; not the ordinary dependencies of a
    package, as its installer checked those.
    """
    findings = Findings()
    seen: set[str] = set()
    for line in clean_lines(requirements):
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            if FOR_PIP_ALONE.match(line):
                findings.notes.append(f"{line}: only pip can read this, so it is not checked")
            else:
                findings.unmet.append(Unmet(line, f"not a requirement: {str(error).splitlines()[0]}"))
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            _check(requirement, "", find, findings, seen)
    return findings


def _check(requirement: Requirement, wanted_by: str, find: Find, findings: Findings, seen: set[str]) -> None:
    shown = _without_marker(requirement)
    if shown in seen:
        return
    seen.add(shown)
    try:
        installed: Distribution | None = find(requirement.name)
        version = installed.version if installed else ""
    except PackageNotFoundError:
        installed, version = None, ""
        if canonicalize_name(requirement.name) in ("kitaru", DISTRIBUTION):
            # Kitaru runs from a checkout, without a distribution.
            version = _version.__version__
    if not version:
        findings.unmet.append(Unmet(shown, "not installed", wanted_by))
        return
    if requirement.url:
        findings.notes.append(f"{shown}: {version} is installed; whether it came from that address is not checked")
    elif not _admits(requirement, version):
        findings.unmet.append(Unmet(shown, f"{version} is installed", wanted_by))
    if requirement.extras and installed is None:
        findings.notes.append(f"{shown}: {requirement.name} runs from a checkout, so its extras are not checked")
    elif requirement.extras and installed is not None:
        for extra in sorted(requirement.extras):
            _check_extra(installed, requirement, extra, find, findings, seen)


def _check_extra(
    installed: Distribution, requirement: Requirement, extra: str, find: Find, findings: Findings, seen: set[str]
) -> None:
    name = f"{requirement.name}[{extra}]"
    offered = {canonicalize_name(offer) for offer in installed.metadata.get_all("Provides-Extra") or ()}
    if canonicalize_name(extra) not in offered:
        findings.notes.append(f"{name}: {requirement.name} {installed.version} has no extra {extra!r}")
        return
    for needed in _extra_requirements(installed, extra):
        _check(needed, name, find, findings, seen)


def _extra_requirements(installed: Distribution, extra: str) -> Iterator[Requirement]:
    """The requirements that ``extra`` adds: their marker is true with it and false without."""
    for text in installed.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            continue
        spellings = {extra, canonicalize_name(extra)}
        if any(needed.marker.evaluate({"extra": spelling}) for spelling in spellings):
            yield needed


def _admits(requirement: Requirement, version: str) -> bool:
    # An installed pre-release was chosen, so it counts, as for pip.
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier


def _without_marker(requirement: Requirement) -> str:
    return str(requirement).split(";")[0].strip() if requirement.marker else str(requirement)


MARKER = "kitaru-environment.json"
FORMAT = 2
SHOWN_ERRORS = 6
"""The number of pip's error lines in a message; the log has all."""

LONGEST_LINE = 200
"""In characters: pip lists every version of a package in one line."""

PROBE = (
    "import json, platform, sys; print(json.dumps([sys.implementation.cache_tag, sys.version, platform.platform()]))"
)
MISLEADING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
"""Variables that would make ``venv`` or ``pip`` write to another folder, or Python import from one."""

Report = Reporter | None


def ensure_environment(
    cache: Path,
    requirements: Sequence[str],
    python: str = sys.executable,
    report: Report = None,
    environ: Mapping[str, str] | None = None,
    extras: Sequence[str] = (),
) -> Path:
    """The Python of a virtual environment with ``requirements`` and the running Kitaru's own dependencies.

    Kitaru itself is not in it: the worker imports the running one. Environments are kept below ``cache`` by Python
    version and requirements; a missing one is built in tens of seconds, reported as steps of the phase
    ``environment``. Builders of the same environment wait for each other. pip gets ``environ`` and its configuration.
    Raises ``KitaruStackError`` with pip's reason and the path of the whole log.
    """
    variables = clean_environ(os.environ if environ is None else environ)
    lines = sorted({*_foreign(requirements), *own_requirements([*extras, *_own_extras(requirements)])})
    key = _environment_key(python, lines, variables)
    folder = cache / "environments" / key
    with using(folder):
        if _complete(folder):
            return _python_of(folder)
        # Requirements may hold credentials of an index, and so may pip's log.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_builder(folder.with_suffix(".lock"), report) as lock:
            if not _complete(folder):
                _Build(folder, python, variables, report, lock).run(lines)
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


def _foreign(requirements: Sequence[str]) -> list[str]:
    return [line for line in clean_lines(requirements) if _own(line) is None]


def _own_extras(requirements: Sequence[str]) -> list[str]:
    """The extras of Kitaru that the lines name. Raises ``KitaruStackError`` for a release that does not run here."""
    extras: set[str] = set()
    for own in filter(None, map(_own, clean_lines(requirements))):
        if not _admits(own, __version__):
            raise KitaruStackError(
                f"the flow's requirements name {own}, and {__version__} runs here",
                hint="take Kitaru out of image.requirements: a flow runs with the Kitaru that starts it",
            )
        extras |= own.extras
    return sorted(extras)


def _own(line: str) -> Requirement | None:
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return None
    return requirement if canonicalize_name(requirement.name) in ("kitaru", DISTRIBUTION) else None


def _environment_key(python: str, requirements: Sequence[str], environ: Mapping[str, str]) -> str:
    facts = [FORMAT, _python_facts(python, environ), list(requirements)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _python_facts(python: str, environ: Mapping[str, str]) -> list[str]:
    """The facts that an environment depends on: ``["cpython-312", "3.12.1 …", "/usr/bin/python3.12"]``.

    Starts ``python`` if it is not this one. Raises ``KitaruStackError``.
    """
    if python == sys.executable:
        return [sys.implementation.cache_tag or "", sys.version, os.path.realpath(sys.executable)]
    try:
        answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=60, env=dict(environ))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KitaruStackError(
            f"can't start the Python for the environment: {error}", hint="check the stack's python"
        ) from error
    if answer.returncode:
        raise KitaruStackError(
            f"{python} does not answer as a Python does: {answer.stderr.strip()[-300:]}",
            hint="check the stack's python",
        )
    return [*json.loads(answer.stdout), os.path.realpath(python)]


def _complete(folder: Path) -> bool:
    return (folder / MARKER).exists() and _python_of(folder).exists()


def _python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


@contextmanager
def _only_builder(path: Path, report: Report) -> Iterator[int]:
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


def _tell(report: Report, message: str) -> None:
    if report is not None:
        report.step(Step("environment", message))


def _shortened(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}…"


class _Build:
    """One build, under the lock, at the folder's final path: its scripts hold the absolute path of their Python."""

    def __init__(self, folder: Path, python: str, environ: Mapping[str, str], report: Report, lock: int) -> None:
        self._folder = folder
        self._python = python
        self._environ = environ
        self._report = report
        self._lock = lock
        self._log = folder.with_suffix(".log")

    def run(self, requirements: Sequence[str]) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)
        with self._log.open("w", encoding="utf-8", errors="replace") as log:
            _tell(self._report, "creating a virtual environment")
            self._command([self._python, "-m", "venv", str(self._folder)], log.fileno())
            listed = self._folder / "requirements.txt"
            listed.write_text("\n".join(requirements) + "\n", "utf-8")
            _tell(self._report, f"installing {len(requirements)} requirements, Kitaru's own among them")
            self._install(["-r", str(listed)], log.fileno())
        marker = self._folder / (MARKER + ".new")
        marker.write_text(json.dumps({"format": FORMAT, "requirements": list(requirements)}))
        marker.replace(self._folder / MARKER)
        _tell(self._report, "the environment is ready; later executions reuse it")

    def _install(self, what: Sequence[str], log: int) -> None:
        pip = [str(_python_of(self._folder)), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        self._command([*pip, *what], log)

    def _command(self, command: Sequence[str], log: int) -> None:
        """Run ``command``, with its output to the log, and pip's larger steps to the reporter."""
        os.write(log, f"$ {' '.join(command)}\n".encode())
        errors: list[str] = []
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(self._environ),
                pass_fds=(self._lock,),
            )
        except OSError as error:
            raise KitaruStackError(
                f"can't start {command[0]}: {error.strerror}", hint="check the stack's python"
            ) from error
        with process:
            try:
                for raw in process.stdout or ():
                    os.write(log, raw)
                    self._follow(raw.decode("utf-8", "replace").rstrip(), errors)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise self._failure(errors, process.returncode)

    def _follow(self, line: str, errors: list[str]) -> None:
        if re.match(r"\s*(error): ", line, re.IGNORECASE) or errors:
            errors.append(line)
        elif line.startswith(("Collecting ", "Installing collected packages")):
            _tell(self._report, line[0].lower() + line[1:].split(" (from")[0][:160])

    def _failure(self, errors: list[str], code: int) -> KitaruStackError:
        shown = errors or self._log.read_text("utf-8", "replace").splitlines()[-SHOWN_ERRORS:]
        unique = [_shortened(line.strip().removeprefix("ERROR: ")) for line in dict.fromkeys(shown) if line.strip()]
        reason = "\n".join(f"  {line}" for line in unique[:SHOWN_ERRORS]) or f"  exit code {code}"
        return KitaruStackError(
            f"the environment of the flow can't be built:\n{reason}",
            hint=f"correct the image's requirements, or pip's configuration; the whole log: {self._log}",
        )
