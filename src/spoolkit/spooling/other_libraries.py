"""How do the spool files of others run? Of uwsgidecorators, uwsgi_tasks, and the application's own handler."""

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
"""The end of messages about a function that returned something else."""

adopters: dict[str, Callable[[bridge.Env], None]] = {}
"""What makes a job of spoolkit of a file of another library, by the name of the function; ``spoolkit.compat`` adds it.

Each raises :class:`DecodeError` where it cannot.
"""


def is_adopted(env: bridge.Env) -> bool:
    """Whether a file of another library is for a function that this process declares without that library."""
    if (name := task_name(env)) not in adopters:
        return False
    if b"ud_spool_func" in env:
        library = sys.modules.get("uwsgidecorators")
        return library is None or name not in library.spooler_functions
    # Without these keys the application's own handler has written it.
    return b"function_name" in env and b"setup" in env and "uwsgi_tasks.tasks" not in sys.modules


def run(env: bridge.Env, *, retry_at: float) -> Outcome | int:
    """Have the library that wrote the file run its job.

    Args:
        env: What uWSGI read from the file.
        retry_at: When a job that raised runs again, in unix seconds (UTC); left to uWSGI, it would run at every scan.

    Returns:
        What follows for the job. An integer is the handler's own answer to uWSGI.

    Raises:
        UnknownTaskError: The library has no such function in this process.
        DecodeError: No handler can read the file.
    """
    if is_adopted(env):
        adopters[task_name(env) or ""](env)
        return Done()
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
    """A function of the application, with a note of whether it was called, whether it returned, and what."""

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
        raise UnknownTaskError(f"uwsgidecorators knows no function {name!r} in this process{_advice(name)}", task=name)
    functions: dict[str, object] = library.spooler_functions
    watched = _Watched(library.spooler_functions[name])
    functions[name] = watched
    try:
        return _call(library.manage_spool_request, env, retry_at, watched)
    finally:
        if functions.get(name) is watched:  # it may have been declared again meanwhile
            functions[name] = watched.function


def _advice(function: str) -> str:
    tasks = [declared.name for declared in registry.by_function(function)]
    if not tasks:
        return ""
    return (
        f": it is now declared with spoolkit, as {', '.join(tasks)}. Jobs that were written by uwsgidecorators need "
        "its own declaration until they are done"
    )


def _call(handler: Callable[..., object], env: bridge.Env, retry_at: float, watched: _Watched) -> Outcome | int:
    name = task_name(env) or "the handler of uwsgi.spooler"
    try:
        answer = handler(dict(env))
    except BaseException as error:
        if not watched.began:
            raise DecodeError(f"the arguments could not be read: {type(error).__name__}: {error}") from error
        if not watched.ended:
            log.exception("the job of %s failed and runs again: %s", name, error)
            return RetryAt(retry_at, Failure(retry.message_of(error), type(error).__name__))
        # The library could not convert what was returned to an integer.
        reason = callables.unfinished(watched.returned)
        return Dead(Failure(reason or f"{name} ran to its end and returned {_shown(watched.returned)}, {ANSWERS}"))
    if reason := callables.unfinished(watched.returned):
        return Dead(Failure(reason))
    number = _number(answer)
    if number == SPOOL_OK:
        return Done()
    if number in (SPOOL_RETRY, SPOOL_IGNORE):
        return number  # for uWSGI both mean: again at the next scan
    message = f"{name} returned {_shown(answer)}, {ANSWERS}"
    log.warning("%s; uWSGI treats any other value as SPOOL_RETRY, so its job runs again", message)
    return RetryAt(retry_at, Failure(message, ending="retry"))


def _number(answer: object) -> int | None:
    """Return ``answer`` if it is an integer of any class but ``bool``, else ``None``."""
    try:
        return None if isinstance(answer, bool) else operator.index(answer)  # type: ignore[arg-type]
    except Exception:
        return None


def _shown(answer: object) -> str:
    if answer is None or isinstance(answer, bool) or (type(answer) is int and abs(answer) < 10**9):
        return str(answer)
    return f"a value of type {type(answer).__qualname__}"


def _uwsgi_tasks(env: bridge.Env) -> Outcome:
    # Not by its own handler, which returns SPOOL_OK for everything that fails: the job would be lost without a trace.
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
    if reason := callables.unfinished(result):
        return Dead(Failure(reason))
    return Done(result)


def is_in_use() -> bool:
    """Whether this process also runs jobs of other libraries."""
    return bridge.application_handler() is not None or not sys.modules.keys().isdisjoint(bridge.LIBRARIES)


def task_name(env: bridge.Env) -> str | None:
    """Return the name of the task in a packet of any library; ``None`` if there is none."""
    # In this order: a job of uwsgidecorators may have an argument that is called task.
    for key in (b"ud_spool_func", b"function_name", b"task"):
        if key in env:
            return env[key].decode("utf-8", "backslashreplace")
    return None
