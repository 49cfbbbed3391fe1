"""The handle of a job: its result or the error in its place, and waiting for it."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from crossing import Colour, Point
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit import (
    SPOOL_OK,
    SPOOL_RETRY,
    Abort,
    Job,
    JobCancelled,
    JobCrashedError,
    JobFailedError,
    JobStateError,
    JobTimeout,
    ResultUnavailableError,
    Retry,
    SpoolKit,
    UnknownJobError,
    current_job,
    spool,
)
from spoolkit import job as made
from spoolkit.attempt import current_job as current
from spoolkit.encoding import packet
from spoolkit.errors import JobError, JobLostError
from spoolkit.job import Progress, State, new_id
from spoolkit.spooldir import spoolfile, waiting
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import Store, locations, retention
from spoolkit.uwsgi import bridge


@spool(retries=0)
def gives_back(value: Any) -> object:
    return value


@spool(retries=0)
def asks_who_it_is() -> str:
    return current_job().id


@spool(retries=0)
def fails(message: str) -> None:
    _fail_deep_inside(message)


def _fail_deep_inside(message: str) -> None:
    raise ValueError(message)


@spool(retries=1, backoff=0)
def fails_otherwise_each_time() -> None:
    raise [KeyError, LookupError][current_job().attempt - 1](f"in attempt {current_job().attempt}")


@spool(retries=1, backoff=0)
def fails_and_then_dies() -> None:
    if current_job().attempt == 2:
        os._exit(3)
    raise ValueError("the first time")


@spool(retries=0, backoff=0)
def dies(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))


@spool(retries=0, timeout=0.5)
def takes_too_long() -> None:
    time.sleep(30)


@spool(retries=0)
def gives_up() -> None:
    raise Abort("no such page")


@spool(retries=0)
def asks_for_more() -> None:
    raise Retry(delay=0, reason="busy")


@spool(discard_on=(KeyError,))
def is_discarded() -> None:
    raise KeyError("gone")


@spool(retries=0)
def steers(what: str) -> object:
    return {"ok": SPOOL_OK, "retry": SPOOL_RETRY}[what]


@spool(retries=0)
def reports(done: float, total: float | None, note: str) -> None:
    current_job().progress(done, total, note)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    app = Flask("the_application")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_MAX_RESULT=1000)
    SpoolKit(app)
    with app.app_context():
        yield str(tmp_path / "spool")


@pytest.fixture
def work(directory: str) -> Callable[[], None]:
    """Let run here what is due."""
    return Spooler(directory).run_due


def in_a_child(work: Callable[[], None]) -> None:
    pid = os.fork()
    if not pid:
        try:
            os.close(2)  # what faulthandler says of a crash
            work()
        finally:
            os._exit(0)
    wait_child(pid)


# Results


@pytest.mark.parametrize(
    "value",
    [
        *(
            None,
            True,
            0,
            -2,
            -1,
            2**70,
            1.5,
            float("inf"),
            "text",
            b"\0\xff",
            date(2026, 11, 21),
            Decimal("1.10"),
        ),
        *([1, (2, {3})], {"a": [None]}, Colour.RED, Point(1, 2), Path("/tmp"), frozenset({1}), ""),
    ],
    ids=repr,
)
def test_a_result_is_what_the_task_returned(work: Callable[[], None], value: object) -> None:
    job = gives_back(value)
    work()
    assert job.state is State.DONE
    assert job.result == value
    assert type(job.result) is type(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(values)
def test_a_result_of_any_supported_type_is_read_back(work: Callable[[], None], value: object) -> None:
    job = gives_back(value)
    work()
    assert job.result == value


@pytest.mark.parametrize("what", ["ok", "retry"])
def test_a_returned_spool_constant_is_not_the_result(work: Callable[[], None], what: str) -> None:
    job = steers(what)
    work()
    if what == "ok":
        assert job.result is None
    else:
        with pytest.raises(JobFailedError):
            _ = job.result


def test_a_result_that_is_too_large_raises_result_unavailable(work: Callable[[], None]) -> None:
    job = gives_back("x" * 2000)
    work()
    assert job.state is State.DONE
    with pytest.raises(ResultUnavailableError, match=r"2002 bytes.*1000.*SPOOLKIT_MAX_RESULT") as caught:
        _ = job.result
    assert caught.value.job == job.id


def test_the_result_of_a_job_that_is_not_over_raises_job_state_error(work: Callable[[], None]) -> None:
    job = gives_back.using(delay=1000)(1)
    with pytest.raises(JobStateError, match=r"is queued: wait\(\) for it") as caught:
        _ = job.result
    assert (caught.value.job, caught.value.state) == (job.id, "queued")
    again = fails_otherwise_each_time()
    work()
    with pytest.raises(JobStateError, match="is retrying"):
        _ = again.result


# Why there is none


def error_of(job: Job, kind: type[JobError]) -> Any:
    with pytest.raises(kind) as caught:
        _ = job.result
    assert type(caught.value) is kind
    assert caught.value.job == job.id
    return caught.value


def notes(error: JobFailedError) -> list[str]:
    return vars(error).get("__notes__", [])


def test_the_result_of_a_dead_job_raises_an_error_with_the_tasks_traceback(work: Callable[[], None]) -> None:
    job = fails("as ever")
    work()
    error = error_of(job, JobFailedError)
    assert error.error_type == "ValueError"
    assert str(error) == f"job {job.id} of {fails.name} is dead: ValueError: as ever"
    (note,) = notes(error)
    assert note.startswith(f"attempt 1, in process {os.getpid()}:\nTraceback (most recent call last):\n")
    assert note.endswith("ValueError: as ever\n")
    assert "in _fail_deep_inside" in note
    assert "runner.py" not in note


def test_the_error_of_a_dead_job_prints_the_tasks_traceback(work: Callable[[], None]) -> None:
    job = fails("as ever")
    work()
    printed = "".join(traceback.format_exception(error_of(job, JobFailedError)))
    assert "in _fail_deep_inside" in printed


def test_the_error_of_a_dead_job_is_that_of_the_last_attempt(work: Callable[[], None]) -> None:
    job = fails_otherwise_each_time()
    work()
    work()
    error = error_of(job, JobFailedError)
    assert error.error_type == "LookupError"
    (note,) = notes(error)
    assert note.startswith("attempt 2,")
    assert [attempt.error_type for attempt in job.attempts] == ["KeyError", "LookupError"]


@pytest.mark.parametrize("how", ["exit", "SIGKILL", "SIGSEGV", "SIGABRT"])
def test_the_result_of_a_job_whose_process_died_raises_job_crashed_error(work: Callable[[], None], how: str) -> None:
    job = dies(how)
    in_a_child(work)
    work()
    error = error_of(job, JobCrashedError)
    (attempt,) = job.attempts
    assert f"process {attempt.pid}" in str(error)
    assert attempt.pid != os.getpid()
    if how.startswith("SIG") and how != "SIGKILL":
        (note,) = notes(error)
        assert "in dies" in note, "where it was when it crashed"
    else:
        assert notes(error) == []


def test_without_a_traceback_of_the_last_attempt_the_error_shows_the_one_before(work: Callable[[], None]) -> None:
    job = fails_and_then_dies()
    work()
    in_a_child(work)
    work()
    (note,) = notes(error_of(job, JobCrashedError))
    assert note.startswith("attempt 1, in process ")
    assert "ValueError: the first time" in note


def test_the_result_of_a_job_that_timed_out_raises_job_timeout(work: Callable[[], None]) -> None:
    job = takes_too_long()
    work()
    error = error_of(job, JobTimeout)
    assert error.error_type == "JobTimeout"
    assert "in takes_too_long" in notes(error)[0]


@pytest.mark.parametrize(("task", "says"), [(gives_up, "no such page"), (asks_for_more, "busy")])
def test_the_error_of_a_dead_job_contains_the_reason_that_the_task_gave(
    work: Callable[[], None], task: Any, says: str
) -> None:
    job = task()
    work()
    assert says in str(error_of(job, JobFailedError))


def test_the_error_of_a_job_of_an_unknown_task_has_no_traceback(work: Callable[[], None], directory: str) -> None:
    unknown = made.JobSpec(id=new_id(), task="tasks.none", enqueued_at=1.0)
    spoolfile.write(directory, unknown.id, packet.dump(packet.pack(unknown, max_body=1000)))
    work()
    error = error_of(Job.get(unknown.id), JobFailedError)
    assert "tasks.none" in str(error)
    assert notes(error) == []


def test_the_result_of_a_cancelled_job_raises_an_error_with_the_reason(work: Callable[[], None]) -> None:
    discarded, cancelled = is_discarded(), gives_back.using(delay=1000)(1)
    work()
    assert cancelled.cancel() is State.CANCELLED
    assert "gone" in str(error_of(discarded, JobCancelled))
    assert "was cancelled: " in str(error_of(cancelled, JobCancelled))


def test_the_result_of_a_job_whose_file_is_gone_raises_job_lost_error(work: Callable[[], None], directory: str) -> None:
    job = fails_otherwise_each_time()
    work()
    (path,) = Path(directory, "later").glob("uwsgi_spoolfile_on_*")
    path.unlink()
    assert job.state is State.LOST
    error_of(job, JobLostError)
    assert job.wait(0), "nothing will become of it"


# What else it tells


def test_a_handle_has_the_fields_of_the_job(directory: str) -> None:
    job = gives_back.using(delay=1000, priority=7)([1])
    plain = made.JobSpec(**vars(job))
    assert vars(Job.of(plain)) == vars(job)
    assert (job.args, job.priority, job.task) == (([1],), 7, gives_back.name)


def test_get_finds_a_job_by_its_id_in_another_process(work: Callable[[], None]) -> None:
    job = gives_back.using(delay=1000)([1])
    found = Job.get(job.id)
    assert (found.id, found.task, found.run_at, found.enqueued_at) == (job.id, job.task, job.run_at, job.enqueued_at)
    assert found.args == ()
    with pytest.raises(UnknownJobError):
        Job.get("0" * 32)


def test_a_handle_of_a_deleted_record_raises_unknown_job_error(work: Callable[[], None]) -> None:
    job = gives_back(1)
    work()
    retention.delete_rows(locations.store(), [State.DONE], time.time() + 1, 10)
    for ask in ("status", "state", "attempt", "attempts", "progress", "result"):
        with pytest.raises(UnknownJobError):
            getattr(job, ask)
    with pytest.raises(UnknownJobError):
        job.wait(1)


def test_attempts_hold_their_numbers_and_outcomes(work: Callable[[], None]) -> None:
    job = fails_otherwise_each_time()
    assert (job.attempt, job.attempts) == (0, [])
    work()
    assert job.attempt == 1
    work()
    assert job.attempt == 2
    assert [(attempt.number, attempt.outcome) for attempt in job.attempts] == [(1, "failed"), (2, "failed")]


@pytest.mark.parametrize("reported", [(1, 2, "parts"), (0.5, None, "")])
def test_progress_is_what_the_job_last_reported(
    work: Callable[[], None], reported: tuple[float, float | None, str]
) -> None:
    job = reports(*reported)
    assert job.progress is None
    work()
    assert job.progress == Progress(*reported)


# The wait


def waits(thread: int, path: str) -> bool:
    """Whether this thread (a process is its first one) has the pipe open and sleeps. Who looks must not open it."""
    opened = []
    for fd in Path(f"/proc/{thread}/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(os.readlink(fd))
    return path in opened and Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.fixture
def woken_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits does not look by itself."""
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 1000)


