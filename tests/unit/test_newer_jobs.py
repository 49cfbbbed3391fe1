"""A job with a field that this version does not know and must not ignore waits for a newer version, however long."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from spoolkit import Job, NewerJobError, SpoolKit, State, spool
from spoolkit.admin import actions
from spoolkit.api import jobs_blueprint
from spoolkit.cli import commands
from spoolkit.encoding import chunk, packet
from spoolkit.encoding.packet import FIELDS, Field
from spoolkit.job import JobSpec, new_id
from spoolkit.spooldir import chunks, dead, spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import clock, log
from spoolkit.system.process import PerProcess
from spoolkit.testing import clear_jobs, run_jobs, waiting_jobs

DAY = 86400.0

ran: list[object] = []


@spool(retries=0, name="tests.of_a_newer_version")
def task(word: str) -> None:
    ran.append(word)


@pytest.fixture
def app(tmp_path: Path, time_passes: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.setattr(log, "_complaints", PerProcess(dict))
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    app.register_blueprint(jobs_blueprint(listing=True))
    (tmp_path / "spool").mkdir(mode=0o700)
    ran.clear()
    with app.app_context():
        yield app


@pytest.fixture
def directory(app: Flask) -> str:
    return str(app.config["SPOOLKIT_SPOOL"])


def newer(content: packet.Packet) -> bytes:
    """The file of a version that has options of these names."""
    fields = {**content.fields, b"frobnicate": b"shop", b"hint": b"?", packet.MUST: b"frobnicate"}
    return packet.dump(packet.Packet(fields, content.body))


def put(directory: str, word: str = "one", priority: int | None = None) -> str:
    """Write a job as a newer version does, and return its id."""
    job = JobSpec(new_id(), task.name, (word,), enqueued_at=clock.now(), priority=priority)
    folder = directory if priority is None else os.path.join(directory, str(priority))
    os.makedirs(folder, mode=0o700, exist_ok=True)
    spoolfile.write(folder, job.id, newer(packet.pack(job, max_body=1000)))
    return job.id


def put_chunk(directory: str, *words: str) -> list[str]:
    """The same for a chunk."""
    stem = chunk.stem(new_id(), 0, len(words))
    common = JobSpec("", task.name, enqueued_at=clock.now())
    calls = [packet.encode_arguments((word,), {}, max_body=100) for word in words]
    chunks.write(directory, [(stem, newer(chunk.pack(chunk.Chunk(stem, common), calls)))])
    return chunk.ids(stem)


@pytest.fixture
def update(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on this is a version that knows the field."""
    return lambda: monkeypatch.setitem(FIELDS, b"frobnicate", Field("app", str.encode, bytes.decode, must=True))


@pytest.mark.parametrize("priority", [None, 7])
def test_a_job_with_an_unknown_field_that_must_be_understood_waits_until_a_version_knows_it(
    directory: str, time_passes: Callable[[float], None], update: Callable[[], None], priority: int | None
) -> None:
    id = put(directory, priority=priority)
    spooler = Spooler(directory)
    for seconds in (0.0, 2.0, 60.0, 700.0, 30 * DAY):
        time_passes(seconds)
        spooler.run_due()
        assert Job.get(id).state is State.QUEUED
    assert (ran, Job.get(id).attempts, dead.paths(directory)) == ([], [], [])
    update()
    time_passes(16.0)
    spooler.run_due()
    assert ran == ["one"]
    assert Job.get(id).state is State.DONE
    assert Job.get(id).attempt == 1


