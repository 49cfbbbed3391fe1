"""Outside uWSGI: a cron script, a shell, ``flask spool run``, ``flask run``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import free_port, is_gone, wait_until

from spoolkit.job import State
from spoolkit.store import Store
from spoolkit.system.clock import SAME_SIGNAL

from .conftest import SITE, History, StartSite

ENQUEUE = "import site_tasks; print(site_tasks.note({word!r}).id)"

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def flask(environment: dict[str, str], tmp_path: Path, spool: Path) -> Iterator[Start]:
    """Start ``flask ...`` for the site; it and its children are ended with the test."""
    with ExitStack() as running:

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            log = running.enter_context((tmp_path / "flask.log").open("ab"))
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "site_app", *arguments],
                env={**os.environ, **environment},
                cwd=SITE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

            def end() -> None:
                try:
                    os.killpg(process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                process.wait(60)

            running.callback(end)
            return process

        yield start


def script(environment: dict[str, str], code: str, cwd: Path = Path("/")) -> str:
    """Run a script as cron does: in another directory, without an application."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def files(spool: Path) -> list[str]:
    return [name for name in os.listdir(spool) if name.startswith("uwsgi_spoolfile_on_")]


def test_a_cron_script_enqueues_while_uwsgi_runs(start_site: StartSite, environment: dict[str, str]) -> None:
    # A frequency beyond the deadline: the script itself has to wake the spooler.
    site = start_site(frequency=600)
    job = script(environment, ENQUEUE.format(word="cron"))
    site.history.wait_for("note", "cron")
    assert len(job) == 32


def test_a_cron_script_without_settings_finds_the_directory_that_is_served(
    start_site: StartSite, environment: dict[str, str], tmp_path: Path
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    site = start_site(frequency=600, env=state)
    script({**environment, **state, "SPOOLKIT_SPOOL": ""}, ENQUEUE.format(word="alone"))
    site.history.wait_for("note", "alone")


def test_flask_shell_enqueues_jobs(start_site: StartSite, flask: Start, history: History) -> None:
    start_site(frequency=600)
    shell = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "site_app", "shell"],
        input=b"import site_tasks; site_tasks.note('shell')\n",
        env={**os.environ, "HISTORY": str(history.path), "SPOOLKIT_SPOOL": str(history.path.parent / "spool")},
        cwd=SITE,
        capture_output=True,
        timeout=60,
    )
    assert shell.returncode == 0, shell.stderr
    history.wait_for("note", "shell")


def test_a_job_enqueued_while_uwsgi_is_down_runs_when_uwsgi_starts(
    start_site: StartSite, environment: dict[str, str], spool: Path
) -> None:
    script(environment, ENQUEUE.format(word="before"))
    assert len(files(spool)) == 1
    site = start_site()
    site.history.wait_for("note", "before")
    site.wait_empty()


def test_without_an_application_the_spool_directory_is_beside_the_tasks(
    environment: dict[str, str], tmp_path: Path
) -> None:
    site = tmp_path / "elsewhere"
    (site / "my_spools").mkdir(parents=True)
    (site / "far_tasks.py").write_text("from spoolkit import spool\n@spool\ndef far(): ...\n")
    alone = {**environment, "PYTHONPATH": str(site), "SPOOLKIT_SPOOL": ""}
    script(alone, "import far_tasks; far_tasks.far()")
    assert len(files(site / "my_spools")) == 1


def test_flask_spool_run_runs_jobs(flask: Start, environment: dict[str, str], history: History, spool: Path) -> None:
    runner = flask("spool", "run")
    later = "site_tasks.note.using(at=time.time() + 1.2)('later')"
    code = f"import site_tasks, time; {later}; site_tasks.flaky('raised', 2); site_tasks.circumstances()"
    script(environment, code)
    (event,) = history.wait_for("note", "later")
    assert parent_of(event.pid) == runner.pid
    history.wait_for("flaky", "raised", count=3)
    (event,) = history.wait_for("circumstances")
    assert event.words[1:4] == ("site_app", "False", str(SITE))
    wait_until(lambda: not files(spool))


