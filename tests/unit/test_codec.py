"""Values are decoded exactly as they were, or refused by name; other bytes raise a DecodeError."""

from __future__ import annotations

import contextlib
import enum
import functools
import importlib.util
import io
import json
import math
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any, Generic, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import crossing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolkit.encoding import codec
from spoolkit.errors import ArgumentTypeError, ConfigurationError, DecodeError

T = TypeVar("T")
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2
    FAR = 1 << 80


class Odd(Enum):
    """An Enum that overrides what every Enum has, and makes members that it does not list."""

    FIRST = 1

    @property
    def name(self) -> str:
        return "not its name"

    @classmethod
    def _missing_(cls, value: object) -> Odd:
        made = object.__new__(cls)
        made._name_, made._value_ = "MADE", value
        return made


@dataclass(frozen=True)
class Slots:
    __slots__ = ("a", "b")
    a: object
    b: object


@dataclass
class Box(Generic[T]):
    inner: T


@dataclass
class OwnNew:
    a: object

    def __new__(cls, *args: object) -> OwnNew:
        if not args:
            raise TypeError("run by the decoder")
        return super().__new__(cls)


@dataclass
class Mapping(dict[str, int]):
    a: int


@dataclass
class Failure(Exception):
    a: int


class Hidden:
    __slots__ = ("hidden",)


@dataclass
class Hiding(Hidden):
    __slots__ = ("a",)
    a: int


offsets = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59))
text = st.text(st.characters(codec="utf-8"))
zones = st.one_of(
    st.none(),
    st.builds(timezone, offsets),
    st.builds(timezone, offsets, text),
    st.sampled_from([UTC, ZoneInfo("UTC"), ZoneInfo("Europe/Rome"), ZoneInfo("Asia/Kolkata")]),
)


def folded(moment: Any, fold: int) -> Any:
    return moment.replace(fold=fold)


folds = st.integers(0, 1)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**63, max_value=2**300),
    st.floats(),
    text,
    st.binary(),
    st.builds(folded, st.datetimes(timezones=zones, allow_imaginary=True), folds),
    st.dates(),
    st.builds(folded, st.times(timezones=zones), folds),
    st.timedeltas(),
    st.decimals().filter(lambda value: not value.is_snan()),  # which no set takes
    st.sampled_from([Decimal("-0"), Decimal("1E+999999999"), Decimal("1E-999999999"), Decimal("-0.10")]),
    st.uuids(),
    st.sampled_from([*crossing.Colour, *crossing.Level, *crossing.Word, *crossing.Right, *Odd]),
    st.sampled_from([crossing.Right.READ | crossing.Right.WRITE, crossing.Right(0), Bits.ONE | Bits.FAR, Bits(4)]),
    st.builds(PosixPath, text),
    st.builds(PurePosixPath, text, text),
    st.sampled_from([PureWindowsPath("C:\\x"), PureWindowsPath("a:b"), PureWindowsPath("//server/share/ü")]),
)
hashable = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3), st.builds(Slots, inner, inner)
    ),
    max_leaves=4,
)


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(text | st.sampled_from(["$", "$tuple", "$dict", "$bytes"]), inner, max_size=4),
        st.builds(crossing.Point, inner, inner),
        st.builds(crossing.Slotted, st.integers(), text),
        st.builds(crossing.Fixed, text, st.builds(crossing.Point, inner)),
        st.builds(Slots, inner, inner),
        st.builds(Box[Any], inner),
        st.builds(OwnNew, inner),
    )


values = st.recursive(hashable | st.sets(hashable, max_size=4), nested, max_leaves=12)


plain = st.recursive(
    st.none() | st.booleans() | st.floats() | text | st.integers() | st.integers(2**64 - 2, 2**64 + 2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | st.just("$bytes"), inner, max_size=3),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    """Return whether both are equal and of the same types at all levels; times with zone, offset and fold."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, (datetime, time)):
        moments = [(m.replace(tzinfo=None), m.fold, type(m.tzinfo), repr(m.tzinfo), m.utcoffset()) for m in (a, b)]
        return moments[0] == moments[1]
    if is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    return repr(a) == repr(b) and bool(a == b or a != a)


@given(values)
@steady
def test_values_of_supported_types_are_decoded_as_they_were(value: object) -> None:
    assert same(codec.decode(codec.encode(value)), value)


@pytest.mark.parametrize(
    "value", [1 << 66_000, -1 << 66_000, 2**64, -(2**64), 2**64 - 1, 2**63], ids=lambda value: str(value.bit_length())
)
def test_integers_of_any_size_are_decoded_as_they_were(value: int) -> None:
    assert codec.decode(codec.encode(value)) == value  # Python itself reads and writes at most 4,300 digits


@given(st.lists(values, max_size=3).map(tuple), st.dictionaries(text, values, max_size=3))
@steady
def test_decode_call_gives_the_arguments_of_encode_call(args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    assert same(codec.decode_call(codec.encode_call(args, kwargs)), (args, kwargs))


@given(st.lists(plain, max_size=3).map(tuple), st.dictionaries(text | st.just("$tuple"), plain, max_size=3))
@steady
def test_arguments_of_json_types_are_encoded_by_one_call_as_they_are_one_by_one(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    data = codec.encode_call(args, kwargs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_plain", lambda *_: None)
        assert codec.encode_call(args, kwargs) == data


@pytest.mark.parametrize("make", [json.encoder.c_make_encoder, None])  # type: ignore[attr-defined]
def test_each_encoder_of_json_gives_the_same_bytes(make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", make)  # another Python has none
    monkeypatch.setattr(codec, "_to_text", codec._make_to_text())
    call = codec.encode_call((1, -0.5, "ü\n\u2028/", None, True, [], {"a": [{}]}), {"b": 2**64 - 1, "c": (b"x",)})
    assert call.decode() == (
        '[[1,-0.5,"ü\\n\u2028/",null,true,[],{"a":[{}]}],{"b":18446744073709551615,"c":{"$tuple":[{"$bytes":"eA=="}]}}]'
    )


def test_encode_call_accepts_any_name_of_an_argument() -> None:
    kwargs = dict.fromkeys(["at", "body", "id", "args", "self", "names", "$tuple", "class", "ü"], 1)
    assert codec.decode_call(codec.encode_call((), kwargs, [])) == ((), kwargs)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324])
def test_floats_without_a_json_form_are_decoded_as_they_were(value: float) -> None:
    assert repr(codec.decode(codec.encode(value))) == repr(value)


@pytest.mark.parametrize(
    "value", ["NaN", "-NaN", "sNaN", "-Infinity", "NaN123", "-0E-7", "1" * 5000], ids=lambda value: value[:9]
)
def test_unusual_decimals_are_decoded_as_they_were(value: str) -> None:
    assert str(codec.decode(codec.encode(Decimal(value)))) == value


def test_equal_sets_have_equal_bytes() -> None:
    assert codec.encode({"a", "b", "c"}) == codec.encode({"c", "b", "a"})


@given(st.text("ab:./\\ ?", max_size=6))
@steady
def test_a_windows_path_is_decoded_as_it_was_or_refused(text: str) -> None:
    path = PureWindowsPath(text)
    with contextlib.suppress(ArgumentTypeError):  # before Python 3.12 "./a:b" becomes the text of a path on drive a:
        back = codec.decode(codec.encode(path))
        assert isinstance(back, PureWindowsPath)
        assert (str(back), back.parts) == (str(path), path.parts)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"a": [1, None, "ü"]}, '{"a":[1,null,"ü"]}'),
        ((1,), '{"$tuple":[1]}'),
        ({"$x": 1}, '{"$dict":{"$x":1}}'),
        (2**64, '{"$int":"0x10000000000000000"}'),
        (math.inf, '{"$float":"inf"}'),
        (b"\xff", '{"$bytes":"/w=="}'),
        ({2, 1}, '{"$set":[1,2]}'),
        (frozenset("a"), '{"$frozenset":["a"]}'),
        (date(2026, 1, 2), '{"$date":"2026-01-02"}'),
        (timedelta(-1, 2, 3), '{"$timedelta":[-1,2,3]}'),
        (time(1, 2, fold=1), '{"$time":["01:02:00",1,null]}'),
        (datetime(2026, 1, 2, tzinfo=ZoneInfo("UTC")), '{"$datetime":["2026-01-02T00:00:00",0,["key","UTC"]]}'),
        (time(tzinfo=timezone(timedelta(hours=1), "x")), '{"$time":["00:00:00",0,["offset",0,3600,0,"x"]]}'),
        (Decimal("1.50"), '{"$decimal":"1.50"}'),
        (UUID(int=1), '{"$uuid":"00000000000000000000000000000001"}'),
        (PurePosixPath("/a"), '{"$path":["PurePosixPath","/a"]}'),
        (crossing.Colour.RED, '{"$enum":["crossing:Colour","RED"]}'),
        (crossing.Right.READ | crossing.Right.WRITE, '{"$enum":["crossing:Right",3]}'),
        (crossing.Point(1), '{"$dataclass":["crossing:Point",{"x":1,"y":null}]}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_encoding_does_not_change_between_versions(value: object, data: str) -> None:
    """Jobs wait across deploys: what an earlier version wrote must be read by a later one."""
    assert codec.encode(value) == data.encode()
    assert same(codec.decode(data.encode()), value)


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


class Late:
    """A proxy without a target, as a LocalProxy is outside a request."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("Working outside of request context.")


def hidden() -> Hiding:
    value = Hiding(1)
    value.hidden = 2  # type: ignore[attr-defined]
    return value


def unset() -> crossing.Slotted:
    value = crossing.Slotted(1, "b")
    del value.b
    return value


def zone_of_a_file() -> ZoneInfo:
    # The smallest zone there is: a header of version 1, and one type of local time.
    data = b"TZif" + bytes(16) + b"".join(n.to_bytes(4, "big") for n in (0, 0, 0, 0, 1, 4)) + bytes(6) + b"ABC\0"
    return ZoneInfo.from_file(io.BytesIO(data), key="Nowhere/At_All")


@pytest.mark.parametrize(
    ("value", "where", "says"),
    [
        (object(), "it", "spoolkit.register"),
        ([1, [object()]], "it[1][0]", "register"),
        ({"a b": {"c": object()}}, "it['a b']['c']", "register"),
        (crossing.Point(1, y=(2, object())), "it.y[1]", "register"),
        ({object()}, "it{}", "register"),
        ({"k" * 1000: object()}, None, "register"),
        (b"x".join, "it", "its name"),
        (bytearray(b"x"), "it", "bytes(value)"),
        (memoryview(b"x"), "it", "bytes(value)"),
        ((i for i in ()), "it", "list(value)"),
        (range(3), "it", "list(value)"),
        (len, "it", "its name"),
        (lambda: None, "it", "its name"),
        (functools.partial(len), "it", "its name"),
        (crossing.Point, "it", "its name"),
        (threading.Lock(), "it", "register"),
        (Money(5), "it", "int(value)"),
        (OrderedDict(a=1), "it", "dict(value)"),
        ([{1: 2}], "it[0]", "a key of argument 'it[0]' is of type int"),
        ({crossing.Word.YES: 2}, "it", "crossing.Word"),
        ("\ud800", "it", "surrogate"),
        ({"\ud800": 1}, "it", "surrogate"),
        (PosixPath("/\udcff"), "it", "surrogate"),
        ([timezone(timedelta(0), "\ud800")], None, "register"),
        ({"when": time(tzinfo=timezone(timedelta(0), "\ud800"))}, "it['when']", "surrogate"),
        (datetime(2026, 1, 1, tzinfo=Local()), "it", "zone"),
        (time(tzinfo=zone_of_a_file()), "it", "from a file"),
        (with_extra(), "it", "not a field"),
        (hidden(), "it", "'hidden', which is not a field"),
        (unset(), "it", "no value for its field 'b'"),
        (Mapping(1), "it", "derives from dict"),
        (Failure(1), "it", "derives from Exception"),
        (Odd(7), "it", "does not list"),
        (Enum("Made", "ONE").ONE, "it", "cannot find"),  # type: ignore[attr-defined]
        (make_dataclass("Made", ["a"])(1), "it", "cannot find"),
    ],
)
def test_encode_refuses_other_types_and_says_where_they_are(value: object, where: str, says: str) -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        codec.encode(value, argument="it")
    assert where is None or refused.value.argument == where
    assert where is None or where in str(refused.value)
    assert says in str(refused.value)
    assert refused.value.type_name
    assert refused.value.type_name in str(refused.value)
    assert len(str(refused.value)) < 400
    assert isinstance(refused.value, TypeError)


def test_encode_does_not_ask_a_proxy_for_its_target() -> None:
    with pytest.raises(ArgumentTypeError, match=r"Late: send its id"):
        codec.encode(Late())


def test_encode_refuses_a_value_that_contains_itself() -> None:
    with pytest.raises(ArgumentTypeError, match="contains itself") as refused:
        codec.encode({"a": circular()}, argument="it")
    assert str(refused.value.argument).startswith("it['a'][0][0]")


@pytest.mark.parametrize(
    "wrap",
    [lambda v: [v], lambda v: (v,), lambda v: {"$": v}, lambda v: frozenset([v]), crossing.Point],
    ids=["list", "tuple", "dict", "frozenset", "dataclass"],
)
def test_encode_and_decode_have_the_same_limit_of_nesting(wrap: Callable[[object], object]) -> None:
    value: object = Bits.ONE if wrap is crossing.Point else None
    for _ in range(codec.MAX_DEPTH - (value is not None)):  # the number of a flag is a level of its own
        value = wrap(value)
    assert same(codec.decode(codec.encode(value)), value)
    with pytest.raises(ArgumentTypeError, match="nests deeper than 100 levels"):
        codec.encode(wrap(value))


def test_encode_refuses_a_class_of_the_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing.Slotted, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Slotted", crossing.Slotted, raising=False)
    with pytest.raises(ArgumentTypeError, match="cannot find"):
        codec.encode(crossing.Slotted(1, "b"))


def test_encode_call_names_positional_arguments_in_errors() -> None:
    for args, kwargs, argument in [
        ((1, object()), {}, "second"),
        ((1, 2, [object()]), {}, "args[2][0]"),  # one of *args has no name of its own
        ((), {"third": {"a": object()}}, "third['a']"),
        ((), {"\ud800": 1}, "\ud800"),
    ]:
        with pytest.raises(ArgumentTypeError) as refused:
            codec.encode_call(args, kwargs, ["first", "second"])
        assert refused.value.argument == argument


def test_encode_accepts_a_dataclass_with_a_cached_property() -> None:
    point = crossing.Point(1)
    assert point.seen == "cached"
    back = codec.decode(codec.encode(point))
    assert back == point
    assert vars(back) == {"x": 1, "y": None}


def test_encode_accepts_a_generic_dataclass() -> None:
    assert codec.decode(codec.encode(Box[int](1))) == Box(1)


def test_decode_gives_a_new_field_its_default() -> None:
    assert codec.decode(b'{"$dataclass":["crossing:Point",{"x":1}]}') == crossing.Point(1)


# -- bytes from a file ---------------------------------------------------------------------------------------------

NATIVE = "tuple set frozenset dict int float bytes datetime time date timedelta decimal uuid path enum dataclass"
tags = st.sampled_from([f"${name}" for name in [*NATIVE.split(), "celsius:", "nobody", "nobody:", ""]])
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters()),  # with lone surrogates
    st.sampled_from(["crossing:Point", "crossing:Colour", "os:system", "key", "offset", "PosixPath", "2026-01-01"]),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(tags | st.text(max_size=3), inner, max_size=2),
        st.builds(lambda tag, tree: {tag: tree}, tags, inner),
    ),
    max_leaves=8,
)


