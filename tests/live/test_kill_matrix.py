"""Every way in which an attempt can end, on a real uWSGI: each job ends as promised; none is lost, none runs twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from spoolkit import Batch, SpoolKit, UnknownBatchError
from spoolkit.admin import lookup
from spoolkit.admin.lookup import Details
from spoolkit.job import State
from spoolkit.spooldir import running
from spoolkit.store import locations

from .conftest import SITE, Event, History, Site

DONE, DEAD = State.DONE, State.DEAD
SPOOLERS = (1, 4)


class Row(NamedTuple):
    """A task, the final state of its job, how each of its attempts ends, and the message about the last one."""

    task: str
    state: State
    endings: tuple[str, ...]
    error: str | None = None


MATRIX = (
    Row("raises", DEAD, ("failed",) * 3, "ValueError"),
    Row("raises_twice", DONE, ("failed", "failed", "done")),
    Row("returns_retry", DEAD, ("retry",) * 3),
    Row("raises_retry", DEAD, ("retry",) * 3, "Retry"),
    Row("aborts", DEAD, ("aborted",), "Abort"),
    Row("exits", DEAD, ("failed",) * 3, "SystemExit"),
    Row("interrupted", DEAD, ("failed",) * 3, "KeyboardInterrupt"),
    Row("out_of_memory", DEAD, ("failed",) * 3, "MemoryError"),
    Row("kills_itself", DEAD, ("crashed",) * 3),
    Row("segfaults", DEAD, ("crashed",) * 3, "Segmentation fault"),
    Row("dumps_core", DEAD, ("crashed",) * 3, "Aborted"),
    Row("exits_at_once", DEAD, ("crashed",) * 3),
    Row("sleeps_too_long", DEAD, ("timeout",) * 3, "JobTimeout"),
    Row("goes_on_after_its_timeout", DEAD, ("timeout",) * 2, "JobTimeout"),
    Row("counts_in_c", DEAD, ("timeout",) * 2, "JobTimeout"),
    Row("opens_its_own_file", DONE, ("done",)),
    Row("waits_for_its_killer", DONE, ("crashed", "done")),
)


@dataclass(frozen=True)
class Ran:
    """What happened to one job: spoolkit's record, the events that its task recorded, and where its file is."""

    id: str
    details: Details
    events: list[Event]
    waits: bool
    dead: bool

    def said(self, what: str) -> list[Event]:
        return [event for event in self.events if event.words[0] == what]

    @property
    def outcomes(self) -> tuple[str, ...]:
        return tuple(attempt.outcome for attempt in self.details.attempts)

    def assert_one_at_a_time(self) -> None:
        """By the events of its task: no attempt began before the previous one had ended or its process was dead."""
        assert not self.said("twice"), self.events
        ends = {event.words[2]: event.time for event in self.said("end")}
        starts = self.said("start")
        for earlier, later in pairwise(starts):
            assert ends.get(earlier.words[2], earlier.time) <= later.time, self.events


@contextmanager
def serving(directory: Path, spoolers: int, **env: str) -> Iterator[Site]:
    """The site of ``kill_tasks``, in its own directory."""
    directory.mkdir(exist_ok=True)
    history = History(directory / "history")
    options = [
        "master = true",
        "enable-threads = true",
        "need-app = true",
        "processes = 1",
        f"pythonpath = {SITE}",
        f"chdir = {SITE}",
        "module = kill_tasks:app",
        f"spooler-processes = {spoolers}",
        "spooler-frequency = 1",
        f"spooler = {directory / 'spool'}",
    ]
    given = {"HISTORY": str(history.path), "PYTHONPATH": str(SITE), "PYTHONUNBUFFERED": "1", **env}
    with UwsgiServer(directory, options=options, env=given) as server:
        yield Site(server, history)


@contextmanager
def looking_at(site: Site, store: Path | None = None) -> Iterator[None]:
    """Within it, spoolkit inspects the jobs of ``site``. ``store``: the path; ``None``: in the spool directory."""
    app = Flask("onlooker")
    app.config.update(SPOOLKIT_SPOOL=site.spool, SPOOLKIT_STORE=store)
    SpoolKit(app)
    with app.app_context():
        yield
        locations.store().close()


