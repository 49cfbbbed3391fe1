"""The slots of spoolers: no job waits while a spooler is idle, and one job calls one spooler."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from life_process import DEADLINE, wait_child

from spoolkit.job import new_id
from spoolkit.spooldir import slots
from spoolkit.system import process
from spoolkit.system.process import Target


class Killed(BaseException):
    """Raised in an actor that is killed: from then on it changes nothing."""


class Actor:
    """A caller, or a spooler: its code runs in a thread, one step at a time. A step ends before the next system call.

    Args:
        world: What all actors share.
        life: What the actor does.
    """

    def __init__(self, world: World, life: Callable[[Actor], None]) -> None:
        self.world = world
        self.slots: slots._Slots | None = None
        self.signals = 0
        self.job: str | None = None
        self.runs = False
        """Whether it is in the middle of its job, which takes as long as it likes."""
        self.done = False
        self.killed = False
        self.may_go_on: Callable[[], bool] = lambda: True
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._life = life
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()

    def _live(self) -> None:
        _acting.actor = self
        try:
            self.pause()
            self._life(self)
        except Killed:
            pass
        except BaseException as error:
            self.world.errors.append(error)
        self.done = True
        self._stopped.release()

    def pause(self, may_go_on: Callable[[], bool] = lambda: True) -> None:
        self.may_go_on = may_go_on
        self._stopped.release()
        if not self._go.acquire(timeout=DEADLINE):
            raise TimeoutError("the test lets it stand still")
        if self.killed:
            raise Killed

    @property
    def can_step(self) -> bool:
        return not self.done and self.may_go_on()

    @property
    def sleeps(self) -> bool:
        return not self.runs and not self.signals

    def wait(self) -> None:
        """Wait until it pauses."""
        assert self._stopped.acquire(timeout=DEADLINE), "it neither pauses nor ends"

    def step(self) -> None:
        self._go.release()
        self.wait()

    def kill(self) -> None:
        self.killed = True
        if self.world.lock is self:
            self.world.lock = None
        if not self.done:
            self.step()
        self.thread.join(60)


_acting = threading.local()


class SteppedSlots(slots._Slots):
    """Pauses before each system call. The lock is one of the model: the kernel's own has tests of its own."""

    def acquire(self, patience: float) -> None:
        me: Actor = _acting.actor
        me.pause(lambda: me.world.lock is None)
        me.world.lock = me

    def release(self) -> None:
        me: Actor = _acting.actor
        if not me.killed:
            me.pause()
            me.world.lock = None

    def read(self) -> bytes:
        _acting.actor.pause()
        return super().read()

    def slot(self, index: int) -> bytes:
        _acting.actor.pause()
        return super().slot(index)

    def write(self, index: int, data: bytes) -> None:
        _acting.actor.pause()
        super().write(index, data)

    def tell(self, index: int, state: int, id: str | None) -> None:
        _acting.actor.pause()
        super().tell(index, state, id)

    def signal(self, index: int, owner: bytes) -> int:
        me: Actor = _acting.actor
        me.pause()
        pid, _ = slots._process_of(owner)
        called = me.world.spoolers.get(pid)
        if called is None or called.killed:
            raise ProcessLookupError
        called.signals += 1
        return pid


