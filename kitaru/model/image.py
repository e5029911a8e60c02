"""What a flow needs around its source to run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from kitaru.model.noun import Noun


class ImageSettings(Noun):
    """The environment of a flow. A field left out is inherited; a field that is given replaces the inherited one.

    Secrets are named, never held: ``secret_environment_from`` lists names.
    """

    base_image: str | None = Field(None, description="Container image to start from, e.g. python:3.11-slim")
    requirements: tuple[str, ...] | None = Field(None, description="Python requirements, as pip spells them")
    dockerfile: str | None = Field(None, description="Dockerfile to build instead, relative to the manifest")
    build_context_root: str | None = Field(None, description="Folder sent to the image build, relative to the manifest")
    environment: dict[str, str] | None = Field(None, description="Environment variables; never put a secret here")
    secret_environment_from: tuple[str, ...] | None = Field(
        None, description="Names of secrets whose values become environment variables when the flow runs"
    )
    apt_packages: tuple[str, ...] | None = Field(None, description="Debian packages to install")
    replicate_local_python_environment: bool | None = Field(
        None, description="Install the packages of the Python that builds"
    )
    image_tag: str | None = Field(None, description="Tag of the image that is built")
    target_repository: str | None = Field(None, description="Where the image that is built is pushed")
    user: str | None = Field(None, description="User that the flow runs as inside the container")
    platform: str | None = Field(None, description="Platform to build for, e.g. linux/amd64")

    def over(self, inherited: ImageSettings) -> ImageSettings:
        """These settings with every field that they leave out taken from ``inherited``."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return inherited.model_copy(update=given)


_REFERENCE = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9+._-]*:[0-9a-fA-F]{32,})?"
)
_NOBODYS = re.compile(r"[0-9.]+|true|false|null")
"""Names that a registry would take, and that say another thing: a version of Python, a value of JSON."""


def is_base_image(text: str) -> bool:
    """Whether ``text`` can be the name of a container image, such as ``ghcr.io/acme/base:1.2``."""
    return bool(_REFERENCE.fullmatch(text)) and not _NOBODYS.fullmatch(text)


def parse_image(value: str | Mapping[str, Any] | ImageSettings | None) -> ImageSettings:
    """The three shapes that a person may give: a base image, a mapping, or the settings themselves.

    Raises pydantic's ``ValidationError`` for a mapping with unknown keys or wrong types.
    """
    if value is None:
        return ImageSettings()
    if isinstance(value, ImageSettings):
        return value
    if isinstance(value, str):
        return ImageSettings(base_image=value)
    return ImageSettings.model_validate(dict(value))
