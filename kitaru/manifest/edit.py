"""Edits of ``kitaru.yaml``: ruamel's round trip makes the change, and only the lines that it changes are carried over.

The new text is read back: it means exactly the old data and the edit, and it keeps every comment line. An edit that
can't be made so is refused with ``KitaruManifestError``, which shows the edit to make by hand.

With ``target``, only the overlay of that name is edited: the change goes into ``targets.<target>.flows.<flow>``, and no
other target reads anything else than before. An overlay can't take away a value that every target inherits: that is
refused.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruBackendError, KitaruConflictError, KitaruManifestError, Problem
from kitaru.manifest.reading import Places, manifest_error, read_manifest, widened
from kitaru.manifest.round_trip import Unsure, rewritten, same
from kitaru.manifest.yaml import Node, inline, parse, shown
from kitaru.model.manifest import FlowSpec
from kitaru.model.route import RouteTarget, Split, parse_target, target_data

MANIFEST = "kitaru.yaml"
STATE_FOLDER = ".kitaru"
"""An edit is first written to this folder, which no plan looks at: the leftover of a killed edit is no change."""

_BOM = b"\xef\xbb\xbf"
_ORDER = ("target", "inputs", "stack", "retries", "cache", "timeout", "image", "source", "routes")


Steps = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Change:
    """``value`` at ``path``; or no value there, nor an empty mapping around it below the first ``keep`` steps."""

    path: Steps
    value: Any = None
    removes: bool = False
    keep: int = 0


def set_route(
    body: bytes, flow: str, tag: str, wish: RouteTarget, *, target: str | None = None, file: str = MANIFEST
) -> bytes:
    """Let ``tag`` of ``flow`` lead to ``wish``.

    Raises ``KitaruManifestError`` if the manifest does not declare the flow, or can't be edited.

    >>> set_route(body, "agent", "stable", Pin(3))
    """
    root, text = _read(body, file)
    _check_declared(root, flow, target, file)
    changes = _sets(root, flow, {"routes": {tag: _spelled(wish)}}, target, file)
    return _edited(body, root, text, changes, file)


def remove_route(body: bytes, flow: str, tag: str, *, target: str | None = None, file: str = MANIFEST) -> bytes:
    """Take the line of ``tag``, and ``routes:`` with its last one. A tag that is not there is no error.

    Raises ``KitaruManifestError`` for a tag of the base with ``target``: an overlay can't take it away.
    """
    root, text = _read(body, file)
    base = ("flows", flow, "routes", tag)
    if target is None:
        return _edited(body, root, text, [_Change(base, removes=True, keep=2)], file)
    if _at(root.value, base) is not None:
        reason = f"every target inherits it, so it can't be taken away for {target} alone"
        hint = f"remove {'.'.join(base)} for every target, or --no-manifest changes the store alone"
        raise _refusal(root, _Change(base, removes=True), reason, file, hint)
    return _edited(body, root, text, [_Change(("targets", target, *base), removes=True, keep=2)], file)


def set_flow(
    body: bytes, flow: str, spec: FlowSpec | Mapping[str, Any], *, target: str | None = None, file: str = MANIFEST
) -> bytes:
    """Declare a flow at the end of ``flows:``, or change the keys that ``spec`` gives.

    A key that is None is not given. Routes are changed tag by tag, every other key as a whole; with ``target``, values
    that it inherits are not repeated.

    >>> set_flow(body, "agent", {"retries": 2, "routes": {"stable": 4}})
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
    root, text = _read(body, file)
    changes: list[_Change] = []
    for flow, spec in specs.items():
        changes += _sets(root, flow, _flow_keys(spec), target, file)
    return _edited(body, root, text, changes, file)


def check_readable(body: bytes, *, target: str | None = None, file: str = MANIFEST) -> None:
    """Raise ``KitaruManifestError`` for an edited manifest that no command could read, before it is written."""
    try:
        read_manifest(body, file, target)
    except KitaruManifestError as error:
        problems = [replace(one, message=f"the edit would leave this: {one.message}") for one in error.problems]
        raise KitaruManifestError(problems, hint=f"{file} was left as it is; give other values") from error


