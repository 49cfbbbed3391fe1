"""What does a process cost, and how busy is the machine?"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from functools import lru_cache
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time of these processes until now, in seconds, all threads included.

    Of the kernel's clock for each process, which counts nanoseconds: /proc counts in steps of 10 ms.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


@lru_cache(maxsize=1)  # a processor has few counters
def instructions() -> Callable[[], int]:
    """Return a function that counts the user instructions of this thread from now on.

    Other programs disturb that count little, and time much. Where the kernel does not count for this user, it counts
    nanoseconds of CPU instead.
    """
    number = {"x86_64": 298, "aarch64": 241}.get(platform.machine())  # perf_event_open
    # struct perf_event_attr of linux/perf_event.h in its first version: type hardware, size, config instructions; then
    # three numbers, and the bits exclude_kernel and exclude_hv.
    attributes = struct.pack("IIQQQQQQQ", 0, 64, 1, 0, 0, 0, 1 << 5 | 1 << 6, 0, 0)
    fd = -1 if number is None else ctypes.CDLL(None).syscall(number, attributes, 0, -1, -1, 0)
    if fd < 0:
        return time.process_time_ns
    return lambda: int.from_bytes(os.read(fd, 8), sys.byteorder)


def pss_bytes(pids: Iterable[int]) -> int:
    """The memory of these processes; a page that n processes share counts as an n-th of a page for each."""
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(match[1]) * 1024 for text in rollups if (match := re.search(r"^Pss:\s+(\d+) kB", text, re.M)))


def session(leader: int) -> list[int]:
    """The living processes of the session that this process leads."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(name))
    return sorted(found)


def pause(pids: Collection[int]) -> None:
    """Stop these processes until ``resume``, and return when they stand still."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    while not all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T" for pid in pids):
        time.sleep(0.001)


def resume(pids: Collection[int]) -> None:
    """Let these processes continue."""
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def locked(database: Path) -> bool:
    """Whether a process is writing to this SQLite file."""
    with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        db.execute("ROLLBACK")
    return False


ROOM = 2 * 1024**3
"""Bytes that must be free in /dev/shm: the files of a run with many delayed jobs pending."""


def directory() -> Path:
    """Where sites are put: BENCH_DIR if it is set, else in memory if there is room, else the temporary directory."""
    memory = Path("/dev/shm")
    if given := os.environ.get("BENCH_DIR"):
        return Path(given).resolve()
    in_memory = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= ROOM
    return memory if in_memory else Path(tempfile.gettempdir())


def file_system(path: Path, mounts: str = "") -> str:
    """The type of the file system that holds ``path``, such as "tmpfs"."""
    lines = (line.split() for line in (mounts or Path("/proc/self/mounts").read_text()).splitlines())
    holding = [(place.replace("\\040", " "), kind) for _, place, kind, *_ in lines]
    inside = [(place, kind) for place, kind in holding if path.resolve().is_relative_to(place)]
    # Of two mounts on one place, the later one counts.
    return max(enumerate(inside), key=lambda one: (len(one[1][0]), one[0]))[1][1] if inside else "unknown"


def description(files: Path) -> dict[str, str]:
    """The machine, its load and the place of the sites, for a report."""
    nice = os.nice(0)
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "files": f"{file_system(files)} ({files})",
        "niceness": f"{nice}{', so spoolers are not below the HTTP process, as they are at 0' if nice else ''}",
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
