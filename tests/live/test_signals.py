"""Signals to processes that run jobs, and to the processes that tasks start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import wait_until

from .conftest import SITE, History, StartSite

ENDED = [str(-signum) for signum in (15, 1, 10, 12, 14) for _ in ("forked", "started")]


@pytest.fixture
def runner(environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``flask spool run`` with one process that runs jobs."""
    (tmp_path / "spool").mkdir(mode=0o700)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "site_app", "spool", "run"],
            env={**os.environ, **environment},
            cwd=SITE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield process
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(60)


def enqueue(environment: dict[str, str], call: str) -> None:
    code = f"import site_tasks; site_tasks.{call}"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, check=True, timeout=60)


def deliver(pid: int, signum: int) -> None:
    """Send a signal, and wait until it has arrived.

    Many that wait for a process at once overflow the stack that faulthandler has Python's signal handlers run on.
    """
    os.kill(pid, signum)

    def arrived() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        waiting = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
        return not any(mask & 1 << (signum - 1) for mask in waiting)

    wait_until(arrived)


def present(spool: Path) -> list[int]:
    """The processes that run jobs of the directory."""
    folder = spool / "spoolers"
    return [int(name) for name in os.listdir(folder) if name.isdigit()] if folder.exists() else []


def test_processes_that_a_task_starts_end_by_signals_as_usual(
    runner: subprocess.Popen[bytes], environment: dict[str, str], history: History
) -> None:
    enqueue(environment, "signals_children()")
    (event,) = history.wait_for("children", timeout=60)
    assert list(event.words[1:]) == ENDED


@pytest.mark.parametrize("task", ["signals_children", "thread_signals_children"])
def test_processes_that_a_task_starts_under_uwsgi_end_by_signals_as_usual(
    start_site: StartSite, history: History, task: str
) -> None:
    site = start_site("hook-post-fork = unix_signal:15 worker_wakeup", "hook-accepting = unix_signal:15 worker_wakeup")
    site.call(task)
    (event,) = history.wait_for("children", timeout=60)
    assert list(event.words[1:]) == ENDED


@pytest.mark.parametrize("stop", sampled([signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP], signal.SIGTERM))
def test_a_job_survives_every_signal_but_sigkill(
    runner: subprocess.Popen[bytes], environment: dict[str, str], history: History, tmp_path: Path, stop: int
) -> None:
    """One stop signal for each process: a second one, more than a second later, interrupts the job."""
    enqueue(environment, "holds('long')")
    (start,) = history.wait_for("start", "long")
    harmless = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGPIPE)
    for pid in (start.pid, runner.pid):
        for signum in (*harmless, stop):
            deliver(pid, signum)
    wait_until(lambda: "waiting up to 30 s for job" in (tmp_path / "log").read_text())
    Path(f"{history.path}.release").touch()
    assert runner.wait(60) == 0, "nothing was cut off"
    assert len(history.events("end", "long")) == 1
    assert len(history.events("start")) == 1
    assert "of site_tasks.holds" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("signum", [signal.SIGQUIT, signal.SIGHUP])
def test_an_idle_standalone_spooler_stops_at_once(runner: subprocess.Popen[bytes], tmp_path: Path, signum: int) -> None:
    wait_until(lambda: present(tmp_path / "spool"))
    for _ in range(3):
        runner.send_signal(signum)
    assert runner.wait(60) == 0


def test_a_standalone_spooler_under_nohup_ignores_sighup(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "site_app", "spool", "run"],
        env={**os.environ, **environment},
        cwd=SITE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    try:
        (child,) = wait_until(lambda: present(tmp_path / "spool"))
        deliver(process.pid, signal.SIGHUP)
        deliver(child, signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert present(tmp_path / "spool") == [child]
    finally:
        process.terminate()
        assert process.wait(60) == 0
