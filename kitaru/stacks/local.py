"""The local stack: each execution is a detached process of this machine."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from kitaru.errors import KitaruStackError
from kitaru.masking import Masking
from kitaru.model.address import NAMED, SECRET
from kitaru.ports import Reporter, Step
from kitaru.stacks.port import Handle, RunOrder
from kitaru.stacks.process import end_process, process_at_work, process_handle

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
    ``cache``, with those ``extras`` of Kitaru: ``("s3",)``. The worker inherits ``environ``. Its own output goes to
    ``<cache>/workers/<exec_id>.log``, and its handle beside it. ``stack`` is the stack's name.
    """

    def __init__(
        self,
        *,
        cache: Path,
        environ: Mapping[str, str],
        environment: Literal["current", "venv"] = "current",
        python: str = sys.executable,
        report: Reporter | None = None,
        extras: Sequence[str] = (),
        stack: str = "local",
    ) -> None:
        self._environment = environment
        self._cache = cache
        self._logs = cache / "workers"
        self._python = python
        self._environ = environ
        self._report = report
        self._extras = extras
        self._stack = stack

    def lacks(self, snapshot: bytes, *, chosen: bool = False) -> list[tuple[str, str]]:
        """Its secrets that no variable holds; unless ``chosen``, its settings that only a container honours."""
        image = _image_of(snapshot)
        variables = {name: secret_variable(name) for name in image.get("secret_environment_from") or ()}
        found = [
            (f"secret {name}: {variable} is not set", f"""export {variable}='{{"API_KEY": "..."}}'""")
            for name, variable in variables.items()
            if variable not in self._environ
        ]
        ignored = [name for name in NOT_APPLIED if image.get(name)]
        if ignored and not chosen:
            text = f"stack {self._stack} runs in this machine's own environment, without {', '.join(ignored)}"
            found.append((text, f"take it out of the image, or do without: kitaru invoke FLOW --stack {self._stack}"))
        return found

    def check(self, snapshot: bytes, *, chosen: bool = False) -> None:
        """Compare the image with what is there: secrets, requirements; for ``venv``, build the environment.

        Raises ``KitaruStackError`` with all that it ``lacks``, all unmet requirements, or the reason why the
        environment can't be built.
        """
        image = _image_of(snapshot)
        if lacking := self.lacks(snapshot, chosen=chosen):
            raise KitaruStackError("; ".join(text for text, _ in lacking), hint="; ".join(cure for _, cure in lacking))
        self._secrets(image)
        requirements = image.get("requirements") or []
        if self._environment == "venv":
            self._venv_python(requirements)
        elif requirements:
            # Late, here and below: packaging and importlib.metadata take 40 ms, and most flows need neither.
            from kitaru.stacks.venv import check_installed

            for note in check_installed(requirements):
                self._tell(note)

    def launch(self, order: RunOrder) -> Handle:
        """Start the worker in a session of its own: it outlives this process and its terminal.

        Raises ``KitaruStackError`` if the process can't be started. Later errors are in the journal, or if the worker
        does not reach it, in its log: see ``startup_failure``.
        """
        import subprocess
        import tempfile

        log_path, own = self._logs / f"{order.exec_id}.log", self._logs / f"{order.exec_id}.json"
        try:
            python, environ = self._interpreter(_image_of(order.snapshot))
            self._logs.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            # A file without a name passes the order: private, gone with the worker, and no pipe that could block.
            with open(descriptor, "ab", buffering=0) as log, tempfile.TemporaryFile() as stdin:
                stdin.write(order.token())
                stdin.seek(0)
                begins = log.seek(0, os.SEEK_END)
                process = subprocess.Popen(
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
                f"can't start the worker of {order.exec_id}: {error}",
                hint=f"see that {self._python} may be executed, {self._cache} can be written and the disk is not full",
            ) from error
        handle = process_handle(process.pid)
        handle = replace(handle, data={**handle.data, "log": str(log_path), "log_begins": begins})
        # A thread takes the exit code, or the dead worker stays a zombie for as long as this process lives.
        threading.Thread(target=process.wait, name=f"kitaru-reap-{process.pid}", daemon=True).start()
        with suppress(OSError):  # a hint, for an execution that never begins
            own.write_text(json.dumps(handle.to_json()), "utf-8")
            self._prune_logs()
        return handle

    def launched(self, exec_id: str) -> Handle | None:
        """The last worker that was launched for the execution from this machine; None if there is none."""
        try:
            return Handle.from_json(json.loads((self._logs / f"{exec_id}.json").read_bytes()))
        except (OSError, ValueError):
            return None

    def alive(self, handle: Handle) -> bool | None:
        """Whether exactly that process runs; None for a stopped one (SIGSTOP), and for one of another machine."""
        return process_at_work(handle)

    def stop(self, handle: Handle) -> None:
        """End exactly that process: SIGTERM, and SIGKILL to its whole session if that does not do."""
        end_process(handle)

    def startup_failure(self, handle: Handle) -> str:
        """The end of the worker's own output; empty if there is none.

        For a worker that wrote no journal entry: a broken interpreter, a Kitaru that can't be imported.
        """
        try:
            body = Path(handle.data["log"]).read_bytes()[handle.data["log_begins"] :]
        except (OSError, KeyError, TypeError):
            return ""
        # Masked before it is cut: the cut could leave half a secret.
        return Masking(self._environ)(body.decode("utf-8", "replace"))[-TAIL:].strip()

    def _tell(self, message: str) -> None:
        if self._report is not None:
            self._report.step(Step("environment", message))

    def _prune_logs(self) -> None:
        """Once a day, remove the logs that were last written more than ``KEPT_DAYS`` ago."""
        marker, now = self._logs / ".pruned", time.time()
        if marker.exists() and now - marker.stat().st_mtime < DAY:
            return
        marker.touch()
        for path in self._logs.glob("ex-*"):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime > KEPT_DAYS * DAY:
                    path.unlink()

    def _interpreter(self, image: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
        """The worker's Python, and all of its environment variables."""
        secrets = self._secrets(image)
        own = {**OUTPUT, **(image.get("environment") or {}), **secrets}
        if secrets:
            own[NAMED] = ",".join(sorted(secrets))  # the worker keeps their values out of its logs
        if self._environment == "current":
            environ = {**self._environ, **own}
            if PACKAGE.parent.name not in INSTALLED:
                # Only `kitaru` is made visible, never the modules beside it in a checkout.
                visible = (str(self._own_package()), environ.get("PYTHONPATH"))
                environ["PYTHONPATH"] = os.pathsep.join(filter(None, visible))
            return self._python, environ
        from kitaru.stacks.venv import clean_environ

        python = self._venv_python(image.get("requirements") or [])
        environ = clean_environ(self._environ)
        environ["PYTHONPATH"] = str(self._own_package())
        environ["VIRTUAL_ENV"] = str(python.parent.parent)
        environ["PATH"] = os.pathsep.join((str(python.parent), environ.get("PATH", os.defpath)))
        return str(python), {**environ, **own}

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
        from kitaru.stacks.venv import ensure_environment

        return ensure_environment(self._cache, requirements, self._report, self._environ, self._extras)

    def _secrets(self, image: Mapping[str, Any]) -> dict[str, str]:
        """The variables of the image's secrets, from a JSON object in each ``KITARU_SECRET_<NAME>`` that is set.

        ``KITARU_SECRET_OPENAI='{"API_KEY": "…"}'`` → ``{"API_KEY": "…"}``. Raises ``KitaruStackError``.
        """
        variables: dict[str, str] = {}
        for name in image.get("secret_environment_from") or ():
            source = secret_variable(name)
            try:
                values = json.loads(self._environ.get(source, "{}"))
            except ValueError:
                values = None
            if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
                raise KitaruStackError(
                    f"secret {name}: {source} should hold a JSON object of strings",
                    hint=f'export {source}=\'{{"API_KEY": "..."}}\'',
                )
            variables.update(values)
        return variables


def secret_variable(name: str) -> str:
    """The environment variable of a secret: ``openai-creds`` → ``KITARU_SECRET_OPENAI_CREDS``."""
    return SECRET + re.sub(r"[^A-Z0-9]", "_", name.upper())


def _image_of(snapshot: bytes) -> dict[str, Any]:
    """The image's settings as in the snapshot: those are valid, so no model is needed to read them."""
    image = json.loads(snapshot).get("image") or {}
    return image if isinstance(image, dict) else {}
