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
def earlier() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is to have a successor."""
    with subprocess.Popen(["sleep", "60"]) as child:
        yield child
        child.kill()


@pytest.fixture
def later() -> Iterator[int]:
    """A process that started after this one."""
    child = subprocess.Popen(["sleep", "60"])
    yield child.pid
    child.kill()
    child.wait(60)


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The first HTTP process, as uWSGI lists it."""
    row: dict[str, Any] = {"pid": os.getpid(), "respawn_count": 0, "apps": ({},)}
    monkeypatch.setattr(bridge, "uwsgi", SimpleNamespace(workers=lambda: (row,)))
    monkeypatch.setattr(bridge, "_seen", bridge._Seen())
    return row


def test_a_spooler_is_outdated_once_a_later_http_process_serves(
    first: dict[str, Any], earlier: subprocess.Popen[bytes], later: int
) -> None:
    first.update(pid=earlier.pid)
    assert not bridge.is_outdated()
    earlier.kill()
    earlier.wait(60)  # uWSGI starts a successor once it has waited for the process
    first.update(pid=0, apps=())
    assert not bridge.is_outdated()
    first.update(pid=later, respawn_count=1)
    assert not bridge.is_outdated()  # it still loads its application
    first.update(apps=({},))
    assert bridge.is_outdated()
    assert bridge.is_outdated()
    first.update(pid=os.getpid(), respawn_count=2)
    assert not bridge.is_outdated()


def test_the_table_is_read_again_once_the_first_http_process_is_gone(
    first: dict[str, Any], earlier: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not bridge.is_first_worker_unchanged()  # none was seen yet
    first.update(pid=earlier.pid, apps=())
    assert not bridge.is_outdated()
    assert not bridge.is_first_worker_unchanged()  # it still loads its application
    first.update(apps=({},))
    assert not bridge.is_outdated()
    with monkeypatch.context() as patch:
        patch.setattr(bridge, "uwsgi", None)  # neither of these reads the table
        assert bridge.is_first_worker_unchanged()
        assert not bridge.is_outdated()
    earlier.kill()
    earlier.wait(60)
    assert not bridge.is_first_worker_unchanged()


def test_proc_is_read_once_per_http_process(
    first: dict[str, Any], earlier: subprocess.Popen[bytes], later: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(process, "started", lambda pid: asked.append(pid) or 0)
    first.update(pid=earlier.pid, respawn_count=7)
    for _ in range(5):
        bridge.is_outdated()
    assert sorted(asked) == sorted([os.getpid(), earlier.pid])
    earlier.kill()
    earlier.wait(60)
    first.update(pid=later, respawn_count=8)
    bridge.is_outdated()
    assert len(asked) == 4
