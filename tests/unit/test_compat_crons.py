"""When crons of uWSGI fire. tests/live/test_compat.py compares the rule with a real uWSGI."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spoolkit import ConfigurationError
from spoolkit.compat.crons import RANGES, Cron
from spoolkit.compat.timed import local_zone
from spoolkit.schedules.schedule import SECOND, checked

MINUTES = 2000


def numbers(name: str) -> st.SearchStrategy[int]:
    """Values that never come among them, and steps that no value has."""
    last = RANGES[name][-1]
    return st.one_of(st.just(-1), st.integers(-last - 2, last + 2))


@settings(max_examples=20)
@given(st.tuples(*map(numbers, RANGES)), st.datetimes(datetime(2023, 12, 1), datetime(2028, 3, 1)))
def test_the_due_times_of_the_crontab_that_match_are_the_minutes_that_match(
    given: tuple[int, ...], start: datetime
) -> None:
    try:
        cron = Cron(*given)
        schedule = checked("a", "a", cron=cron.crontab())
    except ConfigurationError:
        assume(False)
        return
    begin = start.replace(second=0, microsecond=0, tzinfo=UTC)
    minutes = [begin + timedelta(minutes=n) for n in range(1, MINUTES)]
    first, last = (int(one.timestamp()) * SECOND for one in (begin, minutes[-1]))
    due = [datetime.fromtimestamp(one // SECOND, UTC) for one in schedule.between(first, last)]
    assert [one for one in due if cron.matches(one)] == [one for one in minutes if cron.matches(one)]


@settings(max_examples=30)
@given(st.tuples(*map(numbers, RANGES)))
def test_a_cron_that_is_refused_never_matches(given: tuple[int, ...]) -> None:
    try:
        Cron(*given)
    except ConfigurationError:
        rule = object.__new__(Cron)
        vars(rule).update(zip(RANGES, given, strict=True))
        start = datetime(2024, 2, 20)  # a leap year
        hours = [start + timedelta(hours=n, minutes=n % 60) for n in range(0, 24 * 800, 7)]
        assert not any(map(rule.matches, hours))


@pytest.mark.parametrize(
    ("cron", "crontab"),
    [
        ((-1, -1, -1, -1, -1), "* * * * *"),
        ((-15, 3, -1, -1, -1), "0,15,30,45 3 * * *"),
        ((0, 0, -10, -1, -1), "0 0 10,20,30 * *"),  # not */10, which is 1, 11, 21, 31
        ((0, 0, -1, -6, 7), "0 0 * 6,12 0"),
        ((0, 0, 13, -1, 5), "0 0 13 * 5"),  # the 13th, and each Friday
        ((0, 0, 40, -1, 5), "0 0 * * 5"),
        ((0, 0, -10, -1, 5), "0 0 10,20,30 * *"),  # those of them that are Fridays
    ],
)
def test_what_it_is_in_a_crontab(cron: tuple[int, ...], crontab: str) -> None:
    assert Cron(*cron).crontab() == crontab


@pytest.mark.parametrize("cron", [(60, 0, 1, 1, 1), (0, 0, -40, -1, -1), (0, 0, 0, -1, 9), (0, 0, -1, "1", -1)])
def test_one_that_never_fires_is_refused(cron: tuple[int, ...]) -> None:
    with pytest.raises(ConfigurationError):
        Cron(*cron)


def test_the_zone_is_that_of_the_local_time(tmp_path: Path) -> None:
    link = tmp_path / "localtime"
    assert local_zone({"TZ": "Europe/Berlin"}) == "Europe/Berlin"
    assert local_zone({"TZ": ":Europe/Berlin"}) == "Europe/Berlin"
    assert local_zone({"TZ": ""}) == "UTC"
    assert local_zone({}, str(link)) == "UTC"
    link.symlink_to("/usr/share/zoneinfo/America/New_York")
    assert local_zone({}, str(link)) == "America/New_York"


def test_a_zone_without_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.tzname", ("CET", "CEST"))
    with pytest.raises(ConfigurationError, match="set TZ"):
        local_zone({"TZ": "CET-1CEST"})
