"""How does the end of a job come back that runs in a worker, perhaps on another machine?

Its file waits in ``sent/`` since a spooler has published it (``spooling/sending.py``). One process per spool directory
hears what the workers report. It says whether an attempt may start, and does to record and file what a spooler does at
the end of a job that ran here. It also tells which attempts are lost, those of which nothing is heard any more, and has
those jobs published again that the broker may have forgotten.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Sequence

from flask import Flask

from spoolkit import application, registry
from spoolkit.attempt import job_log, retry
from spoolkit.attempt.remote import Answer, PublishError, Report, Says, Transport, digest, transports
from spoolkit.attempt.runner import AttemptResult
from spoolkit.coordination import pauses
from spoolkit.encoding import packet
from spoolkit.errors import DecodeError, NewerJobError, StoreUnavailableError, UnknownTaskError
from spoolkit.job import FINAL, Dead, Failure, JobSpec, RetryAt, State, TaskOptions
from spoolkit.lifecycle import hooks
from spoolkit.schedules import ticks
from spoolkit.settings import Settings
from spoolkit.spooldir import checkpoints, held, later, sent, spoolers, spoolfile
from spoolkit.spooling.execute import (
    SpoolFileRef,
    dead_if_chain_stops,
    end_expired,
    record_and_settle,
    settle_file,
    wait_for_other_code,
)
from spoolkit.spooling.standalone import GUARDED
from spoolkit.store import Store, locations, remote
from spoolkit.store.claims import AlreadySettled
from spoolkit.store.remote import Next
from spoolkit.system import clock, files, log, polling, task_signals
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge

WAIT = 0.5
"""Seconds for which one step waits for reports."""

ELECTION = 0.5
"""Seconds after which a process that is not the elected one asks again."""

STOP_TIME = 2.0
"""Seconds that an exiting process waits for its thread."""

ECHO = 2.0
"""Seconds between two reports of this process to itself. What one of them overtakes on its way does not exist: reports
are heard in the order in which the broker got them."""

ECHO_LOST = 10.0
"""Seconds after which an echo that has not come back means that the connection is dead."""

SETTLE = 3.0
"""Seconds with a connection before it is asked what the broker has forgotten: what runs has been heard of by then."""

TICK = 0.1
"""Seconds by which the times of files may be behind the clock."""

LOCKED_PAUSE, LOCKED_TIME = 0.01, 1.0
"""Seconds before the next try, and until the last one, to lock the file that a report is about: a spooler has published
it this moment, and moves it. After that, the report is heard again later, behind others; but a question is not: its
worker asks again, or returns the message."""

OVERDUE = 600.0
"""Seconds after which a sent job is published again of which nothing was heard: the broker, or the network, may have
lost it. The next time it is twice as long."""

LOOK = 60.0
"""Seconds between two looks for such jobs."""

EARLY = 1.0
"""Seconds by which a retry may start before it is due by the clock of this machine: the report of the failure was on
its way for as long."""


class _Heard:
    """When something was last heard of an attempt."""

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.at = time.monotonic()


class Returns:
    """Hears what workers report of the jobs of one spool directory, as long as no other process does so.

    Call :meth:`step` again and again, from one thread of a process that is no spooler: it opens spool files.

    Args:
        spool_dir: The spool directory.
        engine: The name of the engine.
        wait: Seconds for which one step waits for reports.
    """

    def __init__(self, spool_dir: str, engine: str = "celery", *, wait: float = WAIT) -> None:
        self._spool_dir = spool_dir
        self._wait = wait
        self._engine = engine
        self._lock: int | None = None
        self._transport: Transport | None = None
        self._heard: dict[str, _Heard] = {}
        """The attempts that run in workers, by the ids of their jobs."""
        self._echo = 0
        """The number of the latest echo."""
        self._echo_at: float | None = None
        """When it was sent, on the monotonic clock; ``None``: it has come back."""
        self._next_echo = 0.0
        self._connecting_at = clock.now()
        """When there was no connection last: what was published after that is not forgotten."""
        self._compare_at: float | None = time.monotonic() + SETTLE
        """When to compare the broker's mark with ours, on the monotonic clock; ``None``: that is done."""
        self._next_look = time.monotonic() + LOOK
        """When to look for overdue jobs, on the monotonic clock."""
        self._marked: object = None
        """The state of ``sent/`` at the latest mark."""
        self._is_tidy = False
        """Whether each file in ``sent/`` is that of a job that is not over, as far as is recorded."""

    def step(self) -> float:
        """Hear for a moment what workers report, and record it; then look for attempts that are lost.

        Returns:
            The seconds after which to call it again. Never raises ``OSError``, nor because the store is unavailable.
        """
        try:
            if not self._is_elected():
                return ELECTION
            assert self._transport is not None
            origin = held.identity(self._spool_dir)
            if not self._transport.receive(origin, self._hear, self._wait):
                self._hear_anew()
                self._is_tidy = False
                return ELECTION
            if not self._is_tidy:  # not while the broker is away: it reads each file
                self._tidy()
            self._send_echo(self._transport, origin)
            self._keep_mark(self._transport, origin)
            self._publish_overdue()
        except (OSError, StoreUnavailableError) as error:
            self._hear_anew()
            self._is_tidy = False
            log.complain("what workers report of the jobs of %s cannot be recorded: %s", self._spool_dir, error)
            return ELECTION
        return 0.0

    def close(self) -> None:
        """Let another process be elected."""
        if self._transport is not None:
            self._transport.close()
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self._transport = None

    def _is_elected(self) -> bool:
        if self._lock is not None:
            return True
        if application.current() is None or not os.path.isdir(self._spool_dir):
            return False  # its tasks may be declared before it is made
        files.check_user(self._spool_dir)
        files.make_folder(os.path.join(self._spool_dir, sent.FOLDER))
        fd = files.open_or_create(os.path.join(self._spool_dir, sent.FOLDER, sent.LOCK))
        if not files.try_lock(fd):
            os.close(fd)
            return False
        self._lock = fd
        try:
            self._transport = transports[self._engine]()
            self._heard = {id: _Heard(attempt) for id, attempt in remote.running(locations.store()).items()}
        except BaseException:
            self.close()
            raise
        return True

    def _hear_anew(self) -> None:
        """Count silence from now on: before, a report could not arrive."""
        self._echo_at, self._next_echo = None, 0.0
        self._connecting_at, self._compare_at = clock.now(), time.monotonic() + SETTLE
        for heard in self._heard.values():
            heard.at = time.monotonic()

    def _send_echo(self, transport: Transport, origin: str) -> None:
        now = time.monotonic()
        if self._echo_at is not None:
            if now - self._echo_at > ECHO_LOST:
                transport.close()
                self._hear_anew()
        elif now >= self._next_echo:
            try:
                transport.echo(origin, self._echo + 1)
            except PublishError as error:
                log.complain("it cannot be seen whether reports of workers arrive: %s", error)
                self._hear_anew()
                self._next_echo = now + ECHO
                return
            self._echo, self._echo_at, self._next_echo = self._echo + 1, now, now + ECHO

    # What the broker may have forgotten

    def _keep_mark(self, transport: Transport, origin: str) -> None:
        """Publish again what was published since the latest mark, after a lost connection; and leave new marks."""
        if self._echo_at is not None or (self._compare_at is not None and time.monotonic() < self._compare_at):
            return
        try:
            if self._compare_at is not None:
                self._publish_since(transport.latest_mark(origin) or 0.0)
                self._compare_at, self._marked = None, None
            if (state := sent.state(self._spool_dir)) != self._marked:
                transport.leave_mark(origin, clock.now() - TICK)
                self._marked = state
        except PublishError as error:
            log.complain("it cannot be seen how far the memory of the broker goes: %s", error)
            self._hear_anew()

    def _publish_since(self, mark: float) -> None:
        doubtful = [
            path for path in sent.paths(self._spool_dir) if mark < sent.since(path) <= self._connecting_at + TICK
        ]
        if doubtful:
            log.warning("the broker may have forgotten jobs, which are published again: %d at most", len(doubtful))
        self._publish_again(doubtful)

    def _publish_overdue(self) -> None:
        if time.monotonic() < self._next_look or self._compare_at is not None:
            return
        self._next_look, now = time.monotonic() + LOOK, clock.now()
        overdue = []
        for path in sent.paths(self._spool_dir):
            with contextlib.suppress(FileNotFoundError):
                if sent.is_overdue(path, now, OVERDUE):
                    overdue.append(path)
        self._publish_again(overdue)

    def _publish_again(self, paths: Sequence[str]) -> None:
        """Publish jobs once more, unless a worker runs them: of any number of messages, one is allowed to start."""
        for path in paths:
            if spoolfile.id_of(os.path.basename(path)) not in self._heard:
                with spoolfile.claim(path) as fd:
                    if fd is not None:
                        self._send_again(path)

    def _send_again(self, path: str) -> None:
        if sent.holds(path, self._spool_dir):
            sent.publish_again(path, self._spool_dir)
            spoolers.wake(self._spool_dir)

    def _hurry(self, path: str, job: JobSpec, store: Store) -> None:
        """Give the file of a retry that Celery was to deliver its due time: it does not any more."""
        if later.holds(path, self._spool_dir):
            status = store.status(job.id)
            if status is not None and status.state is State.RETRYING and status.run_at is not None:
                later.put_off(path, self._spool_dir, status.run_at)

    # Reports

    def _hear(self, report: Report) -> bool:
        try:
            return self._handle(report)
        except (OSError, StoreUnavailableError):
            raise  # it is heard again
        except Exception as error:
            # Heard again and again, it would hold up all reports behind it. What still runs by now will count as lost.
            log.complain("a report of the job %s cannot be used", report.id, error=error)
            for id, attempt in remote.running(locations.store()).items():
                self._heard.setdefault(id, _Heard(attempt))
            return True

    def _handle(self, report: Report) -> bool:
        if report.kind == "echo":
            if report.attempt == self._echo and self._echo_at is not None:
                at, self._echo_at = self._echo_at, None
                self._find_lost(at)
            return True
        store = locations.store()
        if report.kind == "running":
            goes_on = remote.heard(store, report.id, report.attempt, report.run, report.progress)
            if goes_on or self._heard.get(report.id, _Heard(0)).attempt == report.attempt:
                self._heard[report.id] = _Heard(report.attempt)
            if goes_on and report.checkpoint is not None and spoolfile.is_id(report.id):
                checkpoints.save(self._spool_dir, report.id, report.checkpoint)
            if not goes_on:
                self._answer(report, "stop")
            return True
        deadline = time.monotonic() + LOCKED_TIME
        while (path := self._find(report.id, store)) is not None:
            with spoolfile.claim(path) as fd:
                if fd is not None:
                    self._record(report, path, fd, store)
                    return True
            if time.monotonic() > deadline:
                # A question that is heard after its worker has returned the message would start what nobody runs.
                return report.kind == "asks"
            time.sleep(LOCKED_PAUSE)
        if report.kind == "asks":
            self._answer(report, "no")  # it is over
        return True

    def _find(self, id: str, store: Store) -> str | None:
        """The file of a job that is not over, or is over but for its file."""
        status = store.status(id)
        known = None if status is None else status.file
        if (path := sent.find(self._spool_dir, id, known)) is not None:
            return path
        is_over = status is not None and status.state in FINAL
        return None if is_over else spoolfile.locate(self._spool_dir, id, known)

    def _answer(self, report: Report, says: Says) -> None:
        assert self._transport is not None
        try:
            self._transport.answer(Answer(report.run, says))
        except PublishError as error:
            log.complain("a worker has no answer about the job %s: %s", report.id, error)

    def _record(self, report: Report, path: str, fd: int, store: Store) -> None:
        """Do what follows from a report. The caller has locked the file of its job."""
        try:
            content = packet.load(spoolfile.read(fd))
            job = packet.unpack(content)
        except (DecodeError, NewerJobError) as error:
            log.complain("a report of the job %s cannot be used: %s", report.id, error)
            return
        config, file = application.settings(), SpoolFileRef(path, self._spool_dir)
        match report.kind:
            case "asks":
                may_start = self._may_start(report, job, content, file, store, config)
                self._answer(report, "start" if may_start else "no")
            case "ended" if report.result is not None:
                # As a start: a store that is a new one has not heard of it.
                if self._start(report, job, content, file, store):
                    # Meanwhile Celery delivers the next attempt. If that is lost, this file is there.
                    put_off = config.celery_lost if report.goes_on else 0.0
                    self._end(job, report.result, file, store, config, put_off)
            case "returned":
                if remote.take_back(store, job.id, report.attempt, report.run):
                    self._heard.pop(job.id, None)
                if not self._has_started(report, store):
                    self._send_again(path)
                    self._hurry(path, job, store)
            case "unusable" if sent.holds(path, self._spool_dir) and not self._has_started(report, store):
                outcome = wait_for_other_code(job, UnknownTaskError(report.problem, task=job.task), store, config)
                self._end(job, AttemptResult(outcome), file, store, config)

    def _may_start(
        self, report: Report, job: JobSpec, content: packet.Packet, file: SpoolFileRef, store: Store, config: Settings
    ) -> bool:
        if report.arguments != digest(packet.arguments(content)) or self._settle(job, file, store, config):
            return False  # a unique job was replaced since, and is published anew
        found = remote.next_attempt(store, job, _options_of(job).attempts, os.path.basename(file.path))
        declared = registry.this_process.get(job.task)
        if isinstance(found, Next) and job.schedule is not None and not sent.holds(file.path, self._spool_dir):
            return False  # a spooler decides anew whether it may start
        if isinstance(found, Next) and found.due is None and later.holds(file.path, self._spool_dir):
            return False  # a call of a unique task has put it off since, or it is published again in a moment
        if isinstance(found, Next) and declared is not None:
            if later.holds(file.path, self._spool_dir) and found.due is not None and found.due > clock.now() + EARLY:
                later.put_off(file.path, self._spool_dir, found.due)  # the clock of the worker is another one
                return False
            if pauses.paused_name(self._spool_dir, declared) is not None:
                self._send_again(file.path)  # where it is parked
                return False
            missed = ticks.missed(job, self._spool_dir, config) if found.attempt == 1 else None
            if end_expired(content, file, declared, config, missed):
                return False
        return self._start(report, job, content, file, store)

    def _start(self, report: Report, job: JobSpec, content: packet.Packet, file: SpoolFileRef, store: Store) -> bool:
        runs = remote.start(
            store,
            job,
            report.attempt,
            attempt_since_reset=report.attempt_since_reset,
            max_attempts=_options_of(job).attempts,
            run=report.run,
            worker=report.worker,
            file=os.path.basename(file.path),
            arguments=packet.arguments(content),
        )
        if runs:
            self._heard[job.id] = _Heard(report.attempt)
        return runs

    def _has_started(self, report: Report, store: Store) -> bool:
        status = store.status(report.id)
        return status is not None and status.attempt >= report.attempt

    # Ends

    def _tidy(self) -> None:
        """Do to files what is recorded of their jobs: a process was killed between the two."""
        store, config = locations.store(), application.settings()
        for path in sent.paths(self._spool_dir):
            with spoolfile.claim(path) as fd:
                if fd is not None:
                    file = SpoolFileRef(path, self._spool_dir)
                    try:
                        job = packet.head(packet.load(spoolfile.read(fd, packet.HEAD_SIZE)))
                    except DecodeError as error:  # after a power cut: it must not hold up the others
                        settle_file(file, AttemptResult(Dead(Failure(str(error)))))
                    else:
                        self._settle(job, file, store, config)
        self._is_tidy = True

    def _settle(self, job: JobSpec, file: SpoolFileRef, store: Store, config: Settings) -> bool:
        """Do to the file what is recorded of its job. Returns whether that was left to do."""
        found = remote.next_attempt(store, job, _options_of(job).attempts, os.path.basename(file.path))
        if not isinstance(found, AlreadySettled) or isinstance(found.outcome, Dead):
            return False
        result = AttemptResult(found.outcome, was_recorded=True)
        record_and_settle(job, result, file, store, config, self._spool_dir)
        return True

    def _end(
        self,
        job: JobSpec,
        result: AttemptResult,
        file: SpoolFileRef,
        store: Store,
        config: Settings,
        put_off: float = 0.0,
    ) -> None:
        self._heard.pop(job.id, None)
        result = dead_if_chain_stops(job, result, config)
        if result.attempt:
            job_log.ended(job, result.outcome)
        record_and_settle(job, result._replace(logged=True), file, store, config, self._spool_dir, put_off=put_off)
        if job.schedule is not None:
            ticks.after_attempt(job, self._spool_dir, store, config)
        if isinstance(result.outcome, RetryAt):
            spoolers.wake(self._spool_dir)

    def _find_lost(self, heard_until: float) -> None:
        """Record the attempts as lost of which nothing was heard for long; all until ``heard_until`` was heard."""
        store, config = locations.store(), application.settings()
        for id, heard in list(self._heard.items()):
            if heard_until - heard.at < config.celery_lost:
                continue
            path = self._find(id, store)
            if path is None:
                del self._heard[id]
                continue
            with spoolfile.claim(path) as fd:
                if fd is None:
                    continue
                try:
                    job = packet.unpack(packet.load(spoolfile.read(fd)))
                except (DecodeError, NewerJobError) as error:
                    log.complain("it is not recorded that an attempt of the job %s is lost: %s", id, error)
                    continue
                file = SpoolFileRef(path, self._spool_dir)
                self._end(job, _lost(job, heard.attempt, config, store), file, store, config)


