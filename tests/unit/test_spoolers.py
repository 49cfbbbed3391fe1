"""Which spooler is woken: an idle one, or each busy one once; never another process."""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from descriptors import descriptors

from spoolkit.spooldir import spoolers as spooler_files
from spoolkit.system import process

SPOOLER = """
import signal, sys
from spoolkit.spooldir.spoolers import SpoolerFile
woken = 0
def wake(signum, frame):
    global woken
    woken += 1
signal.signal(signal.SIGUSR1, wake)
me = SpoolerFile(sys.argv[1])
print("up", flush=True)
for command in sys.stdin:
    if command.strip() == "woken":
        print(woken, flush=True)
    else:
        getattr(me, command.strip())()
        print("ok", flush=True)
"""


class Spooler:
    """A process with a file in the directory. It counts its signals."""

    def __init__(self, directory: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SPOOLER, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "up\n"

    def tell(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def woken(self) -> int:
        return int(self.tell("woken"))

    def end(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def spoolers(tmp_path: Path) -> Iterator[list[Spooler]]:
    with ExitStack() as running:
        started = [Spooler(str(tmp_path)) for _ in range(3)]
        for spooler in started:
            running.callback(spooler.end)
        yield started


def test_wake_signals_one_idle_spooler(spoolers: list[Spooler], tmp_path: Path) -> None:
    pid = spooler_files.wake(str(tmp_path))
    assert [spooler.woken() for spooler in spoolers] == [int(spooler.process.pid == pid) for spooler in spoolers]


def test_wake_reaches_every_idle_spooler_in_a_burst(spoolers: list[Spooler], tmp_path: Path) -> None:
    assert {spooler_files.wake(str(tmp_path)) for _ in range(100)} == {spooler.process.pid for spooler in spoolers}


def test_wake_leaves_a_busy_spooler_alone_while_another_is_idle(spoolers: list[Spooler], tmp_path: Path) -> None:
    for spooler in spoolers[:2]:
        spooler.tell("busy")
    for _ in range(5):
        assert spooler_files.wake(str(tmp_path)) == spoolers[2].process.pid
    assert [spooler.woken() for spooler in spoolers[:2]] == [0, 0]


def test_wake_has_each_busy_spooler_scan_again_once_after_its_job_if_all_are_busy(
    spoolers: list[Spooler], tmp_path: Path
) -> None:
    for spooler in spoolers:
        spooler.tell("busy")
    for _ in range(5):
        assert spooler_files.wake(str(tmp_path)) is None
    assert [spooler.woken() for spooler in spoolers] == [0, 0, 0]
    for spooler in spoolers[:2]:
        spooler.tell("idle")
    assert [spooler.woken() for spooler in spoolers] == [1, 1, 0]
    spoolers[0].tell("busy")  # its next job
    spoolers[0].tell("idle")
    assert spoolers[0].woken() == 1
    assert spooler_files.wake(str(tmp_path)) == spoolers[0].process.pid


def test_wake_passes_over_dead_spoolers(spoolers: list[Spooler], tmp_path: Path) -> None:
    for spooler in spoolers[:2]:
        spooler.end()
    for _ in range(3):
        assert spooler_files.wake(str(tmp_path)) == spoolers[2].process.pid


def test_a_new_spooler_removes_the_files_of_dead_ones(spoolers: list[Spooler], tmp_path: Path) -> None:
    for spooler in spoolers:
        spooler.end()
    with_slots = {"slots"}
    me = spooler_files.SpoolerFile(str(tmp_path))
    assert set(os.listdir(tmp_path / "spoolers")) == {str(me.pid)} | with_slots
    me.leave()
    assert set(os.listdir(tmp_path / "spoolers")) == with_slots


def test_wake_signals_every_spooler_of_a_version_without_slots(spoolers: list[Spooler], tmp_path: Path) -> None:
    (tmp_path / "spoolers" / "slots").unlink()
    assert spooler_files.wake(str(tmp_path)) is None
    assert [spooler.woken() for spooler in spoolers] == [1, 1, 1]


def test_a_spooler_whose_slots_were_removed_takes_another_with_its_next_job(
    spoolers: list[Spooler], tmp_path: Path
) -> None:
    (tmp_path / "spoolers" / "slots").unlink()
    spoolers[1].tell("busy")
    spoolers[1].tell("idle")
    for _ in range(3):
        assert spooler_files.wake(str(tmp_path)) == spoolers[1].process.pid


def test_busy_names_the_living_spoolers_that_run_a_job(spoolers: list[Spooler], tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert spooler_files.busy([folder]) == []
    for spooler in spoolers:
        spooler.tell("busy")
    spooler_files.wake(folder)  # each has to scan again
    pids = [spooler.process.pid for spooler in spoolers]
    assert spooler_files.busy([folder]) == sorted(pids)
    assert spooler_files.busy([folder], pids[:1]) == pids[:1]
    spoolers[0].end()
    spoolers[1].tell("idle")
    assert spooler_files.busy([folder, str(tmp_path / "nowhere")]) == pids[2:]


def test_a_spooler_that_cannot_change_its_slot_is_seen_to_be_busy(spoolers: list[Spooler], tmp_path: Path) -> None:
    with (tmp_path / "spoolers" / "slots").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a process does that is stopped
        spoolers[0].tell("busy")
        assert spooler_files.busy([str(tmp_path)]) == [spoolers[0].process.pid]
        spoolers[0].tell("idle")
        assert spooler_files.busy([str(tmp_path)]) == []
    spoolers[0].tell("busy")
    assert spooler_files.busy([str(tmp_path)]) == [spoolers[0].process.pid]


def test_a_spooler_of_an_older_version_that_was_woken_is_still_busy(spoolers: list[Spooler], tmp_path: Path) -> None:
    path = tmp_path / "spoolers" / str(spoolers[0].process.pid)
    path.write_bytes(b"11" + path.read_bytes()[2:])
    assert spooler_files.busy([str(tmp_path)]) == [spoolers[0].process.pid]


def test_wake_does_not_signal_another_process_with_the_same_pid(spoolers: list[Spooler], tmp_path: Path) -> None:
    slots = tmp_path / "spoolers" / "slots"
    for spooler in spoolers:
        path = tmp_path / "spoolers" / str(spooler.process.pid)
        identity = path.read_bytes()[2:]
        assert identity in slots.read_bytes()
        for file in (path, slots):
            # another start time
            file.write_bytes(file.read_bytes().replace(identity, identity.replace(b" ", b" 1", 1).rstrip(b"\n"), 1))
    assert spooler_files.wake(str(tmp_path)) is None
    assert [spooler.woken() for spooler in spoolers] == [0, 0, 0]


WAKER = """
import os, resource, sys
from spoolkit.spooldir import spoolers; from spoolkit.system import process
process._boot()
"""
NO_DESCRIPTORS = (
    WAKER
    + """
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    os.close(taken.pop())  # enough to open one file, and no other beside it
"""
)
NO_ROOM = (
    WAKER
    + """
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""
)


@pytest.mark.parametrize("trouble", [NO_DESCRIPTORS, NO_ROOM], ids=["no descriptors", "no room"])
def test_wake_without_descriptors_or_disk_space_removes_no_file_and_signals_every_spooler(
    trouble: str, spoolers: list[Spooler], tmp_path: Path
) -> None:
    for spooler in spoolers:
        spooler.tell("busy")
    known = set(os.listdir(tmp_path / "spoolers"))
    done = subprocess.run(
        [sys.executable, "-c", f"{trouble}\nspoolers.wake(sys.argv[1])", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    assert done.stderr == "", "the job is accepted already: wake() never raises"
    assert set(os.listdir(tmp_path / "spoolers")) == known
    assert [spooler.woken() for spooler in spoolers] == [1, 1, 1]


def test_leave_removes_the_file(spoolers: list[Spooler], tmp_path: Path) -> None:
    spoolers[0].tell("leave")
    assert str(spoolers[0].process.pid) not in os.listdir(tmp_path / "spoolers")


def test_wake_gives_none_without_living_spoolers(tmp_path: Path) -> None:
    assert spooler_files.wake(str(tmp_path / "nowhere")) is None
    (tmp_path / "spoolers").mkdir()
    (tmp_path / "spoolers" / "12345678").write_bytes(b"00")
    for name in ("no-pid", "²", "0"):
        (tmp_path / "spoolers" / name).write_bytes(b"00")
    assert spooler_files.wake(str(tmp_path)) is None


def test_identity_of_a_process_does_not_change_with_its_name_or_memory() -> None:
    name = Path("/proc/self/comm").read_bytes()
    before = process.identity(os.getpid())
    try:
        Path("/proc/self/comm").write_bytes(b"a) R 1 (b")
        with mmap.mmap(-1, 2**24):
            assert process.identity(os.getpid()) == before
    finally:
        Path("/proc/self/comm").write_bytes(name)


def test_a_spooler_file_is_private_and_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = descriptors()
    me = spooler_files.SpoolerFile(str(tmp_path))
    file = tmp_path / "spoolers" / str(me.pid)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file.parent, file)] == [0o700, 0o600]
    me.leave()
    assert descriptors() == before


def test_a_spooler_file_survives_a_task_that_closes_all_descriptors(tmp_path: Path) -> None:
    me = spooler_files.SpoolerFile(str(tmp_path))
    os.close(me._fd)
    me.busy()
    me.idle()
    me.leave()
    assert os.listdir(tmp_path / "spoolers") == ["slots"]


def test_a_spooler_file_does_not_use_a_descriptor_that_uwsgi_replaces(tmp_path: Path) -> None:
    me = spooler_files.SpoolerFile(str(tmp_path))
    try:
        assert me._fd > 3, "uWSGI puts /dev/null over descriptor 0 after the fork"
    finally:
        me.leave()


def test_a_spooler_file_that_cannot_be_written_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError("the disk is full")

    before = descriptors()
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="full"):
        spooler_files.SpoolerFile(str(tmp_path))
    assert len(descriptors()) == len(before)
