"""Delayed jobs: written, announced, moved in when they are due, and found wherever they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uwsgi_server import wait_until

from spoolkit.encoding import packet
from spoolkit.job import new_id
from spoolkit.lifecycle import delayed_jobs
from spoolkit.spooldir import later, spoolers, spoolfile
from spoolkit.spooldir import mover as moving
from spoolkit.system import clock, process
from spoolkit.uwsgi import bridge

DATA = packet.dump(packet.Packet({b"spoolkit": b"1"}))
DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


class Clock:
    now = 1_900_000_000.0


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(clock, "now", lambda: found.now)
    return found


@pytest.fixture
def spool(tmp_path: Path) -> str:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    return str(folder)


@pytest.fixture
def mover(spool: str) -> Iterator[moving.Mover]:
    found = moving.Mover(spool)
    yield found
    found.close()


def write(spool: str, run_at: float, *, priority: int | None = None, name: str | None = None) -> str:
    return later.write(spool, name or new_id(), DATA, run_at=run_at, priority=priority)


def wait_for_a_tick() -> None:
    """Wait until a change gives a folder another time: on many file systems that of the kernel's last tick."""
    coarse = 5  # CLOCK_REALTIME_COARSE
    before = time.clock_gettime(coarse)
    wait_until(lambda: time.clock_gettime(coarse) > before)


def moved(path: str) -> str:
    """Where the delayed job of ``path`` lies once it is moved in."""
    return path.replace(f"/{later.FOLDER}/", "/")


@pytest.mark.parametrize("priority", [None, 7])
def test_a_delayed_job_lies_in_a_private_folder_and_is_found_by_its_id(spool: str, priority: int | None) -> None:
    id = new_id()
    path = write(spool, 2e9, priority=priority, name=id)
    assert os.path.dirname(path) == os.path.join(spool, "later", *([] if priority is None else ["7"]))
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    assert spoolfile.pending(spool) == [path]
    assert spoolfile.scanned(spool) == []
    assert spoolfile.locate(spool, id) == spoolfile.locate(spool, id, max_entries=10) == path


@pytest.mark.parametrize("priority", [None, 7])
def test_a_job_is_moved_in_when_it_is_due_and_not_before(
    spool: str, at: Clock, mover: moving.Mover, priority: int | None
) -> None:
    due = at.now + 0.25
    path = write(spool, due, priority=priority)
    assert mover.step() == pytest.approx(0.25, abs=1e-6)
    at.now += 0.2499
    assert 0 < mover.step() < 0.001
    assert os.path.exists(path)
    at.now = due
    mover.step()
    assert spoolfile.scanned(spool) == [moved(path)]
    assert spoolfile.is_due(moved(path))


@given(delays=st.lists(st.integers(0, 30), min_size=1, max_size=30), listed=st.integers(0, 30))
def test_jobs_are_moved_in_by_their_times_however_the_mover_learns_of_them(
    tmp_path_factory: pytest.TempPathFactory, delays: list[int], listed: int
) -> None:
    spool, at = str(tmp_path_factory.mktemp("spool")), Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: at.now)
        patch.setattr(moving, "WINDOW", 3)
        patch.setattr(moving, "SLICE", 4)
        mover, start = moving.Mover(spool), at.now
        paths = [(start + delay, write(spool, start + delay)) for delay in delays[:listed]]
        mover.step()
        paths += [(start + delay, write(spool, start + delay)) for delay in delays[listed:]]
        for _ in range(31):
            for _ in range(1000):
                if mover.step() != 0.0:
                    break
            else:
                pytest.fail("it never comes to its end")
            expected = sorted(moved(path) for due, path in paths if due <= at.now)
            assert spoolfile.scanned(spool) == expected
            at.now += 1
        mover.close()


def test_a_job_that_is_due_does_not_wait_until_the_folder_is_read(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "SLICE", 5)
    for _ in range(30):
        write(spool, at.now + 100)
    assert mover.step() == 0.0, "it goes on at once"
    path = write(spool, at.now)
    assert mover.step() == 0.0
    assert spoolfile.scanned(spool) == [moved(path)]
    steps = 1
    while mover.step() == 0.0:
        steps += 1
        assert steps < 1000
    assert steps > 3


