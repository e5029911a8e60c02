"""By which calls a flow failed: what the exception that left its body says, and what nobody in the body has seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kitaru.errors import KitaruDivergenceError, KitaruTimeoutError
from kitaru.run.call_run import CallRun
from kitaru.run.interrupts import FlowExpired

if TYPE_CHECKING:
    from kitaru.run.run_state import RunState

PERFORMERS = ("kitaru.run.calls", "kitaru.run.event_loop")
"""Where the frames are through which a call's failure leaves it."""


def failed_calls(run: RunState, error: BaseException) -> list[str] | None:
    """The calls whose failures the body failed by; None where ``error`` and what it is chained to are nobody's.

    With a call of a map go all others of it that failed, for the body was told of one alone; and so do submitted calls
    whose failure nobody asked for. Where the flow's own time was over, these alone: what the body went on from before
    had no part in it.
    """
    if isinstance(error, KitaruDivergenceError):
        return None
    expired = isinstance(error, KitaruTimeoutError) and isinstance(error.__context__, FlowExpired)
    found = dict.fromkeys(() if expired else _blamed(error, set()))
    if not found and not expired:
        return None
    # What was stopped with the flow has not failed.
    settled = [future for future in list(run.futures) if isinstance(future.outcome_error, Exception)]
    failed = [(future, run.recorded.id_at(future.call_id)) for future in settled]
    groups = {id(future.group) for future, call in failed if call in found and future.group is not None}
    for future, call in failed:
        if future.lost_error is not None or id(future.group) in groups:
            found[call] = None
    return list(found)


def _blamed(error: BaseException, seen: set[int]) -> Iterator[str]:
    """The call that failed with ``error``; else those by which its cause came about, else its context, else its
    members.
    """
    if id(error) in seen:
        return
    seen.add(id(error))
    call = _call_of(error)
    if call is not None:
        yield call
        return
    for origin in (error.__cause__, error.__context__):
        found = list(_blamed(origin, seen)) if origin is not None else []
        if found:
            yield from found
            return
    for member in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        yield from _blamed(member, seen)


def _call_of(error: BaseException) -> str | None:
    """The call that the exception came out of: it passed through the frame that performed it.

    The traceback is asked rather than the exception marked: it is the author's, who may pass it to another checkpoint.
    """
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_globals.get("__name__") in PERFORMERS:
            call = frame.f_locals.get("call")
            if isinstance(call, CallRun):
                return call.key
        trace = trace.tb_next
    return None