def test_flask_spool_run_finishes_the_running_job_when_stopped(
    flask: Start, environment: dict[str, str], history: History, spool: Path
) -> None:
    runner = flask("spool", "run")
    script(environment, "import site_tasks; site_tasks.holds('long'); site_tasks.note('next')")
    history.wait_for("start", "long")
    runner.send_signal(signal.SIGTERM)
    wait_until(lambda: "waiting up to 30 s" in (spool.parent / "flask.log").read_text())
    release(history)
    assert runner.wait(60) == 0
    assert len(history.events("end", "long")) == 1
    assert history.events("note") == []
    assert len(files(spool)) == 1
    assert sorted(os.listdir(spool / "spoolers")) == ["slots", "tidied"]


@pytest.mark.parametrize("cut_by", sampled(["grace", "signal"], "grace"))
def test_flask_spool_run_interrupts_jobs_that_outlast_the_grace_period(
    flask: Start, environment: dict[str, str], history: History, spool: Path, cut_by: str
) -> None:
    environment["SPOOLKIT_GRACE"] = "0.5" if cut_by == "grace" else "20"
    runner = flask("spool", "run", "--processes", "2")
    script(environment, "import site_tasks; site_tasks.work('long', 60)")
    history.wait_for("start", "long")
    runner.send_signal(signal.SIGTERM)
    if cut_by == "signal":
        wait_until(lambda: len(spool_runners(spool)) == 1)  # the idle process has exited: the first signal has arrived
        time.sleep(SAME_SIGNAL + 0.1)  # within that time two signals are one, and so for a process that stood still
        runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 1
    (file,) = files(spool)
    store = Store(str(spool / "spoolkit.db"))
    (attempt,), _ = store.history(file.rpartition("_")[2])
    status = store.status(file.rpartition("_")[2])
    store.close()
    assert attempt.outcome == "interrupted"
    assert status is not None
    assert (status.state, status.attempt, status.max_attempts) == (State.RETRYING, 1, 7), "the attempt does not count"
    assert history.events("end") == []


def test_several_processes_of_flask_spool_run_share_the_jobs_and_are_replaced_when_they_die(
    flask: Start, environment: dict[str, str], history: History, spool: Path
) -> None:
    runner = flask("spool", "run", "--processes", "3")
    wait_until(lambda: len(spool_runners(spool)) == 3)
    enqueue = (
        "import site_tasks\nfor i in range(60): site_tasks.note(str(i))\nfor i in range(3): site_tasks.holds(str(i))"
    )
    script(environment, enqueue)
    starts = history.wait_for("start", count=3)
    assert len({event.pid for event in starts}) == 3
    assert runner.pid not in {event.pid for event in starts}
    os.kill(starts[0].pid, signal.SIGKILL)
    history.wait_for("start", starts[0].words[1], count=2)
    release(history)
    wait_until(lambda: not files(spool))
    assert sorted(int(event.words[1]) for event in history.events("note")) == list(range(60))
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 0


def test_a_process_of_flask_spool_run_is_replaced_after_so_many_jobs(
    flask: Start, environment: dict[str, str], history: History, spool: Path, tmp_path: Path
) -> None:
    environment["SPOOLKIT_SPOOLER_MAX_JOBS"] = "2"
    runner = flask("spool", "run")
    script(environment, "import site_tasks\nfor i in range(7): site_tasks.note(str(i))")
    history.wait_for("note", count=7, timeout=120)
    jobs_of = Counter(event.pid for event in history.events("note"))
    assert max(jobs_of.values()) <= 2
    runner.send_signal(signal.SIGTERM)
    assert runner.wait(60) == 0
    assert " ended with status " not in (tmp_path / "flask.log").read_text()


def test_flask_spool_run_beside_uwsgi_runs_no_job_twice(
    start_site: StartSite, flask: Start, environment: dict[str, str], history: History
) -> None:
    site = start_site(spoolers=2)
    flask("spool", "run", "--processes", "2")
    wait_until(lambda: len(spool_runners(site.spool)) == 4)
    enqueue = "for i in range(4): site_tasks.holds(str(i))\nfor i in range(300): site_tasks.note(str(i))"
    script(environment, f"import site_tasks\n{enqueue}")
    # Each process has one of the first four, so that all take part in the rest.
    held = history.wait_for("start", count=4)
    assert len({event.pid for event in held}) == 4
    release(history)
    site.wait_empty()
    assert sorted(int(event.words[1]) for event in history.events("note")) == list(range(300))
    assert len(history.events("start")) == 4


