"""Whether a job may start: the answers to a claim, and how one follows from what is recorded."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from spoolkit.job import Cancelled, Done, Failure, Outcome, RetryAt, State
from spoolkit.system import process


@dataclass(frozen=True)
class Start:
    """The attempt is counted and may begin: the ``number``-th of all, the ``fresh``-th since the last new count."""

    number: int
    fresh: int


@dataclass(frozen=True)
class StandBack:
    """Another process is at it, or has just settled it. ``copied`` names the job's other file, which it has in hand."""

    copied: str | None = None


@dataclass(frozen=True)
class Settled:
    """The job was settled, but its file was not: the process died between the two."""

    outcome: Outcome


@dataclass(frozen=True)
class Crashed:
    """The process of the last attempt is gone, and nobody has said so yet."""

    number: int
    fresh: int
    pid: int
    started_at: float
    cancelled: bool
    identity: bytes = field(default=b"", compare=False)


Claim = Start | StandBack | Settled | Crashed


def verdict(row: sqlite3.Row, file: str | None, lies: Callable[[str], bool]) -> Claim | None:
    """Why the job of ``row`` must not start now; ``None`` where it may.

    ``lies(name)`` says whether another file of the job is called so.
    """
    state = State(row["state"])
    # Whatever the record says of a file, it says of the name it was claimed under: settled, it has another.
    same = file is not None and row["file"] == file
    if state is State.RUNNING and same:
        if process.is_alive(row["pid"], row["identity"]) and row["pid"] != os.getpid():
            return StandBack()
        fresh = row["attempt"] - row["base"]
        return Crashed(row["attempt"], fresh, row["pid"], row["started_at"], bool(row["cancel"]), row["identity"])
    if is_running(row) and row["pid"] != os.getpid() and None not in (file, row["file"]) and lies(row["file"]):
        # Settled, it would have lost that name, whether or not the store could be told: this file is a copy.
        return StandBack(row["file"])
    failure = Failure(row["error_message"] or "", row["error_type"])
    if state is State.RETRYING and same and row["ending"] != "interrupted":
        return Settled(RetryAt(row["run_at"], failure))
    if state is State.DONE:
        return Settled(Done())
    if state is State.CANCELLED or (state is State.LOST and file is None):  # where there is a file, it is to be run
        return Settled(Cancelled(failure))
    # An interrupted job's file was left as it lay. A dead job's is moved away before its record is written: where it
    # lies here, someone moved it back.
    return None


def is_running(row: sqlite3.Row) -> bool:
    return row["state"] == State.RUNNING and process.is_alive(row["pid"], row["identity"])
