"""The running Kitaru, packed as a wheel, so that another environment gets exactly this one.

Reading the code that runs serves an installed Kitaru, an editable one and a bare checkout alike, and needs no index,
no build backend and no address that has to exist still.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kitaru import _version
from kitaru._version import DISTRIBUTION, __version__
from kitaru.errors import KitaruStackError
from kitaru.local_cache import using
from kitaru.ports import Reporter, Step

PACKAGE = Path(__file__).resolve().parents[1]
WHEEL_NAME = f"{DISTRIBUTION.replace('-', '_')}-{__version__}"
WHEEL = "Wheel-Version: 1.0\nGenerator: kitaru\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
DATA = ("schemas", "templates")
"""Folders beside the package in a checkout that an installed Kitaru carries inside it, below ``_data``."""

EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class OwnWheel:
    """What goes into the wheel: path within it, and bytes, in path order."""

    files: tuple[tuple[str, bytes], ...]

    @property
    def digest(self) -> str:
        """Of all paths and contents: changes with every edit of a checkout."""
        total = hashlib.sha256()
        for path, body in self.files:
            total.update(f"{path}\0{hashlib.sha256(body).hexdigest()}\n".encode())
        return total.hexdigest()

    def write(self, folder: Path) -> Path:
        """Write ``kitaru_gitops-0.1.0-py3-none-any.whl`` into ``folder``; equal files give equal bytes."""
        path = folder / f"{WHEEL_NAME}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in self.files:
                archive.writestr(zipfile.ZipInfo(name, EPOCH), body, zipfile.ZIP_DEFLATED)
        return path


def collect_wheel(package: Path = PACKAGE) -> OwnWheel:
    """Gather the wheel of the running Kitaru.

    Raises ``KitaruStackError`` where neither an installed distribution nor a checkout says what Kitaru depends on.
    """
    files = dict(_package_files(package))
    info = f"{WHEEL_NAME}.dist-info"
    metadata, entry_points = _described(package)
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/entry_points.txt"] = entry_points.encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    record = "".join(f"{path},sha256={_urlsafe(body)},{len(body)}\n" for path, body in sorted(files.items()))
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return OwnWheel(tuple(sorted(files.items())))


def _package_files(package: Path) -> Iterator[tuple[str, bytes]]:
    yield from _tree(package, "kitaru")
    if not (package / "_data").is_dir():
        for name in DATA:
            yield from _tree(package.parent / name, f"kitaru/_data/{name}")


def _tree(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in relative.parts:
            yield f"{prefix}/{relative.as_posix()}", path.read_bytes()


def _described(package: Path) -> tuple[str, str]:
    """METADATA and entry_points.txt: those of the installation, or for a bare checkout what its pyproject.toml says."""
    installed = _installed(package)
    text = installed.read_text("METADATA") if installed else None
    if installed and text:
        # The metadata of an editable installation may be older than its code.
        metadata = re.sub(r"(?m)^Version: .*$", f"Version: {__version__}", text, count=1)
        return metadata, installed.read_text("entry_points.txt") or ""
    try:
        project = tomllib.loads((package.parent / "pyproject.toml").read_text("utf-8"))["project"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise KitaruStackError(
            f"can't tell what the Kitaru in {package} depends on: it has no metadata and no pyproject.toml",
            hint="install Kitaru with pip, or take 'environment: venv' off the stack",
        ) from error
    scripts = "".join(f"{name} = {target}\n" for name, target in project.get("scripts", {}).items())
    return _metadata(project), f"[console_scripts]\n{scripts}"


def _metadata(project: dict[str, Any]) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {DISTRIBUTION}", f"Version: {__version__}"]
    if "requires-python" in project:
        lines.append(f"Requires-Python: {project['requires-python']}")
    lines += [f"Requires-Dist: {needed}" for needed in project.get("dependencies", ())]
    for extra, needs in project.get("optional-dependencies", {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {_with_extra(needed, extra)}" for needed in needs]
    return "\n".join(lines) + "\n"


def _installed(package: Path) -> Distribution | None:
    """The distribution that the running package belongs to; None for one of the same name installed elsewhere."""
    try:
        found = distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None
    if Path(str(found.locate_file("kitaru"))).resolve() == package:
        return found
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    checkout = Path(unquote(urlsplit(origin.get("url", "")).path))
    editable = bool(origin.get("dir_info", {}).get("editable"))
    return found if editable and package.is_relative_to(checkout.resolve()) else None


def _with_extra(needed: str, extra: str) -> str:
    requirement, _, marker = (part.strip() for part in needed.partition(";"))
    condition = f'extra == "{extra}"'
    return f"{requirement} ; ({marker}) and {condition}" if marker else f"{requirement} ; {condition}"


def _urlsafe(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


COMMENT = re.compile(r"(^|\s+)#.*$")
FOR_PIP_ALONE = re.compile(r"-|\.{0,2}/|\.{1,2}$|~/|[A-Za-z][A-Za-z0-9+.-]*://|.*\.(whl|zip|tar\.gz|txt)$")
"""What pip reads and PEP 508 does not: options, paths, bare addresses."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """One requirement, as written, and why it is not met: ``0.25.1 is installed``, ``not installed``."""

    requirement: str
    reason: str
    wanted_by: str = ""
    """The requirement whose extra brings it in; empty for one that the image names itself."""

    def __str__(self) -> str:
        origin = f" (from {self.wanted_by})" if self.wanted_by else ""
        return f"{self.requirement}{origin}: {self.reason}"


@dataclass(slots=True)
class Findings:
    """``unmet`` in the order of the requirements; ``notes`` say what could not be looked at."""

    unmet: list[Unmet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Find = Callable[[str], Distribution]
"""A distribution by name; raises ``PackageNotFoundError``."""


def clean_lines(requirements: Sequence[str]) -> list[str]:
    """The lines without comments and blank ones, as pip reads a requirements file."""
    stripped = (COMMENT.sub("", line).strip() for line in requirements)
    return [line for line in stripped if line]


def check_requirements(requirements: Sequence[str], *, find: Find = distribution) -> Findings:
    """Compare ``requirements`` (as pip spells them) with what is installed: names, versions, markers and extras.

    All of them are looked at. An extra's own requirements are checked as well, to any depth; the ordinary
    dependencies of a package are not: whoever installed it saw to those. Raises nothing.
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
            # Run from a checkout: there is no distribution, and yet it is here.
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
    """What ``extra`` adds: requirements whose marker holds with it and does not hold without."""
    for text in installed.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            continue
        spellings = {extra, canonicalize_name(extra)}
        if any(needed.marker.evaluate({"extra": spelling}) for spelling in spellings):
            yield needed