def _lost(job: JobSpec, attempt: int, config: Settings, store: Store) -> AttemptResult:
    """What follows from the loss of an attempt."""
    text = f"nothing was heard of attempt {attempt} for {config.celery_lost:g} s: its worker is dead, or cut off"
    failure, options = Failure(text, ending="crashed"), _options_of(job)
    status, since_reset = store.status(job.id), attempt
    if status is not None and status.max_attempts is not None:
        since_reset = attempt - (status.max_attempts - options.attempts)
    jitter = random.random()  # noqa: S311 - spreads retries, guards nothing
    outcome = retry.after_failure(options, since_reset, failure, now=clock.now(), jitter=jitter)
    return AttemptResult(outcome, attempt)


def _options_of(job: JobSpec) -> TaskOptions:
    declared = registry.this_process.get(job.task)
    return TaskOptions() if declared is None else declared.for_job(job).options


# Which process hears what workers report?


def are_expected(app: Flask, config: Settings) -> bool:
    """Return whether jobs of this application run in workers: as its settings and its tasks say now, or once said."""
    engines = {declared.options.engine for declared in registry.this_process.tasks.values()}
    if config.engine == "celery" or "celery" in engines:
        return True
    # A site that has moved back: jobs which it had accepted for Celery are with the broker, or delayed.
    return bool(app.config.get("CELERY")) and any(map(sent.was_used, locations.queue_dirs(config).values()))


