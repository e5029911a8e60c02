"""NumPy arrays, pandas data frames and series, Arrow tables and batches, each in the format of its own library.

A library is used only if the program has loaded it: a value of its types can't exist otherwise. Reading loads it.

Other packages add formats of their own. Such a package names, in the entry point group ``kitaru.formats``, a module or
an object with three functions::

    [project.entry-points."kitaru.formats"]
    acme-image = "acme_kitaru.images"

    def takes(value) -> bool: ...            # whether this format writes that value
    def write(value) -> bytes: ...           # equal values, equal bytes
    def read(body: bytes) -> object: ...     # the inverse

The entry point's name is recorded with each value, so it must stay. It is asked for values that nothing built
in takes: no JSON, no bytes or text, no dataclass or model. Packages are looked for when the first such value comes.
One that can't be used matters only for values that nothing else takes: their error names it. So does the error of a
value that a format takes and can't write, or read.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from kitaru.errors import KitaruFeatureNotAvailableError
from kitaru.model.event import JSON_FORMATS
from kitaru.model.pieces import CHUNK_BYTES, Body, Pieces


@dataclass(frozen=True, slots=True)
class Format:
    """How one family of values is written. ``module``: the library that brings them."""

    name: str
    takes: Callable[[Any], bool]
    write: Callable[[Any], bytes]
    read: Callable[[bytes], Any]
    module: str
    lay_out: Callable[[Any], Body] | None = None
    """As ``write``, with the value's own memory if it is stored as it lies: for a value that stays unchanged."""

    def body(self, value: Any) -> Body:
        """The bytes to store, with as few copies as possible."""
        return self.write(value) if self.lay_out is None else self.lay_out(value)


def _is(value: Any, module: str, name: str) -> bool:
    return type(value) is getattr(sys.modules[module], name, None)


def _write_array(value: Any) -> bytes:
    buffer = io.BytesIO()
    sys.modules["numpy"].save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _lay_out_array(value: Any) -> Body:
    """As ``_write_array``; the numbers of a large array are not copied."""
    numpy = sys.modules["numpy"]
    plain = value if value.flags.c_contiguous else value.T if value.flags.f_contiguous else None
    if plain is None or value.nbytes < CHUNK_BYTES or value.dtype.hasobject:
        return _write_array(value)
    head = io.BytesIO()
    try:
        numpy.lib.format.write_array_header_1_0(head, numpy.lib.format.header_data_from_array_1_0(value))
    except ValueError:  # a header of many or unusual names has another version
        return _write_array(value)
    return Pieces([head.getvalue(), memoryview(plain.reshape(-1).view(numpy.uint8))])


def _read_array(body: bytes) -> Any:
    # Thousands of named fields make a header that numpy would refuse from a stranger.
    return importlib.import_module("numpy").load(io.BytesIO(body), allow_pickle=False, max_header_size=len(body))


def _write_frame(value: Any) -> bytes:
    """Parquet. A frame that it can't hold exactly (columns of mixed types, names that change) is an error."""
    if value.attrs:
        raise ValueError("Parquet does not keep its attrs: clear them")
    if not value.columns.is_unique:
        raise ValueError("it has two columns of one name: give each its own")
    # It stores some column names as text, and says so with a warning that is of no use: it is compared below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body: bytes = value.to_parquet(engine="pyarrow")
        back = _read_frame(body)
        names, read = value.columns, back.columns
        same = list(names.names) == list(read.names) and list(names) == list(read)
        if not same or list(map(type, names)) != list(map(type, read)):
            raise ValueError(
                "its column names come back as others: name the columns with text, "
                "frame.columns = [str(name) for name in frame.columns]"
            )
        if not value.equals(back):
            _refuse([repr(name) for name in names if not value[name].equals(back[name])])
    return body


def _refuse(differing: list[str]) -> None:
    where = f"column {', '.join(differing[:3])}" if differing else "index"
    raise ValueError(
        f"written as Parquet and read back, the {where} is not equal to itself: "
        "give it one exact type with astype(), or move an index into columns with reset_index()"
    )


def _read_frame(body: bytes) -> Any:
    return importlib.import_module("pandas").read_parquet(io.BytesIO(body), engine="pyarrow")


_SERIES_COLUMN = "__values__"
_SERIES_NAME = b"kitaru.name"


def _write_series(value: Any) -> bytes:
    """Parquet with one column; the series's name, None, a text or a number, beside it."""
    if value.attrs:
        raise ValueError("Parquet does not keep its attrs: clear them")
    if type(value.name) not in (str, int, type(None)):
        raise ValueError("its name is no text: rename it, or store series.to_frame(name)")
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    table = arrow.Table.from_pandas(value.to_frame(_SERIES_COLUMN))
    name = json.dumps(value.name).encode()
    buffer = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({**table.schema.metadata, _SERIES_NAME: name}), buffer)
    body = buffer.getvalue()
    back = _read_series(body)
    if list(value.index.names) != list(back.index.names) or not value.equals(back):
        _refuse(["values"] if value.index.equals(back.index) else [])
    return body


def _read_series(body: bytes) -> Any:
    table = importlib.import_module("pyarrow.parquet").read_table(io.BytesIO(body))
    series = table.to_pandas()[_SERIES_COLUMN]
    series.name = json.loads(table.schema.metadata[_SERIES_NAME])
    return series


