"""Virtual environments for flows: built once for each set of requirements, and kept in the cache.

An environment is complete when its marker file exists, which is written last; everything before that is a ruin to be
cleared. One builder at a time holds a kernel lock that its ``venv`` and ``pip`` inherit: it goes when the last of them
is gone, however they end, so nobody builds where an orphaned pip still writes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from kitaru._version import __version__
from kitaru.errors import KitaruStackError
from kitaru.ports import Reporter, Step
from kitaru.source.local_use import using
from kitaru.stacks.own_wheel import OwnWheel, collect_wheel
from kitaru.stacks.requirements import clean_lines

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
    key = _environment_key(python, lines, wheel, variables)
    folder = cache / "environments" / key
    with using(folder):
        if _complete(folder):
            return _python_of(folder)
        # Requirements may hold credentials of an index, and so may pip's log.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _only_builder(folder.with_suffix(".lock"), report) as lock:
            if not _complete(folder):
                _Build(folder, python, variables, report, lock).run(lines, wheel)
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

    def run(self, requirements: Sequence[str], wheel: OwnWheel) -> None:
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
            self._install([str(packed), "-r", str(listed)], log.fileno())
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
