"""What happens at this moment: the last hour by minutes, the spoolers with their jobs, the last deploy."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from spoolkit import spool
from spoolkit.admin import activity
from spoolkit.job import State, Status
from spoolkit.spooldir import spoolers
from spoolkit.system import clock, process


@spool(retries=0)
def ends(well: bool) -> None:
    if not well:
        raise ValueError("not well")


@pytest.fixture
def this_spooler(directory: str) -> Iterator[spoolers.SpoolerFile]:
    """This process, as one that serves the directory."""
    made = spoolers.SpoolerFile(directory)
    yield made
    made.leave()


def test_the_last_hour_is_told_by_minutes_of_the_clock(
    directory: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [(minute.done, minute.dead) for minute in activity.last_hour()] == [(0, 0)] * 60
    for well in (True, True, False):
        ends(well)
    work()
    hour = activity.last_hour()
    assert (sum(minute.done for minute in hour), sum(minute.dead for minute in hour)) == (2, 1)
    assert [later.begin - minute.begin for minute, later in pairwise(hour)] == [60.0] * 59
    assert all(minute.begin % 60 == 0 for minute in hour)
    later = clock.now() + 3700
    monkeypatch.setattr(clock, "now", lambda: later)
    assert sum(minute.done + minute.dead for minute in activity.last_hour()) == 0


def test_a_spooler_is_told_with_its_job(this_spooler: spoolers.SpoolerFile) -> None:
    (idle,) = activity.list_spoolers([])
    assert (idle.queue, idle.pid, idle.job, idle.is_busy, idle.is_outdated) == (
        "default",
        os.getpid(),
        None,
        False,
        False,
    )
    job = Status("18af", "shop.mail", State.RUNNING, pid=os.getpid())
    others = Status("18b0", "shop.mail", State.RUNNING, pid=1)
    (busy,) = activity.list_spoolers([job, others])
    assert (busy.job, busy.is_busy) == (job, True)


def test_the_last_deploy_is_the_last_start_or_the_last_reload(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert activity.last_deploy() is None
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    made = spoolers.SpoolerFile(directory)
    try:

        def is_the_start_of_this_process() -> bool:
            before, found, after = process.age(os.getpid()), activity.last_deploy(), process.age(os.getpid())
            assert None not in (before, found, after)
            return now - (after or 0) <= (found or 0) <= now - (before or 0)

        assert is_the_start_of_this_process()
        spoolers.publish_generation(directory, os.getpid())
        path = os.path.join(directory, spoolers.FOLDER, spoolers.GENERATION)
        os.utime(path, (now + 5000, now + 5000))
        assert activity.last_deploy() == pytest.approx(now + 5000, abs=0.001)
        os.utime(path, (1, 1))
        assert is_the_start_of_this_process()
    finally:
        made.leave()
