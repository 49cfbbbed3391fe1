"""What has a job stored for its next attempt? One small file per job, ``checkpoints/<id>``, which outlives attempts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from spoolkit.encoding import codec
from spoolkit.errors import StoreUnavailableError, TooLargeError
from spoolkit.system import files

FOLDER = "checkpoints"
LIMIT = 64 * 1024
"""The greatest size of a checkpoint in bytes."""


class Checkpoint:
    """The checkpoint of one job.

    Args:
        spool_dir: The spool directory that holds the file; ``None``: there is no file, and the checkpoint lives as long
            as this object.
        id: The id of the job.
    """

    def __init__(self, spool_dir: str | None = None, id: str = "") -> None:
        self._path = None if spool_dir is None else os.path.join(spool_dir, FOLDER, id)
        self._read = False
        self._value: object = None
        self._steps: list[int] = []

    @property
    def value(self) -> object:
        """The value that the job stored last; ``None``: none.

        Raises :class:`DecodeError` if this version of the code cannot read it, :class:`StoreUnavailableError`.
        """
        self._load()
        return self._value

    def steps(self, loop: int) -> int:
        """Return how many steps of loop number ``loop`` (from 0) are done. Raises what :attr:`value` raises."""
        self._load()
        return self._steps[loop] if loop < len(self._steps) else 0

    def store(self, value: object) -> None:
        """Replace the stored value.

        Raises:
            ArgumentTypeError: The value cannot be encoded.
            TooLargeError: The checkpoint would be larger than :data:`LIMIT`.
            StoreUnavailableError: The file cannot be written.
        """
        self._load()
        self._write(value, self._steps)
        self._value = value

    def count(self, loop: int, done: int) -> None:
        """Store that ``done`` steps of loop number ``loop`` are done. Raises what :meth:`store` raises."""
        self._load()
        steps = [*self._steps, *[0] * (loop + 1 - len(self._steps))]
        steps[loop] = done
        self._write(self._value, steps)
        self._steps = steps

    def read(self) -> tuple[object, list[int]]:
        """Return the stored value, and how many steps of each loop are done. Raises what :attr:`value` raises."""
        self._load()
        return self._value, self._steps

    def _load(self) -> None:
        if self._read:
            return
        if (data := self._read_data()) is not None:
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
        self._write_data(data)

    def _read_data(self) -> bytes | None:
        if self._path is None:
            return None
        try:
            return files.read(self._path, LIMIT)
        except OSError as error:
            raise StoreUnavailableError(f"the checkpoint cannot be read: {error}", path=self._path) from error

    def _write_data(self, data: bytes) -> None:
        if self._path is None:
            return
        try:
            _write(self._path, data)
        except OSError as error:
            raise StoreUnavailableError(f"the checkpoint cannot be written: {error}", path=self._path) from error


class CheckpointElsewhere(Checkpoint):
    """The checkpoint of a job that runs in a worker: the machine that has accepted the job keeps it.

    Args:
        data: What that machine has.
        send: Returns once the broker has new content for that machine, and may raise anything.
    """

    def __init__(self, data: bytes | None, send: Callable[[bytes], None]) -> None:
        super().__init__()
        self._data = data
        self._send = send

    def _read_data(self) -> bytes | None:
        return self._data

    def _write_data(self, data: bytes) -> None:
        try:
            self._send(data)
        except Exception as error:
            raise StoreUnavailableError(f"the checkpoint cannot be sent: {error}", path="") from error


def _write(path: str, data: bytes) -> None:
    try:
        files.write(path, data)
    except FileNotFoundError:
        files.make_folder(os.path.dirname(path))
        files.write(path, data)


def load(spool_dir: str, id: str) -> bytes | None:
    """Return the content of the checkpoint of the job ``id``; ``None``: it has none. Raises ``OSError``."""
    return files.read(os.path.join(spool_dir, FOLDER, id), LIMIT)


def save(spool_dir: str, id: str, data: bytes) -> None:
    """Replace the content of the checkpoint of the job ``id``. Raises ``OSError``."""
    _write(os.path.join(spool_dir, FOLDER, id), data)


def read(spool_dir: str, id: str) -> tuple[object, list[int]] | None:
    """Return what :meth:`Checkpoint.read` returns for the job ``id``; ``None`` if it has stored nothing."""
    value, steps = Checkpoint(spool_dir, id).read()
    return None if value is None and not any(steps) else (value, steps)


def delete(spool_dir: str, id: str) -> None:
    """Delete the checkpoint of the job ``id``, if there is one. Never raises ``OSError``."""
    files.remove(os.path.join(spool_dir, FOLDER, id))


def stored(spool_dir: str) -> Iterator[tuple[str, float]]:
    """Yield the ids of the jobs with a checkpoint, each with the unix time at which it was stored."""
    with contextlib.suppress(OSError), os.scandir(os.path.join(spool_dir, FOLDER)) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield entry.name, entry.stat(follow_symlinks=False).st_mtime
