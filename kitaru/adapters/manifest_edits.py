"""Surgical edits of ``kitaru.yaml``: bytes in, bytes out, and every byte that is not edited stays.

Each edit is read back: what the file means afterwards is what it meant before, except for what was asked for. An edit
that can't be made so is refused with ``KitaruManifestError``, which shows the edit to make by hand. An edit that
changes nothing gives back the same bytes.

With ``target``, the overlay of that name is edited where the overlay has its own word to say: a route goes into
``targets.<target>.flows.<flow>.routes`` where that mapping is there, or where the flow is in the overlay alone; any
other edit goes into the manifest itself, which every target inherits.
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
from functools import reduce
from pathlib import Path
from typing import Any

from kitaru.adapters.manifest_reading import Places, manifest_error, read_manifest
from kitaru.adapters.wording import shown
from kitaru.adapters.yaml_change import Change, Put, Remove, Unsure, at_path, changed, same, spliced
from kitaru.adapters.yaml_removing import stays_empty
from kitaru.adapters.yaml_spans import Document, read_document
from kitaru.adapters.yaml_surgery import sharing, splices
from kitaru.adapters.yaml_tree import parse, to_data
from kitaru.adapters.yaml_writing import inline
from kitaru.errors import KitaruBackendError, KitaruConflictError, KitaruManifestError, Problem
from kitaru.model.manifest import FlowSpec
from kitaru.model.route import RouteWish, Split, parse_wish, wish_data

MANIFEST = "kitaru.yaml"
_BOM = b"\xef\xbb\xbf"
_ORDER = ("target", "inputs", "stack", "retries", "cache", "timeout", "image", "source", "routes")


def set_route(
    body: bytes, flow: str, tag: str, wish: RouteWish, *, target: str | None = None, file: str = MANIFEST
) -> bytes:
    """Let ``tag`` of ``flow`` lead to ``wish``, in the style of the routes that are there.

    Raises ``KitaruManifestError`` where the manifest does not declare the flow, or can't be edited.
    """
    doc = _read(body, file)
    place = (*_layer(doc, flow, target, file), "routes", tag)
    return _edited(body, doc, [Put(place, _spelled(wish), frozenset({"routes"}))], file)


def remove_route(body: bytes, flow: str, tag: str, *, target: str | None = None, file: str = MANIFEST) -> bytes:
    """Take the line of ``tag``, and ``routes:`` where it is empty then; braces that somebody wrote stay, as ``{}``.

    A tag that is not there is no error.

    A tag that only the base has is removed there, for every target; one that the overlay takes from the base as well
    is refused, since an overlay can't take it away.
    """
    doc = _read(body, file)
    base = ("flows", flow, "routes", tag)
    over = ("targets", target or "", *base)
    if target is None or at_path(doc.data, over) is None:
        return _edited(body, doc, [_removed(doc, base, keep=2)], file)
    if at_path(doc.data, base) is not None:
        raise _refusal(doc, Remove(over, keep=3), "the routes that every target inherits have it too", file)
    return _edited(body, doc, [_removed(doc, over, keep=3)], file)


def set_flow(
    body: bytes, flow: str, spec: FlowSpec | Mapping[str, Any], *, target: str | None = None, file: str = MANIFEST
) -> bytes:
    """Declare a flow at the end of ``flows:``, or change just the keys of one that are given in ``spec``.

    A key that is None is not given. Routes are changed tag by tag, every other key as a whole.
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
        keys = _flow_keys(spec)
        if at_path(doc.data, ("flows", flow)) is None and _overlaid(doc, flow, target) is None:
            changes.append(Put(("flows", flow), keys, frozenset({"flows", flow, "routes"})))
            continue
        for key, value in keys.items():
            where = (*_layer(doc, flow, target, file, key), key)
            if key == "routes":
                changes += [Put((*where, tag), wish, frozenset({"routes"})) for tag, wish in value.items()]
            else:
                changes.append(Put(where, value))
    return _edited(body, doc, changes, file)


def remove_flow(body: bytes, flow: str, *, file: str = MANIFEST) -> bytes:
    """Take a flow out of the manifest; ``flows: {}`` remains of the last. One that is not there is no error."""
    return _edited(body, _read(body, file), [Remove(("flows", flow), keep=1)], file)


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


def _refusal(doc: Document, change: Change, why: str, file: str) -> KitaruManifestError:
    """What could not be edited, where it stands, and the edit for a person to make."""
    line, column, _ = Places(doc.tree, None).of(change.path)
    place = ".".join(change.path)
    if isinstance(change, Put):
        hint = f"edit the file by hand: {place}: {inline(change.value)}"
    else:
        hint = f"edit the file by hand: remove {place}"
    verb = "set" if isinstance(change, Put) else "removed"
    problem = Problem(
        f"{place} can't be {verb} here by a command: {why}", file=file, line=line, column=column, hint=hint
    )
    return manifest_error([problem])


# --- where, and what --------------------------------------------------------------------------------------------------


def _overlaid(doc: Document, flow: str, target: str | None) -> dict[str, Any] | None:
    """What the overlay says of the flow."""
    found = at_path(doc.data, ("targets", target, "flows", flow)) if target is not None else None
    return found if isinstance(found, dict) else None


def _layer(doc: Document, flow: str, target: str | None, file: str, key: str = "routes") -> tuple[str, ...]:
    """The path of the flow that an edit of ``key`` goes to: the overlay's where it has the key, or alone the flow."""
    over = _overlaid(doc, flow, target)
    base = at_path(doc.data, ("flows", flow))
    if over is not None and target is not None and (key in over or base is None):
        return ("targets", target, "flows", flow)
    if base is None:
        flows = at_path(doc.data, ("flows",))
        have = ", ".join(map(shown, flows)) if isinstance(flows, dict) and flows else "none"
        line, column, _ = Places(doc.tree, None).of(("flows",), at_key=True)
        message = f"{file} declares no flow {shown(flow)}; it declares: {have}"
        raise manifest_error([Problem(message, file=file, line=line, column=column, hint=f"kitaru import {flow}")])
    return ("flows", flow)


def _removed(doc: Document, path: tuple[str, ...], keep: int) -> Remove:
    return Remove(path, len(path) - 1 if stays_empty(doc, path[:-1]) else keep)


def _flow_keys(spec: FlowSpec | Mapping[str, Any]) -> dict[str, Any]:
    """What is given of a flow, in the order in which people write it."""
    given = spec.data() if isinstance(spec, FlowSpec) else spec
    keys = {key: given[key] for key in _ORDER if given.get(key) is not None}
    unknown = given.keys() - set(_ORDER)
    if unknown:
        raise KeyError(f"no key of a flow: {', '.join(sorted(unknown))}")
    if "routes" in keys:
        keys["routes"] = {tag: _spelled(parse_wish(wish)) for tag, wish in keys["routes"].items()}
        if not keys["routes"]:
            del keys["routes"]
    return keys


def _spelled(wish: RouteWish) -> Any:
    """The wish as people write it: weights with the newest version first, version numbers without quotes."""
    if isinstance(wish, Split):
        newest_first = sorted(wish.weights, key=lambda pair: (pair[0] is not None, -(pair[0] or 0)))
        return {"head" if version is None else version: weight for version, weight in newest_first}
    return wish_data(wish)


def _lines(body: bytes) -> list[str]:
    return [line.rstrip("\r") for line in body.decode("utf-8-sig", "replace").split("\n")]
