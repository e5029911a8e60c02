"""From ``kitaru.yaml`` to a valid manifest, or to every problem that the file has, each with its line and column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import yaml
from yaml import Node

from kitaru.errors import KitaruManifestError, Problem
from kitaru.manifest.checks import FORMAT, MAX_FINDINGS, Finding, checked
from kitaru.manifest.port import ManifestFile
from kitaru.manifest.yaml import Path, Tree, described, did_you_mean, parse, paused_collector, place_of, shown
from kitaru.model.manifest import Manifest

MANIFEST_NAME = "kitaru.yaml"
MAX_BYTES = 5 * 1024 * 1024


def load(path: FilePath, *, target: str | None = None) -> ManifestFile:
    """The manifest at ``path`` with the overlay ``target`` merged in.

    Raises ``KitaruManifestError`` with all problems, sorted by place.
    """
    file = _display(path)
    body = _read(path, file)
    manifest = read_manifest(body, file, target)
    choice = b"" if target is None else b"\0" + target.encode("utf-8", "surrogatepass")
    root = path.parent.resolve()

    def place(keys: Path) -> tuple[int, int]:
        return Places(parse(body.decode("utf-8-sig")), target).of(keys)[:2]

    return ManifestFile(
        manifest, root / path.name, root, hashlib.sha256(body + choice).hexdigest(), target, file, place
    )


@paused_collector()
def read_manifest(body: bytes, file: str, target: str | None) -> Manifest:
    """The manifest in ``body`` with the overlay ``target`` merged in. ``file`` is its name in problems.

    Raises ``KitaruManifestError`` with all problems, sorted by place.
    """
    manifest = None
    tree, problems = _tree(body)
    if isinstance(tree.data, dict):
        newer = _newer_format(tree)
        if newer is not None:
            problems = [newer]
        else:
            taken = {(problem.line, problem.column) for problem in problems}  # a stand-in is there now
            manifest, further = _checked(tree, target)
            problems += [problem for problem in further if (problem.line, problem.column) not in taken]
    if manifest is None or problems:
        raise manifest_error([replace(problem, file=file) for problem in _distinct(problems)])
    return manifest


def manifest_error(problems: list[Problem]) -> KitaruManifestError:
    """The error for these problems, with the next step."""
    hint = problems[0].hint if len(problems) == 1 else "correct these, then run: kitaru validate"
    return KitaruManifestError(problems, hint=hint)


def flow_names(path: FilePath) -> frozenset[str]:
    """The flows that the manifest at ``path`` declares, valid or not; none if it can't be read."""
    try:
        data, _ = read_leniently(path.read_bytes(), None)
    except OSError:
        return frozenset()
    flows = (data or {}).get("flows")
    return frozenset(flows) if isinstance(flows, dict) else frozenset()


def read_leniently(body: bytes, target: str | None) -> tuple[dict[str, Any] | None, str]:
    """Another manifest's data with the overlay ``target`` over it, valid or not; else None and the reason.

    None without a reason: it has no such target.
    """
    tree, problems = _tree(body)
    if problems:
        return None, f"line {problems[0].line}: {problems[0].message}" if problems[0].line else problems[0].message
    if target is None:
        return tree.data, ""
    overlays = tree.data.get("targets")
    overlay = overlays.get(target) if isinstance(overlays, dict) else None
    return (merge(tree.data, overlay) if isinstance(overlay, dict) else None), ""


# --- places -----------------------------------------------------------------------------------------------------------


