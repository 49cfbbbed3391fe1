"""Read-only HTTP access to jobs: ``app.register_blueprint(jobs_blueprint())``."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, request

from spoolkit.admin import as_json, lookup, redaction
from spoolkit.errors import ArgumentError, SpoolkitError, SpoolUnavailableError, StoreUnavailableError, UnknownJobError
from spoolkit.job import State

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
"""Jobs that one list shows: by default, and at most."""

MAX_EXAMINED = 1000
"""Files and records that one request may read: a visitor must not block the site, however many jobs wait."""


MAX_NAMES = 5000
"""File names of waiting jobs, and of dead ones, that one list reads."""


def jobs_blueprint(*, details: bool = False, listing: bool = False, url_prefix: str = "/jobs") -> Blueprint:
    """Make a read-only blueprint with ``GET /jobs/<id>``, open to anybody who knows the id of a job.

    Args:
        details: Whether a single job comes with its arguments and attempts, including tracebacks and logs: for a
            site whose visitors may see them.
        listing: Whether ``GET /jobs?state=&task=&tag=&limit=`` lists jobs, newest first. The list shows the ids and
            error messages of all users' jobs, so protect it. Without ``listing`` it is a 404. A list reads a bounded
            number of jobs; where it stopped before it had found all, ``complete`` is false. Where more than 5,000 files
            wait, it lists those that the file system names first, which are not the newest.
        url_prefix: The path of the list; a single job is below it.

    Returns:
        The blueprint. Its errors are JSON: 400 for an invalid query, 404 for an unknown job, 503 where the spool
        directory cannot be read.
    """
    blueprint = Blueprint("spoolkit_jobs", __name__, url_prefix=url_prefix)

    @blueprint.get("/<id>")
    def show(id: str) -> Response:
        return jsonify(
            as_json.detailed(lookup.details(id)) if details else as_json.public(*redaction.listed([lookup.find(id)]))
        )

    @blueprint.get("")
    def ls() -> Response | tuple[Response, int]:
        if not listing:
            message = "this site does not list jobs: ask for one by its id"
            return jsonify(error={"type": "NotFound", "message": message, "argument": None}), 404
        limit, task, tag = _limit(), request.args.get("task") or None, request.args.get("tag") or None
        states, files = _states(), lookup.list_files(MAX_NAMES)
        found = lookup.jobs(states=states, task=task, tag=tag, limit=limit, max_examined=MAX_EXAMINED, files=files)
        return jsonify(jobs=[as_json.brief(status) for status in redaction.listed(found)], complete=found.complete)

    @blueprint.errorhandler(ArgumentError)
    def bad_request(error: ArgumentError) -> tuple[Response, int]:
        return _error_response(error, 400)

    @blueprint.errorhandler(UnknownJobError)
    def not_found(error: UnknownJobError) -> tuple[Response, int]:
        return _error_response(error, 404)

    @blueprint.errorhandler(SpoolUnavailableError)
    @blueprint.errorhandler(StoreUnavailableError)
    def unavailable(error: SpoolkitError) -> tuple[Response, int]:
        return _error_response(error, 503)

    @blueprint.after_request
    def forbid_caching(response: Response) -> Response:
        response.cache_control.no_store = True
        return response

    return blueprint


def _states() -> list[State]:
    names = [name for text in request.args.getlist("state") for name in text.split(",") if name]
    known = {str(state): state for state in State}
    for name in names:
        if name not in known:
            raise ArgumentError(f"state is {name[:80]!r}: give one of {', '.join(known)}", argument="state")
    return [known[name] for name in names]


def _limit() -> int:
    text = request.args.get("limit") or str(DEFAULT_LIMIT)
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= MAX_LIMIT):
        raise ArgumentError(f"limit is {text[:80]!r}: give a number from 1 to {MAX_LIMIT}", argument="limit")
    return int(text)


def _error_response(error: SpoolkitError, code: int) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), code
