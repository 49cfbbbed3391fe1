"""How is a page added? A module of this package with ``routes = Routes()``, named in ``blueprint.PAGES``.

::

    routes = Routes()

    @routes.page("/queues")                               # the right "view" is asked for; GET only
    def queues(access: Access) -> ResponseReturnValue:    # its endpoint is "queues": url_for(".queues")
        return render("queues.html", queues=...)

    @routes.action("/queues/<name>/pause", right="pause") # POST only, sent by this site: GET is a 405
    def pause_queue(access: Access, name: str) -> ResponseReturnValue:
        gate.pause(...)
        record(access, f"paused the queue {name}")        # a log line: who did what
        return back_to("queues")                          # 303

A right for the whole page or action is named here and checked before the function is called, whatever a template
shows; for a part of a page, and for other jobs than that of the URL, the function asks ``access.may("arguments")``
or ``access.require("logs")`` itself. A :class:`~spoolkit.errors.SpoolkitError` that is raised becomes a page with its
message and the status of :data:`STATUSES`.

A template extends ``spoolkit/base.html``, which imports the macros as ``ui``, and fills ``title`` and ``live``::

    {% extends "spoolkit/base.html" %}
    {% block title %}Queues{% endblock %}
    {% block live %}<h1>Queues</h1> … {{ ui.action("pause_queue", "Pause", "pause", name=queue.name) }}{% endblock %}

The block ``live`` is what the script fetches anew every two seconds, from the same function, which therefore does
nothing that is not shown. While nothing has changed since (:mod:`spoolkit.admin.changes`), the function is not called:
the answer is 204. A page that must not be refreshed, such as a form, sets ``live=False`` in ``render()``. An element of
the block that is to keep what the visitor has opened or entered has an ``id``. Links are made by ``url_for('.name')``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps

from flask import Blueprint, Response, current_app, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import MethodNotAllowed, NotFound

from spoolkit import errors
from spoolkit.admin import changes, words
from spoolkit.dashboard import origin
from spoolkit.dashboard.access import Access, AccessFunction, Right
from spoolkit.dashboard.assets import asset_url
from spoolkit.errors import SpoolkitError
from spoolkit.job import State
from spoolkit.store import database, locations
from spoolkit.system import clock, log
from spoolkit.system.templates import render_escaped

View = Callable[..., ResponseReturnValue]
"""A page or an action: a function of an :class:`Access` and of the variables in its URL."""

LOCK_TIMEOUT = 2.0
"""Seconds that an answer waits for a store which another process has locked."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Every route takes all methods, so that it is a 404, and no 405, to somebody who may not know of the page."""

PAGES = (
    ("overview", "Overview"),
    ("jobs", "Jobs"),
    ("dead", "Dead jobs"),
    ("periodic", "Periodic"),
    ("queues", "Queues"),
    ("tasks", "Tasks"),
    ("doctor", "Doctor"),
)
"""The navigation: the endpoints of the pages, and what they are called."""

STATUSES: tuple[tuple[type[SpoolkitError], int], ...] = (
    (errors.ForbiddenError, 403),
    (errors.UnknownJobError, 404),
    (errors.UnknownTaskError, 404),
    (errors.UnknownScheduleError, 404),
    (errors.UnknownQueueError, 404),
    (errors.UnknownBatchError, 404),
    (errors.JobStateError, 409),
    (errors.ConfigurationError, 409),
    (errors.NewerScheduleError, 409),
    (errors.ArgumentError, 400),
    (errors.SpoolUnavailableError, 503),
    (errors.StoreUnavailableError, 503),
    (errors.KeyLockedError, 503),
    (errors.QueueFull, 503),
)
"""The HTTP status of each kind of error, the first one that fits."""


@dataclass(frozen=True)
class Route:
    """A URL of the page."""

    #: Below the prefix of the blueprint.
    rule: str
    #: What answers.
    view: View
    #: The right that it needs; ``None``: none but to know of the page.
    right: Right | None
    #: The methods that it answers.
    methods: tuple[str, ...]
    #: Whether it is refreshed, and answered by 204 while nothing has changed.
    is_live: bool = False
    #: Whether it answers everybody, with less to those who may not see the page: their access is ``None``.
    is_open: bool = False


class Routes(list[Route]):
    """The routes of one module."""

    def page(self, rule: str, *, right: Right = "view") -> Callable[[View], View]:
        """Add a page: a decorator. It is answered to GET, and must change nothing.

        Args:
            rule: Its URL below the prefix, in Flask's syntax.
            right: The right that somebody needs to see it.
        """
        return self._adds(rule, right, ("GET", "HEAD"), is_live=True)

    def action(self, rule: str, *, right: Right) -> Callable[[View], View]:
        """Add an action: a decorator. It is answered to POST, where a page of this site has sent it.

        Args:
            rule: Its URL below the prefix, in Flask's syntax: one of its own.
            right: The right that somebody needs to do it.
        """
        return self._adds(rule, right, ("POST",))

    def file(self, rule: str) -> Callable[[View], View]:
        """Add a file for everybody who knows of the page: a decorator."""
        return self._adds(rule, None, ("GET", "HEAD"))

    def open(self, rule: str) -> Callable[[View], View]:
        """Add what everybody may ask, such as whether the site is healthy: a decorator.

        The view gets the access of somebody who sends a password or a cookie that opens the page, otherwise ``None``.
        """
        return self._adds(rule, None, ("GET", "HEAD"), is_open=True)

    def _adds(
        self, rule: str, right: Right | None, methods: tuple[str, ...], *, is_live: bool = False, is_open: bool = False
    ) -> Callable[[View], View]:
        def add(view: View) -> View:
            self.append(Route(rule, view, right, methods, is_live, is_open))
            return view

        return add

    def add_to(self, blueprint: Blueprint, access: AccessFunction) -> None:
        """Add these routes to a blueprint. The endpoint of each is the name of its function."""
        for route in self:
            blueprint.add_url_rule(
                route.rule,
                endpoint=route.view.__name__,
                view_func=_view_of(route, access),
                methods=METHODS,
                provide_automatic_options=False,
                # Redirects would tell that there is a page.
                strict_slashes=False,
                merge_slashes=False,
            )


