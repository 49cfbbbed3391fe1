"""A key is locked by one caller at a time, is released whatever comes in between, and nobody waits for it for ever."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from life_faults import CRASHED, at_every, die_at
from life_process import in_child, read_pipe, start_child, wait_child
from uwsgi_server import wait_until

from spoolkit import (
    ConfigurationError,
    DuplicateJobError,
    Job,
    JobTimeout,
    KeyLockedError,
    Limit,
    PartlyAcceptedError,
    SpoolUnavailableError,
    State,
    StoreUnavailableError,
    current_job,
    signals,
    spool,
    thread,
)
from spoolkit.admin import actions, lookup
from spoolkit.admin import keys as holders
from spoolkit.attempt import timeouts
from spoolkit.encoding import packet
from spoolkit.spooldir import later, spoolfile
from spoolkit.spooldir import unique as keys
from spoolkit.spooling import unique_jobs
from spoolkit.store.database import Database
from spoolkit.system import clock, locks

ran: list[Any] = []


@spool(unique=True, retries=1, backoff=5)
def once(number: int) -> None:
    ran.append(number)
    if number < 0 and current_job().attempt == 1:
        raise ValueError("the first time")


@spool(unique=("user",), on_duplicate="replace")
def latest(user: int, word: str = "") -> None:
    ran.append((user, word))


@spool(unique=lambda word: 1, on_duplicate="replace", retries=0)
def doubtful(word: str) -> None:
    if word == "bad":
        raise ValueError("no luck")


@spool(unique=("user",), on_duplicate="replace", limit=Limit(1, key=lambda user: user))
def limited(user: int, word: str) -> None: ...


@spool(unique=True, retries=0)
def fails(number: int) -> None:
    raise ValueError("no luck")


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()
    holders.last_removal.set(time.monotonic())


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    moment = [clock.now() + 1000]
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    return moment


def waiting(directory: str) -> list[str]:
    return sorted(filter(None, (spoolfile.id_of(os.path.basename(path)) for path in spoolfile.pending(directory))))


def is_free(directory: str, key: str | None = None) -> bool:
    try:
        with keys.locked(directory, key, wait=0):
            return True
    except KeyLockedError:
        return False


@contextlib.contextmanager
def held_by_a_child(hold: Callable[[], contextlib.AbstractContextManager[object]]) -> Iterator[int]:
    """A child is within ``hold()`` for as long as the block lasts. Yields its pid."""
    ready, told = os.pipe()
    wait, go = os.pipe()

    def work() -> None:
        os.close(go)
        with hold():
            os.write(told, b"1")
            os.read(wait, 1)

    pid = start_child(work)
    os.close(wait)
    os.close(told)
    try:
        assert read_pipe(ready) == b"1"
        yield pid
    finally:
        os.close(go)
        os.close(ready)
        assert wait_child(pid) == 0


# The lock.


def by_signal(seconds: float) -> contextlib.AbstractContextManager[None]:
    return timeouts._by_alarm(seconds)


def by_thread(seconds: float) -> contextlib.AbstractContextManager[None]:
    return timeouts._by_thread(seconds)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("limit", [by_signal, by_thread])
@pytest.mark.parametrize("rounds", [100, pytest.param(5000, marks=pytest.mark.matrix)])
def test_a_time_limit_that_strikes_anywhere_leaves_no_key_locked(
    directory: str, limit: Callable[[float], contextlib.AbstractContextManager[None]], rounds: int
) -> None:
    chance = random.Random(7)
    once(1)
    key = f"k{1:064x}"

    def lock_again_and_again() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with keys.locked(directory, key):
                pass

    for _ in range(rounds):
        with pytest.raises(JobTimeout) as raised, limit(1e-4 + 1e-3 * chance.random()):
            lock_again_and_again()
        # While its traceback still refers to all frames.
        assert raised.value.__traceback__
        assert is_free(directory, key)
    del raised
    gc.collect()  # here: what it holds was not closed, and warns of that
    assert not once(2).duplicate


def test_a_call_that_cannot_have_its_key_says_which_process_has_it(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = once(1)
    (name,) = set(os.listdir(os.path.join(directory, keys.FOLDER))) - {keys.LOCK}
    monkeypatch.setattr(keys, "LOCK_TIME", 0.05)
    with held_by_a_child(lambda: keys.locked(directory, name)) as pid:
        with pytest.raises(
            KeyLockedError, match=rf"once is unique, .*{name}.* process {pid}, .*nothing was accepted"
        ) as raised:
            once(1)
        assert (raised.value.key, raised.value.pid) == (name, pid)
        with pytest.raises(KeyLockedError, match=rf"all keys .* process {pid}"):
            once.map([(1,), (2,)])
        assert not once(3).duplicate, "another key"
    assert once(1) == first
    with held_by_a_child(lambda: keys.locked(directory, None)) as pid, pytest.raises(KeyLockedError, match=str(pid)):
        once(1)
    assert len(waiting(directory)) == 2


def test_who_waits_for_all_keys_keeps_new_callers_out_now_and_then(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many call, somebody has a key at any time: ``map()`` would never come in."""
    monkeypatch.setattr(keys, "LOCK_TIME", 600.0)
    once(1)
    key, other = f"k{1:064x}", f"k{2 << 200:064x}"
    got: list[bool] = []

    def wait_for_all() -> None:
        with keys.locked(directory, None):
            got.append(True)

    waits = threading.Thread(target=wait_for_all)
    with (
        held_by_a_child(lambda: keys.locked(directory, key)),
        locks.LockedFile(os.open(os.path.join(directory, keys.FOLDER, keys.LOCK), os.O_RDWR)) as file,
    ):
        waits.start()
        for is_closed in (True, False, True, False):
            wait_until(lambda: locks.is_locked(file.fileno(), keys.TURNSTILE, 1) is is_closed)  # noqa: B023
        assert wait_until(lambda: is_free(directory, other))
        assert got == []
    waits.join(60)
    assert got == [True]
    assert is_free(directory, key)


