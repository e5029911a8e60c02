"""A plan or a version for machines: as it is, but values of environment variables stay where they were written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kitaru.model.plan import Plan

HIDDEN = "***"
"""Stands for a value: output ends in logs and comments that many people read."""


def plan_data(plan: Plan) -> dict[str, Any]:
    """The plan as JSON data."""
    data: dict[str, Any] = plan.model_dump(mode="json")
    for flow in data["flows"]:
        if flow["build"]:
            flow["build"]["snapshot"]["image"] = image_data(flow["build"]["snapshot"]["image"])
    return data


def deployment_data(found: Any) -> dict[str, Any]:
    """One version as JSON data."""
    data: dict[str, Any] = found.to_json()
    if data.get("details"):
        image = data["details"].get("image")
        data["details"] = {**data["details"], **({"image": image_data(image)} if image else {})}
    return data


def image_data(image: Mapping[str, Any]) -> dict[str, Any]:
    """An image's settings: the names of its environment variables without their values."""
    environment = image.get("environment")
    return {**image, **({"environment": dict.fromkeys(environment, HIDDEN)} if environment else {})}
