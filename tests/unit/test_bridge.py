"""What spoolkit asks of uWSGI, with a table of processes as uWSGI reports it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from spoolkit.system import process
from spoolkit.uwsgi import bridge


@pytest.fixture
def later() -> Iterator[int]:
    """A process that started after this one."""
    child = subprocess.Popen(["sleep", "60"])
    yield child.pid
    child.kill()
    child.wait()


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The first HTTP process, as uWSGI lists it."""
    row: dict[str, Any] = {"pid": os.getpid(), "respawn_count": 0, "apps": ({},)}
    monkeypatch.setattr(bridge, "uwsgi", SimpleNamespace(workers=lambda: (row,)))
    return row


def test_a_spooler_is_outdated_once_a_later_http_process_serves(first: dict[str, Any], later: int) -> None:
    assert not bridge.is_outdated()
    first.update(pid=later, respawn_count=1, apps=())
    assert not bridge.is_outdated()  # it still loads its application
    first.update(apps=({},))
    assert bridge.is_outdated()
    first.update(pid=os.getpid(), respawn_count=2)
    assert not bridge.is_outdated()


def test_proc_is_read_once_per_http_process(first: dict[str, Any], later: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(process, "started", lambda pid: asked.append(pid) or 0)
    first.update(pid=later, respawn_count=7)
    for _ in range(5):
        bridge.is_outdated()
    assert sorted(asked) == sorted([os.getpid(), later])
    first.update(respawn_count=8)
    bridge.is_outdated()
    assert len(asked) == 4
