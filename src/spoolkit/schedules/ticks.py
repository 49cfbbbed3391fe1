"""How does each due time of a schedule become one job, a *tick*? Each tick makes the next one before it runs.

What breaks this chain (a kill, a full disk, a file that somebody removed) is healed by :func:`reconcile`, which each
process that serves calls at its start and every half minute. It also adds and changes what the code declares.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import NamedTuple

from spoolkit import application, registry
from spoolkit.coordination import capabilities, limits
from spoolkit.encoding import codec, packet
from spoolkit.errors import NewerScheduleError, NewerStoreError, StoreUnavailableError
from spoolkit.job import NORMAL_PRIORITY, Cancelled, Failure, JobSpec, RetryAt, State, Status, replaced
from spoolkit.registry import Declared
from spoolkit.schedules import declared
from spoolkit.schedules.schedule import SECOND, Schedule
from spoolkit.settings import Settings
from spoolkit.spooldir import later, priorities, running, schedules, sent, spoolers, spoolfile
from spoolkit.spooldir.schedules import due_of, is_tick_of, tick_id
from spoolkit.store import Store, existence, locations
from spoolkit.system import clock, files, log
from spoolkit.uwsgi import bridge

PAUSES = 1.0, 15.0
"""Seconds, at least and at most, for which a tick is put off that may not start yet."""

MAX_STEPS = 100
"""Due times whose jobs are over already, of which one call looks at the next: somebody may have cancelled them."""

REMOVED = "its schedule was removed: no version of the code declares it any more"


class Decision(NamedTuple):
    """What is known of a tick before an attempt of it."""

    #: What becomes of it instead of the attempt; ``None``: it may start.
    instead: Cancelled | RetryAt | None = None
    #: Whether its first attempt started late, as after a downtime.
    is_late: bool = False


# Before a tick runs, and after


def before_attempt(
    job: JobSpec, path: str, spool_dir: str, store: Store, config: Settings, shown: running.AttemptFile
) -> tuple[JobSpec, Cancelled | RetryAt | None]:
    """Make the next tick, and decide whether this one may start. Never raises ``OSError``.

    Args:
        job: A job that has a ``schedule``.
        path: Its file, which this process has locked.
        spool_dir: The spool directory that holds the file, which is that of the task's queue.
        store: Where jobs are recorded.
        config: The settings in force.
        shown: What this process shows of the job, until it is settled.

    Returns:
        The job, which is marked if it starts late; and what becomes of it instead of the attempt, if it may not start.
    """
    decision = _decide(job, path, _home(job, spool_dir, config), store, config, shown)
    return replaced(job, is_late=decision.is_late), decision.instead


def _decide(
    job: JobSpec, path: str, spool_dir: str, store: Store, config: Settings, shown: running.AttemptFile
) -> Decision:
    name, due, now = job.schedule or "", due_of(job.id), _now()
    try:
        status, began = _recorded(job.id, store)
        # Of an attempt that the store could not count, only the file's name tells: what follows is a retry.
        is_first = status is None and not spoolfile.attempts_in_filename(path)
        # All in one piece: of two that are taken at the same time, the second one to come here sees the first.
        with schedules.locked(spool_dir):
            state = schedules.read(spool_dir, name)
            # Also one that was cancelled before the definition came to the same due time again: the chain goes on.
            fires = status is None or (state is not None and state.next is not None and due >= state.next)
            if fires:
                found = _current(state, name, due, now, spool_dir, config)
                if not isinstance(found, schedules.State):
                    return Decision(found)
                state = found
            if state is None or state.definition is None:
                return Decision()  # a retry of what has begun before the schedule was removed
            schedule = Schedule.from_json(state.definition)
            instead = None
            if status is None or status.state not in (State.DONE, State.CANCELLED):
                instead = _instead(job, state, schedule, is_first, now, config)
                if instead is None:
                    shown.hold()
            # One that waits has not fired: the one after it is not made, and cannot come first.
            if fires and not isinstance(instead, RetryAt):
                _fire(state, schedule, due, now, spool_dir, config)
    except (OSError, NewerScheduleError) as error:
        # It must not run before it is written that it does: it would run again.
        log.complain("the job %s of the schedule %s waits: %s", job.id, name, error)
        return Decision(_put_off(due, now, str(error)))
    return Decision(instead, schedule.is_late(due, now if began is None else round(began * SECOND)))


def _instead(
    job: JobSpec, state: schedules.State, schedule: Schedule, is_first: bool, now: int, config: Settings
) -> Cancelled | RetryAt | None:
    """What becomes of a tick instead of an attempt; ``None``: it may start. The caller holds the lock."""
    due = due_of(job.id)
    if is_first and state.paused:
        return _skipped("its schedule is paused")
    if is_first and (reason := schedule.why_not(due, now)):
        return _skipped(reason)
    if schedule.overlap == "allow" or not (others := _running(job, state.name, config)):
        return None
    reason = f"the run before it, job {others[0]}, still runs"
    if is_first and schedule.missed != "all" and min(map(due_of, others)) < due:
        return _skipped(reason)
    return _put_off(due, now, reason)


def missed(job: JobSpec, spool_dir: str, config: Settings) -> Cancelled | None:
    """Return what becomes of a job with a worker that would start for the first time now, and is too late for that.

    Args:
        job: The job.
        spool_dir: As for :func:`before_attempt`.
        config: The settings in force.

    Returns:
        ``None`` if it may start, or is no run of a schedule. Never raises ``OSError``.
    """
    if job.schedule is None:
        return None
    try:
        state = schedules.read(_home(job, spool_dir, config), job.schedule)
        if state is None or state.definition is None:
            return None
        reason = Schedule.from_json(state.definition).why_not(due_of(job.id), _now())
    except (OSError, NewerScheduleError):
        return None
    return None if reason is None else _skipped(reason)


def after_attempt(job: JobSpec, spool_dir: str, store: Store, config: Settings) -> None:
    """Make the next tick, if its due time had come before that of this one was over. Never raises ``OSError``.

    Not earlier: another spooler would take it at once, and put it off for seconds, because this one still ran. If this
    process is killed before, :func:`reconcile` makes it.
    """
    name, spool_dir = job.schedule or "", _home(job, spool_dir, config)
    try:
        if not _has_come(schedules.read(spool_dir, name), job, _now()):
            return
        with schedules.locked(spool_dir):
            state, now = schedules.read(spool_dir, name), _now()
            if state is not None and _has_come(state, job, now):
                write_and_make(heal(state, now, spool_dir, store, config), spool_dir, config)
    except (OSError, NewerScheduleError, StoreUnavailableError) as error:
        log.complain("the next job of the schedule %s could not be made, and is tried again: %s", name, error)


def _has_come(state: schedules.State | None, job: JobSpec, now: int) -> bool:
    """Whether the tick after ``job`` is due, so that it was not made before the attempt."""
    if state is None or state.definition is None or state.paused or state.next is None:
        return False
    return due_of(job.id) < state.next <= now


def _recorded(id: str, store: Store) -> tuple[Status | None, float | None]:
    """What is recorded of a job, and when its first attempt started. Nothing where the store cannot be read."""
    try:
        if (status := store.status(id)) is None:
            return None, None
        attempts = store.history(id)[0]
    except NewerStoreError:
        raise
    except StoreUnavailableError:
        return None, None
    return status, attempts[0].started_at if attempts else None


def _current(
    state: schedules.State | None, name: str, due: int, now: int, spool_dir: str, config: Settings
) -> schedules.State | Cancelled | RetryAt:
    """The schedule of a tick as it is declared now; or what becomes of the tick, because nobody declares the schedule.

    The caller holds the lock.
    """
    own = declared.here().get(name)
    if own is None:
        if state is None or state.definition is None:
            return _skipped(REMOVED)
        if not schedules.is_older_than_this_process(state):
            return _wait_for_other_code(due, now, name, config)
        # Kept, so that no process of an older version adds the schedule anew.
        removed = schedules.written_here(state, definition=None, next=None, fired=max(state.fired, due))
        schedules.write(spool_dir, removed, fsync=config.fsync)
        log.info("the schedule %s was removed: the code does not declare it any more", name)
        return _skipped(REMOVED)
    state = _adopted(state or _new(own, due), own)
    return _skipped(REMOVED) if state.definition is None else state


def _fire(state: schedules.State, schedule: Schedule, due: int, now: int, spool_dir: str, config: Settings) -> None:
    """Write that the due time has come, and make the next tick. The caller holds the lock."""
    is_new = state.next is None or due >= state.next
    if is_new:
        next = None if state.paused else schedule.following(due, now)
        state = replace(state, fired=max(state.fired, due), next=next)
        schedules.write(spool_dir, state, fsync=config.fsync)
    # One that must wait until this one is over is made then: see after_attempt().
    if schedule.overlap == "allow" or (state.next or 0) > now:
        _make_if_missing(state, now, spool_dir, config, is_new=is_new)


def _new(own: Schedule, next: int | None) -> schedules.State:
    return schedules.written_here(schedules.State(own.name, own.to_json(), next))


def _adopted(state: schedules.State, own: Schedule) -> schedules.State:
    """The state with the definition of this process, if that is the newer one.

    In a rolling deploy, processes of two versions declare the same schedule. The one that started later is right.
    """
    if state.definition == own.to_json() or not schedules.has_older_writer(state):
        return state
    return schedules.written_here(state, definition=own.to_json())


def _wait_for_other_code(due: int, now: int, name: str, config: Settings) -> Cancelled | RetryAt:
    """This process is older than the schedule, which it does not declare: another one may know it."""
    if now - due > config.unknown_grace * SECOND:
        return _skipped(f"no process declares its schedule within {config.unknown_grace:g} s (SPOOLKIT_UNKNOWN_GRACE)")
    reason = f"the schedule {name} is declared by another version of the code"
    log.complain("a job is left for another version of the code: %s", reason)
    return _put_off(due, now, reason)


def _running(job: JobSpec, name: str, config: Settings) -> list[str]:
    """The other ticks of the schedule that run, or are about to. The caller holds the lock."""
    # In each directory: the queue of the task may have been another one. In this order: a spooler that publishes a job
    # holds it until its file is moved there, where it stays until the end is known.
    spool_dirs = locations.spool_dirs(config)
    shown = [id for spool_dir in spool_dirs for id in running.held(spool_dir)]
    shown += [id for spool_dir in spool_dirs for id in sent.ids(spool_dir)]
    return [id for id in shown if id != job.id and spoolfile.is_id(id) and is_tick_of(name, id)]


def _skipped(reason: str) -> Cancelled:
    return Cancelled(Failure(reason, ending="skipped"))


def _put_off(due: int, now: int, reason: str) -> RetryAt:
    shortest, longest = PAUSES
    pause = min(max((now - due) / SECOND / 10, shortest), longest)
    return RetryAt(now / SECOND + pause, Failure(reason))


# The chain


def _make_if_missing(
    state: schedules.State, now: int, spool_dir: str, config: Settings, *, is_new: bool = False
) -> None:
    """Make the tick that the state names, unless it is there. The caller holds the lock.

    ``is_new``: the state did not name it before. If the disk is full, :func:`reconcile` makes it.
    """
    if state.next is None or state.definition is None or state.paused:
        return
    id = tick_id(state.name, state.next)
    # One that was put off before it was taken to run has another name by now. A new one was never put off: no folder
    # with 100,000 names is read for it.
    schedule = Schedule.from_json(state.definition)
    if not (_has_first_name(id, schedule, spool_dir, config) or (not is_new and _locate(id, spool_dir, config))):
        try:
            _make(schedule, state.next, now, spool_dir, config)
        except OSError as error:
            log.complain("the next job of the schedule %s could not be made, and is tried again: %s", state.name, error)


def _make(schedule: Schedule, due: int, now: int, spool_dir: str, config: Settings) -> None:
    id, call = tick_id(schedule.name, due), schedule.call.encode()
    task = registry.this_process.get(schedule.task)
    queue, spool_dir = _queue(task, spool_dir, config)
    args, kwargs = codec.decode_call(b"[[],{}]")
    job = JobSpec(
        id,
        schedule.task,
        args,
        kwargs,
        _engine(task, config),
        enqueued_at=now / SECOND,
        run_at=due / SECOND,
        queue=queue,
        priority=None if task is None else task.options.priority,
        app=application.current_name(),
        schedule=schedule.name,
    )
    job = replaced(job, **_keys(schedule, call))
    data, priority = packet.dump_job(job, call), priorities.scanned(job.priority, spool_dir)
    try:
        if due > now:
            later.write(spool_dir, id, data, run_at=due / SECOND, priority=priority, fsync=config.fsync, exclusive=True)
        else:
            folder = priorities.folder(spool_dir, priority)
            spoolfile.write(folder, id, data, run_at=due / SECOND, fsync=config.fsync, exclusive=True)
            spoolers.wake(spool_dir, id)
    except FileExistsError:
        pass  # made by a process that was killed then


def _engine(task: Declared | None, config: Settings) -> str:
    """Where a run is to run, which nobody calls: at home rather than not as its task is declared."""
    if task is None or capabilities.refusal(task) is not None:
        return "spool"
    return capabilities.engine_of(task, config)


def _keys(schedule: Schedule, call: bytes) -> dict[str, str]:
    task = registry.this_process.get(schedule.task)
    if task is None or not task.has_keys:
        return {}
    try:
        return limits.keys_of(task, *codec.decode_call(call))
    except Exception as error:  # of the application's own function
        text = "a run of the schedule %s has no limit and no rate: a key of %s could not be computed"
        log.complain(text, schedule.name, task.name, error=error)
        return {}


def _queue(task: Declared | None, spool_dir: str, config: Settings) -> tuple[str | None, str]:
    """The queue of a task's runs and its directory; the schedules are in ``spool_dir``. Raises ``OSError``."""
    name, served = None if task is None else task.options.queue, bridge.directories()
    if name is not None:
        path = locations.queue_dirs(config).get(name)
        if path is not None and (not served or path in served):
            if not os.path.isdir(path):
                files.make_queue_directory(path, spool_dir)
            return name, path
        # A call would be refused.
        log.complain("the queue %s is not served: the runs of a schedule are jobs of the default queue", name)
    return None if spool_dir == own_spool_dir(config) else spool_dir, spool_dir


