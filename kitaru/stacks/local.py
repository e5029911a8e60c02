"""The local stack: each execution is a detached process of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from kitaru.errors import KitaruStackError
from kitaru.masking import Masking
from kitaru.model.jsonable import RunnerRecord
from kitaru.model.reserved import NAMED, SECRET
from kitaru.ports import Reporter, Step
from kitaru.stacks.port import RunOrder
from kitaru.stacks.process import describe_process, process_alive

Environment = Literal["current", "venv"]

WORKER = "kitaru.wiring.worker"
PACKAGE = Path(__file__).resolve().parents[1]

INSTALLED = ("site-packages", "dist-packages")
"""Names of folders that are on ``sys.path`` by default."""

NOT_APPLIED = (
    "base_image",
    "dockerfile",
    "build_context_root",
    "apt_packages",
    "image_tag",
    "target_repository",
    "user",
    "platform",
)
"""Image settings that only a container uses."""

HEADER = b"--- kitaru worker "
"""Begins the part of a log file that belongs to one launch: a resumed execution has several."""

PROCESS = b"--- kitaru process "
"""Begins the line in that part that describes the launched process as JSON."""

_PROCESS_LINE = re.compile(rb"^" + PROCESS + rb"(\{.*\})\n", re.MULTILINE)

OUTPUT = {"PYTHONIOENCODING": "utf-8:backslashreplace"}
"""For every worker, in any locale: no flow fails because of a letter that it prints."""

TAIL = 4000
"""Characters of a dead worker's log that are shown."""

DAY = 24 * 3600
KEPT_DAYS = 14
"""Days for which the log of a worker is kept; it holds only the output that never reached the store."""


