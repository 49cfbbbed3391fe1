"""What happens to one spool file? Its job is claimed and run, the result is recorded, the file is settled.

Here alone a job's file and its record are brought together. Under uWSGI the server's C code holds the lock on the file:
nothing here may open it, because closing any descriptor of a file drops the lock.
"""

from __future__ import annotations

import contextlib
import os
from contextvars import copy_context
from dataclasses import dataclass
from typing import NamedTuple

from spoolkit import application, registry, signals
from spoolkit.admin import keys as holders
from spoolkit.attempt import admission, bookkeeping, job_log, process_state, runner
from spoolkit.attempt.runner import AttemptResult
from spoolkit.coordination import batches, chains, limits, pauses
from spoolkit.encoding import batch, chunk, packet
from spoolkit.errors import (
    DecodeError,
    NewerJobError,
    NewerStoreError,
    SignatureError,
    SpoolkitError,
    StoreUnavailableError,
    UnknownTaskError,
)
from spoolkit.job import (
    SPOOL_RETRY,
    Cancelled,
    Dead,
    Done,
    Failure,
    JobSpec,
    Outcome,
    RetryAt,
    State,
    TaskOptions,
    is_plain,
    replaced,
)
from spoolkit.lifecycle import sweeping
from spoolkit.registry import Declared
from spoolkit.schedules import ticks
from spoolkit.settings import Settings
from spoolkit.spooldir import chunks, dead, later, running, spoolers, spoolfile
from spoolkit.spooling import batch_jobs, other_libraries, recycling, sending
from spoolkit.store import Store, locations, retention
from spoolkit.store.claims import Full, Granted
from spoolkit.store.holders import Room
from spoolkit.system import clock, log
from spoolkit.uwsgi import bridge

UNKNOWN_PAUSES = 1.0, 15.0
"""Seconds, at least and at most, between two tries to run a job that this version of the code cannot run."""


@dataclass(slots=True)  # made for each job in half the time that a NamedTuple takes
class SpoolFileRef:
    """A spool file that this process has locked."""

    #: Its path.
    path: str
    #: The spool directory that holds the file, perhaps in the folder of a priority.
    spool_dir: str


def execute(content: packet.Packet, file: SpoolFileRef, working_directory: str) -> bool:
    """Run the job of a spool file in a spooler, and settle the file. A chunk or a batch becomes the files of its jobs.

    Args:
        content: What the file holds.
        file: The file.
        working_directory: Where the task runs.

    Returns:
        Whether this process can run another job.

    Raises:
        NewerStoreError: A newer version of spoolkit has written the store. The file is as it was.
    """
    config = application.settings()
    store = locations.store(config)
    try:
        if chunk.is_chunk(content):
            chunks.expand(file.path, file.spool_dir, content, fsync=config.fsync)
            return True
        if batch.is_batch(content):
            batch_jobs.expand(file.path, content, config)
            return True
        job = packet.unpack(content)
    except NewerJobError as error:
        _leave_for_newer_version(content, file, error, store, config)
        return True
    except DecodeError as error:
        settle_file(file, AttemptResult(_dead(error)), task=other_libraries.task_name(content.fields))
        return True
    with job_log.about(job, config), spoolfile.executing(job.id):
        run = execute_job if job.schedule is None else _execute_periodic
        result = run(job, content, file, store, config, working_directory)
        if (result is not None and result.damage) or store.is_lost:
            return False
        if retention.delete_some(store, file.spool_dir, config):
            sweeping.run(file.spool_dir)
        holders.remove_some(store, config)
    if result is not None and result.attempt:
        recycling.after_job(config)
    return True


def _execute_periodic(
    job: JobSpec, content: packet.Packet, file: SpoolFileRef, store: Store, config: Settings, working_directory: str
) -> AttemptResult | None:
    """:func:`execute_job`, within what a periodic run does before and after it."""
    # Shown until it is settled, so that no other run starts beside it.
    with running.AttemptFile(locations.spool_dir_of(job.queue, config), job.id) as shown:
        job, instead = ticks.before_attempt(job, file.path, file.spool_dir, store, config, shown)
        result = execute_job(job, content, file, store, config, working_directory, instead, shown)
    if result is None and job.runs_elsewhere:
        return None  # it is with a worker, and what hears of its end goes on
    ticks.after_attempt(job, file.spool_dir, store, config)
    return result


