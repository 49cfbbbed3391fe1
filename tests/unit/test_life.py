"""The life of jobs, from the call to the end, with every interruption that there can be: a state machine.

Each step is one of the real code, over a spool directory and a store; the clock is the machine's own, and far ahead of
the file system's, so that whatever has no time of its own is due.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import life_tasks
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from life_faults import CRASHED, at_every, die_at, no_store_after
from life_process import in_child, read_pipe, start_child, wait_child
from life_tasks import AT_ONCE, FOLLOW, LAST, TASKS, UNIQUE, WORDS
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from spoolkit import StoreUnavailableError, application
from spoolkit.admin import actions, lookup
from spoolkit.attempt import process_state
from spoolkit.coordination import batches, chains, commits, limits, outbox, pauses, sessions
from spoolkit.coordination.unique import HOLDING
from spoolkit.encoding import chunk, packet
from spoolkit.errors import DuplicateJobError, JobStateError, UnknownJobError
from spoolkit.job import FINISHED, BatchStatus, JobSpec, State, replaced
from spoolkit.settings import Settings
from spoolkit.spooldir import chunks, dead, held, later, mover, parked, spoolfile
from spoolkit.spooldir.spoolfile import PREFIX
from spoolkit.spooling import handler, leftovers, startup
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import existence, locations
from spoolkit.system import clock, log
from spoolkit.system.process import PerProcess

START = 4e9
"""The time at which the machine begins, unix seconds."""

AHEAD = 5000.0
"""Seconds beyond which nothing is planned."""

DECLARED = {**TASKS, "only": UNIQUE}

WAITING = {State.QUEUED, State.RETRYING}


class Complaints(logging.Handler):
    """Errors that were caught and logged: there is no reason for any."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and not record.getMessage().startswith("job "):  # that is what a task raised
            self.found.append(logging.Formatter().format(record))


class World:
    """A spool directory, a store and a clock, for one test."""

    def __init__(self) -> None:
        self.undo = contextlib.ExitStack()
        self.folder = tempfile.mkdtemp(prefix="life-")
        self.undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.spool = os.path.join(self.folder, "spool")
        os.mkdir(self.spool)
        self.aside = os.path.join(self.folder, "aside")
        self.now = START
        patch = self.undo.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(clock, "now", lambda: self.now)
        config = Settings(self.spool, keep_done=1e12, keep_dead=1e12)
        patch.setattr(application, "settings", lambda code_folder=None: config)
        patch.setattr(application, "this_process", application.Applications())
        patch.setattr(locations, "open_stores", {})
        # Hypothesis changes the recursion limit for each of its tests: what the process was like before an earlier one
        # is not what it has to be.
        patch.setattr(process_state, "_process", PerProcess(process_state._Process))
        patch.setattr(handler.this_process, "presence", None)
        patch.setattr(actions, "CLAIM_TIME", 0.05)
        patch.setattr(life_tasks, "history", os.path.join(self.folder, "history"))
        self.complaints = Complaints()
        logger = logging.getLogger(log.LOGGER)
        patch.setattr(logger, "handlers", [self.complaints])
        patch.setattr(logger, "propagate", False)
        self.spooler = Spooler(self.spool)
        self.store = locations.store()
        self.undo.callback(self.store.close)

    @property
    def broken(self) -> bool:
        return os.path.exists(self.aside)

    @cached_property
    def database(self) -> sessionmaker[Session]:
        """The application's database, with an outbox."""
        engine = create_engine(f"sqlite:///{self.folder}/data.db", poolclass=NullPool)  # none is open in a child
        box = outbox.Outbox(engine)
        outbox.TABLE.create(engine)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE notes (id)"))

        def current(asked: Any, *, is_automatic: bool) -> sessions.SessionTransaction | None:
            return None if asked is None else sessions.SessionTransaction(asked, box, is_automatic=False)

        patch = self.undo.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(commits, "current", current)
        patch.setattr(commits, "outboxes", lambda: [box])
        return sessionmaker(engine)

    def close(self) -> None:
        self.undo.close()

    def break_store(self, how: Callable[[str], object]) -> None:
        self.store.close()
        os.mkdir(self.aside)
        self._move(self.spool, self.aside)
        how(self.store.path)

    def mend_store(self) -> None:
        self.store.close()
        if os.path.isdir(self.store.path):
            os.rmdir(self.store.path)
        for name in os.listdir(self.spool):
            if name.startswith(locations.STORE_FILE):
                os.unlink(os.path.join(self.spool, name))
        self._move(self.aside, self.spool)
        os.rmdir(self.aside)

    def _move(self, source: str, target: str) -> None:
        for name in os.listdir(source):
            if name.startswith(locations.STORE_FILE):
                os.rename(os.path.join(source, name), os.path.join(target, name))

    def submit(
        self, number: int, task: str, plan: list[str], delay: float | None, expires: float | None = None
    ) -> JobSpec:
        """The job that is to be submitted. Its id follows from the number: the same plan gives the same files."""
        run_at, expires_at = (None if seconds is None else self.now + seconds for seconds in (delay, expires))
        options: dict[str, object] = {} if expires is None else {"expires_at": expires_at}
        options.update(limits.keys_of(DECLARED[task], (plan,), {}))
        return JobSpec(f"{number:032x}", DECLARED[task].name, (plan,), enqueued_at=self.now, run_at=run_at, **options)

    def chunk(self, number: int, task: str, size: int, delay: float | None) -> tuple[JobSpec, list[str]]:
        """The first of so many jobs to be submitted at once, and the ids that they will have."""
        run_at = None if delay is None else self.now + delay
        first = JobSpec(f"{number:016x}{0:016x}", TASKS[task].name, enqueued_at=self.now, run_at=run_at)
        return first, chunk.ids(chunk.stem(first.id, 0, size))

    def starts(self, id: str) -> int:
        return sum(line[:2] == ["start", id] for line in life_tasks.read())

    def child(self, work: Callable[[], object], step: int | None = None) -> int:
        """Have a child do ``work``, and die at ``step``; whether it came to its end."""

        def within() -> None:
            life_tasks.is_child = True
            if step is not None:
                die_at(step)
            work()

        return in_child(within)

    def drain(self) -> None:
        """Let time pass until nothing of ours waits any more."""
        for _ in range(30):
            self.now += AHEAD
            self.sweep()
            self.spooler.run_due()
            if not self.waiting():
                return
        pytest.fail(f"still there after 30 rounds: {self.waiting()}")

    def sweep(self) -> None:
        """What a spooler that starts does for jobs that are parked, and for batches: it follows one that was killed."""
        with contextlib.suppress(StoreUnavailableError):
            limits.sweep(self.spool)
        pauses.sweep(self.spool)
        batches.sweep(self.spool)

    def waiting(self) -> list[str]:
        names = [name for name in self.names() if spoolfile.id_of(name) or chunks.is_chunk(name)]
        return [name for name in names if name not in self.foreign]

    def names(self) -> list[str]:
        """The names of all spool files, delayed ones among them."""
        return [os.path.basename(path) for path in spoolfile.pending(self.spool)]

    foreign: frozenset[str] = frozenset()


