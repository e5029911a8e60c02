"""Everything that is wrong with a manifest's data, in plain English.

First the models' errors, translated; then the rules that no model states: names that lead nowhere, paths that leave the
folder. Every check takes raw data rather than a valid model, so that one run shows all problems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kitaru.manifest.yaml import described, did_you_mean, shown
from kitaru.model.manifest import FlowSpec, Manifest, Overlay, SourceSpec, is_branch
from kitaru.model.noun import Noun
from kitaru.model.route import DEFAULT_TAG, Protection
from kitaru.model.snapshot import (
    DEFAULT_STACK,
    DockerStack,
    ImageSettings,
    KubernetesStack,
    LocalStack,
    base_hint,
    image_flaws,
)

STORE_PROTOCOLS = ("file", "memory", "s3", "gs", "gcs", "az", "abfs", "abfss")
"""Spellings that a slip of the keyboard is compared with; the store decides which of them works."""

FORMAT = 1
MAX_FINDINGS = 500
"""Beyond this many the search for likely spellings takes seconds."""

STACK_TYPES: dict[str, type[Noun]] = {
    get_args(model.model_fields["type"].annotation)[0]: model for model in (LocalStack, DockerStack, KubernetesStack)
}

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "literal_error": "{expected}",
}
"""pydantic's type of an error → the words for the expected value, with fields of the error's context."""

Raw = Callable[[tuple[str | int, ...]], str]
"""A path → the text of the single value there, unquoted; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake in the data, by its path of keys. ``at_key``: the key is wrong, not its value."""

    path: tuple[str | int, ...]
    message: str
    hint: str = ""
    at_key: bool = False


def checked(data: dict[str, Any], raw: Raw) -> tuple[Manifest | None, list[Finding]]:
    """The manifest that ``data`` is, and everything that is wrong with it. None if its model refuses it.

    Types are taken strictly: ``"1"`` is no number, ``1`` no text.
    """
    manifest, findings = None, list[Finding]()
    version = data.get("kitaru", FORMAT)
    if type(version) is not int or version != FORMAT:  # looked at here, because Python takes true for 1
        hint = f"write {FORMAT} without quotes" if version == str(FORMAT) else ""
        findings.append(Finding(("kitaru",), f"expected {FORMAT}, found {described(version)}", hint))
        data = {**data, "kitaru": FORMAT}
    try:
        # Lists become tuples, because pydantic's strict mode takes nothing else for a tuple once a validator of ours
        # has looked at the value; inputs are the user's, and stay as they are.
        tupled = _tupled(data)
        for name, flow in _mapping(data.get("flows")).items():
            if isinstance(flow, dict) and "inputs" in flow:
                tupled["flows"][name]["inputs"] = flow["inputs"]
        manifest = Manifest.model_validate(tupled, strict=True)
    except ValidationError as error:
        details = error.errors(include_url=False)[:MAX_FINDINGS]
        findings += [_translate(detail, data, raw) for detail in details]
    findings += islice(_unmodelled(data), MAX_FINDINGS)
    return manifest, findings


def _tupled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tupled(item) for key, item in value.items()}
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value


def _translate(error: ErrorDetails, data: dict[str, Any], raw: Raw) -> Finding:
    kind, value = error["type"], error["input"]
    path: tuple[str | int, ...] = error["loc"]
    if path[:1] == ("stacks",) and len(path) > 2:
        path = path[:2] + path[3:]  # pydantic names the branch of the union that it took
    if kind == "extra_forbidden":
        return _unknown_key(path, data)
    if kind == "missing":
        return Finding(path[:-1], f"the key {str(path[-1])!r} is missing", _missing_hint(path), at_key=True)
    if kind.startswith("union_tag"):
        return _stack_type(path, value)
    if kind == "value_error":
        return _refused(path, str(error["ctx"]["error"]), value, raw)
    expected = _EXPECTED.get(kind, "another kind of value").format(**error.get("ctx", {}))
    if path[-1:] == ("image",) and kind == "model_type":
        expected = "a base image or a mapping"
    return Finding(path, f"expected {expected}, found {described(value)}", _type_hint(kind, path, value, raw(path)))


def _type_hint(kind: str, path: tuple[str | int, ...], value: Any, text: str) -> str:
    if path[-1:] in (("image",), ("base_image",)) and isinstance(value, float) and (hint := base_hint(text)):
        return hint
    if kind == "string_type" and value is not None and text:
        return f'put it in quotes: "{text}"'
    if kind == "bool_type" and isinstance(value, str):
        return "write true or false, without quotes; YAML 1.2 reads yes, no, on and off as text"
    if kind in ("int_type", "float_type") and isinstance(value, str) and value.replace(".", "", 1).isdecimal():
        return f"write {value} without quotes"
    if kind == "tuple_type" and isinstance(value, str):
        return "write it as a list: [a, b]"
    if value is None and kind in ("dict_type", "model_type", "model_attributes_type") and path:
        return "write {}, or leave the key out"
    return ""


def _missing_hint(path: tuple[str | int, ...]) -> str:
    match path:
        case ("kitaru",):
            return "begin the file with kitaru: 1"
        case ("project",):
            return "add project: NAME, the name under which the store keeps everything"
        case ("flows", name, "target") if str(name).isidentifier():
            return f"add target: path/to/file.py:{shown(str(name))[1:-1]}"
    return ""


def _unknown_key(path: tuple[str | int, ...], data: dict[str, Any]) -> Finding:
    *parent, last = path
    key = str(last)
    known = _known_keys(tuple(parent), data)
    message = f"unknown key {shown(key)}"
    in_flow = len(parent) == 2 and parent[0] == "flows"
    if key in ImageSettings.model_fields and (not parent or in_flow):
        return Finding(path, message, f"{key} belongs under image", at_key=True)
    if key in FlowSpec.model_fields and not parent:
        return Finding(path, message, f"{key} belongs under a flow", at_key=True)
    return Finding(path, message + did_you_mean(key, known), f"known keys here: {', '.join(known)}", at_key=True)


def _known_keys(parent: tuple[str | int, ...], data: dict[str, Any]) -> list[str]:
    models: dict[object, type[Noun]] = {
        "image": ImageSettings,
        "source": SourceSpec,
        "flows": FlowSpec,
        "protect": Protection,
        "targets": Overlay,
    }
    match parent:
        case ():
            return list(Manifest.model_fields)
        case (*_, ("image" | "source") as key) | (("flows" | "protect" | "targets") as key, _):
            return list(models[key].model_fields)
        case ("stacks", name):
            return list(STACK_TYPES[data["stacks"][name]["type"]].model_fields)
    return []


def _stack_type(path: tuple[str | int, ...], value: Any) -> Finding:
    types = ", ".join(STACK_TYPES)
    if not isinstance(value, dict) or "type" not in value:
        return Finding(path, "the key 'type' is missing", f"add type: one of {types}", at_key=True)
    given = value["type"]
    if not isinstance(given, str):
        return Finding((*path, "type"), f"expected a type of stack, found {described(given)}", f"there are: {types}")
    message = f"unknown type of stack {shown(given)}{did_you_mean(given, STACK_TYPES)}"
    return Finding((*path, "type"), message, f"there are: {types}")


def _refused(path: tuple[str | int, ...], reason: str, value: Any, raw: Raw) -> Finding:
    """The refusal of a validator of the models: the name in a key, a target, a route."""
    in_routes = len(path) >= 4 and path[0] == "flows" and path[2] == "routes"
    if path[-1] == "[key]" and not (in_routes and len(path) == 4):
        return Finding(path[:-1], f"{reason}; found {shown(str(path[-2]))}", at_key=True)
    if not in_routes:
        return Finding(path, f"{reason}; found {described(value)}")
    text = raw(path)
    number = text.removeprefix("v")
    hint = ""
    if number.isascii() and number.isdecimal() and isinstance(value, str):
        hint = f"write {number}, without quotes or v"
    elif isinstance(value, str) and value.lower() in ("head", "latest", "newest", "current"):
        hint = "write head"
    shown_value = f"; found {described(value)}" if reason.startswith("expected") else ""
    return Finding(path, f"route {shown(str(path[3]))} of flow {shown(str(path[1]))}: {reason}{shown_value}", hint)


# --- rules that no model states ---------------------------------------------------------------------------------------


def _unmodelled(data: dict[str, Any]) -> Iterator[Finding]:
    flows = _mapping(data.get("flows"))
    specs: list[tuple[tuple[str, ...], Any]] = [((), data), *((("flows", name), flow) for name, flow in flows.items())]
    stacks = list(dict.fromkeys([DEFAULT_STACK, *_mapping(data.get("stacks"))]))
    yield from _check_store(data.get("store"))
    for path, spec in specs:
        yield from _check_patterns(_mapping(spec).get("source"), (*path, "source"))
        yield from _check_image(_mapping(spec).get("image"), (*path, "image"))
    for path, spec in specs[1:]:
        stack, target = _mapping(spec).get("stack"), _mapping(spec).get("target")
        if isinstance(stack, str) and stack not in stacks:
            message = f"unknown stack {shown(stack)}{did_you_mean(stack, stacks)}"
            yield Finding((*path, "stack"), message, f"stacks of this manifest: {', '.join(map(shown, stacks))}")
        if isinstance(target, str):
            yield from _check_target(target, (*path, "target"))
        default = _mapping(_mapping(spec).get("routes")).get(DEFAULT_TAG)
        if isinstance(default, list) and default:  # a list is a shared label
            hint = "write one version, or weights that add up to 100: default: {2: 10, 1: 90}"
            if len(default) == 1 and isinstance(default[0], int | str):
                hint = f"write default: {default[0]}"
            message = "default is always exclusive: it leads to one version; found a list"
            yield Finding((*path, "routes", DEFAULT_TAG), message, hint)
    yield from _check_moved(_mapping(data.get("moved")), flows)
    yield from _check_protect(_mapping(data.get("protect")))


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _check_moved(moved: dict[str, Any], flows: dict[str, Any]) -> Iterator[Finding]:
    """Every chain of renames ends at a flow of the manifest, and none begins at one."""
    for was, name in moved.items():
        seen = [was]
        while isinstance(name, str) and name in moved and name not in flows and name not in seen:
            seen.append(name)
            name = moved[name]
        if not isinstance(name, str):
            continue
        taker = next((old for old, new in moved.items() if new == was and old != was), None)
        if was not in flows:
            if name not in flows:
                message = f"expected a flow of this manifest, found {shown(name)}{did_you_mean(name, sorted(flows))}"
                yield Finding(("moved", was), message, "moved: names the old name, then the new one")
        elif taker is None:
            message = f"flow {shown(was)} is in this manifest, so it can't have become {shown(name)}"
            yield Finding(("moved", was), message, f"remove it here, or flow {shown(was)} above", at_key=True)
        else:
            message = f"{shown(taker)} can't take the name of {shown(was)}"
            if moved[was] == taker:
                message = f"{shown(was)} and {shown(taker)} can't swap names, in one step or in many"
            message += ": a name that a flow had is never another flow's"
            hint = "give each a name that was never used; or leave the names, and swap the targets"
            yield Finding(("moved", was), message, hint, at_key=True)


def _check_protect(rules: dict[str, Any]) -> Iterator[Finding]:
    """A rule with an impossible branch would lock its route for good."""
    for tag, rule in rules.items():
        branch = _mapping(rule).get("branch")
        if not isinstance(branch, str) or is_branch(branch):
            continue
        hint = "git check-ref-format --branch NAME checks a name"
        if not branch:
            hint = "leave branch out: any branch may move the route then"
        elif "*" in branch or "?" in branch or "[" in branch:
            hint = "a rule names one branch, no pattern; leave branch out, and any branch may move the route"
        yield Finding(("protect", tag, "branch"), f"expected the name of a branch, found {described(branch)}", hint)


def _check_store(store: Any) -> Iterator[Finding]:
    if not isinstance(store, str):
        return
    protocol, separator, rest = store.partition("://")
    message, hint = "", ""
    if not separator or not re.fullmatch(r"[a-z][a-z0-9+.-]*", protocol):
        message = f"expected a URL such as file://.kitaru/store or s3://bucket/prefix; found {shown(store)}"
        hint = f"for a folder, write {shown('file://' + store)}" if store and not separator else ""
    elif re.match(r"[^/]*@", rest) and protocol != "file":
        message = "expected no credentials in the store's URL: the manifest is read by many"
        hint = "remove the part before @, and set the credentials in the environment"
    elif protocol not in STORE_PROTOCOLS and did_you_mean(protocol, STORE_PROTOCOLS):
        message = f"unknown protocol {shown(protocol)}{did_you_mean(protocol, STORE_PROTOCOLS)}"
        hint = "see the documentation of stores for those that Kitaru can use"
    elif protocol == "file" and not rest:
        message, hint = "expected a folder behind file://, found nothing", "write file://.kitaru/store"
    elif protocol not in ("file", "memory") and not rest.strip("/"):
        message, hint = f"expected a bucket behind {protocol}://, found nothing", f"write {protocol}://BUCKET"
    if message:
        yield Finding(("store",), message, hint)


def _check_target(target: str, path: tuple[str, ...]) -> Iterator[Finding]:
    place, colon, name = target.partition(":")
    is_file = "/" in place or place.endswith(".py")
    if not colon or not place or not name.isidentifier():
        return  # the model refuses it
    if "\\" in place or not place.isprintable():
        yield Finding(path, f"expected a plain path with / between folders; found {shown(target)}")
    elif stray := _stray(place, "path"):
        yield Finding(path, stray, "write path/to/file.py:flow; a flow elsewhere needs the manifest further up")
    elif is_file and not place.endswith(".py"):
        yield Finding(path, f"expected a Python file (path/to/file.py:flow); found {shown(target)}")
    elif not is_file and not all(part.isidentifier() for part in place.split(".")):
        yield Finding(path, f"expected path/to/file.py:flow or package.module:flow; found {shown(target)}")


def _check_patterns(source: Any, path: tuple[str, ...]) -> Iterator[Finding]:
    for key in ("include", "exclude"):
        patterns = _mapping(source).get(key)
        for index, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
            if not isinstance(pattern, str):
                continue
            if not pattern.strip():
                yield Finding((*path, key, index), "expected a pattern such as flows/**, found empty text")
            elif stray := _stray(pattern, "pattern"):
                yield Finding((*path, key, index), stray, "patterns begin at the manifest's folder: flows/**")


def _stray(text: str, noun: str) -> str:
    """The problem with a path that is absolute, or that leads up; empty for any other."""
    if re.match(r"[/~]|[A-Za-z]:[\\/]", text):
        return f"expected a {noun} relative to the manifest; found the absolute {shown(text)}"
    if ".." in re.split(r"[/\\]", text):
        return f"expected a {noun} below the manifest's folder, without ..; found {shown(text)}"
    return ""


def _check_image(image: Any, path: tuple[str, ...]) -> Iterator[Finding]:
    whole = {"base_image": image} if isinstance(image, str) else _mapping(image)
    for flaw in image_flaws(whole):
        place = path if isinstance(image, str) else (*path, *flaw.path)
        yield Finding(place, f"{flaw.expected}, found {described(flaw.value)}", flaw.hint, at_key=flaw.at_key)
