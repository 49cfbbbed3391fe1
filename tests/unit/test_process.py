"""Which process a pid means, whether it lives, and values that belong to one process."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from life_process import read_pipe, wait_child
from uwsgi_server import wait_until

from spoolkit.system import process


@pytest.fixture
def other() -> Iterator[int]:
    """A process that lives."""
    ready, write = os.pipe()
    pid = os.fork()
    if not pid:
        Path("/proc/self/comm").write_text("a) S (b 1 2")  # as a name may be
        os.write(write, b"x")
        while True:
            signal.pause()
    assert read_pipe(ready) == b"x"
    yield pid
    for fd in (ready, write):
        os.close(fd)
    try:
        os.kill(pid, signal.SIGKILL)
        wait_child(pid)
    except ProcessLookupError:
        pass  # the test has buried it


def test_a_living_process_is_alive_under_its_own_identity_only(other: int) -> None:
    known = process.identity(other)
    assert process.is_alive(other, known)
    assert process.is_alive(os.getpid(), process.own())
    assert not process.is_alive(os.getpid(), known)
    assert not process.is_alive(other, process.identity(1))
    assert process.own() == process.identity(os.getpid())


def test_the_age_of_a_process_is_that_of_no_older_one(other: int) -> None:
    younger, own = process.age(other), process.age(os.getpid())
    assert own is not None
    assert younger is not None
    assert -0.1 < younger <= own + 0.1  # a tick
    assert 0 < own < time.clock_gettime(time.CLOCK_BOOTTIME)
    os.kill(other, signal.SIGKILL)
    wait_child(other)
    assert process.age(other) is None


def test_an_identity_holds_the_start_time_and_the_boot(other: int) -> None:
    started, boot = process.identity(other).split()
    ticks = os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 <= uptime - int(started) / ticks < 60
    assert boot.decode() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_zombie_is_not_alive(other: int) -> None:
    known = process.identity(other)
    os.kill(other, signal.SIGKILL)
    wait_until(lambda: not process.is_alive(other, known))
    assert process.identity(other).startswith(b"unknown")
    wait_child(other)
    assert not process.is_alive(other, known)


def test_a_process_is_exiting_once_it_is_killed(other: int) -> None:
    assert not process.is_exiting(other)
    os.kill(other, signal.SIGKILL)
    wait_until(lambda: process.is_exiting(other))
    wait_child(other)
    assert process.is_exiting(other)


def test_a_stopped_process_is_alive(other: int) -> None:
    known = process.identity(other)
    os.kill(other, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    assert process.is_alive(other, known)


def test_the_identity_of_an_unused_pid_fits_no_process(other: int) -> None:
    nobody = process.identity(2**22 + 1)
    assert nobody.startswith(b"unknown")
    assert nobody != process.identity(other)


@pytest.fixture
def own_files(tmp_path: Path) -> Iterator[list[int]]:
    """Two descriptors of two files."""
    fds = [os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("one", "two")]
    yield fds
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_kept_descriptor_is_intact_until_its_number_is_that_of_another_file(
    own_files: list[int], tmp_path: Path
) -> None:
    fd, other = own_files
    kept = process.KeptDescriptor(fd)
    os.pwrite(fd, b"text", 0)
    assert kept.is_intact()
    for flags in os.O_RDWR, os.O_RDWR | os.O_APPEND:
        stranger = os.open(tmp_path / "two", flags)
        os.dup2(stranger, fd)
        os.close(stranger)
        assert not kept.is_intact()
    kept_too = process.KeptDescriptor(other)
    os.dup2(other, fd)
    assert kept_too.is_intact()
    assert not kept.is_intact()
    os.close(fd)
    assert not kept.is_intact()
    reader, writer = os.pipe()
    os.dup2(reader, fd)
    os.close(reader)
    os.close(writer)
    assert not kept.is_intact()


def test_a_kept_descriptor_whose_offset_was_moved_is_recognised_by_its_file(own_files: list[int]) -> None:
    kept = process.KeptDescriptor(own_files[0])
    os.write(own_files[0], b"")
    os.lseek(own_files[0], 0, os.SEEK_SET)
    assert kept.is_intact()


def test_own_identity_in_a_forked_child_is_the_childs(other: int) -> None:
    parent = process.own()
    pid = os.fork()
    if not pid:
        same = process.own() == process.identity(os.getpid())
        os._exit(0 if same and process.is_alive(os.getpid(), process.own()) else 1)
    assert wait_child(pid) == 0
    assert process.own() == parent


def test_a_process_without_descriptors_takes_others_for_alive(other: int) -> None:
    known = process.identity(other)
    pid = os.fork()
    if not pid:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        os._exit(0 if process.is_alive(other, known) else 1)
    assert wait_child(pid) == 0


def test_a_process_without_descriptors_knows_its_own_identity(other: int) -> None:
    code = (
        "import os, resource; from spoolkit.system import process; known = process.own();"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0));"
        "assert process.is_alive(os.getpid(), known) and not process.is_alive(os.getpid(), b'another')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a_value_per_process_is_made_once_in_each_process_and_not_inherited_by_a_child() -> None:
    made: list[int] = []

    def make() -> str:
        made.append(os.getpid())
        return f"value {len(made)}"

    value = process.PerProcess(make)
    assert value.peek() is None
    assert [value.get(), value.get(), value.peek()] == ["value 1"] * 3
    pid = os.fork()
    if not pid:
        is_own = value.peek() is None and value.get() == value.get() == "value 2" and made[1:] == [os.getpid()]
        os._exit(0 if is_own else 1)
    assert wait_child(pid) == 0
    assert value.get() == "value 1"


@pytest.mark.parametrize("is_set", [False, True], ids=["made", "set"])
def test_a_process_with_the_pid_of_a_dead_ancestor_makes_its_own_value(
    monkeypatch: pytest.MonkeyPatch, is_set: bool
) -> None:
    made = iter(["the ancestor's", "the child's", "the grandchild's"])
    monkeypatch.setattr(process, "_this_process", process._ThisProcess())
    value = process.PerProcess(lambda: next(made))
    found = []
    for pid in (100, 200, 100):
        monkeypatch.setattr(process.os, "getpid", lambda pid=pid: pid)
        found.append(value.peek())
        if is_set:
            value.set(next(made))
        found.append(value.get())
    assert found == [None, "the ancestor's", None, "the child's", None, "the grandchild's"]


def test_a_value_per_process_can_be_replaced_and_discarded_in_one_process_alone() -> None:
    value = process.PerProcess(lambda: "made")
    value.set("given")
    pid = os.fork()
    if not pid:
        value.discard()  # nothing of its own yet
        value.set("the child's")
        os._exit(0 if value.get() == "the child's" else 1)
    assert wait_child(pid) == 0
    assert value.get() == "given"
    value.discard()
    assert (value.peek(), value.get()) == (None, "made")


def test_a_value_per_process_may_depend_on_its_first_caller() -> None:
    value = process.PerProcess[str]()
    with pytest.raises(LookupError):
        value.get()
    assert (value.get(lambda: "first"), value.get(lambda: "second"), value.get()) == ("first",) * 3


def test_wait_until_gone_ends_when_no_pid_is_left_at_the_deadline_or_when_given_up() -> None:
    left = [[5, 7], [7], []]
    assert process.wait_until_gone(lambda: left.pop(0), time.monotonic() + 60) == []
    assert left == []
    assert process.wait_until_gone(lambda: [7], time.monotonic() + 0.1) == [7]
    assert process.wait_until_gone(lambda: [7], time.monotonic() + 60, lambda: True) == [7]


def test_a_process_that_remembers_its_pid_asks_for_it_no_more_but_its_child_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_this_process", process._ThisProcess())
    value = process.PerProcess(lambda: [os.getpid()])
    process.remember_pid()
    mine = value.get()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pytest.fail("it asked"))
        assert value.get() is mine
        assert value.peek() is mine
    child = os.fork()
    if not child:
        try:
            os._exit(int(value.peek() is not None or value.get() != [os.getpid()]))
        finally:
            os._exit(2)
    assert wait_child(child) == 0
    assert value.get() is mine
