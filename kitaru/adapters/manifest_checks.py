"""What the shape of a manifest can't say, and the manifest alone can tell: names that lead nowhere, paths that leave.

Every check takes raw data rather than a valid model, so that one run shows these problems beside those of the schema.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from kitaru.adapters.manifest_problems import Finding
from kitaru.adapters.wording import did_you_mean, shown
from kitaru.model.route import DEFAULT_TAG
from kitaru.model.stack import DEFAULT_STACK

STORE_PROTOCOLS = ("file", "memory", "s3", "gs", "gcs", "az", "abfs", "abfss")
"""Spellings that a slip of the keyboard is compared with; which of them works is for the store to say."""


def check_findings(data: dict[str, Any], routed_elsewhere: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """Every such problem of ``data``, which is the manifest after its overlay.

    ``routed_elsewhere``: tags that some overlay routes, which ``protect`` may therefore name.
    """
    yield from _check_store(data.get("store"))
    yield from _check_patterns(data.get("source"), ("source",))
    yield from _check_requirements(data.get("image"), ("image",))
    stacks = [DEFAULT_STACK, *(name for name in _mapping(data.get("stacks")) if name != DEFAULT_STACK)]
    routed = {DEFAULT_TAG, *routed_elsewhere}
    for name, flow in _mapping(data.get("flows")).items():
        if isinstance(flow, dict):
            yield from _check_flow(flow, ("flows", name), stacks)
            routed.update(_mapping(flow.get("routes")))
    yield from _check_moved(_mapping(data.get("moved")), _mapping(data.get("flows")))
    for tag in _mapping(data.get("protect")):
        if tag not in routed:
            message = f"no flow has a route {shown(tag)} to protect{did_you_mean(tag, sorted(routed))}"
            yield Finding(("protect", tag), message, "add it to a flow's routes, or remove it here", at_key=True)


def routed_tags(overlay: Any) -> frozenset[str]:
    """The tags that the flows of a manifest, or of an overlay, route."""
    flows = _mapping(_mapping(overlay).get("flows")).values()
    return frozenset(tag for flow in flows for tag in _mapping(_mapping(flow).get("routes")))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_flow(flow: dict[str, Any], path: tuple[str, ...], stacks: list[str]) -> Iterator[Finding]:
    stack = flow.get("stack")
    if isinstance(stack, str) and stack not in stacks:
        message = f"unknown stack {shown(stack)}{did_you_mean(stack, stacks)}"
        yield Finding((*path, "stack"), message, f"stacks of this manifest: {', '.join(map(shown, stacks))}")
    if isinstance(flow.get("target"), str):
        yield from _check_target(flow["target"], (*path, "target"))
    yield from _check_patterns(flow.get("source"), (*path, "source"))
    yield from _check_requirements(flow.get("image"), (*path, "image"))


def _check_moved(moved: dict[str, Any], flows: dict[str, Any]) -> Iterator[Finding]:
    """Every chain of renames ends at a flow of the manifest, and none begins at one."""
    for was, name in moved.items():
        seen = [was]
        while isinstance(name, str) and name in moved and name not in flows and name not in seen:
            seen.append(name)
            name = moved[name]
        if was in flows:
            message = f"flow {shown(was)} is in this manifest, so it can't have become {shown(name)}"
            yield Finding(("moved", was), message, f"remove it here, or flow {was} above", at_key=True)
        elif isinstance(name, str) and name not in flows:
            message = f"expected a flow of this manifest, found {shown(name)}{did_you_mean(name, sorted(flows))}"
            yield Finding(("moved", was), message, "moved: names the old name, then the new one")


def _check_store(store: Any) -> Iterator[Finding]:
    if not isinstance(store, str):
        return
    protocol, separator, rest = store.partition("://")
    expected = "expected a URL such as file://.kitaru/store or s3://bucket/prefix"
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", protocol):
        hint = f"for a folder, write {shown('file://' + store)}" if store and not separator else ""
        yield Finding(("store",), f"{expected}; found {shown(store)}", hint)
    elif re.match(r"[^/]*@", rest) and protocol != "file":
        message = "expected no credentials in the store's URL: the manifest is read by many"
        yield Finding(("store",), message, "remove what stands before @, and set the credentials in the environment")
    elif protocol not in STORE_PROTOCOLS and did_you_mean(protocol, STORE_PROTOCOLS):
        message = f"unknown protocol {shown(protocol)}{did_you_mean(protocol, STORE_PROTOCOLS)}"
        yield Finding(("store",), message, "see the documentation of stores for those that Kitaru can use")
    elif protocol not in ("file", "memory") and not rest.strip("/"):
        yield Finding(
            ("store",), f"expected a bucket behind {protocol}://, found nothing", f"write {protocol}://BUCKET"
        )
    elif protocol == "file" and not rest:
        yield Finding(("store",), "expected a folder behind file://, found nothing", "write file://.kitaru/store")


def _check_target(target: str, path: tuple[str, ...]) -> Iterator[Finding]:
    place, colon, name = target.partition(":")
    if not colon or not place or not name.isidentifier():
        return  # the schema says so
    if "\\" in place or not place.isprintable():
        yield Finding(path, f"expected a plain path with / between folders; found {shown(target)}")
    elif place.startswith(("/", "~")):
        message = f"expected a path relative to the manifest; found the absolute path {shown(place)}"
        yield Finding(path, message, "write path/to/file.py:flow")
    elif "/" in place or place.endswith(".py"):
        if posixpath.normpath(place).split("/")[0] == "..":
            message = f"expected a file below the manifest's folder; {shown(place)} leaves it"
            yield Finding(path, message, "move the manifest up, or the flow down")
        elif not place.endswith(".py"):
            yield Finding(path, f"expected a Python file (path/to/file.py:flow); found {shown(target)}")
    elif not all(part.isidentifier() for part in place.split(".")):
        yield Finding(path, f"expected path/to/file.py:flow or package.module:flow; found {shown(target)}")


def _check_patterns(source: Any, path: tuple[str, ...]) -> Iterator[Finding]:
    for key in ("include", "exclude"):
        patterns = _mapping(source).get(key)
        for index, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
            place = (*path, key, index)
            if not isinstance(pattern, str):
                continue
            if not pattern.strip():
                yield Finding(place, "expected a pattern such as flows/**, found empty text")
            elif pattern.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", pattern):
                message = f"expected a pattern relative to the manifest; found the absolute {shown(pattern)}"
                yield Finding(place, message, f"write {shown(pattern.lstrip('/~') or '**')}")
            elif ".." in re.split(r"[/\\]", pattern):
                message = f"expected a pattern below the manifest's folder; {shown(pattern)} leaves it"
                yield Finding(place, message, "remove the ..")


def _check_requirements(image: Any, path: tuple[str, ...]) -> Iterator[Finding]:
    requirements = _mapping(image).get("requirements")
    texts = [
        (index, text)
        for index, text in enumerate(requirements if isinstance(requirements, list) else ())
        if isinstance(text, str) and not _is_plain_name(text)
    ]
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
            message = f"expected a requirement such as httpx>=0.27; found {shown(text)}"
            yield Finding((*path, "requirements", index), message, hint)


def _is_plain_name(text: str) -> bool:
    """A bare name, or one with a single plain version: no need to parse it in full."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*[A-Za-z0-9](?:(?:>=|==|<=|~=|!=|<|>)\d+(?:\.\d+)*)?", text))
