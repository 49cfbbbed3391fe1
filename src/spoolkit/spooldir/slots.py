"""Which spooler is called for a new job? The file ``spoolers/slots`` holds what is needed to decide that, and is cheap.

Each spooler has a slot: a word that says what it does, and its pid and identity. All changes are made under a lock on
the file. A word is one of these:

- idle: the spooler waits for a signal;
- called: it was idle, and got a signal for a job, which the word names; or for several jobs, then it names none;
- running: it runs a job;
- again: the same, and it scans the directory once more after that job, because another one was enqueued meanwhile.

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
"""Seconds for which a spooler waits for the lock."""

_WORD = 8
"""Bytes of a word: the state, and the end of the id of the job that the spooler was called for."""

_OWNER = 64
"""Bytes of a pid with an identity."""

_SLOT = _WORD + _OWNER
"""Bytes of a slot. The file is as long as the slots that were ever taken, so that one read gets all of them."""

# Capitals: they do not appear in ids.
_FREE, _IDLE, _CALLED, _RUNNING, _AGAIN = b"\0", b"I", b"C", b"R", b"A"

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
        self._index: int | None = None
        with contextlib.suppress(OSError):
            self._set(_IDLE)

    def start(self, id: str) -> bool:
        """Say that this process runs a job from now on.

        Args:
            id: The job, as its file is called without the prefix; that of another library has another name.

        Returns:
            Whether another job relies on this process, so that another spooler must be called for it.

        Raises:
            TimeoutError: The slots are locked by a process that is stopped.
            OSError: The slots cannot be changed. Processes that enqueue jobs cannot use them either.
        """
        before = self._set(_RUNNING)
        return before[:1] == _CALLED and before != _called(id)

    def end(self) -> bool:
        """Say that this process runs no job any more.

        Returns:
            Whether the directory must be scanned again, because a job was enqueued meanwhile.

        Raises:
            TimeoutError: As :meth:`start`.
            OSError: As :meth:`start`.
        """
        return self._set(_IDLE)[:1] == _AGAIN

    def leave(self) -> None:
        """Give the slot back. Never raises ``OSError``."""
        with contextlib.suppress(OSError):
            if self._index is not None:
                self._set(_FREE)
        if (slots := _opened.get().pop(self._spool_dir, None)) is not None:
            slots.close()

    def _set(self, word: bytes) -> bytes:
        """Replace the word of this process, and return the one before."""
        slots = _open(self._spool_dir, create=True)
        slots.acquire(SPOOLER_PATIENCE)
        try:
            index = self._index or 0
            before = slots.slot(index)
            # A process in another container does not see that this one is alive, and may have freed the slot.
            if before[_WORD:] != self._owner:
                index, before = slots.take(self._owner), _padded(_IDLE)
            slots.write(index, word)
            self._index = index
        finally:
            slots.release()
        return before[:_WORD]


def running(spool_dir: str) -> list[int]:
    """Return the pids of the living spoolers of ``spool_dir`` that run a job by their slots. Raises ``OSError``."""
    content = _open(spool_dir, create=False).read()
    slots = (content[start : start + _SLOT] for start in range(0, len(content), _SLOT))
    owners = (_process_of(slot[_WORD:]) for slot in slots if slot[:1] in (_RUNNING, _AGAIN))
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
        taken = slots.read()[::_SLOT].strip(_FREE)
        if not taken:
            raise LookupError(f"no spooler of {spool_dir} has a slot")
        if not taken.strip(_FREE + _AGAIN):
            return None
        slots.acquire(PATIENCE)
        try:
            chosen = _choose(slots, id)
        finally:
            slots.release()
        if chosen is None:
            return None
        index, owner = chosen
        try:
            return slots.signal(index, owner)
        except ProcessLookupError:
            slots.acquire(PATIENCE)
            try:
                if slots.slot(index)[_WORD:] == owner:
                    slots.write(index, _FREE)
            finally:
                slots.release()


def _choose(slots: _Slots, id: str | None) -> tuple[int, bytes] | None:
    """Return the slot and the owner of the spooler that must get a signal; if all run jobs, have them scan again."""
    content = slots.read()
    states = content[::_SLOT]
    if (index := states.find(_IDLE)) >= 0:
        slots.write(index, _called(id))
    elif (index := states.find(_CALLED)) >= 0:
        # Called for another job: it may have scanned the directory for that one already.
        slots.write(index, _CALLED)
    else:
        again = bytearray(content)
        again[::_SLOT] = states.replace(_RUNNING, _AGAIN)
        slots.write(0, bytes(again))
        return None
    return index, content[index * _SLOT + _WORD : (index + 1) * _SLOT]


def _called(id: str | None) -> bytes:
    """Return the word of a spooler that is called for the job ``id``."""
    return _padded(_CALLED + (id or "")[1 - _WORD :].encode("ascii", "replace").lower())


def _padded(word: bytes) -> bytes:
    return word.ljust(_WORD, b"\0")


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
        """Return a slot: its word, and the pid and the identity of the process to which it belongs."""
        return os.pread(self._fd, _SLOT, index * _SLOT)

    def write(self, index: int, data: bytes) -> None:
        """Replace the word of a slot, or as many slots as ``data`` holds."""
        os.pwrite(self._fd, _padded(data), index * _SLOT)

    def take(self, owner: bytes) -> int:
        """Give a process a slot that is free, or that of a dead process. Raises ``OSError`` if there is none."""
        content = self.read()
        for index in range(MOST):
            slot = content[index * _SLOT : (index + 1) * _SLOT]
            before = slot[_WORD:]
            if slot[:1] in (b"", _FREE) or before == owner or not process.is_alive(*_process_of(before)):
                self.write(index, _padded(_IDLE) + owner)
                return index
        raise OSError(errno.ENOSPC, "all slots belong to living spoolers")

    def signal(self, index: int, owner: bytes) -> int:
        """Have a spooler scan its directory now, and return its pid. Raises ``ProcessLookupError`` if it is dead."""
        known, target = self._targets.get(index, (b"", None))
        if target is None or known != owner:
            if target is not None:
                target.close()
            target = Target(*_process_of(owner), keep=not _may_lose_descriptors)
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