def _write_arrow(value: Any) -> bytes:
    buffer = io.BytesIO()
    with importlib.import_module("pyarrow.ipc").new_stream(buffer, value.schema) as stream:
        stream.write(value)
    return buffer.getvalue()


def _read_arrow(body: bytes) -> Any:
    return importlib.import_module("pyarrow.ipc").open_stream(body)


FORMATS: tuple[Format, ...] = (
    Format("numpy", lambda value: _is(value, "numpy", "ndarray"), _write_array, _read_array, "numpy", _lay_out_array),
    Format("parquet", lambda value: _is(value, "pandas", "DataFrame"), _write_frame, _read_frame, "pandas"),
    Format("series", lambda value: _is(value, "pandas", "Series"), _write_series, _read_series, "pandas"),
    Format(
        "arrow",
        lambda value: _is(value, "pyarrow", "Table"),
        _write_arrow,
        lambda body: _read_arrow(body).read_all(),
        "pyarrow",
    ),
    Format(
        "arrow-batch",
        lambda value: _is(value, "pyarrow", "RecordBatch"),
        _write_arrow,
        lambda body: _read_arrow(body).read_next_batch(),
        "pyarrow",
    ),
)
"""In the order in which they are tried."""


def builtin_format(value: Any) -> Format | None:
    """The one of ``FORMATS`` that takes ``value``."""
    for form in FORMATS:
        if form.module in sys.modules and form.takes(value):
            return form
    return None


def way_out(kind: type) -> str:
    """Advice for a library's value without a format; empty if there is none."""
    places = [(base.__module__.partition(".")[0], base.__name__) for base in kind.__mro__]
    return next((_WAYS_OUT[place] for place in places if place in _WAYS_OUT), "")


_WAYS_OUT = {
    ("pandas", "Index"): "use index.to_series() or list(index)",
    ("pyarrow", "Array"): 'put it into a table: pyarrow.table({"name": array})',
    ("pyarrow", "ChunkedArray"): 'put it into a table: pyarrow.table({"name": array})',
}


def format_named(name: str) -> Format:
    """The format of that name, built in or installed. Raises ``KitaruFeatureNotAvailableError``."""
    for form in FORMATS:
        if form.name == name:
            return form
    installed, broken = _installed()
    if name in broken:
        raise KitaruFeatureNotAvailableError(
            f"a value was stored in the format {name!r}: {broken[name]}",
            hint="Mend that installation, or run in an environment in which the package works.",
        )
    if name not in installed:
        raise KitaruFeatureNotAvailableError(
            f"a value was stored in the format {name!r}, which neither this release nor an installed package knows",
            hint="Install the package that brings that format, or a newer Kitaru; kitaru version shows this one",
        )
    return installed[name]


GROUP = "kitaru.formats"
RESERVED = frozenset({*JSON_FORMATS, "text", "bytes", "pickle", *(form.name for form in FORMATS)})
"""Names that no other package can give its format."""


class BadFormat(TypeError):
    """An installed package's format failed, or gave no usable bytes; the message names it and the reason."""


def installed_format(value: Any) -> tuple[Format | None, tuple[str, ...]]:
    """The first installed format, by name, that takes ``value``; beside it the faults of the others."""
    installed, broken = _installed()
    faults = list(broken.values())
    for form in installed.values():
        try:
            if form.takes(value):
                return form, tuple(faults)
        except (Exception, SystemExit) as error:  # one package's mistake is nothing to the values of others
            faults.append(f"the format {form.name!r} failed when it was asked: {_words(error)}")
    return None, tuple(faults)


def _added(name: str, owner: str, point: str, made: Any) -> Format:
    """``made``, a module or an object, as a format: ``AttributeError`` if it lacks one of the three functions."""
    origin = f"{owner} ({point})"
    write, read = made.write, made.read

    def write_bytes(value: Any) -> bytes:
        body = _tried(write, value, f"{origin} can't write it")
        if type(body) is bytes and body:
            return body
        kind = type(body).__name__ if type(body) is not bytes else "no bytes, which nothing can be read back from"
        raise BadFormat(f"{origin}: its write() returned {kind}, expected bytes")

    return Format(name, made.takes, write_bytes, lambda body: _tried(read, body, f"{origin} can't read it"), module="")


def _tried(function: Callable[[Any], Any], argument: Any, problem: str) -> Any:
    try:
        return function(argument)
    except (Exception, SystemExit) as error:
        raise BadFormat(f"{problem}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


@cache
def _installed() -> tuple[dict[str, Format], dict[str, str]]:
    """The formats of other packages by name, and the faults of unusable ones."""
    # Late: it takes as long to load as all of this, and most flows have no such value.
    from importlib.metadata import entry_points

    formats: dict[str, Format] = {}
    broken: dict[str, str] = {}
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    for name, same in groupby(points, key=lambda point: point.name):
        named = list(same)
        owners = [point.dist.name if point.dist is not None else point.value for point in named]
        owner = f"the format {name!r} of package {' and of package '.join(owners)}"
        if name in RESERVED or len(named) > 1:
            broken[name] = f"{owner} has a name that is taken"
            continue
        try:
            formats[name] = _added(name, owner, named[0].value, named[0].load())
        except (Exception, SystemExit) as error:  # the import runs code of that package
            broken[name] = f"{owner} can't be loaded: {_words(error)}"
    return formats, broken
