"""Who may see the page, and what may they do there? Closed by default."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

from flask import Request, Response, current_app
from flask.typing import ResponseReturnValue

from spoolkit.errors import ConfigurationError, ForbiddenError, shown
from spoolkit.system import log

Right = Literal["view", "arguments", "logs", "retry", "cancel", "pause", "run", "purge", "edit"]
"""What somebody may do: see the pages; see the arguments of jobs; see what they printed, with tracebacks; retry dead
jobs; cancel jobs; pause and resume queues, tasks and schedules; run a job or a schedule now; delete records; run a job
again with other arguments."""

ALL_RIGHTS: frozenset[str] = frozenset(get_args(Right))
"""All rights."""

READ_ONLY: frozenset[str] = frozenset({"view"})
"""The right of somebody who only looks, and sees neither arguments nor logs."""

MAX_USER = 80
"""Characters of a user's name that are recorded."""

FORWARDED = (
    *("forwarded", "x-forwarded", "x-original-", "via", "cdn-loop", "x-real-ip", "x-client-ip", "x-cluster-client-ip"),
    *("true-client-ip", "cf-", "fastly-client", "fly-", "x-amzn-", "x-azure-", "x-envoy-", "ngrok-", "tailscale-"),
)
"""How the names of headers begin that a proxy adds: the request comes from elsewhere, whatever its address says."""


@dataclass(frozen=True)
class Access:
    """Somebody who may see the page.

    Raises:
        ConfigurationError: A right is unknown, or ``user`` is no text.
    """

    #: Who it is: recorded with everything that is done to a job.
    user: str
    #: The rights: some of :data:`ALL_RIGHTS`.
    can: Collection[str]

    def __post_init__(self) -> None:
        if not isinstance(self.user, str):
            raise ConfigurationError(f"user is {shown(self.user)}: give a text", setting="user")
        given = {self.can} if isinstance(self.can, str) else set(self.can)
        if unknown := sorted(given - ALL_RIGHTS, key=str):
            known = ", ".join(get_args(Right))
            raise ConfigurationError(f"{shown(unknown[0])} is no right: give some of {known}", setting="can")
        object.__setattr__(self, "can", frozenset(given))
        object.__setattr__(self, "user", log.one_line(self.user)[:MAX_USER] or "somebody")

    def may(self, *rights: Right) -> bool:
        """Whether these rights are all granted."""
        return all(right in self.can for right in rights)

    def require(self, *rights: Right) -> None:
        """Raise :class:`~spoolkit.errors.ForbiddenError` unless these rights are all granted."""
        for right in rights:
            if right not in self.can:
                raise ForbiddenError(f"{self.user} has no right to do this: it needs the right {right!r}", right=right)


Answer = Access | ResponseReturnValue | None
AccessFunction = Callable[[Request], Answer]
"""Returns who sends a request and what they may do; ``None``: the page is a 404 for them; or the response that they
get, such as a redirect to a login."""


def basic_auth(setting: str, *, can: Collection[str] = ALL_RIGHTS) -> AccessFunction:
    """Open the page to everybody who knows a password. Use it over HTTPS only: the browser sends it as plain text.

    Args:
        setting: The name of the password: that of a setting in ``app.config``, else of an environment variable. While
            it is unset or empty, the page is closed.
        can: The rights.

    Returns:
        A function for ``dashboard_blueprint(access=...)``. The name under which somebody logs in is free: it tells who
        did what. Without the password the answer is 401.
    """
    Access("", can)  # a right that is unknown is refused now, not in each request

    def access(request: Request) -> Access | Response | None:
        password = str(current_app.config.get(setting) or os.environ.get(setting) or "")
        if not password:
            log.complain(f"the dashboard is closed: set the password {setting}, in app.config or in the environment")
            return None
        given = request.authorization
        if given is not None and given.type == "basic" and _is_same(given.password or "", password):
            return Access(given.username or "", can)
        challenge = {"WWW-Authenticate": 'Basic realm="spoolkit", charset="UTF-8"'}
        return Response("The password is missing or wrong.\n", 401, challenge, mimetype="text/plain")

    return access


def _is_same(given: str, password: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), password.encode("utf-8", "replace"))


def given_or_default(access: AccessFunction | None) -> AccessFunction:
    """Return ``access``, where ``None`` stands for :func:`on_this_machine`.

    Raises:
        ConfigurationError: It is no function.
    """
    if access is not None and not callable(access):
        raise ConfigurationError(f"access is {shown(access)}: give a function of a request", setting="access")
    return access or on_this_machine


def on_this_machine(request: Request) -> Access | None:
    """Open the page to a developer in front of the machine: what counts where ``access=`` is not given."""
    problem = _distance(request)
    if problem is None:
        return Access("developer", ALL_RIGHTS)
    log.complain(
        "the dashboard is closed: %s. Open it by dashboard_blueprint(access=...), such as "
        'access=basic_auth("SPOOLKIT_DASHBOARD_PASSWORD")',
        problem,
    )
    return None


def _distance(request: Request) -> str | None:
    """Why a request may come from somebody else than the developer; ``None`` if it cannot."""
    if not current_app.debug:
        return "the application is not in debug mode"
    if not _is_loopback(request.remote_addr or ""):
        return f"the request comes from {request.remote_addr}"
    if not _is_loopback(_name_of(request.host)):
        # The name of a page in the developer's browser, which somebody has made to mean this machine.
        return f"the request is for the host {request.host[:80]}"
    if found := next((name for name, _ in request.headers if name.lower().startswith(FORWARDED)), None):
        return f"the request has passed a proxy: it has the header {found}"
    return None


def _name_of(host: str) -> str:
    """The host without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # A server that listens to both families sees 127.0.0.1 as ::ffff:127.0.0.1.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