def test_flask_spool_run_moves_damaged_files_to_dead_and_leaves_jobs_of_other_libraries(
    flask: Start, environment: dict[str, str], spool: Path
) -> None:
    from spoolkit.encoding import packet
    from spoolkit.spooldir import spoolfile

    foreign = packet.dump(packet.Packet({b"ud_spool_func": b"other"}))
    spoolfile.write(str(spool), "foreign", foreign)
    flask("spool", "run")
    spoolfile.write(str(spool), "broken", b"\x11\x50\x00\x00 too short")
    wait_until(lambda: (spool / "dead" / f"{spoolfile.PREFIX}broken").exists())
    assert files(spool) == [f"{spoolfile.PREFIX}foreign"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="plain", marks=pytest.mark.matrix),
        pytest.param(["--debug"], id="reloader"),
        pytest.param(["--debug", "--no-reload"], id="debug", marks=pytest.mark.matrix),
    ],
)
def test_flask_run_starts_one_spooler(
    flask: Start, history: History, spool: Path, tmp_path: Path, options: list[str]
) -> None:
    port = free_port()
    no_reload = [option for option in options if option == "--no-reload"]
    server = flask(*[option for option in options if option == "--debug"], "run", "--port", str(port), *no_reload)
    wait_until(lambda: answers(port), timeout=60, message=lambda: (tmp_path / "flask.log").read_text())
    post(port, "/call/note", b'{"args": ["dev"]}')
    (event,) = history.wait_for("note", "dev")
    runners = wait_until(lambda: spool_runners(spool))
    assert runners == [event.pid]
    server.send_signal(signal.SIGKILL if not options else signal.SIGINT)
    if options == ["--debug"]:
        os.killpg(server.pid, signal.SIGINT)  # as a terminal's Ctrl-C does, to the reloader's child as well
    wait_until(lambda: is_gone(event.pid), message="the runner outlived flask run")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_task_that_kills_its_process_does_not_end_flask_spool_run(
    flask: Start, environment: dict[str, str], history: History, spool: Path, tmp_path: Path
) -> None:
    runner = flask("spool", "run")
    script(environment, "import site_tasks; site_tasks.flaky('killed', 1); site_tasks.note('after')")
    history.wait_for("note", "after")
    history.wait_for("flaky", "killed", count=2)
    wait_until(lambda: not files(spool))
    assert runner.poll() is None
    assert "ended by signal 9 and is started again" in (tmp_path / "flask.log").read_text()


def test_after_a_kill_of_flask_spool_run_the_running_job_finishes_and_no_other_starts(
    flask: Start, environment: dict[str, str], history: History, spool: Path
) -> None:
    runner = flask("spool", "run")
    script(environment, "import site_tasks; site_tasks.holds('long'); site_tasks.note('next')")
    (start,) = history.wait_for("start", "long")
    runner.send_signal(signal.SIGKILL)
    runner.wait(60)
    release(history)
    history.wait_for("end", "long")
    wait_until(lambda: is_gone(start.pid), message="the child outlived its parent")
    assert history.events("note") == []
    assert len(files(spool)) == 1


def release(history: History) -> None:
    """Let the jobs of ``holds`` end."""
    Path(f"{history.path}.release").touch()


def spool_runners(spool: Path) -> list[int]:
    folder = spool / "spoolers"
    return [int(name) for name in os.listdir(folder) if name.isdigit()] if folder.exists() else []


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def post(port: int, path: str, data: bytes) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


@pytest.mark.parametrize("module", ["tasks", "app"])
def test_the_application_imports_without_uwsgi(environment: dict[str, str], module: str) -> None:
    project = str(Path(__file__).parents[2])
    script({**environment, "PYTHONPATH": project}, f"import {module}, sys; assert 'uwsgi' not in sys.modules")
