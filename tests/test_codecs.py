"""Values come back equal and of the same type, or are refused by name."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import hashlib
import importlib.util
import json
import math
import pathlib
import subprocess
import sys
import threading
import uuid
import zoneinfo
from typing import Any, NamedTuple

import numpy
import pandas
import pyarrow
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kitaru import errors
from kitaru.model.event import Value
from kitaru.values.digests import PREVIEW_LIMIT, digest_arguments
from kitaru.values.stored import INLINE_LIMIT, decode, encode


class Colour(enum.Enum):
    RED = "red"
    BLUE = ("b", 1)


class Level(enum.IntEnum):
    LOW = 1


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Part:
    name: str
    sizes: tuple[int, ...]
    made: dt.date
    colour: Colour = Colour.RED
    computed: int = dataclasses.field(init=False, default=0)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    inner: Point


class Order(pydantic.BaseModel):
    id: uuid.UUID
    at: dt.datetime
    lines: list[tuple[str, decimal.Decimal]]


class Login(pydantic.BaseModel):
    password: pydantic.SecretStr


class Aliased(pydantic.BaseModel):
    value: int = pydantic.Field(alias="theValue")


def there_and_back(value: Any, limit: int = INLINE_LIMIT) -> Any:
    """Through JSON text, as a journal entry does it."""
    encoded = encode(value, subject="the result of checkpoint 'x'", inline_limit=limit)
    record = Value.from_json(json.loads(json.dumps(encoded.value.to_json(), allow_nan=False)))
    assert record.size == len(encoded.body)
    assert (record.stored == "object") is (len(encoded.body) > limit)
    return decode(record, encoded.body if encoded.apart else None, subject="it")


def same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down; NaN equals itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
richer = st.recursive(
    json_like
    | st.binary(max_size=9)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: (
        st.tuples(inner, inner)
        | st.dictionaries(
            st.integers() | st.tuples(st.text(max_size=2), st.integers()) | st.just("$type"), inner, max_size=3
        )
        | st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


@given(json_like | richer, st.sampled_from([0, INLINE_LIMIT]))
def test_any_json_like_and_richer_value_comes_back_the_same(value: Any, limit: int) -> None:
    """Equal and of the same types, inline or as an object, NaN and infinities included."""
    assert same(there_and_back(value, limit), value)


@pytest.mark.parametrize(
    "value",
    [
        Colour.RED,
        Colour.BLUE,
        Level.LOW,
        Rights.READ | Rights.WRITE,
        Point(1, 2.5),
        Part("a", (1, 2), dt.date(2026, 1, 2)),
        Frozen(Point(3, 4.0)),
        {"parts": [Part("b", (), dt.date(2026, 1, 2), Colour.BLUE)]},
        Order(id=uuid.uuid4(), at=dt.datetime(2026, 1, 2, tzinfo=dt.UTC), lines=[("x", decimal.Decimal("1.10"))]),
        Aliased(theValue=3),
        {1, 2, 3},
        frozenset({("a", 1)}),
        complex(1, -2),
        range(1, 9, 2),
        bytearray(b"xy"),
        pathlib.Path("/tmp/x"),
        pathlib.PurePosixPath("a/b"),
        fractions.Fraction(1, 3),
        dt.time(1, 2, 3, 4),
        dt.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        dt.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        decimal.Decimal("1E+30"),
        {"$type": "tuple", "value": [1]},
        {"a": {"$type": 3}},
        float("inf"),
        -0.0,
        "\ud800 alone",
        10**50,
        numpy.float64(1.5),
        numpy.int32(7),
        numpy.bool_(True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_come_back(value: Any) -> None:
    """Each of these is stored as readable JSON and comes back as what it was."""
    back = there_and_back(value)
    assert type(back) is type(value) or isinstance(value, pathlib.PurePath)
    assert back == value
    assert repr(back) == repr(value) or isinstance(value, pydantic.BaseModel)


def test_time_zones_keep_their_name() -> None:
    """A zoned time is still in that zone, not only at that offset."""
    back = there_and_back(dt.datetime(2026, 7, 1, 12, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
    assert back.tzinfo == zoneinfo.ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(12).reshape(3, 4),
        numpy.array(3.5),
        numpy.array([], dtype="U3"),
        numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        numpy.asfortranarray(numpy.ones((2, 3))),
        numpy.array(["2026-01-01"], dtype="datetime64[D]"),
    ],
    ids=str,
)
def test_arrays_come_back_alone_and_inside_other_values(array: Any) -> None:
    """Alone in NumPy's own format, nested as tagged JSON; the same numbers, shape and dtype."""
    assert encode(array, subject="it").value.format == "numpy"
    for back in (there_and_back(array), there_and_back({"deep": [array]})["deep"][0]):
        assert back.dtype == array.dtype and back.shape == array.shape
        assert numpy.array_equal(back, array)


