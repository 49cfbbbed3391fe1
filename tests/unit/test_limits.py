"""So many jobs of a task, or of a key, run at once. The others are parked in order, and come back when one ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from life_faults import no_store_after
from life_process import read_pipe, start_child, wait_child

from spoolkit import ConfigurationError, Job, Limit, SpoolKit, State, application, periodic, registry, spool
from spoolkit.admin import actions, lookup, stats
from spoolkit.admin.words import note
from spoolkit.coordination import limits
from spoolkit.encoding import packet
from spoolkit.errors import ArgumentTypeError, UnknownJobError
from spoolkit.schedules import ticks
from spoolkit.settings import Settings
from spoolkit.spooldir import dead, gate, parked, spoolers, spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import holders, locations, retention
from spoolkit.system import clock

NOW = 2_500_000_000.5  # after the machine's own time, which files get

ran: list[object] = []
during: list[Callable[[], None]] = []
"""What the next attempt does first."""


@spool(limit=Limit(1, key=lambda user: user), retries=2, backoff=10.0)
def export(user: int, how: str = "") -> None:
    ran.append((user, how))
    if during:
        during.pop()()
    if how == "fail":
        raise ValueError(how)


@spool(limit=Limit(2))
def shared(n: int = 0) -> None:
    ran.append(n)
    if during:
        during.pop()()


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    now = [NOW]

    def tick() -> float:
        now[0] += 1e-5  # ids are in the order of the calls
        return now[0]

    monkeypatch.setattr(clock, "now", tick)
    # Its sweep may move one job more back than there is room for, which is parked again.
    monkeypatch.setattr(retention, "delete_some", lambda *_: False)
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    ran.clear()
    during.clear()
    app.extensions["pass_time"] = lambda seconds: now.__setitem__(0, now[0] + seconds)
    with app.app_context():
        yield app


@pytest.fixture
def work(app: Flask) -> Callable[[], None]:
    return Spooler(str(app.config["SPOOLKIT_SPOOL"])).run_due


@pytest.fixture
def holder(app: Flask) -> Iterator[Callable[[], Callable[[], None]]]:
    """Have another process run the next job; the answer ends that job."""
    ends: list[Callable[[], None]] = []

    def start() -> Callable[[], None]:
        started, tell = os.pipe()
        wait, go = os.pipe()

        def block() -> None:
            os.write(tell, b"x")
            os.read(wait, 1)

        def child() -> None:
            os.close(go)
            during[:] = [block]
            Spooler(str(app.config["SPOOLKIT_SPOOL"])).run_due()

        pid = start_child(child)
        os.close(wait)
        read_pipe(started)

        def end() -> None:
            os.close(go)
            assert wait_child(pid) == 0
            os.close(started)
            os.close(tell)

        ends.append(end)

        def once() -> None:
            ends.remove(end)
            end()

        once.pid = pid  # type: ignore[attr-defined]
        return once

    yield start
    for end in list(ends):
        end()


def where(id: str) -> str:
    """The folder of a job's file, in the spool directory."""
    path = spoolfile.locate(locations.spool_dir(), id)
    return "gone" if path is None else os.path.relpath(os.path.dirname(path), locations.spool_dir()).partition("/")[0]


def test_the_key_is_computed_at_the_call_from_the_arguments_that_the_function_names(app: Flask) -> None:
    job = export(5, how="x")
    assert job.limit_key == f"{export.name} 5"
    (path,) = spoolfile.pending(locations.spool_dir())
    content = packet.load(Path(path).read_bytes())
    assert content.fields[packet.MUST] == b"limit"
    assert packet.unpack(content).limit_key == job.limit_key
    assert export(user=5).limit_key == job.limit_key != export(6).limit_key
    assert shared().limit_key == shared.name


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (lambda b: b, '"default"'),
        (lambda a, **_: a, "1"),
        (lambda *, a, b: [b, a], '["default",1]'),
        (lambda a, z=3: a + z, "4"),
        (lambda a: "x" * 500, None),
    ],
)
def test_a_key_function_gets_bound_arguments_by_name(key: Callable[..., object], expected: str | None) -> None:
    @spool(limit=Limit(1, key=key), name="test.bound")
    def task(a: int, b: str = "default") -> None: ...

    found = limits.keys_of(task.declared, (1,), {})["limit_key"]
    value = found.removeprefix("test.bound ")
    assert value == expected if expected is not None else len(value) == 64


