"""Periodic tasks on real servers: each due time once, through restarts, kills, clock steps and two versions at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from uwsgi_server import free_port, wait_until

from spoolkit.spooldir import schedules

from .conftest import SITE, Event, History, StartSite, environment_in, site_in


def runs(history: History, name: str) -> list[tuple[int, int, str]]:
    """The due time and the number of each attempt, and whether it was late."""
    return [(int(words[1]), int(words[2]), words[3]) for words in (event.words for event in history.events(name))]


def check_each_once(history: History, name: str) -> list[int]:
    """Check that no attempt was made twice; return the due times, in order."""
    attempts = Counter((due, attempt) for due, attempt, _ in runs(history, name))
    assert [key for key, number in attempts.items() if number > 1] == [], "twice"
    return sorted({due for due, _, _ in runs(history, name)})


def wait_until_complete(history: History, name: str, step: int) -> None:
    """Wait until none is missing: one whose process was killed is tried again, beside those that come after it."""

    def gaps() -> set[int]:
        return {after - before for before, after in pairwise(check_each_once(history, name))}

    wait_until(lambda: gaps() == {step}, message=lambda: f"missing: {sorted(runs(history, name))}")


@contextlib.contextmanager
def flask(folder: Path, *words: str, **env: str) -> Iterator[None]:
    (folder / "spool").mkdir(mode=0o700, exist_ok=True)
    environment = {**os.environ, **environment_in(folder), **env}
    command = [sys.executable, "-m", "flask", "--app", "periodic_app", *words]
    with (folder / "flask.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=SITE, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def dues(events: list[Event]) -> list[int]:
    """The due times of runs of ``lasting`` that have begun, in the order in which they began."""
    return [int(event.words[2]) for event in events if event.words[1] == "begin"]


def largest_gap(times: Iterable[int]) -> int:
    return max((after - before for before, after in pairwise(sorted(set(times)))), default=0)


class Lived(NamedTuple):
    """What has happened when nothing runs any more."""

    history: History
    #: The runs of ``lasting`` before the downtime.
    lasting: list[Event]
    #: When the downtime began.
    down: float


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """An idle uWSGI, of which one spooler is killed as it makes the next run; a downtime; then ``flask spool run``.

    Each wait is for what must come at last, wherever a process stands still for seconds.
    """
    folder = tmp_path_factory.mktemp("lived")
    # So rarely that a scan of uWSGI cannot be what finds them.
    env = {"VERSION": "quick", "DIES_PERIODIC": "before the link"}
    site = site_in(folder, module="periodic_app", spoolers=3, frequency=600, env=env)
    with site.server:
        site.history.wait_for("each", count=3)
        wait_until(lambda: largest_gap(dues(site.history.events("lasting"))) >= 2, message="none was skipped")
        site.history.wait_for("lasting", "end", count=2)
        lasting = site.history.events("lasting")
        site.server.stop()
    down = time.time()
    wait_until(lambda: time.time() > down + 2.2)
    with flask(folder, "spool", "run", "--processes", "2", VERSION="quick"):
        # Not a count of runs: the one that the stop cut short is tried again, with the due time that it had.
        wait_until(lambda: largest_gap(check_each_once(site.history, "once")) >= 2, message="more than one for all")
        wait_until(lambda: check_each_once(site.history, "each")[-1] > down + 2.2)
        wait_until_complete(site.history, "each", 1)
    return Lived(site.history, lasting, down)


def test_each_due_time_has_a_run_through_a_kill_and_a_downtime(lived: Lived) -> None:
    check_each_once(lived.history, "each")
    check_each_once(lived.history, "once")
    assert lived.history.path.with_name("died").exists()


def test_what_was_due_during_a_downtime_runs_late_and_nothing_early(lived: Lived) -> None:
    # The one that was due in the second after the stop cannot have begun before it.
    assert "late" in {late for due, _, late in runs(lived.history, "each") if due > lived.down}
    events = [event for name in ("each", "once") for event in lived.history.events(name)]
    assert [event for event in events if event.time < int(event.words[1])] == []


def test_a_run_is_skipped_while_the_one_before_it_runs(lived: Lived) -> None:
    assert largest_gap(dues(lived.lasting)) >= 2
    words = [event.words[1:] for event in lived.lasting]
    begins, ends = words[::2], words[1::2]
    assert {word for word, _ in begins} == {"begin"}
    assert [("end", due) for _, due in begins[: len(ends)]] == ends, "two ran at once"


@pytest.mark.matrix
@pytest.mark.parametrize("options", [["lazy-apps = true", "spooler-import = spoolkit.guard"], []])
def test_an_idle_server_adds_what_its_code_declares(start_site: StartSite, options: list[str]) -> None:
    site = start_site(*options, module="periodic_app", frequency=600, env={"VERSION": "quick"})
    site.history.wait_for("each", count=2)


@pytest.mark.matrix
@pytest.mark.parametrize("words", [("spool", "run", "--processes", "2"), ("run", "--port")])
def test_periodic_tasks_run_without_uwsgi(tmp_path: Path, words: tuple[str, ...]) -> None:
    history = History(tmp_path / "history")
    port = [str(free_port())] if words[-1] == "--port" else []
    with flask(tmp_path, *words, *port, VERSION="quick"):
        history.wait_for("each", count=3)
        wait_until_complete(history, "each", 1)


@pytest.mark.matrix
@pytest.mark.parametrize("moment", ["before the link", "before the state", "after the link"])
def test_a_kill_while_the_next_run_is_made_loses_none_and_doubles_none(start_site: StartSite, moment: str) -> None:
    site = start_site(module="periodic_app", spoolers=2, env={"VERSION": "quick", "DIES_PERIODIC": moment})
    site.history.wait_for("each", count=4)
    assert site.history.path.with_name("died").exists()
    wait_until_complete(site.history, "each", 1)
    check_each_once(site.history, "once")


@pytest.mark.matrix
def test_a_downtime_of_uwsgi(tmp_path: Path) -> None:
    site = site_in(tmp_path, module="periodic_app", spoolers=2, frequency=600, env={"VERSION": "quick"})
    with site.server:
        site.history.wait_for("each", count=3)
    down = time.time()
    wait_until(lambda: time.time() > down + 3.2)
    with site.server:
        wait_until(lambda: largest_gap(check_each_once(site.history, "once")) >= 2)
        wait_until(lambda: check_each_once(site.history, "each")[-1] > down + 3.2)
        wait_until_complete(site.history, "each", 1)


@pytest.mark.matrix
def test_a_new_version_removes_what_it_does_not_declare_and_the_old_one_brings_it_back(tmp_path: Path) -> None:
    """Both serve the same directory for a while, as in a rolling deploy; then the old version is started again."""
    spool, sites = tmp_path / "spool", {}
    for version in ("with once", "without once"):
        folder = tmp_path / version.replace(" ", "-")
        folder.mkdir()
        env = {"VERSION": version, "HISTORY": str(tmp_path / "history")}
        sites[version] = site_in(folder, module="periodic_app", spoolers=2, env=env, spool=spool)
    history, old, new = History(tmp_path / "history"), sites["with once"].server, sites["without once"].server

    def is_removed() -> bool:
        state = schedules.read(str(spool), "periodic_app.once")
        return state is not None and state.definition is None

    with old:
        history.wait_for("once", count=2)
        with new:
            wait_until(is_removed, timeout=60)
            history.wait_for("each", count=len(history.events("each")) + 2)
            assert is_removed(), "the old version still serves, and does not add it again"
    with old:
        history.wait_for("once", count=len(history.events("once")) + 1)
        wait_until_complete(history, "each", 1)
    check_each_once(history, "once")


@pytest.mark.matrix
def test_minute_marks_under_kills_reloads_clock_steps_and_two_versions(tmp_path: Path) -> None:
    """Half a minute of the machine is 30 minutes of the sites, whose clock is put forward and back by minutes."""
    now, seed = time.time(), int(time.time())
    rng = random.Random(seed)
    env = {"CLOCK": f"{now}:{now - 10 * 3600}:60"}
    spool = tmp_path / "spool"
    sites = []
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        own = {**env, "VERSION": version, "HISTORY": str(tmp_path / "history")}
        sites.append(site_in(tmp_path / version, module="periodic_app", spoolers=2, env=own, spool=spool))
    history, step = History(tmp_path / "history"), tmp_path / "step"
    with sites[0].server, sites[1].server:
        until = time.monotonic() + 45
        while time.monotonic() < until:
            server = rng.choice(sites).server
            action = rng.choice(["spooler", "spooler", "spooler", "worker", "reload", "step", "rest"])
            if action == "step":
                step.write_text(str(rng.choice([0, 0, -200, -90, 150, 400])))
            elif action == "reload":
                os.kill(server.master_pid, signal.SIGHUP)
            elif action != "rest":
                pids = server.spooler_pids() if action == "spooler" else server.worker_pids()
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(rng.choice(pids), signal.SIGKILL)
            pause = time.monotonic() + rng.uniform(0.1, 1.0)
            wait_until(lambda pause=pause: time.monotonic() > pause)  # type: ignore[misc]
        step.write_text("0")
        # What is under way ends, and the chain of each goes on.
        for name in ("each", "once", "skipped", "changed"):
            last = len(history.events(name))
            history.wait_for(name, count=last + 2, timeout=120)
        wait_until_complete(history, "each", 60)
        final = schedules.read_all(str(spool))
    assert {state.name.rpartition(".")[2] for state in final} == {"each", "once", "skipped", "changed"}, seed
    for name in ("once", "skipped", "changed"):
        dues = check_each_once(history, name)
        assert all(due % 60 == 0 for due in dues), (name, seed)
    assert len(check_each_once(history, "each")) > 25, seed
