"""What answers the progress bars of visitors, and is the page of those without JavaScript."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, current_app, jsonify, make_response

from spoolkit.admin import lookup
from spoolkit.errors import SpoolUnavailableError, StoreUnavailableError, UnknownJobError
from spoolkit.job import FINISHED, State, Status
from spoolkit.system import clock
from spoolkit.system.templates import render_escaped
from spoolkit.visitor import links
from spoolkit.visitor.links import Link

NAME = "spoolkit_progress"

PREFIX = "/_spoolkit"

SCRIPT = Path(__file__).with_name("static").joinpath("progress.js").read_bytes()

VERSION = hashlib.sha256(SCRIPT).hexdigest()[:12]
"""Changes with the script, and is part of its URL, so that browsers may keep it for ever."""

MIN_REFRESH, MAX_REFRESH = 2, 30
"""Seconds after which a browser without JavaScript loads the page again: the longer it has been open, the more."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the link is in the URL
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


class _Seen(NamedTuple):
    link: Link
    #: When the link was signed, unix time in seconds (UTC).
    signed_at: float
    status: Status

    @property
    def result_url(self) -> str | None:
        return self.link.result_url if self.status.state is State.DONE else None

    @property
    def progress(self) -> dict[str, Any] | None:
        if (progress := self.status.progress) is None:
            return None
        return {"done": progress.done, "total": progress.total, "note": progress.note}


def progress_blueprint() -> Blueprint:
    """The addresses that progress bars ask. Nobody needs a password: a signed link names the one job to see."""
    blueprint = Blueprint(NAME, __name__, url_prefix=PREFIX, template_folder="templates")

    @blueprint.get("/progress/<token>/state")
    def state(token: str) -> Response:
        seen = _look(token)
        if isinstance(seen, int):
            return _answer(jsonify(state=None), seen)
        result = {} if seen.result_url is None else {"result_url": seen.result_url}
        return _answer(jsonify(state=str(seen.status.state), progress=seen.progress, **result))

    @blueprint.get("/progress/<token>")
    def page(token: str) -> Response:
        seen = _look(token)
        if isinstance(seen, int):
            return _answer(make_response(render_escaped("spoolkit/progress_page.html", state=None)), seen)
        html = render_escaped(
            "spoolkit/progress_page.html",
            label=seen.link.label,
            state=str(seen.status.state),
            progress=seen.progress,
            result_url=seen.result_url,
        )
        # A note, such as the name of a file, may contain what is not UTF-8.
        response = _answer(Response(html.encode("utf-8", "backslashreplace"), mimetype="text/html"))
        if seen.status.state not in FINISHED:
            age = clock.now() - seen.signed_at
            response.headers["Refresh"] = f"{min(MAX_REFRESH, max(MIN_REFRESH, age / 10)):.0f}"
        return response

    @blueprint.get("/progress-<version>.js")
    def script(version: str) -> Response:
        # A page may have been made by another version of the code. It gets this script, and does not keep it.
        caching = "public, max-age=31536000, immutable" if version == VERSION else "no-store"
        return Response(
            SCRIPT, mimetype="text/javascript", headers={"Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
        )

    return blueprint


def _look(token: str) -> _Seen | int:
    """What the link ``token`` shows; else the status code of an answer that tells nothing of the job."""
    if (known := links.read(token, current_app)) is None:
        return 404
    link, signed_at = known
    if links.is_expired(link):
        return 410
    try:
        return _Seen(link, signed_at, lookup.find(link.job))
    except UnknownJobError:
        return 404
    except (SpoolUnavailableError, StoreUnavailableError):
        return 503


def _answer(response: Response, code: int = 200) -> Response:
    response.status_code = code
    response.headers.update(HEADERS)
    return response