@dataclass(slots=True)
class Ready:
    """What the claim of a job needs."""

    #: The job, with the name that its task has in this version of the code.
    job: JobSpec
    #: Its task. ``None``: it cannot run here now, and the claim only has ``instead`` recorded.
    declared: Declared | None
    #: What becomes of the job instead of an attempt, unless its record says that it runs or is over.
    instead: Cancelled | RetryAt | None
    #: What its limit and its rate allow; ``None``: it has neither.
    room: Room | None = None


class Parked(NamedTuple):
    """The job waits: its file leaves the spool directory until others have it moved back."""

    #: The name of its task, which is paused.
    paused: str | None = None
    #: The limit under which it finds no room.
    room: Room | None = None


Instead = AttemptResult | Parked | None
"""What happens to a job instead of an attempt: there is a result all the same, or it waits; ``None``: nothing, because
another process runs it, or has just settled its file."""


def execute_job(
    job: JobSpec,
    content: packet.Packet,
    file: SpoolFileRef,
    store: Store,
    config: Settings,
    working_directory: str | None,
    instead: Cancelled | RetryAt | None = None,
    shown: running.AttemptFile | None = None,
) -> AttemptResult | None:
    """Claim the job, run it, record the result, settle the file.

    Args:
        job: The job.
        content: What its file holds.
        file: The file.
        store: Where the job is recorded.
        config: The settings in force.
        working_directory: Where the task runs. ``None``: this process is not a spooler but runs a test.
        instead: What becomes of the job instead of an attempt, if that is known.
        shown: What this process shows of the job already, if it does.

    Returns:
        What became of the job; ``None`` if another process has it, so that nothing was touched, or if it is parked.

    Raises:
        NewerStoreError: A newer version of spoolkit has written the store; nothing was touched.
    """
    files_dir = locations.spool_dir_of(job.queue, config)
    found: Ready | Granted | Instead = _prepare(job, file, files_dir, store, config, working_directory, instead)
    if isinstance(found, Ready) and _is_to_be_sent(found, store):
        assert found.declared is not None
        found = sending.send(
            found.job, found.declared, packet.arguments(content), file.path, file.spool_dir, store, config
        )
    if isinstance(found, Ready):
        ready, job = found, found.job
        with shown or running.AttemptFile(files_dir, job.id) as attempt_file:
            file, found = _claim(ready, content, file, store, config)
            if isinstance(found, Granted):
                found = _run(ready, found, config, attempt_file, owns_process=working_directory is not None)
            if isinstance(found, AttemptResult):
                record_and_settle(job, found, file, store, config, files_dir)
    elif isinstance(found, AttemptResult):
        record_and_settle(job, found, file, store, config, files_dir)
    # With nothing shown of the job any more: whoever moves jobs back counts those that are.
    if isinstance(found, AttemptResult):
        if job.limit_key is not None:
            limits.ended(job.limit_key, job.task, store, config)
        return found
    if isinstance(found, Parked):
        _park(found, file, store, config)
    return None


def _is_to_be_sent(ready: Ready, store: Store) -> bool:
    job = ready.job
    if not job.runs_elsewhere or ready.instead is not None:
        return False
    if admission.instead_of_attempt(job) is None:
        return True
    # A worker may have started it before that, from another message. The claim here must not take it for crashed.
    status = store.status(job.id)
    return status is not None and status.state is State.RUNNING


def _prepare(
    job: JobSpec,
    file: SpoolFileRef,
    files_dir: str,
    store: Store,
    config: Settings,
    working_directory: str | None,
    instead: Cancelled | RetryAt | None,
) -> Ready | Instead:
    """What the claim of a job needs; or what happens without a claim."""
    declared = _task_of(job, store, config, working_directory)
    if isinstance(declared, AttemptResult):
        # What its schedule has decided counts all the same, and has to be recorded.
        return declared if instead is None else Ready(job, None, instead)
    if job.task != declared.name:
        job = replaced(job, task=declared.name)
    if (paused_name := pauses.paused_name(file.spool_dir, declared)) is not None:
        if job.schedule is None:
            # It may run, with the lock that its task has dropped. Its process would not find the file to settle it.
            return None if running.is_running(files_dir, job.id) else Parked(paused=paused_name)
        # Not parked: a week of them would run at once.
        instead = instead or Cancelled(Failure("its task is paused", ending="skipped"))
    return Ready(job, declared, instead, None if is_plain(job) else limits.room(job, declared.options, config))