def replaced(tree: Any, at: int, by: object) -> Any:
    """Return ``tree`` with one node replaced: the one to which the numbers in ``at`` lead."""
    if not isinstance(tree, (list, dict)) or not tree or at < 2:
        return by
    keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    at, turn = divmod(at, len(keys) + 1)
    tree[keys[turn - 1]] = replaced(tree[keys[turn - 1]], at, by)
    return tree


@given(st.binary() | trees.map(lambda tree: json.dumps(tree).encode()))
@steady
def test_decode_gives_a_value_or_a_decode_error_for_any_bytes(data: bytes) -> None:
    for read in (codec.decode, codec.decode_call):
        with contextlib.suppress(DecodeError):
            read(data)


@given(values, st.integers(0, 2**16), trees)
@steady
def test_decode_gives_a_value_or_a_decode_error_for_a_changed_tree(value: object, at: int, by: object) -> None:
    data = json.dumps(replaced(json.loads(codec.encode(value)), at, by)).encode()
    with contextlib.suppress(DecodeError):
        codec.encode(codec.decode(data))  # a value from a damaged file still has a supported type


@given(values, st.data())
@steady
def test_decode_gives_a_value_or_a_decode_error_for_damaged_bytes(value: object, draw: st.DataObject) -> None:
    data = bytearray(codec.encode(value))
    data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError):
        codec.decode(bytes(data))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b"[" * 500 + b"]" * 500, "nests deeper"),
        (b'{"$tuple":[' * 120 + b"]}" * 120, "nests deeper"),
        (b"1" * 5000, "4300"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b'"\\ud800"', "surrogates"),
        (b'{"\\uD800":1}', "surrogates"),
        (b'{"$set":[[]]}', "unhashable"),
        (b'{"$frozenset":[{}]}', "unhashable"),
        (b'{"$tuple":[], "b":1}', "other keys beside a tag"),
        (b'{"b":1, "$tuple":[]}', "other keys beside a tag"),
        (b'{"$tuple":{}}', "'$tuple' with dict"),
        (b'{"$int":5}', "'$int' with int"),
        (b'{"$int":"ten"}', "'$int' cannot be read"),
        (b'{"$float":"1"}', "'$float' cannot be read"),
        (b'{"$bytes":"?"}', "'$bytes' cannot be read"),
        (b'{"$decimal":"ten"}', "'$decimal' cannot be read"),
        (b'{"$decimal":"1E+9999999999999999999"}', "'$decimal' cannot be read"),
        (b'{"$uuid":"1"}', "'$uuid' cannot be read"),
        (b'{"$path":["Path","/"]}', "'$path' cannot be read"),
        (b'{"$date":"2026-02-30"}', "'$date' cannot be read"),
        (b'{"$timedelta":[9999999999,0,0]}', "OverflowError"),
        (b'{"$timedelta":[0.5,0,0]}', "'$timedelta' with list"),
        (b'{"$datetime":["2026-01-01",2,null]}', "fold"),
        (b'{"$datetime":["2026-01-01",0,["key","../../etc/passwd"]]}', "'$datetime' cannot be read"),
        (b'{"$time":["00:00",0,["offset",2,0,0]]}', "'$time' cannot be read"),
        (b'{"$time":["00:00",0,["UTC"]]}', "not a time zone"),
        (b'{"$enum":["crossing:Colour","BLUE"]}', "no member 'BLUE'"),
        (b'{"$enum":["crossing:Colour",[]]}', "unhashable"),
        (b'{"$enum":["crossing:Right",8]}', "8"),
        (b'{"$enum":["crossing:Right","READ"]}', "no member 'READ'"),
        (b'{"$enum":["crossing:Point","x"]}', "not an Enum"),
        (b'{"$dataclass":["crossing:Colour",{}]}', "not a dataclass"),
        (b'{"$dataclass":["crossing:Point",{}]}', "field 'x', for which there is no value in the data"),
        (b'{"$dataclass":["crossing:Point",{"x":1,"z":2}]}', "no field 'z'"),
        (b'{"$dataclass":["crossing:Gone",{}]}', "has no class 'Gone'"),
        (b'{"$nobody:":1}', "spoolkit.register"),
        (b'{"$nobody":1}', "spoolkit.register"),
    ],
    ids=lambda value: value[:40].decode("utf-8", "replace") if isinstance(value, bytes) else None,
)
def test_decode_says_what_is_wrong_with_the_bytes(data: bytes, says: str) -> None:
    with pytest.raises(DecodeError) as refused:
        codec.decode(data)
    if "4300" not in says or hasattr(sys, "set_int_max_str_digits"):
        assert says in str(refused.value)
    assert len(str(refused.value)) <= 600
    with pytest.raises(DecodeError):
        codec.decode_call(b"[[1," + data + b"],{}]")


