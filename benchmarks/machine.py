"""What does a process cost, and how busy is the machine?"""

from __future__ import annotations

import os
import platform
import re
import signal
import sqlite3
import time
from collections.abc import Collection, Iterable
from contextlib import closing
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float:
    """The processor time of these processes until now, in seconds, all threads included.

    Of the kernel's clock for each process, which counts nanoseconds: /proc counts in steps of 10 ms.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


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


def description() -> dict[str, str]:
    """The machine and its load, for a report."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "system": f"Linux {platform.release()}, Python {platform.python_version()}",
        "niceness": str(os.nice(0)),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }
