"""Which thread of this process runs a call, and when? A bounded pool of daemon threads, which knows calls, not jobs."""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from spoolkit.system import clock, log, task_signals

LOOK_AGAIN = 0.5, 4.0
"""Seconds, at least and at most, until the first call of a line is run again to look whether there is room by now."""

LOOKS = 100
"""So many lines are looked at in a second, at most: if more of them wait, each waits longer."""


@dataclass(frozen=True, eq=False)
class Call:
    """A function to run in the pool."""

    #: Does the work. It must not raise. Returns whether it has found no room, and is to be run again.
    run: Callable[[], bool | None]
    #: Calls with the same key share the bound ``concurrency``.
    key: str = ""
    #: How many calls with this key run at the same time, at most; ``None``: any number.
    concurrency: int | None = None
    #: By what the caller of :meth:`Pool.close` recognises the call.
    tag: object = None
    #: Calls with the same line look for room one after the other, in their order; ``None``: it needs none. A call that
    #: has a line calls :meth:`Pool.pass_on` as soon as it has found room, or needs none.
    line: str | None = None


class _Line:
    """Calls that need room which others may have taken, also in other processes: only the first one looks for it."""

    def __init__(self, first: Call) -> None:
        self.first = first
        #: Whether the first one has found no room and waits, among the later calls. Otherwise it is about to look.
        self.is_asleep = False
        #: Whether a call of the line has ended since the first one was last put among the ready ones.
        self.look_again = False
        self.others: deque[Call] = deque()


