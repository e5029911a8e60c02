"""From ``kitaru.yaml`` to a valid manifest, or to every problem that the file has, each with its line and column."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path as FilePath
from typing import Any

from kitaru.errors import KitaruManifestError, Problem
from kitaru.manifest.checks import MAX_FINDINGS, Finding, check_findings, model_of, schema_findings
from kitaru.manifest.yaml import Node, Path, described, did_you_mean, entry, parse, plain_data, shown
from kitaru.model.manifest import Manifest

MANIFEST_NAME = "kitaru.yaml"
MAX_BYTES = 5 * 1024 * 1024
FORMAT = 1


@dataclass(frozen=True)
class LoadedManifest:
    """A valid manifest after its overlay, and its origin.

    ``root`` is the absolute folder that every path in the manifest is relative to; ``digest`` is the SHA-256 of the
    file's bytes and the target; ``file`` is the name for messages.
    """

    manifest: Manifest
    path: FilePath
    root: FilePath
    digest: str
    target: str | None
    file: str
    body: bytes = field(repr=False, compare=False)

    def problem(self, message: str, *path: str | int, hint: str = "") -> Problem:
        """A problem at the value behind ``path``, or at its nearest ancestor in the file."""
        line, column, _ = self._places.of(path)
        return Problem(message, file=self.file, line=line, column=column, hint=hint)

    @cached_property
    def _places(self) -> Places:
        return Places(_tree(self.body)[0], self.target)


def load(path: FilePath, *, target: str | None = None) -> LoadedManifest:
    """The manifest at ``path`` with the overlay ``target`` merged in.

    Raises ``KitaruManifestError`` with all problems, sorted by place.
    """
    file = _display(path)
    body = _read(path, file)
    root = path.parent.resolve()
    choice = b"" if target is None else b"\0" + target.encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(body + choice).hexdigest()
    return LoadedManifest(read_manifest(body, file, target), root / path.name, root, digest, target, file, body)


def read_manifest(body: bytes, file: str, target: str | None) -> Manifest:
    """The manifest in ``body`` with the overlay ``target`` merged in. ``file`` is its name in problems.

    Raises ``KitaruManifestError`` with all problems, sorted by place.
    """
    valid = _valid(body, target)
    if valid is not None:
        return valid
    root, problems = _tree(body)
    if root is not None and root.entries is not None:
        stale = _format_problem(root)
        if stale is not None:
            problems = [stale]
        else:
            taken = {(problem.line, problem.column) for problem in problems}  # a stand-in is there now
            further = [*_key_problems(root), *_all_problems(root, target)]
            fresh = [problem for problem in further if (problem.line, problem.column) not in taken]
            problems = _distinct([*problems, *fresh])
            if not problems:
                data = root.value
                return model_of(merge(data, data["targets"][target]) if target is not None else data)
    raise manifest_error([replace(problem, file=file) for problem in problems])


def _valid(body: bytes, target: str | None) -> Manifest | None:
    """The manifest of a plain file without any problem: most files, in half the time. None: look closer."""
    try:
        data = plain_data(body.decode("utf-8-sig"))
        if not isinstance(data, dict) or type(data.get("kitaru")) is not int:
            return None
        overlays = data.get("targets", {})
        without_targets = {key: value for key, value in data.items() if key != "targets"}
        merged = {name: merge(without_targets, overlay) for name, overlay in overlays.items()}
        chosen = data if target is None else merge(data, overlays[target])
        if any(next(check_findings(one), None) for one in (chosen, *merged.values())):
            return None
        for one in merged.values():
            model_of(one)
        return model_of(chosen)
    except (ValueError, KeyError, AttributeError):  # a wrong value, no such target, an overlay that is no mapping
        return None


def manifest_error(problems: list[Problem]) -> KitaruManifestError:
    """The error for these problems, with the next step."""
    hint = problems[0].hint if len(problems) == 1 else "correct these, then run: kitaru validate"
    return KitaruManifestError(problems, hint=hint)


def flow_names(path: FilePath) -> frozenset[str]:
    """The flows that the manifest at ``path`` declares, valid or not; none if it can't be read."""
    try:
        root, _ = _tree(path.read_bytes())
    except OSError:
        return frozenset()
    flows = root.value.get("flows") if root is not None and root.entries is not None else None
    return frozenset(flows) if isinstance(flows, dict) else frozenset()


