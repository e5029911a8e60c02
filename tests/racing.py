"""Many processes that apply and tag in one project at once, and the serial order that must explain all they were told.

Run as a module, this file is one of the processes.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kitaru.core.commit import next_lockfile
from kitaru.errors import KitaruConflictError
from kitaru.model.lockfile import AddVersion, Lockfile, Move
from kitaru.store.port import Store
from tests.repository import CHECKOUT, Repository

PROJECT = "research"
FLOWS = 3
HOT, SHARED = "hot", "seen"
PATIENCE = 1800.0
LONGEST_PAUSE = 5.0

CODE = """\
from kitaru import flow

""" + "\n".join(f"@flow\ndef flow_{number}(word: str = '') -> str:\n    return word\n" for number in range(FLOWS))


def manifest(words: Mapping[str, str]) -> str:
    """Every flow with its representative input: another word is another version, from the same source.

    Each process commits on its own, so that no commit contains another's: ``forward: false``.
    """
    lines = ["kitaru: 1", f"project: {PROJECT}", "forward: false", "source: {include: [flows.py]}", "flows:"]
    for name, word in words.items():
        lines += [f"  {name}:", f"    target: flows.py:{name}", f"    inputs: {{word: {word}}}"]
        lines += ["    routes: {default: head}"]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Told:
    """What one process was told of one of its deeds, after so many attempts, seconds and calls of the store."""

    who: str
    verb: str
    flow: str
    tag: str
    version: int
    generation: int
    attempts: int
    seconds: float
    requests: int


@dataclass(frozen=True, slots=True)
class Raced:
    """What all processes were told, and how long it took from the starting shot to the last of them."""

    told: tuple[Told, ...]
    seconds: float


def race(folder: Path, url: str, environ: Mapping[str, str], *, processes: int, rounds: int) -> Raced:
    """Let so many processes do so many deeds each, all begun at once: half of them applies, half moves of tags.

    Every flow of the project is contended by a third of the processes, and two tags of it by all of those.
    """
    base = Repository.make(folder / "base", {"flows.py": CODE}, manifest({f"flow_{n}": "none" for n in range(FLOWS)}))
    variables = {**os.environ, **environ, "KITARU_STORE": url, "KITARU_HOME": str(folder / "home")}
    variables["PYTHONPATH"] = str(CHECKOUT)
    _checked([sys.executable, "-m", "kitaru", "apply", "--yes"], base.folder, variables)
    children = []
    for number in range(processes):
        clone = base.clone(folder / f"clone-{number}", f"Worker{number}")
        command = [sys.executable, "-m", "tests.racing", str(folder), str(clone.folder), str(number), str(rounds)]
        log = (folder / f"log-{number}").open("wb")
        with log:
            child = subprocess.Popen(
                command,
                env={**variables, "KITARU_ACTOR": f"worker-{number}"},
                cwd=CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        children.append(child)
    try:
        _await_ready(folder, children)
        begun = time.monotonic()
        (folder / "go").touch()
        told = [one for number, child in enumerate(children) for one in _outcome(child, folder / f"log-{number}")]
        return Raced(tuple(told), time.monotonic() - begun)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()


def _await_ready(folder: Path, children: Sequence[subprocess.Popen[bytes]]) -> None:
    begun = time.monotonic()
    while len(list(folder.glob("ready-*"))) < len(children):
        assert time.monotonic() - begun < PATIENCE, "the processes do not start"
        ended = [number for number, child in enumerate(children) if child.poll() is not None]
        assert not ended, (folder / f"log-{ended[0]}").read_text(errors="replace")
        time.sleep(0.02)


def _outcome(child: subprocess.Popen[bytes], log: Path) -> Iterator[Told]:
    out, _ = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, log.read_text(errors="replace")
    for line in out.splitlines():
        yield Told(**json.loads(line))


def _checked(command: Sequence[str], folder: Path, environ: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the serial order -------------------------------------------------------------------------------------------------


def check_serial(store: Store, told: Sequence[Told]) -> Lockfile:
    """The log, read from generation 1, explains everything: no gap, no version twice, no move lost, nobody misled.

    The newest state.
    """
    from kitaru.release.releases import Releases
    from kitaru.wiring import SystemClock

    releases = Releases(store, PROJECT, SystemClock())
    lock, parent = Lockfile(project=PROJECT), ""
    minted: dict[str, list[int]] = {}
    by_generation = {one.generation: one for one in told if one.verb != "nothing"}
    assert len(by_generation) == len([one for one in told if one.verb != "nothing"]), "two were told one generation"
    number = 0
    while (found := releases.entry(number + 1)) is not None:
        number += 1
        entry, sha = found
        assert entry.parent == parent, number
        following = next_lockfile(lock, entry.edits, at=entry.at, by=entry.by, via=entry.verb)
        assert isinstance(following, Lockfile), following
        assert following.state_digest == entry.state_digest, number
        for edit in entry.edits:
            if isinstance(edit, AddVersion):
                minted.setdefault(edit.flow, []).append(edit.version)
            if isinstance(edit, Move):
                assert following.flows[edit.flow].routes[edit.tag].holders == edit.holders
        if number > 1:
            deed = by_generation.pop(number)
            assert (entry.by, entry.verb) == (deed.who, deed.verb)
            _check_deed(deed, entry.edits)
        lock, parent = following, sha
    assert not by_generation, "somebody was told of a generation that is not there"
    for flow, versions in minted.items():
        assert versions == list(range(1, len(versions) + 1)), flow
    head = releases.head(verified=True)
    assert (head.generation, head.entry, head.state_digest) == (number, parent, lock.state_digest)
    return head


def _check_deed(deed: Told, edits: Sequence[Any]) -> None:
    if deed.verb == "apply":
        assert [edit.version for edit in edits if isinstance(edit, AddVersion)] == [deed.version]
    else:
        moves = [edit for edit in edits if isinstance(edit, Move)]
        assert [(move.flow, move.tag) for move in moves] == [(deed.flow, deed.tag)]
        assert deed.version in [holder.version for holder in moves[0].holders]


# --- one process ------------------------------------------------------------------------------------------------------


class Worker:
    """Applies new versions of one flow, and moves two tags of it, each until it has succeeded."""

    def __init__(self, clone: Path, number: int) -> None:
        from benchmarks.counting_store import CountingStore, count_requests
        from kitaru import KitaruClient

        def new_client() -> tuple[KitaruClient, CountingStore]:
            client = KitaruClient(manifest=clone / "kitaru.yaml")
            return client, count_requests(client)

        self._who = f"worker-{number}"
        self._flow = f"flow_{number % FLOWS}"
        self._repository = Repository(clone)
        self._new_client = new_client
        self._version = 1

    def apply(self, round_: int) -> Told:
        """Commit another word, and apply it; where somebody else was first, apply again, a little later."""
        words = {f"flow_{n}": "none" for n in range(FLOWS)} | {self._flow: f"{self._who}-{round_}"}
        self._repository.manifest(manifest(words))
        self._repository.commit(f"{self._who} {round_}")
        begun, attempts, requests = time.monotonic(), 0, 0
        while True:
            attempts += 1
            client, counting = self._new_client()
            try:
                done = client.apply((self._flow,))
                requests += counting.calls.total()
            except KitaruConflictError:
                requests += counting.calls.total()
                # Two of three others want the same flow: whoever comes again at once only keeps them all busy.
                time.sleep(random.uniform(0, min(0.05 * 2**attempts, LONGEST_PAUSE)))
                continue
            entry = client.session.releases.entry(done.generation)
            assert entry is not None
            self._version = next(edit.version for edit in entry[0].edits if isinstance(edit, AddVersion))
            spent = time.monotonic() - begun
            return Told(self._who, "apply", self._flow, "", self._version, done.generation, attempts, spent, requests)

    def tag(self, tag: str, *, exclusive: bool) -> Told:
        """Lead a tag to the version that this process made last."""
        begun = time.monotonic()
        client, counting = self._new_client()
        done = client.deployments.tag(self._flow, tag, version=self._version, exclusive=exclusive, manifest="leave")
        spent = time.monotonic() - begun
        verb = "tag" if done.changed else "nothing"
        requests = counting.calls.total()
        return Told(self._who, verb, self._flow, tag, self._version, done.generation, 1, spent, requests)

    def deeds(self, rounds: int) -> Iterator[Told]:
        """All that this process does."""
        for round_ in range(rounds):
            if round_ % 2 == 0:
                yield self.apply(round_)
            elif round_ % 4 == 1:
                yield self.tag(HOT, exclusive=True)
            else:
                yield self.tag(SHARED, exclusive=False)


def main(folder: Path, clone: Path, number: int, rounds: int) -> None:
    from dataclasses import asdict

    worker = Worker(clone, number)
    (folder / f"ready-{number}").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    for told in worker.deeds(rounds):
        print(json.dumps(asdict(told)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
