"""Which spoolers a new job wakes, under uWSGI and ``flask spool run``, if no scan comes to help."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import wait_until

from spoolkit.spooldir import slots

from .conftest import SITE, History, environment_in, site_in

SERVERS = ("uwsgi", "flask spool run")
SPOOLERS = 4

ENQUEUE = """
import sys, site_tasks
print("up", flush=True)
for line in sys.stdin:
    task, *words = line.split()
    print(getattr(site_tasks, task)(*words).id, flush=True)
"""


class Served:
    """A spool directory that four spoolers serve, and another process that enqueues jobs."""

    def __init__(self, folder: Path, pids: Callable[[], list[int]], env: dict[str, str]) -> None:
        self.history = History(folder / "history")
        self.pids = pids
        self.release = Path(f"{self.history.path}.release")
        self._env = {**os.environ, **environment_in(folder), **env}
        self._caller = self._start_caller()

    def _start_caller(self) -> subprocess.Popen[str]:
        caller = subprocess.Popen(
            [sys.executable, "-c", ENQUEUE],
            cwd=SITE,
            env=self._env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert caller.stdout is not None
        assert caller.stdout.readline() == "up\n"
        return caller

    @contextmanager
    def calling(self) -> Iterator[subprocess.Popen[str]]:
        """Another caller."""
        caller = self._start_caller()
        try:
            yield caller
        finally:
            caller.kill()
            caller.communicate(timeout=60)

    def call(self, *words: str) -> str:
        assert self._caller.stdin is not None
        assert self._caller.stdout is not None
        self._caller.stdin.write(" ".join(words) + "\n")
        self._caller.stdin.flush()
        return self._caller.stdout.readline().strip()

    def run(self, script: str) -> int:
        """Run a script beside the site's tasks, and return its exit status."""
        return subprocess.run(
            [sys.executable, "-c", script], cwd=SITE, env=self._env, check=False, timeout=100
        ).returncode

    def sleeps(self, pid: int) -> int:
        """How often the spooler has slept: once more for each signal that it got while it was idle."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (found,) = (line for line in lines if line.startswith("voluntary_ctxt_switches"))
        return int(found.split()[1])

    def all_idle(self) -> dict[int, int]:
        """Wait until each spooler sleeps and none has a signal to look at; return how often each has slept."""

        def still() -> dict[int, int] | None:
            pids = self.pids()
            try:
                first = {pid: self.sleeps(pid) for pid in pids}
                for _ in range(20):
                    time.sleep(0.01)  # a spooler with a signal to look at does not wait, however slow the machine is
                    if first != {pid: self.sleeps(pid) for pid in pids} or not all(map(_waits, pids)):
                        return None
            except OSError:  # one has ended meanwhile
                return None
            return first if self.pids() == pids else None

        return wait_until(still, timeout=120) or {}

    def end(self) -> None:
        self._caller.kill()
        self._caller.communicate(timeout=60)


def _waits(pid: int) -> bool:
    try:
        wchan = Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False
    return "poll" in wchan or "select" in wchan


@contextmanager
def serving(server: str, folder: Path, **env: str) -> Iterator[Served]:
    with ExitStack() as running:
        spool = folder / "spool"
        if server == "uwsgi":
            site = site_in(folder, module="waking_app", spoolers=SPOOLERS, frequency=600, env=env)
            uwsgi = running.enter_context(site.server)
            uwsgi.wait_for_spoolers()
            pids = uwsgi.spooler_pids
        else:
            spool.mkdir(mode=0o700)
            log = running.enter_context((folder / "flask.log").open("ab"))
            words = ["spool", "run", "--processes", str(SPOOLERS)]
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "waking_app", *words],
                env={**os.environ, **environment_in(folder), **env},
                cwd=SITE,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            running.callback(process.wait, 20)
            running.callback(process.send_signal, signal.SIGTERM)
            running.callback(Path(folder / "history.release").touch)

            def pids() -> list[int]:
                return sorted(int(name) for name in os.listdir(spool / "spoolers") if name.isdigit())

            wait_until(lambda: (spool / "spoolers").exists() and len(pids()) == SPOOLERS)
        served = Served(folder, pids, env)
        running.callback(served.end)
        yield served


@pytest.fixture(scope="module", params=SERVERS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(request.param, tmp_path_factory.mktemp("waking")) as served:
        yield served


# What callers do is the same for both; make matrix has it under both.
under_uwsgi = pytest.mark.parametrize("served", sampled(SERVERS, "uwsgi"), indirect=True)


def test_one_new_job_wakes_one_spooler(served: Served) -> None:
    before = served.all_idle()
    for number in range(10):
        served.call("note", f"single-{number}")
        (event,) = served.history.wait_for("note", f"single-{number}")
        after = served.all_idle()
        assert [pid for pid in before if before[pid] != after[pid]] == [event.pid]
        before = after


@under_uwsgi
def test_no_job_waits_behind_a_long_one_while_a_spooler_is_idle(served: Served) -> None:
    for number in range(3):
        served.release.unlink(missing_ok=True)
        with served.calling() as other:
            assert other.stdin is not None
            words = [f"{number}-{word}" for word in range(40)]
            holders = [f"{number}-holder-{holder}" for holder in range(SPOOLERS - 1)]
            # Two processes at the same time; nobody reads what the second one prints.
            other.stdin.write("".join(f"note {word}\n" for word in words[1::2]))
            other.stdin.flush()
            for place, word in enumerate(words[::2]):
                if place % 5 == 0 and place // 5 < len(holders):
                    served.call("holds", holders[place // 5])
                served.call("note", word)
            # All but one of the spoolers hold: whoever is left has to run all the others.
            for word in words:
                served.history.wait_for("note", word)
            for holder in holders:
                served.history.wait_for("start", holder)
                assert not served.history.events("end", holder)
        served.release.touch()
        for holder in holders:
            served.history.wait_for("end", holder)
        # Of those that held, each scans again if a job came meanwhile.
        served.all_idle()


def test_a_job_that_comes_while_all_spoolers_are_busy_starts_once_one_is_done(served: Served) -> None:
    served.release.unlink(missing_ok=True)
    for holder in range(SPOOLERS):
        served.call("holds", f"busy-{holder}")
        served.history.wait_for("start", f"busy-{holder}")
    served.call("note", "behind")
    served.release.touch()
    served.history.wait_for("note", "behind")


@pytest.mark.parametrize("server", sampled(SERVERS, "uwsgi"))
def test_a_spooler_of_a_version_without_slots_is_woken(server: str, tmp_path: Path) -> None:
    with serving(server, tmp_path, OLD_SPOOLERS="1") as served:
        served.all_idle()
        for number in range(3):
            served.call("note", f"old-{number}")
            served.history.wait_for("note", f"old-{number}")


DIES = """
import os, site_tasks
from spoolkit.spooldir import slots
def die(*_):
    os._exit(77)
