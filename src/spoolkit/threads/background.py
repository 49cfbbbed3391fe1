"""Which work runs in a serving process as long as the process lives, and how does it start, repeat and stop?"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic, Literal, TypeVar, get_args

from spoolkit import application, callables
from spoolkit.errors import ConfigurationError, QueueFull, shown
from spoolkit.lifecycle import hooks
from spoolkit.store import locations
from spoolkit.system import clock, log
from spoolkit.system.process import PerProcess
from spoolkit.threads.filelock import exclusive_lock

T = TypeVar("T")
Where = Literal["each process", "one process"]
"""The processes in which a background thread runs: see :meth:`SpoolKit.add_thread`."""

FIRST_PAUSE = 1.0
"""Seconds before ``startup`` or ``handle`` is called again after it raised; doubled after each failure in a row."""

MAX_PAUSE = 60.0
"""The greatest length of this pause, in seconds."""


class BackgroundThread:
    """A thread that works beside the requests: ``startup()`` once, ``handle()`` repeatedly, ``shutdown()`` once.

    Write a subclass and pass an instance to :meth:`SpoolKit.add_thread`. Each of the three methods runs in the thread,
    each call in a fresh application context. An exception of ``startup`` or ``handle`` is logged and counted in
    ``failures``, and the method is called again after a pause of 1 second, which doubles with each failure in a row, up
    to a minute. ``shutdown`` runs in any case.
    """

    #: How many calls of ``startup``, ``handle``, ``stop`` and ``shutdown`` raised an exception in this process.
    failures: int

    _stopped: threading.Event
    _runs_here: PerProcess[bool]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("startup", "handle", "shutdown"):
            kind = callables.kind_of_lazy(vars(cls).get(name))
            if kind is not None:
                raise ConfigurationError(
                    f"{cls.__qualname__}.{name} is {kind}: the thread would call it, and its body would never run. "
                    "Write it with def and without yield, and call asyncio.run() in it to run a coroutine",
                    setting=name,
                )

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Not in __init__(): the __init__() of a subclass need not call this one.
        self = super().__new__(cls)
        self.failures = 0
        self._stopped = threading.Event()
        self._runs_here = PerProcess(lambda: False)
        return self

    def startup(self) -> None:
        """Prepare the work. Called before the first ``handle()``, and again after a pause if it raises."""

    def handle(self) -> None:
        """Do one round of the work. It is called again at once: call :meth:`wait` in it if there is nothing to do."""
        raise NotImplementedError(f"{type(self).__name__} needs a handle() method")

    def shutdown(self) -> None:
        """Clean up: called once, after the last ``handle()``, also if ``startup()`` never succeeded."""

    def stop(self) -> None:
        """Ask the thread to stop; it does so when ``handle()`` returns. An override must call ``super().stop()``."""
        self._stopped.set()

    @property
    def stopping(self) -> bool:
        """Whether the thread was asked to stop."""
        return self._stopped.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep for up to ``seconds`` seconds, but no longer than until the thread is asked to stop.

        Returns:
            Whether the thread was asked to stop.
        """
        return self._stopped.wait(seconds)

    def _has_work(self) -> bool:
        return not self.stopping

    def _handle_once(self) -> None:
        self.handle()


class QueueThread(BackgroundThread, Generic[T]):
    """A thread that handles the items that are ``put`` into its queue, one after the other.

    Each process has its own queue in memory, which holds up to ``size`` items. When the process is asked to exit, the
    thread has ``SPOOLKIT_THREAD_GRACE`` seconds to handle the items in its queue; the number of those that are lost is
    logged. If ``handle`` raises, the item is not handled again: use ``@thread(retries=...)`` for that, and ``@spool``
    for items that must not be lost.
    """

    #: How many items may wait in the queue. A subclass may set another number.
    size: int = 1000

    _items: deque[T]
    _handling: bool
    _changed: threading.Condition

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._items = deque()
        self._handling = False
        self._changed = threading.Condition()
        return self

    def put(self, item: T) -> None:
        """Add ``item`` to the queue and wake the thread. The item is passed on as it is, without a copy.

        Raises:
            QueueFull: ``size`` items wait already.
            ConfigurationError: The thread does not run in this process.
        """
        if not self._runs_here.get():
            raise ConfigurationError(
                f"{type(self).__name__} does not run in this process: add it with kit.add_thread(), which starts it in "
                "each process that serves requests; in a test or a script, call kit.start_threads()"
            )
        with self._changed:
            if len(self._items) >= self.size:
                raise QueueFull(
                    f"{self.size} items already wait in the queue of {type(self).__name__}", limit=self.size
                )
            self._items.append(item)
            self._changed.notify()

    def handle(self, item: T) -> None:  # type: ignore[override] # here it takes an item
        """Handle one item of the queue."""
        raise NotImplementedError(f"{type(self).__name__} needs a handle(item) method")

    def stop(self) -> None:
        """Ask the thread to stop once it has handled all items. An override must call ``super().stop()``."""
        super().stop()
        with self._changed:
            self._changed.notify()

    def __len__(self) -> int:
        """How many items wait in the queue."""
        return len(self._items)

    def _has_work(self) -> bool:
        return bool(self._items) or not self.stopping

    def _handle_once(self) -> None:
        with self._changed:
            while not self._items:
                if self.stopping:
                    return
                self._changed.wait()
            item = self._items.popleft()
            self._handling = True
        try:
            self.handle(item)
        finally:
            self._handling = False

    def _unfinished(self) -> tuple[int, int]:
        """Return how many accepted items are not handled yet, and how many of these are in :meth:`handle` now."""
        with self._changed:
            return len(self._items) + self._handling, int(self._handling)