def read_leniently(body: bytes, target: str | None) -> tuple[dict[str, Any] | None, str]:
    """Another manifest's data with the overlay ``target`` over it, valid or not; else None and the reason.

    None without a reason: it has no such target.
    """
    root, problems = _tree(body)
    if problems or root is None or root.entries is None:
        first = problems[0] if problems else Problem("expected a mapping at the top")
        return None, f"line {first.line}: {first.message}" if first.line else first.message
    if target is None:
        return root.value, ""
    overlays = root.value.get("targets")
    overlay = overlays.get(target) if isinstance(overlays, dict) else None
    return (merge(root.value, overlay) if isinstance(overlay, dict) else None), ""


# --- places -----------------------------------------------------------------------------------------------------------


class Places:
    """The places of values under a target's overlay. ``root`` is the document's mapping."""

    def __init__(self, root: Node | None, target: str | None) -> None:
        self._root = root
        depth, _, node = entry(root, ("targets", target)) if target is not None else (0, None, None)
        self._overlay = node if depth == 2 else None

    def of(self, path: Path, *, at_key: bool = False) -> tuple[int, int, bool]:
        """Line and column of the value at ``path``, or of its nearest ancestor, and whether the overlay holds it.

        A collection is placed at the key that leads to it, a single value at its begin.
        """
        in_overlay, _, key, node = self._follow(path)
        is_visible = node is not None and _is_scalar(node) and (node.text or node.value is not None)
        spot = key if key is not None and (at_key or not is_visible) else node
        return (spot.line, spot.column, in_overlay) if spot is not None else (0, 0, in_overlay)

    def raw(self, path: Path) -> str:
        """The text of the single value at ``path``, unquoted; empty if there is none."""
        _, depth, _, node = self._follow(path)
        return node.text if depth == len(path) and node is not None and _is_scalar(node) else ""

    def is_torn(self, path: Path) -> bool:
        """Whether the value at ``path`` is a mapping with a key given twice: that is the problem to report."""
        _, depth, _, node = self._follow(path)
        return depth == len(path) and node is not None and node.torn

    def _follow(self, path: Path) -> tuple[bool, int, Node | None, Node | None]:
        depth, key, node = entry(self._root, path)
        if self._overlay is not None:
            over_depth, over_key, over_node = entry(self._overlay, path)
            if over_depth and over_depth >= depth:
                return True, over_depth, over_key, over_node
        return False, depth, key, node


def _is_scalar(node: Node) -> bool:
    return node.entries is None and node.items is None


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
    problem: Problem
    try:
        if path.is_dir():
            problem = Problem("expected a file, found a folder", file=file, hint=f"give {file}/{MANIFEST_NAME}")
        elif path.exists() and not path.is_file():
            problem = Problem("expected a plain file", file=file)
        else:
            with path.open("rb") as stream:
                body = stream.read(MAX_BYTES + 1)
            if len(body) <= MAX_BYTES:
                return body
            problem = Problem(f"expected at most {MAX_BYTES // 2**20} MB, found more", file=file)
    except FileNotFoundError:
        problem = Problem("there is no such file", file=file, hint="write one with: kitaru init")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        problem = Problem(f"the file can't be read: {reason}", file=file, hint="check the path and its permissions")
    raise KitaruManifestError([problem], hint=problem.hint)


