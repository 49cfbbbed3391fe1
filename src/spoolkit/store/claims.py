"""Whether a job may start: the answers to a claim, and how one follows from what is recorded."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from spoolkit.job import Cancelled, Done, Failure, Outcome, RetryAt, State
from spoolkit.system import process


@dataclass(frozen=True)
class Granted:
    """The attempt is counted and may begin."""

    attempt: int
    attempt_since_reset: int


@dataclass(frozen=True)
class InUse:
    """Another process is at it, or has just settled it. ``other_file`` is the file by which it runs."""

    other_file: str | None = None


@dataclass(frozen=True)
class AlreadySettled:
    """The job was settled, but its file was not: the process died between the two."""

    outcome: Outcome


@dataclass(frozen=True)
class PreviousCrashed:
    """The process of the last attempt is gone, and nobody has said so yet."""

    attempt: int
    attempt_since_reset: int
    pid: int
    started_at: float
    cancel_asked: bool
    identity: bytes = field(default=b"", compare=False)


Claim = Granted | InUse | AlreadySettled | PreviousCrashed


def verdict(row: sqlite3.Row, file: str | None, file_exists: Callable[[str], bool]) -> Claim | None:
    """Why the job of ``row`` must not start now; ``None`` where it may.

    ``file_exists(name)`` says whether another file of the job is called so.
    """
    state = State(row["state"])
    # Whatever the record says of a file, it says of the name it was claimed under: settled, it has another.
    same = file is not None and row["file"] == file
    if state is State.RUNNING and same:
        if process.is_alive(row["pid"], row["identity"]) and row["pid"] != os.getpid():
            return InUse()
        attempt_since_reset = row["attempt"] - row["base"]
        return PreviousCrashed(
            row["attempt"], attempt_since_reset, row["pid"], row["started_at"], bool(row["cancel"]), row["identity"]
        )
    if is_running(row) and row["pid"] != os.getpid() and None not in (file, row["file"]) and file_exists(row["file"]):
        # Settled, it would have lost that name, whether or not the store could be told: this file is a copy.
        return InUse(row["file"])
    failure = Failure(row["error_message"] or "", row["error_type"])
    if state is State.RETRYING and same and row["ending"] != "interrupted":
        return AlreadySettled(RetryAt(row["run_at"], failure))
    if state is State.DONE:
        return AlreadySettled(Done())
    if state is State.CANCELLED or (state is State.LOST and file is None):  # where there is a file, it is to be run
        return AlreadySettled(Cancelled(failure))
    # An interrupted job's file was left as it lay. A dead job's is moved away before its record is written: where it
    # lies here, someone moved it back.
    return None


def is_running(row: sqlite3.Row) -> bool:
    return row["state"] == State.RUNNING and process.is_alive(row["pid"], row["identity"])
