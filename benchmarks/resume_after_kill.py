"""Going on in a cold process after kill -9 at checkpoint 100 of 100, beside a Python that does nothing."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.figures import Figure, compared, counted
from benchmarks.workspace import Workspace, kitaru_command, workspace

GOAL = "resume after kill -9 at checkpoint 100 of 100, cold process"
ROUNDS = 9
CHECKPOINTS = 100

FLOW = """\
import os
import signal
import sys

from kitaru import checkpoint, flow

@checkpoint
def step(number: int) -> int:
    with open("effects.txt", "a") as file:
        file.write(f"{number}\\n")
    if number == 99 and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return number

@flow
def counting(count: int = 100) -> int:
    return sum(step(number) for number in range(count))

if __name__ == "__main__":
    handle = counting.run(cache=False)
    print(handle.exec_id, flush=True)
    handle.wait()
"""

RESUME = """\
import sys

from kitaru import KitaruClient
from counting import counting

print(KitaruClient().executions.resume(sys.argv[1], flow=counting).wait())
"""


def measure(rounds: int) -> Iterator[Figure]:
    by_script: list[float] = []
    by_command: list[float] = []
    bare: list[float] = []
    processor: list[float] = []
    again = 0
    with workspace() as place:
        place.write("counting.py", FLOW)
        place.write("resume.py", RESUME)
        for number in range(rounds + 1):
            for times, command in (
                (by_script, [sys.executable, "resume.py"]),
                (by_command, [*kitaru_command(), "executions", "resume"]),
            ):
                exec_id = _killed(place)
                begun, used = time.perf_counter(), _processor_time()
                place.run([*command, exec_id])
                spent = time.perf_counter() - begun
                if number and times is by_script:
                    processor.append(_processor_time() - used)
                again += _ran_again(place)
                if number:  # The first one compiles modules.
                    times.append(spent)
            if number:
                bare.append(place.bare_python())
    yield compared("resume_after_kill", by_script, bare, unit="s", against="bare Python", at_most=0.4)
    yield Figure("resume_after_kill_cpu", tuple(processor), "s", note="user and system time of that process")
    yield compared("resume_after_kill_by_command", by_command, bare, unit="s", against="bare Python")
    yield counted("finished_checkpoints_run_again", again, "calls", at_most=0, note=f"of {2 * (rounds + 1)} resumes")


def _killed(place: Workspace) -> str:
    """An execution whose runner died in its last checkpoint."""
    for name in ("killed", "effects.txt"):
        (place.root / name).unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "counting.py"],
        cwd=place.root,
        env=place.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != -signal.SIGKILL:
        raise RuntimeError(f"it should have been killed, and ended with {done.returncode}:\n{done.stderr}")
    return done.stdout.strip()


def _processor_time() -> float:
    """Of all child processes that have ended, so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ran_again(place: Workspace) -> int:
    """How many checkpoints ran twice, the one that was killed in the middle left out."""
    numbers = (place.root / "effects.txt").read_text(encoding="utf-8").split()
    if len(set(numbers)) != CHECKPOINTS:
        raise RuntimeError(f"{len(set(numbers))} checkpoints ran, not {CHECKPOINTS}")
    return len(numbers) - CHECKPOINTS - 1
