"""How an execution goes, in one line that changes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from kitaru.cli.views.timeline_text import duration
from kitaru.cli.views.words import seconds_between
from kitaru.model.execution import Execution

NAMED = 2
"""Checkpoints that are named, those that were called last; the others are summed up."""


def progress_line(execution: Execution, now: datetime | None = None, *, width: int = 80) -> str:
    """``  fetch 400 of 400, outline 12 of 15 · 3 running · 4 s``: of the calls that began until now, how many are done.

    At most ``width`` characters.
    """
    calls = [call for call in execution.checkpoints if not call.superseded]
    names = list(dict.fromkeys(call.name for call in reversed(calls)))[:NAMED][::-1]
    begun = Counter(call.name for call in calls)
    done = Counter(call.name for call in calls if call.status == "completed")
    parts = [", ".join(f"{name} {done[name]:,} of {begun[name]:,}" for name in names)]
    if len(begun) > len(names):
        parts.append(f"{sum(done.values()):,} done in all")
    statuses = Counter(call.status for call in calls)
    parts += [f"{statuses[status]:,} {status}" for status in ("running", "failed") if statuses[status]]
    parts += [f"waits for {wait.name}" for wait in execution.open_waits[:1]]
    took = seconds_between(execution.started_at or execution.created_at, now or datetime.now(UTC))
    parts.append(duration(took) if took >= 60 else f"{took:.0f} s")
    text = f"  {' · '.join(part for part in parts if part)}"
    return text if len(text) <= width else f"{text[: width - 3]}..."
