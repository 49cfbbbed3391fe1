"""What happened to a job, in order, from its acceptance to its end?"""

from __future__ import annotations

from dataclasses import dataclass

from spoolkit.admin import words
from spoolkit.admin.lookup import Details
from spoolkit.job import FINISHED, Attempt

DUE_AT_ONCE = 1.0
"""Seconds within which a job that is due counts as due when it was accepted."""


@dataclass(frozen=True)
class Entry:
    """One thing that happened, or is going to happen, to a job."""

    #: Unix time in seconds (UTC); it may be in the future.
    time: float
    #: What happened, for people.
    text: str
    #: The number of the attempt that it belongs to.
    attempt: int | None = None
    #: The id of another job that it is about.
    job: str | None = None


def entries(found: Details) -> list[Entry]:
    """Return what happened to a job, in order: accepted, due, attempts, what people did, and its end.

    Args:
        found: The job, as :func:`spoolkit.admin.redaction.details` returns it.
    """
    status, lines = found.status, list[Entry]()
    if status.enqueued_at:
        lines.append(Entry(status.enqueued_at, "accepted"))
    # The file of a job that is due at once has a time of its own, of the same moment.
    if status.run_at is not None and abs(status.run_at - (status.enqueued_at or 0.0)) > DUE_AT_ONCE:
        lines.append(Entry(status.run_at, "due"))
    for attempt in found.attempts:
        lines.append(Entry(attempt.started_at, f"attempt {attempt.number} {_start(attempt)}", attempt.number))
        if attempt.finished_at is not None:
            text = f"attempt {attempt.number} {ending(attempt)}"
            lines.append(Entry(attempt.finished_at, text, attempt.number))
    lines += [Entry(event.time, words.event_text(event), job=event.job) for event in found.events]
    is_told = any(event.kind == status.state for event in found.events)
    if status.state in FINISHED and status.finished_at is not None and not is_told:
        lines.append(Entry(status.finished_at, str(status.state)))
    if status.expires_at is not None and status.state not in FINISHED:
        lines.append(Entry(status.expires_at, "expires"))
    return sorted(lines, key=lambda entry: entry.time)


def _start(attempt: Attempt) -> str:
    waited = "" if attempt.waited is None else f", {words.duration(attempt.waited)} after it was due"
    return f"started, pid {attempt.pid}{waited}"


def ending(attempt: Attempt) -> str:
    """Return how an attempt ended, after how long, its bill, and why: ``failed after 2.0 s: ValueError: no user``."""
    took = words.duration((attempt.finished_at or attempt.started_at) - attempt.started_at)
    reason = ": ".join(filter(None, (attempt.error_type, attempt.message)))
    cpu = "" if attempt.cpu is None else f", CPU {words.duration(attempt.cpu)}"
    memory = "" if attempt.memory is None else f", {words.size(attempt.memory)}"
    return f"{attempt.outcome} after {took}{cpu}{memory}" + (f": {reason}" if reason else "")
