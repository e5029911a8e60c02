"""A process that exists for one run, as a worker does: a flow from source, and what came of its output."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.execution_lab import PROJECT, Lab, read_lines
from tests.repository import until

PROLOGUE = """
import os, subprocess, sys, threading, time, multiprocessing, logging
from pathlib import Path
from kitaru import checkpoint, flow
from kitaru.run.output import Descriptors
from kitaru.masking import Masking
from kitaru.run.executor import execute
from kitaru.stacks.port import Handle
from tests.execution_lab import Lab, PROJECT

def shell(command):
    subprocess.run(command, shell=True, check=True)

"""
EPILOGUE = """

if __name__ == "__main__":
    descriptors = Descriptors()
    lab = Lab(Path(sys.argv[1]))
    exec_id = lab.open(main)
    Path(sys.argv[2] + ".new").write_text(exec_id)
    os.rename(sys.argv[2] + ".new", sys.argv[2])
    execute(main, lab.recorded(exec_id), lab.host(descriptors=descriptors, mask=Masking(os.environ)))
    sys.stdout.flush()
"""


class Process:
    """A process that exists for one run, as a worker does."""

    def __init__(self, folder: Path, source: str, **variables: str) -> None:
        self.lab = Lab(folder / "store")
        script = folder / "run.py"
        script.write_text(PROLOGUE + textwrap.dedent(source) + EPILOGUE)
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            command = [sys.executable, str(script), str(folder / "store"), str(folder / "id")]
            self.process = subprocess.Popen(command, stdout=out, stderr=err, env=environ)
        until(lambda: (folder / "id").exists() or self.process.poll() is not None)
        self.exec_id = (folder / "id").read_text()
        self.folder = folder

    def end(self) -> list[tuple[str, str, str | None]]:
        """The lines, once it has ended well: stream, text, call."""
        assert self.process.wait(180) == 0, (self.folder / "err").read_text()
        return self.lines()

    def lines(self) -> list[tuple[str, str, str | None]]:
        found, _ = read_lines(self.lab.store, PROJECT, self.exec_id)
        return [(one.stream, one.text, one.call) for one in found]
