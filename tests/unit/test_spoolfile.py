"""Spool files: written whole or not at all, claimed by one process at a time, found, rescheduled."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import pkgutil
import random
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from descriptors import descriptors
from hypothesis import given
from hypothesis import strategies as st
from life_process import wait_child

import spoolkit
from spoolkit import spooldir
from spoolkit.spooldir import (
    batches,
    checkpoints,
    chunks,
    dead,
    held,
    later,
    parked,
    places,
    running,
    schedules,
    sent,
    signing,
    spoolers,
    spoolfile,
    stacks,
    unique,
    waiting,
)
from spoolkit.spooldir.spoolfile import PREFIX
from spoolkit.system import clock, files, locks


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path)


def others_may_lock(path: str) -> bool:
    """Return whether another process gets the lock on the file."""
    code = "import fcntl, os, sys; fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", code, path], stderr=subprocess.DEVNULL, timeout=100).returncode == 0


def test_write_makes_a_private_file_with_all_the_data(spool: str) -> None:
    path = spoolfile.write(spool, "one", b"data", fsync=True)
    assert path == f"{spool}/{PREFIX}one"
    assert Path(path).read_bytes() == b"data"
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.listdir(spool) == [f"{PREFIX}one"]


# 1790000000.123456 lies between two nanoseconds: the later one is used.
@pytest.mark.parametrize("run_at", [1, 1790000000, 1790000000.25, 1790000000.123456, 4e9 + 0.123456])
def test_write_shows_the_file_complete_and_with_its_time(
    spool: str, run_at: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    rename = os.rename

    def look_and_rename(old: str, new: str) -> None:
        assert spoolfile.pending(spool) == []
        seen.append((Path(old).read_bytes(), os.stat(old).st_mtime_ns))
        rename(old, new)

    monkeypatch.setattr(os, "rename", look_and_rename)
    path = spoolfile.write(spool, "one", b"data", run_at=run_at)
    assert seen == [(b"data", os.stat(path).st_mtime_ns)]
    assert 0 <= Fraction(os.stat(path).st_mtime_ns, 10**9) - Fraction(run_at) < Fraction(1, 10**9)


@given(st.floats(0, 4e9))
def test_ns_of_is_never_before_the_time_of_the_job(run_at: float) -> None:
    nanoseconds, _ = spoolfile.ns_of(run_at)
    assert 0 <= Fraction(nanoseconds, 10**9) - Fraction(run_at) < Fraction(1, 10**9)


def test_write_with_fsync_syncs_the_file_and_then_its_folder(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
    before = descriptors()
    spoolfile.write(spool, "one", b"data", fsync=True)
    assert synced == ["tmp_one", os.path.basename(spool)]
    assert descriptors() == before, "a descriptor was left open"
    spoolfile.write(spool, "two", b"data")
    assert len(synced) == 2


WRITER = """
import os, sys
from spoolkit.spooldir import spoolfile
def stuck(*_):
    print("written", flush=True)
    sys.stdin.read()
