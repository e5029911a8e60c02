"""NumPy arrays, pandas data frames and Arrow tables, each in the format of its own library.

A library is used only where the program has loaded it: a value of its types can't exist otherwise. Reading loads it.

Other packages add formats of their own. Such a package names, in the entry point group ``kitaru.formats``, a module or
an object with three functions::

    [project.entry-points."kitaru.formats"]
    acme-image = "acme_kitaru.images"

    def takes(value) -> bool: ...            # whether this format writes that value
    def write(value) -> bytes: ...           # equal values, equal bytes
    def read(body: bytes) -> object: ...     # the inverse

The entry point's name is what is recorded with each value, so it must stay. It is asked for values that nothing built
in takes: no JSON, no bytes or text, no dataclass or model. Packages are looked for when the first such value comes.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Format:
    """How one family of values is written. ``module``: the library whose being loaded makes the format apply."""

    name: str
    takes: Callable[[Any], bool]
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]
    module: str


def _is(value: Any, module: str, name: str) -> bool:
    return type(value) is getattr(sys.modules[module], name, None)


def _write_array(value: Any) -> bytes:
    buffer = io.BytesIO()
    sys.modules["numpy"].save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _read_array(body: bytes) -> Any:
    return importlib.import_module("numpy").load(io.BytesIO(body), allow_pickle=False)


def _write_frame(value: Any) -> bytes:
    """Parquet; what Parquet can't hold exactly (mixed columns, column names that are no text) is an error."""
    if value.attrs or not all(type(name) is str for name in value.columns):
        raise ValueError("a data frame needs text column names and no attrs to be stored")
    body: bytes = value.to_parquet(engine="pyarrow")
    if not value.equals(_read_frame(body)):
        raise ValueError("written as Parquet and read back, the data frame is not equal to itself")
    return body


def _read_frame(body: bytes) -> Any:
    return importlib.import_module("pandas").read_parquet(io.BytesIO(body), engine="pyarrow")


def _write_table(value: Any) -> bytes:
    ipc = importlib.import_module("pyarrow.ipc")
    buffer = io.BytesIO()
    with ipc.new_stream(buffer, value.schema) as stream:
        stream.write_table(value)
    return buffer.getvalue()


def _read_table(body: bytes) -> Any:
    return importlib.import_module("pyarrow.ipc").open_stream(body).read_all()


FORMATS: tuple[Format, ...] = (
    Format("numpy", lambda value: _is(value, "numpy", "ndarray"), _write_array, _read_array, "numpy"),
    Format("parquet", lambda value: _is(value, "pandas", "DataFrame"), _write_frame, _read_frame, "pandas"),
    Format("arrow", lambda value: _is(value, "pyarrow", "Table"), _write_table, _read_table, "pyarrow"),
)
"""In the order in which they are asked."""

GROUP = "kitaru.formats"
RESERVED = frozenset({"json", "json+types", "text", "bytes", "pickle", *(form.name for form in FORMATS)})
"""Names that no other package can give its format."""


class BadFormat(TypeError):
    """An installed package's format can't be used; the message says which, and why."""


@cache
def installed_formats() -> tuple[Format, ...]:
    """The formats of other packages, by name. ``BadFormat`` where one is not as it should be."""
    # Late: it takes as long to load as all of this, and most flows have no such value.
    from importlib.metadata import entry_points

    found: dict[str, Format] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda one: one.name):
        package = point.dist.name if point.dist is not None else point.value
        if point.name in RESERVED or point.name in found:
            raise BadFormat(f"the format {point.name!r} of package {package} has a name that is taken")
        try:
            made = point.load()
            found[point.name] = Format(point.name, made.takes, made.write, made.read, "")
        except (ImportError, AttributeError) as error:
            raise BadFormat(f"the format {point.name!r} of package {package} can't be loaded: {error}") from error
    return tuple(found.values())
