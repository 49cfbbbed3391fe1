"""Arguments of plain uWSGI spool functions: prepared for uwsgi.spool, and restored."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import spool_args
from spoolkit.encoding import packet
from spoolkit.encoding.uwsgi_args import MAGIC, RESERVED, restore_spooler_args
from spoolkit.errors import (
    ArgumentError,
    ArgumentTypeError,
    DecodeError,
    QueueOptionError,
    ReservedNameError,
    ScheduleError,
    TooLargeError,
)
from spoolkit.spooling.uwsgi_arguments import prepare_spooler_args

LIMIT = packet.LIMIT


def test_the_application_offers_both_functions() -> None:
    assert spool_args.prepare_spooler_args(duration=5) == {b"duration": b"5"}
    assert spool_args.restore_spooler_args({b"duration": b"5"}, {"duration": int}) == {"duration": 5}


@pytest.mark.parametrize(
    ("value", "crosses"),
    [("é", "é".encode()), (b"\xff\x00", b"\xff\x00"), (5, b"5"), (1.5, b"1.5"), (True, b"true"), (None, b"null"),
     ([1, "ü"], '[1, "ü"]'.encode()), ({"a": 1}, b'{"a": 1}'), ("", b"")],
)  # fmt: skip
def test_prepare_encodes_each_type(value: object, crosses: bytes) -> None:
    assert prepare_spooler_args(value=value) == {b"value": crosses}


@pytest.mark.parametrize(
    ("given", "error", "argument"),
    [
        ({"": 1}, ReservedNameError, ""),
        *(({name: "x"}, ReservedNameError, name) for name in RESERVED),
        ({"big": "x" * (LIMIT + 1)}, TooLargeError, "big"),
        ({"big": b"x" * LIMIT}, TooLargeError, "big"),  # the value fits, the packet does not
        ({"odd": 10**5000}, ArgumentTypeError, "odd"),  # more digits than Python writes
        ({"k" * (LIMIT + 1): 1}, TooLargeError, "k" * (LIMIT + 1)),
        ({"one": "x" * 40_000, "two": "y" * 30_000}, TooLargeError, "one"),
        ({"odd": object()}, ArgumentTypeError, "odd"),
        ({"odd": {1, 2}}, ArgumentTypeError, "odd"),
        ({"odd": float("nan")}, ArgumentTypeError, "odd"),
        ({"odd": "\ud800"}, ArgumentTypeError, "odd"),
        ({"odd": ["\ud800"]}, ArgumentTypeError, "odd"),
        ({"\ud800": 1}, ArgumentTypeError, "\ud800"),
    ],
)
def test_prepare_refuses_what_uwsgi_would_cut_misread_or_delete(
    given: dict[str, object], error: type[ArgumentError], argument: str
) -> None:
    with pytest.raises(error) as refused:
        prepare_spooler_args(**given)
    assert refused.value.argument == argument


@pytest.mark.parametrize(("size", "given"), [(LIMIT + 1, {"k": "x" * (LIMIT + 1)}), (LIMIT + 5, {"k": b"x" * LIMIT})])
def test_prepare_names_size_and_limit_of_what_is_too_large(size: int, given: dict[str, object]) -> None:
    with pytest.raises(TooLargeError, match=rf"'k'.*{LIMIT}") as refused:
        prepare_spooler_args(**given)
    assert (refused.value.size, refused.value.limit) == (size, LIMIT)


def test_prepare_fills_the_packet_to_the_last_byte() -> None:
    room = LIMIT - packet.size({b"a": b"", b"b": b""})
    fields = prepare_spooler_args(a="x" * 1000, b="y" * (room - 1000))
    assert packet.size(fields) == LIMIT
    with pytest.raises(TooLargeError):
        prepare_spooler_args(a="x" * 1000, b="y" * (room - 999))


def test_prepare_accepts_a_body_of_any_size() -> None:
    assert prepare_spooler_args(body=b"x" * 1_000_000)[b"body"] == b"x" * 1_000_000


@pytest.mark.parametrize(
    ("name", "value", "crosses"),
    [
        ("at", 1790000000, b"1790000000"),
        ("at", 1790000000.2, b"1790000001"),  # uWSGI drops the fraction: rounded up, never early
        ("at", datetime(2026, 1, 1, tzinfo=UTC), b"1767225600"),
        ("at", b"1790000000", b"1790000000"),
        ("at", "1790000000.5", b"1790000001"),
        ("at", 0, b"0"),
        ("priority", 0, b"0"),
        ("priority", "7", b"7"),
        ("priority", b"10", b"10"),
        ("priority", 999, b"999"),
        ("body", bytearray(b"x"), b"x"),
        ("body", memoryview(b"x"), b"x"),
    ],
)
def test_prepare_encodes_the_keys_that_uwsgi_reads(name: str, value: object, crosses: bytes) -> None:
    assert prepare_spooler_args(**{name: value}) == {name.encode(): crosses}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("at", value) for value in ("tomorrow", b"-5", b" 179", "1e9", True, float("nan"), float("inf"), -1, None)),
        *(("at", value) for value in (datetime(2026, 1, 1), 1.79e12, [1], "", b"\xff")),
        ("at", datetime(1960, 1, 1, tzinfo=UTC)),
        *(("priority", value) for value in ("../evil", -1, 1.5, True, "", None, "²", 10**9)),
        *(("spooler", value) for value in ("relative", "", None, 5, "/a\0b")),
        *(("body", value) for value in ("text", None, 5, [1])),
    ],
)
def test_prepare_refuses_wrong_values_of_the_keys_that_uwsgi_reads(name: str, value: object) -> None:
    with pytest.raises((QueueOptionError, ScheduleError)) as refused:
        prepare_spooler_args(**{name: value})
    assert refused.value.argument == name


def test_prepare_resolves_the_path_of_the_spool_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for spelled in (tmp_path / "link", f"{tmp_path}/real/", os.fsencode(tmp_path / "real")):
        assert prepare_spooler_args(spooler=spelled)[b"spooler"] == os.fsencode((tmp_path / "real").resolve())


names = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda name: name not in {*MAGIC, *RESERVED})
plain_values = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.binary(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.none(),
    st.lists(st.integers() | st.text(st.characters(codec="utf-8"))),
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers()),
)


@given(st.dictionaries(names, plain_values))
def test_restore_is_the_inverse_of_prepare(kwargs: dict[str, object]) -> None:
    types = {name: type(value) for name, value in kwargs.items()}
    assert restore_spooler_args(prepare_spooler_args(**kwargs), types) == kwargs


def declared(
    number: int, text: str, data: bytes, maybe: int | None, ratio: float, names: list[str], by: dict[str, int], untyped
) -> None: ...  # type: ignore[no-untyped-def]


def test_restore_takes_the_types_from_a_functions_annotations() -> None:
    sent = {
        "number": 5,
        "text": "5",
        "data": b"5",
        "maybe": None,
        "ratio": 2,
        "names": ["ä"],
        "by": {"a": 1},
        "untyped": "5",
    }
    back = restore_spooler_args(prepare_spooler_args(**sent), declared)
    assert back == sent
    assert type(back["ratio"]) is float


def test_restore_accepts_the_text_of_uwsgidecorators() -> None:
    env = {
        "ud_spool_func": "f",
        "ud_spool_ret": "-2",
        "spooler_task_name": "x",
        "at": "5",
        "duration": "5",
        "body": b"b",
    }
    assert restore_spooler_args(env, {"duration": int}) == {"duration": 5, "body": b"b"}


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"x", int),
        (b"1.5", int),
        (b"true", int),
        (b'"1"', float),
        (b"\xff", str),
        (b"NaN", float),
        (b"[NaN]", list),
        (b"5", list[int]),
        (b"[1]", dict[str, int]),
        (b"5", bool),
        (b"[" * 100_000, list),
        (b"9" * 5000, int),
    ],
)
def test_restore_raises_for_a_value_of_another_type(data: bytes, wanted: object) -> None:
    with pytest.raises(DecodeError) as refused:
        restore_spooler_args({b"it": data}, {"it": wanted})
    assert refused.value.argument == "it"


def test_restore_raises_for_a_value_that_is_neither_bytes_nor_text() -> None:
    with pytest.raises(DecodeError) as refused:
        restore_spooler_args({"it": 5})
    assert refused.value.argument == "it"


def test_prepare_refuses_a_time_more_than_ten_years_ahead() -> None:
    with pytest.raises(ScheduleError):
        prepare_spooler_args(at=datetime.now(UTC) + timedelta(days=4000))
