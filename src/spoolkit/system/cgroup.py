"""Has the kernel killed a process for want of memory? The control group (cgroup) of the process counts such kills.

The count is of the whole group: it does not name the process. So it is read before and after, with the processes that
were in the group before: if one process was killed, and all of the others are alive, it was the one that is missing.
"""

from __future__ import annotations

import os
from typing import NamedTuple

MAX_OTHERS = 200
"""How many other processes of a group are noted; where there are more, none is."""

_NO_LIMIT = 1 << 60
"""A limit of so many bytes is none: version 1 writes a huge number for "no limit"."""

_FILES = (("memory.events", "memory.max"), ("memory.oom_control", "memory.limit_in_bytes"))
"""The file with the count of kills and the one with the limit: in version 2 of cgroups, and in version 1."""


class Kills(NamedTuple):
    """How many processes of a group were killed for want of memory, at one moment."""

    #: The folder of the group.
    folder: str
    #: How many there were since the group was made.
    number: int
    #: The other processes of the group; ``None``: too many.
    others: list[int] | None


def folder_of(groups: str, mounts: str) -> str | None:
    """Return the folder of the group that limits the memory of a process; ``None`` if none is mounted.

    Args:
        groups: What ``/proc/<pid>/cgroup`` says.
        mounts: What ``/proc/<pid>/mountinfo`` says.
    """
    paths = dict[str, str]()
    for line in groups.splitlines():
        _, controllers, where = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), where))  # without a name: version 2
    path = paths.get("memory") or paths.get("")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(maxsplit=2)
        # Where version 1 controls the memory, version 2 does not.
        fits = kind == "cgroup" and "memory" in options.split(",") if "memory" in paths else kind == "cgroup2"
        if not fits or path is None:
            continue
        root, mount = before.split()[3:5]
        # In a container, a part of the tree may be all that is mounted.
        inside = path if root == "/" else path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else "/"
        return os.path.normpath(f"{mount}/{inside}")
    return None


def own_folder() -> str | None:
    """Return the folder of the group that limits the memory of this process; ``None`` if there is none to be seen."""
    try:
        return folder_of(_read("/proc/self/cgroup"), _read("/proc/self/mountinfo"))
    except (OSError, ValueError):
        return None


def kills(folder: str) -> Kills | None:
    """Return how many processes of a group were killed for want of memory; ``None`` if it does not say so."""
    for events, _ in _FILES:
        try:
            counts = dict(line.split() for line in _read(f"{folder}/{events}").splitlines())
            pids = list(map(int, _read(f"{folder}/cgroup.procs").split()))
            others = [pid for pid in pids if pid != os.getpid()] if len(pids) <= MAX_OTHERS else None
            return Kills(folder, int(counts["oom_kill"]), others)
        except (OSError, ValueError, KeyError):  # such as in the group of all processes, or an old kernel
            continue
    return None


def explanation(before: Kills | None, pid: int) -> str | None:
    """Return how the kernel has ended a process, if it has: ``was killed by the kernel: out of memory at 512 MiB``.

    Args:
        before: What :func:`kills` returned in that process, when it lived.
        pid: The process, which is gone.

    Returns:
        The words, with "probably" if it may also have been another process of the group; ``None``: none was killed.
    """
    if before is None:
        return None
    now = kills(before.folder)
    if now is None or now.number <= before.number:
        return None
    living = {*(now.others or ()), os.getpid(), pid}
    is_certain = now.number == before.number + 1 and before.others is not None and living.issuperset(before.others)
    limit = limit_of(before.folder)
    where = "" if limit is None else f" at {limit / 2**20:.0f} MiB"
    return f"was {'' if is_certain else 'probably '}killed by the kernel: out of memory{where}"


def limit_of(folder: str) -> int | None:
    """Return the limit of a group in bytes, the lowest of its own one and those of the groups around it."""
    limits = list[int]()
    while len(folder) > 1:
        for _, limit in _FILES:
            try:
                limits.append(int(_read(f"{folder}/{limit}")))
            except (OSError, ValueError):  # "max", or there is no such file
                continue
        folder = os.path.dirname(folder)
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(1024 * 1024)
