"""A job becomes the bytes of a spool file and a job again; any other bytes raise a DecodeError."""

from __future__ import annotations

import contextlib
import math
import os
import re
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.encoding import packet
from spoolkit.encoding.packet import LIMIT, Packet
from spoolkit.errors import DecodeError, NewerJobError, TooLargeError
from spoolkit.job import JobSpec, is_plain, new_id, replaced

text = st.text(st.characters(codec="utf-8"))
ids = st.text("0123456789abcdef", min_size=32, max_size=32)
times = st.floats(0, 1e11) | st.just(0.0) | st.just(5e-324)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(text, inner) | st.lists(inner).map(tuple),
    max_leaves=8,
)
jobs = st.builds(
    JobSpec,
    id=ids,
    task=text,
    args=st.lists(values, max_size=4).map(tuple),
    kwargs=st.dictionaries(text, values, max_size=4),
    enqueued_at=times,
    run_at=st.none() | st.floats(1, 1e11),
    queue=st.none() | text,
    priority=st.none() | st.integers(0, 999_999_999),
    expires_at=st.none() | times,
    retries=st.none() | st.integers(0, 10_000),
    backoff=st.none() | times,
    timeout=st.none() | times,
    tags=st.none() | st.lists(text, min_size=1).map(tuple),
)


def there_and_back(job: JobSpec) -> JobSpec:
    return packet.unpack(packet.load(packet.dump(packet.pack(job, max_body=10**7))))


def a_job(**given: Any) -> JobSpec:
    return JobSpec(**{"id": new_id(), "task": "tasks.one", "enqueued_at": 1.5, **given})


@given(jobs)
def test_unpack_gives_the_job_that_was_packed(job: JobSpec) -> None:
    assert there_and_back(job) == job


@given(jobs, st.sampled_from(["task", "queue"]), st.integers(LIMIT - 400, LIMIT + 400))
def test_pack_never_exceeds_the_limit_for_a_long_name_or_path(job: JobSpec, field: str, length: int) -> None:
    job = replace(job, **{field: "n" * length})
    with contextlib.suppress(TooLargeError):
        packed = packet.pack(job, max_body=10**7)
        assert packet.size(packed.fields) <= LIMIT
        assert packet.unpack(packed) == job


@given(st.integers(LIMIT - 400, LIMIT + 400))
def test_pack_makes_no_packet_over_the_limit(length: int) -> None:
    job = a_job(args=("x" * length,))
    packed = packet.pack(job, max_body=10**7)
    assert packet.size(packed.fields) <= LIMIT
    assert all(len(part) <= LIMIT for pair in packed.fields.items() for part in pair)
    assert packet.unpack(packed) == job


@given(jobs)
def test_a_job_is_written_as_the_fields_that_are_read(job: JobSpec) -> None:
    data = packet.dump_job(job, b"[[],{}]")
    assert packet.dump(packet.load(data)) == data


def test_the_limit_is_what_a_uint16_can_count() -> None:
    assert LIMIT == 65_535


def test_pack_uses_the_body_only_if_the_packet_is_full() -> None:
    room = LIMIT - packet.size(packet.pack(a_job(args=("",)), max_body=10**7).fields)
    full = packet.pack(a_job(args=("x" * room,)), max_body=10**7)
    assert (packet.size(full.fields), full.body) == (LIMIT, b"")
    over = packet.pack(a_job(args=("x" * (room + 1),)), max_body=10**7)
    assert over.body
    assert b"call" not in over.fields


@pytest.mark.parametrize(
    ("args", "kwargs", "argument"),
    [
        (("x" * 10, "y" * 2000), {"third": "z" * 100}, "second"),
        (("x" * 10,), {"third": "z" * 2000}, "third"),
        (("x", "y", "z" * 2000), {}, "args[2]"),  # one of *args has no name of its own
    ],
)
def test_pack_names_the_largest_argument_over_max_body(
    args: tuple[str, ...], kwargs: dict[str, str], argument: str
) -> None:
    with pytest.raises(TooLargeError, match=rf"{re.escape(repr(argument))}.* 1000 bytes") as refused:
        packet.pack(a_job(args=args, kwargs=kwargs), max_body=1000, names=["first", "second"])
    assert (refused.value.argument, refused.value.limit) == (argument, 1000)
    assert 2000 < refused.value.size < 2200


def test_pack_accepts_arguments_of_exactly_max_body() -> None:
    length = len(packet.pack(a_job(args=("x" * 100,)), max_body=1000).fields[b"call"])
    assert packet.pack(a_job(args=("x" * 100,)), max_body=length)
    with pytest.raises(TooLargeError):
        packet.pack(a_job(args=("x" * 100,)), max_body=length - 1)