@pytest.mark.parametrize("data", [b"{}", b"[]", b"[[],[]]", b"[{},{}]", b"[[],{},1]", b'{"$tuple":[[],{}]}', b"null"])
def test_decode_call_refuses_anything_but_a_call(data: bytes) -> None:
    with pytest.raises(DecodeError, match="a list and an object"):
        codec.decode_call(data)


def test_a_decode_error_keeps_its_cause() -> None:
    with pytest.raises(DecodeError) as refused:
        codec.decode(b'{"$date":"x"}')
    assert isinstance(refused.value.__cause__, ValueError)


REFERENCES = ["this:d", "this:c", "this:s.join"]


@pytest.mark.parametrize("tag", ["$dataclass", "$enum"])
def test_decode_imports_no_module_for_a_name_in_the_data(monkeypatch: pytest.MonkeyPatch, tag: str) -> None:
    monkeypatch.delitem(
        sys.modules, "this", raising=False
    )  # it prints a poem when it is imported, which must not happen
    for reference in REFERENCES:
        with pytest.raises(DecodeError, match="'this' is not imported in this process"):
            codec.decode(json.dumps({tag: [reference, {}]}).encode())
    assert "this" not in sys.modules


def test_decode_does_not_load_a_lazy_module_for_a_name_in_the_data(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.find_spec("this")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "this", module)
    spec.loader.exec_module(module)
    for reference in REFERENCES:
        with pytest.raises(DecodeError):
            codec.decode(json.dumps({"$dataclass": [reference, {}]}).encode())
    assert capsys.readouterr().out == ""


