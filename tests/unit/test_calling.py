"""How a task's function is called: coroutines run in a loop of their own, and what is not done is not taken for it."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context, request
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit import (
    Job,
    JobFailedError,
    JobTimeout,
    SpoolKit,
    State,
    current_job,
    spool,
    thread,
)
from spoolkit.job import FINISHED
from spoolkit.spooling.standalone import Spooler

word: ContextVar[str] = ContextVar("word", default="nothing")
seen: list[Any] = []
numbers = itertools.count()


async def tell(what: str) -> dict[str, Any]:
    await asyncio.sleep(0)
    job = current_job()
    job.progress(1, 2, what)
    print("said by the task")
    g.what = what
    in_thread = await asyncio.to_thread(lambda: (current_app.name, current_job().id, g.what))
    word.set("of the task")
    return {"app": current_app.name, "job": job.id, "in_thread": in_thread == (current_app.name, job.id, what)}


async def hang(cleanup: str = "") -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        seen.append("cancelled")
        if cleanup == "returns":
            return "cleaned up"
        if cleanup == "raises":
            raise ValueError("no cleaning up") from None
        raise
    return "never"


async def own_timeout() -> None:
    async with asyncio.timeout(0.01):
        await asyncio.sleep(60)


async def group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(asyncio.sleep(60))
        tasks.create_task(asyncio.sleep(60))


async def stop_when_asked() -> None:
    seen.append("running")
    while True:
        current_job().progress(0)
        await asyncio.sleep(0.005)


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("trouble")


async def exit_now() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def fork() -> int:
    pid = os.fork()
    if pid == 0:
        return 7  # the child comes back
    return wait_child(pid)


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: object, **kwargs: object) -> object:
        return function(*args, **kwargs)

    return inner


class Awaits:
    def __await__(self) -> Iterator[None]:
        yield


def declare(function: Callable[..., Any], **options: Any) -> dict[str, Any]:
    name = f"{function.__name__}.{next(numbers)}"
    return {
        "spool": spool(name=f"calling.spool.{name}", retries=0, **options)(function),
        "thread": thread(name=f"calling.thread.{name}", **options)(function),
    }


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[Flask]:
    seen.clear()
    app = Flask("an_application", root_path=str(tmp_path))
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_THREADS=2)
    SpoolKit(app)
    with app.app_context():
        yield app


@pytest.fixture(params=["spool", "thread"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Job]:
    """Have the function run as a job to its end."""

    def run(function: Callable[..., Any], *args: object, **options: Any) -> Job:
        job = declare(function, **options)[request.param](*args)
        if request.param == "spool":
            Spooler(str(tmp_path / "spool")).run_due()
        wait_until(lambda: job.state in FINISHED, message=lambda: str(job.status))
        return job

    return run


def test_a_coroutine_runs_to_its_end_in_the_applications_context(run: Callable[..., Job]) -> None:
    job = run(tell, "hello", timeout=30)
    assert job.result == {"app": "an_application", "job": job.id, "in_thread": True}
    assert job.progress is not None
    assert job.progress.note == "hello"
    assert "said by the task" in job.attempts[0].log
    assert word.get() == "nothing"


def test_a_timeout_cancels_a_coroutine_and_its_traceback_says_where(run: Callable[..., Job]) -> None:
    job = run(hang, timeout=0.5)
    with pytest.raises(JobTimeout, match=r"has run for 0\.5 seconds, its timeout"):
        _ = job.result
    assert seen == ["cancelled"]
    traceback = job.attempts[0].traceback
    assert traceback is not None
    assert "await asyncio.sleep(60)" in traceback
    assert (job.status.ending, job.status.error_type) == ("timeout", "JobTimeout")


@pytest.mark.parametrize(("cleanup", "ending"), [("returns", None), ("raises", "failed")])
def test_a_cancelled_coroutine_may_clean_up_and_end_otherwise(
    run: Callable[..., Job], cleanup: str, ending: str | None
) -> None:
    job = run(hang, cleanup, timeout=0.5)
    assert job.status.ending == ending
    if ending is None:
        assert job.result == "cleaned up"
    assert seen == ["cancelled"]


def test_a_timeout_cancels_a_whole_task_group(run: Callable[..., Job]) -> None:
    assert run(group, timeout=0.5).status.ending == "timeout"


def test_a_timeout_error_of_the_coroutines_own_is_an_ordinary_failure(run: Callable[..., Job]) -> None:
    job = run(own_timeout, timeout=60)
    assert (job.status.ending, job.status.error_type) == ("failed", "TimeoutError")


def test_the_traceback_of_an_error_starts_in_the_task(run: Callable[..., Job]) -> None:
    job = run(fail, timeout=60)
    assert (job.state, job.status.error_type) == (State.DEAD, "ValueError")
    traceback = job.attempts[0].traceback
    assert traceback is not None
    assert traceback.count('File "') == 1
    assert ", in fail\n" in traceback


def test_an_exit_is_a_failure_of_the_task(run: Callable[..., Job]) -> None:
    assert run(exit_now).status.error_type == "SystemExit"


def test_a_forked_child_that_returns_from_the_task_is_ended(run: Callable[..., Job]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Python 3.12 warns of a fork beside threads.
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        assert run(fork).result == 0


@pytest.mark.parametrize("engine", ["spool", "thread"])
def test_a_coroutine_of_a_cancelled_job_stops(engine: str, tmp_path: Path) -> None:
    task = declare(stop_when_asked)[engine]
    job: Job = task()

    def cancel() -> None:
        wait_until(lambda: seen == ["running"])
        job.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    if engine == "spool":
        Spooler(str(tmp_path / "spool")).run_due()
    canceller.join(60)
    wait_until(lambda: job.state is State.CANCELLED)


def test_a_signal_during_the_event_loop_breaks_nothing(app: Flask, tmp_path: Path) -> None:
    rang: list[int] = []

    async def signalled() -> str:
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR2)
            await asyncio.sleep(0.001)
        return "whole"

    before = signal.signal(signal.SIGUSR2, lambda signum, frame: rang.append(signum))
    try:
        job = spool(name="calling.signalled", timeout=30)(signalled)()
        Spooler(str(tmp_path / "spool")).run_due()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert job.result == "whole"
    assert rang


def test_run_runs_a_coroutine_at_once_even_within_an_event_loop() -> None:
    tasks = declare(tell)
    assert tasks["spool"].run("x")["in_thread"] is True

    async def within() -> dict[str, Any]:
        return tasks["thread"].run("y")  # type: ignore[no-any-return]

    assert asyncio.run(within())["in_thread"] is True
    with pytest.raises(ValueError, match="trouble"):
        declare(fail)["spool"].run()


def test_the_threads_current_loop_stays_as_the_application_set_it(tmp_path: Path) -> None:
    script = (
        "import asyncio\nfrom spoolkit.attempt import calling\nfrom spoolkit.job import TaskOptions\n"
        "from spoolkit.registry import Declared\nasync def task(): return 1\n"
        "loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop)\n"
        "assert calling.call(Declared('task', task, TaskOptions()), (), {}) == 1\n"
        "assert asyncio.get_event_loop_policy().get_event_loop() is loop; loop.close()"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_asyncio_is_not_imported_for_other_tasks() -> None:
    script = (
        "import sys, spoolkit\nfrom spoolkit.attempt import calling\nfrom spoolkit.job import TaskOptions\n"
        "from spoolkit.registry import Declared\nbefore = 'asyncio' in sys.modules\n"
        "assert calling.call(Declared('task', lambda: 1, TaskOptions()), (), {}) == 1\n"
        "assert ('asyncio' in sys.modules) == before"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_coroutine_of_a_thread_task_can_have_a_copy_of_the_request(app: Flask) -> None:
    @thread(copy_request=True, retries=1, backoff=0)
    async def with_request() -> str:
        await asyncio.sleep(0)
        seen.append(has_request_context())
        if current_job().attempt == 1:
            raise ValueError("the first time")
        return request.path

    with app.test_request_context("/a/page"):
        job = with_request()
    wait_until(lambda: job.state in FINISHED)
    assert job.result == "/a/page"
    assert seen == [True, True]


def squares() -> Iterator[int]:
    yield from (1, 4, 9)


@pytest.mark.parametrize(
    ("returns", "what"),
    [
        (wrapped(tell), "a coroutine"),
        (lambda: squares(), "a generator"),
        (lambda: (number for number in (1, 2)), "a generator"),
        (lambda: map(seen.append, [1]), "a map object"),
        (lambda: filter(seen.append, [1]), "a filter object"),
        (lambda: Awaits(), "Awaits"),
    ],
)
def test_a_task_that_returns_unfinished_work_is_dead_at_once(
    run: Callable[..., Job], returns: Callable[..., Any], what: str
) -> None:
    job = run(returns, *(["x"] if what == "a coroutine" else []))
    assert job.state is State.DEAD
    with pytest.raises(JobFailedError, match=f"returned .*{what}"):
        _ = job.result
    assert seen == []


def test_a_returned_proxy_is_a_result_that_cannot_be_kept(run: Callable[..., Job]) -> None:
    job = run(lambda: current_app)
    assert job.state is State.DONE
    assert job.status.result_error


def test_a_coroutine_that_blocks_its_loop_in_a_thread_is_cancelled_late_but_correctly() -> None:
    async def blocks() -> str:
        time.sleep(0.1)
        return "done"

    job = thread(name="calling.blocks", timeout=0.01)(blocks)()
    wait_until(lambda: job.state in FINISHED)
    assert job.result == "done"
