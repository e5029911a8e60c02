"""What the shape of a manifest can't say, and the manifest alone can tell: names that lead nowhere, paths that leave.

Every check takes raw data rather than a valid model, so that one run shows these problems beside those of the schema.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from kitaru.manifest.manifest_problems import Finding
from kitaru.manifest.wording import did_you_mean, found, shown
from kitaru.model.image import image_flaws
from kitaru.model.manifest import is_branch
from kitaru.model.stack import DEFAULT_STACK

STORE_PROTOCOLS = ("file", "memory", "s3", "gs", "gcs", "az", "abfs", "abfss")
"""Spellings that a slip of the keyboard is compared with; which of them works is for the store to say."""


def check_findings(data: dict[str, Any]) -> Iterator[Finding]:
    """Every such problem of ``data``, which is the manifest after its overlay."""
    yield from _check_store(data.get("store"))
    yield from _check_patterns(data.get("source"), ("source",))
    yield from _check_image(data.get("image"), ("image",))
    stacks = [DEFAULT_STACK, *(name for name in _mapping(data.get("stacks")) if name != DEFAULT_STACK)]
    for name, flow in _mapping(data.get("flows")).items():
        if isinstance(flow, dict):
            yield from _check_flow(flow, ("flows", name), stacks)
    yield from _check_moved(_mapping(data.get("moved")), _mapping(data.get("flows")))
    yield from _check_protect(_mapping(data.get("protect")))


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
    yield from _check_image(flow.get("image"), (*path, "image"))


def _check_moved(moved: dict[str, Any], flows: dict[str, Any]) -> Iterator[Finding]:
    """Every chain of renames ends at a flow of the manifest, and none begins at one."""
    for was, name in moved.items():
        seen = [was]
        while isinstance(name, str) and name in moved and name not in flows and name not in seen:
            seen.append(name)
            name = moved[name]
        if not isinstance(name, str):
            continue
        if was in flows:
            yield _of_declared(was, name, moved)
        elif name not in flows:
            message = f"expected a flow of this manifest, found {shown(name)}{did_you_mean(name, sorted(flows))}"
            yield Finding(("moved", was), message, "moved: names the old name, then the new one")


def _of_declared(was: str, name: str, moved: dict[str, Any]) -> Finding:
    """A flow that is to be renamed, and is declared all the same: perhaps because another one is to get its name."""
    taker = next((one for one, its in moved.items() if its == was and one != was), None)
    if taker is None:
        message = f"flow {shown(was)} is in this manifest, so it can't have become {shown(name)}"
        return Finding(("moved", was), message, f"remove it here, or flow {was} above", at_key=True)
    if moved[was] == taker:
        told = f"{shown(was)} and {shown(taker)} can't swap names, in one step or in many"
    else:
        told = f"{shown(taker)} can't take the name of {shown(was)}"
    hint = "give each a name that was never used; or leave the names, and swap the targets"
    return Finding(("moved", was), f"{told}: a name that a flow had is never another flow's", hint, at_key=True)


def _check_protect(rules: dict[str, Any]) -> Iterator[Finding]:
    """A rule whose branch can't be would lock its route for good."""
    for tag, rule in rules.items():
        branch = _mapping(rule).get("branch")
        if not isinstance(branch, str) or is_branch(branch):
            continue
        hint = "git check-ref-format --branch NAME tells which names can be"
        if not branch:
            hint = "leave branch out: any branch may move the route then"
        elif "*" in branch or "?" in branch or "[" in branch:
            hint = "a rule names one branch, no pattern; leave branch out, and any branch may move the route"
        yield Finding(("protect", tag, "branch"), f"expected the name of a branch, found {found(branch)}", hint)


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


def _check_image(image: Any, path: tuple[str, ...]) -> Iterator[Finding]:
    whole = {"base_image": image} if isinstance(image, str) else _mapping(image)
    for flaw in image_flaws(whole):
        place = path if isinstance(image, str) else (*path, *flaw.path)
        yield Finding(place, f"{flaw.expected}, found {found(flaw.value)}", flaw.hint, at_key=flaw.at_key)