slots._Slots.{moment} = die
site_tasks.note("{word}")
"""


@under_uwsgi
@pytest.mark.parametrize("moment", sampled(["acquire", "tell", "slot", "release", "signal"], "tell", "signal"))
def test_a_caller_that_is_killed_while_it_calls_a_spooler_delays_no_other_job(served: Served, moment: str) -> None:
    """Its job is accepted, and is found with the next one; the slot that it left as called does no harm."""
    served.all_idle()
    words = [f"{moment}-{number}" for number in range(6)]
    died = served.run(DIES.format(moment=moment, word=words[0]))
    assert died == 77
    for word in words[1:]:
        served.call("note", word)
    for word in words:
        served.history.wait_for("note", word)
    assert [len(served.history.events("note", word)) for word in words] == [1] * len(words)


def test_a_called_spooler_that_is_killed_leaves_its_job_to_its_successor(tmp_path: Path) -> None:
    with serving("uwsgi", tmp_path) as served:
        for number in range(3):
            served.all_idle()
            (pid,) = {slots.call(str(tmp_path / "spool"))} - {None}
            os.kill(pid, signal.SIGKILL)
            served.call("note", f"killed-{number}")
            served.history.wait_for("note", f"killed-{number}")


@under_uwsgi
def test_a_caller_that_is_stopped_while_it_holds_the_lock_delays_no_other_job(served: Served) -> None:
    served.all_idle()
    with (served.history.path.parent / "spool" / "spoolers" / "slots").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        for number in range(3):
            served.call("note", f"stopped-{number}")
            served.history.wait_for("note", f"stopped-{number}")
    # What the spoolers could not write while the lock was held does no harm afterwards.
    for number in range(8):
        served.call("note", f"after-{number}")
        served.history.wait_for("note", f"after-{number}")
