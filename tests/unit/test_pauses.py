"""The jobs of a paused task wait apart, are not looked at again, and come back in order, whatever comes in between."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from life_process import read_pipe, start_child, wait_child

from spoolkit import (
    ConfigurationError,
    Job,
    Limit,
    PartlyPausedError,
    SpoolKit,
    State,
    UnknownTaskError,
    current_job,
    periodic,
    registry,
    spool,
    thread,
)
from spoolkit.admin import stats
from spoolkit.cli import commands
from spoolkit.coordination import limits, pauses
from spoolkit.doctor.examine import examine
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import ticks
from spoolkit.spooldir import gate, parked, spoolfile
from spoolkit.spooling import execute, recycling
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.testing import clear_jobs, run_jobs

kit = SpoolKit()
ran: list[object] = []


@spool(aliases=["its_earlier_name"])
def send_mail(number: int) -> None:
    ran.append(number)


@spool
def other() -> None:
    ran.append("other")


@spool(unique=True)
def only_one(number: int) -> None:
    ran.append(number)


@spool(limit=Limit(1))
def one_at_a_time(number: int) -> None:
    ran.append(number)


ready, go = os.pipe(), os.pipe()


@spool(retries=0)
def opens_its_file() -> None:
    """Drops the lock that its spooler has, and fails once it is told to."""
    path = spoolfile.locate(locations.spool_dir(), current_job().id)
    if path is not None and current_job().attempt == 1:
        os.close(os.open(path, os.O_RDONLY))
        os.write(ready[1], b"1")
        os.read(go[0], 1)
    raise ValueError("trouble")


@spool
def ticking() -> None:
    ran.append("tick")


@thread
def in_thread() -> None: ...


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    kit.init_app(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    ran.clear()
    with app.app_context():
        yield app


@pytest.fixture
def flask_spool(app: Flask) -> Callable[..., Result]:
    return lambda *words: app.test_cli_runner().invoke(commands, [*words])


def work() -> None:
    Spooler(locations.spool_dir()).run_due()


def scanned() -> list[str]:
    return spoolfile.scanned(locations.spool_dir())


def test_jobs_of_a_paused_task_wait_and_come_back_in_order() -> None:
    kit.pause(task=send_mail)
    jobs = [send_mail(number) for number in range(5)]
    other()
    work()
    assert (ran, scanned()) == (["other"], [])
    assert {job.state for job in jobs} == {State.QUEUED}
    assert [*kit.jobs(task=send_mail)] == jobs[::-1]
    work()  # by another process, as after a restart
    assert ran == ["other"]
    kit.resume(task=send_mail)
    work()
    assert ran == ["other", *range(5)]
    assert not os.path.exists(parked.folder(locations.spool_dir(), pauses.group(send_mail.name)))


def test_a_parked_job_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kit.pause(task=send_mail)
    send_mail(1)
    work()
    monkeypatch.setattr(execute, "execute_job", None)
    work()
    assert ran == []


def test_a_delayed_job_is_parked_when_it_is_due(time_passes: Callable[[float], None]) -> None:
    job = send_mail.using(delay=60)(1)
    kit.pause(task=send_mail.name)
    time_passes(61)
    work()
    assert (ran, job.state, scanned()) == ([], State.QUEUED, [])
    kit.resume(task=send_mail.name)
    work()
    assert ran == [1]


def test_a_parked_job_can_be_cancelled_and_run_now_does_not_start_it(flask_spool: Callable[..., Result]) -> None:
    kit.pause(task=send_mail)
    first, second = send_mail(1), send_mail(2)
    work()
    assert first.cancel() is State.CANCELLED
    assert flask_spool("run-now", second.id).exit_code == 0
    work()
    assert (ran, second.state) == ([], State.QUEUED)
    kit.resume(task=send_mail)
    work()
    assert (ran, Job.get(second.id).state) == ([2], State.DONE)


def test_a_job_by_an_earlier_name_of_the_task_waits_too() -> None:
    kit.pause(task="its_earlier_name")
    assert stats.gather().paused_tasks == {send_mail.name: 0}
    kit.resume(task="its_earlier_name")
    assert stats.gather().paused_tasks == {}


def test_a_run_of_a_schedule_is_skipped_and_the_next_one_is_made(
    time_passes: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.this_process, "schedules", {})
    periodic(every=60)(ticking)
    ticks.reconcile(locations.spool_dir())
    kit.pause(task=ticking)
    time_passes(61)
    work()
    (skipped,) = kit.jobs(task=ticking, state="cancelled")
    assert (skipped.status.ending, skipped.status.error_message) == ("skipped", "its task is paused")
    kit.resume(task=ticking)
    assert ran == []
    time_passes(61)
    work()
    assert ran == ["tick"]


def test_a_job_that_is_parked_just_after_the_task_was_resumed_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    kit.pause(task=send_mail)
    send_mail(1)
    park = parked.park

    def resumed_before(path: str, spool_dir: str, group: str) -> str:
        kit.resume(task=send_mail)
        return park(path, spool_dir, group)

    with monkeypatch.context() as patch:
        patch.setattr(parked, "park", resumed_before)
        work()
    assert len(scanned()) == 1
    work()
    assert ran == [1]


def test_jobs_that_are_left_after_a_kill_in_a_resume_come_back_at_a_sweep() -> None:
    kit.pause(task=send_mail)
    send_mail(1)
    work()
    spool_dir = locations.spool_dir()
    sweeping.run(spool_dir)
    assert scanned() == []
    gate.resume_task(spool_dir, pauses.group(send_mail.name))
    sweeping.run(spool_dir)
    work()
    assert ran == [1]


def test_a_job_that_runs_without_its_lock_is_not_parked() -> None:
    job = opens_its_file()
    child = start_child(work)
    read_pipe(ready[0])
    kit.pause(task=opens_its_file)
    work()
    os.write(go[1], b"1")
    assert wait_child(child) == 0
    assert (job.state, scanned()) == (State.DEAD, [])
    kit.resume(task=opens_its_file)
    work()
    assert job.attempt == 1


def test_a_task_that_is_renamed_while_it_is_paused_stays_so_and_can_be_resumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "this_process", registry.Registry())

    def task() -> None:
        ran.append("task")

    before = spool(name="its.name")(task)
    kit.pause(task=before)
    before()
    work()
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    after = spool(name="its.later_name", aliases=["its.name"])(task)
    kit.pause(task=after)
    after()
    work()
    assert (ran, len(spoolfile.pending(locations.spool_dir()))) == ([], 2)
    kit.resume(task=after)
    work()
    assert (ran, gate.paused_tasks(locations.spool_dir())) == (["task"] * 2, {})


def test_the_key_of_a_paused_job_is_taken_and_it_may_expire(time_passes: Callable[[float], None]) -> None:
    kit.pause(task=only_one)
    first = only_one.using(expires=60, tags=["a"], retries=2)(1)
    work()
    again = only_one(1)
    assert (again, again.duplicate, again.tags, again.retries) == (first, True, ("a",), 2)
    time_passes(61)
    assert only_one(1).duplicate is False
    assert (first.state, first.status.ending) == (State.CANCELLED, "expired")
    kit.resume(task=only_one)
    work()
    assert ran == [1]


def test_a_job_that_waits_for_room_runs_after_the_resume_in_its_turn() -> None:
    jobs = [one_at_a_time(number) for number in range(3)]
    kit.pause(task=one_at_a_time)
    work()
    assert jobs[0].cancel() is State.CANCELLED
    kit.resume(task=one_at_a_time)
    work()
    assert (ran, {job.state for job in jobs[1:]}) == ([1, 2], {State.DONE})


def test_a_job_with_a_priority_comes_back_to_its_folder() -> None:
    job = send_mail.using(priority=7)(1)
    before = scanned()
    kit.pause(task=send_mail)
    work()
    assert (scanned(), job.status.paused) == ([], True)
    kit.resume(task=send_mail)
    assert scanned() == before


def test_a_paused_job_is_found_among_thousands_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    kit.pause(task=send_mail)
    job = send_mail(1)
    work()
    monkeypatch.setattr(pauses, "MAX_GROUPS", 3)
    for number in range(20):
        os.makedirs(parked.folder(locations.spool_dir(), limits.group(str(number))))
    path = pauses.find_parked(locations.spool_dir(), job.id, None)
    assert path is not None
    assert pauses.is_parked(path)


def test_a_job_that_is_parked_while_a_list_is_made_is_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    job, spool_dir, scandir, looked = send_mail(1), locations.spool_dir(), os.scandir, list[str]()
    kit.pause(task=send_mail)

    def parked_before(path: str) -> object:
        if path == spool_dir and not looked:
            looked.append(path)
            work()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", parked_before)
    assert [*kit.jobs()] == [job]
    assert scanned() == []


def test_run_jobs_starts_no_job_of_a_paused_task_and_clear_jobs_resumes_it() -> None:
    kit.pause(task=send_mail)
    job = send_mail(1)
    for _ in range(2):
        assert run_jobs() == []
    assert job.status.paused
    clear_jobs()
    assert gate.paused_tasks(locations.spool_dir()) == {}
    again = send_mail(2)
    assert run_jobs() == [again]


def test_to_cancel_a_paused_job_reads_no_list_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    kit.pause(task=send_mail)
    jobs = [send_mail(number) for number in range(3)]
    work()
    monkeypatch.setattr(spoolfile, "locate", None)
    assert kit.jobs(task=send_mail).cancel().done == len(jobs)


def test_a_job_that_is_parked_does_not_count_for_the_end_of_a_spooler(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[object] = []
    monkeypatch.setattr(recycling, "after_job", counted.append)
    kit.pause(task=send_mail)
    send_mail(1)
    other()
    work()
    assert len(counted) == 1


def test_a_task_of_threads_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be paused"):
        kit.pause(task=in_thread)
    for change in (kit.pause, kit.resume):
        with pytest.raises(UnknownTaskError):
            change(task="no.such_task")


def test_where_a_pause_of_several_queues_fails_the_error_says_in_which(
    app: Flask, flask_spool: Callable[..., Result]
) -> None:
    app.config["SPOOLKIT_QUEUES"] = {"mail": {}, "video": {}}
    default, *named = (locations.spool_dir(), *(locations.queue_dir(name) for name in ("mail", "video")))
    for path in named:
        Path(path).mkdir(mode=0o700, parents=True)
    Path(named[0], "spoolers").touch()  # what is in the way of the mark
    for change in (kit.pause, kit.resume):
        with pytest.raises(PartlyPausedError, match=r"done in .*, but not in .*-queues/mail: .* do it again") as raised:
            change(task=send_mail)
        assert (raised.value.changed, raised.value.failed) == ((default, named[1]), (named[0],))
        assert pauses.is_paused(named[1], send_mail.name) is (change == kit.pause)
    result = flask_spool("pause")
    assert (result.exit_code, gate.is_paused(named[1])) == (1, True)
    assert f"but not in {named[0]}" in result.output
    result = flask_spool("pause", "mail")
    assert (result.exit_code, "done in" in result.output) == (1, False)


def test_a_task_that_is_not_declared_any_more_can_be_resumed() -> None:
    pauses.pause(locations.spool_dir(), "its.old_task")
    kit.resume(task="its.old_task")
    assert gate.paused_tasks(locations.spool_dir()) == {}


def test_people_see_which_tasks_are_paused(flask_spool: Callable[..., Result]) -> None:
    name = send_mail.name
    assert flask_spool("pause", "--task", name).output == f"{name} is paused\n"
    job = send_mail(1)
    work()
    assert f"{name} is paused: 1 job waits\n" in flask_spool("stats").output
    assert "its task is paused" in flask_spool("ls").output
    assert f"flask spool resume --task {name}" in flask_spool("show", job.id).output
    assert json.loads(flask_spool("show", job.id, "--json").output)["paused"] is True
    assert json.loads(flask_spool("stats", "--json").output)["paused_tasks"] == {name: 1}
    (finding,) = [one for one in examine(locations.spool_dir(), store=locations.store().path) if one.check == "paused"]
    assert f"{name} is paused: 1 of its jobs waits " in finding.problem
    assert finding.remedy == f"flask spool resume --task {name}"
    assert flask_spool("resume", "--task", name, "--json").output == f'{{\n  "{name}": "open"\n}}\n'
    assert not [one for one in examine(locations.spool_dir(), store=locations.store().path) if one.check == "paused"]
    assert flask_spool("pause", "--task", "no.such_task").exit_code == 1
    assert (job.status.paused, "paused" in flask_spool("ls").output) == (False, False)


def test_a_job_whose_task_is_paused_is_not_due() -> None:
    kit.pause(task=send_mail)
    job = send_mail(1)
    work()
    path = spoolfile.locate(locations.spool_dir(), job.id)
    assert path is not None
    os.utime(path, (1, 1))
    assert (stats.gather().oldest_due, job.state) == (None, State.QUEUED)
    kit.resume(task=send_mail)
    assert stats.gather().oldest_due is not None


def test_a_mark_of_another_form_is_no_pause() -> None:
    kit.pause(task=send_mail)
    Path(locations.spool_dir(), "spoolers", "paused.txt").write_text("x")
    assert [*gate.paused_tasks(locations.spool_dir()).values()] == [send_mail.name]