class Pool:
    """Runs calls in a bounded number of threads, each of which starts when it is first needed.

    Args:
        max_threads: How many threads there are, at most.
        max_waiting: How many calls may wait for a thread, for another call with their key or in their line, or for
            their time.
    """

    def __init__(self, max_threads: int, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._max_threads = max_threads
        lock = threading.Lock()
        self._work_came = threading.Condition(lock)
        self._work_ended = threading.Condition(lock)
        # A ready call counts against the bound of its key already, and waits only for a thread.
        self._ready: deque[Call] = deque()
        # A blocked call waits until another call with its key has ended.
        self._blocked: dict[str, deque[Call]] = defaultdict(deque)
        self._later: list[tuple[float, int, Call]] = []
        self._lines: dict[str | None, _Line] = {}
        self._running: dict[int, Call] = {}
        self._permitted: Counter[str] = Counter()  # calls with a bound, ready or running, by key
        self._threads = self._idle = 0
        self._closed = False
        self._order = itertools.count()

    def put(self, call: Call, on_accept: Callable[[], object] = lambda: None, *, has_place: bool = False) -> bool:
        """Accept ``call`` if there is room for it.

        Args:
            call: Runs as soon as a thread is free and the bound of its key allows it.
            on_accept: Called before ``call`` can start, and only if it is accepted.
            has_place: Whether it is accepted even if too many calls wait: it had its place before.

        Returns:
            Whether the call was accepted: ``False`` if too many calls wait, if no thread can be started, or if the
            pool is closed.
        """
        with self._work_came:
            if self._closed or not (has_place or self._has_room(call)):
                return False
            self._admit(call)
            if self._threads == 0:
                self._take_back(call)
                return False
            on_accept()
            return True

    def put_later(self, delay: float, call: Call) -> bool:
        """Accept ``call`` for another run later, even if the pool is full: it had its place before.

        Args:
            delay: Seconds from now until the call is ready.

        Returns:
            Whether the call was accepted: ``False`` if the pool is closed.
        """
        with self._work_came:
            if self._closed:
                return False
            heapq.heappush(self._later, (time.monotonic() + delay, next(self._order), call))
            self._wake_or_start_thread()
            return True

    def pass_on(self, call: Call) -> None:
        """Let the next call of its line look for room, if ``call`` was the first one: it does not look any more."""
        if call.line is None:
            return
        with self._work_came:
            if (line := self._lines.get(call.line)) is None or line.first is not call:
                return
            if line.others:
                line.first = line.others.popleft()
                self._admit(line.first)
            else:
                del self._lines[call.line]

    def has_room(self, call: Call) -> bool:
        """Whether the pool would accept ``call`` now."""
        with self._work_came:
            return not self._closed and self._has_room(call)

    @property
    def closed(self) -> bool:
        """Whether the pool accepts no more calls."""
        return self._closed

    def __len__(self) -> int:
        """How many accepted calls have not ended."""
        with self._work_came:
            return len(self._ready) + self._blocked_or_later() + len(self._running)

    def close(self, deadline: clock.Deadline) -> list[Call]:
        """Wait until all calls have ended, or until ``deadline``; from then on accept none.

        Calls that a running call puts into the pool meanwhile are accepted and waited for as well.

        Returns:
            The calls that have not ended, those that run first.
        """
        with self._work_ended:
            while self._is_busy(deadline.at) and (left := deadline.left):
                self._work_ended.wait(min(left, clock.DEADLINE_CHECK))
            self._closed = True
            self._work_came.notify_all()  # idle threads exit
            blocked = itertools.chain.from_iterable(self._blocked.values())
            in_lines = itertools.chain.from_iterable(line.others for line in self._lines.values())
            later = (call for _, _, call in sorted(self._later))
            left_over = [*self._running.values(), *self._ready, *blocked, *in_lines, *later]
            self._ready.clear()
            self._blocked.clear()
            self._lines.clear()
            self._later.clear()
        return left_over

    def _is_busy(self, deadline: float) -> bool:
        # A blocked call waits for one that is ready or running, so it need not be counted.
        # For those in a line there may be room at any time.
        waits = self._ready or self._running or self._lines
        return bool(waits or (self._later and self._later[0][0] < deadline))

    def _has_room(self, call: Call) -> bool:
        free = self._max_threads - len(self._running)
        if self._may_run(call) and call.line not in self._lines and len(self._ready) < free:
            return True
        return max(0, len(self._ready) - free) + self._blocked_or_later() < self.max_waiting

    def _blocked_or_later(self) -> int:
        in_lines = sum(len(line.others) for line in self._lines.values())
        return sum(map(len, self._blocked.values())) + in_lines + len(self._later)

    def _may_run(self, call: Call) -> bool:
        return call.concurrency is None or self._permitted[call.key] < call.concurrency

    def _admit(self, call: Call) -> None:
        if call.line is not None:
            line = self._lines.setdefault(call.line, _Line(call))
            if line.first is not call:
                line.others.append(call)
                return
            line.is_asleep = line.look_again = False
        if self._may_run(call):
            if call.concurrency is not None:
                self._permitted[call.key] += 1
            self._ready.append(call)
            self._wake_or_start_thread()
        else:
            self._blocked[call.key].append(call)

    def _release(self, call: Call, *, has_no_room: bool) -> None:
        if call.concurrency is not None:
            self._permitted[call.key] -= 1
            if blocked := self._blocked.get(call.key):
                self._admit(blocked.popleft())
        if (line := self._lines.get(call.line)) is None:
            return
        if has_no_room and line.look_again:
            self._admit(call)
        elif has_no_room:
            # It is woken when a call of its line ends here. Nobody tells of room that comes in another process.
            line.is_asleep = True
            shortest, longest = LOOK_AGAIN
            pause = min(max(shortest, len(self._lines) / LOOKS), longest)
            heapq.heappush(self._later, (time.monotonic() + pause, next(self._order), call))
        elif line.is_asleep:
            self._later = [later for later in self._later if later[2] is not line.first]
            heapq.heapify(self._later)
            self._admit(line.first)
        else:
            line.look_again = True

    def _take_back(self, call: Call) -> None:
        """Undo :meth:`_admit`: there is no thread, and none can be started."""
        self._ready.remove(call)
        self._permitted[call.key] -= call.concurrency is not None
        self._lines.pop(call.line, None)

    def _wake_or_start_thread(self) -> None:
        if self._idle >= len(self._ready) and self._idle:
            self._work_came.notify()
        elif self._threads < self._max_threads:
            thread = threading.Thread(target=self._run_thread, name=f"spoolkit-{self._threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system's limit is reached, or Python is exiting: from 3.12 on it starts no thread then.
                return
            self._threads += 1

    def _run_thread(self) -> None:
        # Block the signals that end the process: handled in this thread, they would end it without a wait for the jobs.
        # Unblock them while a call runs: a subprocess that it starts inherits the mask, and could not be stopped.
        task_signals.block_in_thread()
        while (call := self._next_call()) is not None:
            # Unblock, instead of restoring the mask: the thread that started this one may have had them blocked.
            task_signals.unblock_in_thread()
            has_no_room = False
            try:
                has_no_room = bool(call.run())
            except BaseException:
                log.exception(
                    "a call in the thread pool of process %d raised an exception; the next call follows", os.getpid()
                )
                self.pass_on(call)
            task_signals.block_in_thread()
            with self._work_ended:
                del self._running[threading.get_ident()]
                self._release(call, has_no_room=has_no_room)
                self._work_ended.notify_all()
            del call  # otherwise its arguments would live until the next call comes

    def _next_call(self) -> Call | None:
        """Wait for the next call to run; ``None`` once the pool is closed."""
        with self._work_came:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._admit(heapq.heappop(self._later)[2])
                if self._ready:
                    call = self._ready.popleft()
                    self._running[threading.get_ident()] = call
                    if self._later:
                        self._wake_or_start_thread()  # a thread must be there when the later call is due
                    return call
                self._idle += 1
                self._work_came.wait(self._later[0][0] - now if self._later else None)
                self._idle -= 1
            self._threads -= 1
            return None