def _view_of(route: Route, access: AccessFunction) -> View:
    @wraps(route.view)  # Flask-WTF asks each view for its name
    def view(**values: object) -> ResponseReturnValue:
        return _answer(route, access, values)

    return view


def _answer(route: Route, find_access: AccessFunction, values: dict[str, object]) -> ResponseReturnValue:
    """Answer a request, or refuse it, in this order: a stranger learns nothing."""
    if route.is_open:
        if request.method not in route.methods:
            raise MethodNotAllowed(route.methods)
        known = find_access(request) if request.authorization or request.cookies else None
        return route.view(known if isinstance(known, Access) else None, **values)
    access = find_access(request)
    if access is None:
        raise NotFound
    if not isinstance(access, Access):
        return access
    g.spoolkit_access = access
    if request.method not in route.methods:
        raise MethodNotAllowed(route.methods)
    if "POST" in route.methods:
        origin.check(request)
    if route.right is not None:
        access.require(route.right)
    with database.waiting_once(LOCK_TIMEOUT):
        return _view(route, access, values)


def _view(route: Route, access: Access, values: dict[str, object]) -> ResponseReturnValue:
    """Answer somebody who may ask, unless the state of the jobs cannot be read."""
    if route.right is not None:
        locations.check_readable()
        store = locations.store()
        g.spoolkit_missing_store = None if store.check_usable() else store.path
    if not route.is_live:
        return route.view(access, **values)
    # Asked before the page is made: what changes meanwhile must be fetched by the next refresh.
    g.spoolkit_version = version = changes.version()
    if request.headers.get("If-None-Match") == version:
        return Response(status=204)
    return route.view(access, **values)


def render(template: str, *, live: bool = True, status: int = 200, **values: object) -> ResponseReturnValue:
    """Return a page, or only its block ``live`` for a refresh.

    Args:
        template: The name of its template in ``templates/spoolkit/``.
        live: Whether the page is refreshed.
        status: The HTTP status.
        **values: What the template shows.
    """
    is_live = live and "spoolkit_version" in g
    prefix = f"{request.blueprint}."
    endpoints = {name.removeprefix(prefix) for name in current_app.view_functions if name.startswith(prefix)}
    text = render_escaped(
        f"spoolkit/{template}",
        access=g.spoolkit_access,
        words=words,
        now=clock.now(),
        State=State,
        is_live=is_live,
        version=g.spoolkit_version if is_live else "",
        missing_store=g.get("spoolkit_missing_store"),
        only_live="HX-Request" in request.headers,
        pages=[page for page in PAGES if page[0] in endpoints],
        endpoints=endpoints,
        asset_url=asset_url,
        **values,
    )
    # The name of a file may contain what is not UTF-8.
    response = Response(text.encode("utf-8", "backslashreplace"), status, mimetype="text/html")
    if is_live:
        response.headers["X-Spoolkit-Version"] = g.spoolkit_version
    return response


def back_to(endpoint: str, **values: object) -> ResponseReturnValue:
    """Return the answer of an action that was done: a redirect to the page that shows it.

    Args:
        endpoint: The name of the page's function.
        **values: The variables of its URL, and of its query.
    """
    return redirect(url_for(f".{endpoint}", **values), 303)  # type: ignore[arg-type]


def record(access: Access, what: str) -> None:
    """Log who did what: also what no job can tell, such as a pause."""
    log.info("%s, on the dashboard: %s", access.user, what)


def confirm(
    question: str, button: str, *, back: str, details: Iterable[str] = (), **fields: object
) -> ResponseReturnValue | None:
    """Return the page that asks whether an action is meant, to be answered first; ``None``: it was confirmed.

    Args:
        question: What is about to happen, with the numbers.
        button: What the button says that does it.
        back: The URL of the page for those who think better of it.
        details: What else there is to know, a paragraph each.
        **fields: What the form sends again, besides the variables of the URL: a text, or several.
    """
    if request.form.get("confirmed") == "yes":
        return None
    lists = {name: value if isinstance(value, (list, tuple)) else [value] for name, value in fields.items()}
    return render(
        "confirm.html", live=False, question=question, button=button, back=back, details=details, fields=lists
    )


def show_error(error: SpoolkitError) -> ResponseReturnValue:
    """Return the page of an error: its message, and its status."""
    status = next((code for kind, code in STATUSES if isinstance(error, kind)), 500)
    return render("error.html", live=False, status=status, error=error, error_status=status)
