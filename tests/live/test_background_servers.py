"""Background threads under each server: they start once in each serving process, and stop with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import any_server
import pytest
from any_server import ALL, FLASK, ONE_PROCESS, CommandServer, ask_to_reload, ask_to_stop, wait_for_exit
from sampling import sampled
from uwsgi_server import wait_until

from .conftest import SITE, History
from .test_thread_servers import Start, start

__all__ = ["start"]


@pytest.fixture
def module() -> str:
    return "background_app"


@pytest.mark.parametrize("kind", sampled(ALL, "uwsgi-threads", "gunicorn-preload"))
def test_background_threads_start_once_in_each_serving_process_and_stop_with_it(
    kind: str, start: Start, history: History
) -> None:
    server = start(kind)
    count = 1 if kind in ONE_PROCESS else 2
    started = history.wait_for("each", "startup", count=count)
    wait_until(lambda: sorted(event.pid for event in started) == sorted(server.worker_pids()))
    assert {event.words[2] for event in started} == {"background_app"}
    assert len(history.wait_for("one", "startup")) == 1
    answer = server.post("/words", json=[str(number) for number in range(25)])
    ask_to_stop(kind, server)
    wait_for_exit(server)
    assert len(history.events("each", "startup")) == count
    assert sorted(event.pid for event in history.events("each", "shutdown")) == sorted(event.pid for event in started)
    handled = history.events("handled")
    assert [event.words[1] for event in handled] == [str(number) for number in range(25)], server.log()[-3000:]
    assert {event.pid for event in handled} == {answer.json["pid"]}
    # A job that shutdown() enqueues is done as well.
    assert len(history.events("from_shutdown")) == count
    # While the first process exits, the second may take over for a moment: each thread that started has stopped.
    assert len(history.events("one", "startup")) == len(history.events("one", "shutdown"))


@pytest.mark.parametrize(
    "kind", sampled([kind for kind in ALL if kind not in ("flask", "waitress")], "uwsgi-lazy", "flask-reloader")
)
def test_a_reload_stops_background_threads_and_starts_new_ones(
    kind: str, start: Start, history: History, tmp_path: Path
) -> None:
    watched = tmp_path / "watched.py"
    watched.write_text("")
    server = start(kind, *(["--extra-files", str(watched)] if kind in FLASK else []))
    count = 1 if kind in ONE_PROCESS else 2
    pids = [event.pid for event in history.wait_for("each", "startup", count=count)]
    server.post("/words", json=[str(number) for number in range(10)])
    ask_to_reload(kind, server, watched)
    any_server.wait_for_others(server, pids)
    assert sorted(event.pid for event in history.events("each", "shutdown")) == sorted(pids)
    assert len(history.events("handled")) == 10
    started = history.wait_for("each", "startup", count=2 * count)
    assert len(started) == 2 * count
    wait_until(lambda: history.events("one", "startup")[-1].pid not in pids)


@pytest.mark.parametrize("kind", sampled(["uwsgi", "gunicorn-gthread", "granian"], "uwsgi"))
def test_another_process_takes_over_the_thread_of_one_process_that_was_killed(
    kind: str, start: Start, history: History
) -> None:
    server = start(kind)
    (first,) = history.wait_for("one", "startup")
    os.kill(first.pid, signal.SIGKILL)
    _, second = history.wait_for("one", "startup", count=2)
    assert second.pid != first.pid
    assert len(history.events("one", "shutdown")) == 0
    any_server.wait_for_others(server, [first.pid])


@pytest.mark.parametrize(
    "kind",
    sampled(
        ["uwsgi-threads", "gunicorn-sync", "granian", "waitress", "flask", "flask-reloader"],
        "uwsgi-threads",
        "gunicorn-sync",
    ),
)
def test_a_stuck_background_thread_delays_a_stop_by_the_grace_period_only(
    kind: str, start: Start, history: History
) -> None:
    server = start(kind, SPOOLKIT_THREAD_GRACE="0.3")
    server.post("/words", json=["stuck", "a", "b"])
    history.wait_for("stuck")
    ask_to_stop(kind, server)
    wait_for_exit(server)
    assert "Words did not stop within the grace period" in server.log()
    assert "Words: items of its queue lost with the process: 3, of which 1 in handle()" in server.log()


@pytest.mark.parametrize(
    "kind", sampled(["uwsgi", "gunicorn-preload", "gunicorn-sync", "granian", "waitress", "flask"], "uwsgi", "flask")
)
def test_a_process_that_a_request_forks_has_no_background_threads(kind: str, start: Start, history: History) -> None:
    server = start(kind)
    history.wait_for("each", "startup")
    assert server.post("/fork").json == {"threads": 1}


def test_a_put_into_a_full_queue_is_answered_with_503(start: Start, history: History) -> None:
    server = start("uwsgi-threads", processes=1, SPOOLKIT_THREAD_GRACE="0")
    assert server.post("/words", json=["stuck"]).status == 200
    history.wait_for("stuck")
    refused = server.post("/words", json=["x"] * 1001)
    assert (refused.status, refused.json["error"]["type"]) == (503, "QueueFull")


def test_a_command_starts_no_background_threads(environment: dict[str, str], history: History) -> None:
    command = [sys.executable, "-m", "flask", "--app", "background_app", "routes"]
    done = subprocess.run(
        command, cwd=SITE, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert history.events() == []


def test_a_program_that_only_imports_the_site_starts_no_background_threads(
    environment: dict[str, str], history: History
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import background_app"], env={**os.environ, **environment}, timeout=100
    )
    assert done.returncode == 0
    assert history.events() == []


def test_background_threads_start_with_the_first_request_under_an_unknown_server(
    environment: dict[str, str], history: History, tmp_path: Path
) -> None:
    with CommandServer(tmp_path, ["python", "-m", "background_app", "{port}"], env=environment, cwd=SITE) as server:
        history.wait_for("each", "startup")
        ask_to_stop("flask", server)
        wait_for_exit(server)
    assert len(history.events("each", "startup")) == len(history.events("each", "shutdown")) == 1
