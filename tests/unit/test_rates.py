"""Jobs of a task with a rate: each takes a slot, and is put off to exactly that time, with no attempt counted."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import ConfigurationError, Limit, Rate, SpoolKit, State, spool
from spoolkit.admin import actions, as_json, lookup
from spoolkit.admin.words import stamp
from spoolkit.encoding import packet
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations, rates
from spoolkit.store.rates import Known, Pace, Slot
from spoolkit.system import clock

NOW = 2_500_000_000.0

ran: list[object] = []


@spool(rate=Rate(1, per=10, key=lambda user: user), retries=2, backoff=1.0)
def call_api(user: int, what: str = "") -> None:
    ran.append((user, what))
    if what == "fail":
        raise ValueError(what)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    now = [NOW]

    def tick() -> float:
        now[0] += 1e-5  # ids are in the order of the calls
        return now[0]

    monkeypatch.setattr(clock, "now", tick)
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    ran.clear()
    app.extensions["pass_time"] = lambda seconds: now.__setitem__(0, now[0] + seconds)
    with app.app_context():
        yield app


@pytest.fixture
def pass_time(app: Flask) -> Callable[[float], None]:
    """Let so many seconds pass, and then have a spooler look."""

    def pass_time(seconds: float) -> None:
        app.extensions["pass_time"](seconds)
        Spooler(str(app.config["SPOOLKIT_SPOOL"])).run_due()

    return pass_time


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=25),
    st.integers(1, 4),
    st.lists(st.floats(0, 0.9), max_size=25),
    st.tuples(st.floats(0, 60), st.floats(0, 60)),
)
def test_starts_keep_the_rate_whatever_is_late(
    arrivals: list[float], burst: int, delays: list[float], stall: tuple[float, float]
) -> None:
    """``delays``: of a spooler that is busy; ``stall``: when nothing runs, and for how long."""
    pace, known = Pace("key", 1.0, burst), Known()
    due = [(time, index) for index, time in enumerate(arrivals)]
    heapq.heapify(due)
    slots: dict[int, Slot] = {}
    starts: list[float] = []
    for turn in range(100 * len(arrivals)):
        if not due:
            break
        time, index = heapq.heappop(due)
        if stall[0] <= time < sum(stall):
            heapq.heappush(due, (sum(stall), index))
            continue
        now = time + (delays[turn % len(delays)] if delays else 0)
        if stall[0] <= now < sum(stall):
            now = sum(stall)
        if starts:
            now = max(now, starts[-1])  # the clock goes forward
        slot, known = rates.decide(pace, known, slots.get(index), now)
        if slot is None:
            starts.append(now)
        else:
            assert slot.time > now
            slots[index] = slot
            heapq.heappush(due, (slot.time, index))
    assert not due
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            assert starts[last] - starts[first] >= (last - first - burst) * pace.interval - 1e-6


@given(st.lists(st.floats(0, 30), min_size=1, max_size=25), st.integers(1, 4))
def test_without_delays_each_job_is_put_off_once_at_most_and_starts_in_its_turn(
    arrivals: list[float], burst: int
) -> None:
    pace, known = Pace("key", 1.0, burst), Known()
    due: list[tuple[float, int, Slot | None]] = [(time, index, None) for index, time in enumerate(sorted(arrivals))]
    started: list[tuple[float, int]] = []
    while due:
        time, index, had = heapq.heappop(due)
        slot, known = rates.decide(pace, known, had, time)
        if slot is None:
            started.append((time, index))
        else:
            assert had is None
            heapq.heappush(due, (slot.time, index, slot))
    assert [index for _, index in started] == list(range(len(arrivals)))
    for first in range(len(started) - burst):
        assert started[first + burst][0] - started[first][0] >= pace.interval - 1e-6


def test_after_a_downtime_jobs_are_spread_again() -> None:
    pace, known = Pace("key", 10.0), Known()
    slots = []
    for _ in range(4):
        slot, known = rates.decide(pace, known, None, 1000.0)
        slots.append(slot)
    assert slots == [None, Slot(1010.0), Slot(1020.0), Slot(1030.0)]
    later = []
    for had in slots[1:]:
        slot, known = rates.decide(pace, known, had, 2000.0)
        later.append(slot)
    assert later == [None, Slot(2010.0, is_counted=True), Slot(2020.0, is_counted=True)]
    assert rates.decide(pace, known, later[1], 2010.5)[0] is None


@given(
    st.integers(0, 10**9),  # seconds that a float holds exactly
    st.lists(st.integers(0, 100), min_size=1, max_size=10),
    st.integers(int(rates.CLOCK_TOLERANCE) + 1, 10**9),
    st.integers(1, 4),
)
def test_after_a_clock_that_was_far_ahead_no_job_waits_for_it(
    now: int, arrivals: list[int], ahead: int, burst: int
) -> None:
    pace = Pace("key", 10.0, burst)

    def slots(seen: float, now: float, known: Known) -> list[float | None]:
        found = []
        for _ in range(3):
            known, had = rates.corrected(known, seen, None, now)
            slot, known = rates.decide(pace, known, had, now)
            found.append(None if slot is None else slot.time - now)
            seen = now
        return found

    known, slot, time = Known(), None, 0
    for time in sorted(now + ahead + after for after in arrivals):
        slot, known = rates.decide(pace, known, None, time)
    expected, found = slots(time, time, known), slots(time, now, known)
    assert found == expected
    kept, given_before = rates.corrected(known, time, slot, time)
    assert (kept, given_before) == (known, slot), "without a correction of the clock nothing changes"


def test_a_job_whose_slot_a_wrong_clock_has_given_takes_another(app: Flask, pass_time: Callable[[float], None]) -> None:
    pass_time(1e6)
    first, early = call_api(1), call_api(1)
    pass_time(0)
    assert early.status.run_at == pytest.approx(NOW + 1e6 + 10, abs=0.1)
    pass_time(-1e6)
    late = call_api(1)
    pass_time(0)
    assert (first.state, late.state) == (State.DONE, State.QUEUED)
    pass_time(20)  # its slot is after that of the other one
    assert late.state is State.DONE
    actions.run_now(early.id)
    pass_time(0)
    pass_time(10)
    assert early.state is State.DONE


def test_a_job_over_the_rate_is_put_off_to_its_slot_with_no_attempt_counted(
    pass_time: Callable[[float], None],
) -> None:
    jobs = [call_api(1, str(n)) for n in range(3)]
    other = call_api(2)
    pass_time(0)
    assert sorted(ran, key=str) == [(1, "0"), (2, "")]
    assert other.state is State.DONE
    waiting = [lookup.find(job.id) for job in jobs[1:]]
    assert [(status.state, status.attempt, status.run_at) for status in waiting] == [
        (State.QUEUED, 0, pytest.approx(NOW + 10, abs=0.1)),
        (State.QUEUED, 0, pytest.approx(NOW + 20, abs=0.1)),
    ]
    assert {os.path.basename(os.path.dirname(path)) for path in spoolfile.pending(locations.spool_dir())} == {"later"}
    pass_time(9.9)
    assert len(ran) == 2
    pass_time(0.1)
    assert ran[2:] == [(1, "1")]
    pass_time(10)
    assert ran[3:] == [(1, "2")]
    assert [len(lookup.details(job.id).attempts) for job in jobs] == [1, 1, 1]


def test_run_now_is_not_faster_than_the_rate(pass_time: Callable[[float], None]) -> None:
    call_api(1)
    second = call_api(1)
    pass_time(0)
    actions.run_now(second.id)
    pass_time(1)
    assert (len(ran), lookup.find(second.id).run_at) == (1, pytest.approx(NOW + 10, abs=0.1))


def test_people_see_that_a_job_waits_for_its_slot(app: Flask, pass_time: Callable[[float], None]) -> None:
    first, second = call_api(1), call_api(1)
    pass_time(0)
    shown = as_json.public(lookup.find(second.id))
    assert shown["slot_at"] == shown["run_at"] == pytest.approx(NOW + 10, abs=0.01)
    assert as_json.public(lookup.find(first.id))["slot_at"] is None

    def flask_spool(*arguments: str) -> str:
        return app.test_cli_runner().invoke(args=["spool", *arguments]).output

    assert "waits for its slot under the rate of its task" in flask_spool("ls", "--state", "queued")
    assert f"its slot under the rate of its task, {stamp(shown['slot_at'])}" in flask_spool("show", second.id)
    actions.cancel(second.id)
    assert lookup.find(second.id).slot_at is None


def test_another_attempt_takes_a_slot_as_well(pass_time: Callable[[float], None]) -> None:
    job = call_api(1, "fail")
    pass_time(0)
    pass_time(2)
    assert (len(ran), lookup.find(job.id).run_at) == (1, pytest.approx(NOW + 10, abs=0.1))
    pass_time(8)
    assert (len(ran), lookup.find(job.id).attempt) == (2, 2)


def test_a_key_that_is_idle_leaves_no_row(pass_time: Callable[[float], None]) -> None:
    call_api(1)
    pass_time(0)
    store = locations.store()
    rates.delete_idle(store, clock.now())
    assert [row["key"] for row in store.read("SELECT key FROM rates")] == [f"{call_api.name} 1"]
    pass_time(11)
    rates.delete_idle(store, clock.now())
    assert store.read("SELECT key FROM rates") == []


def test_a_task_can_have_a_limit_and_a_rate(app: Flask, pass_time: Callable[[float], None]) -> None:
    @spool(limit=Limit(1), rate=Rate(1, per=timedelta(minutes=1), burst=2), name="test.limit_and_rate")
    def both(n: int) -> None:
        ran.append(n)

    jobs = both.map([(n,) for n in range(3)])
    assert {(job.limit_key, job.rate_key) for job in jobs} == {("test.limit_and_rate",) * 2}
    pass_time(0)
    assert ran == [0, 1]
    pass_time(60)
    assert ran == [0, 1, 2]


def test_the_key_travels_with_the_job_and_must_be_understood(app: Flask) -> None:
    job = call_api(7)
    (path,) = spoolfile.pending(locations.spool_dir())
    content = packet.load(Path(path).read_bytes())
    assert content.fields[packet.MUST] == b"rate"
    assert packet.unpack(content).rate_key == job.rate_key == f"{call_api.name} 7"


def test_without_a_store_a_job_with_a_rate_waits(app: Flask, pass_time: Callable[[float], None]) -> None:
    call_api(1)
    os.mkdir(locations.store().path)
    pass_time(0)
    assert ran == []
    os.rmdir(locations.store().path)
    pass_time(20)
    assert ran == [(1, "")]


@pytest.mark.parametrize(
    "arguments",
    [
        {"number": 0, "per": 1},
        {"number": 1.5, "per": 1},
        {"number": 1, "per": 0},
        {"number": 1, "per": "minute"},
        {"number": 1, "per": float("nan")},
        {"number": 1, "per": 1, "burst": 0},
        {"number": 1, "per": 1, "key": "user_id"},
    ],
)
def test_a_rate_that_cannot_work_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        Rate(**arguments)  # type: ignore[arg-type]


def test_a_task_refuses_a_rate_that_is_none_or_asks_for_what_it_lacks() -> None:
    def task(a: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"give a Rate, such as Rate\(10, per=60\)"):
        spool(rate=Limit(1), name="test.no_rate")(task)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="the key of rate asks for b"):
        spool(rate=Rate(1, per=1, key=lambda b: b), name="test.no_argument")(task)