def test_unpack_gives_a_queue_whose_name_is_not_utf8() -> None:
    job = a_job(queue=os.fsdecode(b"/spools/\xff"))
    assert there_and_back(job) == job


def test_pack_refuses_a_task_name_that_fills_the_packet() -> None:
    with pytest.raises(TooLargeError) as refused:
        packet.pack(a_job(task="t" * LIMIT), max_body=10**7)
    assert refused.value.size > refused.value.limit == LIMIT
    room = LIMIT - packet.size(packet.pack(a_job(task="", args=("x" * LIMIT,)), max_body=10**7).fields)
    full = packet.pack(a_job(task="t" * room), max_body=10**7)
    assert packet.size(full.fields) == LIMIT
    assert full.body


@pytest.mark.parametrize(
    ("content", "data"),
    [
        (Packet({}), b"\x11\x00\x00\x00"),
        (Packet({b"k": b"val"}, b"body"), b"\x11\x08\x00\x00\x01\x00k\x03\x00valbody"),
        (Packet({b"k": b""}), b"\x11\x05\x00\x00\x01\x00k\x00\x00"),
        (Packet({b"k": b"", b"l": b"1"}), b"\x11\x0b\x00\x00\x01\x00k\x00\x00\x01\x00l\x01\x001"),
        (Packet({b"k": b"v" * 258}), b"\x11\x07\x01\x00\x01\x00k\x02\x01" + b"v" * 258),  # low byte first
    ],
)
def test_dump_writes_the_bytes_that_uwsgi_writes(content: Packet, data: bytes) -> None:
    assert packet.dump(content) == data
    assert packet.load(data) == content


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "header"),
        (b"\x11\x00\x00", "header"),
        (b"\x11\x05\x00\x00abcd", "announces 5"),
        (b"\x11\x01\x00\x00a", "within a length"),
        (b"\x11\x04\x00\x00\x09\x00ab", "within a key"),
        (b"\x11\x03\x00\x00\x01\x00k", "within a length"),  # a key without its value
        (b"\x11\x04\x00\x00\x00\x00\x00\x00", "empty key"),
    ],
)
def test_load_says_what_is_wrong_with_the_bytes(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        packet.load(data)


def test_unpack_ignores_fields_of_a_newer_version() -> None:
    packed = packet.pack(a_job(), max_body=1000)
    assert packet.unpack(Packet({**packed.fields, b"deadline": b"\xff"}, b"")) == packet.unpack(packed)


def test_each_optional_field_is_an_attribute_of_a_job_with_the_same_default() -> None:
    defaults = {field.name: field.default for field in fields(JobSpec)}
    written = [(field.attribute, field.default) for field in packet.FIELDS.values()]
    assert [(name, defaults[name]) for name, _ in written] == written
    assert len({name for name, _ in written}) == len(written)


@given(jobs)
def test_a_packet_names_the_fields_that_its_reader_must_understand_in_the_order_of_the_table(job: JobSpec) -> None:
    wanted = [
        key for key, field in packet.FIELDS.items() if field.must and getattr(job, field.attribute) != field.default
    ]
    named = packet.load(packet.dump_job(job, b"[[],{}]")).fields.get(packet.MUST)
    assert named == (b",".join(wanted) if wanted else None)


@pytest.mark.parametrize(
    ("must", "unknown"),
    [
        (b"frobnicate", ("frobnicate",)),
        (b"queue,a,run_at,b", ("a", "b")),
        (b"", ("",)),
        (b"\xff", (r"\xff",)),
        (b"id", ("id",)),  # no optional field
    ],
)
def test_unpack_names_the_fields_that_it_does_not_know_and_must(must: bytes, unknown: tuple[str, ...]) -> None:
    content = Packet({**packet.pack(a_job(), max_body=1000).fields, b"must": must, b"call": b"of a newer version"})
    with pytest.raises(NewerJobError, match="update spoolkit") as refused:
        packet.unpack(content)
    assert refused.value.fields == unknown
    assert packet.head(content).task == "tasks.one"


def test_unpack_reads_a_job_whose_fields_it_knows() -> None:
    content = Packet({**packet.pack(a_job(queue="/q"), max_body=1000).fields, b"must": b"queue"})
    assert packet.unpack(content).queue == "/q"


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: b"\x11" + bytes([len(data), 0, 0]) + data))
def test_load_gives_a_packet_or_a_decode_error_for_any_bytes(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        packet.unpack(packet.load(data))


@given(jobs, st.data())
def test_unpack_gives_a_job_or_a_decode_error_for_damaged_bytes(job: JobSpec, draw: st.DataObject) -> None:
    data = bytearray(packet.dump(packet.pack(job, max_body=10**7)))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(DecodeError, NewerJobError):
        packet.unpack(packet.load(bytes(data[: draw.draw(st.integers(0, len(data)))])))


KEYS = st.sampled_from([b"spoolkit", b"id", b"task", b"enqueued_at", b"call", b"must", *packet.FIELDS])
VALUES = st.binary() | st.sampled_from([b"1", b"[[],{}]", b"0" * 32, b"1.5", b"\xb2", b"9" * 400, b"[[" + b"1" * 5000])


@given(st.dictionaries(KEYS | st.binary(), VALUES), st.binary())
def test_unpack_gives_a_job_or_a_decode_error_for_any_fields(fields: dict[bytes, bytes], body: bytes) -> None:
    with contextlib.suppress(DecodeError, NewerJobError):
        packet.unpack(Packet({**fields, b"spoolkit": b"1"}, body))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (b"id", b"../../etc/passwd"),
        (b"id", b"0" * 31),
        (b"id", b"0" * 33),
        (b"id", b"0" * 32 + b"\n"),
        (b"id", b"A" * 32),
        (b"id", ("\u0663" * 32).encode()),
        (b"id", b"0" * 29 + b"/.."),
        (b"enqueued_at", b"soon"),
        (b"run_at", b"-1"),
        (b"run_at", b"inf"),
        (b"priority", b"../evil"),
        (b"priority", "²".encode()),
        (b"task", b"\xff"),
        (b"spoolkit", b"2"),
    ],
)
def test_unpack_refuses_a_field_with_an_impossible_value(field: bytes, value: bytes) -> None:
    packed = packet.pack(a_job(), max_body=1000)
    with pytest.raises(DecodeError):
        packet.unpack(Packet({**packed.fields, field: value}))