def test_frames_and_tables_come_back_or_are_refused() -> None:
    """Parquet and Arrow keep them; what Parquet would change is an error, not a surprise."""
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", None], "c": pandas.to_datetime(["2026-01-01", None])})
    assert encode(frame, subject="it").value.format == "parquet"
    assert there_and_back(frame).equals(frame)
    table = pyarrow.table({"a": [1, 2]})
    assert there_and_back(table) == table
    with pytest.raises(errors.KitaruValueError, match="name the columns with text"):
        encode(pandas.DataFrame({1: [2], "a": [3]}), subject="it")
    with pytest.raises(errors.KitaruValueError):
        encode(numpy.array([object()]), subject="it")


@pytest.mark.parametrize(
    ("frame", "form"),
    [
        (pandas.DataFrame(numpy.eye(2)), "parquet"),
        (pandas.DataFrame(numpy.eye(2), columns=pandas.MultiIndex.from_product([["a"], ["x", "y"]])), "parquet"),
        (pandas.Series([1.5, None], name="x"), "series"),
        (pandas.Series(["a"], index=pandas.date_range("2026-01-01", periods=1, tz="Europe/Paris")), "series"),
    ],
    ids=["columns without names", "two rows of names", "series", "series by time"],
)
def test_pandas_comes_back_alone_and_inside_other_values(frame: Any, form: str) -> None:
    """Names, index and types are what they were; a mapping of frames is stored as well as one."""
    assert encode(frame, subject="it").value.format == form
    for back in (there_and_back(frame), there_and_back({"deep": [frame]})["deep"][0]):
        if isinstance(frame, pandas.Series):
            pandas.testing.assert_series_equal(back, frame, check_freq=False)
        else:
            pandas.testing.assert_frame_equal(back, frame)


@pytest.mark.parametrize(
    "value",
    [
        pandas.Timestamp("2026-10-25T01:30:00.000000001Z").tz_convert("Europe/Paris"),
        pandas.Timestamp(year=2300, month=1, day=1).as_unit("s"),
        pandas.Timestamp("2026-01-01T00:00+05:30"),
        pandas.Timedelta(days=-1, nanoseconds=7),
        collections.OrderedDict(b=1, a=(2,)),
        collections.defaultdict(list, {1: [2]}),
        collections.Counter("aab"),
        collections.deque([1, (2,)], 3),
        pyarrow.record_batch({"a": [1, 2]}),
    ],
    ids=repr,
)
def test_values_of_the_libraries_come_back_as_they_were(value: Any) -> None:
    """Equal, of the same type, with the same zone, unit, factory and bound; as arguments they are told apart."""
    back = there_and_back([value])[0]
    assert back == value and type(back) is type(value) and repr(back) == repr(value)
    assert '"opaque"' not in json.dumps(digest_arguments({"a": value})[1])


