"""What a benchmark yields: figures, each with its spread and with what was measured beside it in the same run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A median of ``n`` samples with its spread; ``goal`` is the most (or with ``at_least`` the least) it should be.

    ``beside`` is the median of what it is compared with, ``against`` says what that was.
    """

    metric: str
    samples: tuple[float, ...]
    unit: str
    against: str = ""
    beside: float | None = None
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.samples)

    @property
    def ratio(self) -> float | None:
        """The median over that of what it is compared with."""
        return self.value / self.beside if self.beside else None

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal; None where it has none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def to_json(self) -> dict[str, Any]:
        """One JSON line's object."""
        data: dict[str, Any] = {
            "metric": self.metric,
            "n": len(self.samples),
            "value": rounded(self.value),
            "unit": self.unit,
            "min": rounded(min(self.samples)),
            "median": rounded(self.value),
            "max": rounded(max(self.samples)),
        }
        if self.beside is not None:
            data |= {"against": self.against, "beside": rounded(self.beside)}
            if self.ratio is not None:
                data["ratio"] = rounded(self.ratio)
        if self.goal is not None:
            data |= {"goal": rounded(self.goal), "met": self.met}
        if self.note:
            data["note"] = self.note
        return data


def rounded(value: float) -> float:
    """``value`` with four significant digits."""
    return float(f"{value:.4g}")


def interleave(rounds: int, *measures: Callable[[], float]) -> list[tuple[float, ...]]:
    """Each measure taken ``rounds`` times, in turn, so that a busy minute of the machine hits all of them alike."""
    taken: list[list[float]] = [[] for _ in measures]
    for _ in range(rounds):
        for samples, measure in zip(taken, measures, strict=True):
            samples.append(measure())
    return [tuple(samples) for samples in taken]


def compared(
    metric: str,
    samples: Sequence[float],
    beside: Sequence[float],
    *,
    unit: str,
    against: str,
    at_most: float | None = None,
    at_least: float | None = None,
    times: float | None = None,
    note: str = "",
) -> Figure:
    """A figure beside what it is compared with; its goal is a bound or, with ``times``, a ratio to that."""
    floor = statistics.median(beside)
    goal = at_most if at_most is not None else at_least
    if times is not None:
        goal = floor * times
    return Figure(metric, tuple(samples), unit, against, floor, goal=goal, at_least=at_least is not None, note=note)


def counted(metric: str, value: float, unit: str, *, at_most: float | None = None, note: str = "") -> Figure:
    """A figure that was counted once: it has no spread."""
    return Figure(metric, (float(value),), unit, goal=at_most, note=note)
