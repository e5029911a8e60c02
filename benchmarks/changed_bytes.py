"""One of 2,000 files changes: what the second apply moves, and what of the flows that don't hold the file."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, compared, counted
from benchmarks.workspace import FLOW, Workspace, kitaru_command, workspace

GOAL = "changed bytes: one of 2,000 files changed, second apply"
ROUNDS = 5
FILES = 2000

MANIFEST = """\
kitaru: 1
project: bench
store: file://.kitaru/store
flows:
  flow_0000:
    target: large/main.py:flow_0000
    source: {include: [large/**]}
    routes: {default: head}
  flow_0001:
    target: small/main.py:flow_0001
    source: {include: [small/**]}
    routes: {default: head}
"""


def measure(rounds: int, files: int = FILES) -> Iterator[Figure]:
    with workspace() as place:
        _write_tree(place, files)
        command = [*kitaru_command(), "apply", "--yes"]
        first = place.seconds(command)
        before = _stored(place)
        archives = [size for path, size in before.items() if path.endswith(".tar.zst")]
        moved, seconds, quiet = [], [], []
        for number in range(rounds):
            place.write("large/module_00000.py", f"CHANGED = {number}\n")
            place.commit()
            seconds.append(place.seconds(command))
            now = _stored(place)
            new = {path: size for path, size in now.items() if path not in before}
            moved.append((sum(path.endswith(".tar.zst") for path in new), sum(new.values())))
            before = now
            quiet.append(place.seconds(command))
            if _stored(place) != now:
                raise RuntimeError("an apply that had nothing to do wrote something")
    yield counted(
        "changed_archives", max(count for count, _ in moved), "archives", at_most=1, note="2 flows, one holds the file"
    )
    yield compared(
        "changed_bytes",
        [size / 1000 for _, size in moved],
        [max(archives) / 1000],
        unit="kB",
        against="the archive of the flow that holds the file",
        times=1.5,
        note="archive, listing, snapshot, version table and generation together",
    )
    yield compared("changed_apply", seconds, [first], unit="s", against="the first apply of both flows")
    yield compared("unchanged_apply", quiet, [first], unit="s", against="the first apply of both flows")


def _write_tree(place: Workspace, files: int) -> None:
    chance = random.Random(7)
    words = [f"word_{number}" for number in range(500)]
    for number in range(files):
        lines = [f"{name.upper()}_{n} = {chance.random()!r}" for n, name in enumerate(chance.choices(words, k=40))]
        place.write(f"large/module_{number:05d}.py", "\n".join(lines) + "\n")
    place.write("large/main.py", FLOW.format(number=0))
    place.write("small/main.py", FLOW.format(number=1))
    place.write("kitaru.yaml", MANIFEST)
    place.write(".gitignore", ".kitaru/\n__pycache__/\n")
    place.commit()


def _stored(place: Workspace) -> dict[str, int]:
    """Every key of the store with its size in bytes."""
    store: Path = place.root / ".kitaru" / "store"
    files = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.stat().st_size for path in files}
