"""Leaving uWSGI: the same code and directory under another server, and how its stops, reloads and kills end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path

import any_server
import pytest
from uwsgi_server import UwsgiServer, members_of_session, wait_until

from spoolkit.job import State
from spoolkit.store import Store

from .conftest import SITE, History, environment_in, site_in
from .draining import STOP_HOOKS

pytestmark = pytest.mark.matrix

SERVERS = ["gunicorn-gthread", "granian-threads", "waitress", "flask"]


class Runner:
    """``flask spool run`` on the directory of the site."""

    def __init__(self, folder: Path, **env: str) -> None:
        command = [sys.executable, "-m", "flask", "--app", "leaving_app", "spool", "run", "--processes", "2"]
        environment = {**os.environ, **environment_in(folder), **env}
        with (folder / "runner.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=SITE,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def exited(self) -> bool:
        return self._process.poll() is not None

    def stop(self, timeout: float = 60) -> None:
        self._process.terminate()
        self._process.wait(timeout)

    def kill(self) -> None:
        """Kill all of its processes, also those that have groups of their own."""

        def gone() -> bool:
            for pid in members_of_session(self.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return self.exited and not members_of_session(self.pid)

        wait_until(gone, message="processes of flask spool run survived")


@contextlib.contextmanager
def runner(folder: Path, **env: str) -> Iterator[Runner]:
    running = Runner(folder, **env)
    try:
        yield running
    finally:
        running.kill()


def uwsgi(folder: Path, **env: str) -> UwsgiServer:
    """The site under uWSGI, with one spooler, so that what waits behind a running job waits."""
    return site_in(folder, *STOP_HOOKS, module="leaving_app", processes=2, env=env).server


def other(folder: Path, kind: str, **env: str) -> UwsgiServer:
    return any_server.start(kind, folder, site=SITE, module="leaving_app", env={**environment_in(folder), **env})


def enqueue(server: UwsgiServer, task: str, delay: float = 0.0, seconds: float = 0.0) -> str:
    answer = server.post(f"/enqueue/{task}/{delay:.1f}/{seconds:.1f}")
    assert answer.status == 200, server.log()[-3000:]
    return str(answer.json["job"])


def state(folder: Path, id: str) -> State | None:
    store = Store(str(folder / "spool" / "spoolkit.db"))
    try:
        status = store.status(id)
        return None if status is None else status.state
    finally:
        store.close()


def outcomes(folder: Path, id: str) -> list[str]:
    store = Store(str(folder / "spool" / "spoolkit.db"))
    try:
        return [attempt.outcome for attempt in store.history(id)[0]]
    finally:
        store.close()


def flask_spool(folder: Path, *words: str) -> None:
    command = [sys.executable, "-m", "flask", "--app", "leaving_app", "spool", *words]
    environment = {**os.environ, **environment_in(folder)}
    done = subprocess.run(command, cwd=SITE, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for_ends(history: History, jobs: dict[str, str]) -> None:
    def missing() -> dict[str, str]:
        return {name: id for name, id in jobs.items() if not history.events("end", id)}

    wait_until(lambda: not missing(), timeout=80, message=lambda: f"not ended: {missing()}")


def check_ticks(history: History) -> None:
    """Each due time from the first to the last has run, and once."""
    ticks = Counter(int(event.words[1]) for event in history.events("tick"))
    assert [due for due, number in ticks.items() if number > 1] == []
    assert [(before, after) for before, after in pairwise(sorted(ticks)) if after - before > 1] == []


@pytest.mark.parametrize("kind", SERVERS)
def test_jobs_in_every_state_go_on_under_another_server_and_back_under_uwsgi(
    kind: str, tmp_path: Path, history: History
) -> None:
    released = tmp_path / "released"
    with uwsgi(tmp_path, SPOOLKIT_GRACE="1") as server:
        any_server.wait_until_complete("uwsgi", server)
        server.wait_for_spoolers()
        history.wait_for("tick")
        dead = enqueue(server, "broken")
        wait_until(lambda: state(tmp_path, dead) is State.DEAD)
        retrying = enqueue(server, "fails")
        history.wait_for("start", retrying)
        cut = enqueue(server, "held")
        history.wait_for("start", cut)
        jobs = {"cut": cut, "retrying": retrying, "delayed": enqueue(server, "work", delay=2)}
        jobs |= {f"waiting {number}": enqueue(server, "work") for number in range(3)}
        os.kill(server.master_pid, signal.SIGTERM)
        any_server.wait_for_exit(server)
    assert outcomes(tmp_path, cut) == ["interrupted"]
    assert history.events("end") == []
    before = history.events("tick")[-1].words[1]

    released.touch()
    (tmp_path / "repaired").touch()
    with other(tmp_path, kind) as server, runner(tmp_path) as run:
        jobs["called there"] = enqueue(server, "work")
        wait_for_ends(history, jobs)
        flask_spool(tmp_path, "retry", dead)
        wait_for_ends(history, jobs | {"dead": dead})
        # What was missed meanwhile, and new ones.
        wait_until(
            lambda: int(history.events("tick")[-1].words[1]) > int(before) + 3, message=lambda: run_log(tmp_path)
        )
        jobs["back"] = enqueue(server, "work", delay=2)
        any_server.ask_to_stop(kind, server)
        any_server.wait_for_exit(server)
        run.stop()
    ticks = len(history.events("tick"))

    with uwsgi(tmp_path) as server:
        jobs["called back"] = enqueue(server, "work")
        wait_for_ends(history, jobs)
        wait_until(lambda: len(history.events("tick")) > ticks + 2, message=server.log)
    assert {name: len(history.events("end", id)) for name, id in jobs.items()} == dict.fromkeys(jobs, 1)
    del jobs["retrying"]
    starts = {name: len(history.events("start", id)) for name, id in jobs.items()}
    assert starts == dict.fromkeys(jobs, 1) | {"cut": 2}
    check_ticks(history)


def run_log(folder: Path) -> str:
    return (folder / "runner.log").read_text()[-3000:]


@pytest.mark.parametrize("action", ["stop", "reload", "kill"])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_stop_a_reload_and_a_kill_of_another_server_lose_no_job(
    kind: str, action: str, tmp_path: Path, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two jobs of two seconds run and two wait, with a thread job and a request of two seconds."""
    if action == "reload" and kind in any_server.ONE_PROCESS:
        pytest.skip("it has no reload")
    answers: list[str] = []

    def ask(server: UwsgiServer) -> None:
        with contextlib.suppress(OSError, HTTPException):
            answers.append(server.get("/slow/2.0").text)

    with other(tmp_path, kind) as server, runner(tmp_path) as run:
        any_server.wait_until_complete(kind, server)
        old = server.worker_pids()
        # Until the kill, so that it comes in their midst however long it takes to come.
        task = "held" if action == "kill" else "work"
        jobs = {f"running {number}": enqueue(server, task, seconds=2) for number in range(2)}
        for id in jobs.values():
            history.wait_for("start", id)
        jobs |= {f"waiting {number}": enqueue(server, "work", seconds=0.1) for number in range(2)}
        in_thread = str(server.post("/thread/2.0").json["job"])
        history.wait_for("start", in_thread)
        client = threading.Thread(target=ask, args=[server])
        client.start()
        history.wait_for("request")
        begun = time.monotonic()
        if action == "kill":
            server.kill()
            run.kill()
            (tmp_path / "released").touch()
        else:
            os.kill(run.pid, signal.SIGTERM)
            any_server.ask_to_reload(kind, server, tmp_path) if action == "reload" else any_server.ask_to_stop(
                kind, server
            )
            if action == "reload":
                any_server.wait_for_others(server, old)
            else:
                any_server.wait_for_exit(server)
            wait_until(lambda: run.exited, timeout=60, message=lambda: run_log(tmp_path))
        took = time.monotonic() - begun
        client.join(60)
        assert not client.is_alive()
        finished = sum(bool(history.events("end", id)) for name, id in jobs.items() if "running" in name)
        with runner(tmp_path):
            wait_for_ends(history, jobs)
            # A thread job of a killed process is marked as lost by the next process that looks.
            wait_until(
                lambda: state(tmp_path, in_thread) in (State.DONE, State.LOST), message=lambda: run_log(tmp_path)
            )
    twice = sum(len(history.events("end", id)) > 1 for id in jobs.values())
    cut = sum(len(history.events("start", id)) > 1 for id in jobs.values())
    thread_job = state(tmp_path, in_thread)
    with capsys.disabled():
        print(
            f"\n| {kind} | {action} | {finished} | {cut} | {twice} | 0 | {thread_job} | "
            f"{'answered' if answers else 'no answer'} | {took:.1f} s |"
        )
    assert twice == 0
    if action == "kill":
        assert (finished, cut) == (0, 2), "each was killed in its attempt, and ran again"
    else:
        assert (finished, cut, thread_job) == (2, 0, State.DONE)
