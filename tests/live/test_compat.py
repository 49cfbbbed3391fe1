"""One site that is declared with uwsgidecorators: with that module, with spoolkit's, and without uWSGI."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import any_server
import pytest
from uwsgi_server import UwsgiServer, wait_until

from spoolkit.compat.crons import Cron

from .conftest import SITE, History, Site, environment_in, site_in

OURS = "spoolkit.compat.uwsgidecorators"

Rows = dict[str, list[tuple[str, ...]]]

EXPECTED: Rows = {
    "of_dict": [
        ('{"a":"b","body":"the_body","c":"d","e":"\\u00e9","ud_spool_func":"of_dict","ud_spool_ret":"-2"}',),
        ('{"at":"1","ud_spool_func":"of_dict","ud_spool_ret":"-2","word":"past"}',),
        ('{"ud_spool_func":"of_dict","ud_spool_ret":"-2","word":"here"}',),
        ('{"ud_spool_func":"of_dict","ud_spool_ret":"-2"}',),
    ],
    "of_arguments": [('[["delayed"],{}]',), ('[[1,[2,"three"]],{"four":null}]',)],
    "raw": [("ok",)],
    "thread": [("word", "True")],
    "refused": [(), (), ()],
}
"""What the functions note, sorted: which of several jobs runs first is no promise."""

RETRIES: Rows = {"raw": [("ok",), ("retry",), ("retry",)], "says_retry": [(), ()]}
"""The same of jobs that are run twice."""

UNDER_UWSGI: Rows = {"signal": [("20",)], "harakiri": [("bounded",)]}
"""The same of what exists under uWSGI alone."""


def rows(history: History, expected: Rows) -> Rows:
    return {name: sorted(event.words[1:] for event in history.events(name)) for name in expected}


def make_calls(server: UwsgiServer, history: History, expected: Rows = EXPECTED, path: str = "/calls") -> Rows:
    """Have the site enqueue a job of each kind, and return what they have noted."""
    assert server.post(path).text == "done", server.log()[-3000:]
    for name, lines in expected.items():
        history.wait_for(name, count=len(lines))
    return rows(history, expected)


@contextmanager
def under_uwsgi(folder: Path, library: str, *options: str, **env: str) -> Iterator[Site]:
    folder.mkdir()
    site = site_in(folder, *options, module="compat_site", env={"LIBRARY": library, **env})
    with site.server:
        yield site


@contextmanager
def without_uwsgi(
    folder: Path, server: Sequence[object] = (), *, runners: int = 1, **env: str
) -> Iterator[tuple[UwsgiServer, History]]:
    """The site under gunicorn, or the HTTP server with this command, and ``flask spool run`` so many times."""
    env = {**environment_in(folder), "LIBRARY": OURS, **env}
    (folder / "spool").mkdir(mode=0o700)
    words = [sys.executable, "-m", "flask", "--app", "compat_site", "spool", "run"]
    if server:
        http: UwsgiServer = any_server.CommandServer(folder, server, env=env, cwd=SITE)
    else:
        http = any_server.start("gunicorn-sync", folder, site=SITE, module="compat_site", env=env)
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "runner.log").open("ab") as log, http:
        try:
            for _ in range(runners):
                whole = {**os.environ, **env}
                started.append(subprocess.Popen(words, cwd=SITE, env=whole, stdout=log, stderr=log))
            yield http, History(folder / "history")
        finally:
            for process in started:
                process.kill()  # its children end with it
                process.wait(60)


# Under uWSGI


def test_under_uwsgi_jobs_are_as_with_stock(tmp_path: Path) -> None:
    with under_uwsgi(tmp_path / "site", OURS) as site:
        assert make_calls(site.server, site.history) == EXPECTED
        assert site.server.post("/stock-file/old").text == "done"
        assert '"word":"old"' in site.history.wait_for("of_dict", count=5)[-1].words[1]


@pytest.mark.matrix
def test_attempts_are_bounded_and_a_dead_job_may_be_run_again(tmp_path: Path) -> None:
    with under_uwsgi(tmp_path / "site", OURS, SPOOLKIT_COMPAT_RETRIES="1") as site:
        assert site.server.post("/fail").text == "done"
        wait_until(lambda: len(site.dead()) == 1, message=site.server.log)
        (report,) = site.dead().values()
        assert report["reason"] == "ValueError: of the application's own"
        assert len(site.history.events("failing")) == 2
        retry = [sys.executable, "-m", "flask", "--app", "compat_site", "spool", "retry", "--dead"]
        env = {**os.environ, **environment_in(tmp_path / "site"), "LIBRARY": OURS}
        done = subprocess.run(retry, cwd=SITE, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        site.history.wait_for("failing", count=3)


@pytest.mark.matrix
@pytest.mark.parametrize("library", ["uwsgidecorators", OURS])
def test_each_row_is_the_same_with_both_imports(tmp_path: Path, library: str) -> None:
    expected = {**EXPECTED, **RETRIES, **UNDER_UWSGI, "mule": [()], "mulefunc": [("word",)]}
    options = "mule = true", "mule = true", "processes = 2"
    with under_uwsgi(tmp_path / "site", library, *options, MORE="uwsgi mules") as site:
        assert make_calls(site.server, site.history) == EXPECTED
        assert make_calls(site.server, site.history, RETRIES, "/retries") == RETRIES
        assert site.server.post("/forever").text == "done"
        assert make_calls(site.server, site.history, UNDER_UWSGI, "/more") == UNDER_UWSGI
        site.history.wait_for("forever", "again", count=3)
        for name, number in (("timer", "17"), ("rbtimer", "18")):
            assert {event.words for event in site.history.wait_for(name, count=2)} == {(name, number)}
        # Two HTTP processes, a spooler, two mules.
        site.history.wait_for("postfork", count=5)
        site.history.wait_for("mule")
        assert site.server.post("/mule/word").text == "done"
        site.history.wait_for("mulefunc")
        assert len({event.pid for event in site.history.wait_for("muleloop", count=3)}) == 1
        assert rows(site.history, expected) == expected
        assert_one_at_a_time(site.server, site.history)
        assert len({event.pid for event in site.history.events("postfork")}) == 5


def assert_one_at_a_time(server: UwsgiServer, history: History) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = [answer.text for answer in pool.map(lambda number: server.post(f"/lock/{number}"), range(4))]
    assert answers == ["0", "1", "2", "3"]
    events = [event.words[1:] for event in history.events("locked")]
    assert [how for _, how in events] == ["begins", "ends"] * 4
    assert all(events[n][0] == events[n + 1][0] for n in range(0, 8, 2))


@pytest.mark.matrix
@pytest.mark.parametrize("seed", range(3))
def test_uwsgi_fires_the_crons_that_match(tmp_path: Path, seed: int) -> None:
    """Random ones, as many as uWSGI takes. It looks at them in their order, and the last one fires at each minute."""
    now = datetime.now().replace(second=0)
    chance = random.Random(seed)
    fields = (
        (-1, -1, -1, -2, -3, now.hour, 23),
        (-1, -1, -2, -7, now.day, 31),
        (-1, -1, -3, now.month, 12),
        (-1, -1, -2, -3, now.isoweekday() % 7, now.isoweekday(), 7, 3),
    )
    given = [(-1, *map(chance.choice, fields)) for _ in range(63)]
    given.append((-1,) * 5)
    options = "processes = 1", "threads = 1"
    with under_uwsgi(tmp_path / "site", OURS, *options, CRONS=json.dumps(given)) as site:
        site.history.wait_for("fired", "63")
        fired = {int(event.words[1]) for event in site.history.events("fired")}
    # Not those that come or go within a quarter of an hour, which this test may take.
    minutes = [now + timedelta(minutes=n) for n in range(16)]
    matching = [{Cron(*one).matches(minute) for minute in minutes} for one in given]
    assert {n for n in range(64) if matching[n] == {True}} <= fired
    assert not fired & {n for n in range(64) if matching[n] == {False}}


# Without uWSGI


def test_without_uwsgi_jobs_and_timers_run_beside_gunicorn(tmp_path: Path) -> None:
    with without_uwsgi(tmp_path) as (server, history):
        assert make_calls(server, history) == EXPECTED
        history.wait_for("timer", "17")


@pytest.mark.matrix
def test_without_uwsgi_each_due_time_runs_once_and_the_lock_holds(tmp_path: Path) -> None:
    with without_uwsgi(tmp_path, runners=2) as (server, history):
        assert make_calls(server, history) == EXPECTED
        assert server.post("/forever").text == "done"
        history.wait_for("forever", "again", count=2)
        history.wait_for("rbtimer", "18", count=2)
        due = [event.words[2] for event in history.wait_for("timer", "17", count=4)]
        assert len(due) == len(set(due)), "a due time ran twice"
        assert_one_at_a_time(server, history)
        # Both processes that run jobs, and of those for HTTP at least the one that has answered.
        pids = [event.pid for event in history.wait_for("postfork", count=3)]
        assert len(pids) == len(set(pids))


@pytest.mark.matrix
def test_without_uwsgi_each_mule_is_one_process_until_it_dies(tmp_path: Path) -> None:
    with without_uwsgi(tmp_path, runners=2, MORE="mules") as (server, history):
        history.wait_for("mule")
        assert server.post("/mule/word").text == "done"
        history.wait_for("mulefunc", "word")
        pids = {event.pid for event in history.wait_for("muleloop", count=5)}
        assert len(pids) == 1
        os.kill(pids.pop(), signal.SIGKILL)
        wait_until(lambda: len({event.pid for event in history.events("muleloop")}) == 2)
        assert len(history.events("mule")) == 1


SERVERS = {
    "gunicorn-preload": ["gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "--preload", "compat_site:app"],
    "granian": ["granian", "--interface", "wsgi", "--port", "{port}", "--workers", "2", "compat_site:app"],
    "waitress": ["waitress-serve", "--listen", "127.0.0.1:{port}", "compat_site:app"],
    "flask": ["flask", "--app", "compat_site", "run", "--port", "{port}"],
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", SERVERS)
def test_each_server_without_uwsgi(tmp_path: Path, name: str) -> None:
    with without_uwsgi(tmp_path, SERVERS[name], SPOOLKIT_DEV_RUNNER="false") as (server, history):
        assert make_calls(server, history) == EXPECTED
        assert make_calls(server, history, RETRIES, "/retries") == RETRIES
        assert server.post("/forever").text == "done"
        history.wait_for("forever", "again", count=3)
        history.wait_for("timer", "17", count=3)
        assert_one_at_a_time(server, history)
        pids = [event.pid for event in history.wait_for("postfork", count=2)]
        assert len(pids) == len(set(pids))


@pytest.mark.matrix
def test_a_site_leaves_uwsgi_and_comes_back_while_jobs_wait(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    with under_uwsgi(folder, OURS) as site:
        assert site.server.post("/forever").text == "done"
        site.history.wait_for("forever", "again", count=2)
    before = len(site.history.events("forever"))
    words = [sys.executable, "-m", "flask", "--app", "compat_site", "spool", "run"]
    env = {**os.environ, **environment_in(folder), "LIBRARY": OURS}
    with (folder / "runner.log").open("ab") as log:
        runner = subprocess.Popen(words, cwd=SITE, env=env, stdout=log, stderr=log)
        try:
            site.history.wait_for("forever", "again", count=before + 2)
        finally:
            runner.kill()
            runner.wait(60)
    before = len(site.history.events("forever"))
    with site_in(folder, module="compat_site", env={"LIBRARY": OURS}).server:
        site.history.wait_for("forever", "again", count=before + 2)