def _home(job: JobSpec, spool_dir: str, config: Settings) -> str:
    """The spool directory with the schedule of a tick, whose file is in ``spool_dir``."""
    has_named_queue = job.queue is not None and not os.path.isabs(job.queue)
    return own_spool_dir(config) if has_named_queue else spool_dir


def _spool_dirs(spool_dir: str, config: Settings) -> list[str]:
    """Where a tick may be of a schedule in ``spool_dir``: the queue of its task may have been another one."""
    return list(dict.fromkeys([spool_dir, *locations.spool_dirs(config)]))


def _has_first_name(id: str, schedule: Schedule, spool_dir: str, config: Settings) -> bool:
    """Whether the tick has its file where almost all have it."""
    task = registry.this_process.get(schedule.task)
    folders = {"", str(NORMAL_PRIORITY)}
    if task is not None and task.options.priority is not None:
        folders.add(str(task.options.priority))
    # In this order: one that is due is moved in meanwhile.
    paths = (
        os.path.join(one, place, folder)
        for one in _spool_dirs(spool_dir, config)
        for folder in folders
        for place in (later.FOLDER, "")
    )
    return any(spoolfile.find(path, id, None) for path in paths)


def _locate(id: str, spool_dir: str, config: Settings) -> str | None:
    """Find the file of a tick that waits or runs, in whatever directory. Raises ``OSError``."""
    for one in _spool_dirs(spool_dir, config):
        with contextlib.suppress(FileNotFoundError):
            if (path := spoolfile.locate(one, id)) is not None:
                return path
    return None


