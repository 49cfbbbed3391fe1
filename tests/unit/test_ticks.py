"""Each due time of a periodic task becomes one job: made before the one before it runs, healed, changed and removed."""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import signal
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from life_process import in_child, read_pipe, wait_child

from spoolkit import ConfigurationError, Job, SpoolKit, State, current_job, periodic, registry, spool, thread
from spoolkit.admin import actions, lookup
from spoolkit.cli import commands
from spoolkit.doctor.examine import examine
from spoolkit.errors import StoreUnavailableError
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import declared, ticks
from spoolkit.schedules.schedule import SECOND
from spoolkit.spooldir import dead, later, running, schedules, spoolfile
from spoolkit.spooldir.schedules import due_of, tick_id
from spoolkit.spooling import execute, startup
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.store.database import Database
from spoolkit.system import clock, process

NOW = 2_500_000_040.0  # after the machine's own time, which files get
MINUTE = 2_500_000_080.0
HOUR = 2_500_002_000.0

ran: list[tuple[Any, ...]] = []
during: list[Callable[[], None]] = []
"""What the next run does first."""


@spool(retries=3, backoff=10.0)
def task(how: str = "", *, word: str = "") -> None:
    job = current_job()
    ran.append((job.run_at, how or word, job.is_late))
    if during:
        during.pop()()
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fail" and job.attempt == 1:
        raise ValueError(how)


class Site:
    """An application, its spooler and its clock."""

    def __init__(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        monkeypatch.setattr(clock, "now", lambda: self.now)
        self.app = app
        self.spool = os.path.realpath(app.config["SPOOLKIT_SPOOL"])
        self._spooler = Spooler(self.spool)

    def work(self) -> None:
        """Run what is due, sweeping before as a spooler does that starts."""
        ticks.reconcile(self.spool)
        self.run()

    def run(self) -> None:
        """Run what is due, and what that makes due."""
        for _ in range(100):
            before = len(ran)
            self._spooler.run_due()
            if len(ran) == before and not [path for path in spoolfile.scanned(self.spool) if spoolfile.is_due(path)]:
                return
        raise AssertionError("there is always something due")

    def pass_to(self, time: float) -> None:
        self.now = time

    def waiting(self) -> list[float]:
        """When the jobs are due that wait."""
        # One that has come is a moment earlier, for uWSGI's clock.
        return sorted(math.ceil(os.lstat(path).st_mtime) for path in spoolfile.pending(self.spool))

    def state(self, name: str | None = None) -> schedules.State:
        found = schedules.read(self.spool, name or task.name)
        assert found is not None
        return found

    def details(self, time: float, name: str | None = None) -> lookup.Details:
        return lookup.details(tick_id(name or task.name, int(time * SECOND)))

    def end(self, time: float, name: str | None = None) -> tuple[State, str | None]:
        status = self.details(time, name).status
        return status.state, status.error_message

    def declare(self, **options: Any) -> None:
        """Declare what a new version of the code does, instead of all that was declared."""
        registry.this_process.schedules.clear()
        if options:
            periodic(**options)(task)

    def as_if(self, monkeypatch: pytest.MonkeyPatch, *, older: bool) -> None:
        """Let the definitions be those of a process that started earlier, or later, than this one."""
        monkeypatch.setattr(schedules, "has_older_writer", lambda state: older)
        monkeypatch.setattr(schedules, "is_older_than_this_process", lambda state: older)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    (tmp_path / "spool").mkdir(mode=0o700)
    SpoolKit(app)
    monkeypatch.setattr(registry.this_process, "schedules", {})
    monkeypatch.setattr(sweeping, "_sweeps", [])
    ran.clear()
    during.clear()
    with app.app_context():
        yield Site(app, monkeypatch)


def test_a_periodic_task_runs_at_each_due_time_and_makes_the_next_one_before(site: Site) -> None:
    assert periodic(every=60, args=("x",), kwargs={"word": "y"})(task) is task
    site.work()
    assert ran == []
    assert site.waiting() == [MINUTE]
    during.append(lambda: ran.append(tuple(site.waiting())))
    site.pass_to(MINUTE)
    site.run()
    assert ran == [(MINUTE, "x", False), (MINUTE, MINUTE + 60)]
    site.pass_to(MINUTE + 61)
    site.run()
    assert ran[2:] == [(MINUTE + 60, "x", False)]
    assert site.end(MINUTE) == (State.DONE, None)
    assert site.waiting() == [MINUTE + 120]


def test_a_tick_is_a_job_like_any_other(site: Site) -> None:
    periodic(cron="0 * * * *", name="hourly")(task)
    site.work()
    (path,) = spoolfile.pending(site.spool)
    id = spoolfile.id_of(os.path.basename(path))
    assert id == tick_id("hourly", int(HOUR * SECOND))
    assert path == os.path.join(site.spool, later.FOLDER, f"{spoolfile.PREFIX}{id}")
    assert os.stat(path).st_mode & 0o777 == 0o600
    job = Job.get(id)
    assert (job.task, job.state, job.run_at) == (task.name, State.QUEUED, HOUR)
    state_file = schedules.path_of(site.spool, "hourly")
    assert os.stat(state_file).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(state_file)).st_mode & 0o777 == 0o700


