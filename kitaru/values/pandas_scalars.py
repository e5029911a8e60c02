"""Points and spans of time of pandas as JSON: as text, with their unit and zone."""

from __future__ import annotations

import importlib
from typing import Any

PANDAS_SCALARS = {"Timestamp": "timestamp", "Timedelta": "time_delta", "NaTType": "nat"}
"""Name of the class → its tag in typed JSON."""


def write_scalar(value: Any) -> dict[str, Any]:
    """``{"value": "2026-03-01T12:00:00+01:00", "unit": "ns", "zone": "Europe/Paris"}``; a span has no zone.

    ``ValueError`` for a point of time in a zone that has no name.
    """
    kind = type(value).__name__
    if kind == "NaTType":
        return {"value": None}
    if kind == "Timedelta":
        return {"value": str(value), "unit": value.unit}
    written = {"value": value.isoformat(), "unit": value.unit}
    zone = getattr(value.tz, "key", None) or getattr(value.tz, "zone", None)
    if isinstance(zone, str):
        written["zone"] = zone
    if (back := read_scalar(kind, written)) != value or str(back.tz) != str(value.tz):
        raise ValueError(f"the time zone {value.tz!s} has no name; use tz_convert('UTC')")
    return written


def read_scalar(kind: str, tree: dict[str, Any]) -> Any:
    """The inverse for a ``Timestamp`` or a ``Timedelta``."""
    value = getattr(importlib.import_module("pandas"), kind)(tree["value"])
    if "zone" in tree:
        value = value.tz_convert(tree["zone"])
    return value.as_unit(tree["unit"])
