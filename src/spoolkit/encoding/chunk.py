"""How do many calls of one task become one file, a chunk, and the packet of each job again? Pure: no input or output.

A chunk is a packet as that of a job. Its fields hold what all its jobs have in common, its body the arguments of each
job, one per line. The id of each job is the stem of the chunk and the number of the line, so that the chunk is found
by any of its ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.job import JobSpec, replaced

MAX_JOBS = 1000
"""How many jobs a chunk holds at most."""

MAX_SIZE = 1 << 20
"""Bytes that the arguments in a chunk take at most, unless it holds one job."""

TASK = "spoolkit.encoding.chunk"
"""The task of a chunk for versions that know none: they leave the file to another version, as for any unknown task."""

_KEY = b"chunk"
_STEP = b"step"
_NO_CALL = b"[[],{}]"

_INDEX_DIGITS = 3
"""The last hex digits of an id, which number the jobs of a chunk; the same number before them counts the jobs."""


@dataclass(frozen=True)
class Chunk:
    """Jobs of one call of ``map()``, without their arguments."""

    #: What the ids of all its jobs begin with.
    stem: str
    #: What all its jobs have in common; ``run_at`` is that of the first job.
    common: JobSpec
    #: Seconds between the due times of two jobs.
    step: float = 0.0

    def job(self, index: int) -> JobSpec:
        """Return the job with this number, without its arguments."""
        return replaced(self.common, id=id_of(self.stem, index), run_at=self.run_at(index))

    def run_at(self, index: int) -> float | None:
        """Return when the job with this number is due."""
        return None if self.common.run_at is None else self.common.run_at + index * self.step


def cut(calls: Sequence[bytes], keys: Sequence[object] | None = None) -> Iterator[tuple[int, int]]:
    """Yield where the calls of each chunk start and end; ``keys``: what the jobs of one chunk have in common."""
    start = size = 0
    for index, call in enumerate(calls):
        if index > start and (
            index - start == MAX_JOBS
            or size + len(call) > MAX_SIZE
            or (keys is not None and keys[index] != keys[start])
        ):
            yield start, index
            start, size = index, 0
        size += len(call)
    if calls:
        yield start, len(calls)


def stem(id: str, number: int, count: int) -> str:
    """Return the stem of a chunk.

    Args:
        id: A new job id.
        number: The number of the chunk among those of the call, from 0: their ids sort in this order.
        count: How many jobs the chunk holds.
    """
    return f"{int(id[:16], 16) + number:016x}{id[16 : -2 * _INDEX_DIGITS]}{count:0{_INDEX_DIGITS}x}"


def id_of(stem: str, index: int) -> str:
    """Return the id of the job with this number."""
    return f"{stem}{index:0{_INDEX_DIGITS}x}"


def ids(stem: str) -> list[str]:
    """Return the ids of all jobs of a chunk, in order."""
    return [id_of(stem, index) for index in range(_count(stem))]


def stem_of(id: str) -> str | None:
    """Return the stem of the chunk that the job with this id may come from; ``None`` if it comes from none."""
    found = id[:-_INDEX_DIGITS]
    return found if index_of(id) < _count(found) <= MAX_JOBS else None


def index_of(id: str) -> int:
    """Return the number of a job in its chunk."""
    return int(id[-_INDEX_DIGITS:], 16)


def _count(stem: str) -> int:
    return int(stem[-_INDEX_DIGITS:], 16)


def pack(chunk: Chunk, calls: Sequence[bytes]) -> packet.Packet:
    """Make the packet of a chunk of which each job has one of the encoded arguments."""
    # As an id, what no job of the chunk has.
    common = replaced(chunk.common, id=id_of(chunk.stem, 0xFFF), task=TASK)
    more = {_KEY: chunk.common.task.encode(), _STEP: packet.write_time(chunk.step), packet.CALL: _NO_CALL}
    # JSON has no line breaks of its own: those in a text are escaped.
    fields = packet.load(packet.dump_job(common, b"")).fields
    return packet.Packet({**fields, **more}, b"\n".join(calls))


def is_chunk(content: packet.Packet) -> bool:
    """Return whether a file with this content is a chunk, and not a job."""
    return _KEY in content.fields


def head(content: packet.Packet) -> Chunk:
    """Read a chunk without the arguments, which may be incomplete. Raises :class:`DecodeError`, and nothing else."""
    common = packet.head(content)
    try:
        task = content.fields[_KEY].decode()
        step = packet.read_time(content.fields[_STEP])
    except KeyError as error:
        raise DecodeError(f"the packet has no {error.args[0].decode()!r}") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"a field of the packet is not UTF-8: {error}") from error
    stem = common.id[:-_INDEX_DIGITS]
    if not 0 < _count(stem) <= MAX_JOBS:
        raise DecodeError(f"the id {common.id!r} is not that of a chunk")
    return Chunk(stem, replaced(common, task=task), step)


def unpack(content: packet.Packet) -> tuple[Chunk, list[bytes]]:
    """Read a chunk and the encoded arguments of its jobs, to make a file of each.

    Raises:
        NewerJobError: The jobs have a field that this version must not ignore.
        DecodeError: This is no chunk.
    """
    packet.check_understood(content)
    chunk, calls = head(content), content.body.split(b"\n")
    if len(calls) != _count(chunk.stem):
        raise DecodeError(f"the chunk has {len(calls)} lines of arguments, not {_count(chunk.stem)}")
    return chunk, calls