def test_the_pauses_between_two_tries_grow_and_other_jobs_run(
    directory: str, time_passes: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    put(directory)
    spooler, names = Spooler(directory), set()
    with caplog.at_level(logging.ERROR):
        for second in range(300):
            time_passes(1.0)
            spooler.run_due()
            names.update(spoolfile.pending(directory))
            if second == 100:
                task("beside")
    assert ran == ["beside"]
    assert 20 <= len(names) <= 70, "it neither spins nor sleeps for long"
    (record,) = caplog.records
    assert "'frobnicate'" in record.getMessage()
    assert "update spoolkit" in record.getMessage()


def test_one_whose_other_fields_cannot_be_read_either_is_left_alone_and_not_tried_at_each_scan(
    directory: str, time_passes: Callable[[float], None]
) -> None:
    job = JobSpec(new_id(), task.name, enqueued_at=clock.now())
    fields = packet.load(newer(packet.pack(job, max_body=1000))).fields
    data = packet.dump(packet.Packet({**fields, b"priority": b"high"}, b""))
    path = spoolfile.write(directory, job.id, data)
    spooler = Spooler(directory)
    spooler.run_due()
    (waiting,) = spoolfile.pending(directory)
    assert waiting != path
    time_passes(1.0)
    spooler.run_due()
    assert spoolfile.pending(directory) == [waiting]
    time_passes(15.0)
    spooler.run_due()
    assert spoolfile.pending(directory) != [waiting]
    assert (ran, dead.paths(directory)) == ([], [])


def test_a_chunk_with_such_a_field_waits_under_its_name_and_so_do_all_of_its_jobs(
    directory: str, time_passes: Callable[[float], None], update: Callable[[], None]
) -> None:
    ids = put_chunk(directory, "one", "two")
    before, spooler = spoolfile.pending(directory), Spooler(directory)
    for seconds in (0.0, 2.0, 700.0):
        time_passes(seconds)
        spooler.run_due()
        assert spoolfile.pending(directory) == before
        assert [Job.get(id).state for id in ids] == [State.QUEUED] * 2
    with pytest.raises(NewerJobError):
        actions.cancel(ids[0])
    update()
    time_passes(20.0)
    spooler.run_due()
    assert ran == ["one", "two"]


def test_such_a_job_is_listed_shown_cancelled_and_purged(
    app: Flask, directory: str, time_passes: Callable[[float], None]
) -> None:
    id = put(directory)
    runner = app.test_cli_runner()
    listed = app.test_client().get("/jobs").get_json()["jobs"]
    assert [(job["id"], job["state"], job["task"]) for job in listed] == [(id, "queued", task.name)]
    assert app.test_client().get(f"/jobs/{id}").get_json()["state"] == "queued"
    for command in (["ls"], ["show", id]):
        result = runner.invoke(commands, command)
        assert (result.exit_code, id in result.output) == (0, True)
    assert runner.invoke(commands, ["cancel", id]).exit_code == 0
    assert Job.get(id).state is State.CANCELLED
    assert spoolfile.pending(directory) == []
    time_passes(1.0)
    assert actions.purge() == 1


def test_run_now_and_retry_keep_the_field(directory: str, time_passes: Callable[[float], None]) -> None:
    id = put(directory)
    Spooler(directory).run_due()
    assert actions.run_now(id) is State.QUEUED
    (path,) = spoolfile.pending(directory)
    dead.quarantine(path, directory, reason="by hand")
    actions.retry(id)
    (path,) = spoolfile.pending(directory)
    assert packet.load(Path(path).read_bytes()).fields[packet.MUST] == b"frobnicate"
    time_passes(20.0)
    Spooler(directory).run_due()
    assert ran == []


def test_a_test_is_told_that_it_cannot_run_such_a_job(directory: str) -> None:
    id = put(directory)
    for call in (waiting_jobs, run_jobs):
        with pytest.raises(NewerJobError) as refused:
            call()
        assert refused.value.fields == ("frobnicate",)
    clear_jobs()
    assert spoolfile.locate(directory, id) is None


def test_a_job_that_a_newer_version_runs_is_left_where_it_is(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task may have dropped the lock on its file."""
    put(directory)
    before = spoolfile.pending(directory)
    monkeypatch.setattr("spoolkit.spooldir.running.is_running", lambda spool_dir, id: True)
    Spooler(directory).run_due()
    assert spoolfile.pending(directory) == before
