"""The life of a schedule, with kills at any step and a clock that is put forward and back: a state machine."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from itertools import pairwise
from typing import Any

import life_tasks
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from life_faults import CRASHED
from test_life import World

from spoolkit import application, current_job, periodic, registry, spool
from spoolkit.admin import actions
from spoolkit.errors import JobStateError, UnknownJobError
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import control, ticks
from spoolkit.schedules.schedule import SECOND
from spoolkit.settings import Queue
from spoolkit.spooldir import schedules, spoolfile
from spoolkit.spooldir.schedules import due_of, tick_id
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import clock

EVERY = 60
STEP = st.integers(0, 120)


def ticking() -> None:
    job = current_job()
    life_tasks.note("tick", job.id, round(job.run_at or 0), job.attempt, clock.now())


QUEUES = st.sampled_from([None, "mail"])


def task(queue: str | None) -> Any:
    return spool(retries=1000, backoff=1.0, name="life.ticks", queue=queue)(ticking)


def ran() -> list[tuple[int, int, float]]:
    """The due time, the number of the attempt and the start of each."""
    lines = [line for line in life_tasks.read() if line[0] == "tick"]
    return [(int(due), int(attempt), float(began)) for _, _, due, attempt, began in lines]


class Schedules(RuleBasedStateMachine):
    @initialize(missed=st.sampled_from(["once", "skip", "all"]), queue=QUEUES)
    def begin(self, missed: Any, queue: str | None) -> None:
        self.world = World()
        patch = self.world.undo.enter_context(pytest.MonkeyPatch.context())
        config = replace(application.settings(), queues=(Queue("mail"),))
        patch.setattr(application, "settings", lambda code_folder=None: config)
        self.spoolers = [self.world.spooler, Spooler(f"{self.world.spool}-queues/mail")]
        patch.setattr(registry.this_process, "schedules", {})
        # The task belongs to a queue that no other test has.
        patch.setattr(registry.this_process, "tasks", dict(registry.this_process.tasks))
        patch.setattr(sweeping, "_sweeps", [])
        # Each definition is that of a process which started later.
        patch.setattr(schedules, "has_older_writer", lambda state: True)
        self.missed = missed
        self.left_out: set[int] = set()
        """Due times that somebody has cancelled."""
        self.is_plain = True
        """Whether nobody has paused the schedule, or changed its definition."""
        self.change(EVERY, queue)
        self.is_plain = True

    def teardown(self) -> None:
        if hasattr(self, "world"):
            try:
                self.end()
            finally:
                self.world.close()

    @rule(seconds=st.sampled_from([0.5, 20.0, 60.0, 61.0, 200.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(seconds=st.sampled_from([1.0, 100.0, 1000.0]))
    def put_the_clock_back(self, seconds: float) -> None:
        self.world.now -= seconds

    @rule(every=st.sampled_from([EVERY, EVERY, 90]), queue=QUEUES)
    def change(self, every: int, queue: str | None) -> None:
        registry.this_process.schedules.clear()
        periodic(every=every, missed=self.missed, name="x")(task(queue))
        self.is_plain &= every == EVERY
        self.sweep()

    @rule()
    def sweep(self) -> None:
        ticks.reconcile(self.world.spool)

    @rule(step=STEP)
    def sweep_and_die(self, step: int) -> None:
        assert self.world.child(lambda: ticks.reconcile(self.world.spool), step) in (0, CRASHED)

    @rule()
    def run(self) -> None:
        for spooler in self.spoolers:
            if os.path.isdir(spooler.spool_dir):
                spooler.run_due()

    @rule(step=STEP)
    def run_and_die(self, step: int) -> None:
        assert self.world.child(self.run, step) in (0, 1, CRASHED)

    @rule()
    def lose_the_file(self) -> None:
        """Somebody removes the job that waits: it is made again."""
        next = self.state().next
        for path in self.files():
            if next is not None and spoolfile.id_of(os.path.basename(path)) == tick_id("x", next):
                os.unlink(path)

    @rule()
    def cancel(self) -> None:
        if (next := self.state().next) is not None:
            with contextlib.suppress(JobStateError, UnknownJobError):
                actions.cancel(tick_id("x", next))
                self.left_out.add(next // SECOND)

    @rule()
    def pause(self) -> None:
        control.pause("x")
        self.is_plain = False

    @rule()
    def resume(self) -> None:
        control.resume("x")

    @invariant()
    def nothing_runs_twice_or_early(self) -> None:
        found = ran()
        assert len({(due, attempt) for due, attempt, _ in found}) == len(found), "twice"
        assert all(due <= began for due, _, began in found), "early"

    @invariant()
    def no_job_is_due_later_than_its_schedule_says(self) -> None:
        state = self.state()
        ids = list(filter(None, (spoolfile.id_of(os.path.basename(path)) for path in self.files())))
        assert len(set(ids)) == len(ids), "there in two queues"
        assert all(due_of(id) <= (state.next or state.fired) for id in ids)

    def files(self) -> list[str]:
        dirs = [spooler.spool_dir for spooler in self.spoolers]
        return [path for one in dirs if os.path.isdir(one) for path in spoolfile.pending(one)]

    def state(self) -> schedules.State:
        state = schedules.read(self.world.spool, "x")
        assert state is not None
        return state

    def end(self) -> None:
        """The chain goes on, and of all that was due nothing is missing where all of it was to run."""
        control.resume("x")
        rounds = 0
        for _ in range(20):  # in some of them, what is due was cancelled
            self.sweep()
            before = len(ran())
            next = self.state().next
            assert next is not None
            self.world.now = max(self.world.now, next / SECOND) + 2.0
            for _ in range(40):
                self.run()
                self.world.now += 1.2
            rounds += len(ran()) > before
            if rounds == 3:
                break
        else:
            pytest.fail("the chain is broken")
        self.nothing_runs_twice_or_early()
        if self.missed == "all" and self.is_plain:
            dues = sorted({due for due, _, _ in ran()} | self.left_out)
            assert [after - before for before, after in pairwise(dues)] == [EVERY] * (len(dues) - 1), "one is missing"
        assert self.world.complaints.found == []


class ManySchedules(Schedules):
    pass


TestSchedules = ManySchedules.TestCase
TestSchedules.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


class LongSchedules(Schedules):
    pass


TestLongSchedules = pytest.mark.matrix(LongSchedules.TestCase)
TestLongSchedules.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
