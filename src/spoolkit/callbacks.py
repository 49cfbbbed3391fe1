"""What of its own does an application have called for its jobs? :class:`~spoolkit.extension.SpoolKit` declares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

HeadersFunction = Callable[[], Mapping[str, str] | None]
"""Returns headers for a job that is being called."""


class Callbacks:
    """What one :class:`~spoolkit.extension.SpoolKit` has declared, each in the order of the declarations."""

    def __init__(self) -> None:
        #: Return headers for each job that is called.
        self.headers: list[HeadersFunction] = []


NONE = Callbacks()
"""Those of a process without an application."""


class ThisProcess:
    """What is known of all applications of this process."""

    #: Whether any of them has declared anything. Where none has, which is usual, nothing else is asked.
    has_any = False


this_process = ThisProcess()
