"""How does a job become uWSGI's packet and the bytes of a spool file, and a job again? Pure: no input or output.

A spool file is a header (``17``, the length of the packet as uint16, ``0``), the packet (keys and values, each after
its length as uint16) and the body, which is the rest (core/spooler.c, core/protocol.c of uWSGI 2.0.31).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from spoolkit.encoding import codec, headers, tags
from spoolkit.errors import DecodeError, NewerJobError, TooLargeError
from spoolkit.job import JobSpec, is_plain, replaced

MODIFIER = 17
"""The first byte of a spool file: uWSGI's number for requests to the spooler."""

MARKER: bytes = b"spoolkit"
"""The key that marks a packet as a job of spoolkit; its value is :data:`FORMAT`."""

FORMAT = b"1"
"""The version of the packet's format."""

CALL = b"call"
"""The key of the encoded arguments, if they fit into the packet."""

MUST: bytes = b"must"
"""The key of the names of the fields without which the job must not be run, separated by commas."""

MEMBERS: bytes = b"members"
"""The key that marks a packet as a whole batch; its value is the number of the members. See ``batch.py``."""

LIMIT = 0xFFFF
"""The greatest size in bytes of a key, a value and the whole packet: lengths are uint16, and uWSGI cuts silently."""

HEAD_SIZE = 4 + LIMIT
"""Bytes of a spool file that hold everything except the body."""

_HEADER = struct.Struct("<BHB")
_LENGTH = struct.Struct("<H")
_CALL_LENGTH = struct.Struct("<I")
_IS_ID = re.compile(rb"[0-9a-f]{32}")
_TIME = re.compile(rb"\d{1,12}(\.\d+)?")


class Packet(NamedTuple):
    """The content of a spool file."""

    #: The bytes-only dict.
    fields: Mapping[bytes, bytes]
    #: The bytes after the packet.
    body: bytes = b""


def size(fields: Mapping[bytes, bytes]) -> int:
    """Return the size of ``fields`` in a packet, in bytes."""
    return sum(map(len, fields)) + sum(map(len, fields.values())) + 2 * _LENGTH.size * len(fields)


def pack(job: JobSpec, *, max_body: int, names: Sequence[str] = ()) -> Packet:
    """Make the packet of a job. Arguments that do not fit into the packet become the body.

    Args:
        job: The job.
        max_body: The greatest size of the encoded arguments in bytes.
        names: The names of the positional arguments, for messages.

    Returns:
        The packet.

    Raises:
        ArgumentTypeError: An argument has no supported type; the error names it.
        TooLargeError: The arguments are too large; the error names the largest.
    """
    return load(dump_job(job, encode_arguments(job.args, job.kwargs, max_body=max_body, names=names)))


def encode_arguments(
    args: tuple[object, ...], kwargs: Mapping[str, object], *, max_body: int, names: Sequence[str] = ()
) -> bytes:
    """Encode the arguments of a job. The parameters and the errors are those of :func:`pack`."""
    call = codec.encode_call(args, dict(kwargs), names)
    if len(call) > max_body:
        _refuse_size(args, kwargs, call, max_body, names)
    return call


def dump_job(job: JobSpec, call: bytes) -> bytes:
    """Return the bytes of the spool file of a job whose arguments are encoded. Raises :class:`TooLargeError`."""
    # Written at once: a Packet, the sizes of its fields and their bytes took a sixth of the time of a call.
    id, time, task = job.id.encode(), write_time(job.enqueued_at), _task_field(job.task)
    fields = _BASE % (_LENGTH.pack(len(id)), id, task, _LENGTH.pack(len(time)), time)
    if not is_plain(job):
        fields += _dump_optional([getattr(job, field.attribute) for field in FIELDS.values()], FIELDS)
    elif (early := _early(job)) != _NONE:
        fields += _dump_early(*early)
    if len(fields) + len(_CALL) + _LENGTH.size + len(call) <= LIMIT:
        return _file(fields + _field(_CALL, call), b"")
    if len(fields) > LIMIT:
        raise _too_large(len(fields))
    return _file(fields, call)


