from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from put_clock import NOW

from spoolkit import SpoolKit
from spoolkit.attempt import process_state
from spoolkit.lifecycle import hooks
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import clock
from spoolkit.threads import engine


@pytest.fixture(autouse=True)
def fresh_pool() -> Iterator[None]:
    """Each test has a pool of its own, with its own settings."""
    yield
    engine.close_pool(clock.Deadline(0))
    hooks._end_hooks.clear()


@pytest.fixture(autouse=True)
def changed_process() -> None:
    """What an earlier test has changed in this process, jobs of this one do not put back."""
    if (known := process_state._process.peek()) is not None:
        known._before = process_state._look()


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    """The spool directory of an application, in whose context the test runs."""
    app = Flask("the_application")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    with app.app_context():
        yield str(tmp_path / "spool")


@pytest.fixture
def work(directory: str) -> Callable[[], None]:
    """Let run here what is due."""
    return Spooler(directory).run_due


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Put the clock forward by so many seconds."""
    now = [NOW]
    monkeypatch.setattr(clock, "now", lambda: now[0])

    def put_forward(seconds: float) -> None:
        now[0] += seconds

    return put_forward