def test_a_task_may_have_several_schedules(site: Site) -> None:
    periodic(every=60)(periodic(every=60, args=("second",))(periodic(every=120, name="other")(task)))
    assert list(declared.here()) == ["other", task.name, f"{task.name} 2"]
    site.pass_to(MINUTE)
    site.work()
    site.pass_to(MINUTE + 60)
    site.run()
    assert sorted(ran) == [(MINUTE + 60, "", False), (MINUTE + 60, "second", False)]
    site.pass_to(MINUTE + 120)
    site.run()
    assert sorted(ran[2:]) == [(MINUTE + 120, "", False), (MINUTE + 120, "", False), (MINUTE + 120, "second", False)]


def test_a_run_that_fails_is_tried_again_and_the_chain_goes_on(site: Site) -> None:
    periodic(every=60, args=("fail",))(task)
    site.work()
    site.pass_to(MINUTE)
    site.run()
    assert site.waiting() == [MINUTE + 10, MINUTE + 60]
    site.pass_to(MINUTE + 60)
    site.run()
    assert [run[0] for run in ran] == [MINUTE, MINUTE, MINUTE + 60]
    assert site.end(MINUTE) == (State.DONE, None)


def test_a_run_that_kills_its_process_does_not_break_the_chain(site: Site) -> None:
    periodic(every=60, args=("die",))(task)
    site.work()
    site.pass_to(MINUTE)
    in_child(site.run)
    assert site.waiting() == [MINUTE, MINUTE + 60]
    assert site.state().fired == MINUTE * SECOND


# After a downtime


@pytest.mark.parametrize(
    ("missed", "runs"),
    [
        ("once", [(MINUTE, True), (MINUTE + 660, False)]),
        ("skip", [(MINUTE + 660, False)]),
        ("all", [*((MINUTE + 60 * n, n < 9) for n in range(11)), (MINUTE + 660, False)]),
    ],
)
def test_after_a_downtime(site: Site, missed: str, runs: list[tuple[float, bool]]) -> None:
    periodic(every=60, missed=missed)(task)  # type: ignore[arg-type]
    site.work()
    site.pass_to(MINUTE + 605)
    site.work()
    site.pass_to(MINUTE + 660)
    site.work()
    assert [(run_at, is_late) for run_at, _, is_late in ran] == [
        (run_at, run_at < MINUTE + 600 and is_late | (run_at == MINUTE + 540)) for run_at, is_late in runs
    ]
    assert site.waiting() == [MINUTE + 720]
    if missed == "skip":
        assert site.end(MINUTE) == (State.CANCELLED, 'it was 605 s late, and missed is "skip"')
        assert site.details(MINUTE).status.ending == "skipped"


def test_max_late_ends_what_is_too_late_and_runs_what_is_not(site: Site) -> None:
    periodic(every=60, max_late=90)(task)
    site.work()
    site.pass_to(MINUTE + 605)
    site.work()
    assert [run[0] for run in ran] == [MINUTE + 540]
    assert site.end(MINUTE) == (State.CANCELLED, "it was 605 s late, and max_late is 90 s")
    assert site.waiting() == [MINUTE + 660]


def test_a_retry_is_not_too_late_where_nothing_is_recorded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=3600, max_late=5, args=("fail",))(task)
    site.work()

    def broken(*_: object) -> None:
        raise StoreUnavailableError("on purpose", path="")

    monkeypatch.setattr(Database, "_opened", broken)
    site.pass_to(HOUR)
    site.run()
    site.pass_to(HOUR + 11)
    site.run()
    assert [run[0] for run in ran] == [HOUR, HOUR]