def test_wait_in_a_thread_returns_when_the_job_is_over(
    work: Callable[[], None], woken_only: None, directory: str
) -> None:
    job = gives_back(1)
    woken: list[bool] = []
    waiter = threading.Thread(target=lambda: woken.append(job.wait(60)), daemon=True)
    waiter.start()
    wait_until(lambda: waiter.native_id and waits(waiter.native_id, f"{directory}/waiting/{job.id}"))
    work()
    waiter.join(60)
    assert woken == [True]


@pytest.mark.parametrize("task", [gives_back, fails, gives_up, is_discarded], ids=lambda task: task.name)
def test_wait_in_a_process_returns_however_the_job_ends(
    work: Callable[[], None], woken_only: None, directory: str, task: Any
) -> None:
    job = task("x") if task in (gives_back, fails) else task()
    pid = os.fork()
    if not pid:
        os._exit(0 if job.wait(60) else 1)
    wait_until(lambda: waits(pid, f"{directory}/waiting/{job.id}"))
    work()
    assert wait_child(pid) == 0


def test_wait_for_a_job_that_is_over_returns_at_once(work: Callable[[], None]) -> None:
    job = gives_back(1)
    work()
    assert job.wait(0)
    assert job.wait(60)


def test_wait_returns_false_after_its_timeout(work: Callable[[], None]) -> None:
    job = gives_back.using(delay=1000)(1)
    assert not job.wait(0)
    assert not job.wait(0.02)
    retrying = fails_otherwise_each_time()
    work()
    assert not retrying.wait(0.02), "another attempt is to come"