def test_a_long_text_has_the_digest_of_its_json() -> None:
    """Hashed piece by piece, it counts as it would in one, wherever the pieces meet."""
    long = 'é"\\\U0001f600\ud800' * 300_000
    arguments = {"b": long, "a": [1], "c": "short"}
    text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    assert digest_arguments(arguments)[0] == hashlib.sha256(text.encode()).hexdigest()


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def local_class() -> Any:
    @dataclasses.dataclass
    class Local:
        a: int

    return Local(1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (threading.Lock, "_thread:lock"),
        (lambda: {"a": [threading.Lock()]}, r"\(dict\) holds a _thread:lock"),
        (lambda: collections.defaultdict(lambda: 1, a=1), "its default_factory '<lambda>'"),
        (lambda: pandas.Index([1]), "index.to_series"),
        (lambda: pyarrow.array([1]), "put it into a table"),
        (lambda: [pandas.DataFrame({"a": [1, "x"]})], "holds a pandas:DataFrame"),
        (lambda: pandas.Series([1], name=(1, 2)), "rename it"),
        (lambda: lambda: 1, "function"),
        (cyclic, "contains itself"),
        (local_class, "top of a module"),
        (lambda: Login(password="x"), "not equal to itself"),
        (lambda: (i for i in [1]), "generator"),
    ],
)
def test_what_cannot_be_stored_is_named(make: Any, told: str) -> None:
    """The error names the checkpoint and the type, and says what to do."""
    with pytest.raises(errors.KitaruValueError, match=told) as caught:
        encode(make(), subject="the result of checkpoint 'collect'")
    assert "checkpoint 'collect'" in str(caught.value) and "pickle" in caught.value.hint


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"$type": "dataclass", "class": "tests.test_codecs:Gone", "value": {}}, "Gone can't be found"),
        ({"$type": "dataclass", "class": "no.such.module:Gone", "value": {}}, "can't be found"),
        ({"$type": "dataclass", "class": "tests.test_codecs:Part", "value": {"name": "x", "old": 1}}, "no field old"),
        ({"$type": "dataclass", "class": "tests.test_codecs:Part", "value": {"name": "x"}}, "missing"),
        ({"$type": "enum", "class": "tests.test_codecs:Colour", "value": "green"}, "green"),
        ({"$type": "model", "class": "tests.test_codecs:Order", "value": {"id": "x"}}, "Order"),
        ({"$type": "hologram"}, "hologram"),
    ],
)
def test_types_that_no_longer_fit_fail_loudly(tree: Any, told: str) -> None:
    """Never None, never a dict in place of a class: KitaruValueError."""
    record = Value("json+types", 1, "0" * 64, "inline", tree, "tests.test_codecs:Part")
    with pytest.raises(errors.KitaruValueError, match=told):
        decode(record, None, subject="the result of checkpoint 'x'")


def test_objects_are_verified() -> None:
    """Missing and changed bytes are integrity errors."""
    encoded = encode(b"abc", subject="it", inline_limit=0)
    assert decode(encoded.value, b"abc", subject="it") == b"abc"
    for body in (None, b"abd"):
        with pytest.raises(errors.KitaruIntegrityError):
            decode(encoded.value, body, subject="it")


def test_classes_of_a_script_are_found_where_the_script_was_loaded() -> None:
    """A class recorded in ``__main__`` is looked for in the flow's module first."""
    tree = {"$type": "namedtuple", "class": "__main__:Point", "value": [1, 2.0]}
    record = Value("json+types", 1, "0" * 64, "inline", tree)
    assert decode(record, None, subject="it", home="tests.test_codecs") == Point(1, 2.0)