def test_a_clock_that_is_put_back_runs_nothing_again(site: Site) -> None:
    periodic(every=60)(task)
    site.work()
    site.pass_to(MINUTE)
    site.work()
    site.pass_to(MINUTE - 3600)
    site.work()
    site.pass_to(MINUTE + 59)
    site.work()
    assert len(ran) == 1
    site.pass_to(MINUTE + 60)
    site.work()
    assert len(ran) == 2


# Healing


def test_a_missing_job_is_made_again(site: Site) -> None:
    periodic(every=60)(task)
    site.work()
    (path,) = spoolfile.pending(site.spool)
    os.unlink(path)
    site.work()
    assert spoolfile.pending(site.spool) == [path]


def test_a_run_that_somebody_cancelled_is_skipped(site: Site) -> None:
    periodic(every=60)(task)
    site.work()
    actions.cancel(tick_id(task.name, int(MINUTE * SECOND)))
    site.work()
    assert site.waiting() == [MINUTE + 60]
    site.pass_to(MINUTE + 60)
    site.work()
    assert [run[0] for run in ran] == [MINUTE + 60]


def test_a_run_that_somebody_starts_early_counts(site: Site) -> None:
    periodic(every=3600)(task)
    site.work()
    actions.run_now(tick_id(task.name, int(HOUR * SECOND)))
    site.work()
    assert ran == [(HOUR, "", False)]
    site.pass_to(HOUR)
    site.work()
    assert len(ran) == 1
    assert site.waiting() == [HOUR + 3600]


def test_a_job_that_cannot_be_read_does_not_break_the_chain(site: Site) -> None:
    periodic(every=60)(task)
    site.work()
    (path,) = spoolfile.pending(site.spool)
    dead.quarantine(path, site.spool, reason="damaged")
    site.work()
    assert site.waiting() == [MINUTE + 60]


def test_without_the_state_of_the_schedule_its_jobs_run_once(site: Site) -> None:
    periodic(every=60)(task)
    site.work()
    os.unlink(schedules.path_of(site.spool, task.name))
    site.pass_to(MINUTE + 1)
    site.run()
    assert [run[0] for run in ran] == [MINUTE]
    site.work()
    assert site.waiting() == [MINUTE + 60]


