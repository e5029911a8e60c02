"""What the types of image settings can't say: names that are none, paths that leave, requirements that pip can't read.

For what people write, in a manifest, on a command line or in a decorator. What a store holds is read without these:
a rule that is new must not make an old version unreadable.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kitaru.model.image import ImageSettings, is_base_image

_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")
_SECRET = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?")
_DEBIAN = re.compile(
    r"[a-z0-9][a-z0-9.+-]+(?::[a-z0-9-]+)?(?:=[A-Za-z0-9][A-Za-z0-9.+~:-]*|/[A-Za-z0-9][A-Za-z0-9.+~-]*)?"
)
_PLATFORM = re.compile(r"[A-Za-z0-9_-]+(?:\([A-Za-z0-9_.-]+\))?(?:/[A-Za-z0-9_.-]+){0,2}")
_SIMPLE_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*[A-Za-z0-9](?:(?:>=|==|<=|~=|!=|<|>)\d+(?:\.\d+)*)?")
"""A bare name, or one with a single plain version: no need to parse it in full."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One wrong member: where it is (keys and positions), what belongs there, what is there instead.

    ``at_key``: the last key of the path is wrong, not its value.
    """

    path: tuple[str | int, ...]
    expected: str
    value: str
    hint: str = ""
    at_key: bool = False

    @property
    def member(self) -> str:
        """The path as people write it: ``requirements[0]``, ``environment.NAME``."""
        text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)
        return text.removeprefix(".")


def base_hint(text: str) -> str:
    """The image that is meant by a version of Python alone; empty for all other text."""
    return f"write python:{text}-slim" if re.fullmatch(r"3\.[0-9]+(\.[0-9]+)?", text) else ""


def settings_flaws(settings: ImageSettings) -> list[Flaw]:
    """Everything that is wrong with these settings."""
    return list(image_flaws(settings.model_dump(mode="json", exclude_none=True)))


def image_flaws(image: Mapping[str, Any]) -> Iterator[Flaw]:
    """Everything that is wrong with image settings as data; a value of the wrong type is passed over."""
    base = image.get("base_image")
    if isinstance(base, str) and not is_base_image(base):
        yield Flaw(("base_image",), "expected a container image such as python:3.12-slim", base, base_hint(base))
    yield from _requirements(image.get("requirements"))
    yield from _dockerfile(image.get("dockerfile"))
    yield from _environment(image.get("environment"))
    for key, pattern, expected, hint in (
        ("secret_environment_from", _SECRET, "expected the name of a secret such as openai-creds", ""),
        (
            "apt_packages",
            _DEBIAN,
            "expected the name of a Debian package such as git",
            "one package an entry: name, name=version or name/release",
        ),
    ):
        for index, name in _texts(image.get(key)):
            if not pattern.fullmatch(name):
                yield Flaw((key, index), expected, name, hint)
    platform = image.get("platform")
    if isinstance(platform, str) and not _PLATFORM.fullmatch(platform):
        yield Flaw(("platform",), "expected a platform such as linux/amd64", platform, "one platform: os/architecture")


def _texts(value: Any) -> list[tuple[int, str]]:
    items = value if isinstance(value, list | tuple) else ()
    return [(index, text) for index, text in enumerate(items) if isinstance(text, str)]


def _requirements(value: Any) -> Iterator[Flaw]:
    texts = [(index, text) for index, text in _texts(value) if not _SIMPLE_REQUIREMENT.fullmatch(text)]
    if not texts:
        return
    # 70 ms to import, and most manifests that are read name no requirements
    from packaging.requirements import InvalidRequirement, Requirement

    for index, text in texts:
        try:
            Requirement(text)
        except InvalidRequirement:
            hint = "write name, name>=1.2, or name @ URL"
            if text.startswith("-"):
                hint = "options of pip have no place here; list the requirements themselves"
            yield Flaw(("requirements", index), "expected a requirement such as httpx>=0.27", text, hint)


def _dockerfile(value: Any) -> Iterator[Flaw]:
    if not isinstance(value, str):
        return
    if not value.strip() or not value.isprintable() or "\\" in value:
        expected = "expected the path of a Dockerfile, with / between folders"
    elif value.startswith(("/", "~")) or re.match(r"[A-Za-z]:/", value):
        expected = "expected a Dockerfile relative to the manifest"
    elif posixpath.normpath(value).split("/")[0] == "..":
        expected = "expected a Dockerfile below the manifest's folder"
    else:
        return
    yield Flaw(("dockerfile",), expected, value, "write Dockerfile, or path/to/Dockerfile")


def _environment(value: Any) -> Iterator[Flaw]:
    for name, text in value.items() if isinstance(value, Mapping) else ():
        if isinstance(name, str) and not _VARIABLE.fullmatch(name):
            hint = "letters, digits, _, - and ., not beginning with a digit"
            yield Flaw(("environment", name), "expected the name of a variable such as LOG_LEVEL", name, hint, True)
        if isinstance(text, str) and "\0" in text:
            yield Flaw(("environment", str(name)), "expected text without the character U+0000", text)