def edit_preview(before: bytes, after: bytes, file: str = MANIFEST) -> list[str]:
    """The edit as lines of a unified diff, without line ends; empty if nothing changes."""
    if before == after:
        return []
    old, new = (body.decode("utf-8-sig", "replace").replace("\r\n", "\n").split("\n") for body in (before, after))
    return list(difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", lineterm=""))


# --- the change as data -----------------------------------------------------------------------------------------------


def _sets(root: Node, flow: str, keys: Mapping[str, Any], target: str | None, file: str) -> list[_Change]:
    """The changes that set those keys of the flow, in its overlay if there is a target; routes one by one."""
    layer = ("flows", flow) if target is None else ("targets", target, "flows", flow)
    if target is not None and _at(root.value, ("flows", flow)) is not None:
        keys = _own_keys(root, layer, keys, file)
    if _at(root.value, layer) is None:
        return [_Change(layer, keys)] if keys else []
    changes: list[_Change] = []
    for key, value in keys.items():
        if key == "routes":
            changes += [_Change((*layer, key, tag), wish) for tag, wish in value.items()]
        else:
            changes.append(_Change((*layer, key), value))
    return changes


def _own_keys(root: Node, layer: Steps, keys: Mapping[str, Any], file: str) -> dict[str, Any]:
    """The keys for the overlay's entry of a flow, so that it reads ``keys`` over its inheritance."""
    base, over = _mapping(_at(root.value, layer[2:])), _mapping(_at(root.value, layer))
    own: dict[str, Any] = {}
    for key, value in keys.items():
        if key == "routes":
            present, inherited = _mapping(over.get(key)), _mapping(base.get(key))
            routes = {tag: one for tag, one in value.items() if tag in present or not same(inherited.get(tag), one)}
            own |= {key: routes} if routes else {}
        elif key in over or not same(base.get(key), value):
            place = (*layer[2:], key)
            try:
                own[key] = _beyond(widened(place, base.get(key)), widened(place, over.get(key)), value)
            except Unsure as reason:
                hint = f"change {'.'.join(place)} for every target, or --no-manifest changes the store alone"
                raise _refusal(root, _Change((*layer, key), value), str(reason), file, hint) from None
    return own


def _beyond(inherited: Any, present: Any, wanted: Any) -> Any:
    """The part of ``wanted`` that an overlay adds to ``inherited``, or has already: mappings key by key."""
    if not isinstance(inherited, dict) or not isinstance(wanted, dict):
        return wanted
    lost = sorted(inherited.keys() - wanted.keys())
    if lost:
        raise Unsure(f"every target inherits {', '.join(map(shown, lost))}, which an overlay can't take away")
    own = _mapping(present)
    return {
        key: _beyond(inherited.get(key), own.get(key), value)
        for key, value in wanted.items()
        if key in own or key not in inherited or not same(inherited[key], value)
    }


def _changed(data: dict[str, Any], change: _Change) -> dict[str, Any]:
    """The data after ``change``; ``data`` stays. Raises ``Unsure``."""
    result = dict(data)
    parents = [result]
    for step in change.path[:-1]:
        inner = parents[-1].get(step)
        if inner is None and change.removes:
            return data
        if not isinstance(inner, dict | None):
            raise Unsure(f"{step} is no mapping")
        parents[-1][step] = dict(inner or {})
        parents.append(parents[-1][step])
    if not change.removes:
        parents[-1][change.path[-1]] = change.value
        return result
    if change.path[-1] not in parents[-1]:
        return data
    del parents[-1][change.path[-1]]
    for depth in range(len(parents) - 1, change.keep, -1):
        if not parents[depth]:
            del parents[depth - 1][change.path[depth - 1]]
    return result


def _at(data: Any, path: Steps) -> Any:
    for step in path:
        data = data.get(step) if isinstance(data, dict) else None
    return data


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flow_keys(spec: FlowSpec | Mapping[str, Any]) -> dict[str, Any]:
    """The given keys of a flow, in the usual order."""
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


# --- the change as text -----------------------------------------------------------------------------------------------


def _read(body: bytes, file: str) -> tuple[Node, str]:
    """The tree of a manifest and its text. Raises ``KitaruManifestError`` with every problem of the file."""
    with contextlib.suppress(UnicodeDecodeError):
        text = body.decode("utf-8-sig")
        tree = parse(text)
        if not tree.problems and tree.root is not None and tree.root.entries is not None:
            return tree.root, text
    read_manifest(body, file, None)
    raise manifest_error([Problem("expected a mapping at the top (kitaru: 1, project: ...)", file=file)])


def _edited(body: bytes, root: Node, text: str, changes: Sequence[_Change], file: str) -> bytes:
    """``body`` with ``changes``. Raises ``KitaruManifestError``."""
    try:
        wanted = reduce(_changed, changes, root.value)
        if same(wanted, root.value):
            return body
        return (_BOM if body.startswith(_BOM) else b"") + rewritten(text, root, wanted).encode()
    except Unsure as unsure:
        raise _refusal(root, changes[0], str(unsure), file) from None


# --- refusals ---------------------------------------------------------------------------------------------------------


def _refusal(root: Node, change: _Change, reason: str, file: str, hint: str = "") -> KitaruManifestError:
    """The error for an edit that can't be made: its place, and the edit for a person to make."""
    line, column, _ = Places(root, None).of(change.path)
    place = ".".join(change.path)
    by_hand = f"remove {place}" if change.removes else f"{place}: {inline(change.value)}"
    message = f"{place} can't be {'removed' if change.removes else 'set'} here by a command: {reason}"
    hint = hint or f"edit the file by hand: {by_hand}"
    return manifest_error([Problem(message, file=file, line=line, column=column, hint=hint)])


def _check_declared(root: Node, flow: str, target: str | None, file: str) -> None:
    """Raise ``KitaruManifestError`` if neither the manifest nor the target's overlay declares the flow."""
    over = ("targets", target, "flows", flow) if target is not None else ("flows", flow)
    if _at(root.value, ("flows", flow)) is not None or _at(root.value, over) is not None:
        return
    flows = _at(root.value, ("flows",))
    have = ", ".join(map(shown, flows)) if isinstance(flows, dict) and flows else "none"
    line, column, _ = Places(root, None).of(("flows",), at_key=True)
    message = f"{file} declares no flow {shown(flow)}; it declares: {have}"
    raise manifest_error([Problem(message, file=file, line=line, column=column, hint=f"kitaru import {flow}")])


# --- the file ---------------------------------------------------------------------------------------------------------


def write(path: Path, before: bytes, after: bytes) -> None:
    """Replace the file at ``path`` by ``after`` in one step; its mode stays, and a symlink leads on to it.

    Raises ``KitaruConflictError`` if the file no longer holds ``before``, ``KitaruBackendError`` if it can't be
    written. Nothing is written then.
    """
    place = Path(os.path.realpath(path))
    folder = place.parent / STATE_FOLDER
    temporary, is_new = folder / f"{place.name}.edit", not folder.exists()
    try:
        with _alone_in(place.parent):
            if place.exists() and not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, "it is read-only", str(place))
            folder.mkdir(exist_ok=True)
            temporary.unlink(missing_ok=True)  # of an edit that was killed
            try:
                mode = stat.S_IMODE(place.stat().st_mode)
                handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(after)
                    stream.flush()
                    os.fsync(stream.fileno())
                temporary.chmod(mode)
                if place.read_bytes() != before:
                    raise KitaruConflictError(
                        f"{path.name} was changed by somebody else in the meantime; it was left as it is",
                        hint="look at the file, then run the command again",
                    )
                temporary.replace(place)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
                    if is_new:
                        folder.rmdir()
    except OSError as error:
        raise KitaruBackendError(
            f"{path} can't be written: {error.strerror or error}",
            hint="check the permissions of the file and its folder",
        ) from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other command writes a manifest in ``folder`` meanwhile: an edit between the check and the step is lost."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
