"""The names of uwsgidecorators that are not about the spooler, without uWSGI."""

from __future__ import annotations

import ast
import importlib.util
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from life_process import in_child, read_pipe, start_child, wait_child

from spoolkit import ConfigurationError, SpoolKit, SpoolUnavailableError, State, TaskFunctionError, registry
from spoolkit.compat import mules, processes, refused, uwsgidecorators
from spoolkit.compat.uwsgidecorators import (
    cron,
    get_free_signal,
    lock,
    mule,
    mulefunc,
    muleloop,
    postfork,
    rbtimer,
    thread,
    timer,
)
from spoolkit.lifecycle import hooks
from spoolkit.schedules import declared, ticks
from spoolkit.spooldir import dead
from spoolkit.spooling import supervisor
from spoolkit.store import locations
from spoolkit.system.process import PerProcess

PAGE = (Path(__file__).parents[2] / "docs" / "compat.md").read_text()

Work = Callable[[], None]
Pass = Callable[[float], None]


@pytest.fixture(autouse=True)
def own_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    monkeypatch.setattr(processes, "at_fork", [])
    monkeypatch.setattr(processes, "_called", PerProcess(processes._Called))
    monkeypatch.setattr(hooks, "_start_hooks", [])


def names_of_stock() -> set[str]:
    """The public names of the module uwsgidecorators, which cannot be imported here."""
    spec = importlib.util.find_spec("uwsgidecorators")
    assert spec is not None
    assert spec.origin is not None
    found: set[str] = set()
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_")}


