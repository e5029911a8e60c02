"""Which of an image's requirements the installed packages of this Python do not meet."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from kitaru import _version

COMMENT = re.compile(r"(^|\s+)#.*$")
FOR_PIP_ALONE = re.compile(r"-|\.{0,2}/|\.{1,2}$|~/|[A-Za-z][A-Za-z0-9+.-]*://|.*\.(whl|zip|tar\.gz|txt)$")
"""What pip reads and PEP 508 does not: options, paths, bare addresses."""


@dataclass(frozen=True, slots=True)
class Unmet:
    """One requirement, as written, and why it is not met: ``0.25.1 is installed``, ``not installed``."""

    requirement: str
    reason: str
    wanted_by: str = ""
    """The requirement whose extra brings it in; empty for one that the image names itself."""

    def __str__(self) -> str:
        origin = f" (from {self.wanted_by})" if self.wanted_by else ""
        return f"{self.requirement}{origin}: {self.reason}"


@dataclass(slots=True)
class Findings:
    """``unmet`` in the order of the requirements; ``notes`` say what could not be looked at."""

    unmet: list[Unmet] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Find = Callable[[str], Distribution]
"""A distribution by name; raises ``PackageNotFoundError``."""


def clean_lines(requirements: Sequence[str]) -> list[str]:
    """The lines without comments and blank ones, as pip reads a requirements file."""
    stripped = (COMMENT.sub("", line).strip() for line in requirements)
    return [line for line in stripped if line]


def check_requirements(requirements: Sequence[str], *, find: Find = distribution) -> Findings:
    """Compare ``requirements`` (as pip spells them) with what is installed: names, versions, markers and extras.

    All of them are looked at. An extra's own requirements are checked as well, to any depth; the ordinary
    dependencies of a package are not: whoever installed it saw to those. Raises nothing.
    """
    findings = Findings()
    seen: set[str] = set()
    for line in clean_lines(requirements):
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            if FOR_PIP_ALONE.match(line):
                findings.notes.append(f"{line}: only pip can read this, so it is not checked")
            else:
                findings.unmet.append(Unmet(line, f"not a requirement: {str(error).splitlines()[0]}"))
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            _check(requirement, "", find, findings, seen)
    return findings


def _check(requirement: Requirement, wanted_by: str, find: Find, findings: Findings, seen: set[str]) -> None:
    shown = _without_marker(requirement)
    if shown in seen:
        return
    seen.add(shown)
    try:
        installed: Distribution | None = find(requirement.name)
        version = installed.version if installed else ""
    except PackageNotFoundError:
        installed, version = None, ""
        if canonicalize_name(requirement.name) == "kitaru":
            # Run from a checkout: there is no distribution, and yet it is here.
            version = _version.__version__
    if not version:
        findings.unmet.append(Unmet(shown, "not installed", wanted_by))
        return
    if requirement.url:
        findings.notes.append(f"{shown}: {version} is installed; whether it came from that address is not checked")
    elif not _admits(requirement, version):
        findings.unmet.append(Unmet(shown, f"{version} is installed", wanted_by))
    if requirement.extras and installed is None:
        findings.notes.append(f"{shown}: {requirement.name} runs from a checkout, so its extras are not checked")
    elif requirement.extras and installed is not None:
        for extra in sorted(requirement.extras):
            _check_extra(installed, requirement, extra, find, findings, seen)


def _check_extra(
    installed: Distribution, requirement: Requirement, extra: str, find: Find, findings: Findings, seen: set[str]
) -> None:
    name = f"{requirement.name}[{extra}]"
    offered = {canonicalize_name(offer) for offer in installed.metadata.get_all("Provides-Extra") or ()}
    if canonicalize_name(extra) not in offered:
        findings.notes.append(f"{name}: {requirement.name} {installed.version} has no extra {extra!r}")
        return
    for needed in _extra_requirements(installed, extra):
        _check(needed, name, find, findings, seen)


def _extra_requirements(installed: Distribution, extra: str) -> Iterator[Requirement]:
    """What ``extra`` adds: requirements whose marker holds with it and does not hold without."""
    for text in installed.requires or ():
        needed = Requirement(text)
        if needed.marker is None or needed.marker.evaluate({"extra": ""}):
            continue
        spellings = {extra, canonicalize_name(extra)}
        if any(needed.marker.evaluate({"extra": spelling}) for spelling in spellings):
            yield needed


def _admits(requirement: Requirement, version: str) -> bool:
    # A pre-release that is installed was somebody's choice, so it counts, as it does for pip.
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return not requirement.specifier


def _without_marker(requirement: Requirement) -> str:
    return str(requirement).split(";")[0].strip() if requirement.marker else str(requirement)
