"""What an HTTP process of uWSGI does before it exits, in which order."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spoolkit import spool
from spoolkit.lifecycle import shutdown
from spoolkit.spooldir import spoolfile
from spoolkit.system.process import PerProcess
from spoolkit.uwsgi import bridge


@spool
def note() -> None: ...


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_delayed_jobs_are_left_to_the_spoolers_before_the_process_waits_for_its_threads(
    directory: str, monkeypatch: pytest.MonkeyPatch, signals_as_before: None
) -> None:
    """uWSGI's ``idle`` kills a process that takes three seconds to exit."""
    note.using(delay=60)()
    ticket = Path(directory, spoolfile.TICKET)
    ticket.unlink(missing_ok=True)

    def wait_for_threads(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(shutdown, "_http_process", PerProcess(shutdown._HttpProcess))
    shutdown._http_process.get()
    monkeypatch.setattr(shutdown, "_is_server_stopping", lambda: False)
    monkeypatch.setattr(shutdown.hooks, "run_end_hooks", wait_for_threads)
    monkeypatch.setattr(bridge, "directories", lambda: [directory])
    with pytest.raises(Killed):
        shutdown._at_exit()
    assert os.path.lexists(ticket)
