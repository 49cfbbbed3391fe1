"""How does a call of a unique task become a job, or find the job that there is? See ``docs/unique-and-limits.md``.

A caller holds the key from the question for the job that it names until the answer is carried out. It writes its own
id into the key first, and the job's file then: where it is killed between the two, the key names a job that does not
exist, and is free.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from spoolkit.admin import keys as holders
from spoolkit.admin import lookup
from spoolkit.coordination import unique
from spoolkit.coordination.unique import Action
from spoolkit.encoding import packet
from spoolkit.errors import DuplicateJobError, StoreUnavailableError
from spoolkit.job import AnyJob, JobSpec, State, Status, Unique, replaced
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import chunks, later, spoolers, spoolfile
from spoolkit.spooldir import unique as keys
from spoolkit.spooldir.unique import Holder
from spoolkit.store import locations
from spoolkit.system import clock

Call = tuple[tuple[object, ...], Mapping[str, object]]
"""The arguments of a call by position, and by name."""

BeforeWrite = Callable[[Sequence[JobSpec]], None]
"""Called with jobs that are about to be written."""

CLAIM_TIME = 2.0
"""Seconds after which a job whose file is locked counts as one that runs: it is replaced no more."""


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
        OSError: The key, or a new content of the job that holds it, cannot be written.
    """
    rule = _rule(declared)
    key, place = unique.digest(declared, rule, job.args, job.kwargs), holders.folder(config)
    job = _bounded(job, job.enqueued_at)
    with keys.locked(place, key):
        if (existing := _existing(job, call, rule, place, key, config)) is not None:
            return existing
        keys.take(place, key, _holder(job, spool_dir), fsync=config.fsync)
        write(job)
    return job


def submit_many(
    first: AnyJob,
    calls: Sequence[Call],
    encoded: Sequence[bytes],
    declared: Declared,
    spool_dir: str,
    config: Settings,
    *,
    step: float,
    write: Callable[[Sequence[Call], Sequence[bytes], BeforeWrite], list[AnyJob]],
) -> list[AnyJob]:
    """Accept many calls of a unique task at once, in one pass. Nothing is written if one of them is refused.

    Args:
        first: The first job, but for its id and its arguments.
        calls: The arguments of each call.
        encoded: The same in the codec's bytes.
        declared: As for :func:`submit`.
        spool_dir: As for :func:`submit`.
        config: As for :func:`submit`.
        step: Seconds between the due times of two calls.
        write: Writes a job for each of some calls.

    Returns:
        A handle for each call, in their order.

    Raises:
        DuplicateJobError: As :func:`submit`. Two calls with the same key are refused as well.
        ArgumentTypeError: As :func:`submit`.
        OSError: As :func:`submit`.
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
    jobs: dict[str, AnyJob] = {}
    new: dict[str, int] = {}
    with keys.locked(place, None):
        for key, index in decisive.items():
            run_at = None if first.run_at is None else first.run_at + index * step
            args, kwargs = calls[index]
            job = _bounded(replaced(first, args=args, kwargs=kwargs, run_at=run_at), first.enqueued_at)
            existing = _existing(job, encoded[index], rule, place, key, config, row=f"row {index}: ")
            if existing is None:
                new[key] = index
            else:
                jobs[key] = existing

        def take(jobs: Sequence[JobSpec]) -> None:
            for key, job in zip(new, jobs, strict=True):
                keys.take(place, key, _holder(job, spool_dir), fsync=config.fsync)

        if new:
            written = write([calls[index] for index in new.values()], [encoded[index] for index in new.values()], take)
            jobs.update(zip(new, written, strict=True))
    handles: list[AnyJob] = []
    for key in names:
        handles.append(jobs[key])
        if not jobs[key].duplicate:
            jobs[key] = replaced(jobs[key], duplicate=True)  # for the calls after the first one
    return handles


def _rule(declared: Declared) -> Unique:
    assert declared.options.unique is not None
    return declared.options.unique


def _existing(
    job: AnyJob, call: bytes, rule: Unique, place: str, key: str, config: Settings, *, row: str = ""
) -> AnyJob | None:
    """A handle of the job that holds the key; ``None``: no job does.

    It has the arguments of this call now, if these replace the earlier ones.
    """
    if (holder := keys.holder(place, key)) is None:
        return None
    deadline = time.monotonic() + CLAIM_TIME
    while True:
        status = holders.status_of(holder)
        state = None if status is None else status.state
        if state is State.QUEUED and time.monotonic() > deadline:
            state = State.RUNNING  # it is locked: about to run, or it runs and the store is unavailable
        action = unique.decide(state, rule)
        if status is None or action is Action.ACCEPT:
            return None
        if action is Action.RAISE:
            raise _duplicate(job.task, row, f"job {status.id}", job=status.id, state=str(state))
        if action is Action.RETURN:
            return _handle(job, status)
        if (new := _replaced(job, call, status, holder, place, key, config)) is not None:
            return new
        time.sleep(0.01)  # a spooler has locked the file, or has just moved or run it


def _replaced(
    job: AnyJob, call: bytes, status: Status, holder: Holder, place: str, key: str, config: Settings
) -> AnyJob | None:
    """Give a waiting job the arguments and the due time of a call. ``None``: it is locked, gone, or has started."""
    for spool_dir in dict.fromkeys([holder.spool_dir, *lookup.directories(status)]):
        with contextlib.suppress(FileNotFoundError):
            chunks.expand_for(spool_dir, status.id, fsync=config.fsync)
            path = spoolfile.locate(spool_dir, status.id, holder.file)
            if path is None:
                continue
            with spoolfile.claim(path) as fd:
                # Asked while no attempt can begin: since its state was read, one may have begun and failed.
                if fd is None or _has_started(status.id):
                    return None
                earlier = packet.head(packet.load(spoolfile.read(fd, packet.HEAD_SIZE)))
                new = _bounded(job, earlier.enqueued_at)
                new = replaced(
                    new,
                    id=earlier.id,
                    task=earlier.task,
                    enqueued_at=earlier.enqueued_at,
                    queue=earlier.queue,
                    priority=earlier.priority,
                    duplicate=True,
                )
                run_at = None if new.run_at is None or new.run_at <= clock.now() else new.run_at
                content = packet.dump_job(new, call)
                path = later.replace(path, spool_dir, content, run_at=run_at, fsync=config.fsync)
            keys.take(place, key, Holder(new.id, spool_dir, path.rpartition("/")[2]), fsync=config.fsync)
            if run_at is None:
                spoolers.wake(spool_dir, new.id)
            return new
    return None


def _has_started(id: str) -> bool:
    with contextlib.suppress(StoreUnavailableError):
        # The file of a dead job was moved back, to start anew.
        return locations.store().states([id]).get(id, State.QUEUED) not in (State.QUEUED, State.DEAD)
    return False


def _bounded(job: AnyJob, since: float) -> AnyJob:
    """The job, due no later than its ``max_wait`` after the time of the first call."""
    if job.max_wait is None or job.run_at is None:
        return job
    return replaced(job, run_at=min(job.run_at, since + job.max_wait))


def _holder(job: JobSpec, spool_dir: str) -> Holder:
    return Holder(job.id, spool_dir, f"{spoolfile.PREFIX}{job.id}")


def _handle(job: AnyJob, status: Status) -> AnyJob:
    """A handle of the job that holds the key of the call ``job``, without the arguments of either."""
    return type(job)(
        status.id,
        status.task or job.task,
        enqueued_at=status.enqueued_at or 0.0,
        run_at=status.run_at,
        queue=status.queue,
        expires_at=status.expires_at,
        duplicate=True,
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
