"""What follows from how an attempt ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, Abort, JobCancelled, JobTimeout, Retry, ScheduleError, times
from spoolkit.attempt import retry
from spoolkit.job import Cancelled, Dead, Done, Outcome, RetryAt, TaskOptions

FIVE = TaskOptions(retries=5, backoff=5.0)
PICKY = TaskOptions(backoff=5.0, retry_on=(OSError,), discard_on=(KeyError, FileNotFoundError))


def decide(
    returned: object, error: BaseException | None = None, options: TaskOptions = FIVE, attempt: int = 1
) -> Outcome:
    return retry.decide(options, attempt, returned, error, now=1000.0, jitter=0.5)


@pytest.mark.parametrize("returned", [None, {"a": 1}, -2, -1, 0, False])
def test_decide_takes_any_other_return_value_as_the_result(returned: object) -> None:
    outcome = decide(returned)
    assert isinstance(outcome, Done)
    assert outcome.result is returned  # the integers are told apart from uWSGI's constants by identity


def test_decide_takes_spool_ok_as_done_without_a_result() -> None:
    assert decide(SPOOL_OK) == Done(None)


@pytest.mark.parametrize(
    ("returned", "error", "time", "ending", "says"),
    [
        (SPOOL_RETRY, None, 1005.0, "retry", "the task returned SPOOL_RETRY"),
        (SPOOL_IGNORE, None, 1005.0, "retry", "the task returned SPOOL_IGNORE"),
        (None, ValueError("x"), 1005.0, "failed", "ValueError: x"),
        (None, SystemExit(3), 1005.0, "failed", "SystemExit: 3"),
        (None, KeyboardInterrupt(), 1005.0, "failed", "KeyboardInterrupt: "),
        (None, MemoryError(), 1005.0, "failed", "MemoryError: "),
        (None, JobTimeout("late"), 1005.0, "timeout", "JobTimeout: late"),
        (None, Retry(), 1005.0, "retry", "Retry: the task asked to run again"),
        (None, Retry(delay=0, reason="now"), 1000.0, "retry", "Retry: now"),
        (None, Retry(delay=timedelta(minutes=1)), 1060.0, "retry", "Retry: the task asked to run again"),
        (None, Retry(delay=30.5), 1030.5, "retry", "Retry: the task asked to run again"),
    ],
)
def test_decide_runs_a_job_again_after_a_failure_or_a_request(
    returned: object, error: BaseException | None, time: float, ending: str, says: str
) -> None:
    outcome = decide(returned, error)
    assert isinstance(outcome, RetryAt)
    assert (outcome.time, outcome.failure.ending, str(outcome.failure)) == (time, ending, says)


@pytest.mark.parametrize("error", [None, ValueError(), Retry(delay=1), JobTimeout()])
def test_decide_ends_a_job_as_dead_after_its_last_attempt(error: BaseException | None) -> None:
    for attempt in range(1, 6):
        assert isinstance(decide(SPOOL_RETRY, error, attempt=attempt), RetryAt)
    for attempt in (6, 7, 100):
        assert isinstance(decide(SPOOL_RETRY, error, attempt=attempt), Dead)
    assert isinstance(decide(SPOOL_RETRY, error, TaskOptions(retries=0)), Dead)


@pytest.mark.parametrize(
    ("error", "kind", "ending"),
    [
        (ConnectionError(), RetryAt, "failed"),
        (ValueError("x"), Dead, "failed"),
        (KeyError("x"), Cancelled, "discarded"),
        (FileNotFoundError(), Cancelled, "discarded"),  # discarding comes first
        (Abort("no use"), Dead, "aborted"),
        (JobCancelled(), Cancelled, "cancelled"),
        (Retry(), RetryAt, "retry"),  # what the task says itself is not asked for its type
        (JobTimeout(), RetryAt, "timeout"),
    ],
)
def test_decide_does_not_retry_errors_that_the_task_excludes(
    error: BaseException, kind: type[Outcome], ending: str
) -> None:
    outcome = decide(None, error, PICKY)
    assert isinstance(outcome, kind)
    assert outcome.failure.ending == ending


def test_an_abort_ends_a_job_that_has_attempts_left() -> None:
    outcome = decide(None, Abort("no use"))
    assert isinstance(outcome, Dead)
    assert "no use" in outcome.failure.message


class Broken(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_whose_text_cannot_be_read_is_still_retried() -> None:
    outcome = decide(None, Broken())
    assert isinstance(outcome, RetryAt)
    assert str(outcome.failure) == "Broken: (its message cannot be read)"


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), timedelta(seconds=-1), "5", True])
def test_retry_refuses_an_impossible_delay(delay: Any) -> None:
    with pytest.raises(ScheduleError, match="delay of Retry is"):
        Retry(delay=delay)


@pytest.mark.parametrize("backoff", [1e300, lambda attempt: 1e300])
def test_a_delay_is_at_most_what_a_file_system_can_store(backoff: float | Callable[[int], float]) -> None:
    for returned, error in ((SPOOL_RETRY, None), (None, ValueError()), (None, Retry(delay=1e300)), (None, Retry())):
        outcome = decide(returned, error, TaskOptions(backoff=backoff))
        assert isinstance(outcome, RetryAt)
        assert outcome.time == 1000.0 + times.MAX_AHEAD


def test_the_default_backoff_doubles_from_two_seconds_to_an_hour() -> None:
    delays = [retry.backoff(TaskOptions(), attempt, 0.0)[0] for attempt in range(1, 14)]
    assert delays == [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600]


@given(attempt=st.integers(1, 10**6), jitter=st.floats(0, 1))
def test_jitter_adds_at_most_a_quarter_to_the_delay(attempt: int, jitter: float) -> None:
    plain, _ = retry.backoff(TaskOptions(), attempt, 0.0)
    delay, complaint = retry.backoff(TaskOptions(), attempt, jitter)
    assert plain <= delay <= min(plain * 1.25, 3600)
    assert not complaint


def test_a_backoff_function_gets_the_number_of_the_failed_attempt() -> None:
    assert retry.backoff(TaskOptions(backoff=lambda attempt: attempt * 10), 3, 0.9) == (30, "")
    assert retry.backoff(TaskOptions(backoff=lambda attempt: timedelta(minutes=attempt)), 3, 0.9) == (180, "")


@pytest.mark.parametrize("result", [-1, float("nan"), float("inf"), "soon", None, 1j])
def test_a_broken_backoff_function_falls_back_to_the_default_and_is_reported(result: object) -> None:
    outcome = decide(None, ValueError("x"), TaskOptions(backoff=lambda attempt: result))  # type: ignore[arg-type,return-value]
    assert isinstance(outcome, RetryAt)
    assert outcome.time == 1002.25
    assert "x (its backoff(1) failed: " in outcome.failure.message
