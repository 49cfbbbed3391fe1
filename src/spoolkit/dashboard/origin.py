"""Does a form come from this very site? Asked without a session: the browser says so in its headers.

``Sec-Fetch-Site`` cannot be set by a page. Browsers leave it out where the site is plain http, other than on
localhost; then ``Origin`` must name the same host. A program that sends neither is refused: it has the command line.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Request

from spoolkit.errors import ForbiddenError

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check(request: Request) -> None:
    """Raise :class:`~spoolkit.errors.ForbiddenError` unless a request was sent by a page of the same site."""
    reason = refusal(request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin"), request.host)
    if reason is not None:
        raise ForbiddenError(f"this form was not sent by a page of this site: {reason}")


def refusal(fetch_site: str | None, origin: str | None, host: str) -> str | None:
    """Return why a request that changes something is refused; ``None``: it is not.

    Args:
        fetch_site: The header ``Sec-Fetch-Site``; ``None``: there is none.
        origin: The header ``Origin``; ``None``: there is none.
        host: The host of the request, with its port if that is not the default one.
    """
    if fetch_site is not None:
        return None if fetch_site == "same-origin" else f"the browser says that it is {fetch_site[:40]!r}"
    if origin is None:
        return "the request has neither Sec-Fetch-Site nor Origin"
    try:
        parts = urlsplit(origin)
    except ValueError:
        return f"Origin is {origin[:80]!r}"
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None or not parts.netloc:
        return f"Origin is {origin[:80]!r}"
    if parts.netloc.lower().removesuffix(default) == host.lower().removesuffix(default):
        return None
    return (
        f"Origin is {origin[:80]!r}, and the host is {host[:80]!r}. Behind a proxy, have it hand on the host: "
        "`proxy_set_header Host $host;` in nginx, or ProxyFix(app, x_host=1) if it sends X-Forwarded-Host"
    )
