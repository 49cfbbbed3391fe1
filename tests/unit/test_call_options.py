"""``retries``, ``backoff`` and ``timeout`` of one call replace those of its task, whatever carries the job."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from put_clock import NOW

from spoolkit import ArgumentError, ArgumentTypeError, Job, SpoolKit, State, current_job, spool, thread
from spoolkit.admin import actions, lookup
from spoolkit.cli import commands
from spoolkit.encoding import packet
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.task import SpoolTask, ThreadTask
from spoolkit.testing.inline import InlineEngine

ran: list[int] = []


def fails() -> None:
    ran.append(current_job().max_attempts)
    raise ValueError("trouble")


async def sleeps() -> None:
    await asyncio.sleep(60)


def waits() -> None:
    time.sleep(60)


by_spooler = spool(retries=3, backoff=10.0, name="by_spooler")(fails)
by_thread = thread(name="by_thread")(fails)
BAD = [
    *({"retries": value} for value in (-1, 1.5, True, 10_001, "3")),
    *({"backoff": value} for value in (-1, "5", float("nan"), True, timedelta(seconds=-1))),
    *({"timeout": value} for value in (0, -1, "5", True, float("inf"), timedelta(0))),
]


@pytest.fixture(autouse=True)
def app(tmp_path: Path, time_passes: Callable[[float], None]) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_TIMEOUT_GRACE=60)
    SpoolKit(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    ran.clear()
    with app.app_context():
        yield app


def work() -> None:
    Spooler(locations.spool_dir()).run_due()


def test_a_job_has_the_attempts_of_its_call() -> None:
    once, twice, usual = by_spooler.using(retries=0)(), by_spooler.using(retries=1, backoff=0)(), by_spooler()
    work()
    assert (once.state, once.status.max_attempts) == (State.DEAD, 1)
    assert (twice.state, twice.status.max_attempts, twice.status.run_at) == (State.RETRYING, 2, NOW)
    assert (usual.state, usual.status.max_attempts) == (State.RETRYING, 4)
    assert usual.status.run_at == NOW + 10
    assert sorted(ran) == [1, 2, 4]


def test_a_job_that_is_run_again_by_hand_keeps_the_options_of_its_call() -> None:
    job = by_spooler.using(retries=0)()
    work()
    actions.retry(job.id)
    work()
    assert (job.state, job.attempt) == (State.DEAD, 2)


@pytest.mark.parametrize("function", [waits, sleeps])
def test_a_job_has_the_timeout_of_its_call(function: Callable[[], Any]) -> None:
    job = spool(retries=0)(function).using(timeout=timedelta(seconds=0.05))()
    work()
    assert (job.state, job.status.ending) == (State.DEAD, "timeout")


def test_the_jobs_of_a_map_have_the_options_of_the_call() -> None:
    jobs = by_spooler.map([(), ()], retries=1, backoff=timedelta(seconds=7), timeout=60)
    assert {(Job.get(job.id).status.retries, job.backoff, job.timeout) for job in jobs} == {(1, 7.0, 60)}
    work()
    assert [(job.state, job.status.max_attempts, job.status.run_at) for job in jobs] == [
        (State.RETRYING, 2, NOW + 7)
    ] * 2


def test_a_thread_job_has_the_options_of_its_call() -> None:
    twice, once = by_thread.using(retries=1, backoff=0)(), by_thread()
    assert twice.wait(60)
    assert once.wait(60)
    assert (twice.attempt, once.attempt, sorted(ran)) == (2, 1, [1, 2, 2])
    assert twice.status.retries == 1


def test_an_inline_job_has_the_options_of_its_call(app: Flask) -> None:
    task = ThreadTask(fails, InlineEngine(), by_thread.declared.options, "inline")
    assert task.using(retries=2, timeout=60)().attempt == 3


@pytest.mark.parametrize("given", BAD, ids=str)
@pytest.mark.parametrize("task", [by_spooler, by_thread], ids=["spool", "thread"])
def test_a_call_with_an_option_that_cannot_be_used_is_refused(
    task: SpoolTask[[], None] | ThreadTask[[], None], given: dict[str, Any]
) -> None:
    (name,) = given
    with pytest.raises(ArgumentError, match=f"^{name} is ") as refused:
        task.using(**given)
    assert refused.value.argument == name
    assert spoolfile.pending(locations.spool_dir()) == []


def test_a_function_as_backoff_does_not_travel() -> None:
    with pytest.raises(ArgumentTypeError, match="declare the task with it"):
        by_spooler.using(backoff=lambda attempt: 1.0)  # type: ignore[arg-type]


def test_a_version_that_does_not_know_the_options_leaves_the_job_alone() -> None:
    by_spooler.using(retries=0, backoff=1.5, timeout=1e-7)()
    (path,) = spoolfile.pending(locations.spool_dir())
    content = packet.load(Path(path).read_bytes())
    assert content.fields[packet.MUST] == b"retries,backoff,timeout"
    job = packet.unpack(content)
    assert (job.retries, job.backoff, job.timeout) == (0, 1.5, 1e-7)


def test_people_see_the_options_of_a_call_before_its_first_attempt_and_after_its_end(app: Flask) -> None:
    job, usual = by_spooler.using(retries=0, timeout=90)(), by_spooler()

    def shown(*command: str) -> str:
        return app.test_cli_runner().invoke(commands, ["show", *command]).output

    for state in (State.QUEUED, State.DEAD):
        assert job.state is state
        assert "retries=0, timeout=90" in shown(job.id)
        found = json.loads(shown(job.id, "--json"))
        assert (found["retries"], found["timeout"], found["backoff"]) == (0, 90, None)
        work()
    assert "retries=" not in shown(usual.id)


def test_a_waiting_job_that_is_cancelled_is_recorded_with_the_options_of_its_call() -> None:
    job = by_spooler.using(backoff=3)()
    job.cancel()
    assert (lookup.find(job.id).state, job.status.backoff) == (State.CANCELLED, 3)