class World:
    """Spoolers, callers, and a spool directory of names. What uWSGI does: each signal is one more scan."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        os.mkdir(f"{self.folder.name}/spoolers")
        self.waiting: list[str] = []
        self.lock: Actor | None = None
        self.spoolers: dict[int, Actor] = {}
        self.callers: list[Actor] = []
        self.errors: list[BaseException] = []
        self.unannounced: set[str] = set()
        """Jobs whose callers were killed before they had called a spooler: they are found at the next scan."""
        self.bereft: set[str] = set()
        """Jobs that waited while a spooler was killed. Its successor finds them; but perhaps after another job."""
        self.numbers = itertools.count(1000)
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(slots, "_open", self._open)
        self.patch.setattr(process, "is_alive", lambda pid, _: pid in self.spoolers and not self.spoolers[pid].killed)
        self.patch.setattr(slots, "_own", lambda: (b"%d 5 boot\n" % self._pid_of(_acting.actor)).ljust(64, b"\0"))
        self.patch.setattr(slots, "_may_lose_descriptors", slots._may_lose_descriptors)

    def _open(self, spool_dir: str, *, create: bool) -> slots._Slots:
        me: Actor = _acting.actor
        if me.slots is None:
            me.slots = SteppedSlots(f"{spool_dir}/spoolers/slots", create=True)
        return me.slots

    def _pid_of(self, actor: Actor) -> int:
        (pid,) = (pid for pid, other in self.spoolers.items() if other is actor)
        return pid

    def add_spooler(self) -> Actor:
        spooler = Actor(self, self._serve)
        self.spoolers[next(self.numbers)] = spooler
        spooler.wait()
        return spooler

    def add_caller(self, *, is_first: bool = False) -> Actor:
        """Its job is the first or the last that spoolers see: the names of several callers are in any order."""
        name = new_id()

        def enqueue(me: Actor) -> None:
            me.job = name
            self.waiting.insert(0 if is_first else len(self.waiting), name)
            with contextlib.suppress(LookupError):  # no spooler is up: each scans when it starts
                slots.call(self.folder.name, name)
            me.job = None

        self.callers.append(Actor(self, enqueue))
        self.callers[-1].wait()
        return self.callers[-1]

    def _serve(self, me: Actor) -> None:
        slot = slots.Slot(self.folder.name)
        me.signals += 1
        while True:
            me.pause(lambda: me.signals > 0)
            me.signals -= 1
            names = list(self.waiting)
            for name in names:
                me.pause()
                if name not in self.waiting:
                    continue
                self.waiting.remove(name)
                me.job = name
                if slot.start(name):
                    slots.call(self.folder.name)
                me.runs = True
                me.pause(lambda: not me.runs)
                me.job = None
                me.signals += slot.end()

    @property
    def actors(self) -> list[Actor]:
        return [*self.spoolers.values(), *self.callers]

    def can_step(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.can_step]

    def kill(self, actor: Actor) -> None:
        if actor in self.callers:
            self.unannounced.update(filter(None, [actor.job]))
        elif not actor.killed:
            if actor.job is not None and not actor.runs:
                self.waiting.append(actor.job)
            self.bereft.update(self.waiting)
            self.bereft.update(caller.job for caller in self.callers if caller.job)
            self.add_spooler()
        actor.kill()

    def settle(self) -> None:
        """Let everything happen but the ends of jobs."""
        for _ in range(5000):
            ready = self.can_step()
            if not ready:
                break
            ready[0].step()
        else:
            pytest.fail("the spoolers wake each other for ever")
        assert not self.errors
        alive = [spooler for spooler in self.spoolers.values() if not spooler.killed]
        asleep = [spooler for spooler in alive if spooler.sleeps]
        left = set(self.waiting) - self.unannounced
        assert not left or len(asleep) < len(alive), "a job waits while all spoolers sleep"
        assert not left - self.bereft or not asleep, "a job waits while a spooler sleeps"

    def close(self) -> None:
        for actor in self.actors:
            actor.kill()
            if actor.slots is not None:
                os.close(actor.slots._fd)
        self.patch.undo()
        self.folder.cleanup()


@pytest.mark.parametrize("seeds", [60, pytest.param(400, marks=pytest.mark.matrix)])
@pytest.mark.parametrize("deadly", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_job_waits_while_a_spooler_sleeps_whatever_the_order_of_system_calls(
    count: int, deadly: bool, seeds: int
) -> None:
    """Callers and spoolers in any order; if ``deadly``, any of them may be killed before each of its system calls."""
    for seed in range(seeds):
        chance = random.Random(seed)
        world = World()
        try:
            for _ in range(count):
                world.add_spooler()
            if chance.random() < 0.8:
                world.settle()
            for _ in range(chance.randrange(5, 30)):
                event = chance.random()
                if event < 0.25:
                    world.add_caller(is_first=event < 0.1)
                elif event < 0.4:
                    chance.choice([*world.spoolers.values()]).runs = False
                elif not (ready := world.can_step()):
                    continue
                elif deadly and event < 0.45:
                    world.kill(chance.choice(ready))
                else:
                    actor = chance.choice(ready)
                    for _ in range(chance.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 50, 50, 50])):
                        if actor.can_step:
                            actor.step()
            world.settle()
        except BaseException:
            print(f"seed {seed}")
            raise
        finally:
            world.close()


ORDERS = [
    [(one, before), (1 - one, meanwhile), (one, 50)]
    for one in (0, 1)
    for before in range(9)
    for meanwhile in range(1, 10)
]
"""Each way to let one of two actors take some steps, then the other one, and then the first one all that are left."""


def a_spooler_ends_a_job(world: World, is_first: bool) -> list[Actor]:
    spooler = world.add_spooler()
    world.settle()
    world.add_caller()
    world.settle()
    spooler.runs = False
    return [spooler, world.add_caller(is_first=is_first)]


def a_called_spooler_starts_another_job(world: World, is_first: bool) -> list[Actor]:
    called, _ = world.add_spooler(), world.add_spooler()
    for _ in range(2):
        world.add_caller()
        world.settle()
    called.runs = False
    world.settle()
    caller = world.add_caller()
    while caller.can_step:
        caller.step()
    return [called, world.add_caller(is_first=is_first)]


def two_callers_see_the_same_idle_spooler(world: World, is_first: bool) -> list[Actor]:
    world.add_spooler()
    world.add_spooler()
    world.settle()
    return [world.add_caller(), world.add_caller(is_first=is_first)]


@pytest.mark.parametrize(
    "scene", [a_spooler_ends_a_job, a_called_spooler_starts_another_job, two_callers_see_the_same_idle_spooler]
)
@pytest.mark.parametrize("is_first", [False, True])
def test_two_processes_that_change_a_slot_at_the_same_time_never_miss_each_other(
    scene: Callable[[World, bool], list[Actor]], is_first: bool
) -> None:
    for order in ORDERS:
        world = World()
        try:
            pair = scene(world, is_first)
            for turn, steps in order:
                for _ in range(steps):
                    if pair[turn].can_step:
                        pair[turn].step()
            world.settle()
            # All that ran before end, but for the job of the first spooler.
            for other in [*world.spoolers.values()][1:]:
                other.runs = False
            world.settle()
        finally:
            world.close()


SPOOLER = """
import os, signal, sys
from spoolkit.spooldir.slots import Slot
# Not by print(): the signal may come while the other one writes.
signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"woken\\n"))
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
        started.communicate(timeout=60)


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
    assert wait_child(child) == 0
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
    assert wait_child(child) == 0


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
    spooler.wait(60)
    for target in targets:
        with pytest.raises(ProcessLookupError):
            target.signal(signal.SIGUSR1)
    with pytest.raises(ProcessLookupError):
        Target(spooler.pid, known, keep=True)


def test_the_slot_of_a_dead_spooler_is_freed_and_taken_by_the_next(spooler: subprocess.Popen[str], folder: str) -> None:
    size = os.path.getsize(f"{folder}/spoolers/slots")
    spooler.kill()
    spooler.wait(60)
    with pytest.raises(LookupError):
        slots.call(folder)
    slot = slots.Slot(folder)
    assert os.path.getsize(f"{folder}/spoolers/slots") == size
    slot.leave()


def test_a_slot_that_belongs_to_no_process_is_freed(spooler: subprocess.Popen[str], folder: str) -> None:
    with open(f"{folder}/spoolers/slots", "r+b") as file:
        content = file.read()
        file.seek(0)
        file.write(b"\x02".ljust(len(content), b"\0") + content)  # a stray state, before the slot of the spooler
    assert slots.call(folder) == spooler.pid


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
