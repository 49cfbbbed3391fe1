"""Many calls as one packet, and the packet of each job again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.encoding import chunk, codec, packet
from spoolkit.encoding.chunk import MAX_JOBS, MAX_SIZE, Chunk
from spoolkit.errors import DecodeError
from spoolkit.job import JobSpec, new_id

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CALLS = st.lists(st.tuples(TEXT, st.integers(), TEXT), min_size=1, max_size=20)
TIMES = st.none() | st.floats(0, 1e10)


def a_chunk(count: int, **given: object) -> Chunk:
    id = new_id()
    return Chunk(chunk.stem(id, 0, count), JobSpec(id, "shop.send", enqueued_at=1.5, **given))  # type: ignore[arg-type]


@given(
    calls=CALLS, run_at=TIMES, step=st.floats(0, 1e6), priority=st.none() | st.integers(0, 99), queue=st.none() | TEXT
)
def test_each_job_of_a_chunk_has_its_own_arguments_and_due_time(
    calls: list[tuple[object, ...]], run_at: float | None, step: float, priority: int | None, queue: str | None
) -> None:
    given = replace(a_chunk(len(calls), run_at=run_at, priority=priority, queue=queue, app="shop"), step=step)
    encoded = [codec.encode_call(args, {}) for args in calls]
    content = packet.load(packet.dump(chunk.pack(given, encoded)))
    assert chunk.is_chunk(content)
    found, lines = chunk.unpack(content)
    ids = chunk.ids(found.stem)
    assert ids == sorted(set(ids))
    for index, (id, line, args) in enumerate(zip(ids, lines, calls, strict=True)):
        job = packet.unpack(packet.load(packet.dump_job(found.job(index), line)))
        assert (job.id, job.args, job.task) == (id, args, "shop.send")
        assert (job.enqueued_at, job.priority, job.queue, job.app) == (1.5, priority, queue, "shop")
        assert job.run_at == (None if run_at is None else run_at + index * step)
        assert (chunk.stem_of(id), chunk.index_of(id)) == (given.stem, index)


def test_a_job_by_itself_is_no_chunk() -> None:
    assert not chunk.is_chunk(packet.pack(JobSpec(new_id(), "shop.send"), max_body=100))


def test_an_older_version_takes_a_chunk_for_a_job_of_a_task_that_it_does_not_know() -> None:
    """And so leaves it to another version, without a word about its arguments."""
    content = chunk.pack(a_chunk(2), [b"[[1],{}]", b"[[2],{}]"])
    job = packet.unpack(packet.load(packet.dump(content)))
    assert (job.task, job.args, job.kwargs) == (chunk.TASK, (), {})


@given(st.lists(st.integers(1, MAX_SIZE), max_size=30))
def test_chunks_are_cut_by_size(sizes: list[int]) -> None:
    calls = [bytes(size) for size in sizes]
    cuts = list(chunk.cut(calls))
    assert [index for start, end in cuts for index in range(start, end)] == list(range(len(calls)))
    for start, end in cuts:
        assert end - start == 1 or sum(sizes[start:end]) <= MAX_SIZE


def test_chunks_are_cut_by_number() -> None:
    assert list(chunk.cut([b"x"] * 2500)) == [(0, 1000), (1000, 2000), (2000, 2500)]
    assert MAX_JOBS == 1000


def test_the_ids_of_one_call_are_in_the_order_of_its_rows() -> None:
    id = new_id()
    ids = [one for number in range(300) for one in chunk.ids(chunk.stem(id, number, MAX_JOBS))]
    assert ids == sorted(set(ids))
    assert all(len(one) == 32 for one in ids)


@pytest.mark.parametrize(
    ("field", "value"), [(b"id", b"0" * 32), (b"step", None), (b"step", b"x"), (b"chunk", b"\xff"), (b"task", None)]
)
def test_a_damaged_chunk_is_a_decode_error(field: bytes, value: bytes | None) -> None:
    fields, body = chunk.pack(a_chunk(1), [b"[[],{}]"])
    changed = {key: data for key, data in {**fields, field: value}.items() if data is not None}
    with pytest.raises(DecodeError):
        chunk.unpack(packet.Packet(changed, body))


def test_a_chunk_without_all_its_lines_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="1 lines of arguments, not 2"):
        chunk.unpack(chunk.pack(a_chunk(2), [b"[[],{}]"]))
