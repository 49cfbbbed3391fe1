"""Which headers has each answer? Nothing inline runs, nothing is kept by a cache, nothing is framed."""

from __future__ import annotations

from flask import Response, g

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)


def add(response: Response) -> Response:
    """Add the headers to an answer, but for a stranger. An answer that may be kept has said so before."""
    if "spoolkit_access" not in g:
        return response
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    # With "no-referrer" browsers send "Origin: null" in forms of this very site, and Flask-WTF asks for a Referer.
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