def test_equal_dicts_are_equal_keys() -> None:
    @spool(limit=Limit(1, key=lambda where: where), name="test.dicts")
    def task(where: dict[str, int]) -> None: ...

    first, second = (limits.keys_of(task.declared, (where,), {}) for where in ({"x": 1, "y": 2}, {"y": 2, "x": 1}))
    assert first == second


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "3", None])
def test_a_limit_is_a_number_of_one_or_more(number: object) -> None:
    with pytest.raises(ConfigurationError, match="one or more"):
        Limit(number)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (3, "give a Limit"),
        (Limit(1, key=lambda nobody: nobody), "asks for nobody, but"),
        (Limit(1, key=lambda a, /: a), "must name the arguments"),
        (Limit(1, key=lambda: 1), "must name the arguments"),
        (Limit(1, key=dict.get), "must name the arguments"),
    ],
)
def test_a_limit_that_cannot_work_is_refused_where_it_is_declared(limit: object, says: str) -> None:
    def task(a: int) -> None: ...

    with pytest.raises(ConfigurationError, match=says):
        spool(limit=limit, name="test.refused")(task)  # type: ignore[call-overload]


def test_a_key_that_cannot_be_written_is_refused_at_the_call(app: Flask) -> None:
    @spool(limit=Limit(1, key=lambda a: object()), name="test.key")
    def task(a: int) -> None: ...

    with pytest.raises(ArgumentTypeError, match="the key"):
        task(1)
    with pytest.raises(ArgumentTypeError) as refused:
        task.map([(1,), (2,)])
    assert refused.value.row == 0
    assert spoolfile.pending(locations.spool_dir()) == []


def test_the_jobs_of_map_have_keys_of_their_own(app: Flask, work: Callable[[], None]) -> None:
    jobs = export.map([(1,), (1,), (2,), (1,)])
    assert [job.limit_key for job in jobs] == [f"{export.name} {user}" for user in (1, 1, 2, 1)]
    work()
    assert sorted(ran, key=str) == [(1, ""), (1, ""), (1, ""), (2, "")]
    assert {job.state for job in jobs} == {State.DONE}


