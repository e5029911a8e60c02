"""Surgical edits of ``kitaru.yaml``: bytes in, bytes out, and every byte that is not edited stays.

Each edit is read back: what the file means afterwards is what it meant before, except for what was asked for. An edit
that can't be made so is refused with ``KitaruManifestError``, which shows the edit to make by hand. An edit that
changes nothing gives back the same bytes.

With ``target``, only the overlay of that name is edited: what is written goes into ``targets.<target>.flows.<flow>``,
which is made where it is missing, and no other target reads anything else than before. What an overlay can't say, since
it can't take away what every target inherits, is refused.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruBackendError, KitaruConflictError, KitaruManifestError, Problem
from kitaru.manifest.manifest_reading import Places, manifest_error, read_manifest
from kitaru.manifest.wording import shown
from kitaru.manifest.yaml_change import Change, Put, Remove, Unsure, at_path, changed, plain, same, spliced
from kitaru.manifest.yaml_removing import stays_empty
from kitaru.manifest.yaml_spans import Document, read_document
from kitaru.manifest.yaml_surgery import sharing, splices
from kitaru.manifest.yaml_tree import parse, to_data
from kitaru.manifest.yaml_writing import inline
from kitaru.model.manifest import FlowSpec
from kitaru.model.route import RouteTarget, Split, parse_target, target_data

MANIFEST = "kitaru.yaml"
_BOM = b"\xef\xbb\xbf"
_ORDER = ("target", "inputs", "stack", "retries", "cache", "timeout", "image", "source", "routes")


def set_route(
    body: bytes, flow: str, tag: str, wish: RouteTarget, *, target: str | None = None, file: str = MANIFEST
) -> bytes:
    """Let ``tag`` of ``flow`` lead to ``wish``, in the style of the routes that are there.

    Raises ``KitaruManifestError`` where the manifest does not declare the flow, or can't be edited.
    """
    doc = _read(body, file)
    _check_declared(doc, flow, target, file)
    return _edited(body, doc, _puts(doc, flow, {"routes": {tag: _spelled(wish)}}, target, file), file)


def remove_route(body: bytes, flow: str, tag: str, *, target: str | None = None, file: str = MANIFEST) -> bytes:
    """Take the line of ``tag``, and ``routes:`` where it is empty then; braces that somebody wrote stay, as ``{}``.

    A tag that is not there is no error.

    With ``target``, a tag that the base has is refused, since an overlay can't take it away.
    """
    doc = _read(body, file)
    base = ("flows", flow, "routes", tag)
    if target is None:
        return _edited(body, doc, [_removed(doc, base, keep=2)], file)
    over = ("targets", target, *base)
    if at_path(doc.data, base) is not None:
        why = f"every target inherits it, so it can't be taken away for {target} alone"
        hint = f"remove {'.'.join(base)} for every target, or --no-manifest changes the store alone"
        raise _refusal(doc, Remove(base, keep=2), why, file, hint)
    return _edited(body, doc, [_removed(doc, over, keep=2)], file)


def set_flow(
    body: bytes, flow: str, spec: FlowSpec | Mapping[str, Any], *, target: str | None = None, file: str = MANIFEST
) -> bytes:
    """Declare a flow at the end of ``flows:``, or change just the keys of one that are given in ``spec``.

    A key that is None is not given. Routes are changed tag by tag, every other key as a whole; with ``target``, what it
    inherits is not repeated.
    """
    return set_flows(body, {flow: spec}, target=target, file=file)


def set_flows(
    body: bytes,
    specs: Mapping[str, FlowSpec | Mapping[str, Any]],
    *,
    target: str | None = None,
    file: str = MANIFEST,
) -> bytes:
    """As ``set_flow``, for several flows at the price of one."""
    doc = _read(body, file)
    changes: list[Change] = []
    for flow, spec in specs.items():
        changes += _puts(doc, flow, _flow_keys(spec), target, file)
    return _edited(body, doc, changes, file)


def check_readable(body: bytes, *, target: str | None = None, file: str = MANIFEST) -> None:
    """Refuse, before anything is written, an edited manifest that no command could read: ``KitaruManifestError``."""
    try:
        read_manifest(body, file, target)
    except KitaruManifestError as error:
        told = [replace(problem, message=f"the edit would leave this: {problem.message}") for problem in error.problems]
        raise KitaruManifestError(told, hint=f"{file} was left as it is; give other values") from error


def edit_preview(before: bytes, after: bytes, file: str = MANIFEST) -> list[str]:
    """The edit as lines of a unified diff, without line ends; empty where nothing changes."""
    if before == after:
        return []
    old, new = _lines(before), _lines(after)
    return list(difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", lineterm=""))


def write(path: Path, before: bytes, after: bytes) -> None:
    """Replace the file at ``path`` by ``after`` in one step; its mode stays, and a symlink leads on to it.

    Raises ``KitaruConflictError`` where the file no longer holds ``before``, ``KitaruBackendError`` where it can't be
    written. Nothing is written then.
    """
    place = Path(os.path.realpath(path))
    temporary: Path | None = None
    try:
        with _alone_in(place.parent):
            if place.exists() and not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, "it is read-only", str(place))
            handle, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as stream:
                stream.write(after)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(stat.S_IMODE(place.stat().st_mode))
            if place.read_bytes() != before:
                raise KitaruConflictError(
                    f"{path.name} was changed by somebody else in the meantime; it was left as it is",
                    hint="look at the file, then run the command again",
                )
            temporary.replace(place)
    except OSError as error:
        raise KitaruBackendError(
            f"{path} can't be written: {error.strerror or error}",
            hint="check the permissions of the file and its folder",
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other command writes a manifest in ``folder`` meanwhile: between looking and replacing, it would be lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- one edit ---------------------------------------------------------------------------------------------------------


def _read(body: bytes, file: str) -> Document:
    """The document in ``body``; what is wrong with it comes with every other problem of the manifest."""
    with contextlib.suppress(UnicodeDecodeError):
        found = read_document(body.decode("utf-8-sig"))
        if isinstance(found, Document):
            return found
    read_manifest(body, file, None)
    raise manifest_error([Problem("expected a mapping at the top (kitaru: 1, project: ...)", file=file)])


def _edited(body: bytes, doc: Document, changes: Sequence[Change], file: str) -> bytes:
    """``body`` with ``changes``: all at once where they do not meet, else one after the other."""
    try:
        wanted = reduce(changed, changes, doc.data)
        if same(wanted, doc.data):
            return body
        text = spliced(doc.text, [part for change in changes for part in splices(doc, change)])
        if _says(text, wanted):
            return (_BOM if body.startswith(_BOM) else b"") + text.encode()
        why = "there is no way to write it that is certain to leave the rest of the file as it is"
    except Unsure as reason:
        why = str(reason)
    if len(changes) > 1:
        for change in changes:
            body = _edited(body, _read(body, file), [change], file)
        return body
    shared = sharing(doc, changes[0].path)
    raise _refusal(doc, changes[0], f"others share it by *{shared}, and would change with it" if shared else why, file)


def _says(text: str, wanted: Any) -> bool:
    found = parse(text)
    return not found.problems and same(to_data(found.root), wanted)


def _refusal(doc: Document, change: Change, why: str, file: str, hint: str = "") -> KitaruManifestError:
    """What could not be edited, where it stands, and the edit for a person to make."""
    line, column, _ = Places(doc.tree, None).of(change.path)
    place = ".".join(change.path)
    if not hint:
        by_hand = f"{place}: {inline(change.value)}" if isinstance(change, Put) else f"remove {place}"
        hint = f"edit the file by hand: {by_hand}"
    verb = "set" if isinstance(change, Put) else "removed"
    problem = Problem(
        f"{place} can't be {verb} here by a command: {why}", file=file, line=line, column=column, hint=hint
    )
    return manifest_error([problem])


# --- where, and what --------------------------------------------------------------------------------------------------


def _puts(doc: Document, flow: str, keys: Mapping[str, Any], target: str | None, file: str) -> list[Change]:
    """What sets those keys of the flow, in its overlay where there is a target; routes one by one."""
    inherited = at_path(doc.data, ("flows", flow))
    layer = ("flows", flow) if target is None else ("targets", target, "flows", flow)
    there = at_path(doc.data, layer)
    if target is not None and inherited is not None:
        keys = _own_keys(doc, layer, keys, file)
    if there is None:
        return [Put(layer, keys, frozenset({"flows", flow, "routes"}))] if keys else []
    changes: list[Change] = []
    for key, value in keys.items():
        if key == "routes":
            changes += [Put((*layer, key, tag), wish, frozenset({"routes"})) for tag, wish in value.items()]
        else:
            changes.append(Put((*layer, key), value))
    return changes


def _own_keys(doc: Document, layer: tuple[str, ...], keys: Mapping[str, Any], file: str) -> dict[str, Any]:
    """What the overlay's entry of the flow is to say itself, so that it reads ``keys`` over what it inherits."""
    base, over = _mapping(at_path(doc.data, layer[2:])), _mapping(at_path(doc.data, layer))
    own: dict[str, Any] = {}
    for key, value in keys.items():
        if key == "routes":
            said, inherited = _mapping(over.get(key)), _mapping(base.get(key))
            led = {tag: wish for tag, wish in value.items() if tag in said or not same(inherited.get(tag), plain(wish))}
            own |= {key: led} if led else {}
        elif key in over or not same(base.get(key), plain(value)):
            try:
                own[key] = _beyond(_widened(key, base.get(key)), _widened(key, over.get(key)), value)
            except Unsure as reason:
                place = ".".join((*layer[2:], key))
                hint = f"change {place} for every target, or --no-manifest changes the store alone"
                raise _refusal(doc, Put((*layer, key), value), str(reason), file, hint) from None
    return own


