"""What follows from how an attempt ended."""

from __future__ import annotations

import pytest

from spoolkit import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, Retry, ScheduleError, retry
from spoolkit.job import Done, Outcome, RetryAt


@pytest.mark.parametrize(
    ("returned", "error", "outcome"),
    [
        (None, None, Done(None)),
        ({"a": 1}, None, Done({"a": 1})),
        (SPOOL_OK, None, Done(SPOOL_OK)),
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


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_a_delay_that_cannot_be(delay: float) -> None:
    with pytest.raises(ScheduleError):
        Retry(delay=delay)
