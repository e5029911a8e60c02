"""A plan for machines: as it is, save that values of environment variables stay where they were written."""

from __future__ import annotations

from typing import Any

from kitaru.model.plan import Plan

HIDDEN = "(hidden)"
"""Stands for a value: output of a plan ends in logs and comments that many people read. ``--out`` keeps the value."""


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data."""
    data: dict[str, Any] = plan.model_dump(mode="json")
    for flow in data["flows"]:
        image = flow["build"]["snapshot"]["image"] if flow["build"] else {}
        if image.get("environment"):
            image["environment"] = dict.fromkeys(image["environment"], HIDDEN)
    return data
