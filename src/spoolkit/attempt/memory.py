"""How much memory may an attempt take? Beyond it, an allocation raises ``MemoryError`` in the task."""

from __future__ import annotations

import resource
from functools import partial

from spoolkit.errors import JobMemoryError
from spoolkit.system import process


class limited:  # noqa: N801 - a function would be a generator, which needs memory to be left
    """Let this process take ``more`` bytes of memory than it has now within the ``with`` block.

    What counts is private memory that can be written (``RLIMIT_DATA``), as Python and C extensions allocate it: not
    files that are mapped, nor libraries. A ``MemoryError`` of the block becomes a :class:`JobMemoryError`.
    """

    def __init__(self, more: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = min(one for one in (process.data_size() + more, soft, hard) if one != resource.RLIM_INFINITY)
        self._more = more
        self._limit = partial(resource.setrlimit, resource.RLIMIT_DATA, (limit, hard))
        # Complete from here on: when it is called, there may be no memory for another object.
        self._restore = partial(resource.setrlimit, resource.RLIMIT_DATA, (soft, hard))

    def __enter__(self) -> None:
        self._limit()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._restore()
        if isinstance(error, MemoryError):
            raise JobMemoryError(
                f"the task needs more than {self._more} bytes of memory, its limit (memory=)", limit=self._more
            ) from error