def _task_of(job: JobSpec, store: Store, config: Settings, working_directory: str | None) -> Declared | AttemptResult:
    """The job's task, with this process in its working directory; or what follows if the job cannot run here now.

    A test, which has no working directory, waits for no other version of the code.
    """
    try:
        declared = registry.find(job.task)
        # The arguments may come from another version of the code, as the task's name may.
        declared.check(job.args, job.kwargs)
    except (UnknownTaskError, SignatureError) as error:
        in_spooler = working_directory is not None
        return AttemptResult(wait_for_other_code(job, error, store, config) if in_spooler else _dead(error))
    if working_directory is not None:
        try:
            # uWSGI is in the spool directory at first, and an earlier task may have gone elsewhere.
            os.chdir(working_directory)
        except OSError as error:
            log.error("job %s of %s did not start: %s", job.id, declared.name, error)
            return AttemptResult(_retry_at(clock.now() + config.retry_delay, error))
    return declared.for_job(job)


def _claim(
    ready: Ready, content: packet.Packet, file: SpoolFileRef, store: Store, config: Settings
) -> tuple[SpoolFileRef, Granted | Instead]:
    """The answer to the claim, and the file: an attempt that the store cannot count is counted in the file's name.

    Raises :class:`NewerStoreError`, because jobs do not run beside a store that only needs another version.
    """

    def count_in_name() -> int:
        nonlocal file
        path, attempts = spoolfile.count_attempt(file.path)
        file = SpoolFileRef(path, file.spool_dir)
        return attempts

    job, room = ready.job, ready.room
    options = TaskOptions() if ready.declared is None else ready.declared.options
    asked = room and limits.behind_others(room, file.path, file.spool_dir)
    arguments = packet.arguments(content)
    try:
        claim = bookkeeping.claim(
            job, options, store, config, path=file.path, arguments=arguments, instead=ready.instead, room=asked
        )
    except NewerStoreError:
        raise
    except StoreUnavailableError as error:
        claim = bookkeeping.claim_without_store(job, options, config, error, count_in_name, ready.instead, asked)
    return file, Parked(room=room) if isinstance(claim, Full) else claim


def _run(
    ready: Ready, start: Granted, config: Settings, attempt_file: running.AttemptFile, *, owns_process: bool
) -> AttemptResult:
    job, declared = ready.job, ready.declared
    assert declared is not None  # otherwise there was something else than an attempt to record
    # In a copy: a context variable that a task sets is not for the next job of this process.
    result = copy_context().run(
        runner.run, job, declared, start, config, attempt_file=attempt_file, owns_process=owns_process
    )
    return dead_if_chain_stops(job, result, config)


def dead_if_chain_stops(job: JobSpec, result: AttemptResult, config: Settings) -> AttemptResult:
    """Return the result of an attempt; but a job is dead whose chain cannot go on with what its task returned."""
    if job.chain is None or not isinstance(result.outcome, Done):
        return result
    problem = chains.problem(job, result.result, config)
    return result if problem is None else result._replace(outcome=Dead(Failure(problem)), result=None, logged=False)


def _park(parked: Parked, file: SpoolFileRef, store: Store, config: Settings) -> None:
    """Have a job wait until others move it back."""
    if parked.paused is not None:
        pauses.park(file.path, file.spool_dir, parked.paused)
    elif parked.room is not None:
        limits.park(file.path, file.spool_dir, parked.room, store, config)


