"""How far a job has come, as it says itself: one small file per job, ``checkpoints/<id>``, that outlives attempts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from spoolkit.encoding import codec
from spoolkit.errors import StoreUnavailableError, TooLargeError
from spoolkit.system import files

FOLDER = "checkpoints"
LIMIT = 64 * 1024
"""Bytes that a checkpoint may take."""


class Checkpoint:
    """The checkpoint of the job ``id``, kept in ``folder``; without one, for as long as this object lives."""

    def __init__(self, folder: str | None = None, id: str = "") -> None:
        self._path = None if folder is None else os.path.join(folder, FOLDER, id)
        self._read = False
        self._value: object = None
        self._steps: list[int] = []

    @property
    def value(self) -> object:
        """What the job stored last. Raises :class:`DecodeError` where this version cannot read it."""
        self._load()
        return self._value

    def steps(self, loop: int) -> int:
        """How many steps of its ``loop``-th loop the job has done."""
        self._load()
        return self._steps[loop] if loop < len(self._steps) else 0

    def store(self, value: object) -> None:
        """Store ``value`` in place of what was stored."""
        self._load()
        self._write(value, self._steps)
        self._value = value

    def count(self, loop: int, done: int) -> None:
        """Store that ``done`` steps of the ``loop``-th loop are done."""
        self._load()
        steps = [*self._steps, *[0] * (loop + 1 - len(self._steps))]
        steps[loop] = done
        self._write(self._value, steps)
        self._steps = steps

    def _load(self) -> None:
        if self._read or self._path is None:
            return
        try:
            data = files.read(self._path, LIMIT)
        except OSError as error:
            raise StoreUnavailableError(f"the checkpoint cannot be read: {error}", path=self._path) from error
        if data is not None:
            self._value, self._steps = codec.decode(data)  # type: ignore[misc]
        self._read = True

    def _write(self, value: object, steps: list[int]) -> None:
        data = codec.encode([value, steps])
        if len(data) > LIMIT:
            raise TooLargeError(
                f"the checkpoint takes {len(data)} bytes, the limit is {LIMIT}: store the data and keep its key here",
                size=len(data),
                limit=LIMIT,
                argument="data",
            )
        if self._path is None:
            return
        try:
            try:
                files.write(self._path, data)
            except FileNotFoundError:
                files.make_folder(os.path.dirname(self._path))
                files.write(self._path, data)
        except OSError as error:
            raise StoreUnavailableError(f"the checkpoint cannot be kept: {error}", path=self._path) from error


def delete(folder: str, id: str) -> None:
    """The job ``id`` is over: what it stored is of no use any more."""
    files.remove(os.path.join(folder, FOLDER, id))


def stored(folder: str) -> Iterator[tuple[str, float]]:
    """The jobs that have a checkpoint, each with when it was stored (unix time)."""
    with contextlib.suppress(OSError), os.scandir(os.path.join(folder, FOLDER)) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield entry.name, entry.stat(follow_symlinks=False).st_mtime