def test_a_module_under_another_name_is_the_same_module(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file loaded as a script and later by a runner: values come back, and arguments keep their digests."""
    path = tmp_path / "shop_flow.py"
    path.write_text("import dataclasses\n@dataclasses.dataclass\nclass Item:\n    n: int\n")
    modules = {}
    for name in ("shop_script", "shop_runner"):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        modules[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, modules[name])
        spec.loader.exec_module(modules[name])
    script, runner = modules.values()
    assert (
        digest_arguments({"item": script.Item(1)}, "shop_script")[0]
        == digest_arguments({"item": runner.Item(1)}, "shop_runner")[0]
        != digest_arguments({"item": runner.Item(1)}, "elsewhere")[0]
    )
    record = encode(script.Item(1), subject="it").value
    assert type(decode(record, None, subject="it", home="shop_runner")) is script.Item, "still loaded: itself"
    monkeypatch.delitem(sys.modules, "shop_script")
    assert decode(record, None, subject="it", home="shop_runner") == runner.Item(1)


def test_null_inline_is_not_an_object() -> None:
    """None stored inline and a value stored apart are told apart in JSON."""
    record = encode(None, subject="it").value
    assert record.to_json()["inline"] is None
    assert Value.from_json(record.to_json()).stored == "inline"
    apart = encode(None, subject="it", inline_limit=0).value
    assert "inline" not in apart.to_json() and Value.from_json(apart.to_json()).stored == "object"


@given(st.dictionaries(st.text(max_size=4), richer, max_size=4))
def test_equal_arguments_have_equal_digests_whatever_their_order(arguments: dict[str, Any]) -> None:
    """The digest depends on names and values, not on the order in which they were given."""
    turned = dict(reversed(arguments.items()))
    digest, preview = digest_arguments(arguments)
    assert digest_arguments(turned)[0] == digest
    assert digest_arguments({**arguments, "one more": 1})[0] != digest
    if preview is not None:
        assert len(json.dumps(preview, separators=(",", ":"))) <= 2 * PREVIEW_LIMIT


def test_large_arguments_count_by_their_bytes() -> None:
    """Bytes, arrays and frames that differ in one place are other arguments; equal ones are not."""
    frame = pandas.DataFrame({"a": range(1000)})
    for make in (
        lambda n: bytes([n]) * 5000,
        lambda n: numpy.full(1000, n),
        lambda n: frame + n,
        lambda n: {1: n, 2: 0},
    ):
        assert digest_arguments({"x": [make(1)]})[0] == digest_arguments({"x": [make(1)]})[0]
        assert digest_arguments({"x": [make(1)]})[0] != digest_arguments({"x": [make(2)]})[0]
    assert digest_arguments({"x": {1: 2, 3: 4}}) == digest_arguments({"x": {3: 4, 1: 2}})
    assert digest_arguments({"x": pandas.DataFrame({1: [2]})})[0]


def test_types_tell_arguments_apart() -> None:
    """1, True, 1.0, "1", (1,) and [1] are six different arguments."""
    values: list[Any] = [1, True, 1.0, "1", (1,), [1], {1}, b"1", None, float("nan")]
    assert len({digest_arguments({"a": value})[0] for value in values}) == len(values)


def test_clients_and_lambdas_count_by_their_type() -> None:
    """What has no stored form does not keep a call from being made, alone or nested."""
    one = digest_arguments({"client": threading.Lock(), "deep": [{"f": print}]})[0]
    assert one == digest_arguments({"client": threading.Lock(), "deep": [{"f": len}]})[0]
    assert one != digest_arguments({"client": object(), "deep": [{"f": print}]})[0]
    assert digest_arguments({"a": local_class()})[0] == digest_arguments({"a": local_class()})[0]
    assert digest_arguments({"a": cyclic(), "b": 1})[0] != digest_arguments({"a": cyclic(), "b": 2})[0]
    assert digest_arguments({"a": 10**5000})[0]


def test_the_preview_of_arguments_does_not_change_with_them() -> None:
    """What is kept for people is what was passed, also where the caller changes it afterwards."""
    items = [1]
    _, preview = digest_arguments({"items": items})
    items.append(2)
    assert preview == {"items": [1]}
    assert digest_arguments({"text": "x" * 5000})[1] is None


def test_digests_are_the_same_in_every_process() -> None:
    """Hash randomisation and dict order leave no trace."""
    code = (
        "from kitaru.values.digests import digest_arguments as d; print(d({'b': {'x', 'y', 'z'}, 'a': ({1: 2},)})[0])"
    )
    found = {
        subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=pathlib.Path.cwd())
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
