"""How does a whole batch become one file, and its members again? Pure: no input or output.

A batch that waits for a commit is one packet, whose body holds the spool files of the callback and of the members. It
has the form of a job, with the id of the batch: so everything that moves, finds and lists jobs can do so with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast, get_args

from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.job import BatchStatus, JobSpec, OnDeath, State

TASK = "spoolkit.batch"
"""The task of such a file. No version declares it, and one that knows no such files leaves it alone: it must not ignore
:data:`~spoolkit.encoding.packet.MEMBERS`."""

_NAME = b"name"
_ON_DEATH = b"on_death"
_NO_CALL = b"[[],{}]"


class Content(NamedTuple):
    """What such a file holds."""

    #: The batch as it is accepted: all of its members are queued.
    batch: BatchStatus
    #: The members, without their arguments, each with its spool file.
    members: list[tuple[JobSpec, bytes]]
    #: The spool file of the callback, whatever id that has; ``None``: there is none.
    callback: bytes | None


def pack(batch: BatchStatus, members: Sequence[bytes], callback: bytes | None) -> bytes:
    """Return the file of a batch. Raises :class:`~spoolkit.errors.TooLargeError`.

    Args:
        batch: The batch.
        members: The spool files of its members.
        callback: That of the callback; ``None``: there is none.
    """
    fields = {
        **packet.load(packet.dump_job(job(batch), b"")).fields,
        packet.CALL: _NO_CALL,
        packet.MEMBERS: b"%d" % len(members),
        packet.MUST: packet.MEMBERS,
        _NAME: batch.name.encode("utf-8", "surrogatepass"),
        _ON_DEATH: batch.on_death.encode(),
    }
    return packet.dump(packet.Packet(fields, packet.write_calls([callback or b"", *members])))


def job(batch: BatchStatus) -> JobSpec:
    """The job whose form the file of a batch has."""
    return JobSpec(batch.id, TASK, enqueued_at=batch.created_at)


def is_batch(content: packet.Packet) -> bool:
    """Return whether a file with this content is a batch, and not a job."""
    return packet.MEMBERS in content.fields


def unpack(content: packet.Packet) -> Content:
    """Read the file of a batch.

    Raises:
        NewerJobError: The file has a field that this version must not ignore.
        DecodeError: This is no batch.
    """
    packet.check_understood(content)
    head, (callback, *members) = packet.head(content), packet.read_calls(content.body) or (b"",)
    try:
        number, on_death = content.fields[packet.MEMBERS], content.fields[_ON_DEATH].decode()
        name = content.fields[_NAME].decode("utf-8", "surrogatepass")
    except KeyError as error:
        raise DecodeError(f"the batch has no {error.args[0].decode()!r}") from error
    except UnicodeDecodeError as error:
        raise DecodeError(f"a field of the batch is not UTF-8: {error}") from error
    if b"%d" % len(members) != number or on_death not in get_args(OnDeath):
        raise DecodeError(f"the batch has {len(members)} members, not {number[:80]!r}, or on_death is {on_death!r}")
    states = {State.QUEUED: len(members)} if members else {}
    batch = BatchStatus(head.id, name, head.enqueued_at, None, 0, cast("OnDeath", on_death), None, states)
    return Content(batch, [(packet.head(packet.load(data)), data) for data in members], callback or None)
