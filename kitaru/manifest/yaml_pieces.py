"""One value out of the middle of a YAML document, read by ruamel as if nothing else were in the file."""

from __future__ import annotations

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

GARBAGE = (ValueError, OverflowError, IndexError, AttributeError, KeyError, TypeError, AssertionError)
"""Python's own errors, with which ruamel's scanner answers a few kinds of garbage."""


def value_events(piece: str, indent: int, *, followed: bool) -> tuple[list[Event], int] | None:
    """The events of the value in ``piece``, which stands behind the colon of a key that is indented by so many spaces,
    to the end of its last line; and how many characters too far their places are. ``followed``: another key is next.

    None where the piece is not just one value, or where what follows it decides where the value ends.
    """
    before = f"{' ' * indent}k:"
    try:
        # The key behind it ends the value as the next one in the text does.
        events = list(YAML(typ="safe", pure=True).parse(f"{before}{piece}{before if followed else ''}"))
    except (YAMLError, *GARBAGE):
        return None
    starts = _below_root(events)
    if len(starts) != (4 if followed else 2):
        return None
    value = events[starts[1] : starts[2] if followed else -3]
    return None if any(map(_ends_with_next, value)) else (value, len(before))


def _below_root(events: list[Event]) -> list[int]:
    """Where the keys and values of the root mapping begin."""
    depth, starts = 0, []
    for place, one in enumerate(events):
        if isinstance(one, MappingEndEvent | SequenceEndEvent):
            depth -= 1
        elif isinstance(one, ScalarEvent | AliasEvent | MappingStartEvent | SequenceStartEvent):
            if depth == 1:
                starts.append(place)
            depth += isinstance(one, MappingStartEvent | SequenceStartEvent)
    return starts


def _ends_with_next(event: Event) -> bool:
    """Whether the place where this ends is where something else begins: a block, or nothing at all."""
    if isinstance(event, ScalarEvent):
        return not event.value and event.style not in ("'", '"')
    return isinstance(event, MappingStartEvent | SequenceStartEvent) and not event.flow_style
