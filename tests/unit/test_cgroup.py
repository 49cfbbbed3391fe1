"""Whether the kernel has killed a process for want of memory, by what its control group says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit import Job, spool
from spoolkit.spooldir import running
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import cgroup
from spoolkit.system.process import PerProcess

V1 = "9:name=systemd:/\n4:memory:/site/uwsgi\n3:cpuset:/\n0::/\n"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "0::/system.slice/uwsgi.service\n"
V2_MOUNTS = "31 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
GONE = 2**22 + 1
"""No pid: the kernel allows none so high."""


@pytest.mark.parametrize(
    ("groups", "mounts", "folder"),
    [
        (V1, V1_MOUNTS, "/sys/fs/cgroup/memory/site/uwsgi"),
        (V2, V2_MOUNTS, "/sys/fs/cgroup/system.slice/uwsgi.service"),
        ("0::/\n", V2_MOUNTS, "/sys/fs/cgroup"),
        (
            V1,
            V1_MOUNTS.replace(" / /sys/fs/cgroup/memory", " /site /sys/fs/cgroup/memory"),
            "/sys/fs/cgroup/memory/uwsgi",
        ),
        ("0::/\n", V2_MOUNTS.replace(" / ", " /docker/1 "), "/sys/fs/cgroup"),
        ("0::/docker/1\n", V2_MOUNTS.replace(" / ", " /docker/1 "), "/sys/fs/cgroup"),
        ("0::/docker/12\n", V2_MOUNTS.replace(" / ", " /docker/1 "), "/sys/fs/cgroup"),
        (V2, V1_MOUNTS.splitlines()[0], None),
        ("", V2_MOUNTS, None),
    ],
)
def test_the_folder_of_a_group(groups: str, mounts: str, folder: str | None) -> None:
    assert cgroup.folder_of(groups, mounts) == folder


class Group:
    """The files of a group, with this process in it."""

    def __init__(self, folder: Path, *, version: int = 2) -> None:
        self.folder = folder
        self._events, self._limit = cgroup._FILES[2 - version]
        self.set(0)

    def set(self, kills: int, *pids: int, limit: str = "") -> None:
        (self.folder / self._events).write_text(f"low 0\noom 3\noom_kill {kills}\n")
        (self.folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in (os.getpid(), *pids)))
        if limit:
            (self.folder / self._limit).write_text(f"{limit}\n")


@pytest.mark.parametrize("version", [1, 2])
def test_one_kill_and_all_others_alive_is_certain(tmp_path: Path, version: int) -> None:
    group = Group(tmp_path, version=version)
    group.set(3, 10, 11, limit=str(512 * 2**20))
    before = cgroup.kills(str(tmp_path))
    group.set(4, 10, 11)
    assert cgroup.explanation(before, GONE) == "was killed by the kernel: out of memory at 512 MiB"
    group.set(5, 10, 11)
    assert cgroup.explanation(before, GONE) == "was probably killed by the kernel: out of memory at 512 MiB"
    group.set(4, 10)
    assert cgroup.explanation(before, GONE) == "was probably killed by the kernel: out of memory at 512 MiB"


def test_without_a_kill_nothing_is_said(tmp_path: Path) -> None:
    group = Group(tmp_path)
    before = cgroup.kills(str(tmp_path))
    assert before == cgroup.Kills(str(tmp_path), 0, [])
    assert cgroup.explanation(before, GONE) is None
    assert cgroup.explanation(None, GONE) is None
    group.set(1, limit="max")
    assert cgroup.explanation(before, GONE) == "was killed by the kernel: out of memory"
    assert before is not None
    assert cgroup.explanation(before._replace(folder=str(tmp_path / "gone")), GONE) is None


def test_too_many_processes_are_not_noted(tmp_path: Path) -> None:
    group = Group(tmp_path)
    group.set(0, *range(10_000, 10_000 + cgroup.MAX_OTHERS))
    before = cgroup.kills(str(tmp_path))
    assert before is not None
    assert before.others is None
    group.set(1)
    assert cgroup.explanation(before, GONE) == "was probably killed by the kernel: out of memory"


def test_the_lowest_limit_around_a_group_is_told(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder, limit in ((tmp_path, "1000"), (inner, "2000")):
        (folder / "memory.max").write_text(f"{limit}\n")
    assert cgroup.limit_of(str(inner)) == 1000
    (tmp_path / "memory.max").write_text("max\n")
    assert cgroup.limit_of(str(inner)) == 2000


@spool(retries=0)
def dies(megabytes: int) -> None:
    if megabytes:
        assert bytearray(b"x") * (megabytes * 2**20)
    os.kill(os.getpid(), signal.SIGKILL)


def die(directory: str, prepare: Callable[[], object] = lambda: None) -> int:
    """Run what is due in a child that is killed by its job, and return its pid."""
    if child := os.fork():
        wait_until(lambda: os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, timeout=60)
        assert wait_child(child) == -signal.SIGKILL
        return child
    try:
        prepare()
        Spooler(directory).run_due()
    finally:
        os._exit(1)


def message(job: Job[None]) -> str | None:
    (attempt,) = job.attempts
    assert attempt.outcome == "crashed"
    return attempt.message


def test_a_crash_says_that_the_memory_was_out(
    directory: str, work: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "group"
    folder.mkdir()
    group = Group(folder)
    group.set(0, 10, limit=str(256 * 2**20))
    monkeypatch.setattr(running, "_memory_group", PerProcess(lambda: str(folder)))
    job = dies(0)
    child = die(directory)
    group.set(1, 10)
    work()
    assert message(job) == f"process {child}, in attempt 1, was killed by the kernel: out of memory at 256 MiB"


def test_a_kill_by_a_person_is_not_for_want_of_memory(
    directory: str, work: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Group(tmp_path)
    monkeypatch.setattr(running, "_memory_group", PerProcess(lambda: str(tmp_path)))
    job = dies(0)
    child = die(directory)
    work()
    assert str(message(job)).startswith(f"process {child}, in attempt 1, died without leaving a reason: kill -9")


def test_the_count_is_renewed_between_jobs(
    directory: str, work: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group(tmp_path)
    monkeypatch.setattr(running, "_memory_group", PerProcess(lambda: str(tmp_path)))
    dies.using(delay=1000)(0)
    with running.AttemptFile(directory, "0" * 32):
        pass
    group.set(7)
    assert running.facts(directory, os.getpid()).kills == cgroup.Kills(str(tmp_path), 0, [])
    running.sweep(directory)
    assert running.facts(directory, os.getpid()).kills == cgroup.Kills(str(tmp_path), 7, [])


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A real group within the one of this process, with 64 MiB."""
    own = cgroup.own_folder()
    if own is None:
        pytest.skip("no cgroup limits the memory of this process")
    folder = Path(own, f"spoolkit-test-{os.getpid()}")
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made: {error}")
    try:
        limit = next((folder / name for _, name in cgroup._FILES if (folder / name).exists()), None)
        if limit is None:
            pytest.skip("the controller of memory is not passed on")
        limit.write_text(str(64 * 2**20))
        yield folder
    finally:
        folder.rmdir()


def test_a_job_that_the_kernel_kills_in_a_small_group_says_so(
    directory: str, work: Callable[[], None], small_group: Path
) -> None:
    job = dies(300)
    child = die(directory, lambda: (small_group / "cgroup.procs").write_text(str(os.getpid())))
    work()
    assert message(job) == f"process {child}, in attempt 1, was killed by the kernel: out of memory at 64 MiB"
