"""The spool files of others: uwsgidecorators, uwsgi_tasks, and a handler that the application wrote itself."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable

from spoolkit import callables, registry
from spoolkit.attempt import calling, retry
from spoolkit.errors import DecodeError, UnknownTaskError
from spoolkit.job import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, Dead, Done, Failure, Outcome, RetryAt
from spoolkit.system import log
from spoolkit.uwsgi import bridge

ANSWERS = "where uWSGI expects SPOOL_OK, SPOOL_RETRY or SPOOL_IGNORE: return one of them"


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
    handler = bridge.application_handler()
    if handler is None:
        raise DecodeError(f"no handler knows this file; its keys are {sorted(map(str, env))[:20]}")
    watched = _Watched(handler)
    return _call(watched, env, retry_at, watched)


class _Watched:
    """A function of the application's: whether it was called, whether it came back, and with what."""

    def __init__(self, function: Callable[..., object]) -> None:
        self.function = function
        self.began = self.ended = False
        self.returned: object = None

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.began = True
        with calling.no_child():
            self.returned = self.function(*args, **kwargs)
        self.ended = True
        return self.returned


def _uwsgidecorators(env: bridge.Env, retry_at: float) -> Outcome | int:
    name = env[b"ud_spool_func"].decode("utf-8", "replace")
    library = sys.modules.get("uwsgidecorators")
    if library is None or name not in library.spooler_functions:
        raise UnknownTaskError(
            f"uwsgidecorators knows no function {name!r} in this process{_successor(name)}", task=name
        )
    functions: dict[str, object] = library.spooler_functions
    watched = _Watched(library.spooler_functions[name])
    functions[name] = watched
    try:
        return _call(library.manage_spool_request, env, retry_at, watched)
    finally:
        if functions.get(name) is watched:  # it may have been declared anew meanwhile
            functions[name] = watched.function


def _successor(function: str) -> str:
    tasks = [declared.name for declared in registry.by_function(function)]
    if not tasks:
        return ""
    return (
        f": it is declared with spoolkit now, as {', '.join(tasks)}. Jobs that uwsgidecorators wrote need its own "
        "declaration until they are done"
    )


def _call(handler: Callable[..., object], env: bridge.Env, retry_at: float, watched: _Watched) -> Outcome | int:
    name = task_name(env) or "the handler of uwsgi.spooler"
    try:
        answer = handler(dict(env))
    except BaseException as error:
        if not watched.began:
            raise DecodeError(f"the arguments could not be read: {type(error).__name__}: {error}") from error
        if not watched.ended:
            log.exception("%s failed and runs again: %s", name, error)
            return RetryAt(retry_at, Failure(retry.message_of(error), type(error).__name__))
        # The library could make no integer of what was returned.
        why = callables.unfinished(watched.returned)
        return Dead(Failure(why or f"{name} ran to its end and returned {_shown(watched.returned)}, {ANSWERS}"))
    if why := callables.unfinished(watched.returned):
        return Dead(Failure(why))
    number = _number(answer)
    if number == SPOOL_OK:
        return Done()
    if number in (SPOOL_RETRY, SPOOL_IGNORE):
        return number  # uWSGI's own meaning: again at the next scan
    message = f"{name} returned {_shown(answer)}, {ANSWERS}"
    log.warning("%s; uWSGI takes anything else for SPOOL_RETRY, and it runs again", message)
    return RetryAt(retry_at, Failure(message, ending="retry"))


def _number(answer: object) -> int | None:
    """The integer that ``answer`` is, of whatever class; a truth value is none, though Python counts it among them."""
    try:
        return None if isinstance(answer, bool) else operator.index(answer)  # type: ignore[arg-type]
    except Exception:
        return None


def _shown(answer: object) -> str:
    if answer is None or isinstance(answer, bool) or (type(answer) is int and abs(answer) < 10**9):
        return str(answer)
    return f"a value of type {type(answer).__qualname__}"


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
        with calling.no_child():
            result = task.execute_now()
    except BaseException as error:
        message = f"{name}: {retry.message_of(error)}"
        return Dead(Failure(message, type(error).__name__, retry.describe(error)))
    if why := callables.unfinished(result):
        return Dead(Failure(why))
    return Done(result)


def is_in_use() -> bool:
    """Whether this process runs jobs of another library too."""
    return bridge.application_handler() is not None or not sys.modules.keys().isdisjoint(bridge.LIBRARIES)


def task_name(env: bridge.Env) -> str | None:
    """The task that the packet names, whichever library wrote it."""
    for key in (b"task", b"ud_spool_func", b"function_name"):
        if key in env:
            return env[key].decode("utf-8", "backslashreplace")
    return None
