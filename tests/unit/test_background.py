"""Background threads: start and stop, failures, queues; and the extension that they are added to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context
from uwsgi_server import wait_until

from spoolkit import BackgroundThread, ConfigurationError, QueueFull, QueueThread, SpoolKit, registry, spool, thread
from spoolkit.threads import background
from spoolkit.threads.filelock import exclusive_lock
from spoolkit.uwsgi import bridge

seen: list[Any] = []


class Beat(BackgroundThread):
    """Records each of its calls."""

    def __init__(self) -> None:
        self.turns = 0  # without super().__init__()

    def startup(self) -> None:
        seen.append(("startup", current_app.name, threading.current_thread().name))

    def handle(self) -> None:
        self.turns += 1
        assert g.get("turn") is None, "a turn saw the context of the one before"
        g.turn = self.turns
        assert not has_request_context()
        self.wait(0.005)

    def shutdown(self) -> None:
        seen.append(("shutdown", current_app.name))


class Fails(BackgroundThread):
    def __init__(self, *, startups: int = 0, turns: int = 0) -> None:
        self.startups, self.turns = startups, turns

    def startup(self) -> None:
        self.startups -= 1
        if self.startups >= 0:
            raise ValueError("not yet")

    def handle(self) -> None:
        self.turns -= 1
        if self.turns >= 0:
            raise SystemExit("trouble")
        seen.append("handled")
        self.wait(15)

    def shutdown(self) -> None:
        seen.append("shutdown")
        raise ValueError("trouble at the end")


class Items(QueueThread[Any]):
    size = 3

    def __init__(self) -> None:
        self.go = threading.Event()

    def handle(self, item: Any) -> None:
        if item == "wait":
            seen.append("waiting")
            assert self.go.wait(60)
        if item == "bad":
            raise ValueError(item)
        seen.append(item)

    def shutdown(self) -> None:
        seen.append("shutdown")


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    seen.clear()
    app = Flask("an_application", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    return app


@pytest.fixture
def kit(app: Flask) -> Iterator[SpoolKit]:
    kit = SpoolKit(app)
    yield kit
    kit.drain(60)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_PAUSE", 0.01)


def test_a_background_thread_starts_up_handles_repeatedly_and_shuts_down_once(kit: SpoolKit) -> None:
    beat = Beat()
    kit.add_thread(beat)
    assert not seen, "a test starts no thread unless it says so"
    kit.start_threads()
    kit.start_threads()
    wait_until(lambda: beat.turns > 3)
    assert not beat.stopping
    kit.drain(60)
    assert beat.stopping
    assert seen == [
        ("startup", "an_application", f"spoolkit:{__name__}.Beat"),
        ("shutdown", "an_application"),
    ]
    assert beat.failures == 0
    turns = beat.turns
    kit.drain(60)
    assert (beat.turns, len(seen)) == (turns, 2)


def test_drain_waits_for_pool_jobs_that_a_background_threads_shutdown_enqueues(kit: SpoolKit) -> None:
    @thread
    def last_words(words: str) -> None:
        time.sleep(0.05)
        seen.append(words)

    class Talks(Beat):
        def shutdown(self) -> None:
            last_words("its last")

    last_words("its first")  # the pool exists before the background thread
    kit.add_thread(Talks())
    kit.start_threads()
    kit.drain(60)
    assert "its last" in seen


def test_a_background_thread_added_after_the_start_starts_at_once(kit: SpoolKit) -> None:
    kit.add_thread(Beat())
    kit.start_threads()
    items = Items()
    kit.add_thread(items)
    items.put(1)
    wait_until(lambda: 1 in seen)


@pytest.mark.usefixtures("impatient")
def test_a_background_thread_that_raises_is_logged_counted_and_called_again(
    kit: SpoolKit, caplog: pytest.LogCaptureFixture
) -> None:
    fails = Fails(startups=2, turns=3)
    kit.add_thread(fails)
    kit.start_threads()
    wait_until(lambda: seen == ["handled"])
    assert fails.failures == 5
    assert caplog.text.count("Fails: startup() raised") == 2
    assert caplog.text.count("Fails: handle() raised") == 3
    assert "SystemExit: trouble" in caplog.text
    kit.drain(60)
    assert seen == ["handled", "shutdown"]
    assert "trouble at the end" in caplog.text


def test_the_pause_after_failures_doubles_and_starts_over_after_a_success(
    kit: SpoolKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails, pauses = Fails(turns=8), list[float]()

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 9:
            fails.turns = 1
        elif len(pauses) == 10:
            fails.stop()
        return False

    monkeypatch.setattr(fails, "wait", wait)
    kit.add_thread(fails)
    kit.start_threads()
    wait_until(lambda: "shutdown" in seen)
    # Eight failures, a turn that waits by itself, and a failure after it.
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 15, 1]


def test_stop_ends_the_pause_after_a_failure(kit: SpoolKit) -> None:
    fails = Fails(turns=1000)
    kit.add_thread(fails)
    kit.start_threads()
    wait_until(lambda: fails.failures == 1)
    kit.drain(60)
    assert seen == ["shutdown"]


def test_shutdown_runs_even_if_startup_never_succeeds(kit: SpoolKit) -> None:
    fails = Fails(startups=1000)
    kit.add_thread(fails)
    kit.start_threads()
    wait_until(lambda: fails.failures == 1)
    kit.drain(60)
    assert seen == ["shutdown"]


def test_a_background_thread_that_outlives_the_grace_period_is_logged_with_its_lost_items(
    kit: SpoolKit, caplog: pytest.LogCaptureFixture
) -> None:
    items = Items()
    kit.add_thread(items)
    kit.start_threads()
    for item in ("wait", 1, 2):
        items.put(item)
    wait_until(lambda: seen == ["waiting"])
    kit.drain(0.05)
    assert "Items did not stop within the grace period" in caplog.text
    assert "Items: items of its queue lost with the process: 3, of which 1 in handle()" in caplog.text
    with pytest.raises(ConfigurationError):
        items.put("too late")
    items.go.set()
    wait_until(lambda: "shutdown" in seen)


def test_a_queue_thread_handles_items_in_order_also_after_one_that_raises(kit: SpoolKit, impatient: None) -> None:
    items = Items()
    kit.add_thread(items)
    kit.start_threads()
    for item in (1, "bad", 2):
        items.put(item)
        wait_until(lambda: not items)
    wait_until(lambda: seen == [1, 2])
    wait_until(lambda: items.failures == 1)


def test_put_into_a_full_queue_raises_queue_full(kit: SpoolKit) -> None:
    items = Items()
    kit.add_thread(items)
    kit.start_threads()
    items.put("wait")
    wait_until(lambda: seen == ["waiting"])
    for number in range(3):
        items.put(number)
    assert len(items) == 3
    with pytest.raises(QueueFull, match="3 items already wait") as refused:
        items.put("one too many")
    assert refused.value.limit == 3
    items.go.set()


def test_a_queue_thread_handles_its_queue_before_it_stops(kit: SpoolKit) -> None:
    items = Items()
    kit.add_thread(items)
    kit.start_threads()
    for item in ("wait", "bad", 1):
        items.put(item)
    wait_until(lambda: seen == ["waiting"])
    items.stop()
    items.go.set()
    kit.drain(60)
    assert seen == ["waiting", "wait", 1, "shutdown"]


def test_a_stopped_queue_thread_can_be_started_again(kit: SpoolKit) -> None:
    items = Items()
    kit.add_thread(items)
    for item in (1, 2):
        kit.start_threads()
        items.put(item)
        wait_until(lambda: not items)
        kit.drain(60)
    assert seen == [1, "shutdown", 2, "shutdown"]


def test_put_raises_if_the_queue_thread_does_not_run_here(kit: SpoolKit) -> None:
    items = Items()
    with pytest.raises(ConfigurationError, match="does not run in this process"):
        items.put(1)
    kit.add_thread(items)
    with pytest.raises(ConfigurationError, match=r"kit\.start_threads\(\)"):
        items.put(1)


def test_add_thread_refuses_a_second_of_a_class_a_bad_where_and_anything_but_a_background_thread(
    kit: SpoolKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.add_thread(Beat())
    for wrong in (
        lambda: kit.add_thread(Beat()),
        lambda: kit.add_thread(Items(), where="one process"),
        lambda: kit.add_thread(Items(), where="everywhere"),  # type: ignore[arg-type]
        lambda: kit.add_thread(Items),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError):
            wrong()
    monkeypatch.setattr(bridge, "has_threads", lambda: False)
    with pytest.raises(ConfigurationError, match="enable-threads"):
        kit.add_thread(Items())


def test_a_background_thread_without_handle_is_logged(
    kit: SpoolKit, caplog: pytest.LogCaptureFixture, impatient: None
) -> None:
    class Empty(BackgroundThread):
        pass

    kit.add_thread(Empty())
    kit.start_threads()
    wait_until(lambda: "Empty needs a handle() method" in caplog.text)


def test_background_threads_start_with_the_first_request_under_an_unknown_server(app: Flask) -> None:
    kit = SpoolKit()
    beat = Beat()
    kit.add_thread(beat)
    kit.init_app(app)
    app.add_url_rule("/", view_func=lambda: "")
    assert beat.turns == 0
    app.test_client().get("/")
    app.test_client().get("/")
    wait_until(lambda: beat.turns > 0)
    assert [entry[0] for entry in seen] == ["startup"]
    kit.drain(60)


def test_background_threads_do_not_start_with_a_request_of_a_test(app: Flask) -> None:
    app.testing = True
    kit = SpoolKit(app)
    items = Items()
    kit.add_thread(items)
    app.add_url_rule("/", view_func=lambda: "")
    app.test_client().get("/")
    with pytest.raises(ConfigurationError):
        items.put(1)


# where="one process".

HOLDER = """
import sys
from spoolkit.threads.filelock import exclusive_lock
with exclusive_lock(sys.argv[1], lambda seconds: True):
    print("has it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    lock = tmp_path / "spool" / "threads" / f"{__name__}.Beat.lock"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        yield process
        process.kill()


def test_a_thread_of_one_process_starts_here_once_the_process_that_had_it_is_killed(
    kit: SpoolKit, holder: subprocess.Popen[str]
) -> None:
    beat = Beat()
    kit.add_thread(beat, where="one process")
    kit.start_threads()
    wait_until(lambda: any(thread.name.endswith(".Beat") for thread in threading.enumerate()))
    assert seen == []
    holder.kill()
    wait_until(lambda: beat.turns > 0)
    kit.drain(60)
    assert [entry[0] for entry in seen] == ["startup", "shutdown"]


def test_drain_does_not_wait_for_a_thread_that_waits_for_its_lock(kit: SpoolKit, holder: subprocess.Popen[str]) -> None:
    kit.add_thread(Beat(), where="one process")
    kit.start_threads()
    kit.drain(1000)
    assert seen == []


def test_exclusive_lock_tries_again_if_the_lock_file_cannot_be_created(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "folder").write_text("a file in its place")

    def repair(seconds: float) -> bool:
        (tmp_path / "folder").unlink()
        return False

    with exclusive_lock(str(tmp_path / "folder" / "lock"), repair):
        assert (tmp_path / "folder" / "lock").exists()
    assert "cannot create the lock file" in caplog.text


# Tasks as attributes of the extension.


@thread
def record_visit(node: int) -> None:
    seen.append(("visit", node))


@spool
def send(word: str) -> None: ...


def test_tasks_are_attributes_of_the_extension(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process declare tasks of the same names.
    ours = {name: task for name, task in registry.this_process.tasks.items() if name.startswith(f"{__name__}.")}
    monkeypatch.setattr(registry.this_process, "tasks", ours)
    background_tasks = SpoolKit()
    background_tasks.init_app(app)
    with app.app_context():
        assert current_app.extensions["spoolkit"] is background_tasks
        background_tasks.record_visit(5)
        wait_until(lambda: seen == [("visit", 5)])
        assert current_app.extensions["spoolkit"].record_visit is record_visit
        assert os.path.exists(app.config["SPOOLKIT_SPOOL"] / f"uwsgi_spoolfile_on_{background_tasks.send('x').id}")


def test_an_attribute_that_names_no_task_or_several_raises_attribute_error(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.this_process, "tasks", dict(registry.this_process.tasks))
    kit = SpoolKit(app)
    with pytest.raises(AttributeError, match="no task 'record_visits' is declared"):
        _ = kit.record_visits
    assert not hasattr(kit, "_anything")

    def other() -> Any:
        @thread
        def send() -> None: ...

        return send

    other()
    with pytest.raises(AttributeError, match=r"test_background\.send.*import the one you mean"):
        _ = kit.send


def test_an_idle_queue_thread_waits_without_a_timeout(kit: SpoolKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an item or a stop wakes it: polling would cost CPU time in every idle process."""
    timeouts = []
    wait = threading.Condition.wait

    def noting(self: threading.Condition, timeout: float | None = None) -> bool:
        if threading.current_thread().name.startswith("spoolkit:"):
            timeouts.append(timeout)
        return wait(self, timeout)

    monkeypatch.setattr(threading.Condition, "wait", noting)
    items = Items()
    kit.add_thread(items)
    kit.start_threads()
    wait_until(lambda: timeouts)
    items.put(1)
    wait_until(lambda: len(timeouts) == 2)
    assert timeouts == [None, None]


def test_items_are_logged_as_lost_if_startup_never_succeeded(kit: SpoolKit, caplog: pytest.LogCaptureFixture) -> None:
    class Unready(Items):
        def startup(self) -> None:
            raise ValueError("not yet")

    unready = Unready()
    kit.add_thread(unready)
    kit.start_threads()
    unready.put(1)
    kit.drain(60)
    assert seen == ["shutdown"]
    assert "Unready: items of its queue lost with the process: 1, of which 0 in handle()" in caplog.text


@pytest.mark.parametrize("name", ["startup", "handle", "shutdown"])
@pytest.mark.parametrize("base", [BackgroundThread, QueueThread])
def test_a_coroutine_or_generator_method_is_refused_when_the_class_is_defined(base: Any, name: str) -> None:
    async def coroutine(self: Any, *args: object) -> None: ...

    def generator(self: Any, *args: object) -> Iterator[int]:
        yield 1

    for function, kind in ((coroutine, "a coroutine function"), (generator, "a generator")):
        with pytest.raises(ConfigurationError, match=rf"^Lazy\.{name} is {kind}") as refused:
            type("Lazy", (base,), {name: function})
        assert refused.value.setting == name