def test_a_job_over_the_limit_is_parked_without_holding_up_other_keys_and_comes_back_in_order(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    first = export(1)
    end = holder()
    waiting, other = [export(1, str(n)) for n in range(3)], export(2)
    work()
    assert ran == [(2, "")]
    assert other.state is State.DONE
    assert [where(job.id) for job in waiting] == ["parked"] * 3
    assert [job.state for job in waiting] == [State.QUEUED] * 3
    assert limits.counts(locations.spool_dir(), 10) == {f"{export.name} 1": 3}
    end()
    assert first.state is State.DONE
    assert [where(job.id) for job in waiting] == [".", "parked", "parked"]
    for _ in waiting:
        work()
    assert ran == [(2, ""), (1, "0"), (1, "1"), (1, "2")]
    assert {job.state for job in waiting} == {State.DONE}
    assert os.listdir(os.path.join(locations.spool_dir(), parked.FOLDER)) == []


def test_a_job_that_comes_when_a_place_is_free_does_not_pass_those_that_wait(work: Callable[[], None]) -> None:
    first = export(1, "first")
    park(first)  # the last holder has ended; this one is not moved back yet
    export(1, "second")
    for _ in range(3):
        work()
    assert ran == [(1, "first"), (1, "second")]


def test_as_many_come_back_as_there_is_room_for_by_the_number_of_the_running_code(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared()
    ends = [holder()]
    shared()
    ends.append(holder())
    waiting = [shared(n) for n in range(1, 6)]
    work()
    assert ran == []
    monkeypatch.setitem(vars(shared.declared.options), "limit", Limit(4))
    ends.pop()()  # this child still has the old number: one comes back
    assert [where(job.id) for job in waiting].count(".") == 1
    work()  # here the number is 4: one place is taken, so that three more can come back
    assert [where(job.id) for job in waiting].count("parked") == 1
    for _ in range(3):
        work()
    assert sorted(ran) == [1, 2, 3, 4, 5]


def test_a_job_whose_task_has_no_limit_any_more_runs(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    export(1)
    end = holder()
    waiting = [export(1, str(n)) for n in range(3)]
    work()
    monkeypatch.setitem(vars(export.declared.options), "limit", None)
    end()
    for _ in range(2):
        work()
    assert {job.state for job in waiting} == {State.DONE}


def test_a_killed_holder_frees_its_place(
    app: Flask, work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    first = export(1)
    end = holder()
    second = export(1, "second")
    work()
    assert where(second.id) == "parked"
    os.kill(end.pid, 9)  # type: ignore[attr-defined]
    with contextlib.suppress(AssertionError):
        end()
    work()  # finds that the process is gone, and waits for the next attempt
    assert first.state is State.RETRYING
    assert where(second.id) == "."
    work()
    assert ran == [(1, "second")]


def test_a_killed_process_frees_keys_that_nobody_else_frees(
    app: Flask, work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    """It was killed between the record of its job's end and the move, or between the move and its second look."""
    waiting = [export(user) for user in (1, 1, 2)]
    for job in waiting:
        path = spoolfile.locate(locations.spool_dir(), job.id)
        assert path is not None
        assert job.limit_key is not None
        parked.park(path, locations.spool_dir(), limits.group(job.limit_key))
    assert [where(job.id) for job in waiting] == ["parked"] * 3
    limits.sweep(locations.spool_dir())
    for _ in range(2):
        work()
    assert sorted(ran) == [(1, ""), (1, ""), (2, "")]


def test_a_holder_that_ends_before_the_second_look_is_not_missed(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has found nobody in the line; the job that was refused is not in it yet."""
    export(1)
    end = holder()
    second = export(1, "second")
    park = parked.park

    def end_first(path: str, spool_dir: str, key: str) -> str:
        end()
        return park(path, spool_dir, key)

    monkeypatch.setattr(parked, "park", end_first)
    work()
    assert (ran, where(second.id)) == ([], ".")
    work()
    assert ran == [(1, "second")]


def test_a_second_attempt_waits_for_room_as_well(
    app: Flask, work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    failing = export(1, "fail")
    work()
    export(1)
    end = holder()
    app.extensions["pass_time"](20)
    work()
    assert where(failing.id) == "parked"
    assert (failing.state, lookup.find(failing.id).attempt) == (State.RETRYING, 1)
    end()
    work()
    assert lookup.find(failing.id).attempt == 2


def test_a_parked_job_is_shown_with_its_reason_and_can_be_cancelled_or_run_now(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    export(1)
    end = holder()
    shown, cancelled, hurried = (export(1, word) for word in ("shown", "cancelled", "hurried"))
    work()
    status = lookup.find(shown.id)
    assert status.parked_for == f"{export.name} 1"
    assert note(status) == f"waits for room under the limit of {export.name} 1"
    listed = {status.id: status for status in lookup.jobs(states=[State.QUEUED])}
    assert {listed[job.id].parked_for for job in (shown, cancelled, hurried)} == {status.parked_for}
    assert lookup.details(shown.id).arguments == ((1, "shown"), {})
    assert actions.cancel(cancelled.id) is State.CANCELLED
    actions.run_now(hurried.id)  # which does not make it run beside the other
    work()
    assert (ran, where(hurried.id)) == ([], "parked")
    assert stats.gather().parked == {f"{export.name} 1": 2}
    end()
    for _ in range(3):
        work()
    assert sorted(ran) == [(1, "hurried"), (1, "shown")]
    assert cancelled.state is State.CANCELLED


def test_a_request_finds_a_parked_job_among_thousands(
    app: Flask, work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    export(1)
    holder()
    job = export(1)
    work()
    for n in range(lookup.MAX_NAMES + 100):
        os.mkdir(os.path.join(locations.spool_dir(), parked.FOLDER, f"k{n}"), 0o700)
    with app.test_request_context():
        assert lookup.find(job.id).parked_for is not None


def test_a_priority_survives_the_parking(work: Callable[[], None], holder: Callable[[], Callable[[], None]]) -> None:
    export(1)
    end = holder()
    job = export.using(priority=7)(1)
    work()
    assert where(job.id) == "parked"
    end()
    assert where(job.id) == "7"
    work()
    assert job.state is State.DONE


@pytest.mark.parametrize("setting", ["wait", "run"])
def test_without_a_store_the_setting_decides(app: Flask, work: Callable[[], None], setting: str) -> None:
    app.config["SPOOLKIT_LIMITS_WITHOUT_STORE"] = setting
    job = export(1)
    os.mkdir(locations.store().path)
    work()
    assert ran == ([(1, "")] if setting == "run" else [])
    assert where(job.id) == ("gone" if setting == "run" else "later")
    os.rmdir(locations.store().path)
    app.extensions["pass_time"](20)
    work()
    assert ran == [(1, "")]
    if setting == "wait":
        assert [one.outcome for one in lookup.details(job.id).attempts] == ["done"]


def test_a_holder_whose_end_could_not_be_recorded_frees_its_place(app: Flask, work: Callable[[], None]) -> None:
    """Its process lives on, and the record says that the job runs there."""
    first = export(1)
    with no_store_after(1):
        during.append(lambda: locations.store().close())
        work()
    room = limits.room(first, export.declared.options, application.settings())
    assert room is not None
    assert holders.is_free(locations.store(), room) == 1
    export(1, "second")
    work()
    assert ran == [(1, ""), (1, "second")]


def test_a_long_line_keeps_its_order_and_is_not_read_for_each_job(app: Flask, work: Callable[[], None]) -> None:
    jobs = [export(1, str(n)) for n in range(parked.REMEMBERED + 20)]
    for job in jobs:
        path = spoolfile.locate(locations.spool_dir(), job.id)
        assert path is not None
        parked.park(path, locations.spool_dir(), limits.group(job.limit_key or ""))
    limits.sweep(locations.spool_dir())
    for _ in jobs:
        work()
    assert ran == [(1, str(n)) for n in range(len(jobs))]


def test_jobs_without_a_limit_have_no_key(work: Callable[[], None]) -> None:
    @spool(name="test.plain")
    def plain() -> None: ...

    job = plain()
    work()
    assert (job.limit_key, lookup.find(job.id).limit_key) == (None, None)


def test_the_default_is_to_wait_for_the_store() -> None:
    assert Settings("/").limits_without_store == "wait"


def test_a_sweep_moves_jobs_back_beside_a_living_holder_if_there_is_room(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    shared()
    end = holder()
    waiting = [shared(n) for n in range(1, 4)]
    for job in waiting:
        park(job)
    limits.sweep(locations.spool_dir())
    assert [where(job.id) for job in waiting] == [".", "parked", "parked"]
    end()


def test_a_sweep_leaves_jobs_alone_that_have_no_room(holder: Callable[[], Callable[[], None]]) -> None:
    export(1)
    holder()
    second = export(1)
    park(second)
    limits.sweep(locations.spool_dir())
    assert where(second.id) == "parked"


def test_a_damaged_file_in_a_line_is_handed_to_the_spoolers_which_say_what_is_wrong(
    app: Flask, work: Callable[[], None]
) -> None:
    path = park(export(1))
    os.truncate(path, 8)
    limits.sweep(locations.spool_dir())
    work()
    assert [os.path.basename(path) for path in dead.paths(locations.spool_dir())] == [os.path.basename(path)]
    assert os.listdir(os.path.join(locations.spool_dir(), parked.FOLDER)) == []


def test_to_cancel_the_job_that_was_moved_back_lets_the_next_one_follow(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    export(1)
    end = holder()
    waiting = [export(1, str(n)) for n in range(2)]
    work()
    end()
    assert [where(job.id) for job in waiting] == [".", "parked"]
    actions.cancel(waiting[0].id)
    assert where(waiting[1].id) == "."


def test_a_purge_leaves_parked_jobs_alone_and_no_drain_waits_for_them(
    work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    done = export(1)
    end = holder()
    waiting = export(1, "second")
    work()
    end()
    park(waiting)
    assert actions.purge(set(State)) == 1
    assert spoolers.busy([locations.spool_dir()]) == []
    with pytest.raises(UnknownJobError):
        lookup.find(done.id)
    assert lookup.find(waiting.id).parked_for == waiting.limit_key
    limits.sweep(locations.spool_dir())
    work()
    assert ran == [(1, "second")]


def test_a_parked_job_that_has_expired_ends_when_it_comes_back_and_the_next_one_follows(
    app: Flask, work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    export(1)
    end = holder()
    expiring, last = export.using(expires=60)(1, "expiring"), export(1, "last")
    work()
    app.extensions["pass_time"](100)
    assert [where(job.id) for job in (expiring, last)] == ["parked"] * 2
    end()
    for _ in range(2):
        work()
    assert (ran, lookup.find(expiring.id).ending) == ([(1, "last")], "expired")


def test_a_job_under_an_old_name_of_its_task_has_the_number_of_the_task(
    work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [shared(n) for n in range(3)]
    for job in jobs:
        park(job)
    monkeypatch.setitem(registry.this_process.aliases, shared.name, shared.declared)
    monkeypatch.delitem(registry.this_process.tasks, shared.name)
    limits.sweep(locations.spool_dir())
    assert [where(job.id) for job in jobs] == [".", ".", "parked"]
    for _ in range(2):
        work()
    assert sorted(ran, key=str) == [0, 1, 2]


def test_a_free_place_is_not_for_a_job_of_a_paused_queue(
    app: Flask, work: Callable[[], None], holder: Callable[[], Callable[[], None]]
) -> None:
    app.config["SPOOLKIT_QUEUES"] = {"slow": {}}
    export(1)
    end = holder()
    export.using(queue="slow")(1, "slow")
    export(1, "here")
    slow = locations.queue_dir("slow")
    Spooler(slow).run_due()
    work()
    gate.pause(slow)
    end()
    work()
    assert ran == [(1, "here")]
    gate.resume(slow)
    Spooler(slow).run_due()
    assert ran == [(1, "here"), (1, "slow")]


@pytest.mark.parametrize("priority", [None, 7])
def test_a_later_call_replaces_a_job_that_is_parked(
    app: Flask, work: Callable[[], None], holder: Callable[[], Callable[[], None]], priority: int | None
) -> None:
    @spool(limit=Limit(1), unique=("user",), on_duplicate="replace", name="test.both")
    def index(user: int, text: str) -> None:
        ran.append(text)
        if during:
            during.pop()()

    index(1, "first")
    end = holder()
    second = index.using(priority=priority)(2, "second")
    work()
    assert where(second.id) == "parked"
    assert index(2, "third") == second
    work()
    assert where(second.id) == "parked"
    end()
    assert where(second.id) == ("." if priority is None else str(priority))
    work()
    assert ran == ["third"]


def test_runs_of_a_schedule_have_the_limit_of_their_task(app: Flask) -> None:
    declare = periodic(cron="0 3 * * *", name="test.nightly", args=(5,))
    try:
        declare(export)
        ticks.reconcile(locations.spool_dir())
        (path,) = spoolfile.pending(locations.spool_dir())
        assert packet.head(packet.load(Path(path).read_bytes())).limit_key == f"{export.name} 5"
    finally:
        registry.this_process.schedules.pop("test.nightly")


def park(job: Job[None]) -> str:
    path = spoolfile.locate(locations.spool_dir(), job.id)
    assert path is not None
    assert job.limit_key is not None
    return parked.park(path, locations.spool_dir(), limits.group(job.limit_key))