def test_decode_calls_nothing_for_a_name_in_the_data() -> None:
    strangers = ["os:system", "subprocess:Popen", "builtins:eval", "builtins:int", "threading:Thread", ":", "", "os"]
    for reference in [*strangers, "crossing:Point.__init__", "crossing:Point.seen", "crossing:Point.__class__"]:
        for tag, inside in [("$dataclass", {}), ("$enum", "x"), ("$enum", 1)]:
            with pytest.raises(DecodeError):
                codec.decode(json.dumps({tag: [reference, inside]}).encode())


# -- types of the application --------------------------------------------------------------------------------


@pytest.fixture
def celsius(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_by_tag", {})
    monkeypatch.setattr(codec, "_by_type", {})
    codec.register(crossing.Celsius, tag="celsius", encode=lambda v: v.degrees, decode=crossing.Celsius)


@pytest.mark.usefixtures("celsius")
def test_values_of_a_registered_type_are_decoded_as_they_were() -> None:
    assert codec.decode(codec.encode([crossing.Celsius(21.5)])) == [crossing.Celsius(21.5)]
    assert codec.encode(crossing.Celsius(21.5)) == b'{"$celsius:":21.5}'


@pytest.mark.usefixtures("celsius")
def test_register_accepts_the_same_class_of_a_module_executed_again() -> None:
    again = type("Celsius", (crossing.Celsius,), {"__module__": "crossing"})
    codec.register(again, tag="celsius", encode=lambda v: v.degrees, decode=again)
    assert type(codec.decode(codec.encode(again(1.0)))) is again


@pytest.mark.usefixtures("celsius")
@pytest.mark.parametrize(
    ("cls", "tag"),
    [(UUID, "celsius"), (UUID, "uuid"), (dict, "d"), (date, "d"), (crossing.Level, "l"), (threading.Thread, "celsius"),
     (threading.Thread, ""), (threading.Thread, "a b"), (threading.Thread, "a\n"), (crossing.Celsius, "other"),
     (PosixPath, "p"), (type(None), "n"), (threading.current_thread(), "instance")],
)  # fmt: skip
def test_register_refuses_a_class_or_a_tag_that_is_taken_or_not_valid(cls: type, tag: str) -> None:
    with pytest.raises(ConfigurationError):
        codec.register(cls, tag=tag, encode=str, decode=str)


@pytest.mark.usefixtures("celsius")
def test_decode_turns_an_error_of_a_registered_decoder_into_a_decode_error() -> None:
    codec.register(threading.Thread, tag="thread", encode=lambda v: v.name, decode=lambda v: 1 / 0)
    with pytest.raises(DecodeError, match="ZeroDivisionError"):
        codec.decode(codec.encode(threading.Thread(name="t")))


@pytest.mark.usefixtures("celsius")
def test_register_does_not_include_subclasses() -> None:
    with pytest.raises(ArgumentTypeError, match="Warm"):
        codec.encode(type("Warm", (crossing.Celsius,), {})(1.0))


@pytest.mark.usefixtures("celsius")
def test_encode_checks_what_a_registered_encoder_returns() -> None:
    codec.register(threading.Thread, tag="thread", encode=lambda v: v, decode=lambda v: v)
    with pytest.raises(ArgumentTypeError, match="contains itself") as refused:
        codec.encode([threading.Thread()], argument="it")
    assert refused.value.argument == "it[0]"
    with pytest.raises(ArgumentTypeError) as refused:
        codec.encode({"a": crossing.Celsius(object())}, argument="it")  # type: ignore[arg-type]
    assert refused.value.argument == "it['a']"


@pytest.mark.usefixtures("celsius")
def test_register_accepts_a_dataclass_that_would_be_refused() -> None:
    codec.register(Failure, tag="failure", encode=lambda v: v.a, decode=Failure)
    back = codec.decode(codec.encode({"$": Failure(3)}))
    assert isinstance(back, dict)
    assert type(back["$"]) is Failure
    assert back["$"].a == 3