def test_nobody_comes_in_past_who_waits_for_all_keys(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = once(1)
    monkeypatch.setattr(keys, "LOCK_TIME", 0.05)
    with locks.LockedFile(os.open(os.path.join(directory, keys.FOLDER, keys.LOCK), os.O_RDWR)) as file:
        assert locks.try_lock(file.fileno(), keys.TURNSTILE, 1)
        with pytest.raises(KeyLockedError, match=f"process {os.getpid()}"):
            once(2)
        locks.unlock(file.fileno(), keys.TURNSTILE, 1)
        assert not once(2).duplicate
    assert once(1) == first


def test_threads_of_one_process_exclude_each_other(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOCK_TIME", 600.0)
    once(1)
    key, inside, free = f"k{1:064x}", 0, []

    def work() -> None:
        nonlocal inside
        for _ in range(200):
            with keys.locked(directory, key):
                inside += 1
                free.append(inside == 1)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert len(free) == 800
    assert all(free)


def test_a_forked_child_does_not_keep_the_key_of_its_dead_parent(directory: str) -> None:
    once(1)
    key = f"k{1:064x}"
    ready, told = os.pipe()
    wait, go = os.pipe()

    def parent() -> None:
        lock = keys.locked(directory, key)
        if os.fork() == 0:
            os.close(go)
            os.write(told, b"1")
            os.read(wait, 1)
            os._exit(0)
        del lock
        os.read(ready, 1)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(parent) == -signal.SIGKILL
    try:
        assert is_free(directory, key)
    finally:
        for fd in (ready, told, wait, go):
            os.close(fd)


@pytest.mark.parametrize("many", [False, True])
def test_a_call_within_a_call_of_the_same_key_is_refused_at_once(
    directory: str, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    """As a signal handler makes it, or a finalizer."""
    take, other, refused = keys.take, [], []

    def take_and_call(*args: Any, **given: Any) -> None:
        monkeypatch.setattr(keys, "take", take)
        with pytest.raises(KeyLockedError, match=rf"this very thread of process {os.getpid()}") as raised:
            once(1)
        refused.append(raised.value.pid)
        if not many:
            other.append(once(2))
        take(*args, **given)

    monkeypatch.setattr(keys, "take", take_and_call)
    jobs = once.map([(1,)]) if many else [once(1)]
    assert not jobs[0].duplicate
    assert refused == [os.getpid()]
    assert once(1).duplicate
    assert len(waiting(directory)) + len(spoolfile.pending(directory)) >= 1
    assert [job.duplicate for job in other] == ([] if many else [False])


def test_nobody_sleeps_while_a_key_is_locked(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spooler has locked the file of the job for a moment."""
    monkeypatch.setattr(unique_jobs, "CLAIM_TIME", 600.0)
    first = latest(1, "one")
    (path,) = spoolfile.pending(directory)
    slept: list[bool] = []
    stack = contextlib.ExitStack()
    stack.enter_context(held_by_a_child(lambda: spoolfile.claim(path)))

    def sleep(seconds: float) -> None:
        slept.append(is_free(directory))
        if len(slept) == 3:
            stack.close()

    monkeypatch.setattr(unique_jobs.time, "sleep", sleep)
    with stack:
        second = latest(1, "two")
    assert slept == [True] * 3
    assert (second, second.args) == (first, (1, "two"))


# A job's file.


def test_a_file_that_a_thread_has_locked_stays_so_whatever_other_threads_do(directory: str) -> None:
    first = latest(1)
    (path,) = spoolfile.pending(directory)

    def others_have_it() -> bool:
        def look() -> None:
            with spoolfile.claim_to_run(path) as fd:
                os._exit(0 if fd is None else 1)

        return in_child(look) != 0

    with spoolfile.claim(path) as fd:
        assert fd is not None
        with spoolfile.claim(path) as again:
            assert again is None
        assert first.state is State.QUEUED  # which opens the file, and closes it
        assert spoolfile.peek(path)
        assert not others_have_it()
    assert others_have_it()


def test_cancelling_and_replacing_one_job_at_once_are_one_after_the_other(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (actions, unique_jobs):
        monkeypatch.setattr(module, "CLAIM_TIME", 60.0)
    for round in range(15):
        job = latest.using(delay=60)(1, "first")
        begin, replaced, states = threading.Barrier(2), [], []

        def replace() -> None:
            begin.wait(60)  # noqa: B023
            replaced.append(latest.using(delay=60)(1, "second"))  # noqa: B023

        def cancel() -> None:
            begin.wait(60)  # noqa: B023
            states.append(actions.cancel(job.id))  # noqa: B023

        threads = [threading.Thread(target=one) for one in (replace, cancel)[:: 1 if round % 2 else -1]]
        for one in threads:
            one.start()
        for one in threads:
            one.join(60)
        assert states == [State.CANCELLED]
        assert job.state is State.CANCELLED
        (other,) = replaced
        # Replaced first, and cancelled then; or the other way round, so that the call has made a job.
        assert other.duplicate == (other == job)
        assert waiting(directory) == ([] if other == job else [other.id])
        if other != job:
            other.cancel()


# A job that has expired.


@pytest.mark.parametrize("task", [once, latest])
def test_an_expired_job_that_waits_frees_its_key(
    directory: str, work: Callable[[], None], now: list[float], task: Any
) -> None:
    first = task.using(expires=5)(1)
    now[0] += 4
    assert task.using(expires=1)(1) == first
    now[0] += 1
    again = task(1)
    assert (again.duplicate, first.state, first.status.ending) == (False, State.CANCELLED, "expired")
    assert task(1) == again
    work()
    assert len(ran) == 1
    assert again.state is State.DONE
    assert waiting(directory) == []


def test_an_expired_job_that_waits_for_another_attempt_frees_its_key(
    directory: str, work: Callable[[], None], now: list[float]
) -> None:
    first = once.using(expires=5)(-1)
    work()
    assert first.state is State.RETRYING
    now[0] += 5
    again = once(-1)
    assert (again.duplicate, first.state, first.status.ending) == (False, State.CANCELLED, "expired")
    assert waiting(directory) == [again.id]


def test_many_calls_end_what_has_expired(directory: str, now: list[float]) -> None:
    expired, lives = once.using(expires=5)(1), once(2)
    (of_a_chunk,) = once.map([(3,)], expires=5)
    now[0] += 5
    jobs = once.map([(1,), (2,), (3,), (4,)])
    assert [job.duplicate for job in jobs] == [False, True, False, False]
    assert jobs[1] == lives
    assert expired.state is of_a_chunk.state is State.CANCELLED


def test_an_expired_job_that_a_spooler_has_locked_holds_its_key(
    directory: str, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unique_jobs, "CLAIM_TIME", 0.05)
    first = once.using(expires=5)(1)
    now[0] += 5
    (path,) = spoolfile.pending(directory)
    with held_by_a_child(lambda: spoolfile.claim_to_run(path)):
        assert once(1) == first
    assert once(1) != first


def test_a_dead_job_can_be_retried_beside_an_expired_one_that_waits(
    directory: str, work: Callable[[], None], now: list[float]
) -> None:
    dead = fails(1)
    work()
    assert dead.state is State.DEAD
    expiring = fails.using(expires=5)(1)
    with pytest.raises(DuplicateJobError):
        actions.retry(dead.id)
    now[0] += 5
    (path,) = spoolfile.pending(directory)
    with held_by_a_child(lambda: spoolfile.claim_to_run(path)), pytest.raises(DuplicateJobError):
        actions.retry(dead.id)
    actions.retry(dead.id)
    assert fails(1) == dead
    work()
    assert (expiring.state, expiring.status.ending, dead.attempt) == (State.CANCELLED, "expired", 2)


def test_without_the_store_an_expired_job_holds_its_key(
    directory: str, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise StoreUnavailableError("broken", path="")

    first = once.using(expires=5)(1)
    now[0] += 5
    monkeypatch.setattr(Database, "transaction", broken)
    assert once(1) == first
    assert waiting(directory) == [first.id]


@at_every(3)
def test_a_caller_killed_at_any_step_of_ending_an_expired_job_leaves_one_job_or_none(
    directory: str, work: Callable[[], None], now: list[float], stride: int
) -> None:
    for step in range(0, 100, stride):
        expired = once.using(expires=5)(1)
        now[0] += 5

        def die(step: int = step) -> None:
            die_at(step)
            once(1)

        status = in_child(die)
        assert status in (0, CRASHED)
        job = once(1)
        assert job != expired
        assert expired.state is State.CANCELLED
        work()
        assert (len(ran), job.state) == (1, State.DONE)
        assert waiting(directory) == []
        ran.clear()
        if status == 0:
            return
    pytest.fail("it never came to its end")


# A disk that is full, a folder that is missing.


def test_many_calls_on_a_full_disk_say_which_of_them_were_accepted(
    directory: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = [latest.using(delay=60)(number, "old") for number in range(3)]
    replace, done = later.replace, []

    def replace_one(*args: Any, **given: Any) -> str:
        if done:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(True)
        return replace(*args, **given)

    monkeypatch.setattr(later, "replace", replace_one)
    with pytest.raises(
        PartlyAcceptedError, match="3 of 5 calls were accepted, all but those with the index 1, 3: No space left"
    ) as raised:
        latest.map([(0, "new"), (1, "new"), (9, "new"), (2, "new"), (0, "newest")])
    assert (raised.value.accepted, raised.value.errno) == ((0, 2, 4), errno.ENOSPC)
    assert isinstance(raised.value, SpoolUnavailableError)
    monkeypatch.undo()
    work()
    work()
    assert sorted(ran) == [(0, "newest"), (9, "new")]
    assert [job.state for job in earlier] == [State.DONE, State.QUEUED, State.QUEUED]


def test_many_calls_of_which_no_new_one_can_be_written_replace_nothing(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = latest.using(delay=60)(1, "old")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keys, "take", full)
    with pytest.raises(SpoolUnavailableError, match="nothing was accepted") as raised:
        latest.map([(1, "new"), (2, "new")])
    assert not isinstance(raised.value, PartlyAcceptedError)
    monkeypatch.undo()
    assert waiting(directory) == [earlier.id]
    assert earlier.status.run_at == earlier.run_at


def test_a_dead_job_whose_key_cannot_be_written_stays_dead_and_says_why(
    directory: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = fails(1)
    work()
    monkeypatch.setattr(holders, "folder", lambda config=None: str(tmp_path / "nowhere"))
    with pytest.raises(SpoolUnavailableError, match="nowhere is not there"):
        actions.retry(job.id)
    assert job.state is State.DEAD
    monkeypatch.undo()
    actions.retry(job.id)
    assert Job.get(job.id).state is State.QUEUED


# What is shown of a job that was replaced after somebody had retried it.


def test_a_job_that_was_retried_and_then_replaced_is_shown_as_it_is(
    directory: str, work: Callable[[], None], now: list[float]
) -> None:
    job = doubtful.using(expires=50)("bad")
    work()
    assert job.state is State.DEAD
    actions.retry(job.id)
    again = doubtful.using(expires=90)("good")
    assert again == job
    assert job.status.expires_at == again.expires_at == now[0] + 90
    work()
    assert job.state is State.DONE
    assert job.status.expires_at == again.expires_at
    details = lookup.details(job.id)
    assert details.arguments == (("good",), {})
    assert [event.kind for event in details.events] == ["retried", "replaced"]


@pytest.mark.parametrize("option", [{"unique": True}, {"until": "start"}, {"on_duplicate": "raise"}])
def test_a_thread_task_cannot_be_unique(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=rf"{next(iter(option))} cannot be promised for @thread: .*@spool"):
        thread(**option)
    with pytest.raises(TypeError, match="no option 'colour'"):
        thread(colour="red")  # type: ignore[call-overload]


def test_a_lock_names_its_holders(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with locks.LockedFile(os.open(path, os.O_RDWR)) as file:
        assert locks.holders(str(path)) == []
        assert locks.try_lock(file.fileno(), 5, 2)
        for start, length, held in (
            (0, 5, False),
            (0, 6, True),
            (6, 1, True),
            (7, 1, False),
            (0, 0, True),
            (7, 0, False),
        ):
            assert locks.holders(str(path), start, length) == [os.getpid()] * held
            with locks.LockedFile(os.open(path, os.O_RDWR)) as other:
                assert locks.try_lock(other.fileno(), start, length) is not held
    assert locks.holders(str(path)) == []
    assert locks.holders(str(tmp_path / "none")) == []


def test_who_hears_of_the_end_of_an_expired_job_may_call_its_task(directory: str, now: list[float]) -> None:
    called: list[Job[Any]] = []

    def call_too(sender: Any, **_: Any) -> None:
        called.append(once(1))

    first = once.using(expires=5)(1)
    now[0] += 5
    with signals.job_cancelled.connected_to(call_too):
        again = once(1)
    assert (called[0].duplicate, again) == (False, called[0])
    assert first.state is State.CANCELLED
    assert waiting(directory) == [again.id]


def test_rows_that_replace_jobs_keep_their_limit(directory: str, now: list[float]) -> None:
    earlier = limited.using(delay=60)(1, "old")
    (path,) = spoolfile.pending(directory)
    before = packet.head(packet.load(Path(path).read_bytes())).limit_key
    assert limited.map([(1, "new")], delay=60) == [earlier]
    (path,) = spoolfile.pending(directory)
    assert packet.head(packet.load(Path(path).read_bytes())).limit_key == before is not None