def _dump_optional(values: Iterable[object], of: Mapping[bytes, Field]) -> bytes:
    written, must = [], []
    for value, (key, field) in zip(values, of.items(), strict=True):
        if value != field.default:
            written.append(_any_field(_key(key), field.write(value)))
            if field.must:
                must.append(key)
    if must:
        written.append(_field(_key(MUST), b",".join(must)))
    return b"".join(written)


@lru_cache(maxsize=64, typed=True)
def _dump_early(*values: object) -> bytes:
    """The fields of a job that has none but those of a plain one; of most jobs they are those of the job before."""
    return _dump_optional(values, _EARLY)


def arguments(packet: Packet) -> bytes:
    """Return the encoded arguments of the job in ``packet``."""
    return packet.fields.get(CALL, packet.body)


def unpack(packet: Packet) -> JobSpec:
    """Read the job in ``packet``, to run it. Fields that only a newer version knows are ignored.

    Raises:
        NewerJobError: A field that only a newer version knows decides over whether, or when, the job may run.
        DecodeError: This is no job.
    """
    check_understood(packet)
    job = _job(packet.fields, *codec.decode_call(arguments(packet)))
    if job.chain is not None:
        for call in job.chain:
            check_understood(load(call))  # it will be written anew, with the fields that this version knows
    return job


def check_understood(packet: Packet) -> None:
    """Raise :class:`NewerJobError` if the job must not be run by a version that does not know all of its fields."""
    names = packet.fields.get(MUST)
    if names is not None and (unknown := [name for name in names.split(b",") if not _is_known(name)]):
        raise _newer(unknown)


def _is_known(name: bytes) -> bool:
    return name in FIELDS or name == MEMBERS


def head(packet: Packet) -> JobSpec:
    """Read the job without its arguments, which may be incomplete, to show it or to move its file.

    Raises :class:`DecodeError`, and nothing else.
    """
    return _job(packet.fields, (), {})


def _job(fields: Mapping[bytes, bytes], args: tuple[object, ...], kwargs: Mapping[str, object]) -> JobSpec:
    if fields.get(MARKER) != FORMAT:
        raise DecodeError(f"not a packet of format {FORMAT.decode()}: {MARKER.decode()}={fields.get(MARKER)!r}")
    try:
        id = fields[b"id"]
        if not _IS_ID.fullmatch(id):
            raise DecodeError(f"the id is {id[:80]!r}, not 32 hex digits")
        job = JobSpec(
            id.decode(), fields[b"task"].decode(), args, kwargs, enqueued_at=read_time(fields[b"enqueued_at"])
        )
        return job if FIELDS.keys().isdisjoint(fields) else replaced(job, **_read_optional(fields))
    except KeyError as error:
        raise DecodeError(f"the packet has no {error.args[0].decode()!r}") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"a field of the packet is not UTF-8: {error}") from error


