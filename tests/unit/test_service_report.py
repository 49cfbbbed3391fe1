"""What flask spool run reports to systemd, over a real datagram socket."""

from __future__ import annotations

import errno
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from life_process import start_child, wait_child
from uwsgi_server import wait_until

from spoolkit import spool
from spoolkit.spooldir import room
from spoolkit.spooldir.spoolers import SpoolerFile
from spoolkit.spooling import service_report
from spoolkit.spooling.service_report import EXTENSION, INTERVAL, MAX_DUE, Seen, ServiceReport, assignments, look
from spoolkit.system import process
from spoolkit.system.service_manager import ServiceManager

WELL = Seen(3, 12, all_serve=True, all_queues_served=True)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The address of a service manager, and its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as received:
        name = str(tmp_path / "notify")
        received.bind(name if request.param == "path" else f"\0spoolkit-test-{os.getpid()}")
        received.settimeout(60)
        yield name if request.param == "path" else f"@spoolkit-test-{os.getpid()}", received


# What is said.


def test_a_service_is_ready_once_all_its_processes_serve() -> None:
    assert assignments(WELL, is_ready=False, is_stopping=False, watchdog=None) == [
        "READY=1",
        "STATUS=3 running, 12 due",
    ]
    assert assignments(WELL, is_ready=True, is_stopping=False, watchdog=10.0) == [
        "STATUS=3 running, 12 due",
        "WATCHDOG=1",
    ]
    starting = Seen(0, 0, all_serve=False, all_queues_served=True)
    assert "READY=1" not in assignments(starting, is_ready=False, is_stopping=False, watchdog=None)


def test_a_queue_without_a_living_process_does_not_feed_the_watchdog() -> None:
    deaf = Seen(0, 5, all_serve=False, all_queues_served=False)
    assert assignments(deaf, is_ready=True, is_stopping=False, watchdog=10.0) == ["STATUS=0 running, 5 due"]


def test_a_stop_asks_for_time_while_jobs_finish() -> None:
    found = assignments(Seen(1, 5, False, False), is_ready=True, is_stopping=True, watchdog=10.0)
    assert found == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=1 running, stopping", "WATCHDOG=1"]
    assert EXTENSION > 2 * INTERVAL


@settings(max_examples=50)
@given(
    st.builds(Seen, st.integers(0, 9), st.integers(0, 2000), st.booleans(), st.booleans()),
    st.booleans(),
    st.booleans(),
    st.none() | st.floats(0.1, 100),
)
def test_a_report_is_one_line_for_each_name(
    seen: Seen, is_ready: bool, is_stopping: bool, watchdog: float | None
) -> None:
    found = assignments(seen, is_ready=is_ready, is_stopping=is_stopping, watchdog=watchdog)
    names = [line.partition("=")[0] for line in found]
    assert len(set(names)) == len(names)
    assert not any("\n" in line for line in found)
    assert ("READY" in names) is (seen.all_serve and not is_ready and not is_stopping)
    assert ("WATCHDOG" in names) is (watchdog is not None and (seen.all_queues_served or is_stopping))
    assert ("STOPPING" in names) is ("EXTEND_TIMEOUT_USEC" in names) is is_stopping


# To whom.


def test_what_is_sent_arrives(manager: tuple[str, socket.socket]) -> None:
    address, received = manager
    assert ServiceManager(address).send("READY=1", "STATUS=all is wéll")
    assert received.recv(4096).decode() == "READY=1\nSTATUS=all is wéll"


def test_nobody_waits_for_a_manager_that_does_not_read(manager: tuple[str, socket.socket]) -> None:
    address, _ = manager
    sent = [ServiceManager(address).send("STATUS=" + "x" * 4000) for _ in range(2000)]
    assert sent[0]
    assert not sent[-1]


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    assert not ServiceManager(str(tmp_path / "gone")).send("READY=1")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, None),
        ({"NOTIFY_SOCKET": "/run/notify"}, ServiceManager("/run/notify")),
        ({"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "3000000"}, ServiceManager("@notify", 3.0)),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, ServiceManager("/n")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"}, ServiceManager("/n")),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"}, ServiceManager("/n")),
        (
            {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())},
            ServiceManager("/n", 2.0),
        ),
        ({"WATCHDOG_USEC": "3000000"}, None),
    ],
)
def test_the_environment_names_it_for_this_process_alone(
    given: dict[str, str], expected: ServiceManager | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert ServiceManager.take() == expected
    assert not os.environ.keys() & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}
    assert ServiceManager.take() is None


# When.


@spool(name="service.one")
def one() -> None: ...


@pytest.fixture
def spooler(directory: str) -> Iterator[str]:
    before = signal.signal(signal.SIGUSR1, lambda *args: None)
    file = SpoolerFile(directory)
    yield directory
    file.leave()
    signal.signal(signal.SIGUSR1, before)


def test_the_processes_and_the_due_jobs_are_seen(spooler: str) -> None:
    one(), one(), one.using(delay=100)()
    assert look([spooler], {os.getpid(): spooler}, 1) == Seen(0, 2, all_serve=True, all_queues_served=True)
    assert look([spooler], {os.getpid(): spooler}, 2) == Seen(0, 2, all_serve=False, all_queues_served=True)
    assert look([spooler], {}, 1) == Seen(0, 2, all_serve=False, all_queues_served=False)
    assert room.due(spooler, 1) == 1


def test_a_process_that_is_stopped_does_not_serve(directory: str) -> None:
    def serve() -> None:
        SpoolerFile(directory)
        time.sleep(60)

    child = start_child(serve)
    try:
        wait_until(lambda: look([directory], {child: directory}, 1).all_queues_served)
        os.kill(child, signal.SIGSTOP)
        wait_until(lambda: not look([directory], {child: directory}, 1).all_queues_served)
    finally:
        os.kill(child, signal.SIGKILL)
        wait_child(child)


def test_without_descriptors_no_process_is_said_to_be_stopped(spooler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor, which asks, goes on."""

    def refuse(pid: int) -> list[bytes]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process, "_fields", refuse)
    assert look([spooler], {os.getpid(): spooler}, 1).all_serve


def test_reports_are_sent_when_they_are_due_and_at_once_in_a_stop(
    manager: tuple[str, socket.socket], spooler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_report, "INTERVAL", 1000.0)
    address, received = manager
    received.setblocking(False)
    report = ServiceReport(ServiceManager(address, watchdog=10_000.0), [spooler])
    report.send({}, 1, is_stopping=False)
    assert received.recv(4096) == b"STATUS=0 running, 0 due"
    report.hurry()
    report.send({os.getpid(): spooler}, 1, is_stopping=False)
    assert received.recv(4096) == b"READY=1\nSTATUS=0 running, 0 due\nWATCHDOG=1"
    assert 0 < report.left <= 1000
    report.send({os.getpid(): spooler}, 1, is_stopping=True)
    with pytest.raises(BlockingIOError):
        received.recv(4096)
    report.hurry()
    report.send({os.getpid(): spooler}, 1, is_stopping=True)
    assert received.recv(4096).startswith(b"STOPPING=1\n")


def test_without_a_manager_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolkit.spooling.service_report.look", None)
    report = ServiceReport(None, ["/nowhere"])
    report.send({}, 1, is_stopping=False)
    assert report.left == float("inf")


def test_many_due_jobs_are_not_counted_to_the_end() -> None:
    (line,) = assignments(Seen(0, MAX_DUE + 1, False, False), is_ready=True, is_stopping=False, watchdog=None)
    assert line == "STATUS=0 running, over 1000 due"
