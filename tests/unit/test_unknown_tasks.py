"""A job that this version of the code cannot run is left for another version for a while, and is dead then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from spoolkit import Job, SpoolKit, State, registry, spool
from spoolkit.admin import actions
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import log
from spoolkit.system.process import PerProcess

GRACE = 600.0

ran: list[object] = []


@pytest.fixture
def directory(tmp_path: Path, time_passes: Callable[[float], None]) -> Iterator[str]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    ran.clear()
    with app.app_context():
        yield str(tmp_path / "spool")


@pytest.fixture
def enqueue(directory: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Enqueue a job whose task only another version of the code declares, from now on."""

    @spool(name="newer.task", retries=3, backoff=1000.0)
    def task(fail: bool = False) -> None:
        ran.append(fail)
        if fail:
            raise ValueError

    def enqueue(**options: float) -> Job:
        job = task.using(**options)() if options else task()
        monkeypatch.delitem(registry.this_process.tasks, "newer.task")
        return job

    return enqueue


def passes(directory: str, time_passes: Callable[[float], None], seconds: float) -> int:
    """Let so much time pass, with a look at the directory each second; returns how often the job was looked at."""
    names = set()
    spooler = Spooler(directory)
    for _ in range(int(seconds)):
        time_passes(1.0)
        spooler.run_due()
        names.update(spoolfile.pending(directory))
    return len(names)


def test_a_job_of_an_unknown_task_waits_and_is_dead_after_the_grace(
    directory: str, enqueue: Callable[..., Job], time_passes: Callable[[float], None]
) -> None:
    job = enqueue()
    looks = passes(directory, time_passes, GRACE - 5)
    assert job.state is State.QUEUED
    assert 40 <= looks <= 100, "it neither spins nor sleeps for long"
    passes(directory, time_passes, 10)
    assert job.state is State.DEAD
    assert job.attempts == []


def test_a_version_that_knows_the_task_runs_the_job_with_all_attempts(
    directory: str, enqueue: Callable[..., Job], time_passes: Callable[[float], None]
) -> None:
    job = enqueue()
    passes(directory, time_passes, 300)
    spool(name="newer.task", retries=3)(lambda: ran.append("newer"))
    passes(directory, time_passes, 16)
    assert ran == ["newer"]
    assert job.state is State.DONE
    assert len(job.attempts) == 1


def test_the_grace_of_a_delayed_job_starts_when_it_is_due(
    directory: str, enqueue: Callable[..., Job], time_passes: Callable[[float], None]
) -> None:
    job = enqueue(delay=5000.0)
    time_passes(5000.0)
    passes(directory, time_passes, GRACE - 5)
    assert job.state is State.QUEUED


def test_a_retried_job_of_an_unknown_task_has_the_whole_grace_again(
    directory: str, enqueue: Callable[..., Job], time_passes: Callable[[float], None]
) -> None:
    job = enqueue()
    passes(directory, time_passes, GRACE + 5)
    assert job.state is State.DEAD
    actions.retry(job.id)
    passes(directory, time_passes, GRACE - 5)
    assert job.state is State.QUEUED


def test_a_job_with_arguments_of_another_version_waits_for_that_version(
    directory: str, enqueue: Callable[..., Job], time_passes: Callable[[float], None]
) -> None:
    job = enqueue()
    spool(name="newer.task")(lambda size: ran.append(size))
    passes(directory, time_passes, 300)
    assert job.state is State.QUEUED
    passes(directory, time_passes, GRACE)
    assert job.state is State.DEAD


def test_other_jobs_run_beside_one_of_an_unknown_task_and_the_log_has_one_line(
    directory: str,
    enqueue: Callable[..., Job],
    time_passes: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    enqueue()

    @spool(name="known.task")
    def known() -> None:
        ran.append("known")

    monkeypatch.setattr(log, "_complaints", PerProcess(dict))
    with caplog.at_level(logging.ERROR):
        passes(directory, time_passes, 20)
        known()
        Spooler(directory).run_due()
    assert ran == ["known"]
    assert ["is left for another version" in record.getMessage() for record in caplog.records] == [True], (
        "once a minute"
    )
