"""The slots of spoolers: no job waits while a spooler is idle, and one job calls one spooler."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from spoolkit.job import new_id
from spoolkit.spooldir import slots
from spoolkit.system import process
from spoolkit.system.process import Target


class ModelSpooler:
    """What uWSGI's C code does: each signal that it counts is one more scan of the directory."""

    def __init__(self, slot: slots.Slot) -> None:
        self.slot = slot
        self.signals = 0
        self.scan: list[str] | None = None
        """The names that are left of a scan."""
        self.claimed: str | None = None
        self.running: str | None = None

    @property
    def sleeps(self) -> bool:
        return self.scan is None and not self.signals


class Spoolers(RuleBasedStateMachine):
    """Jobs and spoolers in any order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = tempfile.TemporaryDirectory()
        os.mkdir(f"{self.folder.name}/spoolers")
        self.spoolers: list[ModelSpooler] = []
        self.waiting: list[str] = []
        self.accepted: list[str] = []
        """Jobs that are accepted and for which no spooler has been called yet."""
        self.patch.setattr(slots, "Target", self._target)
        self.patch.setattr(process, "is_alive", lambda pid, identity: True)
        self.patch.setattr(slots, "_may_lose_descriptors", slots._may_lose_descriptors)

    def _target(self, pid: int, identity: bytes, keep: bool) -> Any:
        spooler = self.spoolers[pid - 1000]

        class Signals:
            pid = 0

            def signal(self, signum: int) -> None:
                spooler.signals += 1

            def close(self) -> None: ...

        return Signals()

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        for number in range(count):
            with self.patch.context() as patch:
                patch.setattr(slots, "_own", lambda number=number: (b"%d 5 boot\n" % (1000 + number)).ljust(64, b"\0"))
                self.spoolers.append(ModelSpooler(slots.Slot(self.folder.name)))

    @rule(count=st.integers(1, 3))
    def accept(self, count: int) -> None:
        for _ in range(count):
            self.waiting.append(new_id())
            self.accepted.append(self.waiting[-1])

    @rule()
    def enqueue(self) -> None:
        self.accept(1)
        self.call()

    @precondition(lambda self: self.accepted)
    @rule()
    def call(self) -> None:
        slots.call(self.folder.name, self.accepted.pop(0))

    @rule(number=st.integers(0, 3))
    def step(self, number: int) -> None:
        self._step(self.spoolers[number % len(self.spoolers)])

    @rule(number=st.integers(0, 3))
    def finish(self, number: int) -> None:
        spooler = self.spoolers[number % len(self.spoolers)]
        if spooler.running is not None:
            spooler.running = None
            spooler.signals += spooler.slot.end()

    def _step(self, spooler: ModelSpooler) -> bool:
        """One step of a spooler, but for the end of its job. Returns whether it took one."""
        if spooler.running is not None or spooler.sleeps:
            return False
        if spooler.claimed is not None:
            spooler.running, spooler.claimed = spooler.claimed, None
            if spooler.slot.start(spooler.running):
                slots.call(self.folder.name)
        elif spooler.scan is None:
            spooler.signals -= 1
            spooler.scan = list(self.waiting)
        elif not spooler.scan:
            spooler.scan = None
        elif (name := spooler.scan.pop(0)) in self.waiting:
            self.waiting.remove(name)
            spooler.claimed = name
        return True

    @rule()
    def no_job_waits_while_a_spooler_sleeps(self) -> None:
        while self.accepted:
            self.call()
        for _ in range(1000):
            stepped = [self._step(spooler) for spooler in self.spoolers]
            if not any(stepped):
                break
        else:
            pytest.fail("the spoolers wake each other for ever")
        asleep = [spooler for spooler in self.spoolers if spooler.running is None]
        assert not self.waiting or not asleep

    @invariant()
    def no_more_signals_than_events(self) -> None:
        assert all(spooler.signals >= 0 for spooler in self.spoolers)

    def teardown(self) -> None:
        self.no_job_waits_while_a_spooler_sleeps()
        for spooler in self.spoolers:
            spooler.slot.leave()
        self.patch.undo()
        self.folder.cleanup()


def test_no_job_waits_while_a_spooler_sleeps_whatever_the_order_of_events() -> None:
    run_state_machine_as_test(
        Spoolers,
        settings=settings(
            max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


SPOOLER = """
import signal, sys
from spoolkit.spooldir.slots import Slot
signal.signal(signal.SIGUSR1, lambda *_: print("woken", flush=True))
me = Slot(sys.argv[1])
print("up", flush=True)
for line in sys.stdin:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "spoolers").mkdir()
    return str(tmp_path)


