"""Snapshots: the immutable built unit that an execution runs from, with its stack, its options and its image.

A stack names secrets, and never holds their values.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, cast

from pydantic import Field

from kitaru.model.noun import Noun, StoredNoun


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
"""Types of stack that ``wiring.runner_of`` has a runner for. The others are read, and then refused by name."""

DEFAULT_STACK = "local"


class NamedStack(Noun):
    """A stack with the name that people call it by."""

    name: str
    spec: StackSpec


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
        None, description="Names of secrets; their values become environment variables when the flow runs"
    )
    apt_packages: tuple[str, ...] | None = Field(None, description="Debian packages to install")
    replicate_local_python_environment: bool | None = Field(
        None, description="Install the packages of the Python that builds"
    )
    image_tag: str | None = Field(None, description="Tag of the image that is built")
    target_repository: str | None = Field(None, description="Repository that the built image is pushed to")
    user: str | None = Field(None, description="User that the flow runs as inside the container")
    platform: str | None = Field(None, description="Platform to build for, e.g. linux/amd64")

    def over(self, inherited: ImageSettings) -> ImageSettings:
        """These settings with every field that they leave out taken from ``inherited``."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return inherited.model_copy(update=given)


class Options(Noun):
    """How a flow runs unless the caller says otherwise. ``timeout`` in seconds."""

    retries: int = 0
    cache: bool = True
    timeout: float | None = None


class FlowFacts(Noun):
    """The facts of an imported target: the decorator's options (None if it has none) and the shape of the inputs."""

    retries: int | None = None
    cache: bool | None = None
    timeout: float | None = None
    stack: str | None = None
    image: ImageSettings | None = None
    input_schema: dict[str, Any] = Field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    summary: str = ""


class Snapshot(StoredNoun):
    """One built unit. Its digest is its identity: content alone, never a commit, time, user or absolute path.

    ``source`` is the digest of the source tree's canonical listing; ``roots`` are the folders in it to import from
    besides itself; ``inputs`` are the representative inputs, which an
    invoke overrides one by one; ``input_schema`` is a JSON Schema of the flow's parameters.
    """

    flow: str
    target: str
    source: str
    roots: tuple[str, ...] = ()
    image: ImageSettings = Field(default_factory=ImageSettings)
    stack: NamedStack
    options: Options = Field(default_factory=Options)
    inputs: dict[str, Any] = Field(default_factory=dict)
    input_schema: dict[str, Any] = Field(default_factory=dict)
    checkpoints: tuple[str, ...] = ()
    summary: str = ""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """As of every noun; the same bytes are parsed once a process."""
        return cast("Self", _parsed(body))


@lru_cache(maxsize=256)
def _parsed(body: bytes) -> Snapshot:
    return Snapshot.model_validate_json(body)


class Commit(Noun):
    """The commit of a source: recorded beside a snapshot, never inside its digest."""

    sha: str
    branch: str | None = None
    dirty: bool = False


class SourceFile(Noun):
    """One entry of a source tree's listing. ``mode`` is 0o100644, 0o100755 or 0o120000, which is a symlink."""

    path: str
    mode: int
    size: int
    sha256: str


class SourceTree(Noun):
    """A source tree: files in path order. Equal listings are equal trees, however they are packed."""

    files: tuple[SourceFile, ...]

    def listing(self) -> list[list[Any]]:
        """The parts of the digest: path, mode in octal, SHA-256."""
        return [[file.path, f"{file.mode:o}", file.sha256] for file in self.files]


# --- the rules of image settings --------------------------------------------------------------------------------------

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
    """One wrong member: its path of keys and positions, the expected value, the value that is there.

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
    for key, fits, expected, hint in _RULES:
        value = image.get(key)
        items = list(enumerate(value)) if isinstance(value, list | tuple) else [(None, value)]
        for index, text in items:
            if isinstance(text, str) and not fits(text):
                yield Flaw((key,) if index is None else (key, index), expected, text, hint(text))
    dockerfile, environment = image.get("dockerfile"), image.get("environment")
    if isinstance(dockerfile, str) and (expected := _dockerfile_expected(dockerfile)):
        yield Flaw(("dockerfile",), f"expected {expected}", dockerfile, "write Dockerfile, or path/to/Dockerfile")
    for name, text in environment.items() if isinstance(environment, Mapping) else ():
        if isinstance(name, str) and not _VARIABLE.fullmatch(name):
            hint_of_name = "letters, digits, _, - and ., not beginning with a digit"
            yield Flaw(
                ("environment", name), "expected the name of a variable such as LOG_LEVEL", name, hint_of_name, True
            )
        if isinstance(text, str) and "\0" in text:
            yield Flaw(("environment", str(name)), "expected text without the character U+0000", text)


def _is_requirement(text: str) -> bool:
    if _SIMPLE_REQUIREMENT.fullmatch(text):
        return True
    # 70 ms to import, and most manifests that are read name no other requirements
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return bool(Requirement(text))
    except InvalidRequirement:
        return False


def _requirement_hint(text: str) -> str:
    if text.startswith("-"):
        return "options of pip have no place here; list the requirements themselves"
    return "write name, name>=1.2, or name @ URL"


def _dockerfile_expected(path: str) -> str:
    if not path.strip() or not path.isprintable() or "\\" in path:
        return "the path of a Dockerfile, with / between folders"
    if path.startswith(("/", "~")) or re.match(r"[A-Za-z]:/", path):
        return "a Dockerfile relative to the manifest"
    return "a Dockerfile below the manifest's folder" if posixpath.normpath(path).split("/")[0] == ".." else ""


_RULES: tuple[tuple[str, Callable[[str], Any], str, Callable[[str], str]], ...] = (
    ("base_image", is_base_image, "expected a container image such as python:3.12-slim", base_hint),
    ("requirements", _is_requirement, "expected a requirement such as httpx>=0.27", _requirement_hint),
    ("secret_environment_from", _SECRET.fullmatch, "expected the name of a secret such as openai-creds", lambda _: ""),
    (
        "apt_packages",
        _DEBIAN.fullmatch,
        "expected the name of a Debian package such as git",
        lambda _: "one package an entry: name, name=version or name/release",
    ),
    (
        "platform",
        _PLATFORM.fullmatch,
        "expected a platform such as linux/amd64",
        lambda _: "one platform: os/architecture",
    ),
)
"""Key → the test of its text, or of each text in its list; the expected text; and a hint."""
