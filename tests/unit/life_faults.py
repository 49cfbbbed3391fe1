"""Faults at the n-th call of a process into the file system or the store: the process exits, or the store breaks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from spoolkit import StoreUnavailableError
from spoolkit.spooldir.running import AttemptFile
from spoolkit.store.database import Database

CRASHED = 77
"""The exit status of a process that was ended at a step."""


def at_every(stride: int) -> pytest.MarkDecorator:
    """Kill a process at each step that is a multiple of ``stride``; at each step in ``make matrix``.

    A few dozen steps take some seconds. So have an odd number: there is a step before a call and one after it.
    """
    return pytest.mark.parametrize("stride", [stride, pytest.param(1, marks=pytest.mark.matrix)])


CALLS = ("rename", "link", "utime", "unlink", "open", "mkdir", "rmdir")


class Steps:
    """Counts a process's calls into the file system and the store: before each and after each ``reached()``."""

    def __init__(self, patch: pytest.MonkeyPatch, reached: Callable[[], None]) -> None:
        for name in CALLS:
            patch.setattr(os, name, self._around(getattr(os, name), reached))
        for name in ("begin", "hold", "close"):  # they write through a mapping
            patch.setattr(AttemptFile, name, self._around(getattr(AttemptFile, name), reached))
        transaction = Database.transaction

        @contextlib.contextmanager
        def watched(store: Database) -> Iterator[Any]:
            reached()
            with transaction(store) as db:
                yield db
                reached()
            reached()

        patch.setattr(Database, "transaction", watched)

    @staticmethod
    def _around(call: Callable[..., Any], reached: Callable[[], None]) -> Callable[..., Any]:
        def watched(*args: Any, **given: Any) -> Any:
            reached()
            value = call(*args, **given)
            reached()
            return value

        return watched


def die_at(step: int) -> None:
    """End this process at its call number ``step``, counted from 0. For a forked child: there is no way back."""
    left = step

    def reached() -> None:
        nonlocal left
        if left == 0:
            os._exit(CRASHED)
        left -= 1

    Steps(pytest.MonkeyPatch(), reached)


@contextlib.contextmanager
def no_store_after(moves: int) -> Iterator[None]:
    """Within it, the store accepts that many transitions and then breaks."""
    left, transaction = moves, Database.transaction

    @contextlib.contextmanager
    def limited(store: Database) -> Iterator[Any]:
        nonlocal left
        if left == 0:
            raise StoreUnavailableError("no space left on the device", path=store.path)
        left -= 1
        with transaction(store) as db:
            yield db

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "transaction", limited)
        yield