def _read_optional(fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The attributes of the job that optional fields set."""
    return {field.attribute: field.read(fields[key]) for key, field in FIELDS.items() if key in fields}


def _newer(unknown: Sequence[bytes]) -> NewerJobError:
    names = tuple(name[:80].decode("utf-8", "backslashreplace") for name in unknown)
    return NewerJobError(
        f"the job has {', '.join(map(repr, names))}, which this version of spoolkit does not know and must not ignore: "
        "update spoolkit where its spoolers run",
        fields=names,
    )


def dump(packet: Packet) -> bytes:
    """Return the bytes of the spool file with the content ``packet``. Raises :class:`TooLargeError`."""
    if (total := size(packet.fields)) > LIMIT:
        raise _too_large(total)
    return _file(b"".join(_field(_key(key), value) for key, value in packet.fields.items()), packet.body)


def _file(fields: bytes, body: bytes) -> bytes:
    return b"%b%b%b" % (_HEADER.pack(MODIFIER, len(fields), 0), fields, body)


def _too_large(size: int) -> TooLargeError:
    return TooLargeError(
        f"the job does not fit into uWSGI's packet, its fields take {size} bytes: shorten the task's name, the queue's "
        "path, or the arguments of the calls that follow in its chain",
        size=size,
        limit=LIMIT,
    )


def _key(key: bytes) -> bytes:
    return _LENGTH.pack(len(key)) + key


def _field(key: bytes, value: bytes) -> bytes:
    """Return the bytes of a field, of which ``key`` is what :func:`_key` returned."""
    return b"%b%b%b" % (key, _LENGTH.pack(len(value)), value)


def _any_field(key: bytes, value: bytes) -> bytes:
    """Return the bytes of a field, perhaps with a value over the limit."""
    # A value over the limit has no length: the file, which holds all of it, is refused.
    return _field(key, value) if len(value) <= LIMIT else value


@lru_cache(maxsize=256)
def _task_field(task: str) -> bytes:
    return _any_field(_TASK, task.encode())


_BASE = b"".join((_field(_key(MARKER), FORMAT), _key(b"id"), b"%b%b", b"%b", _key(b"enqueued_at"), b"%b%b"))
"""The fields that each job has: the length and the value of its id, its task, the length and the value of its time."""

_TASK, _CALL = map(_key, (b"task", CALL))


def load(data: bytes) -> Packet:
    """Read the bytes of a spool file just as uWSGI reads them. Raises :class:`DecodeError`, and nothing else."""
    if len(data) < _HEADER.size:
        raise DecodeError(f"the file has {len(data)} bytes, fewer than a header has")
    _, length, _ = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if len(data) < end:
        raise DecodeError(f"the header announces {length} bytes, but the file has {len(data) - _HEADER.size}")
    parts, at, read_length, width = [], _HEADER.size, _LENGTH.unpack_from, _LENGTH.size
    try:
        while at < end:
            start = at + width
            at = start + read_length(data, at)[0]
            parts.append(data[start:at])
    except struct.error:
        raise DecodeError(f"the packet ends at byte {end}, within a length") from None
    keys, values = parts[::2], parts[1::2]
    if at > end:
        raise DecodeError(f"the packet ends at byte {end}, within a key or a value")
    if len(keys) > len(values):
        raise DecodeError(f"the packet ends at byte {end}, within a length")
    if b"" in keys:
        raise DecodeError("the packet has an empty key")
    return Packet(dict(zip(keys, values, strict=True)), data[end:])


def write_time(seconds: float) -> bytes:
    """Return unix time, or a number of seconds, as a field's value."""
    text = repr(float(seconds))  # exact
    # That of a tiny one has an exponent, which readers of a time do not expect.
    return (format(Decimal(text), "f") if "e" in text else text).encode()


def read_time(text: bytes) -> float:
    """Read what :func:`write_time` returned. Raises :class:`DecodeError`."""
    if not _TIME.fullmatch(text):
        raise DecodeError(f"a time is {text[:80]!r}, not digits")
    return float(text)


def _write_number(number: int) -> bytes:
    return b"%d" % number


def _read_number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 9:
        raise DecodeError(f"a number is {text[:80]!r}, not digits")
    return int(text)


def _write_flag(flag: bool) -> bytes:
    return b"1" if flag else b"0"


def _read_flag(text: bytes) -> bool:
    return text == b"1"


def _write_path(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")  # the name of a directory need not be UTF-8


def _read_path(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def write_calls(calls: Sequence[bytes]) -> bytes:
    """Return several spool files as one value."""
    return b"".join(_CALL_LENGTH.pack(len(call)) + call for call in calls)


def read_calls(text: bytes) -> tuple[bytes, ...]:
    """Read what :func:`write_calls` returned. Raises :class:`DecodeError`."""
    calls, at = [], 0
    try:
        while at < len(text):
            start = at + _CALL_LENGTH.size
            at = start + _CALL_LENGTH.unpack_from(text, at)[0]
            calls.append(text[start:at])
    except struct.error:
        at = len(text) + 1
    if at > len(text):
        raise DecodeError("the calls that follow in its chain, or the members of a batch, break off")
    return tuple(calls)


def _write_places(places: Sequence[int | str]) -> bytes:
    return json.dumps(list(places)).encode()


def _read_places(text: bytes) -> tuple[int | str, ...]:
    try:
        places = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the places of the result are {text[:80]!r}: {error}") from error
    if type(places) is not list or not all(type(place) in (int, str) for place in places):
        raise DecodeError(f"the places of the result are {text[:80]!r}, not numbers and names")
    return tuple(places)


class Field(NamedTuple):
    """An optional field of a job."""

    #: The attribute of :class:`JobSpec`. Where that is :attr:`default`, the packet does not have the field.
    attribute: str
    #: Returns the bytes of a value. A value over the limit makes the job too large.
    write: Callable[[Any], bytes]
    #: Reads them again. Raises :class:`DecodeError` or ``UnicodeDecodeError``.
    read: Callable[[bytes], Any]
    #: Whether a version that does not know the field must leave the job alone: it decides whether the job may run, or
    #: when.
    must: bool = False
    #: The value of a job that does not have the field.
    default: object = None


FIELDS: dict[bytes, Field] = {
    b"run_at": Field("run_at", write_time, read_time),
    b"queue": Field("queue", _write_path, _read_path),
    b"priority": Field("priority", _write_number, _read_number),
    b"app": Field("app", str.encode, bytes.decode),
    b"engine": Field("engine", str.encode, bytes.decode, must=True, default="spool"),
    b"expires": Field("expires_at", write_time, read_time, must=True),
    b"retries": Field("retries", _write_number, _read_number, must=True),
    b"backoff": Field("backoff", write_time, read_time, must=True),
    b"timeout": Field("timeout", write_time, read_time, must=True),
    b"schedule": Field("schedule", str.encode, bytes.decode, must=True),
    b"tags": Field("tags", tags.write, tags.read),
    b"headers": Field("headers", headers.write, headers.read),
    b"limit": Field("limit_key", str.encode, bytes.decode, must=True),
    b"batch": Field("batch", str.encode, bytes.decode, must=True),
    b"chain": Field("chain", write_calls, read_calls, must=True),
    b"result_at": Field("result_at", _write_places, _read_places, must=True),
    b"rate": Field("rate_key", str.encode, bytes.decode, must=True),
    b"unique": Field("is_unique", _write_flag, _read_flag),
}
"""The optional fields of a job, by their keys, in the order in which they are written."""

_EARLY = dict(list(FIELDS.items())[:5])
"""Those of these fields that a plain job has as well."""

_early: Callable[[JobSpec], tuple[Any, ...]] = attrgetter(*(field.attribute for field in _EARLY.values()))
"""Returns their values."""

_NONE = (None, None, None, None, "spool")
"""What :func:`_early` returns for a job without them: it costs one comparison."""


def _refuse_size(
    args: tuple[object, ...], kwargs: Mapping[str, object], call: bytes, limit: int, names: Sequence[str]
) -> None:
    sizes = {names[i] if i < len(names) else f"args[{i}]": len(codec.encode(value)) for i, value in enumerate(args)}
    sizes.update({name: len(codec.encode(value)) for name, value in kwargs.items()})
    largest = max(sizes, key=sizes.__getitem__, default=None)
    raise TooLargeError(
        f"the arguments take {len(call)} bytes, the largest is {largest!r}; the limit is {limit} bytes "
        "(SPOOLKIT_MAX_BODY): store the data and send its key or path",
        argument=largest,
        size=len(call),
        limit=limit,
    )