def _admits(requirement: Requirement, version: str) -> bool:
    # A pre-release that is installed was somebody's choice, so it counts, as it does for pip.
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier


def _without_marker(requirement: Requirement) -> str:
    return str(requirement).split(";")[0].strip() if requirement.marker else str(requirement)


MARKER = "kitaru-environment.json"
FORMAT = 1
SHOWN_ERRORS = 6
"""How many of pip's error lines a message holds; the log has them all."""

LONGEST_LINE = 200
"""In characters: pip lists every version that there is."""

PROBE = (
    "import json, platform, sys; print(json.dumps([sys.implementation.cache_tag, sys.version, platform.platform()]))"
)
MISLEADING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_USER")
"""Variables that would make ``venv`` or ``pip`` write elsewhere, or a Python import from elsewhere."""

Report = Reporter | None


def ensure_environment(
    cache: Path,
    requirements: Sequence[str],
    python: str = sys.executable,
    report: Report = None,
    environ: Mapping[str, str] | None = None,
    extras: Sequence[str] = (),
) -> Path:
    """The Python of a virtual environment that holds ``requirements`` and the Kitaru that runs here.

    Looks it up below ``cache`` by Python version, requirements and Kitaru's own content, and builds it where it is not
    there yet: tens of seconds, told to ``report`` as steps of the phase ``environment``. Builders of the same
    environment wait for each other. ``environ`` reaches pip, so its configuration by variables and files applies.
    Raises ``KitaruStackError`` with pip's reason and the path of the whole log.
    """
    variables = clean_environ(os.environ if environ is None else environ)
    wheel = collect_wheel()
    lines = sorted(set(clean_lines(requirements)))
    key = _environment_key(python, [*lines, *extras], wheel, variables)
    folder = cache / "environments" / key
    with using(folder):
        if _complete(folder):
            return _python_of(folder)
        # Requirements may hold credentials of an index, and so may pip's log.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_builder(folder.with_suffix(".lock"), report) as lock:
            if not _complete(folder):
                _Build(folder, python, variables, report, lock).run(lines, wheel, extras)
    return _python_of(folder)


def clean_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ`` without the variables that would lead a virtual environment's Python or pip astray."""
    return {name: value for name, value in environ.items() if name not in MISLEADING}


def _environment_key(python: str, requirements: Sequence[str], wheel: OwnWheel, environ: Mapping[str, str]) -> str:
    facts = [FORMAT, _python_facts(python, environ), list(requirements), wheel.digest]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _python_facts(python: str, environ: Mapping[str, str]) -> list[str]:
    """What makes an environment of one Python unusable for another; asked of itself where it is not this one."""
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
    """Hold the lock file at ``path``; gives its descriptor. Waits as long as somebody else builds."""
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
    """One build, under the lock. The folder is used at its final path: scripts in it name their Python absolutely."""

    def __init__(self, folder: Path, python: str, environ: Mapping[str, str], report: Report, lock: int) -> None:
        self._folder = folder
        self._python = python
        self._environ = environ
        self._report = report
        self._lock = lock
        self._log = folder.with_suffix(".log")

    def run(self, requirements: Sequence[str], wheel: OwnWheel, extras: Sequence[str]) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)
        with self._log.open("w", encoding="utf-8", errors="replace") as log:
            _tell(self._report, "creating a virtual environment")
            self._command([self._python, "-m", "venv", str(self._folder)], log.fileno())
            packed = wheel.write(self._folder)
            listed = self._folder / "requirements.txt"
            listed.write_text("\n".join(requirements) + "\n", "utf-8")
            count = len(requirements)
            extra = f" and {count} requirement{'s' if count > 1 else ''}" if count else ""
            _tell(self._report, f"installing kitaru {__version__}{extra}")
            own = f"{packed}[{','.join(extras)}]" if extras else str(packed)
            self._install([own, "-r", str(listed)], log.fileno())
        marker = self._folder / (MARKER + ".new")
        marker.write_text(json.dumps({"format": FORMAT, "kitaru": wheel.digest, "requirements": list(requirements)}))
        marker.replace(self._folder / MARKER)
        _tell(self._report, "the environment is ready; later executions reuse it")

    def _install(self, what: Sequence[str], log: int) -> None:
        pip = [str(_python_of(self._folder)), "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        self._command([*pip, *what], log)

    def _command(self, command: Sequence[str], log: int) -> None:
        """Run it, its output going to the log, and pip's larger steps to the reporter."""
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
