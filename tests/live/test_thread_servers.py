"""``@thread`` under each server: the pool starts once, in the right process, is bounded, leaks nothing, and closes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import any_server
import pytest
from any_server import ALL, FLASK, GRANIAN, GUNICORN, UWSGI, CommandServer, ask_to_reload, ask_to_stop, wait_for_exit
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from spoolkit.job import State, Status
from spoolkit.store import Store
from spoolkit.store.orphans import mark_lost

from .conftest import PROJECT, SITE, History

Start = Callable[..., UwsgiServer]


@pytest.fixture
def module() -> str:
    """The module of the site under test."""
    return "thread_app"


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str], module: str) -> Iterator[Start]:
    with contextlib.ExitStack() as running:

        def start(kind: str, *options: str, processes: int | None = None, **env: str) -> UwsgiServer:
            (tmp_path / "spool").mkdir(mode=0o700, exist_ok=True)
            env = {**environment, "SPOOLKIT_THREADS": "2", **env}
            server = any_server.start(
                kind, tmp_path, site=SITE, module=module, env=env, options=options, processes=processes
            )
            running.enter_context(server)
            any_server.wait_until_complete(kind, server, processes)
            return server

        yield start


@pytest.fixture
def statuses(tmp_path: Path) -> Callable[[Sequence[str]], list[Status | None]]:
    """The recorded status of jobs, read from the store alone."""

    def read(ids: Sequence[str]) -> list[Status | None]:
        store = Store(str(tmp_path / "spool" / "spoolkit.db"))
        try:
            return [store.status(id) for id in ids]
        finally:
            store.close()

    return read


def states(found: Sequence[Status | None]) -> list[State | None]:
    return [None if status is None else status.state for status in found]


@pytest.mark.parametrize("kind", sampled(ALL, "uwsgi-threads"))
def test_the_pool_starts_with_the_first_call_in_its_process_and_grows_to_its_bound(kind: str, start: Start) -> None:
    server = start(kind, processes=1)

    def pool() -> list[str]:
        # There are two more: the background writer of rows, and under uWSGI one that watches for a stop.
        return [name for name in server.get("/inside").json["threads"] if name[-1].isdigit()]

    assert pool() == []
    server.post("/quick/1")
    assert len(pool()) == 1
    server.post("/quick/200")
    assert pool() == ["spoolkit-1", "spoolkit-2"]
    if kind in UWSGI or kind in GUNICORN or kind in GRANIAN:
        # The master must have no thread of ours: one that runs at a fork could hang the forked process.
        names = {Path(f"/proc/{server.master_pid}/task/{task}/comm").read_text() for task in _tasks(server.master_pid)}
        assert not [name for name in names if name.startswith("spoolkit")]
        assert server.get("/inside").json["pid"] != server.master_pid


def _tasks(pid: int) -> list[str]:
    return os.listdir(f"/proc/{pid}/task")


@pytest.mark.parametrize("kind", sampled(ALL, "uwsgi-lazy", "gunicorn-gthread"))
def test_a_stop_lets_waiting_thread_jobs_finish(
    kind: str, start: Start, history: History, statuses: Callable[..., list[Status | None]]
) -> None:
    server = start(kind)
    made = server.post("/work/6/0.2").json["jobs"]
    ask_to_stop(kind, server)
    wait_for_exit(server)
    assert states(statuses(made)) == [State.DONE] * 6, server.log()[-3000:]
    assert len(history.events("end")) == 6
    assert "is lost" not in server.log()


@pytest.mark.parametrize("kind", sampled(ALL, "uwsgi-threads", "flask"))
def test_thread_jobs_unfinished_after_the_grace_period_of_a_stop_are_lost_and_logged(
    kind: str, start: Start, history: History, statuses: Callable[..., list[Status | None]]
) -> None:
    server = start(kind, SPOOLKIT_THREAD_GRACE="0.5")
    done = server.post("/work/2/0.1").json["jobs"]
    history.wait_for("end", count=2)
    made = server.post("/work/5/60.0").json["jobs"]
    history.wait_for("start", count=4)
    ask_to_stop(kind, server)
    wait_for_exit(server)
    assert states(statuses(done)) == [State.DONE] * 2
    found = statuses(made)
    assert states(found) == [State.LOST] * 5, server.log()[-3000:]
    assert {status.error_message for status in found if status} == {
        "its process was asked to exit, and the job did not finish within the grace period"
    }
    assert sorted(re.findall(r"job (\w+) of thread_app\.work is lost", server.log())) == sorted(made)


@pytest.mark.parametrize(
    "kind",
    sampled([kind for kind in ALL if kind not in ("flask", "waitress")], "uwsgi-threads", "flask-reloader"),
)
def test_a_reload_lets_waiting_thread_jobs_finish(
    kind: str, start: Start, history: History, statuses: Callable[..., list[Status | None]], tmp_path: Path
) -> None:
    watched = tmp_path / "watched.py"
    watched.write_text("")
    server = start(kind, *(["--extra-files", str(watched)] if kind in FLASK else []))
    pids = server.worker_pids()
    made = server.post("/work/6/0.2").json["jobs"]
    ask_to_reload(kind, server, watched)
    any_server.wait_for_others(server, pids)
    assert states(statuses(made)) == [State.DONE] * 6, server.log()[-3000:]
    assert len(history.events("end")) == 6
    # The new process has its own pool.
    assert server.post("/work/1/0.0").status == 200
    history.wait_for("end", count=7)


@pytest.mark.parametrize("kind", sampled([*UWSGI, "gunicorn-sync", "gunicorn-gthread"], "uwsgi-threads"))
def test_a_process_that_reaches_max_requests_lets_waiting_thread_jobs_finish(
    kind: str, start: Start, history: History, statuses: Callable[..., list[Status | None]]
) -> None:
    option = ["max-requests = 5", "min-worker-lifetime = 0"] if kind in UWSGI else ["--max-requests", "5"]
    server = start(kind, *option, processes=1)
    answer = server.post("/work/6/0.2").json
    for _ in range(20):
        with contextlib.suppress(OSError, HTTPException):
            if int(server.get("/pid").text) != answer["pid"]:
                break
    any_server.wait_for_others(server, [answer["pid"]])
    assert states(statuses(answer["jobs"])) == [State.DONE] * 6, server.log()[-3000:]
    assert len(history.events("end")) == 6


@pytest.mark.parametrize("kind", sampled(ALL, "uwsgi-threads"))
def test_thread_jobs_of_a_killed_server_process_are_lost_at_the_next_look(
    kind: str, start: Start, history: History, statuses: Callable[..., list[Status | None]], tmp_path: Path
) -> None:
    server = start(kind)
    answer = server.post("/work/5/60.0").json
    history.wait_for("start", count=2)
    # Two of them run; the rows of the waiting ones are written a moment later.
    wait_until(lambda: None not in statuses(answer["jobs"]))
    server.kill()  # all of it: the process that follows a killed one would look at once
    assert State.LOST not in states(statuses(answer["jobs"]))
    store = Store(str(tmp_path / "spool" / "spoolkit.db"))
    assert mark_lost(store, str(tmp_path / "spool")) == 5
    store.close()
    assert states(statuses(answer["jobs"])) == [State.LOST] * 5


@pytest.mark.parametrize("kind", sampled(["uwsgi", "gunicorn-sync", "granian"], "uwsgi"))
def test_the_next_process_marks_the_thread_jobs_of_a_killed_one_as_lost(
    kind: str, start: Start, history: History
) -> None:
    server = start(kind, processes=1)
    answer = server.post("/work/3/60.0").json
    history.wait_for("start", count=2)
    for id in answer["jobs"]:
        assert server.get(f"/jobs/{id}").json["state"] in ("running", "queued")
    os.kill(answer["pid"], signal.SIGKILL)
    any_server.wait_for_others(server, [answer["pid"]])
    for id in answer["jobs"]:
        assert server.get(f"/jobs/{id}").json["state"] == "lost"
    assert any_server.occurrences(server, rf"is lost: its process {answer['pid']} has ended") == 3


MANY = [(kind, 10_000) for kind in ALL] + [("uwsgi-threads", 1_500)]


@pytest.mark.parametrize(("kind", "jobs"), sampled(MANY, ("uwsgi-threads", 1_500)))
def test_thousands_of_jobs_leave_nothing_behind(kind: str, jobs: int, start: Start) -> None:
    patient = ("--timeout", "120") if kind in GUNICORN else ()  # by default it kills a process at a request of 30 s
    server = start(kind, *patient, processes=1, SPOOLKIT_THREAD_QUEUE="500")
    before = server.post(f"/quick/{jobs // 5}").json
    after = server.post(f"/quick/{jobs}").json
    assert after["threads"] == before["threads"]
    # gunicorn starts its own threads one by one.
    assert 0 <= after["all_threads"] - before["all_threads"] <= (kind == "gunicorn-gthread"), (before, after)
    # The server may have a connection or two of its own.
    assert after["files"] <= before["files"] + 2
    assert after["peak_kib"] <= before["peak_kib"] + 8192
    assert after["refused"] > 0, "the queue was never full: the bound was not tested"


@pytest.mark.parametrize("kind", sampled(ALL, "uwsgi-threads"))
def test_no_task_sees_another_requests_data(kind: str, start: Start, history: History) -> None:
    server = start(kind, SPOOLKIT_THREADS="8")
    words = [f"w{number}" for number in range(400)]
    with ThreadPoolExecutor(50) as clients:
        assert all(answer.status == 200 for answer in clients.map(lambda word: _tell(server, word), words))
    told = history.wait_for("told", count=len(words))
    assert sorted(event.words for event in told) == sorted(("told", word, word, "-", "False", word) for word in words)


def _tell(server: UwsgiServer, word: str) -> Any:
    for _ in range(20):  # the listen queue may overflow
        with contextlib.suppress(OSError, HTTPException):
            return server.post(f"/tell/{word}")
    raise AssertionError(server.log()[-2000:])


def test_a_call_beyond_the_queue_is_answered_with_503(start: Start) -> None:
    server = start("uwsgi-threads", processes=1, SPOOLKIT_THREAD_QUEUE="3", SPOOLKIT_THREAD_GRACE="0")
    assert server.post("/work/5/60.0").status == 200
    refused = server.post("/work/1/60.0")
    assert refused.status == 503
    assert refused.json["error"]["type"] == "QueueFull"


def test_the_demo_answers_503_if_the_thread_queue_is_full(tmp_path: Path) -> None:
    env = {"SPOOLKIT_THREADS": "1", "SPOOLKIT_THREAD_QUEUE": "0", "SPOOLKIT_THREAD_GRACE": "0"}
    with CommandServer(tmp_path, ["flask", "run", "--port", "{port}"], probe="/jobs", cwd=PROJECT, env=env) as server:
        assert server.get("/uwsgi_thread/60").status == 200
        refused = server.get("/uwsgi_thread/1")
    assert (refused.status, refused.json["error"]["type"]) == (503, "QueueFull")
    assert "SPOOLKIT_THREAD_QUEUE" in refused.json["error"]["message"]


def test_the_development_server_lets_thread_jobs_finish_at_sigterm(
    start: Start, statuses: Callable[..., list[Status | None]]
) -> None:
    server = start("flask")
    made = server.post("/work/4/0.2").json["jobs"]
    os.kill(server.master_pid, signal.SIGTERM)
    wait_for_exit(server)
    assert states(statuses(made)) == [State.DONE] * 4


@pytest.mark.parametrize("kind", sampled([*UWSGI], "uwsgi-threads"))
def test_a_brutal_stop_of_uwsgi_outside_of_requests_lets_waiting_thread_jobs_finish(
    kind: str, start: Start, history: History, statuses: Callable[..., list[Status | None]]
) -> None:
    server = start(kind)
    made = server.post("/work/6/0.3").json["jobs"]
    history.wait_for("end", count=2)  # the request has ended long before
    os.kill(server.master_pid, signal.SIGINT)
    wait_for_exit(server)
    assert states(statuses(made)) == [State.DONE] * 6, server.log()[-3000:]


def test_a_spooler_lets_thread_jobs_of_its_jobs_finish(environment: dict[str, str], history: History) -> None:
    env = {**os.environ, **environment}
    flask = [sys.executable, "-m", "flask", "--app", "thread_app"]
    runner = subprocess.Popen([*flask, "spool", "run"], cwd=SITE, env=env)
    try:
        code = "import thread_app; thread_app.calls_a_thread()"
        subprocess.run([sys.executable, "-c", code], cwd=SITE, env=env, check=True, timeout=100)
        history.wait_for("start", "inner")
        runner.terminate()
        assert runner.wait(60) == 0
    finally:
        runner.kill()
        runner.wait(60)
    assert len(history.events("end", "inner")) == 1


def test_uwsgi_does_not_start_the_site_where_threads_are_not_enabled(start: Start) -> None:
    with pytest.raises(AssertionError, match="Set enable-threads = true"):
        start("uwsgi", "pyimport = no_threads")  # as older versions were without enable-threads


@pytest.mark.parametrize("kind", sampled(["uwsgi", "gunicorn-preload"], "uwsgi"))
def test_a_call_in_the_master_is_refused(kind: str, start: Start) -> None:
    with pytest.raises(AssertionError, match="called in the server's master process"):
        start(kind, CALL_AT_IMPORT="1")