def _beyond(inherited: Any, said: Any, wanted: Any) -> Any:
    """What an overlay that says ``said`` by now says over ``inherited`` to read ``wanted``: mappings key by key."""
    if not isinstance(inherited, dict) or not isinstance(wanted, dict):
        return wanted
    lost = sorted(inherited.keys() - wanted.keys())
    if lost:
        raise Unsure(f"every target inherits {', '.join(map(shown, lost))}, which an overlay can't take away")
    own = _mapping(said)
    return {
        key: _beyond(inherited.get(key), own.get(key), value)
        for key, value in wanted.items()
        if key in own or key not in inherited or not same(inherited[key], plain(value))
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _widened(key: str, value: Any) -> Any:
    return {"base_image": value} if key == "image" and isinstance(value, str) else value


def _check_declared(doc: Document, flow: str, target: str | None, file: str) -> None:
    """Raise ``KitaruManifestError`` where neither the manifest nor the target's overlay declares the flow."""
    over = ("targets", target, "flows", flow) if target is not None else ("flows", flow)
    if at_path(doc.data, ("flows", flow)) is not None or at_path(doc.data, over) is not None:
        return
    flows = at_path(doc.data, ("flows",))
    have = ", ".join(map(shown, flows)) if isinstance(flows, dict) and flows else "none"
    line, column, _ = Places(doc.tree, None).of(("flows",), at_key=True)
    message = f"{file} declares no flow {shown(flow)}; it declares: {have}"
    raise manifest_error([Problem(message, file=file, line=line, column=column, hint=f"kitaru import {flow}")])


def _removed(doc: Document, path: tuple[str, ...], keep: int) -> Remove:
    """Nothing there, nor around it, as far as ``keep`` or to a mapping whose braces somebody wrote."""
    depths = range(len(path) - 1, keep, -1)
    return Remove(path, next((depth for depth in depths if stays_empty(doc, path[:depth])), keep))


def _flow_keys(spec: FlowSpec | Mapping[str, Any]) -> dict[str, Any]:
    """What is given of a flow, in the order in which people write it."""
    given = spec.data() if isinstance(spec, FlowSpec) else spec
    keys = {key: given[key] for key in _ORDER if given.get(key) is not None}
    unknown = given.keys() - set(_ORDER)
    if unknown:
        raise KeyError(f"no key of a flow: {', '.join(sorted(unknown))}")
    if "routes" in keys:
        keys["routes"] = {tag: _spelled(parse_target(wish)) for tag, wish in keys["routes"].items()}
        if not keys["routes"]:
            del keys["routes"]
    return keys


def _spelled(wish: RouteTarget) -> Any:
    """The wish as people write it: weights with the newest version first, version numbers without quotes."""
    if isinstance(wish, Split):
        newest_first = sorted(wish.weights, key=lambda pair: (pair[0] is not None, -(pair[0] or 0)))
        return {"head" if version is None else version: weight for version, weight in newest_first}
    return target_data(wish)


def _lines(body: bytes) -> list[str]:
    return [line.rstrip("\r") for line in body.decode("utf-8-sig", "replace").split("\n")]
