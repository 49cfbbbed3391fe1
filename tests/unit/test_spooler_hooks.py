"""Hooks at the start and the end of processes that run jobs."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, current_app
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit import ConfigurationError, SpoolKit, State, application, callbacks, spool
from spoolkit.doctor.examine import examine
from spoolkit.lifecycle import spooler_signals
from spoolkit.signals import job_done
from spoolkit.spooling import handler, spooler_hooks
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import watch
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge

seen: list[Any] = []


@spool(name="hooks.one", retries=0)
def one() -> None:
    seen.append("job")


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpoolKit]:
    monkeypatch.setattr(callbacks, "this_process", callbacks.ThisProcess())
    monkeypatch.setattr(application, "this_process", application.Applications())
    monkeypatch.setattr(spooler_hooks, "_state", PerProcess(spooler_hooks._State))
    app = Flask("with_spooler_hooks")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", TESTING=True)
    kit = SpoolKit(app)
    seen.clear()
    with app.app_context():
        yield kit


def kit_app(kit: SpoolKit) -> Flask:
    (app,) = kit._apps
    return app


def started() -> spooler_hooks._State:
    """The state of a process whose hooks of the start have run."""
    state = spooler_hooks._State()
    state.has_started = True
    return state


def yields() -> Iterator[None]:
    yield


async def awaits() -> None: ...


@pytest.mark.parametrize("function", [yields, awaits, None], ids=["yield", "async", "nothing"])
@pytest.mark.parametrize("decorator", ["headers", "on_spooler_start", "on_spooler_stop"])
def test_a_function_whose_call_would_do_nothing_is_refused(decorator: str, function: Any, kit: SpoolKit) -> None:
    with pytest.raises(ConfigurationError, match=f"@{decorator} is above .*without yield or async"):
        getattr(kit, decorator)(function)


@pytest.fixture
def work(kit: SpoolKit, tmp_path: Path) -> Callable[[], None]:
    return Spooler(str(tmp_path / "spool")).run_due


def test_they_run_once_around_all_jobs_of_a_process(kit: SpoolKit, work: Callable[[], None]) -> None:
    for name in ("first", "second"):
        kit.on_spooler_start(lambda name=name: seen.append((name, current_app.name, os.getcwd())))
        kit.on_spooler_stop(lambda name=name: seen.append(f"end of {name}"))
    where = handler.this_process.working_directory or os.getcwd()
    handler.end()
    assert seen == [], "no job has run"
    one()
    one()
    work()
    handler.end()
    handler.end()
    started = [(name, "with_spooler_hooks", where) for name in ("first", "second")]
    assert seen == [*started, "job", "job", "end of second", "end of first"]


@pytest.mark.parametrize("error", [ValueError, SystemExit])
def test_while_a_hook_of_the_start_fails_jobs_wait(
    kit: SpoolKit, work: Callable[[], None], error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooler_hooks, "PAUSE", 0.0)
    failures = [error("no database"), error("no database")]
    kit.on_spooler_start(lambda: seen.append("before"))

    @kit.on_spooler_start
    def fails() -> None:
        if failures:
            raise failures.pop()

    job = one()
    for _ in range(2):
        work()
        assert job.state is State.QUEUED
    work()
    assert (job.state, job.attempt, seen) == (State.DONE, 1, ["before", "job"])


def test_a_failed_hook_is_not_tried_for_each_job(kit: SpoolKit, work: Callable[[], None]) -> None:
    @kit.on_spooler_start
    def fails() -> None:
        seen.append("tried")
        raise ValueError

    one.map([()] * 5)
    work()
    assert seen == ["tried"]


def test_a_hook_that_goes_on_failing_is_logged_shortly_and_tried_ever_less_often(
    kit: SpoolKit, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(spooler_hooks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    errors: list[Exception] = [ValueError("no database")] * 3 + [OSError("no network")] * 4

    @kit.on_spooler_start
    def open_pool() -> None:
        if errors:
            seen.append(now[0])
            raise errors.pop(0)

    job = one()

    def found() -> list[str]:
        spool_dir = locations.spool_dir()
        return [one.problem for one in examine(spool_dir, store=locations.store().path) if one.check == "start-hook"]

    for _ in range(1000):
        if not errors:
            break
        work()
        (problem,) = found()
        assert "open_pool of its start fails: " in problem
        now[0] += 5
    assert [after - before for before, after in itertools.pairwise(seen)] == [5, 10, 20, 40, 60, 60]
    lines = [record for record in caplog.records if "runs no job yet" in record.message]
    assert [record.exc_info is not None for record in lines] == [True, False, False, True, False, False, False]
    assert "next try in 60 s" in lines[-1].message
    now[0] += 60
    work()
    assert (job.state, found()) == (State.DONE, [])


def test_a_hook_or_a_receiver_that_takes_long_is_named_in_the_log(
    kit: SpoolKit, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watch, "LIMIT", 0.0)
    monkeypatch.setattr(watch, "PAUSE", 0.01)

    def wait_for_its_name(which: str) -> None:
        wait_until(lambda: f"{which} " in caplog.text)

    @kit.on_spooler_start
    def slow_start() -> None:
        wait_for_its_name("slow_start, a hook of the start of spoolers, has been running for 0 s in process")

    def slow_receiver(sender: str, **_: Any) -> None:
        wait_for_its_name("slow_receiver of the signal job-done has been running for 0 s in process")

    @kit.on_spooler_stop
    def slow_stop() -> None:
        wait_for_its_name("slow_stop, a hook of the end of spoolers, has been running for 0 s in process")

    job = one()
    with job_done.connected_to(slow_receiver):
        work()
    handler.end()
    assert (job.state, [record.levelname for record in caplog.records if "failed" in record.message]) == ("done", [])


def test_the_thread_that_watches_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.01)
    for _ in range(100):
        with watch.watching("a call"):
            pass
    wait_until(lambda: not any(thread.name == "spoolkit-watch" for thread in threading.enumerate()))


def test_a_stop_does_not_reach_the_thread_that_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_watcher", PerProcess(watch._Watcher))
    with watch.watching("a call"):
        thread = watch._watcher.get()._thread
        assert thread is not None

        def blocked() -> int:
            status = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
            return int(status.partition("SigBlk:")[2].split()[0], 16)

        wait_until(lambda: bool(blocked() & 1 << signal.SIGTERM - 1))


def test_a_hook_of_the_end_that_fails_does_not_keep_the_others_from_running(
    kit: SpoolKit, work: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    kit.on_spooler_stop(lambda: seen.append("closed"))

    @kit.on_spooler_stop
    def fails() -> None:
        raise SystemExit("no")

    one()
    work()
    handler.end()
    assert seen == ["job", "closed"]
    assert "a hook of its end failed" in caplog.text


def test_hooks_of_several_applications_run_once(kit: SpoolKit, work: Callable[[], None]) -> None:
    another = Flask("another")
    another.config.update(SPOOLKIT_SPOOL=Path("/nowhere"), TESTING=True)
    kit.init_app(another)
    kit.on_spooler_start(lambda: seen.append("start"))
    kit.on_spooler_stop(lambda: seen.append("stop"))
    one()
    work()
    handler.end()
    assert seen == ["start", "job", "stop"]


def test_hooks_of_the_end_that_hang_end_the_process_after_the_grace_period(
    kit: SpoolKit, work: Callable[[], None]
) -> None:
    kit_app(kit).config["SPOOLKIT_GRACE"] = 1

    @kit.on_spooler_stop
    def hangs() -> None:
        time.sleep(300)

    one()
    work()
    if not (pid := os.fork()):
        spooler_hooks._state.set(started())
        try:
            handler.end()
        finally:
            os._exit(0)
    assert wait_child(pid) == 1


def test_only_a_spooler_with_something_to_do_at_its_end_waits_for_signals(
    kit: SpoolKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(bridge, "is_spooler", lambda: True)
    monkeypatch.setattr(spooler_signals, "run_at_exit", waits.append)
    kit.on_spooler_start(lambda: seen.append("start"))
    assert spooler_hooks.start(os.curdir, locations.spool_dir(), handler.end)
    assert waits == []
    spooler_hooks._state.discard()
    kit.on_spooler_stop(lambda: seen.append("stop"))
    assert spooler_hooks.start(os.curdir, locations.spool_dir(), handler.end)
    assert spooler_hooks.start(os.curdir, locations.spool_dir(), handler.end)
    assert waits == [handler.end]


SITE = """
import os
from flask import Flask
from spoolkit import SpoolKit, spool

app = Flask(__name__)
kit = SpoolKit(app)

def note(word):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{word} {os.getpid()}\\n")

kit.on_spooler_start(lambda: note("start"))
kit.on_spooler_stop(lambda: note("stop"))

@spool
def job():
    note("job")

with app.app_context():
    job()
"""


def test_flask_spool_run_calls_them(tmp_path: Path) -> None:
    (tmp_path / "hooked_site.py").write_text(SITE)
    notes = tmp_path / "notes"
    environment = {**os.environ, "NOTES": str(notes), "SPOOLKIT_SPOOL": str(tmp_path / "spool")}
    flask = [sys.executable, "-m", "flask", "--app", "hooked_site"]
    with (tmp_path / "log").open("wb") as log:
        given: dict[str, Any] = {"cwd": tmp_path, "env": environment, "stdout": log, "stderr": log}
        server = subprocess.Popen([*flask, "spool", "run"], **given)
        try:
            wait_until(lambda: notes.exists() and "job" in notes.read_text())
        finally:
            server.terminate()
            server.wait(120)
    words = [line.split() for line in notes.read_text().splitlines()]
    assert [word for word, _ in words] == ["start", "job", "stop"], (tmp_path / "log").read_text()
    assert len({pid for _, pid in words}) == 1