@pytest.fixture
def store_elsewhere(tmp_path: Path, woken_only: None) -> Iterator[None]:
    """An application whose store lies outside its spool directory, and a second spool directory."""
    app = Flask("elsewhere")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_STORE=tmp_path / "records" / "jobs.db")
    for folder in ("records", "exports", "exports/spoolers"):
        (tmp_path / folder).mkdir()
    SpoolKit(app)
    with app.app_context():
        yield


def test_wait_uses_the_spool_directory_where_the_store_lies_elsewhere(tmp_path: Path, store_elsewhere: None) -> None:
    spool_dir = str(tmp_path / "spool")
    assert isinstance(locations.store(), Store)
    job = gives_back(1)
    pid = os.fork()
    if not pid:
        os._exit(0 if job.wait(60) else 1)
    wait_until(lambda: waits(pid, f"{spool_dir}/waiting/{job.id}"))
    Spooler(spool_dir).run_due()
    assert wait_child(pid) == 0
    assert not os.path.exists(tmp_path / "records" / "waiting")


@spool(retries=0)
def stores_a_checkpoint() -> list[str]:
    job = current_job()
    job.checkpoint(1)
    job.progress(1, 2)
    names = (job.id, str(os.getpid()))
    return [folder for folder in _folders if any(os.path.exists(os.path.join(folder, name)) for name in names)]


