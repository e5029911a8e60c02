"""Random flows, as source files, for the rounds in which their runners are killed.

A flow is a function of its seed. Every checkpoint call has a label of its own, leaves one line in a file that outlives
its process, and gives a value that depends on nothing but its arguments: however often the runner dies, the flow has
one right result.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

EFFECTS = "KILL_EFFECTS"
"""The variable that names the file of side effects. A line of it: the run, the time in seconds, the label."""

RUN = "KILL_RUN"
"""The variable that numbers the run, so that an effect tells which process had it."""

HEAD = '''\
"""Made for seed {seed}."""

import asyncio
import hashlib
import logging
import os
import time
import zlib

from kitaru import checkpoint, flow, log, save, wait

LOGGER = logging.getLogger("kill")


def did(label: str) -> int:
    """How often this happened before; one line more in the file."""
    path = os.environ["KILL_EFFECTS"]
    try:
        with open(path) as file:
            before = sum(line.split()[2] == label for line in file)
    except FileNotFoundError:
        before = 0
    line = f"{{os.environ['KILL_RUN']}} {{time.time():.6f}} {{label}}\\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    return before


def past(*labels: str) -> None:
    """The body has the results of these calls, and goes on."""
    for label in labels:
        did(f"past-{{label}}")


def nap(label: str) -> float:
    return zlib.crc32(label.encode()) % 4 / 1000


@checkpoint
def add(label: str, numbers: list[int]) -> int:
    did(label)
    time.sleep(nap(label))
    return sum(numbers) % 1_000_003 + len(label)


@checkpoint
def scale(label: str, number: int, factor: int = 3) -> int:
    did(label)
    print(f"line of {{label}}")
    LOGGER.warning("warning of %s", label)
    time.sleep(nap(label))
    return number * factor % 1_000_003


@checkpoint
def large(label: str, number: int) -> bytes:
    did(label)
    return hashlib.sha256(f"{{label}} {{number}}".encode()).digest() * (2_100 + number % 1_000)


@checkpoint
def measure(label: str, body: bytes) -> int:
    did(label)
    return zlib.crc32(body) % 1_000_003


@checkpoint(retries=2)
def flaky(label: str, number: int) -> int:
    if did(label) < 1 + number % 2:
        raise ConnectionError("not yet")
    return number + 7


@checkpoint
def broken(label: str, number: int) -> int:
    did(label)
    raise ValueError(f"never {{number}}")


@checkpoint
def odd(label: str, number: int) -> int:
    did(label)
    if number % 2:
        raise ValueError(f"{{number}} is odd")
    return number + 23


@checkpoint
def wobbly(label: str, number: int) -> int:
    if not did(label):
        raise ValueError("the first time")
    return number + 29


@checkpoint(timeout=60)
def timed(label: str, number: int) -> int:
    did(label)
    time.sleep(nap(label))
    return number + 11


@checkpoint
def noted(label: str, number: int) -> int:
    did(label)
    log(step=label, facts={{label: number}})
    save("note", {{"label": label, "number": number}})
    return number + 13


@checkpoint(runtime="isolated")
def apart(label: str, number: int) -> int:
    did(label)
    print(f"line of {{label}}")
    time.sleep(5 * nap(label))
    return number + 19


@checkpoint
async def later(label: str, number: int) -> int:
    did(label)
    await asyncio.sleep(nap(label))
    return number + 17


'''


@dataclass(slots=True)
class Program:
    """A flow's source, and what has to be answered for it to get through."""

    seed: int
    source: str
    waits: list[str] = field(default_factory=list)

    @property
    def starts_processes(self) -> bool:
        """Whether it makes calls of isolated checkpoints."""
        return " apart(" in self.body or "apart.submit(" in self.body

    @property
    def body(self) -> str:
        """The flow itself, without the checkpoints."""
        return self.source.partition("\n@flow(")[2]

    @property
    def target(self) -> str:
        """As ``load_target`` takes it."""
        return f"kill_{self.seed}.py:main"

    def write(self, folder: Path) -> None:
        """Put the source where ``target`` says."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"kill_{self.seed}.py").write_text(self.source, encoding="utf-8")


def program(seed: int) -> Program:
    """The flow of that seed."""
    return _Writer(seed).program()


class _Writer:
    """Adds one step after the other; ``v`` is the variable that holds the newest number."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._chance = random.Random(seed)
        self._count = 0
        self._labels = 0
        self._waits: list[str] = []
        self._asynchronous = self._chance.random() < 0.4
        self._fails_once = self._chance.random() < 0.3
        self._cleanups = 0
        self._aside: set[str] = set()
        """Labels of calls that a later attempt at the body does without."""

    def program(self) -> Program:
        steps: list[Callable[[], list[str]]] = [
            self._inline,
            self._submitted,
            self._mapped,
            self._large,
            self._large,
            self._caught,
            self._caught_asked,
            self._collected,
            self._cleaned_up,
            self._said,
            self._retried,
            self._asked,
        ]
        if self._asynchronous:
            steps += [self._gathered, self._gathered]
        if self._chance.random() < 0.4:
            steps += [self._apart, self._apart]
        lines = ["v = start", "seen = []"]
        count = self._chance.randint(4, 9)
        failing = self._chance.randrange(count) if self._fails_once else -1
        for place in range(count):
            first = self._labels + 1
            step = self._chance.choice(steps)
            lines += step()
            had = [f"s{number}" for number in range(first, self._labels + 1) if f"s{number}" not in self._aside]
            lines.append(f"past({', '.join(repr(label) for label in had)})")
            lines.append("seen.append(v)")
            if place == failing:
                lines += ['if not did("body"):', '    raise RuntimeError("the first attempt at the body fails")']
        lines.append('return {"seen": seen, "last": v}')
        head = "async def" if self._asynchronous else "def"
        further = self._fails_once + self._cleanups
        retries = f"retries={further}" if further else ""
        body = "".join(f"    {line}\n" for line in lines)
        source = f"{HEAD.format(seed=self._seed)}@flow({retries})\n{head} main(start: int = 1) -> dict:\n{body}"
        return Program(self._seed, source, self._waits)

    def _label(self) -> str:
        self._labels += 1
        return f"s{self._labels}"

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count}"

    def _call(self, name: str, argument: str) -> str:
        """One inline call of a checkpoint; an async flow awaits its async ones."""
        wanted = "await " if self._asynchronous and name == "later" else ""
        return f'{wanted}{name}("{self._label()}", {argument})'

    def _inline(self) -> list[str]:
        return [
            f"v = {self._call(self._chance.choice(['scale', 'timed', 'noted', 'later', 'scale']), 'v')}"
            for _ in range(self._chance.randint(1, 4))
        ]

    def _submitted(self) -> list[str]:
        """Futures that depend on futures, some only by ``after``."""
        if self._asynchronous:
            first, second = self._name("f"), self._name("f")
            return [
                f'{first} = later.submit("{self._label()}", v)',
                f'{second} = later.submit("{self._label()}", v + 1, after={first})',
                f"v = await {first} + await {second}",
            ]
        names = [self._name("f") for _ in range(3)]
        checkpoints = [self._chance.choice(["scale", "flaky", "timed", "later", "noted"]) for _ in range(2)]
        return [
            f'{names[0]} = {checkpoints[0]}.submit("{self._label()}", v)',
            f'{names[1]} = {checkpoints[1]}.submit("{self._label()}", {names[0]})',
            f'{names[2]} = scale.submit("{self._label()}", v, after=[{names[0]}])',
            f'v = add("{self._label()}", [{", ".join(names)}])',
        ]

    def _mapped(self) -> list[str]:
        count = self._chance.randint(2, 12)
        bound = self._chance.choice([None, 1, 2, 3])
        labels = [self._label() for _ in range(count)]
        name = self._chance.choice(["scale", "flaky", "later"])
        futures = self._name("m")
        last = f"sum(await asyncio.gather(*{futures}))" if self._asynchronous and name == "later" else None
        return [
            f"{futures} = {name}.map({labels}, range(v, v + {count}), max_concurrency={bound})",
            f"v = {last or f'sum({futures}.results())'} % 1_000_003",
        ]

    def _large(self) -> list[str]:
        body = self._name("b")
        return [f'{body} = large("{self._label()}", v)', f'v = measure("{self._label()}", {body})']

    def _caught(self) -> list[str]:
        return [
            "try:",
            f"    v = {self._call('broken', 'v')}",
            "except ValueError:",
            f"    v = {self._call('scale', 'v')}",
        ]

    def _caught_asked(self) -> list[str]:
        """What is asked after a failure, and all that hangs on the answer, hangs on that failure."""
        asked = self._asked()
        return [
            "try:",
            f"    v = {self._call('broken', 'v')}",
            "except ValueError:",
            f"    log(missing={self._count}, facts={{'without': v}})",
            *(f"    {line}" for line in asked),
            f"    v = {self._call('scale', 'v')}",
        ]

    def _collected(self) -> list[str]:
        """Failures of a map, which the body counts, and asks what to make of them."""
        count = self._chance.randint(2, 6)
        labels, outcomes = [self._label() for _ in range(count)], self._name("o")
        mapped = f'odd.map({labels}, range(v, v + {count}), on_error="collect")'
        return [
            f"{outcomes} = {mapped}.outcomes()",
            f"v = sum(one.value if one.ok else 3 for one in {outcomes}) % 1_000_003",
            *self._asked(),
        ]

    def _cleaned_up(self) -> list[str]:
        """The body fails after it has cleaned up, once; the next attempt takes another way."""
        self._cleanups += 1
        tried, aside = self._call("wobbly", "v"), self._label()
        self._aside.add(aside)
        return [
            "try:",
            f"    n = {tried}",
            "except ValueError:",
            f'    scale("{aside}", v)',
            "    raise",
            f"v = {self._call('scale', 'n')}",
        ]

    def _said(self) -> list[str]:
        return [
            f'print("the body at {self._label()}")',
            f'log(step={self._count}, facts={{"{self._label()}": v}})',
            f"v = {self._call('noted', 'v')}",
        ]

    def _retried(self) -> list[str]:
        return [f"v = {self._call('flaky', 'v')}"]

    def _apart(self) -> list[str]:
        """In processes of their own: one that is waited for, or two beside a call that is not."""
        if self._chance.random() < 0.5:
            return [f"v = {self._call('apart', 'v')}"]
        names = [self._name("f") for _ in range(3)]
        return [
            f'{names[0]} = apart.submit("{self._label()}", v)',
            f'{names[1]} = apart.submit("{self._label()}", v + 1)',
            f'{names[2]} = scale("{self._label()}", v)',
            f"v = {names[0]}.result() + {names[1]}.result() + {names[2]}",
        ]

    def _asked(self) -> list[str]:
        name = f"w{len(self._waits) + 1}"
        self._waits.append(name)
        wanted = "await " if self._asynchronous else ""
        return [f'v = v + {wanted}wait(name="{name}", schema=int, timeout=60)']

    def _gathered(self) -> list[str]:
        """Branches that run at once, each with calls one after the other."""
        lines: list[str] = []
        names = [self._name("branch") for _ in range(self._chance.randint(2, 4))]
        for name in names:
            calls = [self._call(self._chance.choice(["later", "later", "scale", "flaky"]), "n") for _ in range(3)]
            lines.append(f"async def {name}(n):")
            lines += [f"    n = {call}" for call in calls[: self._chance.randint(1, 3)]]
            lines.append("    return n")
        return [*lines, f"v = sum(await asyncio.gather({', '.join(f'{name}(v)' for name in names)})) % 1_000_003"]