def run(spool_dir: str, leash: int) -> None:
    """Hear what workers report as long as another process holds the write end of the pipe ``leash``.

    For a process of its own beside the spoolers of ``flask spool run``.
    """
    task_signals.ignore_harmless()
    for signum in (*task_signals.STOP_SIGNALS, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)  # the supervisor asks by the pipe
    signal.pthread_sigmask(signal.SIG_UNBLOCK, GUARDED)
    returns, left = Returns(os.path.realpath(spool_dir)), 0.0
    while not polling.readable([leash], left):
        left = returns.step()
    returns.close()


class _Thread:
    """Hears what workers report in a thread of an HTTP process of uWSGI."""

    def __init__(self, spool_dirs: Sequence[str]) -> None:
        self._is_stopped = threading.Event()
        # Each in turn: a report of the last one waits for all others, and a worker for the answer.
        self._all = [Returns(spool_dir, wait=WAIT / len(spool_dirs)) for spool_dir in spool_dirs]
        self._thread = threading.Thread(target=self._run, name="spoolkit-returns", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        left = 0.0
        while not self._is_stopped.wait(left):
            try:
                left = min(one.step() for one in self._all)
            except Exception as error:
                log.complain("what workers report cannot be heard, and is tried again", error=error)
                left = ELECTION
        for one in self._all:
            one.close()

    def stop(self, deadline: clock.Deadline) -> None:
        """Let another process be elected."""
        self._is_stopped.set()
        self._thread.join(STOP_TIME)


_thread: PerProcess[_Thread] = PerProcess()


def start_in_http_processes() -> None:
    """Have the HTTP processes of this uWSGI hear what workers report. Nothing happens elsewhere."""
    if bridge.is_uwsgi() and bridge.has_threads():
        bridge.at_start(_start_thread)
    elif bridge.directories():
        log.complain("no job starts in a worker: a thread has to answer it. Set enable-threads = true in uwsgi.ini")


def _start_thread() -> None:
    if (dirs := bridge.directories()) and _thread.peek() is None:
        _thread.set(_Thread(dirs))
        hooks.at_end(_stop_thread)


def _stop_thread(deadline: clock.Deadline) -> None:
    if (thread := _thread.peek()) is not None:
        thread.stop(deadline)
