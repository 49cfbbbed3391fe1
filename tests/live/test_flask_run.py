"""The runner beside ``flask run``: by which command line it starts, and what Ctrl-C does to its jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from any_server import CommandServer, wait_for_exit
from uwsgi_server import wait_until

from spoolkit.store import Store
from spoolkit.system.clock import SAME_SIGNAL

from .conftest import SITE, History, Site

Start = Callable[..., Site]

PACKAGE = {
    "__init__.py": "def create_app():\n    import site_app\n    return site_app.app\n",
    "__main__.py": "import shop, flask.cli\nflask.cli.FlaskGroup(create_app=shop.create_app)()\n",
}


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str], history: History) -> Iterator[Start]:
    """Start a development server by a command line, with ``{port}`` in it."""
    with contextlib.ExitStack() as running:

        def start(*command: str, **more: str) -> Site:
            env = {**environment, **more}
            server = CommandServer(tmp_path, ["python", *command], env=env, cwd=tmp_path, probe="/ping")
            return Site(running.enter_context(server), history)

        yield start


def ctrl_c(site: Site) -> None:
    """As a terminal does: to the whole foreground group."""
    os.killpg(site.server.master_pid, signal.SIGINT)


def release(site: Site) -> None:
    """Let the jobs of ``holds`` end."""
    Path(f"{site.history.path}.release").touch()


def jobs_end(site: Site, job: str) -> str:
    store = Store(str(site.spool / "spoolkit.db"))
    try:
        return str(store.history(job)[0][-1].outcome)
    finally:
        store.close()


PLAIN_IN_MATRIX = [
    pytest.param((), id="plain", marks=pytest.mark.matrix),
    pytest.param(("--debug",), id="reloader"),
]


@pytest.mark.parametrize("options", [(), ("--debug",)], ids=["plain", "reloader"])
def test_ctrl_c_waits_for_the_running_job_and_names_it(start: Start, options: tuple[str, ...]) -> None:
    site = start("-m", "flask", "--app", "site_app", *options, "run", "--port", "{port}")
    job = site.call("holds", "long")["job"]
    site.history.wait_for("start", "long")
    ctrl_c(site)
    site.server.wait_for_log(f"for job {job} of site_tasks.holds")
    assert not site.server.exited, "the prompt came before the job ended"
    release(site)
    wait_for_exit(site.server)
    assert len(site.history.events("end", "long")) == 1


@pytest.mark.parametrize("options", PLAIN_IN_MATRIX)
def test_a_second_ctrl_c_interrupts_the_running_job(start: Start, options: tuple[str, ...]) -> None:
    site = start("-m", "flask", "--app", "site_app", *options, "run", "--port", "{port}")
    job = site.call("work", "long", 60)["job"]
    site.history.wait_for("start", "long")
    ctrl_c(site)
    site.server.wait_for_log("waiting up to 30 s")
    time.sleep(SAME_SIGNAL + 0.2)  # within that time two signals are one
    assert not site.server.exited
    ctrl_c(site)
    # Longer than the grace period: for a process that stood still, the two signals were one.
    wait_for_exit(site.server, 60)
    wait_until(lambda: jobs_end(site, job) == "interrupted")
    wait_until(lambda: not site.server._members())


def test_a_signal_to_flask_run_alone_reaches_its_spooler(start: Start) -> None:
    site = start("-m", "flask", "--app", "site_app", "run", "--port", "{port}")
    site.call("holds", "long")
    site.history.wait_for("start", "long")
    os.kill(site.server.master_pid, signal.SIGTERM)
    site.server.wait_for_log("waiting up to 30 s")
    assert not site.server.exited
    release(site)
    wait_for_exit(site.server)
    assert len(site.history.events("end", "long")) == 1


def test_a_command_line_of_the_application_starts_the_spooler(
    start: Start, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "shop").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "shop" / name).write_text(text)
    site = start("-m", "shop", "run", "--port", "{port}", PYTHONPATH=f"{SITE}:{tmp_path}")
    site.call("note", "hello")
    site.history.wait_for("note", "hello")
    ctrl_c(site)
    wait_for_exit(site.server)
