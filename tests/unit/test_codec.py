"""Values cross exactly, or are refused by name; bytes from a file give a value or a DecodeError."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import crossing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import codec
from spoolkit.errors import ArgumentTypeError, ConfigurationError, DecodeError

zones = st.one_of(
    st.none(),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23))),
    st.builds(timezone, st.just(timedelta(hours=1)), st.text(st.characters(codec="utf-8"), max_size=5)),
    st.sampled_from([timezone.utc, ZoneInfo("UTC"), ZoneInfo("Europe/Rome"), ZoneInfo("Asia/Kolkata")]),
)
text = st.text(st.characters(codec="utf-8"))
hashable = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**63, max_value=2**300),
    st.floats(allow_nan=False),
    text,
    st.binary(),
    st.datetimes(timezones=zones, allow_imaginary=True),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.sampled_from([Decimal("-0"), Decimal("1E+999999999"), Decimal("1" * 5000)]),
    st.uuids(),
    st.sampled_from([*crossing.Colour, *crossing.Level, *crossing.Word, crossing.Right.READ | crossing.Right.WRITE]),
    st.builds(PosixPath, st.sampled_from(["/a/b", "c", "ü/ "])),
    st.sampled_from([PurePosixPath("/x"), PureWindowsPath("C:\\x")]),
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(text | st.sampled_from(["$", "$tuple", "$dict", "$bytes"]), inner, max_size=4),
        st.builds(crossing.Point, inner, inner),
        st.builds(crossing.Slotted, st.integers(), text),
        st.builds(crossing.Fixed, text, st.builds(crossing.Point, inner)),
    )


values = st.recursive(
    hashable | st.sets(hashable, max_size=4) | st.frozensets(hashable, max_size=4), nested, max_leaves=12
)


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same types all the way down; times to the zone and the fold."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (datetime, time)):
        naive = a.replace(tzinfo=None) == b.replace(tzinfo=None)
        return naive and a.fold == b.fold and repr(a.tzinfo) == repr(b.tzinfo)
    if is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    if isinstance(a, (set, frozenset)):
        return bool(a == b)
    return bool(a == b) and repr(a) == repr(b)


@given(values)
def test_what_crosses_comes_back(value: object) -> None:
    assert same(codec.decode(codec.encode(value)), value)


@pytest.mark.parametrize("value", [1 << 66_000, -1 << 66_000, 2**64, -(2**64), 2**63], ids=int.bit_length)
def test_integers_of_any_size_cross(value: int) -> None:
    assert codec.decode(codec.encode(value)) == value  # Python itself reads and writes no more than 4,300 digits


@given(st.lists(values, max_size=3), st.dictionaries(text, values, max_size=3))
def test_a_call_comes_back(args: list[object], kwargs: dict[str, object]) -> None:
    back_args, back_kwargs = codec.decode_call(codec.encode_call(tuple(args), kwargs))
    assert len(back_args) == len(args)
    assert back_kwargs.keys() == kwargs.keys()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0])
def test_the_odd_floats_cross(value: float) -> None:
    assert repr(codec.decode(codec.encode(value))) == repr(value)


@pytest.mark.parametrize("value", ["NaN", "sNaN", "-Infinity", "NaN123"])
def test_the_odd_decimals_cross(value: str) -> None:
    assert str(codec.decode(codec.encode(Decimal(value)))) == value


def test_equal_sets_have_equal_bytes() -> None:
    assert codec.encode({"a", "b", "c"}) == codec.encode({"c", "b", "a"})


class Local(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)


@dataclass
class Extra:
    a: int


def with_extra() -> Extra:
    value = Extra(1)
    value.b = 2  # type: ignore[attr-defined]
    return value


def circular() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


class Money(int):
    pass


@pytest.mark.parametrize(
    ("value", "where", "says"),
    [
        (object(), "it", "object"),
        ([1, [object()]], "it[1][0]", "register"),
        ({"a b": {"c": object()}}, "it['a b']['c']", "register"),
        (crossing.Point(1, y=(2, object())), "it.y[1]", "register"),
        ({object()}, "it{}", "register"),
        (bytearray(b"x"), "it", "bytes(value)"),
        (memoryview(b"x"), "it", "bytes(value)"),
        ((i for i in ()), "it", "list(value)"),
        (len, "it", "function"),
        (lambda: None, "it", "function"),
        (threading.Lock(), "it", "register"),
        (Money(5), "it", "Money"),
        ({1: 2}, "it", "keys"),
        ("\ud800", "it", "surrogate"),
        ({"\ud800": 1}, "it", "surrogate"),
        (PosixPath("/\udcff"), "it", "surrogate"),
        (datetime(2026, 1, 1, tzinfo=Local()), "it", "zone"),
        (with_extra(), "it", "no field"),
        (Enum("Made", "ONE").ONE, "it", "cannot find"),  # type: ignore[attr-defined]
        (make_dataclass("Made", ["a"])(1), "it", "cannot find"),
    ],
)
def test_the_rest_is_refused_by_name(value: object, where: str, says: str) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        codec.encode(value, argument="it")
    assert refused.value.argument == where
    assert where in str(refused.value)
    assert says in str(refused.value)
    assert isinstance(refused.value, TypeError)


def test_what_contains_itself_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="contains itself"):
        codec.encode(circular(), argument="it")


def test_a_main_modules_class_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing.Slotted, "__module__", "__main__")
    with pytest.raises(ArgumentTypeError, match="cannot find"):
        codec.encode(crossing.Slotted(1, "b"))


def test_positional_arguments_are_named() -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        codec.encode_call((1, object()), {}, ["first", "second"])
    assert refused.value.argument == "second"


def test_a_cached_property_does_not_hinder() -> None:
    point = crossing.Point(1)
    assert point.seen == "cached"
    assert codec.decode(codec.encode(point)) == point


def test_a_field_that_is_new_takes_its_default() -> None:
    assert codec.decode(b'{"$dataclass":["crossing:Point",{"x":1}]}') == crossing.Point(1)


# -- bytes from a file ---------------------------------------------------------------------------------------------

tags = st.sampled_from([*codec._DECODERS, *codec._CONTAINERS, "$dict", "$dataclass", "$celsius:", "$nobody", "$"])
trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["crossing:Point", "os:system"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tags | st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@given(st.binary() | trees.map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes_give_a_value_or_our_error(data: bytes) -> None:
    for read in (codec.decode, codec.decode_call):
        with contextlib.suppress(DecodeError):
            read(data)


@given(values, st.data())
def test_damaged_bytes_give_a_value_or_our_error(value: object, draw: st.DataObject) -> None:
    data = bytearray(codec.encode(value))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        codec.decode(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b"[" * 500 + b"]" * 500,
        b"1" * 5000,
        b"NaN",
        b'{"$set":[[]]}',
        b'{"$tuple":[], "b":1}',
        b'{"$enum":["crossing:Colour","BLUE"]}',
        b'{"$enum":["crossing:Point","x"]}',
        b'{"$dataclass":["crossing:Colour",{}]}',
        b'{"$dataclass":["crossing:Point",{}]}',
        b'{"$dataclass":["crossing:Point",{"x":1,"z":2}]}',
        b'{"$datetime":["2026-01-01",0,["key","../../etc/passwd"]]}',
    ],
)
def test_bad_bytes(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data)


def test_a_name_from_a_file_imports_nothing() -> None:
    module = "this"  # prints a poem when it is imported, and nobody does
    sys.modules.pop(module, None)
    with pytest.raises(DecodeError, match="not to be found"):
        codec.decode(b'{"$dataclass":["this:d",{}]}')
    assert module not in sys.modules


def test_a_name_from_a_file_calls_nothing() -> None:
    for reference in ("os:system", "subprocess:Popen", "crossing:Point.__init__", "builtins:eval"):
        with pytest.raises(DecodeError):
            codec.decode(json.dumps({"$dataclass": [reference, {}]}).encode())
        with pytest.raises(DecodeError):
            codec.decode(json.dumps({"$enum": [reference, "x"]}).encode())


# -- types of the application's own --------------------------------------------------------------------------------


@pytest.fixture
def celsius(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_by_tag", {})
    monkeypatch.setattr(codec, "_by_type", {})
    codec.register(crossing.Celsius, tag="celsius", encode=lambda v: v.degrees, decode=crossing.Celsius)


@pytest.mark.usefixtures("celsius")
def test_a_registered_type_crosses() -> None:
    assert codec.decode(codec.encode([crossing.Celsius(21.5)])) == [crossing.Celsius(21.5)]


@pytest.mark.usefixtures("celsius")
def test_a_module_executed_again_registers_again() -> None:
    again = type("Celsius", (crossing.Celsius,), {"__module__": "crossing"})
    codec.register(again, tag="celsius", encode=lambda v: v.degrees, decode=again)
    assert type(codec.decode(codec.encode(again(1.0)))) is again


@pytest.mark.usefixtures("celsius")
@pytest.mark.parametrize(
    ("cls", "tag"),
    [(UUID, "celsius"), (UUID, "uuid"), (dict, "d"), (date, "d"), (crossing.Level, "l"), (threading.Thread, "celsius"),
     (threading.Thread, ""), (threading.Thread, "a b"), (crossing.Celsius, "other")],
)  # fmt: skip
def test_a_registration_that_cannot_be(cls: type, tag: str) -> None:
    with pytest.raises(ConfigurationError):
        codec.register(cls, tag=tag, encode=str, decode=str)


@pytest.mark.usefixtures("celsius")
def test_a_decoder_that_fails_is_our_error() -> None:
    codec.register(threading.Thread, tag="thread", encode=lambda v: v.name, decode=lambda v: 1 / 0)
    with pytest.raises(DecodeError, match="ZeroDivisionError"):
        codec.decode(codec.encode(threading.Thread(name="t")))
