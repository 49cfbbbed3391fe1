"""The figures: jobs by task and state, the oldest due job, the run times of the last hour."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import Abort, job, spool
from spoolkit.admin import stats
from spoolkit.job import State, new_id
from spoolkit.spooldir import dead, spoolfile
from spoolkit.store import locations
from spoolkit.system import clock


@spool(backoff=1000)
def ends(how: str) -> None:
    if how == "fails":
        raise ValueError
    if how == "dies":
        raise Abort


@spool
def other() -> None: ...


def done(seconds: float, ago: float) -> None:
    """Record a job that finished ``ago`` seconds ago and took ``seconds``."""
    finished = clock.now() - ago
    with locations.store().transaction() as db:
        db.execute(
            "INSERT INTO jobs (id, task, engine, state, attempt, base, started_at, finished_at)"
            " VALUES (?, 't', 'spool', 'done', 1, 0, ?, ?)",
            (new_id(), finished - seconds, finished),
        )


def due(path: str, seconds: float) -> None:
    os.utime(path, (clock.now() - seconds,) * 2)


def test_gather_returns_empty_figures_before_the_first_job(directory: str) -> None:
    default = stats.QueueFigures("default", directory, 0, 0, 0, "open")
    assert stats.gather() == stats.Statistics({}, None, 0, {}, {}, queues=[default])
    assert os.listdir(directory) == []


def test_gather_counts_jobs_by_task_and_state(directory: str, work: Callable[[], None]) -> None:
    for how in ("well", "well", "fails", "dies"):
        ends(how)
    other()
    work()
    ends.using(delay=1000)("later").cancel()
    ends.using(delay=1000)("later")
    other.using(delay=1000)()
    name = ends.name
    assert stats.gather().counts == {
        (name, State.CANCELLED): 1,
        (name, State.DEAD): 1,
        (name, State.DONE): 2,
        (name, State.QUEUED): 1,
        (name, State.RETRYING): 1,
        (other.name, State.DONE): 1,
        (other.name, State.QUEUED): 1,
    }
    assert list(stats.gather().counts) == sorted(stats.gather().counts)


def test_oldest_due_is_the_age_of_the_oldest_due_job(directory: str, work: Callable[[], None]) -> None:
    ends.using(delay=1000)("x")
    assert stats.gather().oldest_due is None, "none is due"
    for _ in range(2):
        ends("x")
    first, second = spoolfile.pending(directory)[:2]
    due(first, 30)
    due(second, 70)
    late = stats.gather().oldest_due
    assert late is not None
    assert 70 <= late < 100


def test_oldest_due_finds_a_job_behind_earlier_ones_that_are_not_due_yet(directory: str) -> None:
    for _ in range(5):
        ends.using(delay=1000)("x")
    late = ends("x")
    due(f"{directory}/{spoolfile.PREFIX}{late.id}", 70)
    assert (stats.gather(max_examined=3).oldest_due or 0) >= 70


def test_oldest_due_ignores_a_running_job(directory: str) -> None:
    plain = job.JobSpec(id=new_id(), task="tasks.some")
    path = spoolfile.write(directory, plain.id, b"x")
    due(path, 70)
    assert stats.gather().oldest_due is not None
    locations.store().claim(plain, file=os.path.basename(path), still_there=lambda: True, max_attempts=1)
    assert stats.gather().oldest_due is None


def test_oldest_due_counts_files_of_other_libraries(directory: str) -> None:
    due(spoolfile.write(directory, "host_1_2_3_4", b"x"), 70)
    late = stats.gather().oldest_due
    assert late is not None
    assert late >= 70


def test_gather_counts_a_dead_file_of_another_library_as_an_unknown_task(
    directory: str, work: Callable[[], None]
) -> None:
    ends("well")
    work()
    dead.quarantine(spoolfile.write(directory, "host_1_2_3_4", b"x"), directory, reason="no job")
    assert stats.gather().counts == {("?", State.DEAD): 1, (ends.name, State.DONE): 1}


def test_done_and_percentiles_cover_the_last_hour(directory: str) -> None:
    for seconds, ago in ((1, 10), (2, 3500), (3, 3700), (4, 100_000)):
        done(seconds, ago)
    found = stats.gather()
    assert found.done == 2
    assert found.percentiles == {share: pytest.approx(took, abs=1e-3) for share, took in ((50, 2), (90, 2), (99, 2))}


def test_gather_counts_the_files_while_the_store_is_broken(directory: str, work: Callable[[], None]) -> None:
    ends("well")
    work()
    ends.using(delay=1000)("x")
    ends("x")
    due(spoolfile.pending(directory)[-1], 70)
    locations.store().close()
    for name in ("spoolkit.db-wal", "spoolkit.db-shm"):
        Path(directory, name).unlink(missing_ok=True)
    Path(directory, "spoolkit.db").write_bytes(b"no database" * 100)
    found = stats.gather()
    assert (found.counts, found.done) == ({(ends.name, State.QUEUED): 2}, 0)
    assert found.oldest_due is not None


def test_to_dict_can_be_written_as_json(directory: str, work: Callable[[], None]) -> None:
    ends("well")
    work()
    figures: dict[str, Any] = json.loads(json.dumps(stats.gather().to_dict()))
    assert figures["counts"] == [{"task": ends.name, "state": "done", "count": 1}]
    assert (figures["oldest_due"], figures["done_last_hour"], set(figures["run_time"])) == (
        None,
        1,
        {"p50", "p90", "p99"},
    )


@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_percentiles_are_run_times_that_so_many_per_cent_did_not_exceed(took: list[float]) -> None:
    took.sort()
    found = stats.percentiles(took)
    assert set(found) == (set(stats.PERCENTILES) if took else set())
    for share, seconds in found.items():
        assert seconds in took
        assert sum(one <= seconds for one in took) * 100 >= len(took) * share
        # And with a shorter time it were fewer: but for one job, the smallest that holds.
        assert sum(one < seconds for one in took) <= math.floor(len(took) * share / 100)


def test_gather_counts_waiting_jobs_beyond_the_bound_without_reading_them(
    directory: str, work: Callable[[], None]
) -> None:
    for _ in range(4):
        ends("dies")
        ends("fails")
    work()
    for _ in range(6):
        ends.using(delay=1000)("x")
    found = stats.gather(max_examined=3)
    assert not found.complete
    assert found.counts == {
        ("?", State.QUEUED): 3,
        (ends.name, State.QUEUED): 3,
        (ends.name, State.RETRYING): 4,
        (ends.name, State.DEAD): 4,
    }
    assert found.to_dict()["complete"] is False
    assert stats.gather().complete


def test_the_number_of_waiting_jobs_is_exact_beside_jobs_of_threads(directory: str) -> None:
    for _ in range(6):
        ends.using(delay=1000)("x")
    in_thread = job.JobSpec(id=new_id(), task="tasks.some", engine="thread")
    locations.store().claim(in_thread, file=None, still_there=lambda: True, max_attempts=1)
    found = stats.gather(max_examined=3)
    assert found.counts[ends.name, State.QUEUED] + found.counts["?", State.QUEUED] == 6