class Places:
    """The places of values under a target's overlay."""

    def __init__(self, tree: Tree, target: str | None) -> None:
        self._tree = tree
        depth, _, node = tree.entry(tree.root, ("targets", target)) if target is not None else (0, None, None)
        self._overlay = node if depth == 2 else None

    def of(self, path: Path, *, at_key: bool = False) -> tuple[int, int, bool]:
        """Line and column of the value at ``path``, or of its nearest ancestor, and whether the overlay holds it.

        A collection is placed at the key that leads to it, a single value at its begin.
        """
        in_overlay, _, key, node = self._follow(path)
        is_visible = isinstance(node, yaml.ScalarNode) and node.end_mark.index > node.start_mark.index
        spot = key if key is not None and (at_key or not is_visible) else node
        return (*(place_of(spot) if spot is not None else (0, 0)), in_overlay)

    def raw(self, path: Path) -> str:
        """The text of the single value at ``path``, unquoted; empty if there is none."""
        _, depth, _, node = self._follow(path)
        return node.value if depth == len(path) and isinstance(node, yaml.ScalarNode) else ""

    def is_torn(self, path: Path) -> bool:
        """Whether the value at ``path`` is a mapping with a key given twice: that is the problem to report."""
        _, depth, _, node = self._follow(path)
        return depth == len(path) and id(node) in self._tree.torn

    def _follow(self, path: Path) -> tuple[bool, int, Node | None, Node | None]:
        depth, key, node = self._tree.entry(self._tree.root, path)
        if self._overlay is not None:
            over_depth, over_key, over_node = self._tree.entry(self._overlay, path)
            if over_depth and over_depth >= depth:
                return True, over_depth, over_key, over_node
        return False, depth, key, node


# --- overlays ---------------------------------------------------------------------------------------------------------


def merge(base: dict[str, Any], overlay: dict[str, Any], path: Path = ()) -> dict[str, Any]:
    """``overlay`` over ``base``: mappings key by key, all else replaced.

    Three values are taken whole or widened because their meaning asks for it: a route is one value even as weights, a
    stack of another type shares no settings, and a bare image is its ``base_image``.

    >>> merge({"store": "a", "image": "python:3.12"}, {"store": "b"})
    {'store': 'b', 'image': 'python:3.12'}
    """
    merged = dict(base)
    for key, value in overlay.items():
        here = (*path, key)
        old = widened(here, base.get(key))
        new = widened(here, value) if isinstance(old, dict) else value
        if isinstance(old, dict) and isinstance(new, dict) and not _is_whole(here, old, new):
            merged[key] = merge(old, new, here)
        else:
            merged[key] = value
    return merged


def widened(path: Path, value: Any) -> Any:
    """A bare image as the mapping that it stands for; any other value as it is."""
    is_image = path == ("image",) or (len(path) == 3 and path[0] == "flows" and path[2] == "image")
    return {"base_image": value} if is_image and isinstance(value, str) else value


def _is_whole(path: Path, old: dict[str, Any], new: dict[str, Any]) -> bool:
    if len(path) == 4 and path[0] == "flows" and path[2] == "routes":
        return True
    return len(path) == 2 and path[0] == "stacks" and new.get("type", old.get("type")) != old.get("type")


# --- the file ---------------------------------------------------------------------------------------------------------


def _display(path: FilePath) -> str:
    """``path`` relative to the current folder if it lies below it, else absolute."""
    try:
        absolute = path.parent.resolve() / path.name
    except (ValueError, OSError, RuntimeError):  # a loop of symlinks is a RuntimeError up to Python 3.12
        return str(path)
    try:
        return absolute.relative_to(FilePath.cwd()).as_posix()
    except (ValueError, OSError):
        return str(absolute)


def _read(path: FilePath, file: str) -> bytes:
    """The bytes of the file, at most ``MAX_BYTES``. Raises ``KitaruManifestError``."""
    hint = ""
    try:
        if path.is_dir():
            message, hint = "expected a file, found a folder", f"give {file}/{MANIFEST_NAME}"
        elif path.exists() and not path.is_file():
            message = "expected a plain file"
        else:
            with path.open("rb") as stream:
                body = stream.read(MAX_BYTES + 1)
            if len(body) <= MAX_BYTES:
                return body
            message = f"expected at most {MAX_BYTES // 2**20} MB, found more"
    except FileNotFoundError:
        message, hint = "there is no such file", "write one with: kitaru init"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message, hint = f"the file can't be read: {reason}", "check the path and its permissions"
    raise manifest_error([Problem(message, file=file, hint=hint)])