class BackgroundThreads:
    """The background threads of an application: which there are, and starting and stopping them in this process."""

    def __init__(self) -> None:
        self._runners: dict[str, _Runner] = {}
        self._started_here = PerProcess(lambda: False)

    def __bool__(self) -> bool:
        return bool(self._runners)

    def add(self, thread: BackgroundThread, where: Where) -> None:
        """Add ``thread``; start it at once if :meth:`start` was called in this process.

        Args:
            thread: An instance of a subclass of :class:`BackgroundThread`, of which there is none yet.
            where: Whether it runs in each process that serves requests, or in one of them at a time.

        Raises:
            ConfigurationError: An argument cannot be used, or threads are not enabled in this uWSGI.
        """
        hooks.check_threads()
        if not isinstance(thread, BackgroundThread):
            raise ConfigurationError(f"{shown(thread)} is not a BackgroundThread: pass an instance of a subclass")
        if where not in get_args(Where):
            raise ConfigurationError(f"where is {shown(where)}: pass one of {get_args(Where)}", setting="where")
        if isinstance(thread, QueueThread) and where == "one process":
            raise ConfigurationError(
                f"{type(thread).__name__} is a QueueThread, whose queue other processes cannot reach: use "
                'where="each process", or a @spool task instead',
                setting="where",
            )
        name = f"{type(thread).__module__}.{type(thread).__qualname__}"
        if name in self._runners:
            raise ConfigurationError(f"a thread of the class {name} was added already: add one thread of each class")
        self._runners[name] = runner = _Runner(thread, name, where)
        if self._started_here.get():
            runner.start()

    def start(self) -> None:
        """Start the threads in this process, unless they were started here already."""
        if not self._started_here.get():
            self._started_here.set(True)
            hooks.at_end(self.stop, first=True)
            for runner in self._runners.values():
                runner.start()

    def stop(self, deadline: clock.Deadline) -> None:
        """Ask the threads of this process to stop, and wait until they have, or until ``deadline``."""
        if self._started_here.get():
            for runner in self._runners.values():
                runner.ask_to_stop()
            for runner in self._runners.values():
                runner.join(deadline)
            self._started_here.set(False)


class _Runner:
    """Runs one background thread in this process: what :class:`BackgroundThread` describes, step by step."""

    def __init__(self, thread: BackgroundThread, name: str, where: Where) -> None:
        self._thread = thread
        self._name = name
        self._where = where
        self._active = False
        self._failed_in_a_row = 0
        self._ended = threading.Event()

    def start(self) -> None:
        # It may have run here before and still be marked as stopped from then.
        self._thread._stopped.clear()
        self._ended.clear()
        self._thread._runs_here.set(True)
        self._active = self._where == "each process"
        threading.Thread(target=self._run_when_allowed, name=f"spoolkit:{self._name}", daemon=True).start()

    def ask_to_stop(self) -> None:
        with self._logged("stop"):
            self._thread.stop()

    def join(self, deadline: clock.Deadline) -> None:
        # A thread that still waits for its lock file, which another process holds, has not begun: do not wait for it.
        # Not Thread.join(): if a signal interrupts it, it takes the thread for ended from then on (Python 3.11).
        while self._active and not self._ended.wait(min(deadline.left, clock.DEADLINE_CHECK)):
            if not deadline.left:
                text = "background thread %s did not stop within the grace period; it ends with process %d"
                log.error(text, self._name, os.getpid())
                break
        thread = self._thread
        thread._runs_here.set(False)
        if isinstance(thread, QueueThread):
            lost, in_handle = thread._unfinished()
            if lost:
                text = "background thread %s: items of its queue lost with the process: %d, of which %d in handle()"
                log.error(text, self._name, lost, in_handle)

    def _run_when_allowed(self) -> None:
        if self._where == "each process":
            self._run()
            return
        folder = os.path.join(locations.spool_dir(), "threads")
        with exclusive_lock(os.path.join(folder, f"{self._name}.lock"), self._thread.wait):
            self._run()

    def _run(self) -> None:
        self._active = True
        try:
            if self._thread._has_work():  # it may have been asked to stop before it began
                self._work()
        finally:
            self._active = False
            self._ended.set()

    def _work(self) -> None:
        thread = self._thread
        try:
            while not (ready := self._call(thread.startup, "startup")) and not thread.stopping:
                pass
            while ready and thread._has_work():
                self._call(thread._handle_once, "handle")
        finally:
            with self._logged("shutdown"), application.context():
                thread.shutdown()

    def _call(self, function: Callable[[], None], name: str) -> bool:
        """Call ``function``; pause after a failure. Returns whether it succeeded."""
        before = self._thread.failures
        with self._logged(name), application.context():
            function()
        if self._thread.failures == before:
            self._failed_in_a_row = 0
            return True
        self._failed_in_a_row += 1
        self._thread.wait(min(FIRST_PAUSE * 2.0 ** min(self._failed_in_a_row - 1, 60), MAX_PAUSE))
        return False

    @contextmanager
    def _logged(self, name: str) -> Iterator[None]:
        try:
            yield
        except BaseException:  # a sys.exit() in it would end the thread silently
            self._thread.failures += 1
            with suppress(Exception):
                log.exception("background thread %s: %s() raised an exception", self._name, name)
