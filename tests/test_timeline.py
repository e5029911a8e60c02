"""Pictures of an execution: in a terminal and as a page, true to its times, whatever is in it."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru.cli.views.timeline import axis_of, execution_page, rows, timeline
from kitaru.cli.views.words import duration
from kitaru.model.address import timestamp
from kitaru.model.event import ExecutionOptions, Failure, Value
from kitaru.model.execution import Artifact, Attempt, CheckpointCall, Execution, LogLine, Wait

T0 = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOTHING = Value("json", 4, "0" * 64, "inline", None)
EVIL = "</script><script>alert(1)</script>'\"&<img src=x onerror=alert(1)>"


def at(seconds: float) -> str:
    return timestamp(T0 + timedelta(seconds=seconds))


def inline(value: Any) -> Value:
    return Value("json", 9, "0" * 64, "inline", value)


def read(value: Value | None) -> Any:
    return value.inline if value else None


Try = tuple[float, float | None, str]


def call(key: str, name: str, *tries: Try, **more: Any) -> CheckpointCall:
    """A call with attempts: from, to (None: still going) and how it ended."""
    attempts = tuple(
        Attempt(number, status, at(begin), None if end is None else at(end))  # type: ignore[arg-type]
        for number, (begin, end, status) in enumerate(tries, start=1)
    )
    last = attempts[-1]
    return CheckpointCall(
        call_id=key,
        name=name,
        status=last.status,
        started_at=attempts[0].started_at,
        ended_at=last.ended_at,
        attempts=attempts,
        **more,
    )


def execution(
    calls: list[CheckpointCall], *, end: float | None, waits: tuple[Wait, ...] = (), **more: Any
) -> Execution:
    fields: dict[str, Any] = {
        "exec_id": "ex-000000000000000000",
        "project": "p",
        "flow_name": "research",
        "status": "running" if end is None else "completed",
        "created_at": at(0),
        "started_at": at(0),
        "ended_at": None if end is None else at(end),
        "stack_name": "local",
        "target": "f.py:research",
        "origin": "run",
        "options": ExecutionOptions(),
        "inputs": NOTHING,
        "checkpoints": tuple(calls),
        "waits": waits,
    }
    return Execution(**{**fields, **more})


DONE: Try = (0, 1, "completed")


def test_concurrency_can_be_seen() -> None:
    """Two calls side by side have bars in the same columns, one after them begins where they end."""
    drawn = timeline(
        execution(
            [
                call("1", "a", (0, 5, "completed")),
                call("2", "b", (0, 5, "completed")),
                call("3", "c", (5, 10, "completed")),
            ],
            end=10,
        ),
        width=100,
    )
    bars = [[place for place, sign in enumerate(line) if sign == "█"] for line in drawn[1:]]
    assert bars[0] == bars[1]
    assert abs(len(bars[0]) - len(bars[2])) <= 1
    assert bars[2][0] in (bars[0][-1] + 1, bars[0][-1] + 2)


def test_attempts_marks_and_notes() -> None:
    """A failed attempt, a cached result, a failure and a call under way have marks, bars and words of their own."""
    calls = [
        call("1", "retried", (0, 2, "failed"), (2, 4, "completed")),
        call("2", "cached", (4, 4.1, "completed"), cached_from="ex-1/2"),
        call("3", "broken", (4, 6, "failed")),
        call("4", "going", (6, None, "running")),
    ]
    drawn = timeline(execution(calls, end=None), width=100, now=T0 + timedelta(seconds=10))
    retried, cached, broken, going = drawn[1:]
    assert "▒" in retried and "█" in retried and retried.startswith("  ✓ 1 retried") and "2 attempts" in retried
    assert cached.endswith("cached")
    assert broken.startswith("  ✗") and "█" not in broken
    assert going.startswith("  …") and "░" in going and "4.0 s" in going


def test_a_long_wait_takes_little_room() -> None:
    """Days of waiting for an answer leave the checkpoints as wide as before, and the picture says so."""
    wait = Wait(wait_id="w1", name="approve", status="answered", opened_at=at(10), answered_at=at(200_000), by="ann")
    calls = [call("1", "a", (0, 10, "completed")), call("2", "b", (200_000, 200_010, "completed"))]
    drawn = timeline(execution(calls, waits=(wait,), end=200_010), width=100)
    assert all(line.count("█") > 15 for line in (drawn[1], drawn[3]))
    assert "answered by ann" in drawn[2] and "·" in drawn[2]
    assert drawn[4].strip() == "2 d 7 h in which no checkpoint ran is drawn short"


@pytest.mark.parametrize("width", [20, 40, 55, 80, 120, 400])
@pytest.mark.parametrize("plain", [False, True])
def test_it_fits_every_width(width: int, plain: bool) -> None:
    """No line is wider than the terminal, down to forty columns; plain ones are ASCII."""
    calls = [call(str(n), "a_checkpoint_with_a_very_long_name_indeed", (n, n + 2, "completed")) for n in range(8)]
    for count in (8, 100):
        many = [replace(one, call_id=str(n)) for n, one in enumerate(calls * (count // 8))]
        drawn = timeline(execution(many, end=12), width=width, plain=plain)
        assert all(len(line) <= max(width, 40) for line in drawn), [len(line) for line in drawn]
        assert not plain or all(line.isascii() for line in drawn)


def test_ten_thousand_calls_are_summarised_quickly() -> None:
    """One line a checkpoint, with counts, and the failed ones by name; in well under two seconds."""
    calls = [
        call(str(n), f"step_{n % 3}", (n / 100, n / 100 + 0.5, "failed" if n == 7000 else "completed"))
        for n in range(10_000)
    ]
    failed = replace(calls[7000], failure=Failure("ValueError", "seven\nthousand"))
    calls[7000] = failed
    begun = time.perf_counter()
    drawn = timeline(execution(calls, end=101), width=100)
    assert time.perf_counter() - begun < 2
    assert len(drawn) == 5
    assert "step_0 x 3,334" in drawn[1] and "median 500 ms" in drawn[1]
    assert "7000 step_1()  ValueError: seven" in drawn[-1]


def test_calls_of_one_checkpoint_are_folded_above_twenty() -> None:
    """Twenty-one calls have one line with their number; twenty have one each, and so has what was called once."""
    for number, lines in ((20, 20), (21, 1), (50, 1)):
        many = [call(f"1.{n}", "outline", (n, n + 1, "failed" if n == 3 else "completed")) for n in range(number)]
        many[5] = replace(many[5], cached_from="ex-1/2")
        last = call("2", "join", (number, number + 4, "completed"))
        drawn = timeline(execution([*many, last], end=number + 4), width=100)
        shown = [line for line in drawn[1:-1] if " outline" in line and "1.3 outline" not in line]
        assert len(shown) == max(lines - 1, 1)
        join = next(line for line in drawn if " join(" in line)
        assert join.endswith("4.0 s") and "█" in join
        if lines == 1:
            assert f"outline x {number}" in drawn[1] and drawn[1].endswith("median 1.0 s  1 failed, 1 cached")
            assert drawn[-1].startswith("  ✗ 1.3 outline()")


def test_nothing_to_draw() -> None:
    """Without calls and waits there is no picture."""
    assert timeline(execution([], end=1)) == []


MOMENTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4)), min_size=1, max_size=12)


@given(MOMENTS)
def test_the_axis_keeps_order_and_stays_inside(moments: list[tuple[float, float]]) -> None:
    """Later moments are never drawn before earlier ones; everything lies between 0 and 1, and the ends at them."""
    calls = [call(str(n), "a", (begin, begin + took, "completed")) for n, (begin, took) in enumerate(moments)]
    drawn, length = rows(execution(calls, end=max(begin + took for begin, took in moments)), T0)
    axis = axis_of(drawn, length)
    times = sorted({0.0, length, *(edge for row in drawn for bar in row.bars for edge in (bar.start, bar.end))})
    places = [axis.place(one) for one in times]
    assert places == sorted(places)
    assert all(0 <= place <= 1 for place in places)
    if length > 0:
        assert places[0] == 0 and places[-1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.0 s"),
        (59, "59.0 s"),
        (61, "1 min 1 s"),
        (3661, "1 h 1 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    """Two units at most."""
    assert duration(seconds) == text


# --- the page ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would make of it: tags, their attributes, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def page_of(one: Execution, **more: Any) -> tuple[str, Page]:
    text = execution_page(one, read=read, now=T0, **more)
    return text, Page(text)


def evil_execution() -> Execution:
    failure = Failure(EVIL, EVIL, traceback=EVIL)
    broken = call("2", EVIL, (1, 2, "failed"), (3, 4, "failed"), failure=failure, args={EVIL: EVIL})
    attempts = tuple(replace(one, failure=failure) for one in broken.attempts)
    wait = Wait(wait_id="w1", name=EVIL, status="open", opened_at=at(2), question=EVIL, schema={"title": EVIL})
    return execution(
        [call("1", "fine", DONE, output=inline({"a": EVIL}), metadata={"m": EVIL}), replace(broken, attempts=attempts)],
        end=None,
        waits=(wait,),
        flow_name="research",
        inputs=inline(EVIL),
        actor=EVIL,
        failure=failure,
        metadata={"x": EVIL},
    )


def test_whatever_is_in_it_is_text() -> None:
    """Names, values, errors, questions and output that look like HTML are shown, and never become part of the page."""
    logs = [LogLine(at(1), "stdout", EVIL, None, "fine", "1", 1), LogLine(at(1), "stderr", EVIL)]
    artifact = Artifact(artifact_id=EVIL, exec_id="e", name=EVIL, kind=EVIL, created_at=at(1), value=NOTHING, call="1")
    text, page = page_of(evil_execution(), logs=logs, artifacts=[artifact])
    assert not page.open
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "img" not in [tag for tag, _ in page.tags]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)") >= 12
    assert "alert(1)" not in re.sub(r"&lt;.*?&gt;|&#34;.*?\n", "", text.partition("<script>")[2])


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    """No address, no file, no frame; its own policy forbids it besides."""
    text, page = page_of(evil_execution())
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not {"src", "href", "action", "data", "poster"} & attributes.keys()
    assert "url(" not in text and "@import" not in text
    assert "default-src 'none'" in text


def test_the_page_holds_what_there_is_to_know() -> None:
    """Inputs, outputs, attempts with tracebacks, metadata, waits, artifacts and output, each with its call."""
    failure = Failure("ConnectionError", "no answer", traceback="Traceback: line 12")
    retried = call("2", "summarise", (1, 2, "failed"), (3, 4, "completed"), output=inline("short"), args={"n": 3})
    retried = replace(retried, attempts=(replace(retried.attempts[0], failure=failure), retried.attempts[1]))
    big = call("3", "embed", (4, 5, "completed"), output=Value("numpy", 8_388_608, "0" * 64, "object", None, "ndarray"))
    one = execution([call("1", "fetch", DONE, metadata={"bytes": 48213}), retried, big], end=5, version=3, tag="stable")
    _, page = page_of(one, logs=[LogLine(at(0.5), "log", "GET 200", "INFO", "fetch", "1", 1)])
    for text in (
        "v3 (stable)",
        "48213",
        "ConnectionError: no answer",
        "Traceback: line 12",
        "short",
        '"n": 3',
        "INFO: GET 200",
        "ndarray, numpy, 8.39 MB",
        "2 attempts",
    ):
        assert text in page.text, text
    assert len([1 for tag, _ in page.tags if tag == "details"]) == 3


def test_five_thousand_calls_make_a_page() -> None:
    """It is drawn in seconds and stays below 6 MB; long values and much output are cut with a word about it."""
    calls = [call(str(n), "step", (n / 100, n / 100 + 1, "completed"), output=inline({"n": n})) for n in range(5000)]
    calls[0] = replace(calls[0], output=inline("x" * 50_000))
    logs = [LogLine(at(1), "stdout", f"line {n}", None, "step", "1", 1) for n in range(1000)]
    begun = time.perf_counter()
    text, page = page_of(execution(calls, end=60), logs=logs)
    assert time.perf_counter() - begun < 20
    assert len(text) < 6_000_000
    shown = [attributes for tag, attributes in page.tags if tag == "details" and attributes["class"] == "call"]
    assert len(shown) == 200
    assert "200 of 5000 shown." in page.text
    assert "44,000 more characters" in page.text
    assert "700 lines before these" in page.text and "line 999" in page.text


# --- what goes no further -------------------------------------------------------------------------------------------


def test_what_was_stopped_is_not_under_way() -> None:
    """Cancelled and lost calls and waits are marked, also in ASCII, and end with the last record."""
    asked = Wait(wait_id="w1", name="approve", status="cancelled", opened_at=at(4))
    calls = [call("1", "done", (0, 2, "completed")), call("2", "stopped", (2, 4, "cancelled"))]
    over = execution(calls, waits=(asked,), end=8, status="cancelled")
    left = execution([calls[0], call("2", "left", (2, None, "running"))], end=None, status="lost")
    late = T0 + timedelta(days=3)
    for plain, live in ((False, "?…"), (True, ">?")):
        _, done, stopped, waited, _ = timeline(over, width=100, plain=plain)
        assert done[2] in "✓+"
        assert stopped.startswith("  - 2 stopped()") and stopped.endswith("cancelled")
        assert waited.startswith("  - approve") and waited.endswith("not answered")
        assert not set(stopped) & set(live)
        axis, _, gone = timeline(left, width=100, plain=plain, now=late)
        assert gone[2] in "✗x" and "left()" in gone and gone.endswith("its runner is gone")
        assert not set(gone) & set(live)
        assert axis.rstrip().endswith("2.0 s"), "the picture ends with the last that is known"
    _, page = page_of(over)
    rows = [attributes["data-status"] for tag, attributes in page.tags if tag == "details"]
    assert rows == ["completed", "cancelled", "cancelled"]
    _, page = page_of(left)
    rows = [attributes["data-status"] for tag, attributes in page.tags if tag == "details"]
    assert rows == ["completed", "lost"]
    assert "2.0 s until its last record" in page.text


def test_many_calls_that_were_stopped_are_counted() -> None:
    """In the picture of many calls those that were cancelled are counted, and not as running."""
    calls = [call(str(n), "step", (0, 1, "completed" if n % 2 else "cancelled")) for n in range(100)]
    _, step = timeline(execution(calls, end=1, status="cancelled"), width=100)
    assert "50 cancelled" in step and "running" not in step


def test_idle_times_of_less_than_a_second_are_not_cut() -> None:
    """A picture of milliseconds is not one of gaps."""
    calls = [call("1", "a", (0.004, 0.004, "completed")), call("2", "b", (0.010, 0.010, "completed"))]
    assert "drawn short" not in "".join(timeline(execution(calls, end=0.015), width=100))


def test_long_names_are_cut() -> None:
    """A name that is too long for the line is cut; the number before it tells the calls apart."""
    calls = [call(str(n), f"{'very_' * 12}long", (n, n + 1, "completed")) for n in range(2)]
    _, first, second = timeline(execution(calls, end=2), width=80)
    assert first.startswith("  ✓ 0 very_") and second.startswith("  ✓ 1 very_") and "..." in first


def test_calls_show_their_number_and_first_argument() -> None:
    """In both pictures a call has its number, its name and its first argument."""
    calls = [call("1.1/1", "step", DONE, args={"topic": "a", "n": 1}), call("1.2/1", "step", DONE)]
    text, _ = page_of(execution(calls, end=1))
    assert "1.1/1 step(&#34;a&#34;)" in text and "1.2/1 step()" in text
    assert '1.1/1 step("a")' in timeline(execution(calls, end=1))[1]
