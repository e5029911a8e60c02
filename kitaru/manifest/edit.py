"""Edits of ``kitaru.yaml`` by ruamel's round trip: only the lines of the values that change are replaced.

The new text is read back: it means exactly the old data and the edit. An edit that can't be made so, or only without a
comment, is refused with ``KitaruManifestError``, which shows the edit to make by hand.

With ``target``, only the overlay of that name is edited: the change goes into ``targets.<target>.flows.<flow>``, and no
other target reads anything else than before. An overlay can't take away a value that every target inherits: that is
refused.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kitaru.errors import KitaruBackendError, KitaruConflictError, KitaruManifestError, Problem
from kitaru.manifest.reading import Places, manifest_error, read_manifest, widened
from kitaru.manifest.yaml import Unsure, inline, parse, same, shown
from kitaru.model.manifest import FlowSpec
from kitaru.model.route import RouteTarget, Split, parse_target, target_data

MANIFEST = "kitaru.yaml"
STATE_FOLDER = ".kitaru"
"""An edit is first written to this folder, which no plan looks at: the leftover of a killed edit is no change."""

_BOM = b"\xef\xbb\xbf"
_ORDER = ("target", "inputs", "stack", "retries", "cache", "timeout", "image", "source", "routes")


def edited(
    body: bytes,
    flows: Mapping[str, FlowSpec | Mapping[str, Any]],
    removed: Sequence[tuple[str, str]] = (),
    *,
    target: str | None = None,
    file: str = MANIFEST,
) -> bytes:
    """The manifest ``body`` with these keys of flows, and without the routes (flow, tag) of ``removed``.

    A flow with a ``target`` is added if it is new. A key that is None is left out; routes change tag by tag, every
    other key as a whole; an overlay does not repeat an inherited value. The last route takes ``routes:`` along; one
    that is not there is no error. Raises ``KitaruManifestError`` for an undeclared flow, for an edit that can't be
    made, and for one after which no command could read the manifest.

    >>> edited(body, {"agent": {"retries": 2, "routes": {"stable": Pin(4)}}}, [("agent", "canary")])
    """
    change = _Change(body, target, file)
    for flow, spec in flows.items():
        change.set(flow, _flow_keys(spec))
    # The removal is an edit of its own: a comment goes with the line that goes, but not with one that changes.
    change = _Change(change.body(), target, file)
    for flow, tag in removed:
        change.remove(flow, tag)
    after = change.body()
    try:
        read_manifest(after, file, target)
    except KitaruManifestError as error:
        problems = [replace(one, message=f"the edit would leave this: {one.message}") for one in error.problems]
        raise KitaruManifestError(problems, hint=f"{file} was left as it is; give other values") from error
    return after


def edit_preview(before: bytes, after: bytes, file: str = MANIFEST) -> list[str]:
    """The edit as lines of a unified diff, without line ends; empty if nothing changes."""
    if before == after:
        return []
    old, new = (body.decode("utf-8-sig", "replace").replace("\r\n", "\n").split("\n") for body in (before, after))
    return list(difflib.unified_diff(old, new, f"a/{file}", f"b/{file}", lineterm=""))


# --- the change -------------------------------------------------------------------------------------------------------

Steps = tuple[str, ...]


class _Change:
    """An edit of the manifest ``body``: the data of the file, and the data that it is to have."""

    def __init__(self, body: bytes, target: str | None, file: str) -> None:
        """Raises ``KitaruManifestError`` with every problem of a file that can't be read."""
        self._before, self._file = body, file
        self._layer: Steps = () if target is None else ("targets", target)
        try:
            self._text = body.decode("utf-8-sig")
            self._tree = parse(self._text)
        except UnicodeDecodeError:
            read_manifest(body, file, None)
            raise
        if self._tree.problems or not isinstance(self._tree.data, dict):
            read_manifest(body, file, None)
        self._wanted = json.loads(json.dumps(self._tree.data))
        self._first: tuple[Steps, str] = ((), "")
        """The first change, for a refusal: its place, and the edit for a person to make."""

    def set(self, flow: str, keys: Mapping[str, Any]) -> None:
        """Set keys of the flow, in its overlay if there is a target; routes one by one."""
        layer = (*self._layer, "flows", flow)
        base, over = self._at(("flows", flow)), self._at(layer)
        if base is None and over is None and "target" not in keys:
            raise self._undeclared(flow)
        if self._layer and base is not None:
            keys = self._beyond_base(flow, keys, _mapping(base), _mapping(over))
        if over is None:
            self._begin(layer, f"{'.'.join(layer)}: {inline(keys)}")
        changes = [((*layer, key), value) for key, value in keys.items() if key != "routes"]
        changes += [((*layer, "routes", tag), wish) for tag, wish in keys.get("routes", {}).items()]
        for path, value in changes:
            self._begin(path, f"{'.'.join(path)}: {inline(value)}")
            *above, name = path
            inner = self._wanted
            for step in above:
                if inner.get(step) is None:
                    inner[step] = {}
                inner = inner[step]
                if not isinstance(inner, dict):
                    raise self._refusal(f"{step} is no mapping")
            inner[name] = value

    def remove(self, flow: str, tag: str) -> None:
        """Take the route away, and the mappings around it that become empty: ``routes``, the flow's in an overlay."""
        path = (*self._layer, "flows", flow, "routes", tag)
        self._begin(path, f"remove {'.'.join(path)}")
        if self._layer and self._at(path[2:]) is not None:
            reason = f"every target inherits it, so it can't be taken away for {self._layer[1]} alone"
            hint = f"remove {'.'.join(path[2:])} for every target, or --no-manifest changes the store alone"
            raise self._refusal(reason, hint)
        above = [self._wanted]
        for step in path[:-1]:
            above.append(_mapping(above[-1].get(step)))
        if tag in above[-1]:
            del above[-1][tag]
            for depth in range(len(above) - 1, 2, -1):
                if not above[depth]:
                    del above[depth - 1][path[depth - 1]]

    def body(self) -> bytes:
        """The new manifest. Raises ``KitaruManifestError``."""
        if same(self._wanted, self._tree.data):
            return self._before
        from kitaru.manifest.round_trip import rewritten  # late: most commands edit nothing, and ruamel takes its time

        try:
            return (_BOM if self._before.startswith(_BOM) else b"") + rewritten(self._text, self._wanted).encode()
        except Unsure as unsure:
            raise self._refusal(str(unsure)) from None

    def _beyond_base(self, flow: str, keys: Mapping[str, Any], base: Any, over: Any) -> dict[str, Any]:
        """The keys for the overlay's entry of a flow, so that it reads ``keys`` over its inheritance."""
        own: dict[str, Any] = {}
        for key, value in keys.items():
            if key == "routes":
                present, inherited = _mapping(over.get(key)), _mapping(base.get(key))
                routes = {tag: one for tag, one in value.items() if tag in present or not same(inherited.get(tag), one)}
                own |= {key: routes} if routes else {}
            elif key in over or not same(base.get(key), value):
                place = ("flows", flow, key)
                try:
                    own[key] = _beyond(widened(place, base.get(key)), widened(place, over.get(key)), value)
                except Unsure as reason:
                    self._begin((*self._layer, *place), "")
                    hint = f"change {'.'.join(place)} for every target, or --no-manifest changes the store alone"
                    raise self._refusal(str(reason), hint) from None
        return own

    def _at(self, path: Steps) -> Any:
        data = self._tree.data
        for step in path:
            data = data.get(step) if isinstance(data, dict) else None
        return data

    def _begin(self, path: Steps, by_hand: str) -> None:
        self._first = self._first if self._first[0] else (path, by_hand)

    def _refusal(self, reason: str, hint: str = "") -> KitaruManifestError:
        path, by_hand = self._first
        line, column, _ = Places(self._tree, None).of(path)
        message = f"{'.'.join(path)} can't be changed here by a command: {reason}"
        hint = hint or f"edit the file by hand: {by_hand}"
        return manifest_error([Problem(message, file=self._file, line=line, column=column, hint=hint)])

    def _undeclared(self, flow: str) -> KitaruManifestError:
        have = ", ".join(map(shown, _mapping(self._at(("flows",))))) or "none"
        line, column, _ = Places(self._tree, None).of(("flows",), at_key=True)
        message = f"{self._file} declares no flow {shown(flow)}; it declares: {have}"
        hint = f"kitaru import {flow}"
        return manifest_error([Problem(message, file=self._file, line=line, column=column, hint=hint)])


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


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flow_keys(spec: FlowSpec | Mapping[str, Any]) -> dict[str, Any]:
    """The given keys of a flow, in the usual order."""
    given = spec.data() if isinstance(spec, FlowSpec) else spec
    keys = {key: given[key] for key in _ORDER if given.get(key) is not None}
    routes = {tag: _written(parse_target(wish)) for tag, wish in keys.pop("routes", {}).items()}
    return {**keys, "routes": routes} if routes else keys


def _written(wish: RouteTarget) -> Any:
    """The wish as people write it: weights with the newest version first, version numbers without quotes."""
    if isinstance(wish, Split):
        newest_first = sorted(wish.weights, key=lambda pair: (pair[0] is not None, -(pair[0] or 0)))
        return {"head" if version is None else version: weight for version, weight in newest_first}
    return target_data(wish)


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
                with temporary.open("xb") as stream:
                    os.fchmod(stream.fileno(), stat.S_IMODE(place.stat().st_mode))
                    stream.write(after)
                    stream.flush()
                    os.fsync(stream.fileno())
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
