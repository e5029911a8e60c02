"""Which of the recorded calls and waits still stand on the way that the flow's body takes. Pure.

A body that goes on where a runner ended takes the way that is recorded, with its failures. Where the body itself
failed, the next attempt computes anew the calls that it failed by: those that ``AttemptFailed`` and ``Failed`` name (an
empty list where it failed by none), else every call that had failed for good. What was recorded after the first of
these failures may hang on it, so from there on the body may take another way. What it finished there is *loose*: it is
kept where the body makes the same call, or asks the same, and binds nobody.

What no later attempt came to again is *superseded*, once that is certain. A result, or an answer, may be kept to the
very end of an attempt, and at another place: it is superseded where the flow completed without it, or where the
execution ended otherwise and the last attempt that came to its place had something else there. What has none can be
made again at its own place only: it is superseded as soon as something else stands there.

A call's id is its place in the body, ``3``. Where another one stands at that place in a later attempt, it is ``3@2``:
what was finished keeps its id for ever.
"""

from __future__ import annotations

from kitaru.model.event import (
    AttemptFailed,
    Cancelled,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointLost,
    CheckpointStarted,
    Completed,
    Event,
    Failed,
    Kept,
    Started,
    WaitAnswered,
    WaitOpened,
)

AGAIN = "@"
"""Between a place and the attempt in which another call came to stand there."""

CALLS = (CheckpointStarted, CheckpointCompleted, CheckpointFailed, CheckpointLost)


def place_of(call: str) -> str:
    """Where in the body the call, or wait, of that id was made first."""
    return call.partition(AGAIN)[0]


class Standing:
    """The fold of an execution's events, by calls and waits. Threads take what is loose one at a time."""

    def __init__(self) -> None:
        self.attempt = 1
        """The attempt at the body that runs, or comes."""
        self.loose: dict[str, None] = {}
        """Calls that no one has made again since the body may take another way; the earliest first."""
        self.loose_waits: dict[str, None] = {}
        self._done: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        self._asked: dict[str, int] = {}
        self._here: dict[str, str] = {}
        self._moved: set[str] = set()
        self._newest: dict[str, str] = {}
        self._begun: dict[str, None] = {}
        """Calls of this attempt that have no outcome."""
        self._behind: dict[str, None] = {}
        """Calls of earlier attempts that came to no outcome, and that no one has made again."""
        self._made: set[str] = set()
        """Places at which this attempt, which is not the first, made a call or asked."""
        self._places: dict[str, str] = {}
        """Where what was kept at another place stands, or stood last."""
        self._left: set[str] = set()
        """What the last attempt that came to its place, and that has ended, had something else for."""
        self._ended = False
        self._moment = 0
        self._over: AttemptFailed | Failed | None = None

    def add(self, event: Event) -> None:
        """Take one more event."""
        self._moment += 1
        if isinstance(event, CALLS):
            self._add_call(event)
        elif isinstance(event, Kept):
            self.keep(event)
        elif isinstance(event, (WaitOpened, WaitAnswered)):
            self.loose_waits.pop(event.wait, None)
            self._stands(event.wait)
            self._asked.setdefault(event.wait, self._moment)
        elif isinstance(event, (AttemptFailed, Failed)):
            self._over = event
            self._leave(ended=isinstance(event, Failed))
        elif isinstance(event, Started):
            self.begin()
            self.attempt = event.attempt
            self._ended = False
        elif isinstance(event, (Completed, Cancelled)):
            self._leave(ended=True, whole=isinstance(event, Completed))

    def keep(self, event: Kept) -> None:
        """What was loose stands at that place from now on."""
        known, loose = (self._asked, self.loose_waits) if event.is_wait else (self._done, self.loose)
        loose.pop(event.of, None)
        self._moment += 1  # after the failure before it, also where no event was added for it
        known[event.of] = self._moment
        self._is_made(event.of, event.place)
        self._places[event.of] = event.place
        if event.of != event.place:
            self._here[event.place] = event.of
            self._moved.add(event.of)

    def is_superseded(self, one: str, *, kept: bool) -> bool:
        """Whether the call, or wait, ``one`` is of an earlier attempt alone. ``kept``: it has a result, or an answer,
        which later attempts take over.
        """
        if not (one in self.loose or one in self.loose_waits or one in self._behind):
            return False
        if self._ended:
            return one in self._left
        # Its id is not given out again, at least in this attempt.
        return not kept and (self._is_past(one) or self.newest(place_of(one)) != one)

    def _is_past(self, one: str) -> bool:
        """Whether this attempt has something else at its place."""
        return (self._places.get(one) or place_of(one)) in self._made

    def _leave(self, *, ended: bool, whole: bool = False) -> None:
        """The attempt is over, and with it the execution where that ``ended``. ``whole``: the body came to its end."""
        self._ended = ended
        behind = (*self.loose, *self.loose_waits, *self._behind)
        self._left.update(one for one in behind if whole or self._is_past(one))

    def _is_made(self, one: str, place: str) -> None:
        self._left.discard(one)
        if self.attempt > 1:
            self._made.add(place)

    def begin(self) -> None:
        """The next attempt at the body begins, if one has failed."""
        over, self._over = self._over, None
        if over is None:
            return
        self.attempt += 1
        self._made = set()
        self._behind |= self._begun
        self._begun = {}
        named = [call for call in over.calls or () if call in self._failed]
        anew = named or ([] if over.calls == [] else list(self._failed))
        if not anew:
            return
        first = min(self._failed[call] for call in anew)
        for known in (self._done, self._failed):
            for call in [call for call, moment in known.items() if moment > first or call in anew]:
                del known[call]
                self.loose[call] = None
        for wait in [wait for wait, moment in self._asked.items() if moment > first]:
            del self._asked[wait]
            self.loose_waits[wait] = None
        gone = {*self.loose, *self.loose_waits}
        self._here = {place: one for place, one in self._here.items() if one not in gone}
        self._moved -= gone

    def call_at(self, place: str) -> str | None:
        """The call whose outcome, good or bad, binds the body at that place."""
        call = self._at(place)
        return call if call in self._done or call in self._failed else None

    def wait_at(self, place: str) -> str | None:
        """The wait that was opened at that place, on the way that the body takes."""
        wait = self._at(place)
        return wait if wait in self._asked else None

    def _at(self, place: str) -> str | None:
        return self._here.get(place) or (None if place in self._moved else place)

    def newest(self, place: str) -> str:
        """The id that was given out last at that place."""
        return self._newest.get(place, place)

    def next_id(self, place: str) -> str:
        """An id for what stands at that place now, where the newest one there is taken."""
        return f"{place}{AGAIN}{self.attempt}"

    def _add_call(self, event: CheckpointStarted | CheckpointCompleted | CheckpointFailed | CheckpointLost) -> None:
        call = event.call
        self.loose.pop(call, None)
        self._behind.pop(call, None)
        self._begun.pop(call, None)
        self._stands(call)
        self._failed.pop(call, None)
        if isinstance(event, CheckpointCompleted):
            self._done[call] = self._moment
        elif call in self._done:
            return
        elif isinstance(event, CheckpointFailed) and not event.retry:
            self._failed[call] = self._moment
        else:
            self._begun[call] = None

    def _stands(self, one: str) -> None:
        self._is_made(one, place_of(one))
        if AGAIN in one:
            self._here[place_of(one)] = self._newest[place_of(one)] = one