_folders: list[str] = []


@pytest.mark.parametrize("queue", ["spool", "exports"])
def test_an_attempt_keeps_its_files_in_the_spool_directory_where_the_store_lies_elsewhere(
    tmp_path: Path, store_elsewhere: None, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    spool_dir = str(tmp_path / queue)
    places = [f"{tmp_path}/{root}/{name}" for root in ("records", queue) for name in ("running", "checkpoints")]
    monkeypatch.setitem(globals(), "_folders", places)
    job = stores_a_checkpoint.using(queue=None if queue == "spool" else spool_dir)()
    Spooler(spool_dir).run_due()
    assert job.result == [f"{spool_dir}/running", f"{spool_dir}/checkpoints"]
    assert {path.name.partition("-")[0] for path in (tmp_path / "records").iterdir()} == {"jobs.db"}


@spool(retries=0)
def is_cancelled_from_outside() -> bool:
    job = current_job()
    job.progress(1, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bridge, "directories", list)
        handle = Job.get(job.id)
        assert handle.progress == Progress(1, 2)
        handle.cancel()
    return job.cancelled


def test_a_process_outside_uwsgi_sees_and_cancels_a_running_job_of_any_directory_that_uwsgi_serves(
    tmp_path: Path, store_elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool_dir = str(tmp_path / "spool")
    job = is_cancelled_from_outside()
    monkeypatch.setattr(bridge, "directories", lambda: [str(tmp_path / "exports"), spool_dir])
    Spooler(spool_dir).run_due()
    assert job.state is State.CANCELLED


# One of many


def test_two_handles_of_one_job_are_equal(directory: str) -> None:
    job, other = gives_back.using(delay=1000)([1]), gives_back.using(delay=1000)([1])
    for same in (Job.get(job.id), copy.copy(job), copy.deepcopy(job), pickle.loads(pickle.dumps(job))):
        assert same == job
        assert hash(same) == hash(job)
        assert same != other
    assert {job, other, Job.get(job.id)} == {job, other}
    assert job != job.id


def test_a_handle_is_equal_to_that_of_another_process(directory: str) -> None:
    job = gives_back.using(delay=1000)([1])
    code = "import pickle, sys; sys.stdout.buffer.write(pickle.dumps(pickle.load(sys.stdin.buffer)))"
    there = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(job), capture_output=True, check=True, timeout=100
    )
    assert pickle.loads(there.stdout) == job


def test_current_job_is_equal_to_the_callers_handle(directory: str, work: Callable[[], None]) -> None:
    job = asks_who_it_is()
    work()
    assert job.result == job.id
    with current.as_current_job(current.CurrentJob(job)):
        assert current_job() == job