def _tree(body: bytes) -> tuple[Node | None, list[Problem]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        column = error.start - (body.rfind(b"\n", 0, error.start) + 1) + 1
        hint = "save the file as UTF-8"
        return None, [Problem("expected UTF-8 text, found other bytes", line=line, column=column, hint=hint)]
    tree = parse(text)
    root, problems = tree.root, list(tree.problems)
    if not problems and (root is None or root.value is None):
        problems = [Problem("the file is empty", hint="write one with: kitaru init")]
    elif root is not None and root.entries is None:
        message = f"expected a mapping at the top (kitaru: 1, project: ...), found {described(root.value)}"
        problems.append(Problem(message, line=root.line, column=root.column))
    return root, problems


# --- problems ---------------------------------------------------------------------------------------------------------


def _format_problem(root: Node) -> Problem | None:
    """Nothing else in a file of a newer format can be judged."""
    _, _, node = entry(root, ("kitaru",))
    if node is root or node is None or not isinstance(node.value, int) or node.value <= FORMAT:
        return None
    message = f"this manifest has format {str(node.value)[:40]}; this Kitaru knows format {FORMAT}"
    return Problem(message, line=node.line, column=node.column, hint="upgrade Kitaru, then: kitaru validate")


def _all_problems(root: Node, target: str | None) -> Iterator[Problem]:
    """The problems of the manifest under ``target``, then those that only another overlay brings in."""
    data: dict[str, Any] = root.value
    overlays = data["targets"] if isinstance(data.get("targets"), dict) else {}
    if target is not None and target not in overlays:
        yield _unknown_target(root, target, list(overlays))
        target = None
    chosen = overlays.get(target) if target is not None else None
    view = Places(root, target)
    for finding in _findings(merge(data, chosen) if isinstance(chosen, dict) else data, view):
        yield _placed(finding, view)[0]
    without_targets = {key: value for key, value in data.items() if key != "targets"}
    for name, overlay in overlays.items():
        if name == target or not isinstance(overlay, dict):
            continue
        view = Places(root, name)
        for finding in _findings(merge(without_targets, overlay), view):
            problem, in_overlay = _placed(finding, view)
            if in_overlay:
                yield problem


def _unknown_target(root: Node, target: str, targets: list[str]) -> Problem:
    message = f"there is no target {shown(target)}{did_you_mean(target, targets)}"
    line, column, _ = Places(root, None).of(("targets",), at_key=True)
    hint = f"targets of this manifest: {', '.join(map(shown, targets))}" if targets else "this manifest has no targets"
    return Problem(message, line=line, column=column, hint=hint)


def _findings(data: dict[str, Any], view: Places) -> Iterator[Finding]:
    version = data.get("kitaru", FORMAT)
    if type(version) is not int or version != FORMAT:  # looked at here, because Python takes true for 1
        hint = f"write {FORMAT} without quotes" if version == str(FORMAT) else ""
        yield Finding(("kitaru",), f"expected {FORMAT}, found {described(version)}", hint)
        data = {**data, "kitaru": FORMAT}
    for finding in schema_findings(data, view.raw):
        if finding.at_key or not view.is_torn(finding.path):
            yield finding
    yield from islice(check_findings(data), MAX_FINDINGS)


def _placed(finding: Finding, view: Places) -> tuple[Problem, bool]:
    line, column, in_overlay = view.of(finding.path, at_key=finding.at_key)
    return Problem(finding.message, line=line, column=column, hint=finding.hint), in_overlay


def _key_problems(root: Node) -> Iterator[Problem]:
    """Keys that are not text, except the version numbers of a split."""
    seen: set[int] = set()
    waiting: list[tuple[Path, Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if _is_scalar(node) or id(node) in seen:
            continue
        seen.add(id(node))
        waiting += [((*path, index), item) for index, item in enumerate(node.items or ())]
        for name, (key, value) in (node.entries or {}).items():
            if not isinstance(key.value, str) and not (_takes_numbers(path) and type(key.value) is int):
                message = f"expected text as a key, found {described(key.value)}"
                yield Problem(message, line=key.line, column=key.column, hint="put it in quotes")
            waiting.append(((*path, name), value))


def _takes_numbers(path: Path) -> bool:
    """Whether numbers as keys are judged elsewhere: versions in a split, and the names of flows and tags."""
    inner = path[2:] if path[:1] == ("targets",) else path
    return inner == ("flows",) or (len(inner) in (3, 4) and inner[0] == "flows" and inner[2] == "routes")


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