def test_a_killed_process_leaves_a_chain_that_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the state says so, before the next job is made: the same run is claimed again, and makes it."""
    periodic(every=60)(task)
    site.work()
    site.pass_to(MINUTE)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def run_and_die() -> None:
        monkeypatch.setattr(ticks, "_make", die)
        site.run()

    in_child(run_and_die)
    assert site.waiting() == [MINUTE]
    assert site.state().next == (MINUTE + 60) * SECOND
    site.run()
    assert [run[0] for run in ran] == [MINUTE]
    assert site.waiting() == [MINUTE + 60]


def test_on_a_full_disk_nothing_runs_that_is_not_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60)(task)
    site.work()
    site.pass_to(MINUTE)
    with monkeypatch.context() as full:
        full.setattr(schedules, "write", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
        site._spooler.run_due()
    assert ran == []
    assert site.waiting() == [MINUTE + 1]
    site.pass_to(MINUTE + 1)
    site.run()
    assert [run[0] for run in ran] == [MINUTE]


# What the code declares


def test_a_changed_definition_moves_the_job_that_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.declare(every=3600)
    site.work()
    site.as_if(monkeypatch, older=True)
    site.declare(every=60, args=("new",))
    site.work()
    assert site.waiting() == [MINUTE]
    site.pass_to(MINUTE)
    site.work()
    assert ran == [(MINUTE, "new", False)]
    site.declare(every=3600)
    site.work()
    assert site.waiting() == [HOUR], "the due time that was given up is free again"
    site.pass_to(HOUR)
    site.work()
    assert [run[0] for run in ran] == [MINUTE, HOUR]


def test_an_older_process_changes_no_definition_and_makes_the_next_job_by_the_newer_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.declare(every=60)
    site.work()
    site.as_if(monkeypatch, older=False)
    site.declare(every=3600)
    site.work()
    assert site.waiting() == [MINUTE]
    site.pass_to(MINUTE)
    site.work()
    assert [run[0] for run in ran] == [MINUTE]
    assert site.waiting() == [MINUTE + 60]


def test_a_schedule_that_a_newer_process_does_not_declare_is_removed_when_its_run_is_due(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.declare(every=60)
    site.work()
    site.as_if(monkeypatch, older=True)
    site.declare()
    site.work()
    assert site.waiting() == [MINUTE], "a script that has imported half of the tasks removes nothing"
    site.pass_to(MINUTE)
    site.work()
    assert ran == []
    assert site.end(MINUTE) == (State.CANCELLED, ticks.REMOVED)
    assert site.waiting() == []
    assert site.state().definition is None
    site.as_if(monkeypatch, older=False)
    site.declare(every=60)
    site.work()
    assert site.waiting() == [], "an older process does not add it again"
    site.as_if(monkeypatch, older=True)
    site.work()
    assert site.waiting() == [MINUTE + 60]


def test_a_schedule_whose_task_is_gone_is_removed_as_well(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.declare(every=60)
    site.work()
    site.as_if(monkeypatch, older=True)
    site.declare()
    monkeypatch.delitem(registry.this_process.tasks, task.name)
    site.pass_to(MINUTE)
    site.work()
    assert site.end(MINUTE) == (State.CANCELLED, ticks.REMOVED)
    assert site.waiting() == []


def test_a_process_that_is_older_than_the_schedule_leaves_its_jobs_to_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.declare(every=3600)
    site.work()
    site.as_if(monkeypatch, older=False)
    site.declare()
    site.pass_to(HOUR)
    site.work()
    assert ran == []
    assert site.waiting() == [HOUR + 1]
    site.declare(every=3600)
    ticks.reconcile(site.spool)
    assert site.waiting() == [HOUR + 1], "it has another name now, and is there"
    site.declare()
    site.pass_to(HOUR + 601)
    site.work()
    state, reason = site.end(HOUR)
    assert state is State.CANCELLED
    assert reason is not None
    assert "SPOOLKIT_UNKNOWN_GRACE" in reason
    site.declare(every=3600)
    site.work()
    assert site.waiting() == [HOUR + 3600]


def test_which_of_two_processes_is_newer_is_told_by_their_starts(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    own = schedules.written_here(schedules.State("x", {}, None))
    assert not schedules.has_older_writer(own)
    assert not schedules.is_older_than_this_process(own)
    first = schedules.State("x", {}, None, pid=1, identity=process.identity(1).decode())
    assert schedules.has_older_writer(first)
    assert schedules.is_older_than_this_process(first)

    def newer() -> None:
        assert schedules.has_older_writer(own)
        assert schedules.is_older_than_this_process(replace(own, written=own.written - 1))
        schedules.write(site.spool, schedules.written_here(schedules.State("x", {}, None)))

    os.makedirs(os.path.join(site.spool, "schedules"), exist_ok=True)
    in_child(newer)
    of_child = schedules.read(site.spool, "x")
    assert of_child is not None
    assert schedules.has_older_writer(of_child), "it is gone"
    assert not schedules.is_older_than_this_process(of_child)
    other_boot = schedules.State("x", {}, None, pid=1, identity=" 99999999999 other-boot\n", written=10.0**9)
    assert schedules.has_older_writer(other_boot)
    assert schedules.is_older_than_this_process(other_boot)


# Overlap


def overlapping(site: Site, monkeypatch: pytest.MonkeyPatch, *, pending: float) -> None:
    """As if another process ran the job of that due time."""
    id = tick_id(task.name, int(pending * SECOND))
    monkeypatch.setattr(ticks.running, "held", lambda spool_dir: [id, "0" * 32])


def test_a_run_is_skipped_while_the_one_before_it_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60)(task)
    site.work()
    overlapping(site, monkeypatch, pending=MINUTE - 60)
    site.pass_to(MINUTE)
    site.work()
    state, reason = site.end(MINUTE)
    assert (ran, state) == ([], State.CANCELLED)
    assert reason == f"the run before it, job {tick_id(task.name, int(MINUTE - 60) * SECOND)}, still runs"
    assert site.waiting() == [MINUTE + 60]


def test_with_all_a_run_waits_while_another_one_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60, missed="all")(task)
    site.work()
    with monkeypatch.context() as context:
        overlapping(site, context, pending=MINUTE - 60)
        site.pass_to(MINUTE)
        site.work()
    assert ran == []
    assert site.waiting() == [MINUTE + 1], "the one after it cannot come first"
    site.pass_to(MINUTE + 1)
    site.work()
    assert [run[0] for run in ran] == [MINUTE]
    assert site.waiting() == [MINUTE + 60]


def test_with_all_late_runs_go_one_after_another(site: Site) -> None:
    """Each is made when the one before it is over: no other spooler can take it, and put it off, before that."""
    periodic(every=60, missed="all")(task)
    site.work()
    site.pass_to(MINUTE + 125)
    during.append(lambda: ran.append(tuple(site.waiting())))
    site.run()
    assert ran == [(MINUTE, "", True), (MINUTE,), (MINUTE + 60, "", True), (MINUTE + 120, "", False)]
    assert site.waiting() == [MINUTE + 180]


def test_a_kill_at_the_end_of_a_late_run_loses_no_run(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its file is gone, and before the next one is made."""
    periodic(every=60, missed="all")(task)
    site.work()
    site.pass_to(MINUTE + 65)

    def run_and_die() -> None:
        monkeypatch.setattr(ticks, "heal", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        site._spooler.run_due()

    in_child(run_and_die)
    assert site.end(MINUTE) == (State.DONE, None)
    assert site.waiting() == []
    site.work()
    assert [run[0] for run in ran] == [MINUTE + 60]
    assert site.waiting() == [MINUTE + 120]


def test_a_retry_waits_while_a_later_run_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60, args=("fail",))(task)
    site.work()
    site.pass_to(MINUTE)
    site.work()
    with monkeypatch.context() as context:
        overlapping(site, context, pending=MINUTE + 60)
        site.pass_to(MINUTE + 10)
        site.work()
    assert len(ran) == 1
    assert site.waiting() == [MINUTE + 11, MINUTE + 60]