class LocalRunner:
    """The ``Runner`` of stacks of type ``local``.

    ``environment``: ``current`` runs flows with ``python`` itself, ``venv`` in a virtual environment made from it below
    ``cache``, with those ``extras`` of Kitaru: ``("s3",)``. The worker inherits ``environ``; its own output goes to
    ``<log_dir>/<exec_id>.log``.
    """

    def __init__(
        self,
        *,
        environment: Environment,
        cache: Path,
        log_dir: Path,
        python: str = sys.executable,
        environ: Mapping[str, str],
        report: Reporter | None = None,
        extras: Sequence[str] = (),
    ) -> None:
        self._environment = environment
        self._cache = cache
        self._log_dir = log_dir
        self._python = python
        self._environ = environ
        self._report = report
        self._extras = extras

    def check(self, snapshot: bytes) -> None:
        """Compare the image's requirements with the installed packages; for ``venv``, build the environment.

        Raises ``KitaruStackError`` with all unmet requirements, or the reason why the environment can't be built.
        """
        image = _image_of(snapshot)
        for name in self._missing_secrets(image):
            source = secret_variable(name)
            self._tell(f"secret {name}: {source} is not set, so the worker has only the variables of this shell")
        self._secrets(image)
        ignored = [name for name in NOT_APPLIED if image.get(name)]
        if ignored:
            self._tell(f"a local stack runs in this machine's own environment: {', '.join(ignored)} not applied")
        requirements = image.get("requirements") or []
        if self._environment == "venv":
            self._venv_python(requirements)
        elif requirements:
            self._check_installed(requirements)

    def launch(self, order: RunOrder, snapshot: bytes) -> RunnerRecord:
        """Start the worker in a session of its own: it outlives this process and its terminal.

        Raises ``KitaruStackError`` if the process can't be started. Later errors are in the journal, or if the worker
        does not reach it, in its log: see ``startup_failure``.
        """
        image = _image_of(snapshot)
        try:
            python, environ = self._interpreter(image)
            process = self._start(order, python, environ)
        except OSError as error:
            raise KitaruStackError(
                f"can't start the worker of {order.exec_id}: {error}",
                hint=f"see that {self._log_dir} and {self._cache} can be written and the disk is not full",
            ) from error
        info = describe_process(process.pid)
        with suppress(OSError):  # a hint, for an execution that never begins
            self._note(order.exec_id, info)
        # A thread takes the exit code, or the dead worker stays a zombie for as long as this process lives.
        threading.Thread(target=process.wait, name=f"kitaru-reap-{process.pid}", daemon=True).start()
        with suppress(OSError):
            self._prune_logs()
        return info

    def alive(self, runner: RunnerRecord) -> bool | None:
        """Whether exactly that process still runs; None for a process of another machine."""
        return process_alive(runner)

    def startup_failure(self, exec_id: str) -> str:
        """The end of the own output of the newest worker of the execution; empty if there is none.

        For a worker that wrote no journal entry: a broken interpreter, a Kitaru that can't be imported.
        """
        try:
            body = self._log(exec_id).read_bytes()
        except OSError:
            return ""
        newest = _PROCESS_LINE.sub(b"", body.rpartition(HEADER)[2].partition(b"\n")[2])
        # Masked before it is cut: the cut could leave half a secret.
        return Masking(self._environ)(newest.decode("utf-8", "replace"))[-TAIL:].strip()

    def _log(self, exec_id: str) -> Path:
        return _log(self._log_dir, exec_id)

    def _tell(self, message: str) -> None:
        if self._report is not None:
            self._report.step(Step("environment", message))

    def _start(self, order: RunOrder, python: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        self._log_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._log(order.exec_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # A file without a name passes the order: private, gone with the worker, and no pipe that could block.
        with open(descriptor, "ab", buffering=0) as log, tempfile.TemporaryFile() as stdin:
            stdin.write(json.dumps(order.to_json()).encode())
            stdin.seek(0)
            log.write(HEADER + f"{order.exec_id} {python}\n".encode())
            try:
                return subprocess.Popen(
                    [python, "-P", "-m", WORKER],
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    env=environ,
                    start_new_session=True,
                    close_fds=True,
                )
            except OSError as error:
                raise KitaruStackError(
                    f"can't start the worker with {python}: {error.strerror or error}",
                    hint="check that this Python exists and may be executed",
                ) from error

    def _note(self, exec_id: str, process: RunnerRecord) -> None:
        with open(self._log(exec_id), "ab", buffering=0) as log:
            log.write(PROCESS + json.dumps(process.to_json()).encode() + b"\n")

    def _prune_logs(self) -> None:
        """Once a day, remove the logs that were last written more than ``KEPT_DAYS`` ago."""
        marker, now = self._log_dir / ".pruned", time.time()
        if marker.exists() and now - marker.stat().st_mtime < DAY:
            return
        marker.touch()
        for path in self._log_dir.glob("*.log"):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > KEPT_DAYS * DAY:
                    path.unlink()

    def _interpreter(self, image: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """The worker's Python, and all of its environment variables."""
        secrets = self._secrets(image)
        own = {**(image.get("environment") or {}), **secrets}
        if secrets:
            own[NAMED] = ",".join(sorted(secrets))  # the worker keeps their values out of its logs
        if self._environment == "current":
            environ = {**self._environ, **OUTPUT, **own}
            if PACKAGE.parent.name not in INSTALLED or self._python != sys.executable:
                # Only `kitaru` is made visible, never the modules beside it in a checkout.
                visible = (str(self._own_package()), environ.get("PYTHONPATH"))
                environ["PYTHONPATH"] = os.pathsep.join(filter(None, visible))
            return self._python, environ
        from kitaru.stacks.venv import clean_environ  # Late, as in `_check_installed`.

        python = self._venv_python(image.get("requirements") or [])
        environ = clean_environ(self._environ)
        environ["PYTHONPATH"] = str(self._own_package())
        environ["VIRTUAL_ENV"] = str(python.parent.parent)
        environ["PATH"] = os.pathsep.join((str(python.parent), environ.get("PATH", os.defpath)))
        return str(python), {**environ, **OUTPUT, **own}

    def _own_package(self) -> Path:
        """A folder that holds only a link to the running Kitaru."""
        folder = self._cache / "package" / re.sub(r"[^A-Za-z0-9]+", "-", str(PACKAGE)).strip("-")
        link = folder / "kitaru"
        if not link.exists():
            folder.mkdir(parents=True, exist_ok=True)
            spare = folder / f".kitaru-{os.getpid()}-{threading.get_ident()}"
            spare.symlink_to(PACKAGE, target_is_directory=True)
            spare.replace(link)
        return folder

    def _venv_python(self, requirements: list[str]) -> Path:
        # packaging, zipfile and others take 40 ms, and the environment `current` does not need them.
        from kitaru.stacks.venv import ensure_environment

        return ensure_environment(self._cache, requirements, self._python, self._report, self._environ, self._extras)

    def _check_installed(self, requirements: list[str]) -> None:
        # packaging and importlib.metadata cost 40 ms; most flows have no requirements of their own.
        from kitaru.stacks.venv import check_requirements

        findings = check_requirements(requirements)
        for note in findings.notes:
            self._tell(note)
        if findings.unmet:
            unmet = "\n".join(f"  {each}" for each in findings.unmet)
            wanted = " ".join(shlex.quote(each.requirement) for each in findings.unmet)
            raise KitaruStackError(
                f"the flow's requirements are not met by {self._python}:\n{unmet}",
                hint=f"{self._python} -m pip install {wanted}   (or, for an environment of its own, "
                "set 'environment: venv' on the stack)",
            )

    def _missing_secrets(self, image: Mapping[str, Any]) -> list[str]:
        named = image.get("secret_environment_from") or ()
        return [name for name in named if secret_variable(name) not in self._environ]

    def _secrets(self, image: Mapping[str, Any]) -> dict[str, str]:
        """The variables of the image's secrets, from a JSON object in each ``KITARU_SECRET_<NAME>`` that is set.

        ``KITARU_SECRET_OPENAI='{"API_KEY": "…"}'`` → ``{"API_KEY": "…"}``. Raises ``KitaruStackError``.
        """
        variables: dict[str, str] = {}
        for name in image.get("secret_environment_from") or ():
            source = secret_variable(name)
            text = self._environ.get(source)
            if text is None:
                continue
            try:
                values = json.loads(text)
            except ValueError:
                values = None
            if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
                raise KitaruStackError(
                    f"secret {name}: {source} should hold a JSON object of strings",
                    hint=f'export {source}=\'{{"API_KEY": "..."}}\'',
                )
            variables.update(values)
        return variables


def launched_worker(log_dir: Path, exec_id: str) -> RunnerRecord | None:
    """The last launched worker of the execution, from the logs in ``log_dir``; None if they name none."""
    try:
        newest = _log(log_dir, exec_id).read_bytes().rpartition(HEADER)[2]
    except OSError:
        return None
    found = _PROCESS_LINE.search(newest)
    if found is None:
        return None
    try:
        return RunnerRecord(**json.loads(found[1]))
    except (ValueError, TypeError):
        return None


def _log(folder: Path, exec_id: str) -> Path:
    return folder / f"{exec_id}.log"


def secret_variable(name: str) -> str:
    """The environment variable of a secret: ``openai-creds`` → ``KITARU_SECRET_OPENAI_CREDS``."""
    return SECRET + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _image_of(snapshot: bytes) -> dict[str, Any]:
    """The image's settings as in the snapshot: those are valid, so no model is needed to read them."""
    image = json.loads(snapshot).get("image") or {}
    return image if isinstance(image, dict) else {}
