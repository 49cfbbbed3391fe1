"""Jobs over HTTP, to be looked at only: ``app.register_blueprint(jobs_blueprint())``."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, jsonify, request

from spoolkit.admin import lookup
from spoolkit.encoding import codec
from spoolkit.errors import ArgumentError, SpoolkitError, SpoolUnavailableError, StoreUnavailableError, UnknownJobError
from spoolkit.job import FINISHED, State, Status

LIMIT = 50
MOST = 1000

MAX_EXAMINED = 1000
"""Files and records that one request may have read: a visitor must not hold the site, however many jobs wait."""


MAX_NAMES = 5000
"""Names of waiting and of dead jobs' files that a list reads."""


def jobs_blueprint(*, details: bool = False, listing: bool = False, url_prefix: str = "/jobs") -> Blueprint:
    """Make a blueprint with ``GET /jobs/<id>``, read-only, for anybody who knows the id of a job.

    Args:
        details: Whether a single job comes with its arguments and its attempts, tracebacks and logs included: for a
            site whose visitors may see them.
        listing: Whether ``GET /jobs?state=&task=&limit=`` lists jobs, newest first: ids and error texts of everybody's
            jobs, so protect it. Without it that is a 404. A list reads a bounded number of jobs; where it
            stopped before it had found all, ``complete`` is false. Where more than 5,000 files lie there, those
            that the system names first are listed, and not the newest.
        url_prefix: Where it is served.

    Returns:
        The blueprint. Its errors are JSON: 400 for a question that cannot be meant, 404 for an unknown job,
        503 where the spool directory cannot be read.
    """
    blueprint = Blueprint("spoolkit_jobs", __name__, url_prefix=url_prefix)

    @blueprint.get("/<id>")
    def one(id: str) -> Response:
        return jsonify(detailed(id) if details else public(lookup.find(id)))

    @blueprint.get("")
    def several() -> Response | tuple[Response, int]:
        if not listing:
            message = "jobs are not listed here: ask for one by its id"
            return jsonify(error={"type": "NotFound", "message": message, "argument": None}), 404
        limit, task = _limit(), request.args.get("task") or None
        states, files = _states(), lookup.listed(MAX_NAMES)
        found = lookup.jobs(states=states, task=task, limit=limit, max_examined=MAX_EXAMINED, files=files)
        return jsonify(jobs=[brief(status) for status in found], complete=found.complete)

    @blueprint.errorhandler(ArgumentError)
    def refused(error: ArgumentError) -> tuple[Response, int]:
        return _answer(error, 400)

    @blueprint.errorhandler(UnknownJobError)
    def unknown(error: UnknownJobError) -> tuple[Response, int]:
        return _answer(error, 404)

    @blueprint.errorhandler(SpoolUnavailableError)
    @blueprint.errorhandler(StoreUnavailableError)
    def unavailable(error: SpoolkitError) -> tuple[Response, int]:
        return _answer(error, 503)

    @blueprint.after_request
    def fresh(response: Response) -> Response:
        response.cache_control.no_store = True
        return response

    return blueprint


def public(status: Status) -> dict[str, Any]:
    """What anyone may know of a job: neither its arguments nor its tracebacks."""
    progress, result = status.progress, None
    error: dict[str, str | None] | None = None
    if status.result_error is not None:
        error = {"type": "ResultUnavailableError", "message": status.result_error}
    elif status.error_message is not None:
        error = {"type": status.error_type, "message": status.error_message}
    if status.result is not None:
        try:
            result = json.loads(status.result)
        except (ValueError, RecursionError):  # the store is damaged, or somebody wrote to it
            error = {"type": "DecodeError", "message": "the recorded result cannot be read"}
    return {
        "id": status.id,
        "task": status.task,
        "state": str(status.state),
        "attempt": status.attempt,
        "max_attempts": status.max_attempts,
        "run_at": status.run_at,
        "enqueued_at": status.enqueued_at,
        "started_at": status.started_at,
        "finished_at": status.finished_at if status.state in FINISHED else None,
        "progress": progress and {"done": progress.done, "total": progress.total, "note": progress.note},
        "result": result,
        "error": error,
    }


def brief(status: Status) -> dict[str, Any]:
    """The same for a list, without the result, which may be large."""
    found = public(status)
    del found["result"]
    return found


def detailed(id: str) -> dict[str, Any]:
    """All that is known of a job. Raises :class:`UnknownJobError`."""
    found = lookup.details(id)
    arguments = None
    if found.arguments is not None:
        args, kwargs = json.loads(codec.encode_call(*found.arguments))
        arguments = {"args": args, "kwargs": kwargs}
    return {
        **public(found.status),
        "arguments": arguments,
        "attempts": [vars(attempt) for attempt in found.attempts],
        "events": [vars(event) for event in found.events],
    }


def _states() -> list[State]:
    names = [name for text in request.args.getlist("state") for name in text.split(",") if name]
    known = {str(state): state for state in State}
    for name in names:
        if name not in known:
            raise ArgumentError(f"state is {name[:80]!r}: give one of {', '.join(known)}", argument="state")
    return [known[name] for name in names]


def _limit() -> int:
    text = request.args.get("limit") or str(LIMIT)
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= MOST):
        raise ArgumentError(f"limit is {text[:80]!r}: give a number from 1 to {MOST}", argument="limit")
    return int(text)


def _answer(error: SpoolkitError, code: int) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), code