def test_runs_may_overlap_where_that_is_allowed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60, overlap="allow")(task)
    site.work()
    overlapping(site, monkeypatch, pending=MINUTE - 60)
    site.pass_to(MINUTE)
    site.work()
    assert [run[0] for run in ran] == [MINUTE]


@pytest.mark.parametrize("missed", ["once", "all"])
@pytest.mark.parametrize("moment", ["before the claim", "while it runs", "before its file is settled"])
def test_a_run_holds_up_others_from_its_decision_until_it_is_settled(
    site: Site, monkeypatch: pytest.MonkeyPatch, missed: Any, moment: str
) -> None:
    """Really: another process stands still with the job of one due time, and this one takes that of the next."""
    periodic(every=60, missed=missed)(task)
    site.work()
    site.pass_to(MINUTE)
    (reached, is_reached), (go_on, goes_on) = os.pipe(), os.pipe()

    def stand_still() -> None:
        os.write(is_reached, b"x")
        os.read(go_on, 1)

    def stand_still_before(call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **given: (stand_still(), call(*args, **given))[1]

    pid = os.fork()
    if pid == 0:
        try:
            if moment == "while it runs":
                during.append(stand_still)
            else:
                function = "_claim" if moment == "before the claim" else "settle_file"
                monkeypatch.setattr(execute, function, stand_still_before(getattr(execute, function)))
            site._spooler.run_due()
        finally:
            os._exit(0)
    read_pipe(reached)
    site.pass_to(MINUTE + 60)
    site._spooler.run_due()
    assert ran == []
    os.write(goes_on, b"x")
    wait_child(pid)
    if missed == "once":
        assert site.end(MINUTE + 60)[0] is State.CANCELLED
    site.pass_to(MINUTE + 120)
    site.run()
    assert [run[0] for run in ran] == ([MINUTE + 60] if missed == "all" else []) + [MINUTE + 120]
    for fd in (reached, is_reached, go_on, goes_on):
        os.close(fd)


def test_a_run_that_was_put_off_holds_up_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60, missed="all")(task)
    site.work()
    site.pass_to(MINUTE)
    with monkeypatch.context() as context:
        overlapping(site, context, pending=MINUTE - 60)
        site._spooler.run_due()
    assert in_child(lambda: os._exit(len(running.held(site.spool)))) == 0


