"""The templates and schemas that travel with Kitaru: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_DATA = _PACKAGE / "_data" if (_PACKAGE / "_data").is_dir() else _PACKAGE.parent


def template(name: str) -> str:
    """The text of ``templates/<name>``, ``gitignore``. Raises ``FileNotFoundError`` if there is none."""
    return _read("templates", name)


def schema(name: str) -> str:
    """The JSON Schema ``name`` (``kitaru``, ``lockfile``, ``plan``, ...) as text. Raises ``FileNotFoundError``."""
    return _read("schemas", f"{name}.schema.json")


def schema_names() -> tuple[str, ...]:
    """The names that ``schema`` knows, sorted."""
    return tuple(sorted(path.name.removesuffix(".schema.json") for path in (_DATA / "schemas").glob("*.schema.json")))


def _read(folder: str, name: str) -> str:
    if name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise FileNotFoundError(f"{folder}/{name}")
    return (_DATA / folder / name).read_text(encoding="utf-8")
