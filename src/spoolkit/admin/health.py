"""Is the site ready for jobs, and why not? What cannot be seen is not ready.

:func:`look` finds the facts, and :func:`decide` says what follows from them, without looking at anything.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from spoolkit import application
from spoolkit.admin import stats
from spoolkit.admin.stats import QueueFigures
from spoolkit.errors import SpoolkitError, StoreUnavailableError
from spoolkit.spooldir import spoolers
from spoolkit.store import locations
from spoolkit.system import disk
from spoolkit.system.process import PerProcess

BELIEVED = 1.0
"""Seconds for which an answer is given again: strangers may ask, as often as they like."""


@dataclass(frozen=True)
class Facts:
    """What there is to see of a site."""

    #: The figures of each queue.
    queues: Sequence[QueueFigures] = ()
    #: Why no new spooler of a queue starts, by queue: the application cannot be loaded.
    broken: Mapping[str, str] = field(default_factory=dict)
    #: Why the store cannot be read or written; ``None``: it can.
    store: str | None = None
    #: Which disks are nearly full, and which directories cannot be written to.
    disks: Sequence[str] = ()
    #: What could not be seen, and why.
    unseen: Sequence[str] = ()


class Reason(NamedTuple):
    """Why a site is not ready."""

    #: What was looked at: ``due``, ``spooler``, ``gate``, ``code``, ``store``, ``disk`` or ``unseen``.
    check: str
    #: What is wrong, for people.
    text: str


def decide(facts: Facts, max_due_age: float) -> list[Reason]:
    """Return why a site is not ready; nothing if it is.

    Args:
        facts: What there is to see.
        max_due_age: How long a job may be due and still wait, in seconds.
    """
    return [*_of_queues(facts, max_due_age), *_of_machine(facts)]


def _of_queues(facts: Facts, max_due_age: float) -> Iterator[Reason]:
    if not facts.queues and not facts.unseen:
        yield Reason("unseen", "there is no queue")
    for queue in facts.queues:
        if queue.oldest_due is not None and queue.oldest_due > max_due_age:
            yield Reason("due", f"a due job of {queue.queue} has been waiting for {queue.oldest_due:.0f} s")
        if not queue.spoolers:
            yield Reason("spooler", f"no spooler of {queue.queue} is alive")
        if queue.state != "open":
            yield Reason("gate", f"{queue.queue} is {queue.state}: no job starts")
    for name, reason in facts.broken.items():
        yield Reason("code", f"no new spooler of {name} starts: {reason}")


def _of_machine(facts: Facts) -> Iterator[Reason]:
    if facts.store is not None:
        yield Reason("store", facts.store)
    for text in facts.disks:
        yield Reason("disk", text)
    for text in facts.unseen:
        yield Reason("unseen", text)


def reasons(max_due_age: float | None = None) -> list[Reason]:
    """Return why this site is not ready now; nothing if it is. Never raises for what it looks at.

    Args:
        max_due_age: How long a job may be due and still wait, in seconds; ``None``: ``SPOOLKIT_MAX_DUE_AGE``.
    """
    return decide(look(), application.settings().max_due_age if max_due_age is None else max_due_age)


_lock = PerProcess(threading.Lock)
_latest = PerProcess[dict[str, tuple[float, list[Reason]]]](dict)
"""Until when an answer is believed, on the monotonic clock, and the answer, by the path of the store."""


def recent_reasons() -> list[Reason]:
    """Return what :func:`reasons` returned in this process up to :data:`BELIEVED` seconds ago, or does now."""
    with _lock.get():
        path, now = locations.store().path, time.monotonic()
        until, found = _latest.get().get(path, (now, []))
        if now >= until:
            found = reasons()
            _latest.get()[path] = time.monotonic() + BELIEVED, found
        return found


def look() -> Facts:
    """Find out what there is to see of this site. Never raises for what it looks at."""
    queues: Sequence[QueueFigures] = ()
    broken: dict[str, str] = {}
    store: str | None = None
    disks: list[str] = []
    unseen: list[str] = []
    try:
        queues = [*stats.queues(), *_without_directory()]
        broken = {queue.queue: why for queue in queues if (why := spoolers.load_error(queue.directory)) is not None}
    except (SpoolkitError, OSError) as error:
        unseen.append(str(error))
    try:
        locations.store().check_writable()
    except StoreUnavailableError as error:
        store = str(error)
    paths: dict[int, str] = {}
    for path in dict.fromkeys([*locations.spool_dirs(), os.path.dirname(locations.store().path)]):
        try:
            paths.setdefault(os.stat(path).st_dev, path)
            if not os.access(path, os.W_OK | os.X_OK):
                disks.append(f"{path} may not be written to: no job is accepted")
        except OSError as error:
            unseen.append(str(error))
    for path in paths.values():
        try:
            disks += [f"the disk of {path} has {shortage.left} left" for shortage in disk.shortages(path)]
        except OSError as error:
            unseen.append(str(error))
    return Facts(queues, broken, store, disks, unseen)


def _without_directory() -> list[QueueFigures]:
    """The queues that are declared, but have no directory yet: no spooler can serve them."""
    config = application.settings()
    paths = {queue.name: locations.queue_dir(queue.name, config) for queue in config.queues}
    return [QueueFigures(name, path, 0, 0, 0, "open") for name, path in paths.items() if not os.path.isdir(path)]