def record_and_settle(
    job: JobSpec,
    result: AttemptResult,
    file: SpoolFileRef,
    store: Store,
    config: Settings,
    files_dir: str,
    *,
    put_off: float = 0.0,
) -> None:
    """Record the result, and do to the file what it says, in an order that survives a kill between the two.

    A dead job's file goes first: if it is not among the dead letters, it is run again. Every other result is recorded
    first: the record tells the next claim what is left to do with the file. What follows from the end for other jobs
    comes between: the next job of a chain is written, and the callback of a batch.

    Args:
        job: The job.
        result: What became of it.
        file: Its file.
        store: Where it is recorded.
        config: The settings in force.
        files_dir: The spool directory with what the job has beside its file.
        put_off: Seconds for which the file of a retry waits after it is due: others see to it until then.

    Raises:
        StoreUnavailableError: The result for the next job of a chain cannot be read, and the file is left for another
            try.
        OSError: The same, or the file could not be settled.
    """
    name, is_dead = file.path.rpartition("/")[2], isinstance(result.outcome, Dead)
    if is_dead:
        settle_file(file, result, task=job.task)
    state = bookkeeping.record(job, result, store, files_dir, file=name)
    try:
        if not is_plain(job):
            _tell_others(job, result, state, store, config)
        if not is_dead:
            settle_file(file, result, task=job.task, put_off=put_off)
    finally:
        signals.ended(job, result.attempt, result.outcome, state)


def _tell_others(job: JobSpec, result: AttemptResult, state: State | None, store: Store, config: Settings) -> None:
    """Do what follows from the end of an attempt for the batch and the chain of its job."""
    outcome = result.outcome
    # A job that is to be tried again has ended all the same if somebody has cancelled it meanwhile.
    if job.batch is not None and (state is State.CANCELLED or not isinstance(outcome, RetryAt)):
        batches.member_ended(job.batch, State.DEAD if isinstance(outcome, Dead) else None, store, config)
    if job.chain is not None and isinstance(outcome, Done):
        chains.go_on(job, result.result, store, config, again=result.attempt != 1 or not result.recordable)


def settle_file(file: SpoolFileRef, result: AttemptResult, *, task: str | None = None, put_off: float = 0.0) -> None:
    """Remove the file, reschedule it, or move it to the dead letters.

    By path alone: to open the file would drop uWSGI's lock. Where it is gone, another process was here, with the lock
    that a task has dropped.

    Args:
        file: The file.
        result: What became of its job.
        task: The name of the task, for the report beside a dead letter.
        put_off: As for :func:`record_and_settle`.
    """
    outcome = result.outcome
    if isinstance(outcome, Dead):
        failure = outcome.failure
        with contextlib.suppress(FileNotFoundError):
            moved_to = dead.quarantine(
                file.path, file.spool_dir, reason=str(failure), task=task, traceback=failure.traceback
            )
            if not result.logged:
                text = "the job of the spool file %s is dead: %s; `flask spool retry` runs it again"
                log.error(text, moved_to, failure, details=failure.traceback or "")
    elif isinstance(outcome, RetryAt):
        with contextlib.suppress(FileNotFoundError):
            later.put_off(file.path, file.spool_dir, outcome.time + put_off)
    else:  # done or cancelled
        spoolfile.finish(file.path)


def end_expired(
    content: packet.Packet,
    file: SpoolFileRef,
    declared: Declared,
    config: Settings,
    instead: Cancelled | RetryAt | None = None,
) -> bool:
    """End a job that waits and has expired, as a spooler does that looks at it. The caller has locked its file.

    Args:
        content: What the file holds.
        file: The file.
        declared: The task of the job.
        config: The settings in force.
        instead: What becomes of it in any case; ``None``: what is known is only whether it has expired.

    Returns:
        Whether anything has changed: not if it has not expired, or the store is unavailable, or the job runs.

    Raises:
        NewerJobError: It has options that this version does not know.
        DecodeError: The file does not hold a job.
    """
    job, store = packet.unpack(content), locations.store(config)
    if (instead := instead or admission.instead_of_attempt(job)) is None:
        return False
    arguments = packet.arguments(content)
    try:
        result = bookkeeping.claim(
            job, declared.for_job(job).options, store, config, path=file.path, arguments=arguments, instead=instead
        )
    except StoreUnavailableError:
        return False
    if not isinstance(result, AttemptResult):
        return False
    record_and_settle(job, result, file, store, config, locations.spool_dir_of(job.queue, config))
    limits.ended(job.limit_key, job.task, store, config)
    return True


# A job that this version of the code cannot run


