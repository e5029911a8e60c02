"""The manifest: the desired state of a project, as ``kitaru.yaml`` spells it; and the manifests beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from kitaru.model.address import FLOW_NAME, PROJECT_NAME, TAG_NAME, is_tag
from kitaru.model.jsonable import record
from kitaru.model.noun import Noun
from kitaru.model.route import Protection, RouteTargetField
from kitaru.model.snapshot import DEFAULT_STACK, ImageSettings, LocalStack, NamedStack, StackSpec

_NOWHERE = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock/")


def is_branch(name: str) -> bool:
    """Whether a branch can have that name. A pattern such as ``release/*`` is none."""
    if name in ("", "HEAD"):
        return False
    return not (name[0] in "-/." or name.endswith(("/", ".", ".lock")) or _NOWHERE.search(name))


@record()
class Neighbour:
    """One of them: its path below the repository's root, the flows that it declares, and its ``moved:``."""

    path: str
    flows: frozenset[str]
    moved: Mapping[str, str]


@record()
class Neighbours:
    """Those that were found, by path, and one sentence for each that could not be read."""

    found: tuple[Neighbour, ...] = ()
    unread: tuple[str, ...] = ()


DEFAULT_BUDGET_MB = 50
_ROOT = re.compile(r"[A-Za-z0-9_][^/\\]*(/[A-Za-z0-9_][^/\\]*)*")


def _image(value: Any) -> Any:
    return {"base_image": value} if isinstance(value, str) else value


def _project_name(value: Any) -> Any:
    if isinstance(value, str) and not PROJECT_NAME.fullmatch(value):
        raise ValueError("expected lower-case letters, digits, - and _, beginning with a letter or digit")
    return value


def _flow_name(value: Any) -> Any:
    if isinstance(value, str) and not FLOW_NAME.fullmatch(value):
        raise ValueError("expected letters, digits, _ and -, beginning with a letter or _")
    return value


def _tag_name(value: Any) -> Any:
    if isinstance(value, str) and not is_tag(value):
        raise ValueError(
            "expected a tag: lower-case letters, digits, '.', '_' and '-'; not head, and nothing like a version"
        )
    return value


def _target(value: Any) -> Any:
    if isinstance(value, str):
        place, colon, name = value.partition(":")
        if not colon or not place or not name.isidentifier():
            raise ValueError("expected path/to/file.py:flow or package.module:flow")
    return value


def _source_root(value: Any) -> Any:
    if isinstance(value, str) and not _ROOT.fullmatch(value):
        raise ValueError("expected a folder below the manifest's, such as src or libs/common/src")
    return value


ProjectName = Annotated[
    str, BeforeValidator(_project_name), Field(json_schema_extra={"pattern": f"^{PROJECT_NAME.pattern}$"})
]
FlowName = Annotated[str, BeforeValidator(_flow_name), Field(json_schema_extra={"pattern": f"^{FLOW_NAME.pattern}$"})]
TagName = Annotated[str, BeforeValidator(_tag_name), Field(json_schema_extra={"pattern": f"^{TAG_NAME.pattern}$"})]
Target = Annotated[str, BeforeValidator(_target), Field(json_schema_extra={"pattern": r"^[^:]+:[^:\s]+$"})]

SourceRoot = Annotated[str, BeforeValidator(_source_root), Field(json_schema_extra={"pattern": f"^{_ROOT.pattern}$"})]


class _OrBaseImage:
    """The schema of an image that may be a base image alone; made when somebody asks, since few commands do."""

    def __get_pydantic_json_schema__(self, _core: Any, _handler: Any) -> dict[str, Any]:
        whole = {**ImageSettings.model_json_schema(), "description": "Settings of the image, or a base image alone"}
        return {"anyOf": [{"type": "string", "description": "a base image"}, whole]}


ImageField = Annotated[ImageSettings, BeforeValidator(_image), _OrBaseImage()]


class SourceSpec(Noun):
    """The files of a snapshot. Patterns are Git's own kind of globs, relative to the manifest; None inherits."""

    include: tuple[str, ...] | None = Field(
        None, description="Globs of files to take; default: all that Git tracks here"
    )
    exclude: tuple[str, ...] | None = Field(None, description="Globs of files to leave out, after include")
    max_size_mb: PositiveInt | None = Field(
        None, description=f"Refuse a source tree larger than this; default {DEFAULT_BUDGET_MB}"
    )
    roots: tuple[SourceRoot, ...] | None = Field(
        None, description="Folders to import from besides the manifest's own, such as src"
    )


class FlowSpec(Noun):
    """One flow as the manifest declares it. An absent key is not managed, or inherited."""

    target: Target = Field(description="Place of the flow: path/to/file.py:flow or package.module:flow")
    inputs: dict[str, Any] = Field(
        default_factory=dict, description="Representative inputs; each invoke may override them"
    )
    stack: str | None = Field(None, description="Name of the stack that runs it")
    retries: NonNegativeInt | None = Field(None, description="How often a failed run is tried again")
    cache: bool | None = Field(None, description="Whether checkpoint outputs of earlier runs may be reused")
    timeout: PositiveFloat | None = Field(None, description="Seconds after which a run is stopped")
    image: ImageField | None = None
    source: SourceSpec | None = None
    routes: dict[TagName, RouteTargetField] = Field(
        default_factory=dict, description="Tags, and the versions they lead to"
    )


class Overlay(Noun):
    """The changes of ``--target NAME`` to the manifest, key by key; mappings are merged, all else is replaced."""

    project: ProjectName | None = None
    store: str | None = None
    image: ImageField | None = None
    source: SourceSpec | None = None
    stacks: dict[str, dict[str, Any]] | None = None
    flows: dict[str, dict[str, Any]] | None = None
    protect: dict[str, dict[str, Any]] | None = None
    forward: bool | None = None


class Manifest(Noun):
    """The whole of ``kitaru.yaml``, after its target's overlay."""

    kitaru: Literal[1] = Field(description="Format of the manifest: 1")
    project: ProjectName = Field(description="Name under which the store keeps everything of this manifest")
    store: str | None = Field(None, description="file://path, s3://bucket/prefix, ...; relative to this file")
    image: ImageField = Field(default_factory=ImageSettings)
    source: SourceSpec = Field(default_factory=SourceSpec)
    stacks: dict[str, StackSpec] = Field(default_factory=dict, description="Stacks that flows may run on")
    flows: dict[FlowName, FlowSpec] = Field(default_factory=dict)
    targets: dict[str, Overlay] = Field(default_factory=dict, description="Overlays: kitaru apply --target NAME")
    protect: dict[TagName, Protection] = Field(default_factory=dict, description="Routes that only a branch may move")
    forward: bool = Field(
        True,
        description="Whether a route that follows head moves only from a commit that contains the one it was last set "
        "from; false for a target that several branches share",
    )
    moved: dict[FlowName, FlowName] = Field(
        default_factory=dict, description="Renamed flows, old name to new: versions and routes go with the new name"
    )

    def image_of(self, flow: FlowSpec, decorated: ImageSettings | None = None) -> ImageSettings:
        """The flow's image: its own fields, over those of its decorator, over the manifest's."""
        image = decorated.over(self.image) if decorated else self.image
        return flow.image.over(image) if flow.image else image

    def source_of(self, flow: FlowSpec) -> SourceSpec:
        """The flow's source selection, field by field over the manifest's, with nothing left open."""
        own = flow.source or SourceSpec()
        return SourceSpec(
            include=own.include if own.include is not None else (self.source.include or ("**",)),
            exclude=own.exclude if own.exclude is not None else (self.source.exclude or ()),
            max_size_mb=own.max_size_mb or self.source.max_size_mb or DEFAULT_BUDGET_MB,
            roots=own.roots if own.roots is not None else (self.source.roots or ()),
        )

    def stack_named(self, name: str | None) -> NamedStack | None:
        """The stack of that name, or None; ``local`` exists without a declaration."""
        chosen = name or DEFAULT_STACK
        spec = self.stacks.get(chosen)
        if spec is None and chosen == DEFAULT_STACK:
            spec = LocalStack(type="local")
        return NamedStack(name=chosen, spec=spec) if spec is not None else None
