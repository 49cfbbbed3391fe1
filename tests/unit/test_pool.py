"""The thread pool by itself: bounds, order, keys, delays, close."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uwsgi_server import wait_until

from spoolkit.system import clock
from spoolkit.threads.pool import Call, Pool

SOON = 60.0


class Work:
    """Makes calls that record when they run and that can be made to wait."""

    def __init__(self) -> None:
        self.began: list[object] = []
        self.ended: list[object] = []
        self.go = threading.Event()
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def call(self, name: object, *, key: str = "", at_once: int | None = None, held: bool = True) -> Call:
        def run() -> None:
            with self._lock:
                self.began.append(name)
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            if held:
                assert self.go.wait(SOON)
            with self._lock:
                self.at_once -= 1
                self.ended.append(name)

        return Call(run, key, at_once, tag=name)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.go.set()


def drain(pool: Pool, grace: float = SOON) -> list[object]:
    return [call.tag for call in pool.close(clock.Deadline(time.monotonic() + grace))]


_others: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """Remember the threads that other tests have left, so that ``new_threads()`` does not count them."""
    _others.clear()
    _others.update(threading.enumerate())


def new_threads() -> int:
    return len(set(threading.enumerate()) - _others)


def test_the_pool_starts_no_thread_before_the_first_call_and_has_none_after_close(work: Work) -> None:
    pool = Pool(4, 100)
    assert new_threads() == 0
    for number in range(10):
        assert pool.put(work.call(number))
    wait_until(lambda: len(work.began) == 4)
    assert new_threads() == 4
    work.go.set()
    assert drain(pool) == []
    assert sorted(work.ended) == list(range(10))
    wait_until(lambda: new_threads() == 0)


def test_an_idle_thread_runs_the_next_call(work: Work) -> None:
    pool = Pool(4, 100)
    for number in range(20):
        pool.put(work.call(number, held=False))
        wait_until(lambda number=number: number in work.ended and pool._idle == pool._threads)
    assert new_threads() == 1
    drain(pool)


def test_put_refuses_a_call_when_max_waiting_calls_wait(work: Work) -> None:
    pool = Pool(2, 3)
    # Two calls run or are about to run, three wait: it does not matter how far the threads have come.
    assert [pool.put(work.call(number)) for number in range(6)] == [True] * 5 + [False]
    work.go.set()
    assert drain(pool) == []
    assert sorted(work.ended) == list(range(5))


def test_calls_blocked_by_their_key_count_as_waiting_even_while_threads_are_free(work: Work) -> None:
    pool = Pool(4, 3)
    keyed = [pool.put(work.call(number, key="k", at_once=1)) for number in range(6)]
    assert keyed == [True] * 4 + [False] * 2
    assert pool.put(work.call("free"))  # there is a thread for it
    wait_until(lambda: "free" in work.began)
    work.go.set()
    assert drain(pool) == []


def test_calls_that_are_not_due_count_as_waiting(work: Work) -> None:
    pool = Pool(1, 1)
    assert pool.put_later(1000, work.call("later"))
    assert pool.put(work.call("now"))
    assert not pool.put(work.call("too much"))
    assert pool.put_later(1000, work.call("again"))  # accepted even if the pool is full
    work.go.set()
    assert drain(pool) == ["later", "again"]


def test_calls_of_one_key_run_one_at_a_time_in_order_and_do_not_delay_other_calls(work: Work) -> None:
    pool = Pool(4, 100)
    for number in range(5):
        pool.put(work.call(number, key="k", at_once=1))
    pool.put(work.call("other", held=False))
    wait_until(lambda: "other" in work.ended)
    assert [name for name in work.began if name != "other"] == [0]
    work.go.set()
    assert drain(pool) == []
    assert [name for name in work.ended if name != "other"] == [0, 1, 2, 3, 4]
    assert pool._permitted["k"] == 0


def test_as_many_calls_of_one_key_run_as_its_concurrency_allows(work: Work) -> None:
    pool = Pool(6, 100)
    for number in range(9):
        pool.put(work.call(number, key="k", at_once=3))
    wait_until(lambda: len(work.began) == 3)
    work.go.set()
    assert drain(pool) == []
    assert work.most_at_once == 3


def test_a_later_call_runs_at_its_time_and_not_before(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, start = Pool(1, 10), time.monotonic()  # two threads might end them in another order
    with monkeypatch.context() as patch:
        # However long it takes from one line to the next.
        patch.setattr(time, "monotonic", lambda: start)
        pool.put_later(1000, work.call("never", held=False))
        pool.put_later(0.2, work.call("second", held=False))
        pool.put_later(0.1, work.call("first", held=False))
    wait_until(lambda: "second" in work.ended)
    assert time.monotonic() - start >= 0.2
    assert work.ended == ["first", "second"]
    assert drain(pool) == ["never"]


def test_put_later_wakes_a_thread_that_sleeps_until_a_later_time(work: Work) -> None:
    pool = Pool(1, 10)
    pool.put_later(1000, work.call("never", held=False))
    wait_until(lambda: pool._idle == 1)
    pool.put_later(0.05, work.call("soon", held=False))
    wait_until(lambda: work.ended == ["soon"])
    drain(pool)


def test_close_waits_only_for_calls_that_are_due_before_the_deadline(work: Work) -> None:
    pool = Pool(2, 10)
    pool.put_later(0.2, work.call("soon", held=False))
    pool.put_later(1000, work.call("never", held=False))
    start = time.monotonic()
    assert drain(pool) == ["never"]
    assert time.monotonic() - start < SOON
    assert work.ended == ["soon"]


def test_close_returns_the_calls_that_have_not_ended_at_the_deadline(work: Work) -> None:
    pool = Pool(1, 10)
    pool.put(work.call("runs"))
    wait_until(lambda: work.began)
    pool.put(work.call("waits"))
    pool.put(work.call("held", key="k", at_once=1))
    pool.put(work.call("held too", key="k", at_once=1))
    pool.put_later(1000, work.call("later"))
    assert drain(pool, 0.05) == ["runs", "waits", "held", "held too", "later"]
    assert not pool.put(work.call("late"))
    assert not pool.put_later(1, work.call("late"))
    work.go.set()
    wait_until(lambda: work.ended == ["runs"])
    assert drain(pool) == []


def test_close_waits_for_calls_that_running_calls_put_meanwhile(work: Work) -> None:
    pool = Pool(1, 10)
    begun = threading.Event()

    def chain() -> None:
        begun.set()
        work.go.wait(SOON)
        assert pool.put(work.call("next", held=False))

    pool.put(Call(chain))
    begun.wait(SOON)
    left: list[list[object]] = []
    ending = threading.Thread(target=lambda: left.append(drain(pool)))
    ending.start()
    work.go.set()
    ending.join(SOON)
    assert left == [[]]
    assert work.ended == ["next"]


def test_close_can_be_called_again_after_an_interrupt(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(1, 10)
    pool.put(work.call("runs"))
    pool.put(work.call("waits"))
    wait_until(lambda: work.began)

    def interrupted(timeout: float) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(pool._work_ended, "wait", interrupted)
        drain(pool)
    work.go.set()
    assert drain(pool) == []
    assert work.ended == ["runs", "waits"]


def test_a_call_that_raises_is_logged_and_its_thread_goes_on(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool(1, 10)

    def broken() -> None:
        raise SystemExit(3)

    pool.put(Call(broken))
    pool.put(work.call("next", held=False))
    assert drain(pool) == []
    assert work.ended == ["next"]
    assert "SystemExit: 3" in caplog.text


def test_put_refuses_a_call_if_no_thread_can_be_started(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(2, 10)

    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        assert not pool.put(work.call("refused", key="k", at_once=1))
    assert pool.put(work.call("taken", key="k", at_once=1, held=False))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        assert pool.put(work.call("waits for the one there is", held=False))
    assert drain(pool) == []
    assert work.began == ["taken", "waits for the one there is"]


def test_an_idle_thread_keeps_no_reference_to_its_last_call() -> None:
    import gc
    import weakref

    class Big:
        pass

    pool = Pool(1, 10)
    big = Big()
    gone = weakref.ref(big)
    pool.put(Call(lambda big=big: None))  # type: ignore[misc]
    del big
    wait_until(lambda: gc.collect() is not None and gone() is None)
    drain(pool)


@settings(max_examples=30)
@given(
    threads=st.integers(1, 4),
    calls=st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.sampled_from([None, 1, 2])), max_size=40),
)
def test_each_call_runs_once_and_no_key_exceeds_its_concurrency(
    threads: int, calls: list[tuple[str, int | None]]
) -> None:
    pool, ran, lock = Pool(threads, 100), list[int](), threading.Lock()
    running: dict[tuple[str, int], int] = {}
    too_many: list[tuple[str, int]] = []

    def call(number: int, key: str, at_once: int | None) -> Call:
        name = f"{key}{at_once}"

        def run() -> None:
            with lock:
                if at_once is not None:
                    running[key, at_once] = running.get((key, at_once), 0) + 1
                    if running[key, at_once] > at_once:
                        too_many.append((key, at_once))
            with lock:
                ran.append(number)
                if at_once is not None:
                    running[key, at_once] -= 1

        return Call(run, name, at_once)

    for number, (key, at_once) in enumerate(calls):
        assert pool.put(call(number, key, at_once))
    assert drain(pool) == []
    assert sorted(ran) == list(range(len(calls)))
    assert too_many == []


def test_pool_threads_block_signals_except_while_a_call_runs() -> None:
    def blocked(thread: int) -> int:
        status = Path(f"/proc/self/task/{thread}/status").read_text()
        return int(re.search(r"SigBlk:\t(\w+)", status)[1], 16)  # type: ignore[index]

    pool = Pool(1, 1)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        thread = threading.get_native_id()
        seen.append((thread, blocked(thread)))

    pool.put(Call(look))
    wait_until(lambda: seen)
    thread, during = seen[0]
    hangup = 1 << (signal.SIGHUP - 1)
    assert not during & hangup
    wait_until(lambda: blocked(thread) & hangup)
    pool.close(clock.Deadline(0))


def test_a_later_call_runs_on_time_though_the_thread_that_waited_for_it_is_busy(work: Work) -> None:
    pool = Pool(2, 100)
    pool.put_later(0.3, work.call("later", held=False))
    pool.put(work.call("now"))  # taken by the thread that was started for the later call
    wait_until(lambda: work.ended == ["later"])
    work.go.set()
    assert drain(pool) == []


def test_calls_see_no_blocked_signals_in_a_thread_that_another_pool_thread_started() -> None:
    pool = Pool(2, 100)
    seen: list[tuple[str, set[int]]] = []
    both = threading.Barrier(2)

    def look() -> None:
        both.wait(SOON)
        seen.append((threading.current_thread().name, signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    for _ in range(2):
        pool.put(Call(lambda: None, "key", 1))  # when the first call ends, its thread starts another one for the second
    wait_until(lambda: not len(pool))
    for _ in range(2):
        pool.put(Call(look))
    assert drain(pool) == []
    assert sorted(seen) == [("spoolkit-1", set()), ("spoolkit-2", set())]


class Room:
    """What calls of a line need, which others may have taken as well."""

    def __init__(self, number: int) -> None:
        self.number, self.taken, self.most, self.looks = number, 0, 0, 0
        self._lock = threading.Lock()

    def call(self, pool: Pool, work: Work, name: object, line: str = "l", *, held: bool = True, **more: int) -> Call:
        inner = work.call(name, held=held)

        def run() -> bool:
            with self._lock:
                self.looks += 1
                if self.taken >= self.number:
                    return True
                self.taken += 1
                self.most = max(self.most, self.taken)
            pool.pass_on(call)
            try:
                inner.run()
            finally:
                with self._lock:
                    self.taken -= 1
            return False

        call = Call(run, tag=name, line=line, concurrency=more.get("at_once"))
        return call


@pytest.fixture
def nobody_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolkit.threads.pool.LOOK_AGAIN", (1000.0, 1000.0))


@pytest.mark.usefixtures("nobody_looks_again")
def test_calls_without_room_wait_in_order_without_a_thread_and_follow_at_once(work: Work) -> None:
    pool, room = Pool(2, 100), Room(1)
    for number in range(5):
        pool.put(room.call(pool, work, number))
    wait_until(lambda: work.began == [0] and room.looks == 2)
    for line in ("m", "n"):
        pool.put(Room(1).call(pool, work, line, line, held=False))
    wait_until(lambda: sorted(map(str, work.ended)) == ["m", "n"])
    assert work.began[0] == 0
    assert len(work.began) == 3
    assert room.looks == 2  # of the one that runs, and of the first one in the line
    work.go.set()
    assert drain(pool) == []
    assert [name for name in work.began if name not in ("m", "n")] == [0, 1, 2, 3, 4]
    assert room.most == 1
    assert pool._lines == {}


def test_room_that_others_leave_is_found_by_looking_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolkit.threads.pool.LOOK_AGAIN", (0.01, 0.01))
    pool, room = Pool(2, 100), Room(0)
    for number in range(3):
        pool.put(room.call(pool, work, number, held=False))
    wait_until(lambda: room.looks >= 3)
    assert work.began == []
    room.number = 1
    wait_until(lambda: work.ended == [0, 1, 2])
    assert drain(pool) == []


@pytest.mark.usefixtures("nobody_looks_again")
def test_room_that_comes_while_the_first_one_looks_is_not_missed(work: Work) -> None:
    pool, looks, ended = Pool(2, 100), threading.Event(), threading.Event()
    looked: list[int] = []

    def first() -> None:
        pool.pass_on(one)
        assert looks.wait(SOON)
        ended.set()

    def second() -> bool:
        looked.append(1)
        if len(looked) == 1:
            looks.set()
            # It has found no room, which comes before it says so.
            wait_until(lambda: ended.is_set() and len(pool._running) == 1)
            return True
        pool.pass_on(two)
        return False

    one, two = Call(first, line="l"), Call(second, line="l")
    pool.put(one)
    pool.put(two)
    assert drain(pool) == []
    assert len(looked) == 2


@pytest.mark.usefixtures("nobody_looks_again")
def test_calls_in_a_line_count_as_waiting_and_close_returns_them(work: Work) -> None:
    pool, room = Pool(2, 3), Room(1)
    calls = [room.call(pool, work, number) for number in range(5)]
    for number in range(2):
        assert pool.put(calls[number])
        wait_until(lambda number=number: room.looks == number + 1 and work.began == [0] and len(pool._running) == 1)
    assert [pool.put(call) for call in calls[2:]] == [True, True, False]
    assert pool.put(Room(1).call(pool, work, "another line", "m"))  # there is a thread for it
    assert sorted(map(str, drain(pool, 0.05))) == ["0", "1", "2", "3", "another line"]
    assert pool._lines == {}
    work.go.set()


def test_a_call_in_a_line_that_raises_does_not_hold_it_up(work: Work, caplog: pytest.LogCaptureFixture) -> None:
    pool, room = Pool(2, 10), Room(1)

    def broken() -> None:
        raise SystemExit(3)

    pool.put(Call(broken, line="l"))
    pool.put(room.call(pool, work, "next", held=False))
    assert drain(pool) == []
    assert work.ended == ["next"]
    assert "SystemExit: 3" in caplog.text


def test_a_line_whose_first_call_finds_no_thread_is_forgotten(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, room = Pool(2, 10), Room(1)

    def full(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        assert not pool.put(room.call(pool, work, "refused"))
    assert pool.put(room.call(pool, work, "taken", held=False))
    assert drain(pool) == []
    assert work.ended == ["taken"]


@settings(max_examples=15)
@given(
    threads=st.integers(1, 4),
    number=st.integers(1, 3),
    calls=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.booleans(), st.booleans()), max_size=40),
)
def test_calls_of_a_line_never_exceed_its_room_and_each_ends(
    threads: int, number: int, calls: list[tuple[str, bool, bool]]
) -> None:
    pool, work = Pool(threads, 100), Work()
    rooms = {line: Room(number) for line in "ab"}
    for name, (line, bound, again) in enumerate(calls):
        call = rooms[line].call(pool, work, name, line, held=False, **({"at_once": 2} if bound else {}))
        assert pool.put_later(0, call) if again else pool.put(call)
    wait_until(lambda: len(work.ended) == len(calls), timeout=20)
    assert drain(pool) == []
    assert all(room.most <= number and room.taken == 0 for room in rooms.values())
    for line in "ab":
        # Those that are put at once; of two in threads, the later one may be the first to say that it has begun.
        began = [name for name in work.began if calls[name][0] == line and not calls[name][2]]  # type: ignore[index]
        assert number > 1 or began == sorted(began)  # type: ignore[type-var]
    assert pool._lines == {}
    assert set(pool._permitted.values()) <= {0}
