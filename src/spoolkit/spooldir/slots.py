"""Which spooler is called for a new job? The file ``spoolers/slots`` holds what is needed to decide that, and is cheap.

Each spooler has a slot with two cells, its pid and its identity.

- *State* is written by the spooler alone: a number that grows with each change, even while it waits for a signal, odd
  while it runs a job.
- *Told* is written by callers alone, under a lock among themselves: the state in which they told the spooler something.
  If that was an even one, it is called, for the job that the cell names (or for several jobs, then it names none). If
  it was an odd one, it scans the directory once more after its job, because another one was enqueued meanwhile.

So nobody waits for a spooler, and a spooler waits for nobody. Either writes its own cell first, and then reads the
other's. Both writes take the lock of the inode in the kernel, one after the other, so whoever writes second sees what
the first has written: the spooler that it was told something, or the caller that the state has changed, and then it
tells again. At worst both see it, and one spooler more looks into the directory.

A new job calls one spooler. A called spooler may start another job than the one that it was called for, because it
takes the first that it finds. Then it calls the next spooler on behalf of that job: so no job waits behind a long one
while a spooler is idle.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import threading
import time

from spoolkit.system import clock, files, process
from spoolkit.system.process import PerProcess, Target

NAME = "slots"
"""The name of the file in the folder of the spoolers."""

MOST = 512
"""How many spoolers have a slot. The jobs that any others run are those that they find in their own scans."""

PATIENCE = 0.002
"""Seconds for which a process that enqueues a job waits for the lock. Only a stopped process holds it for longer."""

SPOOLER_PATIENCE = 0.2
"""Seconds for which a spooler waits for the lock when it takes its slot, or gives it back."""

_TRIES = 100
"""How often a caller tells spoolers whose states change while it does so."""

_CELLS = 8
"""Bytes of the cells: the state, the state that was told, and the end of the id of the job for which that was."""

_OWNER = 64
"""Bytes of a pid with an identity."""

_SLOT = _CELLS + _OWNER
"""Bytes of a slot. The file is as long as the slots that were ever taken, so that one read gets all of them."""

# The states are bytes, so that none is read half. They begin again after the last one: then an old value in the other
# cell may seem to be new, and a spooler looks into the directory once too often.
_FREE = b"\0"
_FIRST, _LAST = 2, 255
_EVEN, _ODD = 0, 1
_IDLE = bytes(range(_FIRST, _LAST, 2))
_RUNNING = bytes(range(_FIRST + 1, _LAST + 1, 2))
_NOT_IDLE = _FREE + _RUNNING

_may_lose_descriptors = False
"""Whether this process, or one that it was forked from, runs tasks, which may close any descriptor."""


class Slot:
    """The slot of this process as a spooler. If it has none, it takes one as soon as that is possible.

    Args:
        spool_dir: The spool directory.
    """

    def __init__(self, spool_dir: str) -> None:
        global _may_lose_descriptors
        _may_lose_descriptors = True
        self._spool_dir = spool_dir
        self._owner = _own()
        self._slots: _Slots | None = None
        self._index = 0
        self._state = _FIRST
        with contextlib.suppress(OSError):
            self._change(_EVEN)

    def start(self, id: str) -> bool:
        """Say that this process runs a job from now on.

        Args:
            id: The job, as its file is called without the prefix; that of another library has another name.

        Returns:
            Whether another job relies on this process, so that another spooler must be called for it.

        Raises:
            TimeoutError: There is no slot yet, and a process that is stopped holds the lock.
            OSError: The slot cannot be changed. Processes that enqueue jobs cannot use the file either.
        """
        return self._change(_ODD) not in (None, _end_of(id))

    def end(self) -> bool:
        """Say that this process runs no job any more.

        Returns:
            Whether the directory must be scanned again, because a job was enqueued meanwhile.

        Raises:
            TimeoutError: As :meth:`start`.
            OSError: As :meth:`start`.
        """
        return self._change(_EVEN) is not None

    def leave(self) -> None:
        """Give the slot back. Never raises ``OSError``."""
        with contextlib.suppress(OSError):
            if self._slots is not None:
                _open(self._spool_dir, create=False).free(self._index, self._owner, SPOOLER_PATIENCE)
        if (slots := _opened.get().pop(self._spool_dir, None)) is not None:
            slots.close()

    def _change(self, parity: int) -> bytes | None:
        """Go on to the next state of this parity.

        Returns:
            For which job callers have told this process something, as :func:`_end_of` has it; ``None``: nothing.
        """
        slots = _open(self._spool_dir, create=True)
        if slots is not self._slots:
            self._index = slots.take(self._owner, self._state)
            self._slots = slots
        before = self._state
        state = before + (1 if before % 2 != parity else 2)
        if state > _LAST:
            state = _FIRST + parity
        slots.write(self._index, bytes((state,)))
        self._state = state
        slot = slots.slot(self._index)
        # A process in another container does not see that this one is alive, and may have given its slot away.
        if slot[_CELLS:] != self._owner:
            self._index = slots.take(self._owner, state)
            return None
        # If it was told in the new state already, that may hide what it was told in the one before.
        return slot[2:_CELLS] if slot[1] in (before, state) else None


def running(spool_dir: str) -> list[int]:
    """Return the pids of the living spoolers of ``spool_dir`` that run a job by their slots. Raises ``OSError``."""
    content = _open(spool_dir, create=False).read()
    slots = (content[start : start + _SLOT] for start in range(0, len(content), _SLOT))
    owners = (_process_of(slot[_CELLS:]) for slot in slots if slot[0] in _RUNNING)
    return [pid for pid, identity in owners if process.is_alive(pid, identity)]


def call(spool_dir: str, id: str | None = None) -> int | None:
    """Have a new job found by one idle spooler; if all of them run jobs, by each of them after its job.

    Args:
        spool_dir: The spool directory.
        id: The id of the job; ``None``: unknown.

    Returns:
        The pid of the spooler that was called; ``None`` if all run jobs.

    Raises:
        LookupError: No spooler has a slot.
        OSError: The slots cannot be read or changed, or are locked by a process that is stopped.
    """
    slots = _open(spool_dir, create=False)
    while True:
        # First without the lock: while jobs come faster than they end, there is nothing to do.
        content = slots.read()
        states = content[::_SLOT]
        if not states.strip(_FREE):
            raise LookupError(f"no spooler of {spool_dir} has a slot")
        if states == content[1::_SLOT] and not states.translate(None, _NOT_IDLE):
            return None
        slots.acquire(PATIENCE)
        try:
            chosen = _tell(slots, id)
        finally:
            slots.release()
        if chosen is None:
            return None
        try:
            return slots.signal(*chosen)
        except ProcessLookupError:
            slots.free(*chosen, PATIENCE)


def _tell(slots: _Slots, id: str | None) -> tuple[int, bytes] | None:
    """Return the slot and the owner of the spooler that must get a signal; if all run jobs, have them scan again."""
    for _ in range(_TRIES):
        content = slots.read()
        states, told = content[::_SLOT], content[1::_SLOT]
        index = called = -1
        for at, (state, known) in enumerate(zip(states, told, strict=False)):
            if state in _IDLE:
                if state != known:
                    index = at
                    break
                called = at
        if index < 0 <= called:
            # All idle ones are called for other jobs: this one may have scanned the directory already.
            index, id = called, None
        if index >= 0:
            slots.tell(index, states[index], id)
            slot = content[index * _SLOT : (index + 1) * _SLOT]
            if slots.slot(index)[:1] == slot[:1]:
                return index, slot[_CELLS:]
        else:
            for at, (state, known) in enumerate(zip(states, told, strict=False)):
                if state != known:
                    slots.tell(at, state, None)
            if slots.read()[::_SLOT] == states:
                return None
    raise TimeoutError(errno.ETIMEDOUT, "the spoolers change their states faster than they can be told anything")


def _end_of(id: str | None) -> bytes:
    """Return what stands for a job in the cells."""
    return (id or "")[2 - _CELLS :].encode("ascii", "replace").ljust(_CELLS - 2, b"\0")


def _own() -> bytes:
    """Return the pid and the identity of this process, as they are in a slot."""
    return (b"%d%s" % (os.getpid(), process.own())).ljust(_OWNER, b"\0")


def _process_of(owner: bytes) -> tuple[int, bytes]:
    """Return the pid and the identity; the pid is 0 if there is none."""
    pid, space, identity = owner.rstrip(b"\0").partition(b" ")
    return int(pid) if pid.isdigit() else 0, space + identity


class _Slots:
    """The file of one spool directory, open in this process."""

    def __init__(self, path: str, create: bool) -> None:
        fd = files.open_or_create(path) if create else files.open_regular(path, os.O_RDWR)
        try:
            self._fd = process.keep_open(fd)
        finally:
            os.close(fd)
        self._descriptor = process.KeptDescriptor(self._fd)
        self._is_in_place = clock.Sampled(lambda: os.fstat(self._fd).st_nlink > 0)
        self._mutex = threading.Lock()
        self._targets: dict[int, tuple[bytes, Target]] = {}

    def is_usable(self) -> bool:
        """Whether the descriptor is still that of the file, and the file was in its directory a moment ago."""
        return self._descriptor.is_intact() and self._is_in_place()

    def close(self) -> None:
        """Close what is open. If the code of a task has closed the file, the other descriptors may be lost as well."""
        if self._descriptor.is_intact():
            os.close(self._fd)
            for _, target in self._targets.values():
                target.close()

    def acquire(self, patience: float) -> None:
        """Lock the slots. Raises ``TimeoutError`` after ``patience`` seconds."""
        # The mutex is for the threads of this process, which share the lock on the file.
        if not (self._mutex.acquire(False) or self._mutex.acquire(timeout=patience)):
            raise TimeoutError(errno.ETIMEDOUT, "another thread holds the lock on the slots")
        try:
            self._lock_file(patience)
        except BaseException:
            self._mutex.release()
            raise

    def _lock_file(self, patience: float) -> None:
        until = None
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                now = time.monotonic()
                until = until or now + patience
                if now >= until:
                    reason = "another process, which may be stopped, holds the lock on the slots"
                    raise TimeoutError(errno.ETIMEDOUT, reason) from None
            time.sleep(PATIENCE / 20)

    def release(self) -> None:
        """Unlock the slots."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def read(self) -> bytes:
        """Return all slots."""
        return os.pread(self._fd, MOST * _SLOT, 0)

    def slot(self, index: int) -> bytes:
        """Return a slot: its cells, and the pid and the identity of the process to which it belongs."""
        return os.pread(self._fd, _SLOT, index * _SLOT)

    def write(self, index: int, data: bytes) -> None:
        """Replace the beginning of a slot."""
        os.pwrite(self._fd, data, index * _SLOT)

    def tell(self, index: int, state: int, id: str | None) -> None:
        """Tell a spooler in its state that it is called for a job, or that it must scan again. Only under the lock."""
        os.pwrite(self._fd, bytes((state,)) + _end_of(id), index * _SLOT + 1)

    def take(self, owner: bytes, state: int) -> int:
        """Give a process its slot, or else one that is free or that of a dead process.

        Raises:
            TimeoutError: A process that is stopped holds the lock.
            OSError: There is none.
        """
        self.acquire(SPOOLER_PATIENCE)
        try:
            content = self.read()
            taken = [content[start : start + _SLOT] for start in range(0, len(content), _SLOT)]
            owners = [slot[_CELLS:] for slot in taken]
            if owner in owners:
                # With what it was told: the task of the job that runs may have closed the file.
                return owners.index(owner)
            left = (i for i, slot in enumerate(taken) if not process.is_alive(*_process_of(slot[_CELLS:])))
            if (index := next(left, len(taken))) == MOST:
                raise OSError(errno.ENOSPC, "all slots belong to living spoolers")
            self.write(index, bytes((state,)).ljust(_CELLS, b"\0") + owner)
            return index
        finally:
            self.release()

    def free(self, index: int, owner: bytes, patience: float) -> None:
        """Take a slot away from a process, if it is still that one's. Raises ``OSError``."""
        self.acquire(patience)
        try:
            if self.slot(index)[_CELLS:] == owner:
                self.write(index, bytes(_SLOT))
        finally:
            self.release()

    def signal(self, index: int, owner: bytes) -> int:
        """Have a spooler scan its directory now, and return its pid. Raises ``ProcessLookupError`` if it is dead."""
        known, target = self._targets.get(index, (b"", None))
        if target is None or known != owner:
            if target is not None:
                target.close()
            pid, identity = _process_of(owner)
            if not pid:
                raise ProcessLookupError(errno.ESRCH, "the slot is in use, but belongs to no process")
            target = Target(pid, identity, keep=not _may_lose_descriptors)
            self._targets[index] = owner, target
        target.signal(signal.SIGUSR1)
        return target.pid


_opened = PerProcess[dict[str, _Slots]](dict)


def _open(spool_dir: str, *, create: bool) -> _Slots:
    """Return the slots of a spool directory. Raises ``OSError``."""
    opened = _opened.get()
    slots = opened.get(spool_dir)
    if slots is not None and slots.is_usable():
        return slots
    if slots is not None and opened.pop(spool_dir, None) is slots:
        slots.close()
    new = _Slots(os.path.join(spool_dir, files.SPOOLERS, NAME), create)
    if (slots := opened.setdefault(spool_dir, new)) is not new:  # another thread was faster
        new.close()
    return slots
