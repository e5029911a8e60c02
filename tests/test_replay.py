"""Keys and decisions, as properties."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.replay import (
    Branch,
    CallIdentity,
    Compute,
    Diverged,
    RecordedCall,
    Reraise,
    Reuse,
    decide,
    recorded_calls,
)
from kitaru.model.event import (
    AttemptFailed,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    Event,
    Failure,
    Value,
)

AT = "2026-11-21T00:00:00.000000Z"
VALUE = Value("json", 1, "0" * 64, "inline", 1)

names = st.sampled_from(["a", "b"])
digests = st.text(string.hexdigits, min_size=1, max_size=2)


def completed(call: str, name: str = "a", digest: str = "d", attempt: int = 1) -> CheckpointCompleted:
    return CheckpointCompleted(
        at=AT, started=AT, call=call, name=name, attempt=attempt, input_digest=digest, output=VALUE
    )


def failed(call: str, attempt: int, retry: bool, name: str = "a", digest: str = "d") -> CheckpointFailed:
    failure = Failure("ValueError", "x")
    return CheckpointFailed(
        at=AT, started=AT, call=call, name=name, attempt=attempt, input_digest=digest, error=failure, retry=retry
    )


@given(st.lists(st.sampled_from(["call", "child", "up"]), max_size=60))
def test_no_two_calls_share_a_key_and_keys_depend_on_the_path_only(moves: list[str]) -> None:
    """However branches are made and interleaved, each call has a key of its own, the same one every time."""

    def walk() -> list[str]:
        keys, stack = [], [Branch()]
        for move in moves:
            if move == "call":
                keys.append(stack[-1].next_call())
            elif move == "child":
                stack.append(stack[-1].next_branch())
            elif len(stack) > 1:
                stack.pop()
        return keys

    keys = walk()
    assert len(set(keys)) == len(keys)
    assert walk() == keys


@given(st.permutations([0, 0, 0, 1, 1, 1, 2, 2, 2]))
def test_keys_in_a_branch_do_not_depend_on_the_order_between_branches(order: list[int]) -> None:
    """Three branches that each make three calls get the same keys in every interleaving."""
    root = Branch()
    branches = [root.next_branch() for _ in range(3)]
    keys: dict[int, list[str]] = {branch: [] for branch in range(3)}
    for branch in order:
        keys[branch].append(branches[branch].next_call())
    assert keys == {i: [f"{i + 1}/{j}" for j in (1, 2, 3)] for i in range(3)}


@given(names, digests, names, digests)
def test_a_completed_call_is_reused_exactly_where_name_and_inputs_agree(
    name: str, digest: str, other_name: str, other_digest: str
) -> None:
    """Same name and inputs: the recorded value. Anything else at that key: divergence, naming both."""
    recorded = recorded_calls([completed("1", name, digest)])
    came = CallIdentity("1", other_name, other_digest)
    decision = decide(recorded, came)
    if (name, digest) == (other_name, other_digest):
        assert decision == Reuse(VALUE)
    else:
        assert decision == Diverged(CallIdentity("1", name, digest), came)
        assert other_name in str(decision) and "call 1" in str(decision)


@given(st.lists(st.booleans(), max_size=8))
def test_failed_attempts_are_counted_and_spent_since_the_last_final_one(retries: list[bool]) -> None:
    """Attempt numbers go on over everything recorded; the retries used up begin anew after a final failure."""
    events: list[Event] = [failed("1", number, retry) for number, retry in enumerate(retries, start=1)]
    decision = decide(recorded_calls(events), CallIdentity("1", "a", "d"))
    last_final = max((i + 1 for i, retry in enumerate(retries) if not retry), default=0)
    assert decision == Compute(len(retries), len(retries) - last_final)


@given(st.lists(st.sampled_from(["ok", "retry", "final"]), max_size=8))
def test_a_completed_call_stays_completed_whatever_was_recorded_around_it(history: list[str]) -> None:
    """One completion anywhere decides."""
    events: list[Event] = []
    for number, what in enumerate(history, start=1):
        events.append(completed("1", attempt=number) if what == "ok" else failed("1", number, what == "retry"))
    decision = decide(recorded_calls(events), CallIdentity("1", "a", "d"))
    assert isinstance(decision, Reuse) is ("ok" in history)


def test_what_was_only_tried_with_other_inputs_is_computed_afresh() -> None:
    """A failed call binds nobody: other inputs at its key are no divergence, and have all their retries."""
    recorded = {"1": RecordedCall("a", "d", None, attempts=2, open_attempts=2)}
    assert decide(recorded, CallIdentity("1", "b", "d")) == Compute(2, 0)
    assert decide(recorded, CallIdentity("2", "b", "d")) == Compute(0, 0)


@given(st.sampled_from(["before", "after"]), st.sampled_from(["other", "same", "none"]), st.booleans())
def test_a_final_failure_is_met_again_where_the_body_went_on_from_it(began: str, which: str, anew: bool) -> None:
    """Only where another call began after it, in the same attempt of the body; else the call is tried again."""
    later = "2026-11-21T00:00:05.000000Z" if began == "after" else "2026-11-20T00:00:00.000000Z"
    events: list[Event] = [failed("1", 1, retry=False)]
    if which != "none":
        call = {"other": "2", "same": "1"}[which]
        events.append(CheckpointStarted(at=later, call=call, name="a", attempt=2))
    if anew:
        events.append(AttemptFailed(at=later, attempt=1, error=Failure("ValueError", "y")))
    decision = decide(recorded_calls(events), CallIdentity("1", "a", "d"))
    if (began, which, anew) == ("after", "other", False):
        assert decision == Reraise(Failure("ValueError", "x"))
        assert isinstance(decide(recorded_calls(events), CallIdentity("1", "b", "d")), Diverged)
    else:
        assert decision == Compute(1, 0)