def test_a_run_waits_where_nothing_can_show_that_it_runs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60)(task)
    site.work()
    site.pass_to(MINUTE)
    with monkeypatch.context() as full:
        full.setattr(running, "_take", lambda free: None)
        full.setattr(running, "_ProcessFile", lambda spool_dir: (_ for _ in ()).throw(OSError(28, "No space left")))
        site._spooler.run_due()
    assert ran == []
    site.pass_to(MINUTE + 1)
    site.run()
    assert [run[0] for run in ran] == [MINUTE]


def test_what_a_newer_version_knows_of_a_schedule_besides_is_ignored(site: Site) -> None:
    periodic(every=60, name="a")(task)
    site.work()
    command(site, "pause", "a")
    path = schedules.path_of(site.spool, "a")
    Path(path).write_text(json.dumps({**json.loads(Path(path).read_text()), "frobnicate": 1}))
    assert site.state("a").paused


# What people see and do


def of_newer_version(site: Site, name: str, **definition: object) -> None:
    """Let the definition be one that a newer version of spoolkit has written."""
    state = site.state(name)
    schedules.write(site.spool, replace(state, definition={**(state.definition or {}), **definition}))


@pytest.mark.parametrize(
    ("newer", "text"),
    [({"frobnicate": 1}, "frobnicate=1"), ({"missed": "latest"}, "missed='latest'"), ({"overlap": 2}, "overlap=2")],
)
@pytest.mark.parametrize("is_declared", [True, False])
def test_a_schedule_of_a_newer_version_is_listed_and_can_be_paused(
    site: Site, monkeypatch: pytest.MonkeyPatch, newer: dict[str, object], text: str, is_declared: bool
) -> None:
    site.as_if(monkeypatch, older=False)
    periodic(every=60, name="a")(periodic(every=60, name="b")(task))
    site.work()
    of_newer_version(site, "b", **newer)
    if not is_declared:
        registry.this_process.schedules.pop("b")
    listed = command(site, "--json")
    assert [one["task"] for one in listed] == [task.name, None]
    assert listed[1]["text"] == (
        f"the schedule b was declared by a newer version of spoolkit, and this one cannot read it: {text}"
    )
    assert (listed[1]["declared"], listed[1]["next"]) == (is_declared, [])
    assert text in command(site)
    assert command(site, "pause", "b") == "b is paused\n"
    refused = command(site, "resume", "b")
    assert (refused.exit_code, text in refused.output) == (1, True)
    if not is_declared:
        refused = command(site, "run", "b")
        assert (refused.exit_code, text in refused.output) == (1, True)
    assert findings(site).keys() <= {"undeclared-schedule"}
    site.pass_to(MINUTE)
    site.run()
    assert site.waiting() == [MINUTE + 1, MINUTE + 60], "it waits for that version"


def command(site: Site, *words: str) -> Any:
    result = site.app.test_cli_runner().invoke(commands, ["periodic", *words])
    return result if result.exit_code else json.loads(result.output) if "--json" in words else result.output


def test_the_list_has_what_ran_and_what_comes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(every=60, name="a", max_late=30)(task)
    (new,) = command(site, "--json")
    assert (new["declared"], new["added"], new["last"]) == (True, False, [])
    site.work()
    for minute in range(7):
        site.pass_to(MINUTE + 60 * minute)
        site.run()
    task("a call, which is no run of the schedule")
    site.run()
    (shown,) = command(site, "--json")
    assert (shown["name"], shown["task"], shown["every"], shown["cron"]) == ("a", task.name, 60.0, None)
    assert (shown["text"], shown["max_late"], shown["paused"]) == ("Every minute", 30.0, False)
    assert [job["run_at"] for job in shown["last"]] == [MINUTE + 60 * minute for minute in (6, 5, 4, 3, 2)]
    assert [run["time"] for run in shown["next"]] == [MINUTE + 60 * minute for minute in range(7, 12)]
    registry.this_process.schedules.clear()
    assert command(site, "--json")[0]["declared"] is False
    # Its runs are its runs, also at times that are not due any more.
    site.as_if(monkeypatch, older=True)
    site.declare(cron="30 * * * *", name="a")
    site.work()
    (shown,) = command(site, "--json")
    assert shown["cron"] == "30 * * * *"
    assert [job["run_at"] for job in shown["last"]] == [MINUTE + 60 * minute for minute in (6, 5, 4, 3, 2)]


