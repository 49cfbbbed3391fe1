"""When periodic tasks are due: pure, by properties, and against croniter at each change of the clocks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.errors import ConfigurationError
from spoolkit.schedules import schedule
from spoolkit.schedules.schedule import LATE, MAX_MISSED, SECOND, Schedule, checked
from spoolkit.spooldir.schedules import due_of, is_tick_of, tick_id

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Pacific/Apia",  # left out a whole day
    "Africa/Casablanca",  # around Ramadan, backwards
    "America/Havana",
    "Asia/Tehran",
    "Antarctica/Troll",  # by two hours
    "Asia/Amman",
]
EXPRESSIONS = ["30 2 * * *", "0 0 * * *", "30 * * * *", "0 */2 * * *", "30 1,2,3 * * *"]
MORE = ["15 0 * * *", "*/15 * * * *", "0 3 * * 0", "0 0 1 * *", "5-10/5 2 * * *", "0 12 * * 1-5"]


def at(*when: int, zone: str = "UTC") -> int:
    return int(datetime(*when, tzinfo=ZoneInfo(zone)).timestamp()) * SECOND  # type: ignore[arg-type,misc]


def local(due: int, zone: str) -> datetime:
    return datetime.fromtimestamp(due // SECOND, ZoneInfo(zone))


def made(**options: Any) -> Schedule:
    return checked("report", "tasks.report", **options)


def daily(zone: str = "UTC", **options: Any) -> Schedule:
    return made(cron="30 2 * * *", tz=zone, **options)


# Due times


def test_a_cron_is_due_by_the_clock_of_its_zone() -> None:
    assert daily().next_after(at(2026, 7, 1)) == at(2026, 7, 1, 2, 30)
    berlin = daily("Europe/Berlin")
    assert berlin.next_after(at(2026, 7, 1)) == at(2026, 7, 1, 0, 30)
    assert berlin.next_after(at(2026, 12, 1)) == at(2026, 12, 1, 1, 30)


def test_every_counts_from_the_epoch_and_not_from_a_start() -> None:
    quarter = made(every=timedelta(minutes=15))
    assert list(quarter.between(at(2026, 7, 1, 10, 7), at(2026, 7, 1, 11))) == [
        at(2026, 7, 1, 10, minute) if minute < 60 else at(2026, 7, 1, 11) for minute in (15, 30, 45, 60)
    ]
    assert made(every=0.7 + 0.8).next_after(0) == 3 * SECOND // 2


def test_a_time_that_the_clocks_skip_is_moved_to_the_first_one_after_the_gap_and_one_that_comes_twice_runs_once() -> (
    None
):
    spring = list(daily("Europe/Berlin").between(at(2026, 3, 28), at(2026, 3, 31)))
    assert [f"{local(due, 'Europe/Berlin'):%d %H:%M}" for due in spring] == ["28 02:30", "29 03:00", "30 02:30"]
    assert [daily("Europe/Berlin").is_moved(due) for due in spring] == [False, True, False]
    autumn = list(daily("Europe/Berlin").between(at(2026, 10, 24), at(2026, 10, 27)))
    assert [f"{local(due, 'Europe/Berlin'):%d %H:%M %Z}" for due in autumn] == [
        "24 02:30 CEST",
        "25 02:30 CEST",
        "26 02:30 CET",
    ]
    assert not any(map(daily("Europe/Berlin").is_moved, autumn))


def test_an_hourly_one_runs_each_hour_that_passes_also_in_a_change_by_half_an_hour() -> None:
    hourly = made(cron="30 * * * *", tz="Australia/Lord_Howe")
    spring = hourly.between(at(2025, 10, 4, 14), at(2025, 10, 4, 18))
    assert [f"{local(due, 'Australia/Lord_Howe'):%H:%M}" for due in spring] == ["01:30", "02:30", "03:30", "04:30"]
    every_fifth = made(cron="0 */5 * * *", tz="Australia/Lord_Howe")
    assert local(every_fifth.next_after(at(2025, 10, 4, 14)) or 0, "Australia/Lord_Howe").hour == 5
    autumn = hourly.between(at(2025, 4, 5, 14), at(2025, 4, 5, 18))
    assert [f"{local(due, 'Australia/Lord_Howe'):%H:%M}" for due in autumn] == [
        *("01:30", "01:30", "02:30", "03:30", "04:30")
    ]


@cache
def changes(zone: str) -> list[int]:
    """The seconds at which the clocks of ``zone`` change in twenty years."""
    found, first, last = [], at(2010, 1, 1) // SECOND, at(2030, 1, 1) // SECOND

    def offset(time: int) -> timedelta | None:
        return datetime.fromtimestamp(time, ZoneInfo(zone)).utcoffset()

    for day in range(first, last, 86400):
        start, end = day, day + 86400
        if offset(start) == offset(end):
            continue
        while end - start > 1:
            middle = (start + end) // 2
            start, end = (middle, end) if offset(middle) == offset(start) else (start, middle)
        found.append(end)
    return found


def of_croniter(cron: str, zone: str, start: int, end: int) -> set[int]:
    times = croniter(cron, datetime.fromtimestamp(start, ZoneInfo(zone)))
    found = set()
    while (time := int(times.get_next(datetime).timestamp())) <= end:
        found.add(time * SECOND)
    return found


def check_against_croniter(cron: str, zone: str, change: int) -> None:
    start, end = change - 13 * 3600, change + 13 * 3600
    one = made(cron=cron, tz=zone)
    ours = list(one.between(start * SECOND, end * SECOND))
    theirs = of_croniter(cron, zone, start, end)
    assert ours == sorted(set(ours))
    assert set(ours) <= theirs, "what croniter runs is never lost"
    for extra in theirs - set(ours):
        time = local(extra, zone)
        if time.fold:
            # croniter runs a time of day that comes twice, twice. Debian's cron and we run it in the first hour.
            assert one._has_fixed_times
            assert at(*time.timetuple()[:5], zone=zone) in ours or time.replace(fold=0) < local(start * SECOND, zone)
        else:
            # At the end of a gap, croniter adds a run at a time that the expression does not have.
            assert extra == change * SECOND
            assert not one._has_fixed_times
            assert not croniter.match(cron, time.replace(tzinfo=None))


@pytest.mark.parametrize("zone", ZONES)
def test_due_times_are_those_of_croniter_but_for_two_reasons(zone: str) -> None:
    found = changes(zone)
    assert len(found) >= 19
    for change in found:
        for cron in EXPRESSIONS:
            check_against_croniter(cron, zone, change)


@pytest.mark.matrix
@pytest.mark.parametrize("zone", ZONES)
def test_more_due_times_are_those_of_croniter(zone: str) -> None:
    for change in changes(zone):
        for cron in MORE:
            check_against_croniter(cron, zone, change)


FIELDS = [
    st.sampled_from(["*", "*/15", "*/7", "0", "30", "5-10", "59", "1,31"]),
    st.sampled_from(["*", "*/2", "*/5", "0", "1", "2", "2,3", "1-4", "23"]),
    st.sampled_from(["*", "*", "1", "15", "L", "28-31"]),
    st.sampled_from(["*", "*", "3", "10", "*/4"]),
    st.sampled_from(["*", "*", "1-5", "SUN", "6"]),
]
crons = st.tuples(*FIELDS).map(" ".join)
of_each_day = st.tuples(*FIELDS[:2]).map(lambda fields: " ".join([*fields, "* * *"]))
schedules = st.one_of(
    st.builds(lambda cron, zone: made(cron=cron, tz=zone), crons, st.sampled_from([*ZONES, "UTC"])),
    st.integers(1, 10_000_000).map(lambda seconds: made(every=seconds)),
    st.integers(1000, 100_000).map(lambda thousandths: made(every=thousandths / 1000)),
)
times = st.integers(at(2010, 1, 1), at(2030, 1, 1))


def some_change(zone: str) -> st.SearchStrategy[int]:
    return st.builds(
        lambda change, ahead: (change + ahead) * SECOND, st.sampled_from(changes(zone)), st.integers(-9000, 9000)
    )


@given(schedules, times, st.integers(1, 30))
def test_due_times_increase_and_are_the_same_wherever_one_begins(one: Schedule, start: int, number: int) -> None:
    found = list(islice(one.after(start), number))
    assert all(before < after for before, after in pairwise([start, *found]))
    assert found == [one.next_after(before) for before in [start, *found[:-1]]]
    for before, after in pairwise([start, *found]):
        assert one.next_after(before + (after - before) // 2) == after
        assert one.next_after(after - 1) == after


@given(schedules, times, st.integers(1, 12))
def test_the_times_before_are_those_that_were_due(one: Schedule, end: int, number: int) -> None:
    found = one.before(end, number)
    assert len(found) == number
    assert [*reversed(found)] == [*one.between(found[-1] - 1, end)][-number:]
    assert (one.next_after(found[0]) or end + 1) > end


@pytest.mark.parametrize(("cron", "number"), [("0 0 29 2 *", 2), ("0 0 1 1 *", 5)])
def test_the_times_before_may_be_years_ago(cron: str, number: int) -> None:
    assert len(made(every=None, cron=cron).before(at(2027, 5, 5), number)) == number


@given(of_each_day, st.sampled_from(ZONES), st.data())
def test_around_a_change_none_is_lost_in_the_gap_and_none_comes_twice_in_the_fold(
    cron: str, zone: str, draw: st.DataObject
) -> None:
    start = draw.draw(some_change(zone))
    end = start + 6 * 3600 * SECOND
    one = made(cron=cron, tz=zone)
    due = set(one.between(start, end))
    wanted = made(cron=cron)  # by the time of day alone
    for minute in range(-(-start // (60 * SECOND)), end // (60 * SECOND) + 1):
        time = local(minute * 60 * SECOND, zone)
        of_day = at(*time.timetuple()[:5])
        matches = wanted.next_after(of_day - SECOND) == of_day
        is_repeated = time.fold and one._has_fixed_times
        moment = minute * 60 * SECOND
        if moment > start and matches and not is_repeated:
            assert moment in due
        elif moment in due:
            assert not is_repeated
            assert one.is_moved(moment)


# Ids


@given(st.text(min_size=1), st.integers(0, at(2200, 1, 1)))
def test_the_id_of_a_tick_tells_its_due_time_and_its_schedule(name: str, due: int) -> None:
    id = tick_id(name, due)
    assert len(id) == 32
    assert int(id, 16) >= 0
    assert due_of(id) == due
    assert is_tick_of(name, id)
    assert not is_tick_of(f"{name}x", id)
    assert tick_id(name, due + 1) > id


def test_each_part_of_a_definition_changes_its_fingerprint() -> None:
    first = daily()
    others = [
        made(cron="31 2 * * *"),
        made(every=60),
        daily("Europe/Berlin"),
        daily(missed="all"),
        daily(overlap="allow"),
        daily(max_late=5),
        daily(call=b"[[1],{}]"),
        checked("report", "tasks.other", cron="30 2 * * *"),
    ]
    assert len({one.fingerprint for one in (first, *others)}) == len(others) + 1
    assert daily().fingerprint == first.fingerprint
    assert Schedule.from_json(first.to_json()) == first


# Missed runs

MORNING = at(2026, 7, 1, 2, 30)
DAY = 86400 * SECOND


def test_after_a_downtime_once_runs_the_first_of_the_missed_times_and_then_the_next_that_comes() -> None:
    now = MORNING + 3 * DAY + SECOND
    once = daily()
    assert once.why_not(MORNING, now) is None
    assert once.is_late(MORNING, now)
    assert once.following(MORNING, now) == MORNING + 4 * DAY


def test_after_a_downtime_skip_runs_none() -> None:
    skip = daily(missed="skip")
    assert skip.why_not(MORNING, MORNING + LATE) is None
    assert skip.why_not(MORNING, MORNING + LATE + 1) == 'it was 60 s late, and missed is "skip"'
    assert skip.following(MORNING, MORNING + 3 * DAY + SECOND) == MORNING + 4 * DAY


def test_after_a_downtime_all_runs_each_of_them_in_order() -> None:
    every = daily(missed="all")
    now, due, run = MORNING + 3 * DAY + SECOND, MORNING, []
    while due <= now:
        assert every.why_not(due, now) is None
        run.append(due)
        due = every.following(due, now) or now + 1
    assert run == [MORNING + number * DAY for number in range(4)]
    assert due == MORNING + 4 * DAY


@pytest.mark.parametrize("options", [{"every": 5}, {"cron": "* * * * *"}, {"cron": "*/5 * * * *", "tz": "Asia/Amman"}])
def test_all_is_cut_to_the_latest_ones(options: dict[str, Any]) -> None:
    every = made(**options, missed="all")
    now = MORNING + 900 * DAY + 1
    first = every.following(MORNING, now)
    assert first is not None
    assert MAX_MISSED - 20 <= len([first, *every.between(first, now)]) <= MAX_MISSED


def test_max_late_ends_what_is_later_and_keeps_what_is_not() -> None:
    now = MORNING + DAY + 3600 * SECOND
    for missed in ("once", "all"):
        limited = daily(missed=missed, max_late=timedelta(hours=2))
        assert limited.why_not(MORNING, now) == "it was 90000 s late, and max_late is 7200 s"
        assert limited.following(MORNING, now) == MORNING + DAY
        assert limited.why_not(MORNING + DAY, now) is None
    skip = daily(missed="skip", max_late=timedelta(hours=2))
    assert skip.why_not(MORNING + DAY, now) is None
    assert skip.following(MORNING, now) == MORNING + 2 * DAY


@given(schedules, times, st.integers(0, 10 * DAY), st.sampled_from(["once", "skip", "all"]))
def test_what_follows_comes_later_and_in_time(one: Schedule, start: int, ahead: int, missed: Any) -> None:
    fields = one.to_json() | {"missed": missed}
    one = Schedule.from_json(fields)
    due = one.next_after(start)
    assert due is not None
    after = one.following(due, due + ahead)
    assert after is not None
    assert after > due
    assert missed == "all" or after > due + ahead
    assert one.is_late(due, due + ahead) == (ahead > LATE or (one.next_after(due) or 0) <= due + ahead)


def test_a_clock_that_was_set_back_runs_nothing_again() -> None:
    for missed in ("once", "skip", "all"):
        assert daily(missed=missed).following(MORNING, MORNING - 3 * DAY) == MORNING + DAY


# What is refused


@pytest.mark.parametrize(
    ("options", "setting", "text"),
    [
        ({}, "cron", "neither cron and every"),
        ({"cron": "* * * * *", "every": 5}, "cron", "both cron and every"),
        ({"cron": "* * * *"}, "cron", "five fields"),
        ({"cron": "* * * * * *"}, "cron", "five fields"),
        ({"cron": "61 * * * *"}, "cron", "Bad minute"),
        ({"cron": "1- * * * *"}, "cron", "Bad minute"),
        ({"cron": "0 0 31 2 *"}, "cron", "Bad day-of-month"),
        ({"cron": 5}, "cron", "five fields"),
        ({"cron": "@daily"}, "cron", "five fields"),
        ({"every": 0}, "every", "one second or more"),
        ({"every": 0.5}, "every", "one second or more"),
        ({"every": -1}, "every", "one second or more"),
        ({"every": True}, "every", "one second or more"),
        ({"every": "60"}, "every", "one second or more"),
        ({"every": float("nan")}, "every", "one second or more"),
        ({"every": 10**12}, "every", "at most a year"),
        ({"every": 60, "tz": "UTC"}, "tz", "only with cron"),
        ({"cron": "* * * * *", "tz": "Europe/Bern"}, "tz", "name of a time zone"),
        ({"cron": "* * * * *", "tz": "../etc/passwd"}, "tz", "name of a time zone"),
        ({"cron": "* * * * *", "tz": UTC}, "tz", "name of a time zone"),
        ({"every": 5, "missed": "never"}, "missed", "once"),
        ({"every": 5, "overlap": True}, "overlap", "allow"),
        ({"every": 5, "max_late": -1}, "max_late", "zero or more"),
        ({"every": 5, "max_late": date(2026, 1, 1)}, "max_late", "zero or more"),
        ({"every": 5, "call": b"x" * 17000}, "args", "limit is 16384"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(options: dict[str, Any], setting: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as refused:
        made(**options)
    assert refused.value.setting == setting


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, "é" * 40, None, 5])
def test_a_name_is_a_short_printable_text(name: object) -> None:
    with pytest.raises(ConfigurationError, match="printable"):
        checked(name, "tasks.report", every=5)


def test_a_machine_without_time_zones_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "is_zone", lambda name: False)
    with pytest.raises(ConfigurationError, match="install the package tzdata"):
        daily("Europe/Berlin")
    assert daily("UTC").tz == "UTC"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"cron": "0 3 * * *"}, "At 03:00 every day"),
        ({"cron": "*/5 * * * *"}, "Every fifth minute"),
        ({"every": 1}, "Every second"),
        ({"every": 90}, "Every 90 seconds"),
        ({"every": timedelta(hours=1)}, "Every hour"),
        ({"every": timedelta(days=2)}, "Every 2 days"),
    ],
)
def test_it_is_explained_in_english(options: dict[str, Any], text: str) -> None:
    assert made(**options).explain().startswith(text)
