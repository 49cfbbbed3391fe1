"""``@spool(memory=)`` bounds an attempt, and its process has its own limits again afterwards; spoolers are recycled."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import ConfigurationError, JobFailedError, JobMemoryError, SpoolKit, State, application, spool, thread
from spoolkit.attempt import memory
from spoolkit.lifecycle import spooler_signals
from spoolkit.spooldir import spoolfile
from spoolkit.spooling import recycling
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import process
from spoolkit.testing import run_jobs

MIB = 1 << 20
UNBOUND = resource.getrlimit(resource.RLIMIT_DATA)
limits: list[tuple[int, int]] = []


@spool(memory=64 * MIB, retries=1, backoff=0, timeout=60)
def takes(how: str, size: int = 0) -> int:
    limits.append(resource.getrlimit(resource.RLIMIT_DATA))
    if how == "at once":
        return len(bytearray(size))
    if how == "sleeps":
        time.sleep(60)
    with contextlib.suppress(MemoryError):
        return len(bytearray(size))
    return 0


@spool
def plain(size: int) -> int:
    return len(bytearray(size))


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_TIMEOUT_GRACE=60)
    SpoolKit(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    limits.clear()
    with app.app_context():
        yield app


def work() -> None:
    Spooler(locations.spool_dir()).run_due()


def test_an_attempt_that_takes_more_fails_with_an_error_of_its_own_and_is_tried_again() -> None:
    job, other = takes("at once", 300 * MIB), plain(300 * MIB)
    work()
    assert job.state is State.RETRYING
    assert (other.state, other.result) == (State.DONE, 300 * MIB)
    assert resource.getrlimit(resource.RLIMIT_DATA) == UNBOUND
    work()
    assert (job.state, job.attempt, job.status.error_type) == (State.DEAD, 2, "JobMemoryError")
    with pytest.raises(JobFailedError, match="the task needs more than 67108864 bytes") as failed:
        _ = job.result
    assert "in takes" in "".join(failed.value.__notes__)


def test_what_an_attempt_may_take_is_counted_from_what_its_process_has() -> None:
    held = bytearray(100 * MIB)
    job, caught = takes("at once", 40 * MIB), takes("catches", 300 * MIB)
    work()
    assert (job.result, caught.result, len(held)) == (40 * MIB, 0, 100 * MIB)
    assert all(100 * MIB < soft < 2**40 for soft, _ in limits)


def test_the_limit_is_gone_after_a_timeout() -> None:
    job = takes.using(timeout=0.05, retries=0)("sleeps")
    work()
    assert (job.state, job.status.ending) == (State.DEAD, "timeout")
    assert resource.getrlimit(resource.RLIMIT_DATA) == UNBOUND


def test_the_limit_is_never_above_that_of_the_process() -> None:
    _, hard = UNBOUND
    lower = process.data_size() + 200 * MIB
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (lower, hard))
        with memory.limited(1 << 40):
            assert resource.getrlimit(resource.RLIMIT_DATA) == (lower, hard)
        assert resource.getrlimit(resource.RLIMIT_DATA) == (lower, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, UNBOUND)


def test_another_error_passes_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), memory.limited(64 * MIB):
        _ = 1 // 0
    with pytest.raises(JobMemoryError) as raised, memory.limited(64 * MIB):
        raise MemoryError
    assert raised.value.limit == 64 * MIB


def test_a_process_that_does_other_work_too_is_not_limited() -> None:
    takes("at once", 30 * MIB)
    run_jobs()
    assert limits == [UNBOUND]


@pytest.mark.parametrize("value", [0, -1, 512, 1.5, True, "1", 1 << 60])
def test_a_memory_that_cannot_be_used_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^memory is ") as refused:
        spool(memory=value)  # type: ignore[call-overload]
    assert refused.value.setting == "memory"


def test_a_thread_cannot_have_a_memory_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="shares its process with the site") as refused:
        thread(memory=64 * MIB)  # type: ignore[call-overload]
    assert refused.value.setting == "memory"


# Spoolers


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_spooler_is_replaced_at_its_last_job_or_beyond_its_memory(
    jobs: int, size: int, max_jobs: int, max_size: int
) -> None:
    config = replace(application.settings(), spooler_max_jobs=max_jobs, spooler_max_memory=max_size)
    due = (max_jobs > 0 and jobs >= max_jobs) or (max_size > 0 and size > max_size)
    assert (recycling.why(jobs, size, config) is not None) == due


@pytest.mark.parametrize(("setting", "ran"), [("JOBS", 2), ("MEMORY", 1)])
def test_a_spooler_starts_no_job_after_the_one_that_reached_a_limit(
    app: Flask, monkeypatch: pytest.MonkeyPatch, setting: str, ran: int
) -> None:
    app.config[f"SPOOLKIT_SPOOLER_MAX_{setting}"] = 2  # jobs, or bytes, which each process takes
    monkeypatch.setattr(spooler_signals._spooler, "exit_requested", False)
    monkeypatch.setattr(recycling._spooler, "jobs", 0)
    jobs = [plain(1) for _ in range(4)]
    work()
    assert [job.state for job in jobs] == [State.DONE] * ran + [State.QUEUED] * (4 - ran)
    assert len(spoolfile.pending(locations.spool_dir())) == 4 - ran