def test_nothing_runs_while_it_is_paused(site: Site) -> None:
    periodic(every=60, name="a")(task)
    site.work()
    assert command(site, "pause", "a") == "a is paused\n"
    assert command(site, "--json")[0]["next"] == []
    for minute in range(3):
        site.pass_to(MINUTE + 60 * minute)
        site.work()
    assert ran == []
    assert site.end(MINUTE, "a") == (State.CANCELLED, "its schedule is paused")
    assert site.waiting() == [], "one job has ended so, and not one for each due time"
    assert command(site, "resume", "a") == "a runs again\n"
    assert command(site, "resume", "a") == "a was not paused\n"
    assert site.waiting() == [MINUTE + 180]
    site.pass_to(MINUTE + 180)
    site.work()
    assert ran == [(MINUTE + 180, "", False)]


def test_a_pause_that_ends_before_the_due_time_has_no_effect(site: Site) -> None:
    periodic(every=60, name="a")(task)
    site.work()
    command(site, "pause", "a")
    site.work()
    command(site, "resume", "a", "--json")
    site.pass_to(MINUTE)
    site.work()
    assert ran == [(MINUTE, "", False)]


def test_a_definition_that_changes_during_a_pause_is_used_after_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.declare(every=60, name="a")
    site.work()
    command(site, "pause", "a")
    site.as_if(monkeypatch, older=True)
    site.declare(every=3600, name="a")
    site.work()
    assert site.waiting() == []
    command(site, "resume", "a")
    assert site.waiting() == [HOUR]


def test_run_enqueues_a_job_besides_the_schedule(site: Site) -> None:
    periodic(every=60, name="a", args=("x",))(task)
    site.work()
    id = command(site, "run", "a", "--json")["id"]
    site.run()
    assert ran == [(None, "x", False)]
    assert Job.get(id).state is State.DONE
    assert site.waiting() == [MINUTE]


@pytest.mark.parametrize("word", ["run", "pause", "resume"])
def test_a_name_that_no_schedule_has_is_refused(site: Site, word: str) -> None:
    periodic(every=60, name="nightly")(task)
    refused = command(site, word, "nigthly")
    assert refused.exit_code == 1
    assert "there is no schedule 'nigthly'; there is nightly" in refused.output
    if word != "run":
        assert "no spooler knows the schedule nightly yet" in command(site, word, "nightly").output


def test_a_job_names_the_schedule_whose_run_it_is(site: Site) -> None:
    periodic(every=60, name="a")(periodic(every=60, name="b")(task))
    site.work()
    called = task.using(at=datetime.fromtimestamp(MINUTE, UTC))()
    ids = {"a": tick_id("a", int(MINUTE * SECOND)), "b": tick_id("b", int(MINUTE * SECOND)), None: called.id}

    def shown() -> dict[str | None, str | None]:
        words = ["show", "--json"]
        answers = {name: site.app.test_cli_runner().invoke(commands, [*words, id]) for name, id in ids.items()}
        return {name: json.loads(answer.output)["schedule"] for name, answer in answers.items()}

    assert shown() == {name: name for name in ids}, "while they wait"
    site.pass_to(MINUTE)
    site.run()
    assert shown() == {name: name for name in ids}, "when they are over"
    assert "schedule" in site.app.test_cli_runner().invoke(commands, ["show", ids["a"]]).output


def findings(site: Site) -> dict[str, str]:
    """What the doctor finds of schedules, with the first word of each remedy."""
    found = examine(site.spool, store=locations.store().path)
    names = ("hard-links", "overdue-schedule", "undeclared-schedule", "schedule-clock", "time-zones")
    return {finding.check: finding.remedy for finding in found if finding.check in names}


def test_the_doctor_finds_a_schedule_that_is_overdue_or_that_nobody_declares(site: Site) -> None:
    periodic(every=60, name="a")(task)
    site.work()
    assert findings(site) == {}
    site.pass_to(MINUTE + 100)
    assert findings(site).keys() == {"overdue-schedule"}
    site.work()
    assert findings(site) == {}
    registry.this_process.schedules.clear()
    assert findings(site).keys() == {"undeclared-schedule"}


