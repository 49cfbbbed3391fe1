"""What has an attempt taken of this process: how much processor time, and how much memory?

It is exact in a spooler, which runs one job at a time. A thread of the pool shares its process with others: of it, only
the processor time of the thread itself is known.
"""

from __future__ import annotations

import os
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from time import monotonic, process_time, thread_time

from spoolkit.job import Bill
from spoolkit.system import process
from spoolkit.system.process import PerProcess

SHORT = 0.0005
"""Seconds in which an attempt can neither run another program nor take many megabytes: then neither is asked for."""

TOLERANCE = 1024 * 1024
"""Bytes by which the mark of the most memory may rise before it is set back: the kernel counts about that exactly."""

MAX_AGE = 10.0
"""Seconds after which the mark is set back in any case: a task may have given memory back that an earlier one took."""


class ThreadMeter:
    """Measures one attempt in this thread, which shares its process."""

    def __init__(self) -> None:
        self._cpu = thread_time()

    def bill(self) -> Bill:
        """Return what the attempt has taken until now."""
        return Bill(thread_time() - self._cpu)


class ProcessMeter:
    """Measures one attempt after the other in this process, which has no other work meanwhile."""

    def __init__(self) -> None:
        self._children = _children()
        self._cpu = self._began = self._lowered = 0.0
        self._can_lower = True
        #: The mark, in bytes.
        self._mark = 0
        self._lower_mark()

    def begin(self) -> None:
        """Start to measure an attempt."""
        self._began = monotonic()
        self._cpu = process_time()

    def bill(self) -> Bill:
        """Return what the attempt has taken until now, when it ends."""
        cpu, now = process_time() - self._cpu, monotonic()
        if now - self._began < SHORT:
            return Bill(cpu, self._mark if self._can_lower else None)
        # Children that ended between two attempts are on the bill of the later one: nothing of ours has any.
        children, self._children = self._children, _children()
        cpu += self._children - children
        mark, before = getrusage(RUSAGE_SELF).ru_maxrss * 1024, self._mark
        if not self._can_lower:
            self._mark = mark
            # Unless it has risen, an earlier attempt has set it, or the import of the application.
            return Bill(cpu, mark if mark > before else None)
        if mark > before + TOLERANCE or now - self._lowered > MAX_AGE:
            self._lower_mark()
        return Bill(cpu, mark)

    def _lower_mark(self) -> None:
        """Set the kernel's mark of the most memory that this process had back to what it has now.

        That takes three system calls, more than all the rest here. So it is not done for each attempt: one that stays
        below the mark is said to have reached it.
        """
        try:
            fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"5")
            finally:
                os.close(fd)
            is_lowered = True
        except OSError:  # a process that has changed its user, as uWSGI does, may not do that
            is_lowered = False
        self._lowered = monotonic()
        self._mark = getrusage(RUSAGE_SELF).ru_maxrss * 1024
        # A program that was started by a larger one has the mark of that one as well, for ever.
        self._can_lower = is_lowered and self._mark < process.resident_size() + 4 * TOLERANCE


def _children() -> float:
    """The processor time of all child processes that have ended."""
    usage = getrusage(RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


_meter = PerProcess(ProcessMeter)


def start(*, owns_process: bool) -> ThreadMeter | ProcessMeter:
    """Start to measure an attempt.

    Args:
        owns_process: Whether the attempt has this process for itself.

    Returns:
        What measures it.
    """
    if not owns_process:
        return ThreadMeter()
    meter = _meter.get()
    meter.begin()
    return meter
