"""What follows in a chain? When a job is done, the next one is written: after the record, and before the file goes.

A kill between the two leaves the file of a job that is recorded as done: its next claim writes the next job, whose id
follows from that of this one, and then removes the file.
"""

from __future__ import annotations

from spoolkit import registry
from spoolkit.coordination import limits, successors
from spoolkit.encoding import codec, packet
from spoolkit.errors import ArgumentError, DecodeError, StoreUnavailableError, TooLargeError
from spoolkit.job import JobSpec, id_after, replaced
from spoolkit.settings import Settings
from spoolkit.spooldir import spoolfile
from spoolkit.store import Store
from spoolkit.store.transitions import Result
from spoolkit.system import clock, log


def next_id(id: str) -> str:
    """Return the id of the job after the one with this id in a chain."""
    return id_after(id, "next")


def problem(job: JobSpec, result: Result | None, config: Settings) -> str | None:
    """Return why the chain cannot go on after ``job`` with this result; ``None`` if it can.

    Args:
        job: The job, which is done but not recorded yet.
        result: What its task returned.
        config: The settings in force.
    """
    try:
        _next(job, result, config)
    except (ArgumentError, DecodeError) as error:
        return f"the next job of its chain cannot be made: {error}"
    return None


def go_on(job: JobSpec, result: Result | None, store: Store, config: Settings, *, again: bool) -> None:
    """Write the job that follows ``job``, which is done and recorded.

    Args:
        job: The job.
        result: What its task returned; ``None``: what is recorded.
        store: Where it is recorded.
        config: The settings in force.
        again: Whether this may have been done before.

    Raises:
        StoreUnavailableError: The recorded result cannot be read.
        OSError: The file could not be written.
    """
    if result is None and (status := store.status(job.id)) is not None:
        result = Result(status.result, status.result_error)
    following, call = _next(job, result, config)
    if again and _was_written(following, store, config):
        return
    successors.write(following, call, config)
    log.debug("job %s of %s follows job %s in its chain, and is accepted", following.id, following.task, job.id)
    successors.announce(following, config)


def _was_written(following: JobSpec, store: Store, config: Settings) -> bool:
    try:
        return successors.exists(following, store, config)
    except StoreUnavailableError:
        # It has no file. If it is over, because a process was killed between writing it and removing the file of the
        # job before, it runs twice. Otherwise each job that is done would run until it has no attempt left.
        return False


def _next(job: JobSpec, result: Result | None, config: Settings) -> tuple[JobSpec, bytes]:
    """The next job and its encoded arguments. Raises :class:`ArgumentError` and :class:`DecodeError`."""
    assert job.chain
    content = packet.load(job.chain[0])
    planned, call = packet.head(content), packet.arguments(content)
    if planned.result_at is not None:
        if result is None or result.data is None:
            raise ArgumentError((result and result.error) or "the result was not recorded")
        call = codec.fill(call, planned.result_at, result.data)
        planned = replaced(planned, **_keys(planned.task, call))
    limit = min(config.max_body, spoolfile.MAX_SIZE - packet.HEAD_SIZE)
    if len(call) > limit:
        raise TooLargeError(
            f"its arguments take {len(call)} bytes with the result; the limit is {limit} bytes (SPOOLKIT_MAX_BODY)",
            size=len(call),
            limit=limit,
        )
    rest = job.chain[1:] or None
    return replaced(planned, id=next_id(job.id), enqueued_at=clock.now(), chain=rest, result_at=None), call


def _keys(task: str, call: bytes) -> dict[str, str]:
    """The keys of limit and rate of a call whose arguments are known only now. Raises :class:`ArgumentError`."""
    declared = registry.this_process.get(task)
    if declared is None or not declared.has_keys:
        return {}
    try:
        return limits.keys_of(declared, *codec.decode_call(call))
    except Exception as error:  # of the application's own function
        raise ArgumentError(f"the key of a limit or a rate of {task} cannot be computed: {error}") from error
