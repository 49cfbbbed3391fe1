"""A bounded pool of daemon threads in this process. Knows calls, not jobs."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from spoolkit.system import clock, log, task_signals


@dataclass(frozen=True, eq=False)
class Call:
    """Something to be run.

    ``run``      what to do; must not raise
    ``key``      what it belongs to, of which ``at_once`` run at the same time at most (``None``: any number)
    ``subject``  what its owner knows it by
    """

    run: Callable[[], None]
    key: str = ""
    at_once: int | None = None
    subject: object = None


class Pool:
    """Runs calls in up to ``threads`` threads, each started when it is needed; ``room`` calls may wait for one."""

    def __init__(self, threads: int, room: int) -> None:
        self.room = room
        self._most = threads
        lock = threading.Lock()
        self._work_came = threading.Condition(lock)
        self._work_ended = threading.Condition(lock)
        # A call that is ready has its key's permission to run and waits for a thread only.
        self._ready: deque[Call] = deque()
        self._held: dict[str, deque[Call]] = defaultdict(deque)
        self._later: list[tuple[float, int, Call]] = []
        self._running: dict[int, Call] = {}
        self._permitted: Counter[str] = Counter()
        self._threads = self._idle = 0
        self._closed = False
        self._order = itertools.count()

    def put(self, call: Call, accepted: Callable[[], object] = lambda: None) -> bool:
        """Have ``call`` run; whether there was room for it. If so, ``accepted()`` is called before it starts."""
        with self._work_came:
            if self._closed or not self._has_room(call):
                return False
            self._place(call)
            if self._threads == 0:
                self._take_back(call)
                return False
            accepted()
            return True

    def put_later(self, delay: float, call: Call) -> bool:
        """Have ``call``, which was let in before, run ``delay`` seconds from now; not so once the pool is closed."""
        with self._work_came:
            if self._closed:
                return False
            heapq.heappush(self._later, (time.monotonic() + delay, next(self._order), call))
            self._call_a_thread()
            return True

    @property
    def closed(self) -> bool:
        """Whether it takes no more."""
        return self._closed

    def __len__(self) -> int:
        """How many calls are not over."""
        with self._work_came:
            waiting = len(self._ready) + sum(map(len, self._held.values())) + len(self._later)
            return waiting + len(self._running)

    def drain(self, deadline: clock.Deadline) -> list[Call]:
        """Wait until all is done, but not beyond ``deadline``, and take no more.

        Returns the calls that were not finished. What a call puts here meanwhile is waited for as well.
        """
        with self._work_ended:
            while self._is_busy(deadline.at) and (left := deadline.left):
                self._work_ended.wait(min(left, clock.LOOK))
            self._closed = True
            self._work_came.notify_all()  # the threads that wait end
            held = itertools.chain.from_iterable(self._held.values())
            left_over = [*self._running.values(), *self._ready, *held, *(call for _, _, call in sorted(self._later))]
            self._ready.clear()
            self._held.clear()
            self._later.clear()
        return left_over

    def _is_busy(self, deadline: float) -> bool:
        # What is held waits for something that runs.
        return bool(self._ready or self._running or (self._later and self._later[0][0] < deadline))

    def _has_room(self, call: Call) -> bool:
        free = self._most - len(self._running)
        if self._may_run(call) and len(self._ready) < free:
            return True
        waiting = max(0, len(self._ready) - free) + sum(map(len, self._held.values())) + len(self._later)
        return waiting < self.room

    def _may_run(self, call: Call) -> bool:
        return call.at_once is None or self._permitted[call.key] < call.at_once

    def _place(self, call: Call) -> None:
        if self._may_run(call):
            if call.at_once is not None:
                self._permitted[call.key] += 1
            self._ready.append(call)
            self._call_a_thread()
        else:
            self._held[call.key].append(call)

    def _release(self, call: Call) -> None:
        if call.at_once is None:
            return
        self._permitted[call.key] -= 1
        if held := self._held.get(call.key):
            self._place(held.popleft())

    def _take_back(self, call: Call) -> None:
        """There is no thread and none can be started: the call is refused."""
        self._ready.remove(call)
        self._permitted[call.key] -= call.at_once is not None

    def _call_a_thread(self) -> None:
        if self._idle >= len(self._ready) and self._idle:
            self._work_came.notify()
        elif self._threads < self._most:
            thread = threading.Thread(target=self._work, name=f"spoolkit-{self._threads + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system's limit is reached, or Python ends, which in 3.12 starts no thread then.
                return
            self._threads += 1

    def _work(self) -> None:
        # A signal that ends the process is for the main thread: handled here, the end would not wait for anybody. Not
        # while a call runs: a process that it starts would inherit that, and could not be told to end.
        task_signals.leave_to_main_thread()
        while (call := self._next()) is not None:
            # Not as it was before: this thread may have been started by one that had blocked them.
            task_signals.leave_to_main_thread(False)
            try:
                call.run()
            except BaseException:
                log.exception("a call of the pool raised")
            task_signals.leave_to_main_thread()
            with self._work_ended:
                del self._running[threading.get_ident()]
                self._release(call)
                self._work_ended.notify_all()
            del call  # or its arguments would live until the next one comes

    def _next(self) -> Call | None:
        """The next call to run, once there is one; ``None`` where there will be none."""
        with self._work_came:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._place(heapq.heappop(self._later)[2])
                if self._ready:
                    call = self._ready.popleft()
                    self._running[threading.get_ident()] = call
                    if self._later:
                        self._call_a_thread()  # somebody has to be there when its time comes
                    return call
                self._idle += 1
                self._work_came.wait(self._later[0][0] - now if self._later else None)
                self._idle -= 1
            self._threads -= 1
            return None
