"""Selects the files of a source by patterns, and checks the rules for every path and symlink."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from kitaru.errors import KitaruSourceError, Problem
from kitaru.model.address import canonical_json, digest
from kitaru.model.manifest import SourceSpec
from kitaru.model.snapshot import SourceFile, SourceTree
from kitaru.source.port import Selection

FILE = 0o100644
EXECUTABLE = 0o100755
SYMLINK = 0o120000
STATE_FOLDER = ".kitaru"

_GITLINK = 0o160000
_MOST_LINKS = 40
_MOST_STARS = 4
"""In one name of a pattern: with more, a file's name of a hundred letters takes minutes."""


class Patterns:
    """Patterns that choose files, spelled as in a ``.gitignore`` beside the manifest: ``flows/**``, ``/lib``.

    No negation, as include and exclude are lists of their own, and no comments. Raises ``KitaruSourceError`` for the
    first invalid pattern.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        from pathspec import GitIgnoreSpec  # Late: a worker that unpacks a source chooses no files.

        self.patterns = tuple(patterns)
        self._single = [GitIgnoreSpec.from_lines([_checked(pattern)]) for pattern in patterns]

    def match(self, path: str) -> bool:
        """Whether a pattern takes the file at ``path``, relative to the manifest's folder."""
        return self.first(path) is not None

    def first(self, path: str) -> str | None:
        """The first pattern that takes ``path``."""
        pairs = zip(self.patterns, self._single, strict=True)
        return next((pattern for pattern, spec in pairs if pattern == "**" or spec.match_file(path)), None)


def _checked(pattern: str) -> str:
    """The pattern as pathspec reads it: ``./lib`` is ``/lib``."""
    from pathspec import GitIgnoreSpec

    why = ""
    trimmed = "/" + pattern[2:].lstrip("/") if pattern.startswith("./") else pattern
    names = trimmed.removesuffix("/").removeprefix("/").split("/")
    if pattern.startswith(("!", "#")):
        why = "negation is for the other of source.include and source.exclude, and there are no comments"
    elif any(name in ("", ".", "..") for name in names):
        why = "expected a path below the manifest's folder, with no '..' and no empty name"
    elif re.search(r"\[(?![!^]?.[^\]]*\])", re.sub(r"\\.", "", pattern)):
        why = "its [ is never closed"
    elif "[:" in pattern:
        why = "character classes such as [[:alpha:]] are not supported"
    elif any(name != "**" and len(re.findall(r"\*+", name)) > _MOST_STARS for name in names):
        why = f"a name holds at most {_MOST_STARS} *"
    elif names.count("**") > _MOST_STARS:
        why = f"it holds at most {_MOST_STARS} **"
    try:
        # Several * in a row mean one, and cost as many.
        squeezed = "/".join(name if name == "**" else re.sub(r"\*+", "*", name) for name in trimmed.split("/"))
        known = GitIgnoreSpec.from_lines([squeezed])
        why = why or ("" if any(each.include for each in known.patterns) else "it takes nothing")
    except (ValueError, re.error) as error:  # pathspec passes on the errors of the expressions that it makes
        why = why or str(error)
    if why:
        raise KitaruSourceError(
            f"{pattern!r} is no pattern for source files: {why}",
            hint="patterns are spelled as in a .gitignore: flows/**, *.ipynb, /lib",
        )
    return squeezed


def tree_digest(tree: SourceTree) -> str:
    """The digest of a source tree: that of its sorted canonical listing, equal on every machine."""
    return digest(canonical_json(sorted(tree.listing())))


def bad_path(path: str) -> str | None:
    """The reason why ``path`` can't be a path in a source tree; None if it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if "\0" in path:
        return "its name holds a NUL"
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        return "it is not a plain path below the tree"
    return None


def bad_link(path: str, links: Mapping[str, str]) -> str | None:
    """The reason why the symlink at ``path`` is refused; None if it stays in the tree. ``links`` as in ``follow``."""
    try:
        follow(path, links)
    except ValueError as error:
        return str(error)
    return None


def follow(path: str, links: Mapping[str, str]) -> str:
    """The path in the tree that the symlink at ``path`` leads to. Raises ``ValueError`` for one that leads out of it.

    ``links`` maps every symlink of the tree to its target: ``{"flows/data": "../data"}``. They are followed as by the
    kernel, through each other: ``a/b/../x`` is another path if ``a/b`` is a symlink.
    """
    target = links[path]
    if not target or "\0" in target:
        raise ValueError("it has no target")
    if target.startswith("/"):
        raise ValueError("it is absolute")
    place = path.split("/")[:-1]
    rest = target.split("/")[::-1]
    followed = 0
    while rest:
        part = rest.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not place:
                raise ValueError("it leads out of the tree")
            place.pop()
            continue
        place.append(part)
        onward = links.get("/".join(place))
        if onward is None:
            continue
        followed += 1
        if followed > _MOST_LINKS:
            raise ValueError("it leads back to itself")
        if onward.startswith("/"):
            raise ValueError("it leads out of the tree")
        place.pop()
        rest.extend(onward.split("/")[::-1])
    return "/".join(place)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a Git tree. ``size`` in bytes."""

    path: str
    mode: int
    size: int
    blob: str