def wait_for_other_code(job: JobSpec, error: SpoolkitError, store: Store, config: Settings) -> RetryAt | Dead:
    """What follows if no version of the code that is here can run a job: it is tried again for a while, then dead."""
    now = clock.now()
    waited = now - _first_due(job, store)
    if (left := config.unknown_grace - waited) <= 0:
        return _dead(error)
    text = "job %s is left for another version of the code, for %.0f s more (SPOOLKIT_UNKNOWN_GRACE): %s"
    log.complain(text, job.id, left, error)
    return _retry_at(now + min(_pause(waited), left), error)


def _pause(waited: float) -> float:
    """Seconds until the next try of a job that has waited for so many seconds for a version that can run it."""
    shortest, longest = UNKNOWN_PAUSES
    return min(max(waited / 10, shortest), longest)


def _leave_for_newer_version(
    content: packet.Packet, file: SpoolFileRef, error: NewerJobError, store: Store, config: Settings
) -> None:
    """Leave a job or a chunk alone, however long it takes until a version comes that knows its fields."""
    is_chunk = chunk.is_chunk(content)
    now = clock.now()
    try:
        job = chunk.head(content).common if is_chunk else packet.head(content)
    except DecodeError as unreadable:  # that version may write other fields in another way as well
        log.complain("%s is left for a newer version of spoolkit: %s; %s", file.path, error, unreadable)
        run_at = now + UNKNOWN_PAUSES[1]
    else:
        if running.is_running(locations.spool_dir_of(job.queue, config), job.id):
            return  # by a spooler of that version whose task has dropped the lock
        log.complain("job %s of %s is left for a newer version of spoolkit: %s", job.id, job.task, error)
        run_at = now + _pause(now - _first_due(job, store))
    with contextlib.suppress(FileNotFoundError):
        if is_chunk:
            chunks.put_off(file.path, run_at)
        else:
            later.put_off(file.path, file.spool_dir, run_at)


def _first_due(job: JobSpec, store: Store) -> float:
    """When this version could first have run the job: its enqueueing, due time, last retry, or retry by hand."""
    times = [job.enqueued_at, job.run_at]
    with contextlib.suppress(StoreUnavailableError):
        if (status := store.status(job.id)) is not None:
            times += [status.run_at, *(event.time for event in store.history(job.id)[1] if event.kind == "retried")]
    return max(time for time in times if time is not None)


def _retry_at(time: float, error: Exception) -> RetryAt:
    return RetryAt(time, Failure(str(error), type(error).__name__))


def _dead(error: SpoolkitError) -> Dead:
    return Dead(Failure(str(error), type(error).__name__))


# The file of another library


def execute_foreign(env: bridge.Env, file: SpoolFileRef, presence: spoolers.SpoolerFile | None) -> tuple[int, bool]:
    """Have another library run the job of a spool file, and settle the file.

    Args:
        env: What uWSGI read from the file.
        file: The file.
        presence: What this process has open as a spooler.

    Returns:
        The integer for uWSGI, and whether this process can run another job.
    """
    task = other_libraries.task_name(env)
    state = process_state.State()
    try:
        outcome = _foreign_outcome(env, file.path)
    finally:
        damage = state.restore()
    if presence is not None and presence.is_lost:
        damage.append(process_state.CLOSED)
    process_state.stop_log_handlers_if_closed(damage)
    if damage:
        job_log.replaced(task, damage)
    recycling.after_job(application.settings())
    if isinstance(outcome, int):
        return outcome, not damage
    settle_file(file, AttemptResult(outcome), task=task)
    return int(SPOOL_RETRY), not damage


def _foreign_outcome(env: bridge.Env, path: str) -> Outcome | int:
    config = application.settings()
    try:
        return other_libraries.run(env, retry_at=clock.now() + config.retry_delay)
    except DecodeError as error:
        return Dead(Failure(str(error)))
    except UnknownTaskError as error:
        # Its file alone tells since when it is due, and so must keep its time.
        left = os.lstat(path).st_mtime + config.unknown_grace - clock.now()
        if left <= 0:
            return Dead(Failure(str(error)))
        text = "the spool file %s is left for another version of the code, for %.0f s more (SPOOLKIT_UNKNOWN_GRACE): %s"
        log.complain(text, path, left, error)
        return int(SPOOL_RETRY)
