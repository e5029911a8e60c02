"""Where the rooms meet the outside world: small protocols, with their promises spelled out.

One room implements a protocol, another calls it, and neither imports the other.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from kitaru.model.jsonable import record


class Clock(Protocol):
    """Time and randomness, so that nothing below needs to be patched in a test."""

    def now(self) -> datetime:
        """The present, in UTC, with time zone."""
        ...

    def token(self, size: int) -> str:
        """``size`` random characters of ``0-9a-z`` (without i, l, o, u), from a secure source."""
        ...


@record()
class Step:
    """Something worth telling a person who waits.

    ``phase`` is one of ``source``, ``import``, ``build``, ``upload``, ``environment``, ``commit``; ``done`` and
    ``total`` count its units (flows, files, or bytes where ``unit`` says so).
    """

    phase: str
    message: str
    done: int = 0
    total: int = 0
    unit: str = ""


class Reporter(Protocol):
    """Takes progress. Must not raise, must not block for long."""

    def step(self, step: Step) -> None: ...
