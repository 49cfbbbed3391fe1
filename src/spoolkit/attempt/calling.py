"""How is a task's function called? An ``async def`` runs to its end in an event loop of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import Any

from spoolkit import callables
from spoolkit.attempt import timeouts
from spoolkit.errors import Abort, JobTimeout
from spoolkit.registry import Declared

NOTHING = nullcontext()
"""A context manager that does nothing."""


def call(declared: Declared, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call the function of a task, and if it is a coroutine function, run its coroutine.

    Args:
        declared: The task. After its timeout a coroutine is cancelled; for other functions see :func:`soft_limit`.
        args: The positional arguments.
        kwargs: The keyword arguments.

    Returns:
        What the function or its coroutine returned.

    Raises:
        JobTimeout: The coroutine was cancelled because of the timeout.
        Abort: What was returned would have to be awaited or iterated, so the work is not done.
    """
    if declared.is_async:
        returned = run_coroutine(declared.function, args, kwargs, declared.options.timeout)
    else:
        with no_child():
            returned = declared.function(*args, **kwargs)
    if returned is not None and (reason := callables.unfinished(returned)):
        raise Abort(reason)
    return returned


def soft_limit(declared: Declared) -> AbstractContextManager[None]:
    """Raise :class:`JobTimeout` in the ``with`` block after the timeout of the task. Coroutines: see :func:`call`."""
    timeout = declared.options.timeout
    # Raised from a signal handler, JobTimeout could also come up in the event loop's own code, and break it.
    return NOTHING if timeout is None or declared.is_async else timeouts.soft(timeout)


def run_coroutine(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None = None
) -> Any:
    """Run a coroutine function to its end, in a new event loop and a copy of the caller's context variables.

    Raises :class:`JobTimeout` after ``timeout`` seconds.
    """
    import asyncio  # only here: it is large, and most tasks need none of it

    def run() -> Any:
        # With a factory, the runner does not replace the loop that the application has made current in this thread.
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            return runner.run(_main(function, args, kwargs, timeout))

    if not _has_loop():
        return run()
    # The caller is itself a coroutine, and a thread can run only one loop.
    with ThreadPoolExecutor(1, thread_name_prefix="spoolkit-coroutine") as thread:
        return thread.submit(copy_context().run, run).result()


def _has_loop() -> bool:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _main(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout: float | None
) -> Any:
    import asyncio

    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            with no_child():
                return await function(*args, **kwargs)
    except TimeoutError as error:
        # The task may raise a TimeoutError of its own.
        if limit.expired() and isinstance(error.__cause__, asyncio.CancelledError):
            assert timeout is not None
            raise JobTimeout(timeouts.message(timeout)) from error.__cause__
        raise


def without_own_frames(error: BaseException) -> BaseException:
    """Return ``error`` with a traceback that starts in the task, without the frames of spoolkit and asyncio above."""
    asyncio = sys.modules.get("asyncio")
    packages = [module for module in (sys.modules["spoolkit"], asyncio) if module is not None]
    ours = tuple(os.path.join(os.path.dirname(package.__file__ or ""), "") for package in packages)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(ours):
        trace = trace.tb_next
    # Not error.with_traceback(), which the task's own class may override.
    return BaseException.with_traceback(error, trace)


class no_child:  # noqa: N801 - a function would be a generator, whose frames take three times as long
    """End a child process that the task forked as soon as it leaves the ``with`` block, with a fitting exit status."""

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if os.getpid() != self._pid:
            # The child is no spooler, but would go on as one: settle its parent's job, disarm the parent's hard limit,
            # and scan the directory for ever. So it ends here, before any of that.
            code = error.code if isinstance(error, SystemExit) else error and 1
            os._exit(code if isinstance(code, int) else int(code is not None))