def test_each_name_of_stock_is_there_and_on_the_page() -> None:
    names = names_of_stock()
    assert len(names) > 25
    assert names == set(uwsgidecorators.__all__)
    assert all(hasattr(uwsgidecorators, name) for name in names)
    table = re.search(r"## Each name\n(.*?)(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    assert table is not None
    assert names <= set(re.findall(r"`(\w+)`", table[1]))


@pytest.mark.parametrize("name", sorted(refused.INSTEAD))
def test_what_needs_uwsgi_is_refused_with_what_stands_in_its_place(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name} of uwsgidecorators needs uWSGI: ") as raised:
        getattr(uwsgidecorators, name)(1)
    assert refused.INSTEAD[name] in str(raised.value)


# Timers and crons


@pytest.mark.parametrize("decorator", [timer, rbtimer])
def test_a_timer_fires_once_per_due_time_and_missed_ones_do_not_pile_up(
    directory: str, work: Work, time_passes: Pass, decorator: Any
) -> None:
    calls: list[int] = []

    @decorator(30, signum=5)
    def beat(signum: int) -> None:
        calls.append(signum)

    assert beat.__name__ == "beat"
    for _ in range(3):  # as three processes
        ticks.reconcile(directory)
    work()
    assert calls == []
    time_passes(30)
    work()
    work()
    assert calls == [5]
    time_passes(3000)
    work()
    work()
    assert calls == [5]  # that one was 50 minutes late
    time_passes(30)
    work()
    work()
    assert calls == [5, 5]


def test_a_cron_fires_at_its_minutes_of_the_local_time(
    directory: str, work: Work, time_passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")  # the clock of the test stands at 9:56:40 there, on Monday, 22 March
    calls: list[str] = []

    @cron(-5, -1, -1, -1, -1)
    def often(signum: int) -> None:
        calls.append("often")

    @cron(7, 10, -11, -3, 1)
    def seldom(signum: int) -> None:
        calls.append("seldom")

    @cron(7, 10, -11, -3, 7)
    def not_on_this_day_of_the_week(signum: int) -> None:
        calls.append("never")

    ticks.reconcile(directory)
    for _ in range(12):
        time_passes(60)
        work()
    assert calls == ["often", "often", "seldom"]  # at 10:00, 10:05, 10:07


def test_a_function_that_raises_is_neither_repeated_nor_dead(
    directory: str, work: Work, time_passes: Pass, caplog: pytest.LogCaptureFixture
) -> None:
    @timer(30)
    def failing(signum: int) -> None:
        raise ValueError("of the application's own")

    ticks.reconcile(directory)
    for count in range(1, 4):
        time_passes(30)
        work()
        work()
        assert caplog.text.count("failed, and runs again at its next due time") == count
    assert (
        not os.path.isdir(os.path.join(directory, dead.FOLDER))
        or os.listdir(os.path.join(directory, dead.FOLDER)) == []
    )
    states = {status.state for status in locations.store().statuses(states=[*State])}
    assert states == {State.CANCELLED}


def test_one_function_may_have_several_timers(directory: str) -> None:
    @timer(30)
    @timer(60)
    @cron(0, -1, -1, -1, -1)
    def beat(signum: int) -> None: ...

    names = sorted(name.partition("@")[2] for name in declared.here())
    assert names == ["cron(0, -1, -1, -1, -1)", "timer(30)", "timer(60)"]


def test_what_a_timer_cannot_be_is_refused_at_its_declaration() -> None:
    def generator(signum: int) -> Any:
        yield signum

    for target in ("workers", "mule1", "farm_a", "active-workers"):
        with pytest.raises(ConfigurationError, match="target"):
            timer(5, target=target)
    with pytest.raises(ConfigurationError, match="every is 0"):
        timer(0)(print_nothing)
    with pytest.raises(ConfigurationError, match="colour"):
        timer(5, colour="red")
    with pytest.raises(TaskFunctionError):
        timer(5)(generator)
    assert get_free_signal() != get_free_signal()


def print_nothing(signum: int) -> None: ...


# Mules


def test_a_call_for_a_mule_is_a_job_that_is_not_repeated(directory: str, work: Work) -> None:
    seen: list[Any] = []

    @mulefunc
    def by_any(*args: object, **kwargs: object) -> None:
        seen.append((args, kwargs))

    @mulefunc(2)
    def by_one(word: str) -> None:
        seen.append(word)
        raise ValueError("of the application's own")

    jobs = [by_any(1, {2}, three=3), by_one("word")]
    work()
    assert seen == [((1, {2}), {"three": 3}), "word"]
    assert [job.state for job in jobs] == [State.DONE, State.DEAD]
    assert {"by_any", "by_one"} <= uwsgidecorators.mule_functions.keys()


def test_a_mule_runs_its_functions_in_order_and_ends_with_its_leash(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mules, "_mules", {})
    monkeypatch.setattr(supervisor, "once", [])
    ends, shown = os.pipe(), os.pipe()

    @mule(1)
    def first() -> None:
        os.write(shown[1], b"f")

    @muleloop(1)
    def loop() -> None:
        os.write(shown[1], b"l")
        time.sleep(0.01)

    @mule(2)
    def other() -> None: ...

    assert len(supervisor.once) == 2

    def child() -> None:
        os.close(ends[1])
        supervisor.once[0](directory, ends[0])

    pid = start_child(child)
    os.close(ends[0])
    assert read_pipe(shown[0], 1) + read_pipe(shown[0], 1) + read_pipe(shown[0], 1) == b"fll"
    os.close(ends[1])
    assert wait_child(pid) == 0


@pytest.mark.parametrize("number", [0, -1, "1", None])
def test_a_mule_without_a_number_is_refused(number: Any) -> None:
    for decorator in (mule, muleloop):
        with pytest.raises(ConfigurationError, match="number of a mule"):
            decorator(number)(print_nothing)


# Threads, processes, the lock


def test_a_thread_is_a_daemon_and_the_call_returns_the_function() -> None:
    done = threading.Event()
    seen: list[object] = []

    def noted(*args: object) -> None:
        seen.append((args, threading.current_thread().daemon))
        done.set()

    decorated = thread(noted)
    assert decorated(1, "two") is noted
    assert done.wait(30)
    assert seen == [((1, "two"), True)]


def test_a_function_with_postfork_is_called_once_in_each_process_that_serves(tmp_path: Path) -> None:
    calls: list[str] = []

    @postfork
    def first() -> None:
        calls.append("first")
        raise ValueError("of the application's own")

    app = Flask("the_application")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)

    @postfork
    def second() -> None:
        calls.append("second")

    @app.get("/")
    def page() -> str:
        return "page"

    assert calls == []
    client = app.test_client()
    client.get("/")
    client.get("/")
    assert calls == ["first", "second"]

    @postfork
    def third() -> None:
        calls.append("third")

    assert calls == ["first", "second", "third"]

    def child() -> None:
        assert postfork(lambda: calls.append("of the child")) is not None
        hooks.run_start_hooks()
        assert calls[3:] == ["first", "second", "third", "of the child"]

    assert in_child(child) == 0


@pytest.mark.parametrize("server", ["granian", "waitress", "gunicorn"])
def test_postfork_waits_until_the_application_is_loaded(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that serves as soon as it has loaded the application, whose code is still running."""
    serves = {"granian": "is_worker", "waitress": "is_serving", "gunicorn": "is_worker"}[server]
    monkeypatch.setattr(getattr(hooks, server), serves, lambda: True)
    monkeypatch.setattr(hooks.gunicorn, "is_loaded", lambda: server == "gunicorn")
    calls: list[str] = []
    app = Flask("the_application")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"

    @app.before_request
    def needs_it() -> None:
        calls.append("request")

    SpoolKit(app)

    @postfork
    def first() -> None:
        calls.append(further_down())

    def further_down() -> str:
        return "first"

    postfork(lambda: calls.append("second"))
    assert calls == []
    app.test_client().get("/")
    assert calls == ["first", "second", "request"]


def test_no_request_goes_on_before_the_functions_with_postfork_are_over(tmp_path: Path) -> None:
    called, release = threading.Event(), threading.Event()
    order: list[str] = []

    @postfork
    def slow() -> None:
        called.set()
        release.wait(60)
        order.append("postfork")

    app = Flask("the_application")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    app.before_request(lambda: order.append("request"))
    clients = [threading.Thread(target=app.test_client().get, args=["/"]) for _ in range(2)]
    clients[0].start()
    assert called.wait(60)
    clients[1].start()
    clients[1].join(0.2)
    release.set()
    for client in clients:
        client.join(60)
    assert order == ["postfork", "request", "request"]


def test_a_worker_without_a_number_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="postfork"):
        postfork(1)  # type: ignore[type-var]


def test_one_call_at_a_time_runs_of_all_functions_in_all_processes(directory: str) -> None:
    held, release = os.pipe(), os.pipe()
    order: list[str] = []

    @lock
    def first() -> None:
        os.write(held[1], b".")
        read_pipe(release[0])

    @lock
    def nested() -> str:
        return second()

    @lock
    def second() -> str:
        order.append("second")
        return "result"

    process = multiprocessing.get_context("fork").Process(target=first, daemon=True)
    process.start()
    try:
        read_pipe(held[0])
        waiting = threading.Thread(target=nested)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        assert order == []
        os.write(release[1], b".")
        waiting.join(60)
        assert order == ["second"]
    finally:
        process.kill()
        process.join(60)
    assert nested() == "result"


def test_the_lock_ends_with_its_process(directory: str) -> None:
    @lock
    def die() -> None:
        os._exit(3)

    @lock
    def lives() -> str:
        return "result"

    assert in_child(die) == 3
    assert lives() == "result"


def test_the_lock_is_not_that_of_a_process_that_is_forked_within(directory: str) -> None:
    @lock
    def forks() -> int:
        def child() -> None:
            # Otherwise it would wait here for its parent, which waits for it.
            assert processes._holder.pid != os.getpid()

        return in_child(child)

    assert forks() == 0


def test_a_lock_without_a_spool_directory_raises(tmp_path: Path) -> None:
    app = Flask("the_application")
    (tmp_path / "file").write_text("")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "file"
    SpoolKit(app)
    with app.app_context(), pytest.raises(SpoolUnavailableError):
        lock(print)("never")