def _tree(body: bytes) -> tuple[Tree, list[Problem]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        column = error.start - body.rfind(b"\n", 0, error.start)
        message = "expected UTF-8 text, found other bytes"
        return Tree(), [Problem(message, line=line, column=column, hint="save the file as UTF-8")]
    tree = parse(text)
    problems = list(tree.problems)
    if not problems and tree.data is None:
        problems = [Problem("the file is empty", hint="write one with: kitaru init")]
    elif tree.root is not None and not isinstance(tree.data, dict):
        message = f"expected a mapping at the top (kitaru: 1, project: ...), found {described(tree.data)}"
        problems.append(Problem(message, line=place_of(tree.root)[0], column=place_of(tree.root)[1]))
    return tree, problems


# --- problems ---------------------------------------------------------------------------------------------------------


def _newer_format(tree: Tree) -> Problem | None:
    """Nothing else in a file of a newer format can be judged."""
    version = tree.data.get("kitaru")
    if not isinstance(version, int) or version <= FORMAT:
        return None
    message = f"this manifest has format {str(version)[:40]}; this Kitaru knows format {FORMAT}"
    line, column, _ = Places(tree, None).of(("kitaru",))
    return Problem(message, line=line, column=column, hint="upgrade Kitaru, then: kitaru validate")


def _checked(tree: Tree, target: str | None) -> tuple[Manifest | None, list[Problem]]:
    """The manifest under ``target``, its problems, and those that only another overlay brings in."""
    data: dict[str, Any] = tree.data
    overlays = data["targets"] if isinstance(data.get("targets"), dict) else {}
    problems: list[Problem] = []
    if target is not None and target not in overlays:
        problems.append(_unknown_target(tree, target, list(overlays)))
        target = None
    chosen = overlays.get(target) if target is not None else None
    view = Places(tree, target)
    manifest, findings = checked(merge(data, chosen) if isinstance(chosen, dict) else data, view.raw)
    problems += [problem for problem, _ in _placed(findings, view)]
    without_targets = {key: value for key, value in data.items() if key != "targets"}
    for name, overlay in overlays.items():
        if name != target and isinstance(overlay, dict):
            view = Places(tree, name)
            _, findings = checked(merge(without_targets, overlay), view.raw)
            problems += [problem for problem, in_overlay in _placed(findings, view) if in_overlay]
    return manifest, problems


def _unknown_target(tree: Tree, target: str, targets: list[str]) -> Problem:
    message = f"there is no target {shown(target)}{did_you_mean(target, targets)}"
    line, column, _ = Places(tree, None).of(("targets",), at_key=True)
    hint = f"targets of this manifest: {', '.join(map(shown, targets))}" if targets else "this manifest has no targets"
    return Problem(message, line=line, column=column, hint=hint)


def _placed(findings: list[Finding], view: Places) -> Iterator[tuple[Problem, bool]]:
    """The findings with their places, and whether the overlay holds them."""
    for finding in findings:
        if finding.at_key or not view.is_torn(finding.path):
            line, column, in_overlay = view.of(finding.path, at_key=finding.at_key)
            yield Problem(finding.message, line=line, column=column, hint=finding.hint), in_overlay


def _distinct(problems: list[Problem]) -> list[Problem]:
    """In the order of the file, each once: an overlay is looked at both as data and merged."""
    unique: dict[tuple[int, int, str], Problem] = {}
    for problem in problems:
        unique.setdefault((problem.line, problem.column, problem.message.partition(";")[0]), problem)
    ordered = sorted(unique.values(), key=lambda problem: (problem.line, problem.column))
    if len(ordered) > MAX_FINDINGS:
        rest = len(ordered) - MAX_FINDINGS
        return [*ordered[:MAX_FINDINGS], Problem(f"and {rest} more problems")]
    return ordered