def printable(path: str) -> str:
    """``path`` in printable characters; bytes that are not UTF-8 are escaped."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def choose(listed: bytes, spec: SourceSpec, own: Collection[str]) -> tuple[list[Entry], list[Problem]]:
    """The files that ``spec`` takes from the output of ``git ls-tree -r -l -z``, in path order, and warnings.

    ``own`` are paths that no source tree holds. Raises ``KitaruSourceError`` for an empty selection, a submodule or a
    name that is not UTF-8.
    """
    include, exclude = Patterns(spec.include or ("**",)), Patterns(spec.exclude or ())
    paths: list[str] = []
    entries: list[Entry] = []
    for record in listed.split(b"\0")[:-1]:
        facts, _, name = record.partition(b"\t")
        mode, _, blob, size = facts.decode().split()
        path = name.decode("utf-8", "surrogateescape")
        if path in own or path.startswith(f"{STATE_FOLDER}/"):
            continue
        paths.append(path)
        if not include.match(path) or exclude.match(path):
            continue
        entry = Entry(path, int(mode, 8), int(size) if size != "-" else 0, blob)
        _check_entry(entry)
        entries.append(entry)
    # Git sorts by bytes, and a folder as if its name ended with a slash; a listing is sorted by its paths.
    entries.sort(key=lambda entry: entry.path)
    if not entries:
        raise _nothing(include, exclude, paths)
    warnings = [
        Problem(f"source.include {pattern!r} takes no committed file")
        for pattern in include.patterns
        if not any(map(Patterns([pattern]).match, paths))
    ]
    return entries, warnings


def _nothing(include: Patterns, exclude: Patterns, paths: list[str]) -> KitaruSourceError:
    if not paths:
        message = "the commit holds no file beside the manifest"
    else:
        taken = [path for path in paths if include.match(path)]
        patterns = ", ".join(repr(pattern) for pattern in (exclude if taken else include).patterns)
        verb = (
            f"source.exclude leaves out all {len(taken)} files" if taken else "source.include takes none of the files"
        )
        message = f"the source is empty: {verb} ({patterns})"
    return KitaruSourceError(
        message, hint="git ls-files shows what is committed here; change source.include or source.exclude"
    )


def _check_entry(entry: Entry) -> None:
    if entry.mode == _GITLINK:
        raise KitaruSourceError(
            f"{printable(entry.path)} is a submodule (a repository inside this one); a snapshot can't hold its files",
            hint=f"leave it out with source.exclude: [{json.dumps(entry.path)}], or commit its files here",
        )
    why = bad_path(entry.path)
    if why is not None:
        raise KitaruSourceError(f"{printable(entry.path)}: {why}", hint="git mv it to another name, or exclude it")


def check_links(links: Mapping[str, str], paths: Collection[str]) -> list[Problem]:
    """Warnings about symlinks to paths outside the selection ``paths``; ``links`` as in ``follow``.

    Raises ``KitaruSourceError`` for a symlink that leads out of the tree.
    """
    folders = {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"} | {""}
    warnings = []
    for path, target in links.items():
        why = bad_path(target.replace("/", "_") or "_") or bad_link(path, links)
        if why is not None:
            raise KitaruSourceError(
                f"{path} is a symlink to {printable(target)!r}: {why}; a snapshot keeps only links to files inside it",
                hint="make it relative and inside the manifest's folder, or leave it out with source.exclude",
            )
        end = follow(path, links)
        if end not in paths and end not in folders:
            warnings.append(
                Problem(
                    f"is a symlink to {end}, which the snapshot does not hold",
                    file=path,
                    hint=f"commit {end} and take it in with source.include, or leave out the link with source.exclude",
                )
            )
    return warnings


def check_budget(entries: list[Entry], budget_mb: int) -> None:
    """Raise ``KitaruSourceError`` if the files hold more than ``budget_mb`` million bytes."""
    total = sum(entry.size for entry in entries)
    if total <= budget_mb * 1_000_000:
        return
    largest = sorted(entries, key=lambda entry: (-entry.size, entry.path))[:5]
    lines = "".join(f"\n  {entry.size / 1e6:10.1f} MB  {entry.path}" for entry in largest)
    raise KitaruSourceError(
        f"the source holds {total / 1e6:.1f} MB in {len(entries)} files, over its budget of {budget_mb} MB; "
        f"the largest:{lines}",
        hint="leave them out with source.exclude, or raise source.max_size_mb",
    )


def selection_bytes(selection: Selection) -> bytes:
    """The selection in the form of the cache, JSON."""
    files = [
        [file.path, file.mode, file.size, file.sha256, blob]
        for file, blob in zip(selection.tree.files, selection.blobs, strict=True)
    ]
    warnings = [[warning.message, warning.file, warning.hint] for warning in selection.warnings]
    return canonical_json({"digest": selection.digest, "files": files, "warnings": warnings})


def parse_selection(body: bytes | None) -> Selection | None:
    """The inverse of ``selection_bytes``; None for None."""
    if body is None:
        return None
    data = json.loads(body)
    # The entry was checked against its own sum, so the files need no second validation.
    files = tuple(
        SourceFile.model_construct(path=path, mode=mode, size=size, sha256=sha)
        for path, mode, size, sha, _ in data["files"]
    )
    warnings = tuple(Problem(message, file=file, hint=hint) for message, file, hint in data["warnings"])
    blobs = tuple(row[4] for row in data["files"])
    return Selection(SourceTree.model_construct(files=files), blobs, data["digest"], warnings)