def own_spool_dir(config: Settings) -> str:
    """Return the spool directory in which this application's schedules are."""
    return locations.spool_dir_of(None, config)


def reconcile(spool_dir: str) -> None:
    """Bring the schedules of ``spool_dir`` to what this process declares, and make jobs that are missing.

    Only for processes that serve: a script may have imported half of the tasks.
    """
    own, config = declared.here(), application.settings()
    if not own or os.path.realpath(spool_dir) != os.path.realpath(own_spool_dir(config)):
        return
    for schedule in own.values():
        try:
            if not _is_in_order(schedule, spool_dir, config):
                _reconcile(schedule, spool_dir, locations.store(config), config)
        except (OSError, NewerScheduleError, StoreUnavailableError) as error:
            log.complain("the schedule %s could not be checked, and is checked again later: %s", schedule.name, error)


def _is_in_order(own: Schedule, spool_dir: str, config: Settings) -> bool:
    """Whether there is nothing to do for the schedule, as nearly always: that is found without the lock."""
    state = schedules.read(spool_dir, own.name)
    if state is None or _adopted(state, own) is not state:
        return False
    if state.next is None:
        return state.paused or state.definition is None
    return _has_first_name(tick_id(own.name, state.next), own, spool_dir, config)


def _reconcile(own: Schedule, spool_dir: str, store: Store, config: Settings) -> None:
    with schedules.locked(spool_dir):
        now = _now()
        before = schedules.read(spool_dir, own.name)
        state = _new(own, own.next_after(now)) if before is None else _adopted(before, own)
        if before is not None and state is not before and not (before.next is not None and before.next <= now):
            # The definition has changed. What is due already runs all the same, and is followed by what is due now.
            if not _withdraw(before, spool_dir, config):
                return  # a process has locked the file, and changes it at this moment
            state = replace(state, next=None if state.paused else own.next_after(max(now, state.fired)))
        if state.definition is not None and not state.paused:
            state = heal(state, now, spool_dir, store, config)
        write_and_make(state, spool_dir, config)
        if before is None or state.definition != before.definition:
            log.info("schedule %s of the task %s: %s", own.name, own.task, own.explain())


