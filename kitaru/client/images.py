"""The image that a caller asks for, checked as the manifest's own is: before anything is built, moved or written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from kitaru.core.deploying import read_image
from kitaru.errors import KitaruUsageError
from kitaru.model.image import ImageSettings, parse_image, settings_flaws

HINT = f"python:3.12-slim, or an object of {', '.join(ImageSettings.model_fields)}"


def asked_image(value: str | Mapping[str, Any] | ImageSettings | None, called: str = "image=") -> ImageSettings | None:
    """The settings that ``value`` stands for; None stays None. ``called``: how it was named where it was given.

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
