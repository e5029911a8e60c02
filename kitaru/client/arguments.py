"""Arguments as callers write them, checked before anything is done: versions, tags, times, images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pydantic import ValidationError

from kitaru.errors import KitaruUsageError
from kitaru.model.jsonable import parse_json
from kitaru.model.route import Selector, selector
from kitaru.model.snapshot import ImageSettings, parse_image, settings_flaws

T = TypeVar("T")

PREVIOUS = -1
"""``rollback(to=-1)``: the version before, never one that a rollback left or that was deleted."""


def version_number(value: Any) -> int:
    """The number of ``3``, ``"3"`` or ``"v3"``. Raises ``KitaruUsageError``: for True, 1.0, "head", 0."""
    number = _whole(value)
    if number is None or number < 1:
        raise KitaruUsageError(
            f"{value!r} is no version: expected a number from 1, such as 3, or 'v3'",
            hint="kitaru flow deployments list FLOW shows which versions there are",
        )
    return number


def typed(name: str, value: T, kind: type[T], example: str) -> T:
    """The value of the argument ``name``. Raises ``KitaruUsageError`` if it is of another type."""
    if not isinstance(value, kind):
        raise KitaruUsageError(f"{name}={value!r}: expected {kind.__name__}", hint=f"{name}={example}")
    return value


def tag_name(value: str) -> str:
    """The tag, ``stable``. Raises ``KitaruUsageError`` for anything but text."""
    return typed("tag", value, str, "'stable'")


def version_or_none(value: Any) -> int | None:
    """As ``version_number``; None stays None."""
    return None if value is None else version_number(value)


def version_back(value: Any) -> int:
    """The version that a rollback leads to, or -1."""
    number = _whole(value)
    if number is None or (number < 1 and number != PREVIOUS):
        raise KitaruUsageError(
            f"can't roll back to {value!r}: expected a version, or -1 for where the route led before",
            hint="kitaru flow deployments list FLOW shows which versions there are",
        )
    return number


AGE = re.compile(r"(\d{1,6})([mhdw])")
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(value: datetime | str, now: datetime) -> datetime:
    """A time: ``2026-11-30``, ``2026-11-30T09:30Z``, or ``2d``, two days before ``now``; UTC unless it says otherwise.

    Raises ``KitaruUsageError``.
    """
    try:
        if isinstance(value, str) and (age := AGE.fullmatch(value.strip())):
            return now - timedelta(**{UNITS[age[2]]: int(age[1])})
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value.strip())
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError) as error:
        raise KitaruUsageError(
            f"{value!r} is no time: expected a date, a time in ISO 8601, or an age",
            hint="2026-11-30, 2026-11-30T09:30Z, 90m, 12h, 2d or 1w",
        ) from error


def chosen(tag: str | None, version: Any) -> Selector:
    """The selector of a tag or a version. Raises ``KitaruUsageError`` for both at once, and for anything else."""
    try:
        return selector(tag=None if tag is None else tag_name(tag), version=version_or_none(version))
    except ValueError as error:
        raise KitaruUsageError(str(error), hint="--tag T or --version N") from error


def _whole(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        return None
    text = value.strip().removeprefix("v")
    return int(text) if text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 16 else None


HINT = f"python:3.12-slim, or an object of {', '.join(ImageSettings.model_fields)}"


def read_image(text: str) -> str | dict[str, Any]:
    """An image in a text: a base image, or image settings as JSON. ``ValueError`` for another JSON value."""
    text = text.strip()
    try:
        data = parse_json(text)
    except ValueError:
        if text[:1] in ("{", "[", '"'):
            raise
        return text
    if not isinstance(data, dict):
        raise ValueError(f"expected python:3.12-slim or an object of image settings, found the JSON value {text[:80]}")
    return data


def asked_image(value: str | Mapping[str, Any] | ImageSettings | None, called: str = "image=") -> ImageSettings | None:
    """The settings that ``value`` stands for; None stays None. ``called`` is its name in errors: ``--image``.

    Raises ``KitaruUsageError`` with every member that is wrong.
    """
    if value is None:
        return None
    try:
        image = parse_image(read_image(value) if isinstance(value, str) else value)
    except (ValidationError, TypeError, ValueError) as error:
        found = "; ".join(_words(one) for one in error.errors()) if isinstance(error, ValidationError) else str(error)
        raise KitaruUsageError(
            f"{called}: this image is neither a base image nor image settings: {found}", hint=HINT
        ) from error
    flaws = settings_flaws(image)
    if flaws:
        words = "; ".join(f"{flaw.member}: {flaw.expected}, found {flaw.value[:80]!r}" for flaw in flaws)
        raise KitaruUsageError(f"{called}: {words}", hint=next((flaw.hint for flaw in flaws if flaw.hint), HINT))
    return image


def _words(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
