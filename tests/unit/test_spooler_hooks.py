"""Hooks at the start and the end of processes that run jobs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app
from uwsgi_server import wait_until

from spoolkit import ConfigurationError, SpoolKit, State, application, callbacks, spool
from spoolkit.lifecycle import spooler_signals
from spoolkit.spooling import handler, spooler_hooks
from spoolkit.spooling.standalone import Spooler
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
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_only_a_spooler_with_something_to_do_at_its_end_waits_for_signals(
    kit: SpoolKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[Any] = []
    monkeypatch.setattr(bridge, "is_spooler", lambda: True)
    monkeypatch.setattr(spooler_signals, "run_at_exit", waits.append)
    kit.on_spooler_start(lambda: seen.append("start"))
    assert spooler_hooks.start(os.curdir, handler.end)
    assert waits == []
    spooler_hooks._state.discard()
    kit.on_spooler_stop(lambda: seen.append("stop"))
    assert spooler_hooks.start(os.curdir, handler.end)
    assert spooler_hooks.start(os.curdir, handler.end)
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
