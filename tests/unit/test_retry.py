"""What follows from how an attempt ended."""

from __future__ import annotations

import pytest

from spoolkit import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, Retry, ScheduleError, retry, schedule
from spoolkit.job import Done, Outcome, RetryAt


@pytest.mark.parametrize(
    ("returned", "error", "outcome"),
    [
        (None, None, Done(None)),
        ({"a": 1}, None, Done({"a": 1})),
        (SPOOL_OK, None, Done(SPOOL_OK)),
        (-2, None, Done(-2)),  # told from SPOOL_OK, SPOOL_RETRY and SPOOL_IGNORE by identity
        (-1, None, Done(-1)),
        (0, None, Done(0)),
        (False, None, Done(False)),
        (SPOOL_RETRY, None, RetryAt(1005.0, "the task returned SPOOL_RETRY")),
        (SPOOL_IGNORE, None, RetryAt(1005.0, "the task returned SPOOL_IGNORE")),
        (None, ValueError("x"), RetryAt(1005.0, "ValueError: x")),
        (None, SystemExit(3), RetryAt(1005.0, "SystemExit: 3")),
        (None, Retry(), RetryAt(1005.0, "the task asked to run again")),
        (None, Retry(delay=0, reason="now"), RetryAt(1000.0, "now")),
        (None, Retry(delay=30.5), RetryAt(1030.5, "the task asked to run again")),
    ],
)
def test_the_outcome(returned: object, error: BaseException | None, outcome: Outcome) -> None:
    assert retry.decide(returned, error, retry_delay=5.0, now=1000.0) == outcome


def test_a_plain_integer_stays_one() -> None:
    outcome = retry.decide(-2, None, retry_delay=5.0, now=1000.0)
    assert isinstance(outcome, Done)
    assert type(outcome.result) is int


class Broken(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_an_error_that_cannot_be_told_is_tried_again_all_the_same() -> None:
    outcome = retry.decide(None, Broken(), retry_delay=5.0, now=1000.0)
    assert outcome == RetryAt(1005.0, "Broken: (its message cannot be read)")


def test_a_delay_that_no_file_can_hold_is_cut() -> None:
    outcome = retry.decide(None, Retry(delay=1e300), retry_delay=5.0, now=1000.0)
    assert isinstance(outcome, RetryAt)
    assert outcome.time == 1000.0 + schedule.MAX_AHEAD


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_a_delay_that_cannot_be(delay: float) -> None:
    with pytest.raises(ScheduleError):
        Retry(delay=delay)


def test_no_delay_is_more_than_a_file_can_hold() -> None:
    for returned, error in ((SPOOL_RETRY, None), (None, ValueError()), (None, Retry(delay=1e300)), (None, Retry())):
        outcome = retry.decide(returned, error, retry_delay=1e300, now=1000.0)
        assert isinstance(outcome, RetryAt)
        assert outcome.time == 1000.0 + schedule.MAX_AHEAD