def write_and_make(state: schedules.State, spool_dir: str, config: Settings) -> None:
    """Write what is known of a schedule, then make the job that it names, if that is missing. Raises ``OSError``.

    In this order: a job that exists is never due later than what the state names, which so is the truth about what has
    run. The caller holds the lock.
    """
    schedules.write(spool_dir, state, fsync=config.fsync)
    _make_if_missing(state, _now(), spool_dir, config)


def heal(state: schedules.State, now: int, spool_dir: str, store: Store, config: Settings) -> schedules.State:
    """Return the state with the next due time whose job waits, or does not exist yet. The caller holds the lock.

    A job that is over without having made the next one was cancelled before it ran, or could not be read.

    Raises:
        StoreUnavailableError: That cannot be known now.
    """
    schedule = Schedule.from_json(state.definition or {})
    if state.next is None:
        state = replace(state, next=schedule.next_after(max(now, state.fired)))
    for _ in range(MAX_STEPS):
        if state.next is None:
            return state
        id = tick_id(state.name, state.next)
        if _locate(id, spool_dir, config) or not existence.exists(store, _spool_dirs(spool_dir, config), id):
            return state
        state = replace(state, fired=max(state.fired, state.next), next=schedule.following(state.next, now))
    return state


def _withdraw(state: schedules.State, spool_dir: str, config: Settings) -> bool:
    """Remove the job of a due time that is not due any more. Returns whether it is gone.

    It leaves no record: the same due time may come again, if the definition is changed back.
    """
    path = None if state.next is None else _locate(tick_id(state.name, state.next), spool_dir, config)
    if path is None:
        return True
    with spoolfile.claim(path) as fd:
        if fd is not None:
            spoolfile.finish(path)
    return fd is not None


def _now() -> int:
    return int(clock.now() * SECOND)