@pytest.fixture
def spooler(folder: str) -> Iterator[subprocess.Popen[str]]:
    started = subprocess.Popen(
        [sys.executable, "-c", SPOOLER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert line_of(started) == "up"
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.fixture(autouse=True)
def caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is none that runs tasks, whatever other tests have made of it."""
    monkeypatch.setattr(slots, "_may_lose_descriptors", False)


def line_of(spooler: subprocess.Popen[str]) -> str:
    assert spooler.stdout is not None
    return spooler.stdout.readline().strip()


def test_the_file_of_the_slots_is_private(spooler: subprocess.Popen[str], folder: str) -> None:
    about = os.stat(f"{folder}/spoolers/slots")
    assert stat.S_IMODE(about.st_mode) == 0o600


def test_the_second_call_does_not_look_into_proc(
    spooler: subprocess.Popen[str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slots.call(folder) == spooler.pid
    assert line_of(spooler) == "woken"
    monkeypatch.setattr(process, "identity", lambda pid: pytest.fail("it looked"))
    assert slots.call(folder) == spooler.pid
    assert line_of(spooler) == "woken"


def test_a_process_that_runs_tasks_keeps_no_descriptor_of_another(
    spooler: subprocess.Popen[str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "_may_lose_descriptors", True)
    before = _pidfds()
    slots.call(folder)
    assert _pidfds() == before


def _pidfds() -> list[str]:
    return [link for fd in os.listdir("/proc/self/fd") if "pidfd" in (link := _link(fd))]


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_a_call_after_all_descriptors_were_closed_opens_the_slots_and_the_process_anew(
    spooler: subprocess.Popen[str], folder: str
) -> None:
    slots.call(folder)
    assert line_of(spooler) == "woken"
    # Two signals that come before the first is handled would be one.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        child = os.fork()
        if not child:
            try:
                slots.call(folder)
                signal.sigwait({signal.SIGUSR2})
                os.closerange(10, os.sysconf("SC_OPEN_MAX"))
                taken = [os.open(os.devnull, os.O_RDWR) for _ in range(100)]
                os._exit(0 if slots.call(folder) == spooler.pid and taken else 1)
            finally:
                os._exit(2)
        assert line_of(spooler) == "woken"
        os.kill(child, signal.SIGUSR2)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert line_of(spooler) == "woken"


def test_a_forked_process_uses_no_descriptor_of_its_parent(spooler: subprocess.Popen[str], folder: str) -> None:
    slots.call(folder)
    parents = slots._opened.get()[folder]
    child = os.fork()
    if not child:
        try:
            slots.call(folder)
            os._exit(int(slots._opened.get()[folder] is parents))
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize("forbidden", ["os.pidfd_open", "signal.pidfd_send_signal"])
def test_without_descriptors_of_processes_the_start_time_is_read_each_time(
    spooler: subprocess.Popen[str], folder: str, monkeypatch: pytest.MonkeyPatch, number: int, forbidden: str
) -> None:
    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(forbidden, refused)
    looked: list[int] = []
    identity = process.identity
    monkeypatch.setattr(process, "identity", lambda pid: looked.append(pid) or identity(pid))
    for _ in range(2):
        assert slots.call(folder) == spooler.pid
        assert line_of(spooler) == "woken"
    assert looked.count(spooler.pid) >= 2


def test_a_process_is_not_signalled_through_a_descriptor_that_is_another_one_by_now(
    spooler: subprocess.Popen[str],
) -> None:
    target = Target(spooler.pid, process.identity(spooler.pid), keep=True)
    with subprocess.Popen(["sleep", "60"]) as innocent:
        fd = target._fd
        assert fd is not None
        os.close(fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), fd)
        target.signal(signal.SIGUSR1)
        assert line_of(spooler) == "woken"
        assert innocent.poll() is None
        innocent.kill()
    target.close()
    os.close(fd)


def test_a_dead_process_is_not_signalled(spooler: subprocess.Popen[str]) -> None:
    known = process.identity(spooler.pid)
    targets = [Target(spooler.pid, known, keep=keep) for keep in (True, False)]
    spooler.kill()
    spooler.wait()
    for target in targets:
        with pytest.raises(ProcessLookupError):
            target.signal(signal.SIGUSR1)
    with pytest.raises(ProcessLookupError):
        Target(spooler.pid, known, keep=True)


def test_the_slot_of_a_dead_spooler_is_freed_and_taken_by_the_next(spooler: subprocess.Popen[str], folder: str) -> None:
    size = os.path.getsize(f"{folder}/spoolers/slots")
    spooler.kill()
    spooler.wait()
    with pytest.raises(LookupError):
        slots.call(folder)
    slot = slots.Slot(folder)
    assert os.path.getsize(f"{folder}/spoolers/slots") == size
    slot.leave()


def test_a_lock_that_a_stopped_process_holds_delays_a_call_by_milliseconds_only(
    spooler: subprocess.Popen[str], folder: str
) -> None:
    with open(f"{folder}/spoolers/slots", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            slots.call(folder)
    assert slots.call(folder) == spooler.pid


def test_a_call_for_a_spooler_that_has_its_slot_only_by_file_signals_those_with_slots(
    spooler: subprocess.Popen[str], folder: str
) -> None:
    """A spooler of the version before, beside a newer one, finds jobs by its own scans."""
    with open(f"{folder}/spoolers/{os.getpid()}", "wb") as old:
        old.write(b"00" + process.own())  # SIGUSR1 would end this process
    assert slots.call(folder) == spooler.pid
