"""Large arrays and frames are stored as small ones are, without a second copy of them."""

from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy
import pandas
import pytest

from kitaru.errors import KitaruValueError
from kitaru.values.digests import digest_arguments
from kitaru.values.stored import decode, encode

NUMBERS = numpy.random.default_rng(0).random(1 << 20)


@pytest.mark.parametrize(
    "array",
    [
        NUMBERS,
        NUMBERS.reshape(1024, 1024),
        numpy.asfortranarray(NUMBERS.reshape(1024, 1024)),
        NUMBERS.reshape(1024, 1024)[:, ::2],
        NUMBERS[::-1],
        NUMBERS.astype(">f4"),
        NUMBERS.view("M8[s]"),
        NUMBERS.view([("a", "f4"), ("b", "f4")]),
        NUMBERS.view([("a" * 70_000, "f4"), ("é", "f4")]),
        NUMBERS.reshape(1 << 20, 1)[:, 0:1],
        NUMBERS.astype("f2") > 0.5,
        numpy.array("x" * (1 << 20)),
    ],
    ids=lambda array: f"{array.dtype.kind}{array.ndim}",
)
@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_a_large_array_has_the_bytes_that_numpy_gives_it(array: Any) -> None:
    """Whatever its order, type and shape, and its digest is that of these bytes."""
    plain = io.BytesIO()
    numpy.save(plain, array, allow_pickle=False)
    stored = encode(array, subject="it")
    assert bytes(stored.body) == plain.getvalue()
    back = decode(stored.value, stored.body, subject="it")
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_a_large_array_is_not_copied_to_be_stored_or_told_apart() -> None:
    """Encoding eight megabytes, and digesting them as an argument, takes less than one."""
    tracemalloc.start()
    try:
        stored = encode(NUMBERS, subject="it")
        digest_arguments({"numbers": NUMBERS})
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert len(stored.body) > NUMBERS.nbytes


FRAME = pandas.DataFrame(NUMBERS[:8000].reshape(1000, 8), columns=["a", "a.b", "b.a", "c", "d", "e.", "", "f"])


@pytest.mark.parametrize(
    "frame",
    [
        FRAME,
        FRAME.set_index("c"),
        FRAME.set_index(["a.b", "a"]),
        FRAME.set_index(pandas.date_range("2026-01-01", periods=1000, name="when")),
        FRAME.rename_axis(columns="side"),
        FRAME.assign(c=FRAME["c"].astype(str), d=FRAME["d"].round().astype("Int64"), f=FRAME["f"] > 0.5),
        FRAME.assign(c=FRAME["c"].round(1).astype(str).astype("category")),
        FRAME.rename(columns=dict(zip(FRAME.columns, range(8), strict=True))),
    ],
)
def test_a_frame_comes_back(frame: Any) -> None:
    """With its index, types and names, also where one column's name begins another's."""
    stored = encode(frame, subject="it")
    assert stored.value.format == "parquet"
    pandas.testing.assert_frame_equal(decode(stored.value, stored.body, subject="it"), frame, check_freq=False)


def test_a_frame_that_does_not_come_back_is_refused_by_column() -> None:
    """One column of tuples, which Parquet would return as arrays."""
    frame = FRAME.assign(d=[(1, 2)] * 1000)
    with pytest.raises(KitaruValueError, match="column 'd' is not equal to itself"):
        encode(frame, subject="it")