@pytest.mark.parametrize("field", [b"id", b"task", b"enqueued_at", b"call"])
def test_unpack_names_a_missing_field(field: bytes) -> None:
    packed = packet.pack(a_job(), max_body=1000)
    with pytest.raises(DecodeError):
        packet.unpack(Packet({key: value for key, value in packed.fields.items() if key != field}))


@pytest.mark.parametrize(("value", "is_one"), [(b"0", True), (b"9" * 9, True), (b"9" * 10, False), (b"", False)])
def test_unpack_reads_a_priority_of_one_to_nine_digits(value: bytes, is_one: bool) -> None:
    content = Packet({**packet.pack(a_job(), max_body=1000).fields, b"priority": value})
    with contextlib.nullcontext() if is_one else pytest.raises(DecodeError, match="not digits"):
        assert packet.unpack(content).priority == int(value)


def test_times_in_a_packet_are_exact() -> None:
    for seconds in (1790000000.123456, math.nextafter(1790000000.5, 2e9), 0.1 + 0.2):
        assert there_and_back(a_job(run_at=seconds)).run_at == seconds


def test_a_job_has_exactly_its_fields() -> None:
    job = JobSpec("1" * 32, "tasks.one")
    names = [field.name for field in fields(JobSpec)]
    assert list(vars(job)) == names[: len(vars(job))]
    assert list(vars(replace(job, app="shop"))) == names
    with pytest.raises(TypeError, match="expires_never"):
        JobSpec("1" * 32, "tasks.one", expires_at=1.0, expires_never=True)
    assert replaced(job, app="shop") == replace(job, app="shop") != job
    with pytest.raises(FrozenInstanceError):
        job.app = "shop"  # type: ignore[misc]


def test_a_job_is_plain_if_it_has_only_the_fields_that_each_job_has() -> None:
    job = JobSpec(new_id(), "tasks.a", run_at=1.0, queue="mail", priority=1, app="shop")
    assert is_plain(job)
    assert is_plain(packet.unpack(packet.pack(JobSpec(new_id(), "tasks.a"), max_body=100)))
    others = {field.name for field in fields(JobSpec)} - vars(job).keys()
    assert {"expires_at", "batch", "limit_key"} < others
    assert not any(is_plain(replaced(job, **{name: 1})) for name in others)


def test_the_optional_fields_of_a_plain_job_are_looked_at() -> None:
    plain = JobSpec(new_id(), "tasks.a", enqueued_at=1.0)
    for attribute in {field.attribute for field in packet.FIELDS.values()} & vars(plain).keys():
        value = 1 if attribute in ("run_at", "priority") else "x"
        job = replaced(plain, **{attribute: value})
        assert is_plain(job)
        assert packet.unpack(packet.pack(job, max_body=100)) == job
