"""There is one job at a time of a unique task's calls with the same key, whatever happens to callers and spoolers."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from life_faults import CRASHED, Steps, at_every, die_at
from life_process import in_child, read_pipe, start_child, wait_child
from uwsgi_server import wait_until

from spoolkit import (
    ArgumentTypeError,
    ConfigurationError,
    DuplicateJobError,
    Job,
    ScheduleError,
    SpoolKit,
    State,
    UnknownJobError,
    application,
    spool,
)
from spoolkit.admin import actions
from spoolkit.admin import keys as holders
from spoolkit.coordination import unique
from spoolkit.coordination.unique import Action
from spoolkit.encoding import packet
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import TaskOptions, Unique
from spoolkit.registry import Declared
from spoolkit.spooldir import later, spoolfile
from spoolkit.spooldir import unique as keys
from spoolkit.spooling import unique_jobs
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.store.database import Database
from spoolkit.system import clock

ran: list[Any] = []
inside: list[Callable[[], None]] = []


def note(*what: Any) -> None:
    ran.append(what)
    if inside:
        inside.pop()()


@spool(unique=True, retries=1, backoff=5)
def once(number: int, word: str = "a") -> None:
    note(number, word)


@spool(unique=("user",), until="start")
def waits_once(user: int, word: str = "") -> None:
    note(user, word)


@spool(unique=lambda user: user // 10, on_duplicate="raise")
def strict(user: int, word: str = "") -> None:
    note(user, word)


@spool(unique=("user",), until="start", on_duplicate="replace")
def indexed(user: int, word: str = "") -> None:
    note(user, word)


@spool(unique=("user",), on_duplicate="replace")
def indexed_to_the_end(user: int, word: str = "") -> None:
    note(user, word)


@spool(unique=True, retries=0)
def fails(number: int) -> None:
    note(number)
    raise ValueError("no luck")


@pytest.fixture(autouse=True)
def nothing_ran() -> Iterator[None]:
    ran.clear()
    inside.clear()
    holders.last_removal.set(time.monotonic())
    yield
    inside.clear()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [clock.now() + 1000]  # ahead of the file system's, so that what has no time of its own is due
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    return moment


def waiting(directory: str) -> list[str]:
    return sorted(filter(None, (spoolfile.id_of(os.path.basename(path)) for path in spoolfile.pending(directory))))


def key_files(directory: str) -> set[str]:
    return set(os.listdir(os.path.join(directory, keys.FOLDER))) - {keys.LOCK}


# The decision, and the key.


@given(
    st.sampled_from([None, *State]), st.sampled_from(["end", "start"]), st.sampled_from(["return", "raise", "replace"])
)
def test_a_call_makes_a_job_if_and_only_if_no_job_holds_its_key(state: State | None, until: Any, on: Any) -> None:
    action = unique.decide(state, Unique(True, until, on))
    living = state in (State.QUEUED, State.RUNNING, State.RETRYING)
    assert (action is Action.ACCEPT) == (not living or (until == "start" and state is not State.QUEUED))
    assert (action is Action.RAISE) == (action is not Action.ACCEPT and on == "raise")
    assert action is not Action.REPLACE or (on == "replace" and state is State.QUEUED)


def declared(function: Callable[..., object]) -> Declared:
    return Declared("the.task", function, TaskOptions())


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=4),
)


@given(VALUES, VALUES)
def test_equal_arguments_give_equal_keys_however_they_are_given(first: object, second: object) -> None:
    def function(a: object, b: object = second, *, c: object = None) -> None: ...

    def key(*args: object, **kwargs: object) -> str:
        return unique.digest(declared(function), Unique(), args, kwargs)

    def turned(value: object) -> object:
        if isinstance(value, dict):
            return {name: turned(value[name]) for name in reversed(value)}
        return value

    assert key(first) == key(a=first, b=second) == key(first, second, c=None) == key(turned(first), b=turned(second))
    assert (key(first, second) == key(second, first)) == (first == second)
    assert key(first).isascii()
    assert not key(first)[0].isdigit()


def test_a_key_of_another_task_or_of_a_value_of_another_type_is_another_one() -> None:
    def function(*values: object) -> None: ...

    def key(*values: object) -> str:
        return unique.digest(declared(function), Unique(), values, {})

    assert len({key(1), key("1"), key((1,)), key([1]), key(1, 1), key()}) == 6
    other = Declared("another", function, TaskOptions())
    assert unique.digest(other, Unique(), (1,), {}) != key(1)


def test_a_function_gets_the_arguments_that_it_names() -> None:
    def function(a: int, b: int = 2, *rest: int, **more: int) -> None: ...

    seen: list[dict[str, Any]] = []

    def of(b: int, rest: tuple[int, ...], other: int = 7, **_: int) -> int:
        seen.append({"b": b, "rest": rest, "other": other, **_})
        return b

    unique.digest(declared(function), Unique(of), (1,), {"x": 3})
    unique.digest(declared(function), Unique(of), (1, 5, 6), {})
    assert seen == [{"b": 2, "rest": (), "other": 7}, {"b": 5, "rest": (6,), "other": 7}]


def test_a_key_of_an_unsupported_type_is_refused_with_its_name(directory: str) -> None:
    @spool(unique=lambda number: object(), name="unsupported")
    def task(number: int) -> None: ...

    with pytest.raises(ArgumentTypeError, match="the key that unique returns"):
        task(1)
    assert waiting(directory) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unique": "user"}, "unique is 'user': give True, a tuple"),
        ({"unique": ()}, "unique is ()"),
        ({"unique": 1}, "unique is 1"),
        ({"unique": ("usr",)}, "unique names 'usr', but .* has no such argument: give names of user, data"),
        ({"unique": lambda usr: usr}, "unique names 'usr'"),
        ({"unique": lambda: 1}, "must name the arguments"),
        ({"unique": lambda *all: 1}, "must name the arguments"),
        ({"unique": True}, "unique uses 'data' .* whose default is of an unsupported type"),
        ({"unique": ("user",), "until": "done"}, "until is 'done': give one of"),
        ({"unique": ("user",), "on_duplicate": "drop"}, "on_duplicate is 'drop': give one of"),
        ({"on_duplicate": "raise"}, "are about unique tasks"),
        ({"until": "start"}, "are about unique tasks"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_at_the_declaration(options: dict[str, Any], message: str) -> None:
    def refused(user: int, data: object = object()) -> None: ...

    with pytest.raises(ConfigurationError, match=message.replace("()", r"\(\)")):
        spool(**options, name="refused")(refused)


# Calls.


def test_a_second_call_returns_the_job_that_waits(directory: str, work: Callable[[], None]) -> None:
    first, second, other = once(1), once(number=1, word="a"), once(2)
    assert (first.duplicate, second.duplicate, other.duplicate) == (False, True, False)
    assert second == first != other
    assert isinstance(second, Job)
    assert second.state is State.QUEUED
    work()
    assert sorted(ran) == [(1, "a"), (2, "a")]
    assert second.state is State.DONE


@pytest.mark.parametrize("end", ["done", "cancelled", "purged"])
def test_a_job_that_is_over_frees_its_key(directory: str, work: Callable[[], None], end: str) -> None:
    first = once(1)
    if end == "cancelled":
        first.cancel()
    else:
        work()
    if end == "purged":
        actions.purge()
    again = once(1)
    assert not again.duplicate
    assert again != first
    work()
    assert again.state is State.DONE


def test_a_dead_job_frees_its_key_and_cannot_be_retried_while_another_has_it(
    directory: str, work: Callable[[], None]
) -> None:
    dead = fails(1)
    work()
    assert dead.state is State.DEAD
    other = fails(1)
    assert not other.duplicate
    with pytest.raises(
        DuplicateJobError, match=f"job {dead.id} is dead, and job {other.id}, which is queued"
    ) as raised:
        actions.retry(dead.id)
    assert (raised.value.job, raised.value.holder) == (dead.id, other.id)
    assert dead.state is State.DEAD
    other.cancel()
    actions.retry(dead.id)
    assert dead.state is State.QUEUED
    third = fails(1)
    assert (third.duplicate, third) == (True, dead)


@pytest.mark.parametrize(("task", "free"), [(once, False), (waits_once, True), (indexed_to_the_end, False)])
def test_a_running_job_holds_its_key_until_the_end_or_not_from_its_start_on(
    work: Callable[[], None], task: Any, free: bool
) -> None:
    inner: list[Job[Any]] = []
    first = task(1)
    inside.append(lambda: inner.append(task(1)))
    work()
    (called,) = inner
    assert called.duplicate is not free
    assert (called == first) is not free
    work()
    assert len(ran) == 1 + free
    assert called.state is State.DONE


def test_a_job_that_is_to_be_retried_holds_its_key_to_the_end(work: Callable[[], None], now: list[float]) -> None:
    def fail() -> None:
        raise ValueError("no luck")

    inside.append(fail)
    first = once(1)
    work()
    assert first.state is State.RETRYING
    assert once(1).duplicate
    now[0] += 10
    work()
    assert first.state is State.DONE
    assert not once(1).duplicate


def test_a_job_that_has_been_retried_once_does_not_hold_a_key_until_the_start(
    work: Callable[[], None], now: list[float]
) -> None:
    def fail() -> None:
        raise ValueError("no luck")

    inside.append(fail)
    first = waits_once(1)
    work()
    assert first.state is State.RETRYING
    assert not waits_once(1).duplicate


def test_a_duplicate_raises_with_the_id_of_the_holder(directory: str) -> None:
    first = strict(11)
    with pytest.raises(DuplicateJobError, match=rf"strict is unique, and job {first.id}, which is queued") as raised:
        strict(12)
    assert raised.value.holder == raised.value.job == first.id
    assert strict(21).duplicate is False
    assert len(waiting(directory)) == 2


def test_a_waiting_job_gets_the_arguments_and_the_time_of_the_last_call(
    directory: str, work: Callable[[], None], now: list[float]
) -> None:
    first = indexed.using(delay=30)(1, "one")
    now[0] += 20
    second = indexed.using(delay=30)(1, "two")
    assert (second.duplicate, second.id, second.args) == (True, first.id, (1, "two"))
    assert second.run_at == now[0] + 30 == second.status.run_at
    now[0] += 20
    work()
    assert ran == []
    now[0] += 10
    work()
    assert ran == [(1, "two")]
    assert first.state is State.DONE
    assert waiting(directory) == []


def test_a_job_is_brought_forward_by_a_call_without_a_delay(work: Callable[[], None], now: list[float]) -> None:
    first = indexed.using(delay=30)(1, "one")
    assert indexed(1, "two") == first
    work()
    assert ran == [(1, "two")]


def test_many_calls_put_a_job_off_no_longer_than_max_wait(work: Callable[[], None], now: list[float]) -> None:
    begun = now[0]
    for _ in range(20):
        job = indexed.using(delay=30, max_wait=100)(1, "x")
        now[0] += 10
        work()
        if ran:
            break
    assert now[0] == begun + 100
    assert job.run_at == begun + 100


def test_max_wait_is_refused_where_no_call_puts_a_job_off() -> None:
    with pytest.raises(ScheduleError, match=r'max_wait .*on_duplicate="replace"'):
        once.using(delay=3, max_wait=10)
    with pytest.raises(ScheduleError, match="max_wait"):
        indexed.using(delay=3, max_wait=-1)
    for refused in (lambda: indexed.using(max_wait=10), lambda: indexed.map([(1, "x")], max_wait=10)):
        with pytest.raises(ScheduleError, match="give delay or at too") as raised:
            refused()
        assert raised.value.argument == "max_wait"
    with pytest.raises(ScheduleError, match="spread"):
        indexed.map([(1, "x")], delay=5, max_wait=10, spread=60)
    with pytest.raises(ScheduleError, match="on_duplicate"):
        once.map([(1,)], delay=5, max_wait=10)


def test_rows_of_a_map_are_put_off_no_longer_than_max_wait(directory: str, now: list[float]) -> None:
    begun = now[0]
    first = indexed.map([(1, "x"), (2, "x")], delay=90, max_wait=100)
    now[0] += 50
    second = indexed.map([(1, "y"), (2, "y"), (3, "y")], delay=150, max_wait=100)
    assert [job.id for job in second[:2]] == [job.id for job in first]
    assert [job.run_at for job in second] == [begun + 100, begun + 100, begun + 150]
    assert [Job.get(job.id).run_at for job in second] == [begun + 100, begun + 100, begun + 150]


def test_a_job_that_is_locked_is_not_replaced(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unique_jobs, "CLAIM_TIME", 0.05)
    first = indexed_to_the_end(1, "one")
    (path,) = spoolfile.pending(directory)
    ready, told = os.pipe()
    wait, go = os.pipe()

    def hold() -> None:
        os.close(go)
        with spoolfile.claim(path) as fd:
            assert fd is not None
            os.write(told, b"1")
            os.read(wait, 1)

    pid = start_child(hold)
    os.close(wait)
    try:
        read_pipe(ready)
        second = indexed_to_the_end(1, "two")
    finally:
        os.close(go)
        assert wait_child(pid) == 0
        os.close(ready)
        os.close(told)
    assert (second, second.duplicate) == (first, True)
    assert spoolfile.pending(directory) == [path]


def test_a_job_that_starts_while_a_call_is_about_to_replace_it_keeps_its_arguments(
    directory: str, work: Callable[[], None], now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, status_of = indexed(1, "one"), holders.status_of

    def starts_and_fails() -> None:
        raise ValueError("once")

    def start_afterwards(holder: Any) -> Any:
        status = status_of(holder)
        if not ran:
            inside.append(starts_and_fails)
            work()
        return status

    monkeypatch.setattr(holders, "status_of", start_afterwards)
    second = indexed(1, "two")
    assert first.state is State.RETRYING
    assert not second.duplicate
    now[0] += 3600
    work()
    assert sorted(ran) == [(1, "one"), (1, "one"), (1, "two")]


def test_a_job_that_was_moved_in_meanwhile_is_replaced_there(
    directory: str, work: Callable[[], None], now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = indexed.using(delay=5)(1, "one")
    now[0] += 6
    rename, moved = os.rename, []

    def move_first(old: str, new: str) -> None:
        if not moved and later.FOLDER in old and spoolfile.PREFIX in old:
            moved.append(True)
            rename(old, os.path.join(directory, os.path.basename(old)))
        rename(old, new)

    monkeypatch.setattr(os, "rename", move_first)
    assert indexed.using(delay=5)(1, "two") == first
    assert moved
    assert waiting(directory) == [first.id]
    now[0] += 6
    work()
    assert ran == [(1, "two")]


def test_a_job_is_found_wherever_it_is_among_many(directory: str, now: list[float]) -> None:
    for number in range(30):
        job = indexed.using(delay=30)(1, str(number))
    with Flask("other").test_request_context():
        pass
    app = Flask("visited")
    app.config.update(SPOOLKIT_SPOOL=directory)
    SpoolKit(app)
    with app.test_request_context():
        assert indexed.using(delay=30)(1, "last") == job
    assert waiting(directory) == [job.id]


@pytest.mark.parametrize("task", [once, waits_once])
def test_without_the_store_the_files_tell(
    directory: str, work: Callable[[], None], task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise StoreUnavailableError("broken", path="")

    monkeypatch.setattr(Database, "read", broken)
    monkeypatch.setattr(Database, "transaction", broken)
    monkeypatch.setattr(Database, "write_before_task", broken)
    first = task(1)
    assert task(1) == first
    work()
    assert ran
    again = task(1)
    assert not again.duplicate
    assert again != first


# Many calls at once.


def test_rows_with_the_same_key_make_one_job(directory: str, work: Callable[[], None]) -> None:
    earlier = once(3)
    jobs = once.map([(1,), (2,), (1,), {"number": 2, "word": "a"}, (3,), (1, "b")])
    assert [job.duplicate for job in jobs] == [False, False, True, True, True, False]
    assert (jobs[0], jobs[1], jobs[4]) == (jobs[2], jobs[3], earlier)
    assert once(1) == jobs[0]  # while it has no file of its own
    work()
    work()
    assert sorted(ran) == [(1, "a"), (1, "b"), (2, "a"), (3, "a")]


def test_a_row_with_a_taken_key_is_refused_with_its_number_and_nothing_is_written(directory: str) -> None:
    first = strict(31)
    with pytest.raises(DuplicateJobError, match=f"row 1: .*job {first.id}"):
        strict.map([(1,), (32,)])
    with pytest.raises(DuplicateJobError, match=r"row 2: .*row 0 has the same key"):
        strict.map([(1,), (51,), (2,)])
    assert waiting(directory) == [first.id]
    assert not strict(1).duplicate


def test_the_last_row_replaces_the_earlier_ones(directory: str, work: Callable[[], None]) -> None:
    earlier = indexed.using(delay=60)(1, "earlier")
    jobs = indexed.map([(1, "x"), (2, "x"), (2, "y"), (1, "y")])
    assert (jobs[0], jobs[2]) == (earlier, jobs[1])
    work()
    work()
    assert sorted(ran) == [(1, "y"), (2, "y")]


def test_a_job_of_a_chunk_is_replaced(directory: str, work: Callable[[], None]) -> None:
    jobs = indexed.map([(1, "x"), (2, "x")])
    assert indexed(2, "y") == jobs[1]
    work()
    assert sorted(ran) == [(1, "x"), (2, "y")]


# Files of keys.


@pytest.mark.parametrize("how", ["at the start", "from time to time"])
def test_spoolers_remove_the_keys_whose_jobs_are_over(
    directory: str, work: Callable[[], None], now: list[float], how: str
) -> None:
    once(1)
    cancelled, waits = once.using(delay=1e6)(2), once.using(delay=1e6)(3)
    work()
    cancelled.cancel()
    now[0] += keys.UNUSED_AGE + 10
    assert len(key_files(directory)) == 3
    if how == "at the start":
        holders.sweep(directory)
    else:
        holders.last_removal.set(-holders.INTERVAL)
        once(4)
        work()
        holders.last_removal.set(-holders.INTERVAL)
        holders.remove_some(locations.store(), application.settings())
    (left,) = key_files(directory)
    with keys.locked(directory, left):
        assert keys.holder(directory, left).job == waits.id  # type: ignore[union-attr]


def test_keys_are_removed_in_steps_while_there_are_many(directory: str, work: Callable[[], None]) -> None:
    once.map([(number,) for number in range(keys.EXAMINED + 50)])
    work()
    work()
    holders.last_removal.set(-holders.INTERVAL)
    for left in (50, 0):
        holders.remove_some(locations.store(), application.settings())
        assert len(key_files(directory)) == left
    once(1)
    work()
    holders.remove_some(locations.store(), application.settings())
    assert len(key_files(directory)) == 1, "removed before its time"


def test_keys_are_private_and_a_damaged_one_is_free(directory: str) -> None:
    first = once(1)
    folder = Path(directory, keys.FOLDER)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    (name,) = key_files(directory)
    for content in (b"", b"\0\0\0", b"1\0", b"../x\0../y\0z\0", b"%b\0x\0y\0" % (b"1" * 32), b"x\0y\0z\0"):
        (folder / name).write_bytes(content)
        assert not once(1).duplicate
    assert len(waiting(directory)) == 7
    assert first.state is State.QUEUED


def test_a_key_that_is_a_link_is_not_followed(directory: str, tmp_path: Path) -> None:
    once(1)
    (name,) = key_files(directory)
    path = Path(directory, keys.FOLDER, name)
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(b"")
    path.symlink_to(tmp_path / "elsewhere")
    with contextlib.suppress(Exception):
        once(1)
    assert (tmp_path / "elsewhere").read_bytes() == b""


# Kills.


@at_every(3)
@pytest.mark.parametrize("task", [once, indexed])
@pytest.mark.parametrize("delay", [None, 30])
def test_a_caller_killed_at_any_step_leaves_one_job_or_none_and_a_free_key(
    directory: str, work: Callable[[], None], now: list[float], task: Any, delay: float | None, stride: int
) -> None:
    def call() -> None:
        task.using(delay=delay)(1)

    for count, step in enumerate(range(0, 100, stride), start=1):

        def die(step: int = step) -> None:
            die_at(step)
            call()

        status = in_child(die)
        assert status in (0, CRASHED)
        left = waiting(directory)
        assert len(left) == 1 if status == 0 else len(left) <= 1
        job = task.using(delay=delay)(1)
        assert job.duplicate == bool(left)
        assert waiting(directory) == [job.id]
        now[0] += 100
        work()
        assert len(ran) == count
        if status == 0:
            return
    pytest.fail("it never came to its end")


@at_every(3)
@pytest.mark.parametrize("delays", [(30, 50), (30, None), (None, 50), (None, None)])
def test_a_caller_killed_at_any_step_of_a_replacement_leaves_the_job_once_as_it_was_or_as_it_will_be(
    directory: str, work: Callable[[], None], now: list[float], delays: tuple[float | None, float | None], stride: int
) -> None:
    for step in range(0, 100, stride):
        first = indexed.using(delay=delays[0])(1, "one")

        def die(step: int = step) -> None:
            die_at(step)
            indexed.using(delay=delays[1])(1, "two")

        status = in_child(die)
        assert status in (0, CRASHED)
        assert waiting(directory) == [first.id]
        assert first.state is State.QUEUED
        if step % 2:  # the next caller puts it right, or nobody comes
            assert indexed.using(delay=5)(1, "three") == first
            assert waiting(directory) == [first.id]
        now[0] += 200
        work()
        ((_, word),) = ran
        assert word == "three" if step % 2 else word == "two" if status == 0 else word in ("one", "two")
        assert first.state is State.DONE
        assert waiting(directory) == []
        ran.clear()
        if status == 0:
            return
    pytest.fail("it never came to its end")


@spool(unique=True, retries=3, backoff=0)
def stormy(key: int) -> None:
    note(key)


@spool(unique=True, until="start", on_duplicate="replace", retries=3, backoff=0)
def stormy_to_the_start(key: int) -> None:
    note(key)


HOLDING = {stormy.name: unique.HOLDING["end"], stormy_to_the_start.name: unique.HOLDING["start"]}


def assert_one_holder_each(directory: str) -> None:
    """While this process has all keys, no job begins to hold one; it may only cease to do so."""
    holding: dict[tuple[str, bytes], str] = {}
    with keys.locked(directory, None):
        for path in spoolfile.pending(directory):
            if (data := spoolfile.peek(path)) is None:
                continue
            content = packet.load(data)
            job = packet.head(content)
            with contextlib.suppress(UnknownJobError):
                if Job.get(job.id).state in HOLDING[job.task]:
                    key = job.task, packet.arguments(content)
                    assert holding.setdefault(key, job.id) == job.id, "two holders"


@pytest.mark.parametrize(
    "calls", [pytest.param(60, id="short"), pytest.param(1000, id="long", marks=pytest.mark.matrix)]
)
def test_a_storm_of_calls_and_kills_never_gives_a_key_two_holders(
    directory: str, work: Callable[[], None], calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four processes call for three keys of two tasks, a fifth runs the jobs; all are killed again and again."""

    def perhaps_die(chance: random.Random) -> None:
        if chance.random() < 0.02:
            os.kill(os.getpid(), signal.SIGKILL)

    def call(seed: int) -> None:
        chance = random.Random(seed)
        # In the middle of a call as well: before or after one of its steps.
        left = chance.randrange(10 * calls)

        def reached() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        Steps(pytest.MonkeyPatch(), reached)
        for _ in range(calls):
            task, delay = chance.choice([stormy, stormy_to_the_start]), chance.choice([None, 0.01])
            task.using(delay=delay)(chance.randrange(3))

    def run(seed: int) -> None:
        chance, spooler = random.Random(seed), Spooler(directory)
        while os.getppid() == parent:
            inside[:] = [lambda: perhaps_die(chance)]
            spooler.run_due()

    parent, seeds, deadline = os.getpid(), itertools.count(), time.monotonic() + 60 + calls / 3
    callers = {start_child(lambda: call(next(seeds))) for _ in range(4)}
    spooler, killed = start_child(lambda: run(next(seeds))), 0
    try:
        while callers:
            if time.monotonic() > deadline:
                wait_child(min(callers), 0)  # it says where it stands still
            for one in [spooler, *callers]:  # not of any child: this process may have others
                pid, status = os.waitpid(one, os.WNOHANG)
                next(seeds)
                if pid and pid == spooler:
                    spooler = start_child(lambda: run(next(seeds)))
                elif pid:
                    callers.remove(pid)
                    assert status in (0, signal.SIGKILL)
                    if status and killed < 40:
                        killed += 1
                        callers.add(start_child(lambda: call(next(seeds))))
            assert_one_holder_each(directory)
    finally:
        for pid in {*callers, spooler}:
            os.kill(pid, signal.SIGKILL)
            wait_child(pid)
    assert_one_holder_each(directory)
    # A caller that was killed in the middle of a replacement may have put its job off, and no later one put it right.
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + later.REPLACE_TIME)
    wait_until(lambda: work() or not waiting(directory))  # type: ignore[func-returns-value]
    for task in (stormy, stormy_to_the_start):
        assert [task(key).duplicate for key in range(3)] == [False] * 3, "a key is held by nobody"
