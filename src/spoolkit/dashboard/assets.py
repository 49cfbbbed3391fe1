"""The style sheet and the scripts, each with a digest in its URL, so that a browser may keep it for ever."""

from __future__ import annotations

import hashlib
import mimetypes
import os
from functools import lru_cache

from flask import Response, url_for
from werkzeug.exceptions import NotFound

FOLDER = os.path.join(os.path.dirname(__file__), "static")

NAMES = ("icon.svg", "spoolkit.css", "spoolkit.js", "vendor/htmx-4.0.1.min.js")
"""The files."""

FOR_EVER = "private, max-age=31536000, immutable"


def serve(digest: str, name: str) -> Response:
    """Return a file."""
    if name not in NAMES:
        raise NotFound
    response = Response(_content(name), mimetype=mimetypes.guess_type(name)[0])
    # Of a page of another version, during a deploy, the browser must not keep what it gets here.
    response.headers["Cache-Control"] = FOR_EVER if digest == digest_of(name) else "no-store"
    return response


def asset_url(name: str) -> str:
    """Return the URL of a file, for a template."""
    return url_for(".asset", digest=digest_of(name), name=name)


@lru_cache
def digest_of(name: str) -> str:
    """Return the digest in the URL of a file."""
    return hashlib.sha256(_content(name)).hexdigest()[:16]


@lru_cache
def _content(name: str) -> bytes:
    with open(os.path.join(FOLDER, name), "rb") as file:
        return file.read()
