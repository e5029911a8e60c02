"""One writer's turns at the lock log: who loses a race comes again a little later, and with what the winner left."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from kitaru.core.commit import Broken
from kitaru.model.lockfile import Lockfile
from kitaru.release.releases import Lost, Releases

LONGEST_PAUSE = 2.0
"""Seconds. Fifty writers of one log need a few tenths of one to get out of each other's way."""

MOST_DOUBLINGS = 10


class Turns:
    """The attempts of one operation. Who never lost never waits.

    A pause is random, up to so many times what the lost attempt itself took, twice as many with each race that was
    lost: a few milliseconds on a disk, more in a bucket, and more again where too many wait for its answers.
    """

    def __init__(self, releases: Releases, sleep: Callable[[float], None] = time.sleep) -> None:
        self._releases = releases
        self._sleep = sleep
        self._lost = 0

    def again(self, outcome: Lost | tuple[Broken, ...]) -> Lockfile:
        """The newest state after an attempt that wrote nothing, and after a pause where another writer was first.

        Raises what ``Releases.head`` raises.
        """
        if not isinstance(outcome, Lost):
            return self._releases.head(verified=True)
        self._lost += 1
        most = min(outcome.seconds * 2 ** min(self._lost, MOST_DOUBLINGS), LONGEST_PAUSE)
        self._sleep(random.uniform(0.0, most))
        return self._releases.after(outcome)
