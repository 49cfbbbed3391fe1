"""What a job in a thread takes along from its caller, and what it must not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from copy import copy
from functools import wraps
from typing import Any

from flask import Flask, Request, current_app, has_request_context, request, session
from flask.ctx import AppContext
from flask.sessions import SessionMixin
from werkzeug.datastructures import ImmutableMultiDict

from spoolkit import callables
from spoolkit.encoding import borrowed
from spoolkit.errors import ArgumentTypeError, ConfigurationError
from spoolkit.job import Job

_LEFT_BEHIND = ("flask.", "spoolkit.")
"""How the names of those context variables begin that belong to the caller: its request, its job, its log."""


def context() -> Context:
    """A copy of the caller's context variables, without its request and its application context."""
    copy = Context()
    for variable, value in copy_context().items():
        if not variable.name.startswith(_LEFT_BEHIND):
            copy.run(variable.set, value)
    return copy


def check(job: Job, names: list[str]) -> None:
    """Refuse arguments that belong to the request or its database session, also within lists, dicts and dataclasses.

    In the thread they would stand for nothing, or for a request that is over.

    Args:
        names: Those of the positional arguments.

    Raises:
        ArgumentTypeError: An argument cannot be given to a thread.
    """
    by_place = {names[at] if at < len(names) else str(at): value for at, value in enumerate(job.args)}
    for name, value in {**by_place, **job.kwargs}.items():
        if found := borrowed.find(name, value):
            where, culprit, advice = found
            kind = type(culprit).__name__
            copied = "; or declare it with @thread(copy_request=True) and use flask.request in it"
            raise ArgumentTypeError(
                f"argument {where!r} is of type {kind}: {advice.text}{copied if advice.with_request else ''}",
                argument=where,
                type_name=kind,
            )


def with_request(function: Callable[..., Any], task: str) -> Callable[..., Any]:
    """``function`` within a copy of the request of now. Raises :class:`ConfigurationError` outside of one."""
    if not has_request_context():
        raise ConfigurationError(
            f"{task} has copy_request=True and was called outside a request", setting="copy_request"
        )
    # Whoever reads the body later reads from a connection that serves another request by then.
    request.get_data(parse_form_data=True)
    # Not copy_current_request_context(): its request and session are the caller's own. At the task's end it would close
    # the uploaded files that the view still reads, and what the task puts into the session would be sent.
    copied = copy(request._get_current_object())  # type: ignore[attr-defined]
    copied.environ = dict(request.environ)
    copied.files = ImmutableMultiDict()
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    of_task = copy(session._get_current_object())  # type: ignore[attr-defined]
    context = _request_context(app, copied, of_task)

    @wraps(function)
    def within(*args: Any, **kwargs: Any) -> Any:
        with context:
            return function(*args, **kwargs)

    @wraps(function)
    async def within_async(*args: Any, **kwargs: Any) -> Any:
        with context:
            return await function(*args, **kwargs)

    return within_async if callables.is_async(function) else within


def _request_context(app: Flask, request: Request, session: SessionMixin) -> AbstractContextManager[object]:
    if hasattr(AppContext, "from_environ"):  # since Flask 3.2 it is the context of a request as well
        context: Callable[..., AbstractContextManager[object]] = AppContext
        return context(app, request=request, session=session)
    from flask.ctx import RequestContext  # of which later versions warn

    return RequestContext(app, request.environ, request=request, session=session)
