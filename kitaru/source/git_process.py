"""Runs the ``git`` binary without prompts, without a pager, and without the variables of a hook.

Plain ``subprocess`` and not GitPython wherever a plan or a run waits: one ``git`` process takes 2 to 5 ms, while
importing GitPython takes about 95 ms. ``git.upstream`` and ``git.commit_words`` use GitPython.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

from kitaru.errors import KitaruSourceError

_KEPT = ("GIT_CONFIG_", "GIT_EXEC_PATH", "GIT_SSH", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM")
_KEPT_EXACTLY = {"GIT_TEST_ASSUME_DIFFERENT_OWNER"}
_QUIET = {
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
    "GIT_LITERAL_PATHSPECS": "0",
}


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment for ``git``, without the ``GIT_*`` variables that point a hook at its repository.

    In a hook, ``GIT_DIR`` and ``GIT_INDEX_FILE`` would win over the folder that ``git`` runs in.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(_KEPT) or name in _KEPT_EXACTLY
    }
    return {**kept, **_QUIET, **(extra or {})}


def start(
    folder: Path,
    *arguments: str,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``git`` in ``folder`` with both outputs piped. Raises ``KitaruSourceError`` if it can't start."""
    try:
        return subprocess.Popen(
            ["git", "--no-pager", *arguments],
            cwd=folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
        )
    except FileNotFoundError as error:
        if not folder.is_dir():
            raise KitaruSourceError(
                f"{folder} is not a folder", hint="give the folder that holds kitaru.yaml"
            ) from error
        raise KitaruSourceError(
            "git was not found on the PATH; a snapshot is made from a Git commit",
            hint="install git (https://git-scm.com/downloads), then repeat the command",
        ) from error
    except OSError as error:
        raise KitaruSourceError(f"git can't be started in {folder}: {error.strerror or error}") from error


def finish(process: subprocess.Popen[bytes], folder: Path, body: bytes | None = None) -> bytes:
    """Wait for ``process`` and return its output. Raises ``KitaruSourceError`` with the reason if it failed."""
    output, complaint = process.communicate(body)
    if process.returncode != 0:
        explain(complaint.decode("utf-8", "replace"), folder)
    return output


def run(folder: Path, *arguments: str, body: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
    """Run ``git`` with ``body`` as its input, and return its output. Raises ``KitaruSourceError`` if it failed."""
    stdin = subprocess.DEVNULL if body is None else subprocess.PIPE
    return finish(start(folder, *arguments, stdin=stdin, env=env), folder, body)


def succeeds(folder: Path, *arguments: str) -> bool:
    """Whether ``git`` ends with exit code 0."""
    process = start(folder, *arguments)
    process.communicate()
    return process.returncode == 0


def contents(folder: Path, blobs: Sequence[str]) -> Iterator[bytes | None]:
    """The blobs in order, from one ``git`` process; None for one that Git has no content for.

    That may be so in a partial clone without its server. Raises ``KitaruSourceError`` if ``git`` stops.
    """
    with tempfile.TemporaryFile() as asked:
        # A file and not a pipe: git answers before all ids are written, and both sides would wait.
        asked.write("".join(f"{blob}\n" for blob in blobs).encode())
        asked.seek(0)
        with start(folder, "cat-file", "--batch", "--buffer", stdin=asked) as process:
            assert process.stdout is not None
            try:
                for blob in blobs:
                    header = process.stdout.readline().split()
                    size = int(header[2]) if len(header) == 3 else 0
                    body = process.stdout.read(size + 1) if len(header) == 3 else b""
                    if not header or len(body) not in (0, size + 1):
                        message = f"git stopped while reading object {blob} of {folder}"
                        raise KitaruSourceError(message, hint="repeat the command")
                    yield body[:-1] if body else None
            finally:
                process.kill()


def explain(complaint: str, folder: Path) -> NoReturn:
    """Raise ``KitaruSourceError`` with the complaint of ``git`` in plain words, and the next command."""
    if "not a git repository" in complaint:
        raise KitaruSourceError(
            f"{folder} is not in a Git repository; a snapshot is made from a Git commit",
            hint=f"cd {folder} && git init && git add -A && git commit -m 'First commit'",
        )
    if "dubious ownership" in complaint or "unsafe repository" in complaint:
        raise KitaruSourceError(
            f"Git refuses the repository at {folder}: its files belong to another user",
            hint=f"if you trust it: git config --global --add safe.directory {_named_by_git(complaint) or folder}",
        )
    if "must be run in a work tree" in complaint:
        refuse_bare(folder)
    if "unmerged" in complaint or "needs merge" in complaint:
        raise KitaruSourceError(
            "a merge with conflicts is going on in this repository",
            hint="finish it (git status shows what is left), or git merge --abort",
        )
    words = [line for line in complaint.strip().splitlines() if line.strip()]
    # Warnings may come first, say of line endings.
    words.sort(key=lambda line: not line.startswith(("fatal:", "error:")))
    raise KitaruSourceError(f"git failed in {folder}: {words[0] if words else 'it said nothing'}")


def refuse_bare(folder: Path) -> NoReturn:
    """Raise ``KitaruSourceError`` for a bare repository or a ``.git`` folder."""
    raise KitaruSourceError(
        f"{folder} is inside a bare repository or a .git folder; there is no working tree with a kitaru.yaml here",
        hint="git clone it, and run the command in the clone",
    )


def _named_by_git(complaint: str) -> str:
    marker = "--add safe.directory "
    line = next((line for line in complaint.splitlines() if marker in line), "")
    return line.partition(marker)[2].strip()