def settled(site: Site, ids: list[str], *, timeout: float = 60, store: Path | None = None) -> dict[str, Ran]:
    """Wait until all jobs are finished; return them by id."""

    def over(id: str) -> bool:
        found = lookup.details(id)
        return found.status.finished_at is not None and all(one.finished_at for one in found.attempts)

    site.wait_empty(timeout)
    with looking_at(site, store):
        wait_until(lambda: all(map(over, ids)), message=lambda: f"not over: {[id for id in ids if not over(id)]}")
        return {id: read(site, id) for id in ids}


def read(site: Site, id: str) -> Ran:
    events = [event for event in site.history.events() if event.words[1] == id]
    waits, dead = (any(id in name for name in names) for names in (site.files(), names_in(site.spool / "dead")))
    return Ran(id, lookup.details(id), events, waits, dead)


def names_in(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.exists() else []


class Played(NamedTuple):
    """A server on which the whole matrix has run."""

    site: Site
    jobs: dict[str, Ran]
    innocent: list[Ran]


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Played]]:
    """All rows at the same time, on a server with one spooler and on one with four, with an innocent job behind each.

    Only on those of the two that a test of this run asks for.
    """
    folder = tmp_path_factory.mktemp("matrix")
    chosen = {
        item.callspec.params["spoolers"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "matrix" in item.fixturenames and item.path == request.path
    }
    with ExitStack() as open_sites:
        sites = {n: open_sites.enter_context(serving(folder / str(n), n, SPOOLKIT_TIMEOUT_GRACE="0.5")) for n in chosen}
        bad: dict[int, dict[str, str]] = {n: {} for n in chosen}
        innocent: dict[int, list[str]] = {n: [] for n in chosen}
        for n, site in sites.items():
            for row in MATRIX:
                bad[n][row.task] = site.call(row.task)["job"]
                innocent[n].append(site.call("innocent", 0.01)["job"])
        for n, site in sites.items():
            (start,) = site.history.wait_for("start", bad[n]["waits_for_its_killer"], timeout=60)
            os.kill(start.pid, signal.SIGKILL)
        played = {}
        for n, site in sites.items():
            ran = settled(site, [*bad[n].values(), *innocent[n]])
            jobs = {task: ran[id] for task, id in bad[n].items()}
            played[n] = Played(site, jobs, [ran[id] for id in innocent[n]])
        yield played


Matrix = dict[int, Played]


def each(rows: Sequence[Row]) -> list[Any]:
    """The rows for each number of spoolers; those with one spooler run in ``make matrix`` only."""
    marks = {1: [pytest.mark.matrix], 4: []}
    return [pytest.param(n, row, id=f"{row.task}-{n}", marks=marks[n]) for n in SPOOLERS for row in rows]


EACH = each(MATRIX)


@pytest.mark.parametrize(("spoolers", "row"), EACH)
def test_each_job_ends_as_promised_after_its_number_of_attempts(matrix: Matrix, spoolers: int, row: Row) -> None:
    job = matrix[spoolers].jobs[row.task]
    assert job.outcomes == row.endings, job
    status = job.details.status
    assert status.state is row.state
    assert status.attempt == len(row.endings)
    assert status.error_type == row.error or row.state is DONE


@pytest.mark.parametrize(("spoolers", "row"), EACH)
def test_each_task_ran_as_often_as_recorded_and_never_twice_at_once(matrix: Matrix, spoolers: int, row: Row) -> None:
    job = matrix[spoolers].jobs[row.task]
    numbers = [str(number) for number in range(1, len(row.endings) + 1)]
    assert [start.words[2] for start in job.said("start")] == numbers
    assert [start.pid for start in job.said("start")] == [attempt.pid for attempt in job.details.attempts]
    job.assert_one_at_a_time()


@pytest.mark.parametrize(("spoolers", "row"), EACH)
def test_the_output_of_each_attempt_is_in_its_log(matrix: Matrix, spoolers: int, row: Row) -> None:
    attempts = matrix[spoolers].jobs[row.task].details.attempts
    said = [[line for line in attempt.log.splitlines() if line.startswith("this is attempt")] for attempt in attempts]
    assert said == [[f"this is attempt {attempt.number}"] for attempt in attempts]


TRACED = each([row for row in MATRIX if row.error])


@pytest.mark.parametrize(("spoolers", "row"), TRACED)
def test_the_traceback_of_each_failed_attempt_names_the_place(matrix: Matrix, spoolers: int, row: Row) -> None:
    for attempt in matrix[spoolers].jobs[row.task].details.attempts:
        assert attempt.traceback is not None
        assert f"in {row.task}" in attempt.traceback


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
def test_no_job_is_lost_and_no_file_is_left(matrix: Matrix, spoolers: int) -> None:
    site, jobs, innocent = matrix[spoolers]
    for job in [*jobs.values(), *innocent]:
        assert not job.waits
        assert job.dead == (job.details.status.state is DEAD)
    # Each with its report.
    assert len(names_in(site.spool / "dead")) == 2 * sum(row.state is DEAD for row in MATRIX)
    folders = ("", "waiting")
    kept = {"dead", "later", "running", "stacks", "waiting", "spoolers"}
    kept |= {f"spoolkit.db{end}" for end in ("", "-shm", "-wal")}

    def left() -> set[str]:
        found = {name for folder in folders for name in names_in(site.spool / folder)} - kept
        return found | set(running.job_ids(str(site.spool)))

    # An attempt is shown until its end is recorded.
    wait_until(lambda: not left(), message=lambda: f"left in the spool: {left()}")


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
def test_innocent_jobs_beside_the_matrix_run_once(matrix: Matrix, spoolers: int) -> None:
    for job in matrix[spoolers].innocent:
        assert [event.words[0] for event in job.events] == ["start", "end"]
        assert job.outcomes == ("done",)
        assert job.details.status.state is DONE


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
def test_a_job_that_outlives_the_master_is_not_started_by_the_next_uwsgi(tmp_path: Path, spoolers: int) -> None:
    """Even without uWSGI's lock."""
    with serving(tmp_path, spoolers) as before:
        job = before.call("waits_for_its_release", "return", True)["job"]
        (start,) = before.history.wait_for("start", job)
        os.kill(before.server.master_pid, signal.SIGKILL)
        wait_until(lambda: before.server.exited)
        with serving(tmp_path, spoolers) as after:
            innocent = run_some(after)
            (tmp_path / "released").touch()
            ran = settled(after, [job, *innocent])
    assert ran[job].outcomes == ("done",)
    assert [(event.words[0], event.pid) for event in ran[job].events] == [("start", start.pid), ("end", start.pid)]
    assert all(ran[id].outcomes == ("done",) for id in innocent)


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
def test_a_job_that_dies_with_everything_runs_again_under_the_next_uwsgi(tmp_path: Path, spoolers: int) -> None:
    with serving(tmp_path, spoolers) as before:
        job = before.call("waits_for_its_release")["job"]
        # It waits behind the other job, because there is one spooler: with four it would run at once.
        innocent = [before.call("innocent")["job"]] if spoolers == 1 else []
        before.history.wait_for("start", job)
        before.server.kill()
    with serving(tmp_path, spoolers) as after:
        after.history.wait_for("start", job, count=2)
        (tmp_path / "released").touch()
        ran = settled(after, [job, *innocent])
    assert ran[job].outcomes == ("crashed", "done")
    assert [event.words[0] for event in ran[job].events] == ["start", "start", "end"]
    assert "this is attempt 1" in ran[job].details.attempts[0].log
    assert all(ran[id].outcomes == ("done",) for id in innocent)


def run_some(site: Site) -> list[str]:
    """Run innocent jobs, one after another, until each spooler of ``site`` has scanned the directory."""
    ids: list[str] = []
    seen: set[int] = set()
    while not seen.issuperset(site.server.spooler_pids()):
        ids.append(site.call("innocent")["job"])
        (end,) = site.history.wait_for("end", ids[-1])
        seen.add(end.pid)
        assert len(ids) < 200, f"only {seen} took jobs"
    return ids


@pytest.mark.parametrize("task", sampled(["goes_on_after_its_timeout", "counts_in_c"], "counts_in_c"))
def test_the_hard_limit_kills_a_job_also_without_the_master(tmp_path: Path, task: str) -> None:
    """Otherwise the job would never end: no other process starts it while its process lives."""
    with serving(tmp_path, 1, SPOOLKIT_TIMEOUT_GRACE="2") as before:
        job = before.call(task)["job"]
        before.history.wait_for("start", job)
        os.kill(before.server.master_pid, signal.SIGKILL)
        wait_until(lambda: before.server.exited)
        with serving(tmp_path, 1, SPOOLKIT_TIMEOUT_GRACE="0.5") as after:
            ran = settled(after, [job])
    assert ran[job].outcomes == ("timeout", "timeout")
    ran[job].assert_one_at_a_time()


# Many jobs of one call: a spooler is killed while it makes a file of each. With 20 jobs there is one rename that says
# that all files are written, and then one for each job.
CHUNK_MOMENTS = {
    "accepted": "open before 1",
    "the first file is made": "open after 2",
    "half of the files are written": "open before 12",
    "all files are written": "rename before 1",
    "and that is said": "rename after 1",
    "one job is moved": "rename after 2",
    "half of the jobs are moved": "rename before 11",
    "all jobs are moved": "rename after 21",
    "the chunk is removed": "unlink after 1",
    "its folder is removed": "rmdir after 1",
}


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
@pytest.mark.parametrize("spread", sampled([0, 1], 1))
@pytest.mark.parametrize("moment", sampled(list(CHUNK_MOMENTS), "half of the jobs are moved"))
def test_each_job_of_a_chunk_runs_once_if_its_spooler_is_killed_when(
    tmp_path: Path, moment: str, spread: int, spoolers: int
) -> None:
    """``spread``: the seconds over which their due times are spread."""
    with serving(tmp_path, spoolers, DIE_ONCE=CHUNK_MOMENTS[moment]) as site:
        ids = site.server.post("/map/innocent", {"args": [[0.001]] * 20, "spread": spread}).json["jobs"]
        ran = settled(site, ids)
        assert (tmp_path / "died").exists(), "nothing was killed"
        for job in ran.values():
            assert [event.words[0] for event in job.events] == ["start", "end"]
            assert job.outcomes == ("done",)
        # The spooler that follows the killed one removes an empty folder.
        wait_until(lambda: names_in(site.spool / "chunks") == [])


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
def test_each_job_of_a_chunk_runs_once_if_the_whole_server_is_killed(tmp_path: Path, spoolers: int) -> None:
    """At whatever step: as soon as the first of 200 has started."""
    with serving(tmp_path, spoolers) as before:
        ids = before.server.post("/map/innocent", {"args": [[]] * 200}).json["jobs"]
        wait_until(lambda: before.history.events())
        before.server.kill()
    with serving(tmp_path, spoolers) as after:
        ran = settled(after, ids)
    for job in ran.values():
        # Those in progress were killed with the server, perhaps before their task wrote anything down, and run again.
        assert job.outcomes in (("done",), ("crashed", "done"))
        assert 1 <= len(job.said("start")) <= len(job.outcomes)
        job.assert_one_at_a_time()
    assert sum(len(job.outcomes) > 1 for job in ran.values()) <= spoolers


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
@pytest.mark.parametrize("moment", sampled(["before", "after"], "after"))
def test_a_delayed_job_runs_once_if_the_process_that_moves_it_in_is_killed(
    tmp_path: Path, moment: str, spoolers: int
) -> None:
    """Between the decision and the rename, and between the rename and the signal to a spooler."""
    with serving(tmp_path, spoolers, DIES_MOVING=moment) as site:
        ids = [site.call("innocent", using={"delay": 1.0})["job"] for _ in range(3)]
        (tmp_path / "all-accepted").touch()
        ran = settled(site, ids)
    assert len(site.history.events("dies", moment)) == 1
    assert all(ran[id].outcomes == ("done",) for id in ids)
    for id in ids:
        assert len(ran[id].said("start")) == 1
        assert ran[id].details.status.run_at <= ran[id].said("start")[0].time, "early"  # type: ignore[operator]


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
@pytest.mark.parametrize("moment", sampled(["before", "after"], "after"))
def test_a_job_with_an_id_of_its_own_runs_once_if_the_process_that_links_it_to_its_name_is_killed(
    tmp_path: Path, moment: str, spoolers: int
) -> None:
    """Afterwards the file has two names. Other processes write the same job meanwhile, also while it runs."""
    id = "1" * 32
    with serving(tmp_path, spoolers, DIES_LINKING=moment) as site:
        with pytest.raises((OSError, HTTPException)):
            site.server.post(f"/derived/{id}")
        # uWSGI's master holds the socket: the next process answers what comes meanwhile.
        if moment == "before":
            assert site.server.post(f"/derived/{id}").json == {"accepted": True}
        site.history.wait_for("start", id)
        for _ in range(3):
            site.server.post(f"/derived/{id}")
        ran = settled(site, [id])
    assert ran[id].outcomes == ("done",)
    assert len(ran[id].said("start")) == 1


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_job_that_has_expired_never_starts_if_its_spooler_is_killed_beside_the_removal_of_its_file(
    tmp_path: Path, moment: str, spoolers: int
) -> None:
    with serving(tmp_path, spoolers, DIES_FINISHING=moment) as site:
        expired = site.call("innocent", using={"expires": 0})["job"]
        wait_until(lambda: (tmp_path / "died").exists(), message=site.server.log)
        lasting = site.call("innocent", using={"expires": 600})["job"]
        ran = settled(site, [expired, lasting])
    status = ran[expired].details.status
    assert (status.state, status.ending, ran[expired].events) == (State.CANCELLED, "expired", [])
    assert [event.kind for event in ran[expired].details.events] == ["expired"]
    assert ran[lasting].outcomes == ("done",)


@pytest.mark.parametrize("spoolers", sampled(SPOOLERS, 4))
@pytest.mark.parametrize("moment", sampled(["key written", "half way", "replaced"], "half way"))
def test_a_unique_job_is_there_once_if_its_caller_is_killed_when(tmp_path: Path, moment: str, spoolers: int) -> None:
    """The next caller replaces the job, or makes it if it was not accepted; it runs once, with the last arguments."""
    with serving(tmp_path, spoolers, DIES_CALLING=moment) as site:

        def call(seconds: float, delay: float) -> str:
            return str(site.call("debounced", "key", seconds, using={"delay": delay})["job"])

        first = None if moment == "key written" else call(0.001, 60)
        with pytest.raises((OSError, HTTPException)):
            call(0.002, 60)
        assert (tmp_path / "died").exists(), "nothing was killed"
        id = call(0.003, 0.5)
        assert first in (None, id)
        assert [name for name in site.files() if "uwsgi_spoolfile" in name and id not in name] == []
        ran = settled(site, [id])
    assert ran[id].outcomes == ("done",)
    assert [event.words[2] for event in ran[id].said("slept")] == ["0.003"]


@pytest.mark.parametrize("moment", sampled(["in before", "in after", "out before", "out after"], "in after"))
def test_each_job_under_a_limit_runs_once_if_the_process_that_parks_it_or_moves_it_back_is_killed(
    tmp_path: Path, moment: str
) -> None:
    """Between the claim and the move; before the second look; between the record of the end and the move; after it."""
    way, when = moment.split()
    with serving(tmp_path, 4, DIES_RENAMING=f"{way} parked {when}") as site:
        ids = [site.call("limited", "a", True)["job"] for _ in range(2)]
        wait_until(lambda: len(site.history.events("start")) == 2)
        waiting = [site.call("limited", "a")["job"] for _ in range(3)]
        if way == "in":
            wait_until((tmp_path / "died").exists, message="nothing was killed")
        else:
            wait_until(lambda: len(list((site.spool / "parked").glob("*/*"))) == len(waiting))
        (tmp_path / "go").touch()
        ran = settled(site, ids + waiting)
        assert (tmp_path / "died").exists(), "nothing was killed"
        for job in ran.values():
            assert [event.words[0] for event in job.events] == ["start", "end"]
            assert job.outcomes == ("done",)
        assert_within_limit(site, ids + waiting, 2)


@pytest.mark.parametrize("when", sampled(["before", "after"], "before"))
def test_each_job_over_its_rate_runs_once_if_the_process_that_puts_one_off_is_killed(tmp_path: Path, when: str) -> None:
    """Between the record of the slot and the move of the file, or after it."""
    with serving(tmp_path, 4, DIES_RENAMING=f"in later {when}") as site:
        ids = site.server.post("/map/paced", {"args": [[n] for n in range(6)]}).json["jobs"]
        ran = settled(site, ids)
        assert (tmp_path / "died").exists(), "nothing was killed"
        for job in ran.values():
            assert [event.words[0] for event in job.events] == ["start", "end"]
            assert job.outcomes == ("done",)
        starts = sorted(job.details.attempts[0].started_at for job in ran.values())
        for first, last in zip(starts, starts[2:], strict=False):
            assert last - first >= 0.5, starts


@pytest.mark.matrix
def test_jobs_under_limits_survive_the_kills_of_their_spoolers(tmp_path: Path) -> None:
    """One process after the other is killed; none of the keys ever has more than two jobs, and none is left behind."""
    with serving(tmp_path, 4) as site:
        by_key = {key: [site.call("limited", key)["job"] for _ in range(30)] for key in ("a", "b", "c")}
        ids = [id for of_key in by_key.values() for id in of_key]
        for n in range(12):
            wait_until(lambda n=n: len(site.history.events("start")) >= 5 * n + 3)  # type: ignore[misc]
            pid = site.history.events("start")[-1].pid
            # First: from here on, what this process writes is not about a job that runs.
            with site.history.path.open("a") as history:
                history.write(f"{time.time():.6f} {pid} killed - -\n")
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ran = settled(site, ids)
        for job in ran.values():
            assert job.outcomes[-1] == "done"
            job.assert_one_at_a_time()
        for of_key in by_key.values():
            assert_within_limit(site, of_key, 2)


def assert_within_limit(site: Site, ids: list[str], number: int) -> None:
    """Never did more of these jobs run at once. The order of the lines counts, and not their times."""
    runs_in: dict[int, str] = {}
    killed: set[int] = set()
    for event in site.history.events():
        if event.words[0] == "killed":
            killed.add(event.pid)
            runs_in.pop(event.pid, None)
        elif event.words[1] in ids and event.pid not in killed:
            if event.words[0] == "start":
                runs_in[event.pid] = event.words[1]
                assert len(runs_in) <= number, site.history.events()
            else:
                runs_in.pop(event.pid, None)


@pytest.mark.parametrize("moment", sampled(["staged", "recorded", "moved"], "recorded"))
def test_a_batch_is_accepted_whole_or_not_at_all_if_its_maker_is_killed_when_it_is(tmp_path: Path, moment: str) -> None:
    """After its files are written, after the record, and after the first of them was moved to where it runs."""
    with serving(tmp_path, 4, DIES_BATCHING=moment) as site:
        with pytest.raises((OSError, HTTPException)):
            site.server.post("/batch")
        [made] = site.history.events("made")
        batch, members = made.words[1], list(made.words[2:])
        if moment == "staged":
            with looking_at(site), pytest.raises(UnknownBatchError):
                Batch.get(batch)
        else:
            site.history.wait_for("end", members[0], timeout=60)
            with looking_at(site):
                wait_until(lambda: Batch.get(batch).status.callback is not None, timeout=60, message=site.server.log)
                callback = Batch.get(batch).status.callback
            assert callback is not None
            ran = settled(site, [*members, callback])
            assert all(job.outcomes == ("done",) and len(job.said("start")) == 1 for job in ran.values())
        later = site.server.post("/batch").json
        settled(site, later["jobs"])
        assert (moment == "staged") == (not any(event.words[1] in members for event in site.history.events("start")))


@pytest.mark.matrix
@pytest.mark.parametrize("spoolers", SPOOLERS)
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_batch_calls_back_once_if_the_spooler_that_links_the_callback_to_its_name_is_killed(
    tmp_path: Path, moment: str, spoolers: int
) -> None:
    """Between the end of the last member and the callback's file, and between that file and its record."""
    with serving(tmp_path, spoolers, DIES_LINKING=moment) as site:
        made = site.server.post("/batch").json
        wait_until(lambda: (tmp_path / "died").exists(), message=site.server.log)

        def callback() -> str | None:
            with looking_at(site):
                return Batch.get(made["batch"]).status.callback

        wait_until(lambda: callback() is not None, message=site.server.log)
        id = callback()
        assert id is not None
        ran = settled(site, [*made["jobs"], id])
        starts = [event.words[1] for event in site.history.events() if event.words[0] == "start"]
    assert all(job.outcomes == ("done",) for job in ran.values())
    assert sorted(starts) == sorted(ran)


@pytest.mark.matrix
@pytest.mark.parametrize("spoolers", SPOOLERS)
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("what", ["DIES_LINKING", "DIES_FINISHING"])
def test_a_chain_goes_on_once_if_its_spooler_is_killed_beside_the_file_of_the_next_job(
    tmp_path: Path, what: str, moment: str, spoolers: int
) -> None:
    """Around the link of the next job's file, and around the removal of the job's own."""
    with serving(tmp_path, spoolers, **{what: moment}) as site:
        ids = site.server.post("/chain").json["jobs"]
        for id in ids:
            site.history.wait_for("end", id, timeout=60)
        assert (tmp_path / "died").exists(), "nothing was killed"
        ran = settled(site, ids)
    for job in ran.values():
        assert job.outcomes == ("done",)
        assert len(job.said("start")) == 1
