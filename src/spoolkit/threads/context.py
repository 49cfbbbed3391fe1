"""What does a thread job get from its caller? Context variables, checked arguments, maybe a copy of the request."""

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
from spoolkit.job import JobSpec

_NOT_COPIED = ("flask.", "spoolkit.")
"""Prefixes of the context variables that belong to the caller alone: its request, its job, its log."""


def copy_caller_context() -> Context:
    """Return a copy of the caller's context variables, without its request, application context and current job."""
    copied = Context()
    for variable, value in copy_context().items():
        if not variable.name.startswith(_NOT_COPIED):
            copied.run(variable.set, value)
    return copied


def check_arguments(job: JobSpec, positional: list[str]) -> None:
    """Refuse arguments that belong to the request or its database session, also within lists, dicts and dataclasses.

    In another thread such an object means nothing, or refers to a request that has ended.

    Args:
        job: The job whose arguments are checked.
        positional: The names of the task's positional parameters, in order.

    Raises:
        ArgumentTypeError: A job cannot take one of the arguments; the message says what to pass instead.
    """
    by_position = {positional[at] if at < len(positional) else str(at): value for at, value in enumerate(job.args)}
    for name, value in {**by_position, **job.kwargs}.items():
        if found := borrowed.find(name, value):
            where, culprit, advice = found
            kind = type(culprit).__name__
            or_copy = "; or declare it with @thread(copy_request=True) and use flask.request in it"
            raise ArgumentTypeError(
                f"argument {where!r} is of type {kind}: {advice.text}{or_copy if advice.with_request else ''}",
                argument=where,
                type_name=kind,
            )


def with_request_copy(function: Callable[..., Any], task: str) -> Callable[..., Any]:
    """Return ``function`` wrapped so that it runs in a copy of the current request.

    Args:
        function: The task's function, which may be a coroutine function.
        task: The name of the task, for the error message.

    Raises:
        ConfigurationError: There is no current request.
    """
    if not has_request_context():
        raise ConfigurationError(
            f"{task} is declared with copy_request=True and was called outside a request: call it in a view",
            setting="copy_request",
        )
    # Read the body now: later, the connection serves another request.
    request.get_data(parse_form_data=True)
    # Not copy_current_request_context(): it shares the caller's request and session objects. At the end of the task it
    # would close uploaded files that the view still reads, and values that the task sets in the session would be sent.
    copied = copy(request._get_current_object())  # type: ignore[attr-defined]
    copied.environ = dict(request.environ)
    copied.files = ImmutableMultiDict()
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    copied_session = copy(session._get_current_object())  # type: ignore[attr-defined]
    context = _request_context(app, copied, copied_session)

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
    if hasattr(AppContext, "from_environ"):  # since Flask 3.2 one class serves as both kinds of context
        context: Callable[..., AbstractContextManager[object]] = AppContext
        return context(app, request=request, session=session)
    from flask.ctx import RequestContext  # later versions warn when it is imported

    return RequestContext(app, request.environ, request=request, session=session)
