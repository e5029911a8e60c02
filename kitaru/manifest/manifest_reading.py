"""From the bytes of ``kitaru.yaml`` to a valid manifest, or to every problem that the file has.

Apart from ``manifest_yaml``, because a manifest that was read before needs none of this, nor ruamel.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from kitaru.errors import KitaruManifestError, Problem
from kitaru.manifest.manifest_checks import check_findings
from kitaru.manifest.manifest_problems import MAX_FINDINGS, Finding, schema_findings
from kitaru.manifest.wording import did_you_mean, found, shown
from kitaru.manifest.yaml_tree import Mapping, Node, Path, Scalar, Sequence, entry, parse, to_data
from kitaru.model.manifest import Manifest

FORMAT = 1


class Places:
    """Where values stand, as seen through a target's overlay. ``root`` is the document's mapping."""

    def __init__(self, root: Node | None, target: str | None) -> None:
        self._root = root
        depth, _, node = entry(root, ("targets", target)) if target is not None else (0, None, None)
        self._overlay = node if depth == 2 else None

    def of(self, path: Path, *, at_key: bool = False) -> tuple[int, int, bool]:
        """Line and column of the value at ``path``, or of its nearest ancestor, and whether the overlay holds it.

        A collection is placed at the key that leads to it, a single value where it begins.
        """
        in_overlay, _, key, node = self._follow(path)
        is_visible = isinstance(node, Scalar) and (node.text or node.value is not None)
        spot = key if key is not None and (at_key or not is_visible) else node
        return (spot.line, spot.column, in_overlay) if spot is not None else (0, 0, in_overlay)

    def raw(self, path: Path) -> str:
        """What the author wrote at ``path``, unquoted; empty where no single value stands there."""
        _, depth, _, node = self._follow(path)
        return node.text if depth == len(path) and isinstance(node, Scalar) else ""

    def is_torn(self, path: Path) -> bool:
        """Whether the value at ``path`` is a mapping in which a key is given twice: that is the problem to tell."""
        _, depth, _, node = self._follow(path)
        return depth == len(path) and isinstance(node, Mapping) and node.torn

    def _follow(self, path: Path) -> tuple[bool, int, Scalar | None, Node | None]:
        depth, key, node = entry(self._root, path)
        if self._overlay is not None:
            over_depth, over_key, over_node = entry(self._overlay, path)
            if over_depth and over_depth >= depth:
                return True, over_depth, over_key, over_node
        return False, depth, key, node


def read_manifest(body: bytes, file: str, target: str | None) -> Manifest:
    """The manifest in ``body`` with the overlay ``target`` merged in. ``file`` is its name in problems.

    Raises ``KitaruManifestError`` with all problems, sorted by place.
    """
    root, problems = _tree(body)
    if isinstance(root, Mapping):
        data = to_data(root)
        stale = _format_problem(root)
        if stale is not None:
            problems = [stale]
        else:
            taken = {(problem.line, problem.column) for problem in problems}  # a stand-in is there now
            further = [*_key_problems(root), *_all_problems(root, data, target)]
            fresh = [problem for problem in further if (problem.line, problem.column) not in taken]
            problems = _distinct([*problems, *fresh])
            if not problems:
                chosen = merge(data, data["targets"][target]) if target is not None else data
                return Manifest.model_validate_json(json.dumps(chosen))
    raise manifest_error([replace(problem, file=file) for problem in problems])


def manifest_error(problems: list[Problem]) -> KitaruManifestError:
    """The error for these problems, which names the next step."""
    hint = problems[0].hint if len(problems) == 1 else "correct these, then run: kitaru validate"
    return KitaruManifestError(problems, hint=hint)


def tree_of(body: bytes) -> Node | None:
    """The tree of a body that was read before; for placing problems later."""
    return _tree(body)[0]


def flow_names(body: bytes) -> frozenset[str]:
    """The names below ``flows:``, whatever else is wrong with the file."""
    root = tree_of(body)
    data = to_data(root) if isinstance(root, Mapping) else {}
    flows = data.get("flows")
    return frozenset(flows) if isinstance(flows, dict) else frozenset()


def read_leniently(body: bytes, target: str | None) -> tuple[dict[str, Any] | None, str]:
    """What another manifest says with the overlay ``target`` over it, valid or not; and why it can't be read, if so.

    None, and no reason: it has no such target.
    """
    root, problems = _tree(body)
    if problems or not isinstance(root, Mapping):
        first = problems[0] if problems else Problem("expected a mapping at the top")
        return None, f"line {first.line}: {first.message}" if first.line else first.message
    data = to_data(root)
    if target is None:
        return data, ""
    overlays = data.get("targets")
    overlay = overlays.get(target) if isinstance(overlays, dict) else None
    return (merge(data, overlay) if isinstance(overlay, dict) else None), ""


def merge(base: dict[str, Any], overlay: dict[str, Any], path: Path = ()) -> dict[str, Any]:
    """``overlay`` over ``base``: mappings key by key, all else replaced.

    Three values are taken whole or widened because their meaning asks for it: a route is one value even when it is
    written as weights, a stack of another type shares no settings, and a bare image is its ``base_image``.
    """
    merged = dict(base)
    for key, value in overlay.items():
        here = (*path, key)
        old = _widened(here, base.get(key))
        new = _widened(here, value) if isinstance(old, dict) else value
        if isinstance(old, dict) and isinstance(new, dict) and not _is_whole(here, old, new):
            merged[key] = merge(old, new, here)
        else:
            merged[key] = value
    return merged


def _widened(path: Path, value: Any) -> Any:
    is_image = path == ("image",) or (len(path) == 3 and path[0] == "flows" and path[2] == "image")
    return {"base_image": value} if is_image and isinstance(value, str) else value


def _is_whole(path: Path, old: dict[str, Any], new: dict[str, Any]) -> bool:
    if len(path) == 4 and path[0] == "flows" and path[2] == "routes":
        return True
    return len(path) == 2 and path[0] == "stacks" and new.get("type", old.get("type")) != old.get("type")


def _tree(body: bytes) -> tuple[Node | None, list[Problem]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        column = error.start - (body.rfind(b"\n", 0, error.start) + 1) + 1
        return None, [
            Problem("expected UTF-8 text, found other bytes", line=line, column=column, hint="save the file as UTF-8")
        ]
    tree = parse(text)
    root, problems = tree.root, list(tree.problems)
    if not problems and (root is None or (isinstance(root, Scalar) and root.value is None)):
        problems = [Problem("the file is empty", hint="write one with: kitaru init")]
    elif root is not None and not isinstance(root, Mapping):
        message = f"expected a mapping at the top (kitaru: 1, project: ...), found {found(to_data(root))}"
        problems.append(Problem(message, line=root.line, column=root.column))
    return root, problems


def _format_problem(root: Mapping) -> Problem | None:
    """Why nothing else in the file can be judged: it is of a format that this release does not know."""
    _, node = root.entries.get("kitaru", (None, None))
    if not isinstance(node, Scalar) or not isinstance(node.value, int) or node.value <= FORMAT:
        return None
    message = f"this manifest has format {str(node.value)[:40]}; this Kitaru knows format {FORMAT}"
    return Problem(message, line=node.line, column=node.column, hint="upgrade Kitaru: pip install --upgrade kitaru")


def _all_problems(root: Mapping, data: dict[str, Any], target: str | None) -> Iterator[Problem]:
    """The problems of the manifest as ``target`` makes it, then those that only another overlay brings in."""
    overlays = data["targets"] if isinstance(data.get("targets"), dict) else {}
    if target is not None and target not in overlays:
        message = f"there is no target {shown(target)}{did_you_mean(target, overlays)}"
        line, column, _ = Places(root, None).of(("targets",), at_key=True)
        hint = (
            f"targets of this manifest: {', '.join(map(shown, overlays))}"
            if overlays
            else "this manifest has no targets"
        )
        yield Problem(message, line=line, column=column, hint=hint)
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


def _findings(data: dict[str, Any], view: Places) -> Iterator[Finding]:
    version = data.get("kitaru", FORMAT)
    if type(version) is not int or version != FORMAT:  # looked at here, because Python takes true for 1
        hint = f"write {FORMAT} without quotes" if version == str(FORMAT) else ""
        yield Finding(("kitaru",), f"expected {FORMAT}, found {found(version)}", hint)
        data = {**data, "kitaru": FORMAT}
    for finding in schema_findings(data, view.raw):
        if finding.at_key or not view.is_torn(finding.path):
            yield finding
    yield from islice(check_findings(data), MAX_FINDINGS)


def _placed(finding: Finding, view: Places) -> tuple[Problem, bool]:
    line, column, in_overlay = view.of(finding.path, at_key=finding.at_key)
    return Problem(finding.message, line=line, column=column, hint=finding.hint), in_overlay


def _key_problems(root: Mapping) -> Iterator[Problem]:
    """Keys that are not text, wherever they stand, except the version numbers of a split."""
    seen: set[int] = set()
    waiting: list[tuple[Path, Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, Scalar) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, Sequence):
            waiting += [((*path, index), item) for index, item in enumerate(node.items)]
            continue
        for name, (key, value) in node.entries.items():
            if not isinstance(key.value, str) and not (_takes_numbers(path) and type(key.value) is int):
                message = f"expected text as a key, found {found(key.value)}"
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