@dataclass
class Known:
    """What must be true of one accepted job."""

    task: str
    plan: list[str]
    at: float
    expires: float = math.inf
    fresh: int = 0
    """Starts before the last fresh count."""
    over: int | None = None
    """Starts when it was said that there will be no other."""
    disturbed: bool = False
    """Whether an attempt may have been cut off since the last fresh count."""
    blind: bool = False
    """Whether the store may have missed something since the last fresh count."""
    stopped: bool = False
    """Whether the caller of cancel learned that it is cancelled."""
    lost: bool = False
    """Whether the store may have missed its end."""
    priority: int | None = None
    """The number of the folder in which its file is, wherever it waits."""
    retries: int | None = None
    """Those of its call."""
    has_tags: bool = False

    @property
    def most(self) -> int:
        """How many attempts it may have."""
        return DECLARED[self.task].options.attempts if self.retries is None else self.retries + 1


def garbage(path: str) -> None:
    Path(path).write_bytes(b"no database at all " * 500)


PLANS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)
DELAYS = st.none() | st.sampled_from([0.0, 0.25, 10.0, 1000.0])
EXPIRES = st.none() | st.sampled_from([0.0, 8.0, 1000.0])
STEP = st.integers(0, 90)


class Life(RuleBasedStateMachine):
    ids = Bundle("ids")

    @initialize(target=ids, first=st.lists(st.tuples(st.sampled_from(sorted(TASKS)), PLANS), min_size=1, max_size=3))
    def begin(self, first: list[tuple[str, list[str]]]) -> MultipleResults[str]:
        self.world = World()
        self.known: dict[str, Known] = {}
        self.batches: dict[str, list[str]] = {}
        self.chained: set[str] = set()
        self.was_blind = False
        self.paused: dict[str, int] = {}
        """How many jobs of each paused task had started before."""
        self.number = 0
        return multiple(*[self.enqueue(task, plan, None) for task, plan in first])

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._end()
        finally:
            self.world.close()

    # Rules.

    @rule(
        target=ids,
        task=st.sampled_from(sorted(TASKS)),
        plan=PLANS,
        delay=DELAYS,
        expires=EXPIRES,
        retries=st.none() | st.integers(0, 3),
    )
    def enqueue_one(
        self, task: str, plan: list[str], delay: float | None, expires: float | None, retries: int | None
    ) -> str:
        return self.enqueue(task, plan, delay, expires, retries)

    def enqueue(
        self,
        task: str,
        plan: list[str],
        delay: float | None,
        expires: float | None = None,
        retries: int | None = None,
    ) -> str:
        """Each of these jobs has the name of its task as a tag."""
        job = self._next(task, plan, delay, expires)
        job = replaced(job, retries=retries, tags=(task,))
        SpoolEngine().submit(job, TASKS[task])
        id = self._accepted(job, task, plan)
        self.known[id].retries, self.known[id].has_tags = retries, True
        return id

    @rule(task=st.sampled_from(sorted(DECLARED)))
    def pause(self, task: str) -> None:
        pauses.pause(self.world.spool, DECLARED[task].name)
        self.paused.setdefault(task, self._starts_of(task))

    @precondition(lambda self: self.paused)
    @rule(step=st.none() | st.integers(0, 30), data=st.data())
    def resume(self, step: int | None, data: st.DataObject) -> None:
        """Who resumes a task may die at a step, and a sweep follows."""
        task = data.draw(st.sampled_from(sorted(self.paused)))
        assert self.world.child(lambda: pauses.resume(self.world.spool, DECLARED[task].name), step) in (0, CRASHED)
        assert step is not None or not pauses.is_paused(self.world.spool, DECLARED[task].name)
        if not pauses.is_paused(self.world.spool, DECLARED[task].name):
            del self.paused[task]
        self.world.sweep()

    @rule(target=ids, plan=PLANS, delay=DELAYS, priority=st.sampled_from([0, 900]))
    def enqueue_with_priority(self, plan: list[str], delay: float | None, priority: int) -> str:
        job = replaced(self._next("steady", plan, delay), priority=priority)
        SpoolEngine().submit(job, TASKS["steady"])
        id = self._accepted(job, "steady", plan)
        self.known[id].priority = priority
        return id

    @rule(target=ids, plan=PLANS, delay=DELAYS, step=st.integers(0, 12))
    def enqueue_and_die(self, plan: list[str], delay: float | None, step: int) -> str:
        job = self._next("steady", plan, delay)
        status = self.world.child(lambda: SpoolEngine().submit(job, TASKS["steady"]), step)
        assert status in (0, CRASHED)
        there = f"{PREFIX}{job.id}" in self.world.names()
        assert there or status == CRASHED, "accepted, but not there"
        return self._accepted(job, "steady", plan) if there else ""

    @rule(target=ids, plan=PLANS, delay=DELAYS, expires=EXPIRES, step=st.none() | st.integers(0, 30))
    def enqueue_unique(self, plan: list[str], delay: float | None, expires: float | None, step: int | None) -> str:
        """There is one job at a time of the plans of even length, and of those of odd length; the caller may die."""
        job, holders = self._next("only", plan, delay, expires), self._holders(plan)
        assert len(holders) <= 1
        if step is None:
            accepted = SpoolEngine().submit(job, UNIQUE)
            assert accepted.duplicate == bool(holders)
            assert accepted.id == (holders or [job.id])[0]
        else:
            assert self.world.child(lambda: SpoolEngine().submit(job, UNIQUE), step) in (0, CRASHED)
        there = f"{PREFIX}{job.id}" in self.world.names()
        assert not (there and holders)
        assert there or holders or step is not None
        return self._accepted(job, "only", plan) if there else ""

    def _holders(self, plan: list[str]) -> list[str]:
        key = len(plan) % 2
        same = [id for id, job in self.known.items() if job.task == "only" and len(job.plan) % 2 == key]
        return [id for id in same if self._state(id) in HOLDING["end"] and not self._has_expired(id)]

    def _has_expired(self, id: str) -> bool:
        """Whether the job waits and has expired, which the store must record before another one has its key."""
        expired = self.known[id].expires <= self.world.now and self._state(id) in WAITING
        return expired and not self.world.broken

    @rule(target=ids, plan=PLANS, delay=DELAYS, commits=st.booleans(), step=st.none() | st.integers(0, 20))
    def enqueue_at_a_commit(self, plan: list[str], delay: float | None, commits: bool, step: int | None) -> str:
        """A call waits for the commit of a transaction; the caller may die. It is accepted if that was committed."""
        job, database = self._next("steady", plan, delay), self.world.database

        def work() -> None:
            with database.begin() as session:
                SpoolEngine().submit(job, TASKS["steady"], session)
                session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": job.id})
                if not commits:
                    session.rollback()

        status = 0
        if step is None:
            work()
        else:
            status = self.world.child(work, step)
        assert status in (0, CRASHED)
        for _ in range(100):
            leftovers.sweep(self.world.spool)
            if not held.names(self.world.spool):
                break
        assert held.names(self.world.spool) == set()
        there = f"{PREFIX}{job.id}" in self.world.names()
        with database() as session:
            assert there == (session.scalar(text("SELECT id FROM notes WHERE id = :id"), {"id": job.id}) is not None)
        assert there == commits or status == CRASHED
        return self._accepted(job, "steady", plan) if there else ""

    @rule(target=ids, plans=st.lists(PLANS, min_size=1, max_size=3), delay=DELAYS, step=st.none() | st.integers(0, 16))
    def enqueue_many(self, plans: list[list[str]], delay: float | None, step: int | None) -> MultipleResults[str]:
        """Jobs of one call, each 5 s after the one before; the caller may die at a step."""
        self.number += 1
        first, ids = self.world.chunk(self.number, "steady", len(plans), delay)

        def work() -> None:
            calls = [((plan,), dict[str, object]()) for plan in plans]
            SpoolEngine().submit_many(first, calls, TASKS["steady"], step=5.0)

        status = 0
        if step is None:
            work()
        else:
            status = self.world.child(work, step)
        assert status in (0, CRASHED)
        accepted = [chunks.find(self.world.spool, id) is not None for id in ids]
        assert len(set(accepted)) == 1, "a part was accepted"
        assert accepted[0] or status == CRASHED, "accepted, but not there"
        if not accepted[0]:
            return multiple()
        for index, (id, plan) in enumerate(zip(ids, plans, strict=True)):
            self.known[id] = Known("steady", plan, 0.0 if first.run_at is None else first.run_at + index * 5.0)
        return multiple(*ids)

    @rule(
        target=ids,
        plans=st.lists(PLANS, max_size=3),
        on_death=st.sampled_from(["wait", "cancel"]),
        step=st.none() | st.integers(0, 60),
    )
    def enqueue_batch(self, plans: list[list[str]], on_death: str, step: int | None) -> MultipleResults[str]:
        """All members are accepted or none; the caller may die at a step, and a sweep follows."""
        self.number += 1
        id = f"{self.number:032x}"
        jobs = [replaced(self._next("steady", plan, None), batch=id) for plan in plans]
        status = BatchStatus(id, "life", self.world.now, None, 0, on_death, None, {})  # type: ignore[arg-type]

        def work() -> None:
            engine = SpoolEngine()
            callback = engine.dump(JobSpec(id, FOLLOW.name, batch=id), FOLLOW)
            with contextlib.suppress(StoreUnavailableError):
                engine.submit_batch(status, [(job, engine.dump(job, TASKS["steady"])) for job in jobs], callback, None)

        if step is None:
            work()
        else:
            assert self.world.child(work, step) in (0, CRASHED)
        self.world.sweep()
        names = self.world.names()
        accepted = [f"{PREFIX}{job.id}" in names for job in jobs]
        assert len(set(accepted)) <= 1, "a part was accepted"
        is_recorded = not self.world.broken and self.world.store.batch(id) is not None
        assert is_recorded == all(accepted) or not jobs
        assert is_recorded or self.world.broken or step is not None
        if not is_recorded:
            return multiple()
        self.batches[id] = [job.id for job in jobs]
        return multiple(*[self._accepted(job, "steady", plan) for job, plan in zip(jobs, plans, strict=True)])

    @rule(target=ids, plan=PLANS)
    def enqueue_chain(self, plan: list[str]) -> str:
        job = self._next("steady", plan, None)
        following = SpoolEngine().dump(JobSpec(chains.next_id(job.id), FOLLOW.name), FOLLOW)
        SpoolEngine().submit(replaced(job, chain=(following,)), TASKS["steady"])
        self.chained.add(job.id)
        return self._accepted(job, "steady", plan)

    @rule()
    def run(self) -> None:
        with self._watching():
            self.world.spooler.run_due()

    @rule(step=st.none() | STEP)
    def move_and_die(self, step: int | None) -> None:
        """The process that moves delayed jobs in ends at some step: every job is still there, once."""
        before = sorted(filter(None, map(spoolfile.id_of, self.world.names())))
        assert self.world.child(lambda: mover.Mover(self.world.spool).step(), step) in (0, CRASHED)
        assert sorted(filter(None, map(spoolfile.id_of, self.world.names()))) == before

    @rule(step=STEP)
    def run_and_die(self, step: int) -> None:
        with self._watching(cut=True):
            assert self.world.child(self.world.spooler.run_due, step) in (0, 1, CRASHED)

    @rule(moves=st.integers(0, 4), step=st.none() | STEP)
    def run_and_lose_the_store(self, moves: int, step: int | None) -> None:
        def work() -> None:
            with no_store_after(moves):
                self.world.spooler.run_due()

        with self._watching(cut=step is not None, blind=True):
            if step is None:
                work()
            else:
                assert self.world.child(work, step) in (0, 1, CRASHED)

    @rule(drop=st.booleans(), what=st.sampled_from(["nothing", "cancel", "kill", "kill slowly"]))
    def two_at_once(self, drop: bool, what: str) -> None:
        """Another process is in the middle of a job, perhaps with the file's lock dropped, while this one looks.

        Where it is killed slowly, it does nothing any more, and is still there with all its locks.
        """
        ready, started = os.pipe()
        wait, go = os.pipe()

        def on_start(id: str) -> None:
            if drop and (path := spoolfile.locate(self.world.spool, id)):
                os.close(os.open(path, os.O_RDONLY))
            os.write(started, id.encode())
            os.read(wait, 1)

        def work() -> None:
            os.close(go)
            os.close(ready)
            life_tasks.is_child = True
            life_tasks.on_start = on_start
            self.world.spooler.run_due()

        drop = drop and not self.world.broken  # without either, nothing tells that somebody is at it
        asked = ""
        with self._watching(cut=True):
            pid = start_child(work)
            try:
                os.close(started)
                os.close(wait)
                id = read_pipe(ready, 32).decode()
                before = self.world.starts(id)
                running, started_before = self.known[id].task if id else "", self._starts_of("limited")
                self.world.spooler.run_due()
                assert self.world.starts(id) == before, "two at once"
                assert running != "limited" or self._starts_of("limited") == started_before, "over the limit"
                if id and what != "nothing" and not self.world.broken:
                    is_killed = what != "cancel"
                    with pytest.MonkeyPatch.context() as patch:
                        if what == "kill slowly":
                            patch.setattr(os, "kill", lambda pid, _, kill=os.kill: kill(pid, signal.SIGSTOP))
                        state = actions.cancel(id, force=is_killed)
                    assert state is (State.CANCELLED if is_killed else State.RUNNING)
                    asked = id
                    if is_killed:
                        self.known[id].over, self.known[id].stopped = before, True
                        os.kill(pid, signal.SIGKILL)
            finally:
                os.close(go)
                os.close(ready)
                status = wait_child(pid)
            assert status in (0, 1, -9)
        if asked:
            assert self.world.starts(asked) == before, "it was not wanted any more"
            self.known[asked].over = before

    @rule(id=ids)
    def cancel(self, id: str) -> None:
        if id not in self.known:
            return
        was = self._state(id)
        try:
            assert actions.cancel(id) is State.CANCELLED
        except StoreUnavailableError:
            assert self.world.broken
        except (JobStateError, UnknownJobError):
            assert was not in WAITING, f"it waited ({was}) and could not be cancelled"
        else:
            self.known[id].over, self.known[id].stopped = self.world.starts(id), True
            assert self._state(id) is State.CANCELLED

    @rule(id=ids, step=STEP)
    def cancel_and_die(self, id: str, step: int) -> None:
        if id not in self.known:
            return

        def work() -> None:
            with contextlib.suppress(StoreUnavailableError, JobStateError, UnknownJobError):
                actions.cancel(id)

        assert self.world.child(work, step) in (0, CRASHED)

    @rule(id=ids)
    def retry(self, id: str) -> None:
        if id not in self.known:
            return
        was = self._state(id)
        try:
            actions.retry(id)
        except StoreUnavailableError:
            assert self.world.broken
        except DuplicateJobError:
            assert was is State.DEAD
            assert self._holders(self.known[id].plan)
        except (JobStateError, UnknownJobError):
            # Dead by a record that has missed what became of it since: there is no file to be run again.
            assert was is not State.DEAD or self.known[id].lost
        else:
            assert was is State.DEAD
            self._fresh(id)
            self._due_now(id)
            assert self._state(id) in WAITING

    @rule(id=ids, step=STEP)
    def retry_and_die(self, id: str, step: int) -> None:
        if id not in self.known:
            return

        def work() -> None:
            with contextlib.suppress(StoreUnavailableError, JobStateError, UnknownJobError):
                actions.retry(id)

        was = self._state(id)
        assert self.world.child(work, step) in (0, CRASHED)
        if was is State.DEAD and dead.locate(self.world.spool, id) is None:
            self._fresh(id)
            self._due_now(id)

    @rule(id=ids)
    def put_back_by_hand(self, id: str) -> None:
        path = id and dead.locate(self.world.spool, id)
        if not path or self.known[id].task == "only":
            return  # by hand, a job gets past the one that has its key
        os.rename(path, os.path.join(self.world.spool, os.path.basename(path)))
        self.known[id].priority = None
        recorded = None if self.world.broken else self.world.store.status(id)
        if recorded is None or recorded.state is State.DEAD:
            self._fresh(id)
        # Where its death was not recorded, its attempts go on being counted.
        self.known[id].over = None
        self.known[id].blind |= recorded is None or recorded.state is not State.DEAD

    @rule(id=ids)
    def run_now(self, id: str) -> None:
        if id not in self.known:
            return
        was = self._state(id)
        try:
            actions.run_now(id)
        except (JobStateError, UnknownJobError):
            assert was not in WAITING
        else:
            self._due_now(id)

    @rule(seconds=st.sampled_from([-1000.0, -3.0, 0.25, 3.0, 5.0, 20.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(cut=st.integers(0, 200), junk=st.none() | st.binary(max_size=20))
    def drop_a_torn_file(self, cut: int, junk: bytes | None) -> None:
        job = self._next("steady", ["ok"], None)
        data = packet.dump(packet.pack(job, max_body=1000))
        self._drop(f"{PREFIX}{job.id}", data[: cut % len(data)] if junk is None else junk)

    @rule(name=st.sampled_from(["ghost", "x" * 40, "0" * 32 + ".1", "-", "\udcff"]), body=st.binary(max_size=20))
    def drop_a_foreign_file(self, name: str, body: bytes) -> None:
        foreign = packet.Packet({b"ud_spool_func": b"somebody.elses", b"at": b"1"}, body)
        self._drop(f"{PREFIX}{name}", packet.dump(foreign))

    @rule()
    def vet(self) -> None:
        """A spooler starts."""
        startup.tidy(self.world.spool)
        self.world.sweep()

    @precondition(lambda self: not self.world.broken)
    @rule(how=st.sampled_from([garbage, os.mkdir]))
    def break_the_store(self, how: Callable[[str], object]) -> None:
        self.world.break_store(how)

    @precondition(lambda self: self.world.broken)
    @rule()
    def mend_the_store(self) -> None:
        self.world.mend_store()

    # What must be true.

    @invariant()
    def nobody_complains(self) -> None:
        if hasattr(self, "world"):
            assert self.world.complaints.found == []

    @invariant()
    def each_job_keeps_its_priority(self) -> None:
        for path in spoolfile.pending(self.world.spool) if hasattr(self, "world") else ():
            job = self.known.get(spoolfile.id_of(os.path.basename(path)) or "")
            if job is not None and job.priority is not None and parked.group_of(path) is None:
                assert Path(path).parent.name == str(job.priority)

    @invariant()
    def what_is_promised_of_each_job(self) -> None:
        if not hasattr(self, "world"):
            return
        started: dict[str, int] = {}
        for line in life_tasks.read():
            if line[0] != "start":
                continue
            _, id, time, _ = line
            assert id in self.known, "something ran that was never accepted"
            assert float(time) >= self.known[id].at, "too early"
            assert float(time) < self.known[id].expires, "too late"
            started[id] = started.get(id, 0) + 1
        for task, count in self.paused.items():
            assert self._starts_of(task) == count, "its task is paused"
        if not self.was_blind:
            times = [float(line[2]) for line in life_tasks.read() if line[0] == "start" and self._is_paced(line[1])]
            for index, (first, last) in enumerate(zip(times, times[AT_ONCE + 1 :], strict=False)):
                assert last - first >= 1, f"too often: {times[index:]}"
        for id, job in self.known.items():
            count, most = started.get(id, 0), job.most
            assert count - job.fresh <= (2 * most if job.blind else most), "too many attempts"
            assert job.over is None or count == job.over, "it ran again"
            if self._state(id) in (State.DONE, State.CANCELLED, State.DEAD):
                job.over = count

    # Within.

    def _next(self, task: str, plan: list[str], delay: float | None, expires: float | None = None) -> JobSpec:
        self.number += 1
        return self.world.submit(self.number, task, plan, delay, expires)

    def _accepted(self, job: JobSpec, task: str, plan: list[str]) -> str:
        expires = math.inf if job.expires_at is None else job.expires_at
        self.known[job.id] = Known(task, plan, job.run_at or 0.0, expires)
        return job.id

    def _drop(self, name: str, data: bytes) -> None:
        path = os.path.join(self.world.spool, name)
        if not os.path.lexists(path):
            Path(path).write_bytes(data)
            self.world.foreign |= {name}

    def _fresh(self, id: str) -> None:
        job = self.known[id]
        job.fresh, job.over = self.world.starts(id), None
        # If the store cannot be written, it learns that from the file later.
        job.disturbed = job.blind = False

    def _due_now(self, id: str) -> None:
        self.known[id].at = min(self.known[id].at, self.world.now)

    @contextlib.contextmanager
    def _watching(self, cut: bool = False, blind: bool = False) -> Iterator[None]:
        """What a run may have done to the jobs that were not over."""
        blind = blind or self.world.broken
        self.was_blind |= blind
        before = {id: self._files(id) for id in self.known}
        starts = {id: self.world.starts(id) for id in self.known}
        yield
        for id, job in self.known.items():
            touched = before[id] != self._files(id) or starts[id] != self.world.starts(id)
            job.disturbed |= cut and bool(before[id])
            if blind and bool(before[id]):
                job.blind = True
                job.lost |= touched
                if starts[id] != self.world.starts(id) and not job.stopped:
                    job.over = None  # the record that said so cannot be had

    def _is_paced(self, id: str) -> bool:
        return self.known[id].task == "paced"

    def _starts_of(self, task: str) -> int:
        return sum(self.world.starts(id) for id, job in self.known.items() if job.task == task)

    def _files(self, id: str) -> list[str]:
        chunked = chunks.find(self.world.spool, id)
        own = [name for name in self.world.names() if spoolfile.id_of(name) == id]
        return sorted([*own, *filter(None, [chunked])])

    def _state(self, id: str) -> State | None:
        try:
            found = lookup.find(id)
        except UnknownJobError:
            assert self.world.broken or self.known[id].lost, "an accepted job is not known any more"
            return None
        assert found.state is not State.LOST or self.world.broken or self.known[id].lost
        return found.state

    def _end(self) -> None:
        if self.world.broken:
            self.world.mend_store()
        self.what_is_promised_of_each_job()
        self.what_is_promised_of_tags()
        for task in [*self.paused]:
            pauses.resume(self.world.spool, DECLARED[task].name)
            del self.paused[task]
        self.world.drain()
        self.world.drain()  # of what the end of the last job has led to
        self.nobody_complains()
        self.what_is_promised_of_batches_and_chains()
        self.what_is_promised_of_each_job()
        self.what_is_promised_of_tags()
        lines = life_tasks.read()
        for id, job in self.known.items():
            state = self._state(id)
            if state is None or state is State.LOST:
                continue
            assert state in (State.DONE, State.DEAD, State.CANCELLED), state
            if state is State.DONE and not job.lost:  # else it is a guess, see below
                assert ["ok", id] in lines, "done, but never came to its end"
            if state is State.DEAD and not job.disturbed and not job.blind:
                count = self.world.starts(id)
                last = job.plan[min(count, len(job.plan)) - 1]
                assert count - job.fresh == job.most or last in LAST[job.task], "dead before its time"

    def what_is_promised_of_tags(self) -> None:
        """A job is found by its tags, unless it is over and the store has missed that."""
        for task in TASKS:
            found = {status.id for status in lookup.jobs(tag=task)}
            tagged = {id for id, job in self.known.items() if job.task == task and job.has_tags}
            assert found <= tagged
            assert all(self.known[id].lost or self.known[id].blind for id in tagged - found)

    def what_is_promised_of_batches_and_chains(self) -> None:
        followed = [line[1:] for line in life_tasks.read() if line[0] == "follow"]
        for id, members in self.batches.items():
            found = self.world.store.batch(id)
            assert found is not None
            assert found.completed_at is not None, "all members have ended"
            assert found.callback is not None
            callbacks = {job for job, batch in followed if batch == id}
            assert len(callbacks) <= found.generation, "called back more often than it was complete"
            if not any(self.known[member].blind or self.known[member].lost for member in members):
                self._has_followed(found.callback, followed)
                retried = any(self.known[member].fresh for member in members)
                assert found.generation == 1 or retried, "it was complete once"
        for id in self.chained:
            job = self.known[id]
            state = None if job.blind or job.lost else self._state(id)
            if state is State.DONE:
                self._has_followed(chains.next_id(id), followed)
            elif state is not None:
                with pytest.raises(UnknownJobError):
                    lookup.find(chains.next_id(id))

    def _has_followed(self, id: str, followed: list[list[str]]) -> None:
        try:
            assert lookup.find(id).state in FINISHED
        except UnknownJobError:
            # The members were recorded, but this one may have run while the store could not be written.
            assert self.was_blind
            assert id in [job for job, _ in followed], "it was accepted, and is gone"


def lives(count: int) -> settings:
    return settings(
        max_examples=count,
        stateful_step_count=25,
        phases=[Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


TestLife = Life.TestCase
TestLife.settings = lives(10)


class ManyLives(Life):
    """``LIFE_EXAMPLES``: how many."""


TestManyLives = pytest.mark.matrix(ManyLives.TestCase)
TestManyLives.settings = lives(int(os.environ.get("LIFE_EXAMPLES", "300")))


# One job, killed at each single step in turn.


@pytest.fixture
def world() -> Iterator[World]:
    with contextlib.closing(World()) as world:
        yield world


def submit(world: World, *plan: str, task: str = "steady") -> str:
    job = world.submit(1, task, list(plan), None)
    SpoolEngine().submit(job, TASKS[task])
    return job.id


ENDS = {
    ("steady", "ok"): State.DONE,
    ("steady", "fail"): State.DEAD,
    ("steady", "abort"): State.DEAD,
    ("limited", "ok"): State.DONE,
    ("paced", "ok"): State.DONE,
    ("picky", "wrong"): State.DEAD,
    ("picky", "pointless"): State.CANCELLED,
}


def each_step(task: str, word: str, attempt: int, stride: int) -> Iterator[tuple[World, str, bool]]:
    """The job, killed in this attempt after so many that failed: at the first step, at the second, to its end."""
    for step in range(0, 200, stride):
        with contextlib.closing(World()) as world:
            id = submit(world, *["fail"] * (attempt - 1), word, task=task)
            for _ in range(attempt - 1):
                world.spooler.run_due()
                world.now += AHEAD
            status = world.child(world.spooler.run_due, step)
            assert status in (0, CRASHED)
            said, starts = lookup.find(id).state, world.starts(id)
            world.drain()
            if said in (State.DONE, State.DEAD, State.CANCELLED):
                assert (lookup.find(id).state, world.starts(id)) == (said, starts), "it was over"
            assert world.complaints.found == []
            yield world, id, status == CRASHED
            if status == 0:
                return
    pytest.fail("it never came to its end")


@at_every(5)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("task", "word"), ENDS)
def test_a_kill_at_any_step_costs_an_attempt_at_most(task: str, word: str, last: bool, stride: int) -> None:
    most, end = TASKS[task].options.attempts, ENDS[task, word]
    for world, id, killed in each_step(task, word, most if last else 1, stride):
        state = lookup.find(id).state
        assert state is end or (last and killed and state is State.DEAD)
        assert world.starts(id) <= most
        if state is State.DONE and word == "ok":
            assert [line[0] for line in life_tasks.read()].count("ok") <= 1 + killed
        if state is State.DEAD:
            before = world.starts(id)
            actions.retry(id)
            world.drain()
            again = most if word == "fail" else 1
            assert world.starts(id) - before == again, "retried, but without a fresh count"


def test_a_caller_killed_at_any_step_leaves_a_job_that_is_not_early_or_none(world: World) -> None:
    for step in range(100):
        job = world.submit(step, "steady", ["ok"], 10.0)
        status = world.child(lambda job=job: SpoolEngine().submit(job, TASKS["steady"]), step)  # type: ignore[misc]
        world.spooler.run_due()
        assert world.starts(job.id) == 0, "early"
        accepted = spoolfile.locate(world.spool, job.id) is not None
        world.drain()
        assert world.starts(job.id) == accepted
        if status == 0:
            assert accepted
            return
    pytest.fail("it never came to its end")


@at_every(3)
@pytest.mark.parametrize("attempt", [1, 2])
def test_a_kill_at_any_step_of_its_end_starts_no_job_that_has_expired(attempt: int, stride: int) -> None:
    for step in range(0, 100, stride):
        with contextlib.closing(World()) as world:
            job = world.submit(1, "steady", ["fail"], None, expires=AHEAD / 2)
            SpoolEngine().submit(job, TASKS["steady"])
            for _ in range(attempt - 1):
                world.spooler.run_due()
            world.now += AHEAD
            status = world.child(world.spooler.run_due, step)
            assert status in (0, CRASHED)
            world.drain()
            assert (lookup.find(job.id).state, world.starts(job.id)) == (State.CANCELLED, attempt - 1)
            assert [event.kind for event in lookup.details(job.id).events] == ["expired"]
            assert world.complaints.found == []
            if status == 0:
                return
    pytest.fail("it never came to its end")


@at_every(5)
@pytest.mark.parametrize("ends", [False, True])
def test_a_kill_at_any_step_leaves_no_job_parked_for_ever(ends: bool, stride: int) -> None:
    """Of the process that parks a job; or of the one whose job ends, so that it moves the parked one back."""
    for step in range(0, 200, stride):
        with contextlib.closing(World()) as world:
            holder, other = (world.submit(number, "limited", ["ok"], None) for number in (1, 2))
            SpoolEngine().submit(holder, TASKS["limited"])
            life_tasks.on_start = lambda id, world=world, other=other: SpoolEngine().submit(other, TASKS["limited"])  # type: ignore[misc]
            if not ends:
                status = meet_at(world, step)
            else:
                park_behind(world, holder, other)
                status = world.child(world.spooler.run_due, step)
            assert status in (0, CRASHED)
            world.drain()
            for job in (holder, other):
                assert lookup.find(job.id).state is State.DONE
                assert 1 <= world.starts(job.id) <= 2
            assert world.complaints.found == []
            if status == 0:
                return
    pytest.fail("it never came to its end")


def meet_at(world: World, step: int) -> int:
    """While this process runs the first job, another one finds no room for the second, and dies at a step."""
    status = [0]
    submit = life_tasks.on_start
    assert submit is not None

    def on_start(id: str) -> None:
        submit(id)
        life_tasks.on_start = None
        status[0] = world.child(Spooler(world.spool).run_due, step)

    life_tasks.on_start = on_start
    world.spooler.run_due()
    return status[0]


def park_behind(world: World, holder: JobSpec, other: JobSpec) -> None:
    """Have the second job parked before the first one has started."""
    SpoolEngine().submit(other, TASKS["limited"])
    life_tasks.on_start = None
    path = spoolfile.locate(world.spool, other.id)
    assert path is not None
    assert other.limit_key is not None
    parked.park(path, world.spool, limits.group(other.limit_key))


@pytest.mark.parametrize("delay", [None, 10.0])
def test_a_job_with_an_id_of_its_own_is_there_once_wherever_its_writers_are_killed(
    world: World, delay: float | None
) -> None:
    """As the tick of a schedule: each process that finds it missing writes it, also while it runs, or has run."""
    for step in range(100):
        job = world.submit(step, "steady", ["ok"], delay)
        data = packet.dump(packet.pack(job, max_body=1000))

        def write(job: JobSpec = job, data: bytes = data) -> None:
            with contextlib.suppress(FileExistsError):
                if existence.exists(world.store, [world.spool], job.id):
                    return
                if job.run_at is None:
                    spoolfile.write(world.spool, job.id, data, exclusive=True)
                else:
                    later.write(world.spool, job.id, data, run_at=job.run_at, exclusive=True)

        status = world.child(write, step)
        life_tasks.on_start = lambda id, write=write: write()  # type: ignore[misc]
        for _ in range(2):
            write()
            world.drain()
        assert world.starts(job.id) == 1
        if status == 0:
            return
    pytest.fail("it never came to its end")


def test_a_task_that_kills_its_process_stops_without_a_store_too(world: World) -> None:
    id = submit(world, "die")
    world.break_store(garbage)
    for _ in range(6):
        world.child(world.spooler.run_due)
        world.now += AHEAD
    assert world.starts(id) == 3
    assert lookup.find(id).state is State.DEAD


# What the machine found, each as small as it goes.


def runs_without_record(world: World) -> None:
    """The claim is recorded, how the attempt ends is not."""
    with no_store_after(1):
        world.spooler.run_due()


def dies_before_its_death_is_recorded(world: World) -> None:
    """The file is among the dead, the record says that the job runs."""

    def work() -> None:
        rename = os.rename

        def rename_and_die(old: str, new: str) -> None:
            rename(old, new)
            if os.path.basename(os.path.dirname(new)) == dead.FOLDER and not new.endswith(
                ".json"
            ):  # the report is first
                os._exit(CRASHED)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "rename", rename_and_die)
            world.spooler.run_due()

    assert in_child(work) == CRASHED


def test_a_job_whose_last_end_was_not_recorded_can_be_cancelled_while_its_process_lives(world: World) -> None:
    id = submit(world, "fail")
    runs_without_record(world)
    assert lookup.find(id).state is State.RETRYING
    assert actions.cancel(id) is State.CANCELLED
    world.drain()
    assert world.starts(id) == 1


def test_a_dead_job_put_back_by_hand_can_be_cancelled(world: World) -> None:
    id = submit(world, "abort")
    world.spooler.run_due()
    path = dead.locate(world.spool, id)
    assert path is not None
    os.rename(path, os.path.join(world.spool, os.path.basename(path)))
    assert lookup.find(id).state is State.QUEUED
    assert actions.cancel(id) is State.CANCELLED
    world.drain()
    assert world.starts(id) == 1


@pytest.mark.parametrize("plan", [["abort", "fail"], ["fail", "abort", "fail"], ["fail"]])
def test_a_job_whose_death_was_not_recorded_is_retried_with_a_fresh_count(world: World, plan: list[str]) -> None:
    id = submit(world, *plan)
    before = plan.index("abort") + 1 if "abort" in plan else 3
    for _ in range(before - 1):
        world.spooler.run_due()
        world.now += AHEAD
    dies_before_its_death_is_recorded(world)
    assert (world.starts(id), lookup.find(id).state) == (before, State.DEAD)
    actions.retry(id)
    world.drain()
    assert world.starts(id) == before + 3, "three more attempts"
    assert lookup.find(id).state is State.DEAD


@at_every(3)
def test_who_retries_may_die_at_any_step(stride: int) -> None:
    for step in range(0, 60, stride):
        with contextlib.closing(World()) as world:
            id = submit(world, "fail", task="picky")
            world.spooler.run_due()
            world.now += AHEAD
            dies_before_its_death_is_recorded(world)
            status = world.child(lambda id=id: actions.retry(id), step)  # type: ignore[misc]
            assert status in (0, CRASHED)
            if dead.locate(world.spool, id) is None:
                world.drain()
                assert world.starts(id) == 4, f"put back without a fresh count, killed at step {step}"
            if status == 0:
                return
    pytest.fail("it never came to its end")


def test_a_job_that_is_retried_while_it_runs_again_is_left_alone(world: World) -> None:
    """Two people retry at once, and a spooler is faster than the second of them."""
    id = submit(world, "abort", "ok")
    world.spooler.run_due()
    locate = dead.locate

    def locate_and_be_overtaken(directory: str, id: str, known: str | None = None) -> str | None:
        path = locate(directory, id, known)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dead, "locate", locate)
            actions.retry(id)
            world.spooler.run_due()
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dead, "locate", locate_and_be_overtaken)
        with pytest.raises(JobStateError, match="done"):
            actions.retry(id)
    assert lookup.find(id).state is State.DONE
    assert world.starts(id) == 2


def test_a_job_has_all_its_attempts_without_a_store_too(world: World) -> None:
    id = submit(world, "fail")
    world.break_store(garbage)
    world.drain()
    assert world.starts(id) == 3
    assert lookup.find(id).state is State.DEAD


def test_a_dead_job_whose_death_was_not_recorded_is_listed_as_dead(world: World) -> None:
    id = submit(world, "abort")
    dies_before_its_death_is_recorded(world)
    assert lookup.find(id).state is State.DEAD
    assert [status.id for status in lookup.jobs(states=(State.DEAD,))] == [id]
    assert [status.id for status in lookup.jobs(states=(State.RETRYING,))] == []


def test_a_job_whose_process_was_killed_does_not_run_again_however_long_that_takes_to_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it had the lock when its killer looked: the file was left, and without the record it ran."""
    id = submit(world, "wrong", task="picky")
    ready, started = os.pipe()
    wait, go = os.pipe()

    def work() -> None:
        os.close(go)
        life_tasks.on_start = lambda id: (os.write(started, b"1"), os.read(wait, 1))  # type: ignore[assignment, return-value]
        world.spooler.run_due()

    pid, kill = start_child(work), os.kill
    try:
        read_pipe(ready)
        # It is there, and does nothing.
        monkeypatch.setattr(os, "kill", lambda pid, signum: kill(pid, signal.SIGSTOP))
        assert actions.cancel(id, force=True) is State.CANCELLED
    finally:
        kill(pid, signal.SIGKILL)
        assert wait_child(pid) == -signal.SIGKILL
        for fd in (ready, started, wait, go):
            os.close(fd)
    assert world.names() == []
    world.break_store(garbage)
    world.drain()
    assert world.starts(id) == 1


# A chunk, killed at each single step in turn.


def test_a_job_that_was_asked_to_stop_and_whose_process_died_is_cancelled_also_if_it_is_run_now() -> None:
    life = ManyLives()
    (id,) = life.begin(first=[("picky", ["die"])]).values
    life.two_at_once(drop=False, what="cancel")
    life.run_now(id)
    life.run()
    assert lookup.find(id).state is State.CANCELLED
    assert life.world.starts(id) == 1
    life.teardown()


@at_every(7)
def test_a_kill_at_any_step_of_a_chunk_loses_no_job_and_brings_none_back(stride: int) -> None:
    for step in range(0, 400, stride):
        with contextlib.closing(World()) as world:
            first, ids = world.chunk(1, "steady", 3, None)
            SpoolEngine().submit_many(first, [((["ok"],), {})] * 3, TASKS["steady"], step=0.0)
            status = world.child(world.spooler.run_due, step)
            assert status in (0, CRASHED)
            said = [lookup.find(id).state for id in ids]
            assert len(lookup.jobs()) == 3
            done = {id for id in ids if ["ok", id] in life_tasks.read()}
            recorded = {id for id, state in zip(ids, said, strict=True) if state is State.DONE}
            world.drain()
            assert [lookup.find(id).state for id in ids] == [State.DONE] * 3
            # An attempt that was killed after its task returned, and before that was recorded, is made again.
            again = [id for id in ids if world.starts(id) > 1]
            assert len(again) <= 1
            assert not set(again) & recorded
            assert recorded <= done
            chunks.sweep(world.spool)  # as a spooler does at its start: of the folder of a chunk that is gone
            assert os.listdir(os.path.join(world.spool, chunks.FOLDER)) == []
            assert world.complaints.found == []
            if status == 0:
                return
    pytest.fail("it never came to its end")


@at_every(3)
@pytest.mark.parametrize("broken", [False, True])
def test_of_a_chunk_killed_at_any_step_no_job_that_ran_is_made_again(broken: bool, stride: int) -> None:
    """Without the help of the store: its files alone tell which jobs are left."""
    for step in range(0, 100, stride):
        with contextlib.closing(World()) as world:
            first, ids = world.chunk(1, "steady", 3, None)
            SpoolEngine().submit_many(first, [((["ok"],), {})] * 3, TASKS["steady"], step=0.0)
            (path,) = spoolfile.pending(world.spool)
            status = world.child(lambda path=path, world=world: chunks.expand_unlocked(path, world.spool), step)  # type: ignore[misc]
            if broken:
                world.break_store(garbage)
            # Only those that have a file of their own by now.
            for own in spoolfile.pending(world.spool):
                if not chunks.is_chunk(own):
                    world.spooler._serve_due([own])
            assert [chunks.find(world.spool, id) is None for id in ids] == [world.starts(id) == 1 for id in ids]
            world.drain()
            assert [world.starts(id) for id in ids] == [1, 1, 1]
            if status == 0:
                return
    pytest.fail("it never came to its end")
