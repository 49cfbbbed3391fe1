"""How does a call of a unique task become a job, or find the job that there is? See ``docs/unique-and-limits.md``.

A caller holds the key from the question for the job that it names until the answer is carried out. It writes its own
id into the key first, and the job's file then: where it is killed between the two, the key names a job that does not
exist, and is free.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from spoolkit.admin import keys as holders
from spoolkit.coordination import limits, unique
from spoolkit.coordination.unique import Action
from spoolkit.encoding import packet
from spoolkit.errors import (
    DecodeError,
    DuplicateJobError,
    KeyLockedError,
    NewerJobError,
    PartlyAcceptedError,
    QueueFull,
    SpoolkitError,
    SpoolUnavailableError,
    StoreUnavailableError,
)
from spoolkit.job import AnyJob, JobSpec, State, Status, Unique, new_id, of_status, replaced
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import later, parked, sent, spoolers, spoolfile
from spoolkit.spooldir import unique as keys
from spoolkit.spooldir.unique import Holder
from spoolkit.spooling import execute
from spoolkit.spooling.execute import SpoolFileRef
from spoolkit.store import locations
from spoolkit.system import clock

Call = tuple[tuple[object, ...], Mapping[str, object]]
"""The arguments of a call by position, and by name."""

BeforeWrite = Callable[[Sequence[JobSpec]], None]
"""Called with jobs that are about to be written."""

CLAIM_TIME = 2.0
"""Seconds after which a job whose file is locked counts as one that runs: it is replaced no more, nor ended."""

PAUSE = 0.01
"""Seconds until a caller looks at such a job again. Meanwhile the key is not locked."""


class _BusyError(Exception):
    """Somebody has locked the file of the job that holds the key, or has just moved or run it: look again."""


class Busy(dict[str, float]):
    """The keys whose jobs could not be locked, and until when their caller looks again, on the monotonic clock."""

    def __init__(self) -> None:
        super().__init__()
        #: The keys whose jobs have expired, and cannot be ended here.
        self.kept: set[str] = set()


class _Held(NamedTuple):
    """The job that holds a key."""

    #: What the key says of it.
    holder: Holder
    #: What is known of it.
    status: Status
    #: Whether the call replaces it.
    is_replaced: bool = False
    #: Whether it is to be ended first: it waits and has expired.
    has_expired: bool = False


def submit(
    job: AnyJob, call: bytes, declared: Declared, spool_dir: str, config: Settings, *, write: Callable[[AnyJob], object]
) -> AnyJob:
    """Accept a call of a unique task.

    Args:
        job: The job of the call.
        call: Its arguments in the codec's bytes.
        declared: The task.
        spool_dir: Where the job would be written.
        config: The settings in force.
        write: Writes a job.

    Returns:
        The job, or a handle of the one that holds its key.

    Raises:
        DuplicateJobError: Another job holds the key, and ``on_duplicate`` is ``"raise"``.
        ArgumentTypeError: The key has a part of an unsupported type.
        KeyLockedError: Another caller has locked the key for long.
        OSError: The key, or a new content of the job that holds it, cannot be written.
    """
    rule = _rule(declared)
    key, place = unique.digest(declared, rule, job.args, job.kwargs), holders.folder(config)
    job = bounded(job, job.enqueued_at)
    busy = Busy()
    while True:
        held = None
        with contextlib.suppress(_BusyError), keys.locked(place, key, task=job.task):
            if (held := _held(job.task, declared, place, key, config, busy)) is None:
                keys.take(place, key, _holder(job, spool_dir), fsync=config.fsync)
                write(job)
                return job
            if not held.has_expired:
                return _existing(job, call, held, place, key, config, busy)
        _before_next_look({key: held}, declared, config, busy)


def submit_many(
    first: AnyJob,
    calls: Sequence[Call],
    encoded: Sequence[bytes],
    declared: Declared,
    spool_dir: str,
    config: Settings,
    *,
    step: float,
    write_all: Callable[[Sequence[Call], Sequence[bytes], BeforeWrite], list[AnyJob]],
    write: Callable[[AnyJob, bytes], object],
) -> list[AnyJob]:
    """Accept many calls of a unique task at once, in one pass. Nothing is written if one of them is refused.

    The new jobs are written first, all or none. Then each job that a call replaces gets its new content.

    Args:
        first: The first job, but for its id and its arguments.
        calls: The arguments of each call.
        encoded: The same in the codec's bytes.
        declared: As for :func:`submit`.
        spool_dir: As for :func:`submit`.
        config: As for :func:`submit`.
        step: Seconds between the due times of two calls.
        write_all: Writes a job for each of some calls, all or none.
        write: Writes a job with its encoded arguments.

    Returns:
        A handle for each call, in their order.

    Raises:
        DuplicateJobError: As :func:`submit`. Two calls with the same key are refused as well.
        ArgumentTypeError: As :func:`submit`.
        KeyLockedError: As :func:`submit`.
        PartlyAcceptedError: A job could not be replaced, and other calls were accepted before.
        OSError: As :func:`submit`, before any call was accepted.
    """
    rule, place = _rule(declared), holders.folder(config)
    names = [unique.digest(declared, rule, *call) for call in calls]
    # Of several calls with one key, the first one counts; where later ones replace it, the last one.
    decisive: dict[str, int] = {}
    for index, key in enumerate(names):
        if rule.on_duplicate == "raise" and key in decisive:
            raise _duplicate(first.task, f"row {index}: ", f"row {decisive[key]}", job="", state="")
        if rule.on_duplicate == "replace" or key not in decisive:
            decisive[key] = index

    def job_of(key: str) -> AnyJob:
        index = decisive[key]
        run_at = None if first.run_at is None else first.run_at + index * step
        args, kwargs = calls[index]
        job = replaced(first, args=args, kwargs=kwargs, run_at=run_at, **limits.keys_of(declared, args, kwargs))
        return bounded(job, first.enqueued_at)

    jobs: dict[str, AnyJob] = {}
    left: list[str] = []

    def write_new(new: Sequence[str]) -> None:
        def take(jobs: Sequence[JobSpec]) -> None:
            for key, job in zip(new, jobs, strict=True):
                keys.take(place, key, _holder(job, spool_dir), fsync=config.fsync)

        indexes = [decisive[key] for key in new]
        jobs.update(zip(new, write_all([calls[i] for i in indexes], [encoded[i] for i in indexes], take), strict=True))

    def write_existing(found: Mapping[str, _Held]) -> None:
        for key, held in found.items():
            try:
                jobs[key] = _existing(job_of(key), encoded[decisive[key]], held, place, key, config, busy)
            except _BusyError:
                left.append(key)

    busy = Busy()
    try:
        while True:
            with keys.locked(place, None, task=first.task):
                found = {
                    key: _held(first.task, declared, place, key, config, busy, row=f"row {index}: ")
                    for key, index in decisive.items()
                }
                if not any(held is not None and held.has_expired for held in found.values()):
                    if new := [key for key, held in found.items() if held is None]:
                        write_new(new)
                    write_existing({key: held for key, held in found.items() if held is not None})
                    break
            _before_next_look(found, declared, config, busy)
        for key in left:
            job, call = replaced(job_of(key), id=new_id()), encoded[decisive[key]]
            jobs[key] = submit(job, call, declared, spool_dir, config, write=lambda one, call=call: write(one, call))  # type: ignore[misc]
    except (OSError, SpoolUnavailableError, QueueFull, KeyLockedError) as error:
        if accepted := tuple(index for index, key in enumerate(names) if key in jobs):
            raise _partly_accepted(accepted, len(names), spool_dir, error) from error
        raise
    handles: list[AnyJob] = []
    for key in names:
        handles.append(jobs[key])
        if not jobs[key].duplicate:
            jobs[key] = replaced(jobs[key], duplicate=True)  # for the calls after the first one
    return handles


def _rule(declared: Declared) -> Unique:
    assert declared.options.unique is not None
    return declared.options.unique


def _held(
    task: str, declared: Declared, place: str, key: str, config: Settings, busy: Busy, *, row: str = ""
) -> _Held | None:
    """The job that holds the key, which this thread has locked; ``None``: no job does, and the call makes one.

    Raises:
        DuplicateJobError: The call is refused.
    """
    if (holder := keys.holder(place, key)) is None:
        return None
    rule = _rule(declared)
    status = holders.status_of(holder)
    if (
        status is not None
        and key not in busy.kept
        and unique.holds(status.state, rule.until)
        and holders.has_expired(status)
    ):
        return _Held(holder, status, has_expired=True)
    state = None if status is None else status.state
    is_busy = state is State.QUEUED and _is_busy_for_long(key, busy)
    if is_busy and status is not None and not status.runs_elsewhere:
        state = State.RUNNING  # about to run, or it runs and the store is unavailable; elsewhere, it is being published
    action = unique.decide(state, rule)
    if status is None or action is Action.ACCEPT:
        return None
    if action is Action.RAISE:
        raise _duplicate(task, row, f"job {status.id}", job=status.id, state=str(state))
    return _Held(holder, status, action is Action.REPLACE and not is_busy)


def _before_next_look(found: Mapping[str, _Held | None], declared: Declared, config: Settings, busy: Busy) -> None:
    """End the jobs that wait and have expired, as a spooler does that looks at them; without one, sleep.

    No key is locked: whoever hears of the end of a job may call its task.
    """
    expired = {key: held for key, held in found.items() if held is not None and held.has_expired}
    is_busy = not expired
    for key, held in expired.items():
        try:
            if not _end_expired(held, declared, key, config, busy):
                busy.kept.add(key)
        except _BusyError:
            is_busy = True
    if is_busy:
        time.sleep(PAUSE)


def _end_expired(held: _Held, declared: Declared, key: str, config: Settings, busy: Busy) -> bool:
    """End a job that waits and has expired. Returns whether anything has changed."""
    try:
        with holders.locked_file(held.holder, held.status, config) as found:
            if found is None:
                return _look_again(key, busy)
            fd, path, spool_dir = found
            if sent.holds(path, spool_dir):
                return False  # a worker may start it at this moment
            content = packet.load(spoolfile.read(fd))
            return execute.end_expired(content, SpoolFileRef(path, spool_dir), declared, config)
    except (NewerJobError, DecodeError, StoreUnavailableError):
        return False  # a spooler decides


def _existing(job: AnyJob, call: bytes, held: _Held, place: str, key: str, config: Settings, busy: Busy) -> AnyJob:
    """A handle of the job that holds the key. It has the arguments of this call now, if these replace its own."""
    if held.is_replaced:
        with contextlib.suppress(NewerJobError):  # it has options that this version would lose
            return _replaced(job, call, held, place, key, config, busy)
    return _handle(job, held.status)


def _replaced(job: AnyJob, call: bytes, held: _Held, place: str, key: str, config: Settings, busy: Busy) -> AnyJob:
    """Give a waiting job the arguments and the due time of a call, and return a handle of it."""
    holder, status = held.holder, held.status
    with holders.locked_file(holder, status, config) as found:
        # Asked while no attempt can begin: since its state was read, one may have begun and failed.
        recorded = None if found is None else _recorded(status.id)
        if found is None or recorded not in (None, State.QUEUED, State.DEAD):
            _look_again(key, busy)
            raise _BusyError
        fd, path, spool_dir = found
        if sent.holds(path, spool_dir):
            return _handle(job, status)  # the arguments are on their way to a worker
        content = packet.load(spoolfile.read(fd, packet.HEAD_SIZE))
        packet.check_understood(content)
        earlier = packet.head(content)
        new = bounded(job, earlier.enqueued_at)
        new = replaced(
            new,
            id=earlier.id,
            task=earlier.task,
            engine=earlier.engine,
            enqueued_at=earlier.enqueued_at,
            queue=earlier.queue,
            priority=earlier.priority,
            duplicate=True,
        )
        run_at = None if new.run_at is None or new.run_at <= clock.now() else new.run_at
        if parked.group_of(path) is not None:
            path = parked.put_back(path, spool_dir, earlier.priority) or path
        try:
            path = later.replace(path, spool_dir, packet.dump_job(new, call), run_at=run_at, fsync=config.fsync)
        except FileNotFoundError:
            raise _BusyError from None  # it has become due, and was moved in
        if recorded is not None:
            with contextlib.suppress(StoreUnavailableError):
                locations.store().record_replaced(new)
    with contextlib.suppress(OSError):  # the key names the job already, and the job is found without its file's name
        keys.take(place, key, Holder(new.id, spool_dir, path.rpartition("/")[2]), fsync=config.fsync)
    if run_at is None:
        spoolers.wake(spool_dir, new.id)
    return new


def _look_again(key: str, busy: Busy) -> bool:
    """Have the caller look at the job again, if it has not done so for long: returns false then."""
    if _is_busy_for_long(key, busy):
        return False
    busy.setdefault(key, time.monotonic() + CLAIM_TIME)
    raise _BusyError


def _is_busy_for_long(key: str, busy: Busy) -> bool:
    return key in busy and time.monotonic() > busy[key]


def _recorded(id: str) -> State | None:
    with contextlib.suppress(StoreUnavailableError):
        return locations.store().states([id]).get(id)
    return None


def bounded(job: AnyJob, since: float) -> AnyJob:
    """The job, due no later than its ``max_wait`` after the time of the first call."""
    if job.max_wait is None or job.run_at is None:
        return job
    return replaced(job, run_at=min(job.run_at, since + job.max_wait))


def _holder(job: JobSpec, spool_dir: str) -> Holder:
    return Holder(job.id, spool_dir, f"{spoolfile.PREFIX}{job.id}")


def _handle(job: AnyJob, status: Status) -> AnyJob:
    """A handle of the job that holds the key of the call ``job``, without the arguments of either."""
    return replaced(of_status(type(job), status), task=status.task or job.task, duplicate=True)


def _partly_accepted(
    accepted: tuple[int, ...], count: int, spool_dir: str, error: OSError | SpoolkitError
) -> PartlyAcceptedError:
    others = [str(index) for index in range(count) if index not in set(accepted)]
    shown = ", ".join(others[:20]) + (", ..." if len(others) > 20 else "")
    return PartlyAcceptedError(
        f"{len(accepted)} of {count} calls were accepted, all but those with the index {shown}: "
        f"{getattr(error, 'strerror', None) or error}. Make those again; the spool directory is {spool_dir}",
        accepted=accepted,
        directory=spool_dir,
        errno=getattr(error, "errno", None),
    )


def _duplicate(task: str, row: str, holder: str, *, job: str, state: str) -> DuplicateJobError:
    about = f", which is {state}," if state else ""
    return DuplicateJobError(
        f"{row}{task} is unique, and {holder}{about} has the same key: nothing was accepted. With "
        'on_duplicate="return" the call returns that job',
        job=job,
        state=state,
        holder=job,
    )
