"""``@thread``: its options, what a job gets from its caller, what is recorded, and when a job is lost."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context, request, session
from flask.ctx import AppContext
from uwsgi_server import wait_until

from spoolkit import (
    ConfigurationError,
    Job,
    JobLostError,
    JobStateError,
    QueueFull,
    SpoolKit,
    State,
    UnknownJobError,
    current_job,
    thread,
)
from spoolkit.admin import actions, lookup
from spoolkit.lifecycle import hooks
from spoolkit.spooldir import waiting
from spoolkit.spooldir.spoolfile import PREFIX
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import Store, locations, write_behind
from spoolkit.system import clock, log
from spoolkit.threads import context
from spoolkit.threads.pool import Pool
from spoolkit.uwsgi import bridge

SCRIPT = Path(__file__).with_name("thread_script.py")

request_id: ContextVar[str] = ContextVar("request_id", default="none")
seen: list[Any] = []
go = threading.Event()


@thread
def note(*args: object, **kwargs: object) -> None:
    seen.append((args, kwargs))


@thread
def hold(name: str = "") -> str:
    seen.append(name)
    assert go.wait(60)
    return name


@thread(concurrency=1)
def one_at_a_time(name: int) -> None:
    seen.append(("begin", name))
    time.sleep(0.001)
    seen.append(("end", name))


@thread(overflow="spool")
def or_spool(value: object) -> None:
    seen.append((value, current_job().engine, threading.current_thread().name))


@thread(overflow="run", retries=1, backoff=0)
def or_run(fail: bool = False) -> None:
    job = current_job()
    seen.append((threading.current_thread(), job.attempt, has_request_context(), g.get("mine"), request_id.get()))
    if fail and job.attempt == 1:
        raise ValueError("the first time")


@thread(track=False, retries=1, backoff=0)
def untracked() -> None:
    job = current_job()
    job.progress(1, 2)
    seen.append((job.attempt, job.max_attempts))
    if job.attempt == 1:
        raise ValueError("the first time")


@thread(retries=3, backoff=1000)
def fails() -> None:
    raise ValueError("trouble")


@thread
def stops_when_asked() -> None:
    seen.append("running")
    while True:
        current_job().progress(0)
        time.sleep(0.005)


@thread(copy_request=True, retries=1, backoff=0)
def with_request() -> None:
    seen.append((request.path, request.get_json(silent=True), dict(request.form), session.get("who"), g.get("mine")))
    if current_job().attempt == 1:
        raise ValueError("the first time")


@thread
def tells() -> None:
    seen.append((request_id.get(), has_request_context()))
    request_id.set("of the task")


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[Flask]:
    seen.clear()
    go.clear()
    app = Flask("an_application", root_path=str(tmp_path))
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_THREADS=2, SPOOLKIT_THREAD_QUEUE=2, SECRET_KEY="x")
    SpoolKit(app)
    with app.app_context():
        yield app
    go.set()


@pytest.fixture
def full() -> list[Job]:
    """The pool is full: two jobs run, two wait."""
    jobs = [hold(str(number)) for number in range(4)]
    wait_until(lambda: len(seen) == 2)
    return jobs


# Options.


@pytest.mark.parametrize(
    ("options", "setting"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"concurrency": "1"}, "concurrency"),
        ({"overflow": "drop"}, "overflow"),
        ({"overflow": "run", "concurrency": 1}, "overflow"),
        ({"overflow": "spool", "copy_request": True}, "overflow"),
        ({"retries": -1}, "retries"),
        ({"backoff": "5"}, "backoff"),
        ({"timeout": 0}, "timeout"),
        ({"retry_on": "ValueError"}, "retry_on"),
    ],
)
def test_thread_refuses_options_that_cannot_be_used(options: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        thread(**options)
    assert refused.value.setting == setting
    assert str(refused.value).startswith(setting)


def test_thread_refuses_a_declaration_where_uwsgi_has_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "has_threads", lambda: False)
    with pytest.raises(ConfigurationError, match="enable-threads = true") as refused:
        thread(lambda: None)
    assert refused.value.setting == "enable-threads"


def test_a_call_in_a_servers_master_process_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "is_master", lambda: True)
    with pytest.raises(ConfigurationError, match="master"):
        note()
    assert not any(name.name == "spoolkit-1" for name in threading.enumerate())


# The queue.


def test_a_call_raises_queue_full_if_the_pool_is_full_and_names_the_settings(full: list[Job], app: Flask) -> None:
    with pytest.raises(QueueFull, match="SPOOLKIT_THREAD_QUEUE") as refused:
        note()
    assert refused.value.limit == 2
    assert {status.id for status in lookup.jobs()} == {job.id for job in full}
    go.set()
    wait_until(lambda: all(job.state is State.DONE for job in full))
    note("there is room again")
    wait_until(lambda: (("there is room again",), {}) in seen)


def test_a_refused_call_never_gets_a_row(full: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    put = Pool.put

    def after_the_rows_are_written(*args: Any) -> bool:
        write_behind.writer().flush()
        return put(*args)

    monkeypatch.setattr(Pool, "put", after_the_rows_are_written)
    with pytest.raises(QueueFull):
        note()
    assert [job.task for job in lookup.jobs() if job.task.endswith("note")] == []


class QueriesOnly(write_behind.Writer):
    """Writes rows when a query asks for them, and never by itself."""

    def _run(self) -> None:
        pass


def test_a_query_at_the_end_of_a_job_writes_no_row_for_it(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, written, ended = QueriesOnly(), [], threading.Event()

    def ask(spool_dir: str, id: str) -> None:
        writer.flush(id)
        ended.set()

    monkeypatch.setattr(write_behind, "writer", lambda: writer)
    monkeypatch.setattr(Store, "record_queued", lambda store, jobs: written.extend(jobs))
    monkeypatch.setattr(waiting, "wake_waiters", ask)
    note()
    assert ended.wait(60)
    assert written == []


def test_overflow_spool_passes_the_call_to_the_spool_engine(full: list[Job], tmp_path: Path) -> None:
    job = or_spool(1)
    assert (job.engine, job.state) == ("spool", State.QUEUED)
    assert list((tmp_path / "spool").glob(f"{PREFIX}{job.id}"))
    Spooler(str(tmp_path / "spool")).run_due()
    assert (1, "spool", threading.current_thread().name) in seen
    assert job.state is State.DONE


def test_overflow_spool_refuses_arguments_of_unsupported_types(full: list[Job]) -> None:
    with pytest.raises(TypeError, match="value"):
        or_spool(object())


def test_overflow_run_runs_the_job_in_the_caller_without_its_request(full: list[Job], app: Flask) -> None:
    request_id.set("the caller's")
    with app.test_request_context("/"):
        g.mine = "the caller's"
        job = or_run()
    assert [entry for entry in seen if isinstance(entry, tuple)] == [
        (threading.current_thread(), 1, False, None, "the caller's")
    ]
    assert job.state is State.DONE


def test_overflow_run_leaves_further_attempts_to_the_pool(full: list[Job]) -> None:
    job = or_run(fail=True)
    assert job.state is State.RETRYING
    go.set()
    assert job.wait(60)
    assert job.state is State.DONE
    assert [entry[1] for entry in seen if isinstance(entry, tuple)] == [1, 2]


def test_concurrency_1_runs_jobs_one_after_the_other_in_order(app: Flask) -> None:
    app.config["SPOOLKIT_THREAD_QUEUE"] = 100
    jobs = [one_at_a_time(number) for number in range(50)]
    assert jobs[-1].wait(60)
    assert seen == [(what, number) for number in range(50) for what in ("begin", "end")]


# What a job gets from its caller.


def test_a_thread_job_gets_the_callers_own_argument_objects() -> None:
    given = object()
    note(given, 2, word=given, self="a name of its own")
    wait_until(lambda: seen)
    assert seen == [((given, 2), {"word": given, "self": "a name of its own"})]


def test_a_thread_job_has_a_copy_of_the_callers_context_variables_and_no_request(app: Flask) -> None:
    request_id.set("of the caller")
    with app.test_request_context("/"):
        job = tells()
    request_id.set("changed since")
    assert job.wait(60)
    assert seen == [("of the caller", False)]
    assert request_id.get() == "changed since"


def test_a_job_enqueued_by_a_job_has_its_own_context_and_log(app: Flask) -> None:
    @thread
    def inner() -> None:
        print("said by the inner one")
        seen.append((current_job().id, g.get("mine")))

    @thread
    def outer() -> str:
        g.mine = "the outer one's"
        return inner().id

    job = outer()
    assert job.wait(60)
    inner_job = Job.get(str(job.result))
    assert inner_job.wait(60)
    assert seen == [(inner_job.id, None)]
    assert "inner" not in job.attempts[0].log
    assert "said by the inner one" in inner_job.attempts[0].log


@pytest.mark.parametrize(
    ("type", "body", "json", "form"),
    [("application/json", b'{"n": 1}', {"n": 1}, {}), ("application/x-www-form-urlencoded", b"n=1", None, {"n": "1"})],
)
def test_copy_request_gives_every_attempt_the_callers_request_and_session(
    app: Flask, type: str, body: bytes, json: object, form: dict[str, str]
) -> None:
    jobs = []
    hold()
    hold()

    @app.post("/page")
    def page() -> str:
        session["who"] = "ann"
        g.mine = "the request's"
        jobs.append(with_request())
        return ""

    connection = io.BytesIO(body)
    answer = app.test_client().post("/page", input_stream=connection, content_length=len(body), content_type=type)
    assert answer.status_code == 200
    connection.close()  # when the job runs, the connection serves another request
    go.set()
    assert jobs[0].wait(60)
    expected = ("/page", json, form, "ann", None)
    assert [entry for entry in seen if isinstance(entry, tuple)] == [expected, expected]


def test_copy_request_shares_neither_session_nor_uploaded_files_with_the_view(app: Flask) -> None:
    @thread(copy_request=True)
    def meddles() -> None:
        session["who"] = "the task"

    @app.post("/upload")
    def upload() -> str:
        given = request.files["file"]
        assert meddles().wait(60)
        return f"{given.read().decode()} {session.get('who')}"

    answer = app.test_client().post("/upload", data={"file": (io.BytesIO(b"content"), "name")})
    assert (answer.status_code, answer.text) == (200, "content None")
    assert "Set-Cookie" not in answer.headers


def test_copy_request_refuses_a_call_outside_a_request() -> None:
    with pytest.raises(ConfigurationError, match="outside a request"):
        with_request()


# What is recorded.


def test_thread_jobs_have_state_status_and_result(full: list[Job]) -> None:
    assert [job.state for job in full] == [State.RUNNING, State.RUNNING, State.QUEUED, State.QUEUED]
    status = full[0].status
    assert (status.engine, status.pid, status.attempt) == ("thread", os.getpid(), 1)
    with pytest.raises(JobStateError):
        _ = full[2].result
    go.set()
    for job in full:
        assert job.wait(60)
    assert [job.result for job in full] == ["0", "1", "2", "3"]


def test_other_processes_see_waiting_thread_jobs(full: list[Job], tmp_path: Path) -> None:
    code = "import sys, spoolkit; print(*(spoolkit.Job.get(id).state for id in sys.argv[1:]))"

    def seen_elsewhere() -> str:
        command = [sys.executable, "-c", code, *(job.id for job in full)]
        env = {**os.environ, "SPOOLKIT_SPOOL": str(tmp_path / "spool")}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=100).stdout.strip()

    # No lookup in this process triggers the writing of the rows: the background writer does it.
    wait_until(lambda: seen_elsewhere() == "running running queued queued")


def test_a_call_does_not_write_to_the_store_in_the_callers_thread(monkeypatch: pytest.MonkeyPatch, app: Flask) -> None:
    writers = []

    def note_thread(method: Any) -> Any:
        def noting(*args: Any) -> Any:
            writers.append(threading.current_thread())
            return method(*args)

        return noting

    store = type(locations.store())
    for name in "transaction", "write_before_task", "write_after_task":
        monkeypatch.setattr(store, name, note_thread(getattr(store, name)))
    jobs = [hold() for _ in range(4)]
    with pytest.raises(QueueFull):
        hold()
    go.set()
    wait_until(lambda: len(writers) >= 8)
    assert threading.current_thread() not in writers
    assert all(job.wait(60) for job in jobs)


def test_an_untracked_job_runs_is_retried_and_leaves_no_record(app: Flask) -> None:
    job = untracked()
    wait_until(lambda: len(seen) == 2)
    assert seen == [(1, 2), (2, 2)]
    with pytest.raises(UnknownJobError):
        _ = job.state
    assert not Path(locations.store().path).exists()


@pytest.mark.parametrize(("track", "level"), [(True, logging.INFO), (False, logging.DEBUG)])
def test_each_thread_job_logs_one_line_at_its_start_and_one_at_its_end(
    track: bool, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    @thread(track=track, name=f"lines.{track}")
    def quiet() -> None:
        pass

    caplog.set_level(logging.DEBUG, log.LOGGER)
    job = quiet()
    wait_until(lambda: "is done (attempt 1 of 1" in caplog.text)
    records = [record for record in caplog.records if job.id in record.getMessage()]
    assert ["starts" in record.getMessage() for record in records] == [True, False]
    assert {record.levelno for record in records} == {level}


def test_the_attempts_of_an_untracked_job_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    @thread(track=False, retries=2, backoff=0)
    def never() -> None:
        seen.append(current_job().attempt)
        raise ValueError("trouble")

    never()
    wait_until(lambda: "never is dead: ValueError: trouble" in caplog.text)
    assert seen == [1, 2, 3]


def test_thread_jobs_run_and_are_retried_if_the_store_is_unavailable(app: Flask, tmp_path: Path) -> None:
    app.config["SPOOLKIT_STORE"] = tmp_path / "nowhere" / "store.db"
    or_run(fail=True)
    wait_until(lambda: [entry[1] for entry in seen] == [1, 2])


def test_cancel_settles_a_waiting_thread_job_which_then_does_not_run(full: list[Job]) -> None:
    assert full[3].cancel() is State.CANCELLED
    go.set()
    assert full[2].wait(60)
    wait_until(lambda: full[2].state is State.DONE)
    note("after it")
    wait_until(lambda: (("after it",), {}) in seen)
    assert "3" not in seen
    assert full[3].state is State.CANCELLED


def test_cancel_settles_a_thread_job_that_waits_for_its_next_attempt() -> None:
    job = fails()
    wait_until(lambda: job.state is State.RETRYING)
    assert job.cancel() is State.CANCELLED
    assert job.state is State.CANCELLED


def test_cancel_asks_a_running_thread_job_to_stop() -> None:
    job = stops_when_asked()
    wait_until(lambda: "running" in seen and job.state is State.RUNNING)
    assert job.cancel() in (State.RUNNING, State.CANCELLED)  # the job may have stopped before cancel() reads its state
    assert job.wait(60)
    assert job.state is State.CANCELLED


def test_force_cancel_run_now_and_retry_are_refused_for_thread_jobs(full: list[Job]) -> None:
    with pytest.raises(JobStateError, match="its process does other work too"):
        full[0].cancel(force=True)
    with pytest.raises(JobStateError, match="only jobs with a file can be run now"):
        actions.run_now(full[2].id)

    @thread
    def dies() -> None:
        raise ValueError

    go.set()
    wait_until(lambda: all(job.state is State.DONE for job in full))
    dead = dies()
    wait_until(lambda: dead.state is State.DEAD)
    with pytest.raises(JobStateError, match="its arguments were not kept"):
        actions.retry(dead.id)


# When jobs are lost.


def run_script(tmp_path: Path, *arguments: object, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env={**os.environ, "SPOOLKIT_SPOOL": str(tmp_path / "spool"), "SPOOLKIT_THREADS": "2", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_program_waits_for_its_thread_jobs_before_it_exits(tmp_path: Path) -> None:
    out, err = run_script(tmp_path, "return", 6, 0.1).communicate(timeout=60)
    *worked, failed = (Job.get(id) for id in out.split())
    assert [job.state for job in worked] == [State.DONE] * 6, err
    assert failed.state is State.LOST  # its next attempt was due in 1000 seconds
    assert err.count("is lost") == 1


def test_thread_jobs_unfinished_after_the_grace_period_are_lost_and_logged(tmp_path: Path) -> None:
    out, err = run_script(tmp_path, "return", 6, 120, SPOOLKIT_THREAD_GRACE="0.2").communicate(timeout=60)
    jobs = [Job.get(id) for id in out.split()]
    assert [job.state for job in jobs] == [State.LOST] * 7, err
    assert all(f"job {job.id} of" in err for job in jobs)
    assert err.count("is lost: its process was asked to exit") == 8  # one of them has no record
    assert [attempt.outcome for attempt in jobs[0].attempts] == ["lost"]
    with pytest.raises(JobLostError):
        _ = jobs[0].result
    assert not os.listdir(tmp_path / "spool" / "running")


def test_a_second_signal_ends_the_grace_period(tmp_path: Path) -> None:
    script = run_script(tmp_path, "wait", 6, 120, SPOOLKIT_THREAD_GRACE="120")
    assert script.stdout is not None
    assert script.stderr is not None
    ids = [script.stdout.readline().strip() for _ in range(7)]
    script.send_signal(signal.SIGINT)
    for line in script.stderr:
        if "waits up to 120 s for" in line:
            break
    # A second signal that comes at once counts as the first: a terminal and a server's master both send it.
    wait_until(lambda: script.poll() is not None or script.send_signal(signal.SIGINT), timeout=60)
    _, err = script.communicate(timeout=60)
    assert [Job.get(id).state for id in ids] == [State.LOST] * 7, err
    assert err.count("is lost") == 8


def test_thread_jobs_of_a_killed_process_are_lost_at_the_next_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # It is killed with jobs that run, that wait, and that wait for their next attempt.
    out, _ = run_script(tmp_path, "kill", 6, 120).communicate(timeout=60)
    jobs = [Job.get(id) for id in out.split()]
    assert {str(status.state) for status in lookup.jobs()} == {"lost"}
    assert [job.state for job in jobs] == [State.LOST] * 7
    assert all(f"job {job.id} of" in caplog.text for job in jobs)
    assert jobs[0].wait(0)
    assert not os.listdir(tmp_path / "spool" / "running")


def test_wait_returns_when_the_process_of_a_thread_job_is_killed(tmp_path: Path) -> None:
    script = run_script(tmp_path, "wait", 1, 120)
    assert script.stdout is not None
    job = Job.get(script.stdout.readline().strip())
    assert job.state is State.RUNNING
    threading.Timer(0.3, script.kill).start()
    assert job.wait(60)
    assert job.state is State.LOST
    script.communicate(timeout=60)


def test_a_forked_child_has_its_own_pool_and_none_of_its_parents_jobs(tmp_path: Path) -> None:
    out, err = run_script(tmp_path, "fork", 6, 0.1).communicate(timeout=60)
    *ids, of_child = out.split()
    assert [Job.get(id).state for id in ids] == [State.DONE] * 6 + [State.LOST], err
    assert Job.get(of_child).state is State.DONE
    assert err.count("is lost") == 1


def test_drain_calls_every_end_function_also_after_one_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    def early(deadline: clock.Deadline) -> None:
        ended.append("early")
        hooks.at_end(late)
        raise ValueError("trouble")

    def late(deadline: clock.Deadline) -> None:
        assert 0 < deadline.left <= 5
        ended.append("late")

    hooks.at_end(lambda deadline: ended.append("middle"))
    hooks.at_end(early, first=True)
    hooks.run_end_hooks(5)
    assert ended == ["early", "middle", "late"]
    assert "ValueError: trouble" in caplog.text


@pytest.mark.parametrize(("same", "left"), [(1000.0, True), (-1.0, False)])
def test_a_signal_during_drain_interrupts_no_end_function(
    monkeypatch: pytest.MonkeyPatch, same: float, left: bool
) -> None:
    monkeypatch.setattr(clock, "SAME_SIGNAL", same)
    # In a background process of a shell SIGINT is ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    before, ended = signal.default_int_handler, list[str]()

    def end(deadline: clock.Deadline) -> None:
        ended.append("begun")
        if len(ended) == 1:
            signal.raise_signal(signal.SIGINT)
            ended.append("left" if deadline.left else "at once")

    hooks.at_end(end)
    try:
        hooks.run_end_hooks(1000)
        assert ended == ["begun", "left" if left else "at once"]
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_waiting_thread_jobs_of_a_living_process_are_not_marked_lost(full: list[Job]) -> None:
    write_behind.writer().flush()
    lookup.mark_lost()
    assert [job.state for job in full][2:] == [State.QUEUED, State.QUEUED]


def test_a_thread_job_runs_in_an_application_context(app: Flask) -> None:
    @thread
    def names() -> str:
        return current_app.name

    job = names()
    assert job.wait(60)
    assert job.result == "an_application"


def test_copy_request_works_where_flask_has_one_class_for_both_contexts(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flask 3.2 has one context class for applications and requests."""
    if hasattr(AppContext, "from_environ"):
        pytest.skip("it is so here: the other tests are about it")
    from flask.ctx import RequestContext

    made: list[Any] = []

    class Merged(RequestContext):
        def __init__(self, app: Flask, *, request: Any = None, session: Any = None) -> None:
            made.append(request)
            super().__init__(app, request.environ, request=request, session=session)

        @classmethod
        def from_environ(cls) -> None: ...

    monkeypatch.setattr(context, "AppContext", Merged)
    with app.test_request_context("/page", json={"a": 1}):
        job = with_request()
        own = request._get_current_object()  # type: ignore[attr-defined]
    wait_until(lambda: job.state is State.DONE)
    assert [line[:2] for line in seen] == [("/page", {"a": 1})] * 2
    assert len(made) == 1
    assert made[0] is not own
