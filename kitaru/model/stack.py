"""Stacks: the places that executions run on. A stack names secrets, and never holds their values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kitaru.model.noun import Noun


class LocalStack(Noun):
    """A process of its own on this machine."""

    type: Literal["local"]
    environment: Literal["current", "venv"] = Field(
        "current",
        description="current: the Python that runs Kitaru, which must meet the image's requirements; "
        "venv: a virtual environment with them, built once and cached",
    )


class DockerStack(Noun):
    """A container on this machine."""

    type: Literal["docker"]
    network: str | None = None


class KubernetesStack(Noun):
    """A job in a cluster."""

    type: Literal["kubernetes"]
    namespace: str = "default"
    context: str | None = None
    service_account: str | None = None


StackSpec = Annotated[LocalStack | DockerStack | KubernetesStack, Field(discriminator="type")]

RUNNABLE = frozenset({"local"})
"""Types of stack that this release can run executions on."""

DEFAULT_STACK = "local"


class NamedStack(Noun):
    """A stack with the name that people call it by."""

    name: str
    spec: StackSpec