def test_changes_without_a_message_have_a_large_folder_read_only_now_and_then(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, readings = later.entries, []
    monkeypatch.setattr(moving, "CHECK", 0.0)
    monkeypatch.setattr(moving, "SHARE", 1_000_000)
    monkeypatch.setattr(later, "entries", lambda spool_dir: (readings.append(spool_dir), entries(spool_dir))[1])
    paths = [write(spool, at.now + 100) for _ in range(20)]
    mover.step()
    wait_for_a_tick()
    for path in paths:
        os.unlink(path)
        mover.step()
    assert len(readings) == 1
    monkeypatch.setattr(mover, "_next_reading", 0.0)
    mover.step()
    assert len(readings) == 2, "they are not forgotten"


def test_an_idle_mover_does_not_read_the_folder_again(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "CHECK", 0.0)
    monkeypatch.setattr(moving, "SHARE", 0)
    monkeypatch.setattr(moving, "REREAD", 0.0)
    for priority in (None, 7):
        write(spool, at.now + 100, priority=priority)
    mover.step()
    mover.step()
    monkeypatch.setattr(later, "entries", None)
    for _ in range(10):
        mover.step()


def test_files_beyond_those_that_are_remembered_are_moved_although_one_of_these_cannot_be(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "WINDOW", 2)
    monkeypatch.setattr(moving, "AT_ONCE", 2)
    monkeypatch.setattr(moving, "SHARE", 0)
    move_in = later.move_in
    stuck, *paths = [write(spool, at.now + number / 100) for number in range(10)]

    def move_others(path: str, spool_dir: str) -> int:
        if path == stuck:
            raise PermissionError(path)
        return move_in(path, spool_dir)

    monkeypatch.setattr(later, "move_in", move_others)
    at.now += 0.2
    for _ in range(100):
        mover.step()
    assert spoolfile.scanned(spool) == sorted(map(moved, paths))
    monkeypatch.setattr(later, "move_in", move_in)
    at.now += 1.1
    mover.step()
    assert spoolfile.pending(spool)[0].startswith(spool)
    assert not os.path.exists(stuck)


def test_a_mover_that_has_moved_all_that_it_remembers_goes_on_at_once(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "WINDOW", 2)
    monkeypatch.setattr(moving, "AT_ONCE", 1)
    mover.step()
    for number in range(6):
        write(spool, at.now + 1 + number / 100)
    mover.step()
    at.now += 2
    for _ in range(5):
        assert mover.step() == 0.0
    mover.step()
    assert not later.has_delayed(spool)


def test_each_job_that_is_moved_in_wakes_one_spooler(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    woken: list[object] = []
    monkeypatch.setattr(spoolers, "wake", lambda spool_dir, id: woken.append(id))
    ids = [new_id() for _ in range(3)]
    for id in ids:
        write(spool, at.now + 1, name=id)
    mover.step()
    at.now += 1
    mover.step()
    assert sorted(map(str, woken)) == sorted(ids)


def test_an_earlier_job_wakes_the_mover(spool: str, at: Clock, mover: moving.Mover) -> None:
    write(spool, at.now + 100)
    mover.step()
    write(spool, at.now + 0.5)
    began = time.monotonic()
    moving.wait([mover], 30)
    assert time.monotonic() - began < 20
    assert mover.step() == pytest.approx(0.5, abs=1e-6)


def test_messages_that_did_not_fit_into_the_pipe_are_made_up_for(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "PIPE_SIZE", 1 << 16)
    mover.step()
    paths = [write(spool, at.now + 1) for _ in range(1500)]
    at.now += 2
    for _ in range(1500 // moving.AT_ONCE + 1):
        mover.step()
    assert len(spoolfile.scanned(spool)) == len(paths)


def test_a_job_whose_caller_was_killed_before_its_message_is_moved_in(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "CHECK", 0.0)
    monkeypatch.setattr(moving, "SHARE", 0)
    mover.step()
    wait_for_a_tick()
    monkeypatch.setattr(later, "_announce", lambda *args: None)
    path = write(spool, at.now + 1)
    mover.step()
    at.now += 1
    mover.step()
    assert spoolfile.scanned(spool) == [moved(path)]


def test_such_a_job_is_found_although_it_came_in_the_tick_in_which_the_folder_was_read(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "CHECK", 0.0)
    monkeypatch.setattr(moving, "SHARE", 0)
    monkeypatch.setattr(moving, "REREAD", 0.0)
    folder = os.path.join(spool, later.FOLDER)
    mover.step()
    os.utime(folder, (at.now, at.now))
    mover._start_reading()
    mover.step()
    monkeypatch.setattr(later, "_announce", lambda *args: None)
    path = write(spool, at.now + 1)
    os.utime(folder, (at.now, at.now))
    at.now += 1
    mover.step()
    mover.step()
    assert spoolfile.scanned(spool) == [moved(path)]


def test_a_rescheduled_job_is_moved_in_at_its_new_time(spool: str, at: Clock, mover: moving.Mover) -> None:
    path = write(spool, at.now + 1)
    mover.step()
    due = at.now + 5
    os.utime(path, (due, due))
    at.now += 1
    mover.step()
    assert spoolfile.scanned(spool) == []
    at.now = due
    mover.step()
    assert spoolfile.scanned(spool) == [moved(path)]


def test_only_one_of_two_processes_is_elected_and_the_other_follows(spool: str, mover: moving.Mover) -> None:
    mover.step()
    code = f"""
import sys
from spoolkit.spooldir.mover import Mover
mover = Mover({spool!r})
mover.step()
print(mover.pipe is not None, flush=True)
sys.stdin.readline()
mover.step()
print(mover.pipe is not None, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "False\n"
        assert later.has_mover(spool)
        mover.close()
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "True\n"
        assert later.has_mover(spool)
    assert not later.has_mover(spool)


def test_a_descriptor_that_a_task_has_replaced_is_not_read(spool: str, at: Clock, mover: moving.Mover) -> None:
    write(spool, at.now + 1)
    mover.step()
    assert mover.pipe is not None
    read, write_end = os.pipe()
    os.write(write_end, b"not ours\n")
    os.dup2(read, lost := mover.pipe)
    mover.step()
    assert mover.pipe is not None, "elected again"
    assert mover.pipe != lost
    assert os.read(lost, 100) == b"not ours\n"
    for fd in (read, write_end, lost):
        os.close(fd)


def test_a_job_does_not_replace_one_of_the_same_name(spool: str, at: Clock, mover: moving.Mover) -> None:
    id = new_id()
    there = spoolfile.write(spool, id, b"running")
    write(spool, at.now + 1, name=id)
    at.now += 1
    mover.step()
    assert Path(there).read_bytes() == b"running"
    assert Path(f"{there}.1").read_bytes() == DATA


def test_a_damaged_file_is_a_dead_letter_and_does_not_come_before_uwsgi(
    spool: str, at: Clock, mover: moving.Mover
) -> None:
    path = later.write(spool, new_id(), DATA[:-1], run_at=at.now + 1)
    at.now += 1
    mover.step()
    assert spoolfile.pending(spool) == []
    assert os.path.exists(os.path.join(spool, "dead", os.path.basename(path)))


@pytest.mark.parametrize(
    "name", ["../x", "/etc/uwsgi_spoolfile_on_x", "../uwsgi_spoolfile_on_x", "a/b/uwsgi_spoolfile_on_x"]
)
def test_a_message_leads_to_no_other_folder(spool: str, at: Clock, mover: moving.Mover, name: str) -> None:
    outside = Path(spool).parent / "uwsgi_spoolfile_on_x"
    outside.write_bytes(DATA)
    mover.step()
    later._announce(spool, os.path.join(spool, "later", name), at.now)
    mover.step()
    assert outside.exists()
    assert spoolfile.scanned(spool) == []


@pytest.mark.parametrize("priority", [None, 3])
def test_a_retry_goes_to_the_folder_under_a_new_name_and_may_be_brought_forward(
    spool: str, at: Clock, priority: int | None
) -> None:
    folder = spool if priority is None else os.path.join(spool, "3")
    os.makedirs(folder, exist_ok=True)
    id = new_id()
    path = later.put_off(spoolfile.write(folder, id, DATA), spool, at.now + 60)
    assert path == folder.replace(spool, f"{spool}/later") + f"/{spoolfile.PREFIX}{id}.1"
    assert spoolfile.pending(spool) == [path]
    now = later.bring_forward(path, spool)
    assert now == f"{folder}/{spoolfile.PREFIX}{id}.2"
    assert spoolfile.is_due(now)


def test_spoolers_move_jobs_in_where_no_process_is_elected(spool: str, at: Clock, mover: moving.Mover) -> None:
    path, other = write(spool, at.now + 1), write(spool, at.now + 10)
    at.now += 1
    mover.step()
    assert spoolfile.scanned(spool) == [moved(path)]
    at.now += 10
    moving.move_all_due(spool)
    assert os.path.exists(other), "the elected process does it"
    mover.close()
    moving.move_all_due(spool)
    assert sorted(spoolfile.scanned(spool)) == sorted([moved(path), moved(other)])


def test_a_ticket_calls_the_spoolers_of_uwsgi_until_no_job_is_left_or_a_process_is_elected(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "TICKET_PAUSE", 0.0)
    monkeypatch.setattr(moving, "SHARE", 0)
    monkeypatch.setattr(spoolers, "pids", lambda spool_dir: [1])
    ticket = os.path.join(spool, spoolfile.TICKET)
    later.call_spoolers(spool)
    assert not os.path.exists(ticket), "there is no delayed job"
    path, other = write(spool, at.now + 1), write(spool, at.now + 2)
    assert later.MARKER in packet.load(Path(ticket).read_bytes()).fields
    assert sorted(spoolfile.pending(spool)) == sorted([path, other]), "it is no job"
    at.now += 1
    moving.answer(spool)
    assert spoolfile.scanned(spool) == [moved(path)]
    assert os.path.exists(ticket)
    at.now += 1
    moving.answer(spool)
    assert not os.path.exists(ticket)
    write(spool, at.now + 1)
    assert os.path.exists(ticket)
    mover.step()
    assert not os.path.exists(ticket)
    Path(ticket).touch()
    moving.answer(spool)
    assert not os.path.exists(ticket), "a process is elected"


def test_a_spooler_spends_a_small_share_of_its_time_on_looking_at_many_delayed_jobs(
    spool: str, at: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "TICKET_PAUSE", 0.0)
    monkeypatch.setattr(moving, "SHARE", 1_000_000)
    path = write(spool, at.now + 1)
    moving.answer(spool)
    at.now += 1
    moving.answer(spool)
    assert os.path.exists(path), "not again at once"
    monkeypatch.setattr(moving, "_next_looks", process.PerProcess(dict))
    moving.answer(spool)
    assert spoolfile.scanned(spool) == [moved(path)]


def test_the_command_for_a_downgrade_moves_all_jobs_with_their_times(spool: str, tmp_path: Path) -> None:
    (command,) = re.findall(r"^rm -f my_spools/.*$", DEPLOY.read_text(), re.M)
    os.rename(spool, tmp_path / "my_spools")
    folder = str(tmp_path / "my_spools")
    paths = [write(folder, 2e9 + number, priority=number % 3 or None) for number in range(6)]
    times = [os.stat(path).st_mtime for path in paths]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=100)
    assert [os.stat(moved(path)).st_mtime for path in paths] == times
    assert sorted(spoolfile.scanned(folder)) == sorted(map(moved, paths)) == sorted(spoolfile.pending(folder))


def test_a_spool_directory_whose_name_is_a_number_is_no_folder_of_a_priority(tmp_path: Path, at: Clock) -> None:
    spool = str(tmp_path / "1")
    os.mkdir(spool, 0o700)
    path = later.put_off(spoolfile.write(spool, new_id(), DATA), spool, at.now + 60)
    assert os.path.dirname(path) == os.path.join(spool, later.FOLDER)
    path = later.bring_forward(path, spool)
    path = later.bring_forward(path, spool)
    assert spoolfile.scanned(spool) == [path]
    assert os.path.dirname(path) == spool


def test_a_process_is_elected_anew_if_somebody_removes_the_folder(
    spool: str, at: Clock, mover: moving.Mover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "SAMPLE_TIME", 0.0)
    mover.step()
    shutil.rmtree(os.path.join(spool, later.FOLDER))
    path = write(spool, at.now + 1)
    mover.step()
    assert later.has_mover(spool)
    at.now += 1
    mover.step()
    assert spoolfile.scanned(spool) == [moved(path)]


def test_processes_that_call_the_spoolers_at_once_leave_a_ticket(spool: str) -> None:
    write(spool, 2e9)
    callers = [threading.Thread(target=later.call_spoolers, args=(spool,)) for _ in range(4)]
    unnamed = spoolfile.write_unnamed
    barrier = threading.Barrier(len(callers))

    def write_together(path: str, data: bytes) -> None:
        unnamed(path, data)
        barrier.wait(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spoolfile, "write_unnamed", write_together)
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
    assert os.path.exists(os.path.join(spool, spoolfile.TICKET))
    assert not [name for name in os.listdir(spool) if name.startswith(spoolfile.TEMPORARY)]


def test_an_http_process_that_exits_is_no_longer_elected_when_it_calls_the_spoolers(
    spool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "has_threads", lambda: True)
    delayed_jobs.start([spool])
    wait_until(lambda: later.has_mover(spool))
    write(spool, 2e9)
    delayed_jobs.stop([spool])
    assert not later.has_mover(spool)
    moving.answer(spool)
    assert os.path.exists(os.path.join(spool, spoolfile.TICKET))
