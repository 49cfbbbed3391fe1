"""How does a job look as JSON: for any visitor, in a list, and for people who may see everything?"""

from __future__ import annotations

import json
from typing import Any

from spoolkit.admin import redaction
from spoolkit.admin.lookup import Details
from spoolkit.job import FINISHED, Status


def public(status: Status) -> dict[str, Any]:
    """What any visitor may see of a job: no arguments, no tracebacks, no logs, no secret values in the result.

    Args:
        status: The job, as :func:`spoolkit.admin.lookup.find` returns it.

    Returns:
        A dictionary for ``json.dumps()``. Times are unix seconds (UTC), or ``None``.
    """
    status = redaction.status(status)
    progress, result = status.progress, None
    error: dict[str, str | None] | None = None
    if status.result_error is not None:
        error = {"type": "ResultUnavailableError", "message": status.result_error}
    elif status.error_message is not None:
        error = {"type": status.error_type, "message": status.error_message}
    if status.result is not None:
        try:
            result = json.loads(status.result)
        except (ValueError, RecursionError):  # the store is damaged, or another program wrote to it
            error = {"type": "DecodeError", "message": "the recorded result cannot be read"}
    return {
        "id": status.id,
        "task": status.task,
        "state": str(status.state),
        "attempt": status.attempt,
        "max_attempts": status.max_attempts,
        "run_at": status.run_at,
        "expires_at": status.expires_at,
        "parked": status.parked_for is not None,
        "paused": status.paused,
        "slot_at": status.slot_at,
        "enqueued_at": status.enqueued_at,
        "started_at": status.started_at,
        "finished_at": status.finished_at if status.state in FINISHED else None,
        "progress": progress and {"done": progress.done, "total": progress.total, "note": progress.note},
        "result": result,
        "error": error,
    }


def brief(status: Status) -> dict[str, Any]:
    """:func:`public` for a list: without the result, which may be large."""
    found = public(status)
    del found["result"]
    return found


def detailed(details: Details) -> dict[str, Any]:
    """Everything of a job but its secret values: :func:`public`, its arguments, batch, headers, attempts, events."""
    call, details = redaction.arguments(details), redaction.details(details)
    return {
        **public(details.status),
        "schedule": details.schedule,
        "retries": details.status.retries,
        "backoff": details.status.backoff,
        "timeout": details.status.timeout,
        "parked_for": details.status.parked_for,
        "arguments": call and {"args": call[0], "kwargs": call[1]},
        "batch": details.status.batch,
        "tags": list(details.status.tags or ()),
        "headers": dict(details.status.headers or {}),
        "attempts": [vars(attempt) for attempt in details.attempts],
        "events": [vars(event) for event in details.events],
    }
