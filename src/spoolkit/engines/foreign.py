"""The spool files of others: uwsgidecorators, uwsgi_tasks, and a handler that the application wrote itself."""

from __future__ import annotations

import sys
import types

from spoolkit import bridge, log, retry
from spoolkit.errors import DecodeError, UnknownTaskError
from spoolkit.job import SPOOL_OK, SPOOL_RETRY, Dead, Done, Failure, Outcome, RetryAt


def run(env: bridge.Env, *, retry_at: float) -> Outcome | int:
    """Hand the file to the library that wrote it, and say what follows.

    ``retry_at`` is the unix time at which a job that raised runs again; left to uWSGI it would run at every scan. An
    integer is the handler's own word to uWSGI. Raises :class:`UnknownTaskError` or :class:`DecodeError` where no
    handler knows the file.
    """
    if b"ud_spool_func" in env:
        return _uwsgidecorators(env, retry_at)
    if b"function_name" in env and b"setup" in env:
        return _uwsgi_tasks(env)
    if bridge.plain_handler is None:
        raise DecodeError(f"no handler knows this file; its keys are {sorted(map(str, env))[:20]}")
    return _call(bridge.plain_handler, env, retry_at)


def _uwsgidecorators(env: bridge.Env, retry_at: float) -> Outcome | int:
    name = env[b"ud_spool_func"].decode("utf-8", "replace")
    library = sys.modules.get("uwsgidecorators")
    if library is None or name not in library.spooler_functions:
        raise UnknownTaskError(f"uwsgidecorators knows no function {name!r} in this process", task=name)
    return _call(library.manage_spool_request, env, retry_at, library)


def _call(
    handler: bridge.Handler, env: bridge.Env, retry_at: float, library: types.ModuleType | None = None
) -> Outcome | int:
    try:
        result = handler(dict(env))
    except BaseException as error:
        if library is not None and not _reached_function(error, library):
            raise DecodeError(f"the arguments could not be read: {type(error).__name__}: {error}") from error
        log.exception("%s failed and runs again: %s", task_name(env) or "the handler of uwsgi.spooler", error)
        return RetryAt(retry_at, Failure(retry.message_of(error), type(error).__name__))
    if type(result) is not int:
        return int(SPOOL_RETRY)  # as uWSGI takes whatever is no integer
    return Done() if result == SPOOL_OK else result


def _reached_function(error: BaseException, library: types.ModuleType) -> bool:
    """Whether the traceback leaves the library: only then did the application's function begin."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename not in (__file__, library.__file__):
            return True
        trace = trace.tb_next
    return False


def _uwsgi_tasks(env: bridge.Env) -> Outcome:
    # Its own handler answers SPOOL_OK to everything that goes wrong, so that the job is gone without a trace.
    library = sys.modules.get("uwsgi_tasks.tasks")
    name = env[b"function_name"].decode("utf-8", "replace")
    if library is None:
        raise UnknownTaskError(f"uwsgi_tasks is not imported in this process, nor its function {name!r}", task=name)
    try:
        task = library.SpoolerTask.extract_from_message(dict(env))
        task.function  # noqa: B018 - looks the function up
    except Exception as error:
        raise DecodeError(f"uwsgi_tasks cannot read its job of {name!r}: {type(error).__name__}: {error}") from error
    try:
        result = task.execute_now()
    except BaseException as error:
        message = f"{name}: {retry.message_of(error)}"
        return Dead(Failure(message, type(error).__name__, retry.describe(error)))
    return Done(result)


def task_name(env: bridge.Env) -> str | None:
    """The task that the packet names, whichever library wrote it."""
    for key in (b"task", b"ud_spool_func", b"function_name"):
        if key in env:
            return env[key].decode("utf-8", "backslashreplace")
    return None
