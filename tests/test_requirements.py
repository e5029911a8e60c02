"""Requirements against what is installed, read from real metadata in folders of their own."""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distributions
from pathlib import Path

import pytest

from kitaru._version import __version__
from kitaru.stacks.venv import Find, check_requirements


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed packages: httpx 0.25.1, openai 1.60.0, tool 2.0rc1 with extras."""
    install(tmp_path, "httpx", "0.25.1")
    install(tmp_path, "Open_AI", "1.60.0")
    install(
        tmp_path,
        "tool",
        "2.0rc1",
        "Provides-Extra: web",
        "Provides-Extra: all-of-it",
        "Requires-Dist: nowhere-to-be-found",
        'Requires-Dist: httpx>=0.27; extra == "web"',
        'Requires-Dist: missing; extra == "web"',
        "Requires-Dist: missing-on-python-2; extra == 'web' and python_version < '3'",
        'Requires-Dist: tool[web]; extra == "all-of-it"',
    )
    return tmp_path


def install(site: Path, name: str, version: str, *headers: str) -> None:
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *headers]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def find_in(site: Path) -> Find:
    def find(name: str) -> Distribution:
        found = next(iter(distributions(name=name, path=[str(site)])), None)
        if found is None:
            raise PackageNotFoundError(name)
        return found

    return find


def unmet(site: Path, *requirements: str) -> list[str]:
    return list(check_requirements(requirements, find=find_in(site)).unmet.values())


def notes(site: Path, *requirements: str) -> list[str]:
    return check_requirements(requirements, find=find_in(site)).notes


def test_met_requirements_say_nothing(site: Path) -> None:
    """Versions in range, other spellings of a name, pre-releases, comments and blank lines are all fine."""
    findings = check_requirements(
        ["httpx>=0.25,<1", "HTTPX", "open-ai~=1.6", "tool>=1", "", "# only a comment", "httpx # why we need it"],
        find=find_in(site),
    )
    assert (findings.unmet, findings.notes) == ({}, [])


def test_every_unmet_requirement_is_reported_at_once(site: Path) -> None:
    """One look shows a version out of range, a missing package and a broken line, in the order of the image."""
    assert unmet(site, "httpx>=0.27", "absent", "open-ai", "absent==2 # twice", "a b") == [
        "httpx>=0.27: 0.25.1 is installed",
        "absent: not installed",
        "absent==2: not installed",
        "a b: not a requirement: Expected semicolon (after name with no version specifier) or end",
    ]


def test_a_requirement_for_other_machines_is_not_looked_at(site: Path) -> None:
    """A marker that does not hold here takes its requirement out; one that holds leaves it in."""
    assert unmet(site, "absent; python_version < '3'") == []
    assert unmet(site, "absent; python_version >= '3'") == ["absent: not installed"]


def test_an_extra_brings_its_own_requirements(site: Path) -> None:
    """An extra's requirements are checked, also through an extra that names another; ordinary dependencies are not."""
    expected = [
        "httpx>=0.27 (from tool[web]): 0.25.1 is installed",
        "missing (from tool[web]): not installed",
    ]
    assert unmet(site, "tool[web]") == expected
    assert unmet(site, "tool[all_of_it]") == expected
    assert unmet(site, "tool") == []


def test_an_extra_that_does_not_exist_is_a_note(site: Path) -> None:
    """pip only warns of an unknown extra, so it stops nothing here."""
    assert unmet(site, "tool[wbe]") == []
    assert notes(site, "tool[wbe]") == ["tool[wbe]: tool 2.0rc1 has no extra 'wbe'"]


def test_an_address_can_be_checked_by_name_alone(site: Path) -> None:
    """A requirement at a URL is met by any version of that name, and a note says what was not checked."""
    gone = "gone @ git+https://example.org/gone@main"
    assert unmet(site, "httpx @ https://example.org/httpx.whl", gone) == [f"{gone}: not installed"]
    [note] = notes(site, "httpx @ https://example.org/httpx.whl")
    assert note.endswith("0.25.1 is installed; whether it came from that address is not checked")


@pytest.mark.parametrize(
    "line",
    ["-r more.txt", "--index-url https://x", "./lib", "../lib", "/opt/lib", ".", "git+https://x/y", "dist/a.whl"],
)
def test_what_only_pip_reads_is_a_note(site: Path, line: str) -> None:
    """Options, paths and bare addresses stop nothing, and are said to be unchecked."""
    assert unmet(site, line) == []
    assert notes(site, line) == [f"{line}: only pip can read this, so it is not checked"]


def test_kitaru_itself_is_met_in_a_checkout(site: Path) -> None:
    """Kitaru that runs without being installed is there in its own version; its extras can't be seen."""
    assert unmet(site, f"kitaru=={__version__}") == []
    assert unmet(site, "kitaru>=999") == [f"kitaru>=999: {__version__} is installed"]
    assert "runs from a checkout" in notes(site, "kitaru[openai]")[0]


def test_the_real_environment_is_the_default() -> None:
    """Without a finder, what this Python has installed counts: pytest is here, a made-up name is not."""
    findings = check_requirements(["pytest", "no-such-package-anywhere"])
    assert list(findings.unmet.values()) == ["no-such-package-anywhere: not installed"]
