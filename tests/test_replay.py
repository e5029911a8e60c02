"""Keys and decisions, as properties."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from kitaru.core.replay import Branch, CallIdentity, Compute, Decision, Diverged, RecordedCalls, Reraise, Reuse
from kitaru.model.event import (
    AttemptFailed,
    CheckpointCompleted,
    CheckpointFailed,
    CheckpointStarted,
    Event,
    Failed,
    Failure,
    Handle,
    Started,
    Value,
    WaitAnswered,
    WaitOpened,
)
from kitaru.run.waits import RecordedWait, WaitBook

AT = "2026-11-21T00:00:00.000000Z"
VALUE = Value("json", 1, "0" * 64, "inline", 1)
FAILURE = Failure("ValueError", "x")

names = st.sampled_from(["a", "b"])
digests = st.text(string.hexdigits, min_size=1, max_size=2)


def completed(call: str, name: str = "a", digest: str = "d", attempt: int = 1) -> CheckpointCompleted:
    return CheckpointCompleted(
        at=AT, started=AT, call=call, name=name, attempt=attempt, input_digest=digest, output=VALUE
    )


def decide(events: list[Event], call: CallIdentity) -> Decision:
    return RecordedCalls(events).decide(call)


def failed(call: str, attempt: int, retry: bool, name: str = "a", digest: str = "d") -> CheckpointFailed:
    return CheckpointFailed(
        at=AT, started=AT, call=call, name=name, attempt=attempt, input_digest=digest, error=FAILURE, retry=retry
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
    came = CallIdentity("1", other_name, other_digest)
    decision = decide([completed("1", name, digest)], came)
    if (name, digest) == (other_name, other_digest):
        assert decision == Reuse(VALUE, "1")
    else:
        assert decision == Diverged(CallIdentity("1", name, digest), came)
        assert other_name in str(decision) and "call 1" in str(decision)


@given(st.lists(st.booleans(), max_size=8))
def test_failed_attempts_are_counted_and_spent_since_the_last_final_one(retries: list[bool]) -> None:
    """Attempt numbers go on over everything recorded; the retries used up begin anew after a final failure."""
    events: list[Event] = [failed("1", number, retry) for number, retry in enumerate(retries, start=1)]
    events.append(Failed(at=AT, error=FAILURE))
    decision = decide(events, CallIdentity("1", "a", "d"))
    last_final = max((i + 1 for i, retry in enumerate(retries) if not retry), default=0)
    assert decision == Compute("1", len(retries), len(retries) - last_final)


@given(st.lists(st.sampled_from(["ok", "retry", "final"]), max_size=8))
def test_a_completed_call_stays_completed_whatever_was_recorded_around_it(history: list[str]) -> None:
    """One completion anywhere decides."""
    events: list[Event] = []
    for number, what in enumerate(history, start=1):
        events.append(completed("1", attempt=number) if what == "ok" else failed("1", number, what == "retry"))
    assert isinstance(decide(events, CallIdentity("1", "a", "d")), Reuse) is ("ok" in history)


def test_what_was_only_tried_with_other_inputs_is_computed_afresh() -> None:
    """A call that may be tried again binds nobody: other inputs there are no divergence, and have all their retries."""
    events: list[Event] = [failed("1", number, retry=True) for number in (1, 2)]
    assert decide(events, CallIdentity("1", "b", "d")) == Compute("1", 2, 0)
    assert decide(events, CallIdentity("2", "b", "d")) == Compute("2", 0, 0)


OUTCOMES = st.lists(st.sampled_from(["ok", "final", "started", "nothing"]), min_size=1, max_size=6)


@given(OUTCOMES)
def test_who_goes_on_meets_every_outcome_again(outcomes: list[str]) -> None:
    """While the body has not failed, what is recorded for good binds it, failures as results; the rest is computed."""
    events: list[Event] = []
    for number, outcome in enumerate(outcomes, start=1):
        events += recorded(str(number), outcome)
    calls = RecordedCalls(events)
    for number, outcome in enumerate(outcomes, start=1):
        key = str(number)
        expected: Decision = Compute(key)
        if outcome == "ok":
            expected = Reuse(VALUE, key)
        elif outcome == "final":
            expected = Reraise(FAILURE, key)
        assert calls.decide(CallIdentity(key, "a", key)) == expected
        other = calls.decide(CallIdentity(key, "b", key))
        assert isinstance(other, Diverged) is (outcome in ("ok", "final"))


def recorded(call: str, outcome: str) -> list[Event]:
    if outcome == "ok":
        return [completed(call, digest=call)]
    if outcome == "final":
        return [failed(call, 1, retry=False, digest=call)]
    return [CheckpointStarted(at=AT, call=call, name="a", attempt=1)] if outcome == "started" else []


@given(OUTCOMES, st.data())
def test_a_new_attempt_takes_each_result_once_and_computes_the_rest(outcomes: list[str], data: st.DataObject) -> None:
    """Wherever the body makes the same call; nothing is a divergence, and no result is lost."""
    events: list[Event] = []
    for number, outcome in enumerate(outcomes, start=1):
        events += recorded(str(number), outcome)
    end = data.draw(st.sampled_from(["attempt", "failed"]))
    events.append(AttemptFailed(at=AT, attempt=1, error=FAILURE) if end == "attempt" else Failed(at=AT, error=FAILURE))
    places = data.draw(st.permutations(range(1, len(outcomes) + 1)))
    runner = Started(at=AT, runner=Handle("r"), attempt=2)
    for known in (RecordedCalls(events), RecordedCalls([*events, runner])):
        for place, made in enumerate(places, start=1):
            same = CallIdentity(str(place), "a", str(made))
            decision = known.decide(same)
            if outcomes[made - 1] == "ok":
                assert decision == Reuse(VALUE, str(made))
                assert isinstance(known.decide(same), Compute)
            else:
                assert isinstance(decision, Compute) and decision.call not in done(events)


def done(events: list[Event]) -> set[str]:
    return {event.call for event in events if isinstance(event, CheckpointCompleted)}


def test_another_call_at_the_place_of_a_finished_one_has_an_id_of_its_own() -> None:
    """In attempt 2 it is 2@2, and goes on as that; should attempt 3 make the first one again, that is kept."""
    events: list[Event] = [
        failed("1", 1, retry=False),
        completed("2", "b"),
        AttemptFailed(at=AT, attempt=1, error=FAILURE),
    ]
    assert decide(events, CallIdentity("2", "c", "d")) == Compute("2@2")
    events += [
        Started(at=AT, runner=Handle("r"), attempt=2),
        failed("1", 2, retry=False),
        completed("2@2", "c"),
        AttemptFailed(at=AT, attempt=2, error=FAILURE),
    ]
    assert decide(events, CallIdentity("2", "b", "d")) == Reuse(VALUE, "2")
    assert decide(events, CallIdentity("2", "c", "d")) == Reuse(VALUE, "2@2")
    assert decide(events, CallIdentity("2", "a", "d")) == Compute("2@3")


def test_what_this_attempt_recorded_binds_it_and_earlier_attempts_do_not() -> None:
    """A runner that goes on with attempt 2 meets the calls of attempt 2, at their places."""
    events: list[Event] = [
        completed("1"),
        completed("2", "b"),
        AttemptFailed(at=AT, attempt=1, error=FAILURE),
        Started(at=AT, runner=Handle("r"), attempt=2),
        completed("1@2", "c"),
        Started(at=AT, runner=Handle("s"), attempt=2),
    ]
    assert decide(events, CallIdentity("1", "c", "d")) == Reuse(VALUE, "1@2")
    assert isinstance(decide(events, CallIdentity("1", "a", "d")), Diverged)
    assert decide(events, CallIdentity("2", "a", "d")) == Reuse(VALUE, "1")


def test_a_question_of_a_failed_attempt_is_withdrawn_until_it_is_asked_again() -> None:
    """Its answer is taken wherever the same is asked; a question without one keeps its id at its own place."""
    book = WaitBook(
        [
            WaitOpened(at=AT, wait="w1", name="early"),
            WaitOpened(at=AT, wait="w2", name="late"),
            WaitAnswered(at=AT, wait="w2", name="late", value=VALUE),
            AttemptFailed(at=AT, attempt=1, error=FAILURE),
        ]
    )
    assert not book.asks and list(book.withdrawn) == ["w1"]
    assert book.find("w3", "late", None, None).wait == "w2"
    assert book.find("w3", "late", None, None).answered is None
    assert book.find("w1", "early", None, None) == RecordedWait("w1")
    assert book.find("w1", "other", None, None) == RecordedWait("w1@2")
