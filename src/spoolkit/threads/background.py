"""Threads that live as long as the process that serves: for work that is no answer to any call."""

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
from spoolkit.threads.filelock import only_one

T = TypeVar("T")
Where = Literal["each process", "one process"]

PAUSE = 1.0
"""Seconds before ``handle`` is called again after it raised; doubled each time in a row."""

LONGEST_PAUSE = 60.0


class BackgroundThread:
    """Work that goes on beside the requests: ``startup()`` once, ``handle()`` again and again, ``shutdown()`` once.

    Subclass it and hand an instance to :meth:`SpoolKit.add_thread`. Each of the three runs in the thread, in an
    application context of its own. What ``handle`` raises is logged and counted in ``failures``, and it is called again
    after a pause, of 1 second at first, doubled up to a minute. ``shutdown`` runs whatever was before.
    """

    failures: int
    """How often ``startup`` or ``handle`` raised, in this process."""

    _stopped: threading.Event
    _runs_in: int | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("startup", "handle", "shutdown"):
            kind = callables.kind_of_lazy(vars(cls).get(name))
            if kind is not None:
                raise ConfigurationError(
                    f"{cls.__qualname__}.{name} is {kind}, whose body nothing would run: write it with def, without "
                    "yield, and call asyncio.run() in it where it needs a coroutine",
                    setting=name,
                )

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Not __init__(): a subclass's own need not call it.
        self = super().__new__(cls)
        self.failures = 0
        self._stopped = threading.Event()
        self._runs_in = None
        return self

    def startup(self) -> None:
        """Called before all else; if it raises, again after a pause."""

    def handle(self) -> None:
        """One turn of the work. Where there is nothing to do, :meth:`wait` in it, or it is called again at once."""
        raise NotImplementedError(f"{type(self).__name__} needs a handle()")

    def shutdown(self) -> None:
        """Called after all else."""

    def stop(self) -> None:
        """Ask the thread to go; it does when ``handle`` returns. Whoever overrides this calls it as well."""
        self._stopped.set()

    @property
    def stopping(self) -> bool:
        """Whether the thread was asked to go."""
        return self._stopped.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep, but not beyond the moment when the thread is asked to go; whether it was."""
        return self._stopped.wait(seconds)

    def _has_more(self) -> bool:
        return not self.stopping

    def _turn(self) -> None:
        self.handle()


class QueueThread(BackgroundThread, Generic[T]):
    """A thread that does something with each item that is ``put`` into its queue, one after the other.

    The queue is the process's own and holds ``size`` items. When the process is asked to go, what is in it gets
    ``SPOOLKIT_THREAD_GRACE`` seconds; what is left is gone, and said to be. An item at which ``handle`` raises is not
    tried again: for that, and for items that must not be lost, there are ``@thread(retries=)`` and ``@spool``.
    """

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
        """Have the thread handle ``item``, which is handed over as it is; it wakes at once.

        Raises :class:`QueueFull` where ``size`` items wait, and :class:`ConfigurationError` where the thread does not
        run in this process.
        """
        if self._runs_in != os.getpid():
            raise ConfigurationError(
                f"{type(self).__name__} does not run in this process: add it with kit.add_thread(), which starts it in "
                "processes that serve; in tests, call kit.start_threads()"
            )
        with self._changed:
            if len(self._items) >= self.size:
                raise QueueFull(f"{self.size} items wait for {type(self).__name__} already", limit=self.size)
            self._items.append(item)
            self._changed.notify()

    def handle(self, item: T) -> None:  # type: ignore[override] # what a turn handles is this class's point
        """Deal with one item."""
        raise NotImplementedError(f"{type(self).__name__} needs a handle(item)")

    def stop(self) -> None:
        """Ask the thread to go, once it has handled what is in the queue."""
        super().stop()
        with self._changed:
            self._changed.notify()

    def __len__(self) -> int:
        return len(self._items)

    def _has_more(self) -> bool:
        return bool(self._items) or not self.stopping

    def _turn(self) -> None:
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
        """How many items were accepted and not handled to the end, and how many of those are in :meth:`handle`."""
        with self._changed:
            return len(self._items) + self._handling, int(self._handling)


class Threads:
    """The background threads of an application, and their lives in this process."""

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}
        self._started_in: int | None = None

    def __bool__(self) -> bool:
        return bool(self._lives)

    def add(self, thread: BackgroundThread, where: Where) -> None:
        """Have ``thread`` live in each process that serves, or in one of them. Raises :class:`ConfigurationError`."""
        hooks.check_threads()
        if not isinstance(thread, BackgroundThread):
            raise ConfigurationError(f"{shown(thread)} is no BackgroundThread: give an instance of a subclass")
        if where not in get_args(Where):
            raise ConfigurationError(f"where is {shown(where)}: give one of {get_args(Where)}", setting="where")
        if isinstance(thread, QueueThread) and where == "one process":
            raise ConfigurationError(
                f'{type(thread).__name__} reads a queue in memory, which other processes cannot put into: where="each '
                'process", or a @spool task',
                setting="where",
            )
        name = f"{type(thread).__module__}.{type(thread).__qualname__}"
        if name in self._lives:
            raise ConfigurationError(f"there is a {name} already: one thread of each class")
        self._lives[name] = life = _Life(thread, name, where)
        if self._started_in == os.getpid():
            life.start()

    def start(self) -> None:
        """Start them in this process; those that run are left alone."""
        if self._started_in != os.getpid():
            self._started_in = os.getpid()
            hooks.at_end(self.end, first=True)
            for life in self._lives.values():
                life.start()

    def end(self, deadline: clock.Deadline) -> None:
        """Ask them to go and wait until they are gone, up to ``deadline``."""
        if self._started_in == os.getpid():
            for life in self._lives.values():
                life.ask_to_stop()
            for life in self._lives.values():
                life.join(deadline)
            self._started_in = None


class _Life:
    """One background thread in one process."""

    def __init__(self, thread: BackgroundThread, name: str, where: Where) -> None:
        self._subject = thread
        self._name = name
        self._where = where
        self._active = False
        self._failed_in_a_row = 0
        self._ended = threading.Event()

    def start(self) -> None:
        # It may have lived here before: whoever was asked to go then is not asked now.
        self._subject._stopped.clear()
        self._ended.clear()
        self._subject._runs_in = os.getpid()
        self._active = self._where == "each process"
        threading.Thread(target=self._live, name=f"spoolkit:{self._name}", daemon=True).start()

    def ask_to_stop(self) -> None:
        with self._logged("stop"):
            self._subject.stop()

    def join(self, deadline: clock.Deadline) -> None:
        # One that only waits for its turn among the processes has nothing to end.
        # Not by Thread.join(): interrupted by a signal, it takes the thread for dead from then on (Python 3.11).
        while self._active and not self._ended.wait(min(deadline.left, clock.LOOK)):
            if not deadline.left:
                log.error("%s did not end in time", self._name)
                break
        subject = self._subject
        subject._runs_in = None
        if isinstance(subject, QueueThread):
            lost, handled = subject._unfinished()
            if lost:
                log.error("%s: items that are lost: %d, of which %d in handle()", self._name, lost, handled)

    def _live(self) -> None:
        if self._where == "each process":
            self._run()
            return
        folder = os.path.join(locations.directory(), "threads")
        with only_one(os.path.join(folder, f"{self._name}.lock"), self._subject.wait):
            self._run()

    def _run(self) -> None:
        self._active = True
        try:
            if self._subject._has_more():  # not asked to go before it began
                self._work()
        finally:
            self._active = False
            self._ended.set()

    def _work(self) -> None:
        subject = self._subject
        try:
            while not (ready := self._call(subject.startup, "startup")) and not subject.stopping:
                pass
            while ready and subject._has_more():
                self._call(subject._turn, "handle")
        finally:
            with self._logged("shutdown"), application.context():
                subject.shutdown()

    def _call(self, function: Callable[[], None], what: str) -> bool:
        """Call it; whether it returned. If not, after a pause."""
        before = self._subject.failures
        with self._logged(what), application.context():
            function()
        if self._subject.failures == before:
            self._failed_in_a_row = 0
            return True
        self._failed_in_a_row += 1
        self._subject.wait(min(PAUSE * 2.0 ** min(self._failed_in_a_row - 1, 60), LONGEST_PAUSE))
        return False

    @contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        try:
            yield
        except BaseException:  # sys.exit() in it would end the thread without a word
            self._subject.failures += 1
            with suppress(Exception):
                log.exception("%s: %s() raised", self._name, what)
