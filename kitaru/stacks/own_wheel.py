"""The running Kitaru, packed as a wheel, so that another environment gets exactly this one.

Reading the code that runs serves an installed Kitaru, an editable one and a bare checkout alike, and needs no index,
no build backend and no address that has to exist still.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kitaru._version import __version__
from kitaru.errors import KitaruStackError

PACKAGE = Path(__file__).resolve().parents[1]
WHEEL = "Wheel-Version: 1.0\nGenerator: kitaru\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
DATA = ("schemas", "templates")
"""Folders beside the package in a checkout that an installed Kitaru carries inside it, below ``_data``."""

EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class OwnWheel:
    """What goes into the wheel: path within it, and bytes, in path order."""

    files: tuple[tuple[str, bytes], ...]

    @property
    def digest(self) -> str:
        """Of all paths and contents: changes with every edit of a checkout."""
        total = hashlib.sha256()
        for path, body in self.files:
            total.update(f"{path}\0{hashlib.sha256(body).hexdigest()}\n".encode())
        return total.hexdigest()

    def write(self, folder: Path) -> Path:
        """Write ``kitaru-<version>-py3-none-any.whl`` into ``folder``; equal files give equal bytes."""
        path = folder / f"kitaru-{__version__}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, body in self.files:
                archive.writestr(zipfile.ZipInfo(name, EPOCH), body, zipfile.ZIP_DEFLATED)
        return path


def collect_wheel(package: Path = PACKAGE) -> OwnWheel:
    """Gather the wheel of the running Kitaru.

    Raises ``KitaruStackError`` where neither an installed distribution nor a checkout says what Kitaru depends on.
    """
    files = dict(_package_files(package))
    info = f"kitaru-{__version__}.dist-info"
    metadata, entry_points = _described(package)
    files[f"{info}/METADATA"] = metadata.encode()
    files[f"{info}/entry_points.txt"] = entry_points.encode()
    files[f"{info}/WHEEL"] = WHEEL.encode()
    record = "".join(f"{path},sha256={_urlsafe(body)},{len(body)}\n" for path, body in sorted(files.items()))
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return OwnWheel(tuple(sorted(files.items())))


def _package_files(package: Path) -> Iterator[tuple[str, bytes]]:
    yield from _tree(package, "kitaru")
    if not (package / "_data").is_dir():
        for name in DATA:
            yield from _tree(package.parent / name, f"kitaru/_data/{name}")


def _tree(folder: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in relative.parts:
            yield f"{prefix}/{relative.as_posix()}", path.read_bytes()


def _described(package: Path) -> tuple[str, str]:
    """METADATA and entry_points.txt: those of the installation, or for a bare checkout what its pyproject.toml says."""
    installed = _installed(package)
    text = installed.read_text("METADATA") if installed else None
    if installed and text:
        # The metadata of an editable installation may be older than its code.
        metadata = re.sub(r"(?m)^Version: .*$", f"Version: {__version__}", text, count=1)
        return metadata, installed.read_text("entry_points.txt") or ""
    try:
        project = tomllib.loads((package.parent / "pyproject.toml").read_text("utf-8"))["project"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise KitaruStackError(
            f"can't tell what the Kitaru in {package} depends on: it has no metadata and no pyproject.toml",
            hint="install Kitaru with pip, or take 'environment: venv' off the stack",
        ) from error
    scripts = "".join(f"{name} = {target}\n" for name, target in project.get("scripts", {}).items())
    return _metadata(project), f"[console_scripts]\n{scripts}"


def _metadata(project: dict[str, Any]) -> str:
    lines = ["Metadata-Version: 2.1", "Name: kitaru", f"Version: {__version__}"]
    if "requires-python" in project:
        lines.append(f"Requires-Python: {project['requires-python']}")
    lines += [f"Requires-Dist: {needed}" for needed in project.get("dependencies", ())]
    for extra, needs in project.get("optional-dependencies", {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f"Requires-Dist: {_with_extra(needed, extra)}" for needed in needs]
    return "\n".join(lines) + "\n"


def _installed(package: Path) -> Distribution | None:
    """The distribution that the running package belongs to; None for one of the same name installed elsewhere."""
    try:
        found = distribution("kitaru")
    except PackageNotFoundError:
        return None
    if Path(str(found.locate_file("kitaru"))).resolve() == package:
        return found
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    checkout = Path(unquote(urlsplit(origin.get("url", "")).path))
    editable = bool(origin.get("dir_info", {}).get("editable"))
    return found if editable and package.is_relative_to(checkout.resolve()) else None


def _with_extra(needed: str, extra: str) -> str:
    requirement, _, marker = (part.strip() for part in needed.partition(";"))
    condition = f'extra == "{extra}"'
    return f"{requirement} ; ({marker}) and {condition}" if marker else f"{requirement} ; {condition}"


def _urlsafe(body: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