def test_the_doctor_finds_a_clock_that_was_put_back_and_its_remedy_helps(site: Site) -> None:
    periodic(every=60, name="a")(task)
    site.work()
    site.pass_to(MINUTE)
    site.work()
    site.pass_to(NOW - 86400)
    remedy = findings(site)["schedule-clock"]
    assert remedy.startswith("rm ")
    os.unlink(shlex.split(remedy)[1])
    site.work()
    assert findings(site) == {}
    assert MINUTE - 86400 in site.waiting()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    periodic(every=60)(task)
    startup.tidy(site.spool)
    assert findings(site) == {}
    assert caplog.messages == []

    def no_links(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as context:
        context.setattr(os, "link", no_links)
        startup.tidy(site.spool)
        assert caplog.messages == [
            f"{site.spool} is on a file system without hard links: periodic tasks do not run there"
        ]
        assert findings(site).keys() == {"hard-links"}
    assert os.listdir(os.path.join(site.spool, "spoolers")) == ["tidied"]


def test_the_doctor_finds_a_zone_that_the_machine_does_not_know(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    periodic(cron="0 * * * *", tz="Europe/Berlin", name="a")(task)
    site.work()

    def no_zones(key: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(key)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", no_zones)
    assert findings(site) == {"time-zones": "pip install tzdata"}


# What is refused


@thread
def in_thread() -> None: ...


def plain() -> None: ...


@pytest.mark.parametrize(
    ("what", "options", "text"),
    [
        (in_thread, {"every": 5}, "@thread task belongs to one process"),
        (plain, {"every": 5}, "above @spool"),
        (None, {"every": 5}, "cannot be periodic"),
        (task, {"every": 5, "args": (1, 2)}, "too many positional"),
        (task, {"every": 5, "kwargs": {"what": 1}}, "unexpected keyword"),
        (task, {"every": 5, "kwargs": {"word": plain}}, "cannot be periodic"),
        (task, {}, "neither cron and every"),
        (task, {"every": 5, "name": ""}, "printable"),
    ],
)
def test_what_cannot_run_by_itself_is_refused_where_it_is_declared(
    site: Site, what: Any, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ConfigurationError, match=text):
        periodic(**options)(what)
    assert declared.here() == {}


def test_two_schedules_cannot_have_one_name(site: Site) -> None:
    periodic(every=5, name="x")(task)
    periodic(every=5, name="x")(task)  # a module that is executed again
    with pytest.raises(ConfigurationError, match="declared already") as refused:
        periodic(every=6, name="x")(task)
    assert refused.value.setting == "name"


def test_a_task_that_is_declared_again_has_the_schedules_of_its_latest_declaration(site: Site) -> None:
    def function() -> None: ...

    def declare(every: int) -> None:
        registry.this_process.tasks.pop("again", None)
        periodic(every=every)(spool(name="again")(function))

    declare(60)
    declare(90)
    assert [one.every for one in declared.here().values()] == [90 * SECOND]
    registry.this_process.tasks.pop("again")


def test_a_schedule_that_cannot_be_read_does_not_keep_others_from_being_made(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    periodic(every=60, name="a")(periodic(every=60, name="b")(task))
    site.work()
    newer = replace(site.state("b"), definition={"name": "b", "of_a_newer_version": 1})
    schedules.write(site.spool, newer)
    for name in ("a", "b"):
        (path,) = [path for path in spoolfile.pending(site.spool) if tick_id(name, int(MINUTE * SECOND)) in path]
        os.unlink(path)
    site.as_if(monkeypatch, older=False)
    site.work()
    assert site.waiting() == [MINUTE]


def test_only_the_directory_of_the_application_gets_its_schedules(site: Site, tmp_path: Path) -> None:
    periodic(every=60)(task)
    other = tmp_path / "other"
    other.mkdir()
    ticks.reconcile(str(other))
    assert os.listdir(other) == []


def test_sweeping_happens_now_and_then(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[str] = []
    monkeypatch.setattr(sweeping, "_last", process.PerProcess(dict))
    assert not sweeping.is_due("a")
    sweeping.add(swept.append)
    sweeping.add(swept.append)
    for spool_dir in filter(sweeping.is_due, ("a", "a", "b")):
        sweeping.run(spool_dir)
    sweeping.run("a")
    assert swept == ["a", "b", "a"]


def test_the_due_time_is_in_the_id(site: Site) -> None:
    assert due_of(tick_id("x", 5)) == 5