os.rename = stuck
spoolfile.write(sys.argv[1], "one", b"data")
"""


def test_write_that_is_killed_leaves_no_file_that_runs(spool: str) -> None:
    command = [sys.executable, "-c", WRITER, spool]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert os.listdir(spool) == ["tmp_one"]
    assert spoolfile.pending(spool) == []


def test_write_leaves_nothing_if_the_disk_refuses(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        spoolfile.write(f"{spool}/gone", "one", b"data")
    with pytest.raises(OSError, match="long"):
        spoolfile.write(spool, "x" * 300, b"data")
    with pytest.raises(OSError, match="long"):  # not as a temporary name, but with uWSGI's prefix
        spoolfile.write(spool, "x" * 245, b"data")

    def broken(fd: int) -> None:
        raise OSError("the disk is broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        spoolfile.write(spool, "one", b"data", fsync=True)
    assert os.listdir(spool) == []


def test_claim_gives_the_file_to_one_process_at_a_time(spool: str) -> None:
    path = spoolfile.write(spool, "one", b"data")
    with spoolfile.claim(path) as fd:
        assert fd is not None
        assert [spoolfile.read(fd), spoolfile.read(fd)] == [b"data", b"data"]
        assert not others_may_lock(path), "reading released the lock"
    assert others_may_lock(path)


def test_claim_gives_none_if_another_process_has_the_lock(spool: str) -> None:
    path = spoolfile.write(spool, "one", b"data")
    code = (
        "import fcntl, os, sys; fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX); print(1, flush=True);"
        "sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with spoolfile.claim(path) as fd:
            assert fd is None
        assert holder.stdin is not None
        holder.stdin.close()


@pytest.mark.parametrize(
    ("claim", "module", "name"), [(spoolfile.claim, locks, "try_lock"), (spoolfile.claim_to_run, fcntl, "lockf")]
)
def test_claim_gives_none_if_the_name_now_means_another_file(
    spool: str, monkeypatch: pytest.MonkeyPatch, claim: Any, module: Any, name: str
) -> None:
    lock = getattr(module, name)
    for change in (os.unlink, lambda path: os.rename(path, path + "x"), lambda path: os.replace(path + "-other", path)):
        path = spoolfile.write(spool, "one", b"data")
        spoolfile.write(spool, "one-other", b"data")

        def late(*args: Any, change=change, path=path) -> Any:  # type: ignore[no-untyped-def]
            change(path)
            return lock(*args)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, late)
            with claim(path) as fd:
                assert fd is None


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "nothing"])
def test_claim_gives_none_for_anything_but_a_file(spool: str, kind: str) -> None:
    path = f"{spool}/{PREFIX}{kind}"
    match kind:
        case "folder":
            os.mkdir(path)
        case "link":
            os.symlink(spoolfile.write(spool, "one", b"data"), path)
        case "pipe":
            os.mkfifo(path)  # to open it would wait for the other end
    with spoolfile.claim(path) as fd:
        assert fd is None


def test_claim_releases_the_lock_after_an_error(spool: str) -> None:
    path = spoolfile.write(spool, "one", b"data")
    with pytest.raises(ZeroDivisionError), spoolfile.claim(path):
        _ = 1 / 0
    assert others_may_lock(path)


def test_reschedule_changes_the_name_with_the_time(spool: str) -> None:
    first = spoolfile.write(spool, "one", b"data")
    second = spoolfile.reschedule(first, clock.now() + 100)
    third = spoolfile.reschedule(second, clock.now() - 100)
    assert [os.path.basename(path) for path in (second, third)] == [f"{PREFIX}one.1", f"{PREFIX}one.2"]
    assert os.listdir(spool) == [f"{PREFIX}one.2"]
    assert spoolfile.is_due(third)
    assert not spoolfile.is_due(spoolfile.reschedule(third, clock.now() + 100))


@pytest.mark.parametrize(
    ("name", "then"),
    [("one", "one.1"), ("one.9", "one.10"), ("host.example_7", "host.example_7.1"), ("one.1.2", "one.1.3")],
)
def test_reschedule_counts_up_the_suffix(spool: str, name: str, then: str) -> None:
    path = spoolfile.reschedule(spoolfile.write(spool, name, b"data"), 1790000000.123456)
    assert os.listdir(spool) == [f"{PREFIX}{then}"]
    assert Path(path).read_bytes() == b"data"
    assert Fraction(os.stat(path).st_mtime_ns, 10**9) >= Fraction(1790000000.123456)


@pytest.mark.parametrize(
    ("now", "due"),
    [(999.0, False), (math.nextafter(1790000000.123456, 0), False), (1790000000.123456, True), (2e9, True)],
)
def test_is_due_is_true_from_the_time_of_the_file_on(
    spool: str, now: float, due: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spoolfile.write(spool, "one", b"data", run_at=1790000000.123456)
    monkeypatch.setattr(clock, "now", lambda: now)
    assert spoolfile.is_due(path) is due


def test_is_due_and_finish_accept_a_file_that_is_gone(spool: str) -> None:
    assert not spoolfile.is_due(f"{spool}/nothing")
    spoolfile.finish(f"{spool}/nothing")


@pytest.mark.parametrize(
    "name",
    [
        b"plain",
        b"not-\xff-utf8",
        b"x" * (255 - len(PREFIX)),
        b"\xff" * (255 - len(PREFIX)),
        "é".encode() * ((255 - len(PREFIX)) // 2),
        b"back\\slash",
        b"new\nline",
    ],
)
def test_quarantine_writes_the_reason_beside_any_spool_file(spool: str, name: bytes) -> None:
    path = os.fsdecode(os.fsencode(f"{spool}/{PREFIX}") + name)
    Path(path).write_bytes(b"bad")
    kept = dead.quarantine(path, spool, reason="it is bad", task="a.b", traceback="Trace")
    assert not os.path.lexists(path)
    assert Path(kept).read_bytes() == b"bad"
    assert os.path.dirname(kept) == f"{spool}/dead"
    report = json.loads(Path(f"{kept}.json").read_text())
    assert (report["reason"], report["task"], report["traceback"]) == ("it is bad", "a.b", "Trace")
    assert os.stat(f"{spool}/dead").st_mode & 0o777 == 0o700
    assert os.stat(f"{kept}.json").st_mode & 0o777 == 0o600


def test_quarantine_keeps_earlier_spool_files_of_the_same_name(spool: str) -> None:
    # The same name in two priority folders, names that differ only past the cut, and one like another's reason.
    names = ["one", "one", "one.json", "one", "x" * 230 + "a", "x" * 230 + "b"]
    kept = []
    for number, name in enumerate(names):
        path = spoolfile.write(spool, name, b"%d" % number)
        kept.append(dead.quarantine(path, spool, reason=f"reason {number}"))
    assert [Path(path).read_bytes() for path in kept] == [b"%d" % number for number in range(len(names))]
    reports = [json.loads(Path(f"{path}.json").read_text()) for path in kept]
    assert [report["reason"] for report in reports] == [f"reason {number}" for number in range(len(names))]
    assert [report["file"] for report in reports] == [os.path.basename(path) for path in kept]


def test_quarantine_moves_the_file_if_there_is_no_room_for_the_reason(
    spool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spoolfile.write(spool, "one", b"bad")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(json, "dump", full)
    assert os.path.exists(dead.quarantine(path, spool, reason="it is bad"))
    assert not os.path.exists(path)


def test_scanned_lists_priorities_first_in_the_order_of_numbers(spool: str) -> None:
    for folder in ("10", "9", "dead", "x1", "²"):
        os.mkdir(f"{spool}/{folder}")
        spoolfile.write(f"{spool}/{folder}", f"in-{folder}", b"")
    for name in ("b", "a"):
        spoolfile.write(spool, name, b"")
    Path(spool, "tmp_c").write_bytes(b"")
    names = [os.path.relpath(path, spool).replace(PREFIX, "") for path in spoolfile.scanned(spool)]
    assert names == ["9/in-9", "10/in-10", "a", "b"]
    assert sorted(spoolfile.pending(spool)) == sorted(spoolfile.scanned(spool))


def test_sweep_removes_only_old_temporary_files(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(f"{spool}/7")
    past, future, urgent = (Path(spool, name) for name in ("tmp_past", "tmp_future", "7/tmp_urgent"))
    for stray in (past, future, urgent):
        stray.write_bytes(b"")
    # The file's time is already that of the job: it says nothing about the writer.
    os.utime(past, (0, 0))
    os.utime(future, (4e9, 4e9))
    kept = {spoolfile.write(spool, "two", b""), spoolfile.write(f"{spool}/7", "three", b"", run_at=1)}
    spoolfile.sweep(spool)
    assert all(stray.exists() for stray in (past, future, urgent)), "their writers may be alive"
    later = clock.now() + files.STRAY_AGE + 1
    monkeypatch.setattr(clock, "now", lambda: later)
    spoolfile.sweep(spool)
    assert not any(stray.exists() for stray in (past, future, urgent))
    assert set(spoolfile.pending(spool)) == kept


def test_claim_lets_four_processes_finish_each_file_once(spool: str) -> None:
    names = [f"{i:03}" for i in range(200)]
    for name in names:
        spoolfile.write(spool, name, b"data")
    children = []
    for seed in range(4):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                mine = spoolfile.pending(spool)
                random.Random(seed).shuffle(mine)
                for path in mine:
                    with spoolfile.claim(path) as fd:
                        if fd is not None:
                            os.write(writer, f"{path[-3:]}\n".encode())
                            if random.Random(path).random() < 0.2:
                                spoolfile.finish(spoolfile.reschedule(path, 1))
                            else:
                                spoolfile.finish(path)
            os._exit(0)
        os.close(writer)
        children.append((pid, reader))
    done: list[str] = []
    for pid, reader in children:
        with open(reader) as pipe:
            done += pipe.read().split()
        wait_child(pid)
    assert sorted(done) == names
    assert os.listdir(spool) == []


@pytest.mark.parametrize("name", ["tmp_0", "uwsgi_spoolfile_on_0", "spoolkit.db", "spoolkit.db-wal", "running", "5"])
def test_may_become_spool_directory_allows_what_a_site_leaves_before_its_first_spooler(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir() if name in ("running", "5") else (tmp_path / name).write_bytes(b"")
    assert spoolfile.may_become_spool_directory(str(tmp_path))


def test_may_become_spool_directory_refuses_a_directory_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root")
    assert not spoolfile.may_become_spool_directory(str(tmp_path))


def test_a_task_cannot_open_the_file_of_its_own_job_and_so_drop_its_lock(spool: str) -> None:
    id = "1" * 32
    path, other = spoolfile.write(spool, id, b"data"), spoolfile.write(spool, "2" * 32, b"data")
    with spoolfile.claim(path) as fd:
        assert fd is not None
        with spoolfile.executing(id):
            assert spoolfile.peek(path) is None
            with spoolfile.claim(path) as again:
                assert again is None
            assert not others_may_lock(path)
            assert spoolfile.peek(other) == b"data"
    assert spoolfile.peek(path) == b"data"
    assert others_may_lock(path)


def test_each_place_of_a_spool_directory_has_a_module_or_a_package_of_its_name() -> None:
    wings = {module.name for module in pkgutil.iter_modules(spoolkit.__path__) if module.ispkg}
    modules = {module.name for module in pkgutil.iter_modules(spooldir.__path__)}
    assert modules | wings >= places.NAMES
    modules_of_places = {
        *(batches, checkpoints, chunks, dead, held, later, parked, running, schedules, sent, signing, spoolers, stacks),
        *(unique, waiting),
    }
    assert {module.FOLDER for module in modules_of_places} | {"compat", "threads"} == places.NAMES


def test_no_place_has_a_name_that_uwsgi_takes_for_a_priority() -> None:
    assert [place.name for place in places.PLACES] == sorted(places.NAMES)
    assert not [name for name in places.NAMES if name[0].isdigit()]


def fill_places(spool: str) -> dict[str, str]:
    """A spool file in each folder that a spool directory may have; the path of each by the id of its job."""
    folders = [*places.NAMES, "7", "later/7", "parked/" + "ab" * 32, "chunks/" + "0" * 29]
    found = {}
    for number, folder in enumerate(sorted(folders)):
        os.makedirs(os.path.join(spool, folder), exist_ok=True)
        id = f"{number:032x}"
        found[id] = spoolfile.write(os.path.join(spool, folder), id, b"data")
    found["f" * 32] = spoolfile.write(spool, "f" * 32, b"data")
    return found


def waits(path: str, spool: str) -> bool:
    """Whether a file in this folder is that of a job that waits."""
    return os.path.relpath(path, spool).split(os.sep)[0] in {"7", "later", "parked", "sent", os.path.basename(path)}


def test_the_jobs_that_wait_are_those_in_the_places_that_say_so(spool: str) -> None:
    paths = fill_places(spool)
    waiting_paths = sorted(path for path in paths.values() if waits(path, spool))
    assert len(waiting_paths) == 7
    assert sorted(spoolfile.pending(spool)) == waiting_paths
    assert sorted(map(os.path.dirname, waiting_paths)) == sorted(spoolfile.folders_of_jobs(spool))
    for id, path in paths.items():
        assert spoolfile.locate(spool, id) == (path if waits(path, spool) else None)


def test_the_places_are_made_on_first_use(spool: str) -> None:
    assert spoolfile.pending(spool) == []
    assert spoolfile.folders_of_jobs(spool) == [spool]
    spoolfile.sweep(spool)
    assert os.listdir(spool) == []


@pytest.mark.parametrize("folder", ["", "5", "later", "later/5", "held", "parked/ab"])
def test_sweep_removes_what_was_never_accepted_where_jobs_are_written(
    spool: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.makedirs(os.path.join(spool, folder), exist_ok=True)
    path = Path(spool, folder, "tmp_one")
    path.write_bytes(b"half")
    spoolfile.sweep(spool)
    assert path.exists()
    monkeypatch.setattr(files, "STRAY_AGE", -1.0)
    spoolfile.sweep(spool)
    assert not path.exists()


# A name that follows from something else than chance.


def test_an_exclusive_write_leaves_a_file_of_that_name_alone(spool: str) -> None:
    path = spoolfile.write(spool, "one", b"first", exclusive=True, fsync=True)
    before = os.stat(path)
    assert (Path(path).read_bytes(), before.st_nlink, before.st_mode & 0o777) == (b"first", 1, 0o600)
    for _ in range(2):
        with pytest.raises(FileExistsError):
            spoolfile.write(spool, "one", b"second", exclusive=True)
    assert (os.stat(path).st_ino, Path(path).read_bytes(), os.listdir(spool)) == (
        *(before.st_ino, b"first"),
        [os.path.basename(path)],
    )


def test_of_many_exclusive_writers_of_one_name_one_succeeds(spool: str) -> None:
    go_reader, go_writer = os.pipe()
    pids = []
    for number in range(8):
        pid = os.fork()
        if not pid:
            os.close(go_writer)
            os.read(go_reader, 1)
            status = 1
            with contextlib.suppress(FileExistsError):
                spoolfile.write(spool, "one", str(number).encode(), exclusive=True)
                status = 0
            os._exit(status)
        pids.append(pid)
    os.close(go_writer)
    statuses = [wait_child(pid) for pid in pids]
    os.close(go_reader)
    assert sorted(statuses) == [0] + [1] * 7
    assert Path(spool, f"{PREFIX}one").read_bytes() == str(statuses.index(0)).encode()
    assert os.listdir(spool) == [f"{PREFIX}one"]


def test_a_file_whose_writer_was_killed_before_it_lost_its_temporary_name_is_a_job_like_any_other(
    spool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = "1" * 32
    monkeypatch.setattr(files, "remove", lambda path: None)
    path = spoolfile.write(spool, id, b"data", exclusive=True)
    monkeypatch.undo()
    assert os.stat(path).st_nlink == 2
    assert (spoolfile.pending(spool), spoolfile.locate(spool, id)) == ([path], path)
    assert spoolfile.peek(path) == b"data"
    with spoolfile.claim(path) as fd:
        assert fd is not None
        assert not others_may_lock(path)
    monkeypatch.setattr(files, "STRAY_AGE", -1.0)
    spoolfile.sweep(spool)
    assert (os.listdir(spool), Path(path).read_bytes()) == ([os.path.basename(path)], b"data")


@pytest.mark.parametrize("step", ["link", "fsync"])
def test_an_exclusive_write_that_fails_leaves_no_temporary_file(
    spool: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="error"):
        spoolfile.write(spool, "one", b"data", exclusive=True, fsync=True)
    assert os.listdir(spool) == []


def test_a_new_file_is_never_ahead_of_the_clock_of_uwsgi(spool: str) -> None:
    """uWSGI asks for the time in whole seconds, and Linux answers from the last tick of its clock."""
    coarse = 5  # CLOCK_REALTIME_COARSE
    until = int(time.time()) + 1.05
    while time.time() < until - 0.06:
        pass
    while time.time() < until:
        path = spoolfile.write(spool, "new", b"data")
        last_tick, now = time.clock_gettime(coarse), time.time()
        if now - last_tick < spoolfile.COARSE:  # else the machine has missed its ticks
            assert int(os.stat(path).st_mtime) <= int(last_tick)
        os.unlink(path)
