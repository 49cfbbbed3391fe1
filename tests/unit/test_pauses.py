"""The jobs of a paused task wait apart, are not looked at again, and come back in order, whatever comes in between."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask

from spoolkit import ConfigurationError, Job, SpoolKit, State, UnknownTaskError, periodic, registry, spool, thread
from spoolkit.admin import stats
from spoolkit.cli import commands
from spoolkit.coordination import pauses
from spoolkit.doctor.examine import examine
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import ticks
from spoolkit.spooldir import gate, parked, spoolfile
from spoolkit.spooling import execute
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations

kit = SpoolKit()
ran: list[object] = []


@spool(aliases=["its_earlier_name"])
def send_mail(number: int) -> None:
    ran.append(number)


@spool
def other() -> None:
    ran.append("other")


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


def test_a_task_of_threads_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be paused"):
        kit.pause(task=in_thread)
    for change in (kit.pause, kit.resume):
        with pytest.raises(UnknownTaskError):
            change(task="no.such_task")


def test_a_task_that_is_not_declared_any_more_can_be_resumed() -> None:
    pauses.pause(locations.spool_dir(), "its.old_task")
    kit.resume(task="its.old_task")
    assert gate.paused_tasks(locations.spool_dir()) == {}


def test_people_see_which_tasks_are_paused(flask_spool: Callable[..., Result]) -> None:
    name = send_mail.name
    assert flask_spool("pause", "--task", name).output == f"{name} is paused\n"
    send_mail(1)
    work()
    assert f"{name} is paused: 1 jobs wait\n" in flask_spool("stats").output
    assert json.loads(flask_spool("stats", "--json").output)["paused_tasks"] == {name: 1}
    (finding,) = [one for one in examine(locations.spool_dir(), store=locations.store().path) if one.check == "paused"]
    assert f"{name} is paused: 1 of its jobs wait" in finding.problem
    assert finding.remedy == f"flask spool resume --task {name}"
    assert flask_spool("resume", "--task", name, "--json").output == f'{{\n  "{name}": "open"\n}}\n'
    assert not [one for one in examine(locations.spool_dir(), store=locations.store().path) if one.check == "paused"]
    assert flask_spool("pause", "--task", "no.such_task").exit_code == 1


def test_a_mark_of_another_form_is_no_pause() -> None:
    kit.pause(task=send_mail)
    Path(locations.spool_dir(), "spoolers", "paused.txt").write_text("x")
    assert [*gate.paused_tasks(locations.spool_dir()).values()] == [send_mail.name]
