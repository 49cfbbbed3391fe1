"""A store that is broken, or on a full disk, on a real uWSGI: jobs still run, and their attempts are bounded."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from sampling import sampled
from uwsgi_server import wait_until

from spoolkit.spooldir import dead as dead_letters
from spoolkit.spooldir import spoolfile

from .conftest import Site, StartSite
from .test_kill_matrix import settled

SPOOLERS = (1, 4)

ALLOWED = (3, 4)
"""Starts of a job with two retries if its store breaks in the first attempt, which only the store has counted."""


class Row(NamedTuple):
    """A task, how often it is started, and whether its job is dead then."""

    task: str
    starts: int
    dead: bool = True


FEW = (
    Row("innocent", 1, dead=False),
    Row("raises", 3),
    Row("raises_twice", 3, dead=False),
    Row("kills_itself", 3),
)
ROWS = (
    *FEW,
    Row("returns_retry", 3),
    Row("raises_retry", 3),
    Row("aborts", 1),
    Row("exits", 3),
    Row("exits_at_once", 3),
    Row("sleeps_too_long", 3),
    Row("counts_in_c", 2),
)

Break = Callable[[Path], None]


def garbage(path: Path) -> None:
    path.write_bytes(b"this was never a database\n" * 1000)


def directory(path: Path) -> None:
    path.mkdir()


def remove(path: Path) -> None:
    """Repair it as an administrator does: remove what is broken."""
    for broken in path.parent.glob(f"{path.name}*"):
        if broken.is_dir():
            broken.rmdir()
        else:
            broken.unlink()


def play(site: Site, rows: Sequence[Row]) -> None:
    """Jobs run without a store, are not lost, and have bounded attempts."""
    ids, innocent = {}, []
    for row in rows:
        ids[row.task] = site.call(row.task)["job"]
        innocent.append(site.call("innocent")["job"])
    site.wait_empty(60)
    ran = {task: (starts(site, id), id in set_aside(site)) for task, id in ids.items()}
    assert ran == {row.task: (row.starts, row.dead) for row in rows}
    assert [starts(site, id) for id in innocent] == [1] * len(innocent)
    assert all(report["reason"] for report in site.dead().values())
    assert site.history.events("twice") == []


def starts(site: Site, id: str) -> int:
    """How many attempts the job's task has recorded."""
    return len(site.history.events("start", id))


def set_aside(site: Site) -> set[str | None]:
    return {spoolfile.id_of(os.path.basename(path)) for path in dead_letters.paths(str(site.spool))}


def assert_recorded(site: Site, store: Path | None = None) -> None:
    """New jobs are in the store, with all their attempts."""
    ids = [site.call(task)["job"] for task in ("innocent", "raises")]
    ran = settled(site, ids, store=store)
    assert [ran[id].outcomes for id in ids] == [("done",), ("failed",) * 3]


@contextmanager
def mounted(*arguments: str | Path) -> Iterator[None]:
    """A file system at the last of these arguments of ``mount``."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=100)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"only root may mount: {done.stderr}")
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", arguments[-1]], check=True, timeout=100)


@contextmanager
def a_disk_at(folder: Path) -> Iterator[None]:
    """A small ext4 in ``folder``: where it is full, a new directory finds no room either.

    In blocks of a page's size: with smaller ones SQLite dies of SIGBUS where its shared memory finds no room.
    """
    make = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if make is None or not os.path.exists("/dev/loop-control"):
        pytest.skip("it takes mkfs.ext4 and a loop device")
    image = folder.with_name("image")
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run([make, "-q", "-m", "0", "-b", "4096", image], check=True, timeout=100)
    with mounted("-o", "loop", image, folder):
        folder.chmod(0o700)
        yield


def fill(folder: Path) -> None:
    """Fill the file system of ``folder`` to the last byte."""
    with (folder / "filler").open("ab", buffering=0) as file:
        for size in (4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


WAYS = [(breaking, spoolers) for breaking in (garbage, directory) for spoolers in SPOOLERS]


@pytest.mark.parametrize(("breaking", "spoolers"), sampled(WAYS, (garbage, 4)))
def test_without_a_store_jobs_run_and_their_attempts_are_bounded(
    start_site: StartSite, tmp_path: Path, breaking: Break, spoolers: int
) -> None:
    store = tmp_path / "spool" / "spoolkit.db"
    store.parent.mkdir(mode=0o700)
    breaking(store)
    site = start_site(module="kill_tasks", spoolers=spoolers, env={"SPOOLKIT_TIMEOUT_GRACE": "0.5"})
    play(site, ROWS)
    remove(store)
    assert_recorded(site)


def replace(path: Path) -> None:
    other = path.with_name("other")
    garbage(other)
    other.replace(path)


def replace_by_a_directory(path: Path) -> None:
    remove(path)
    directory(path)


@pytest.mark.parametrize("breaking", sampled([garbage, replace, replace_by_a_directory, remove], replace))
def test_a_store_that_breaks_during_a_job_loses_no_job(start_site: StartSite, tmp_path: Path, breaking: Break) -> None:
    site = start_site(module="kill_tasks")
    job = site.call("waits_for_its_release", "raise")["job"]
    site.history.wait_for("start", job)
    breaking(site.spool / "spoolkit.db")
    (tmp_path / "released").touch()
    play(site, FEW)
    assert job in set_aside(site)
    assert starts(site, job) in ALLOWED
    remove(site.spool / "spoolkit.db")
    assert_recorded(site)


@pytest.mark.parametrize("when", sampled(["before it is made", "in mid-job"], "in mid-job"))
def test_a_store_on_a_full_disk_loses_no_job(start_site: StartSite, tmp_path: Path, when: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("-t", "tmpfs", "-o", "size=256k,mode=0700", "none", disk):
        if when == "before it is made":
            fill(disk)
        site = start_site(module="kill_tasks", env={"SPOOLKIT_STORE": str(disk / "spoolkit.db")})
        job = site.call("waits_for_its_release", "raise")["job"]
        site.history.wait_for("start", job)
        fill(disk)
        (tmp_path / "released").touch()
        play(site, FEW)
        assert job in set_aside(site)
        assert starts(site, job) in ALLOWED
        (disk / "filler").unlink()
        assert_recorded(site, disk / "spoolkit.db")
        site.server.kill()


@pytest.mark.parametrize("then", sampled(["return", "raise", "kill"], "raise"))
def test_a_spool_directory_that_fills_up_during_a_job_loses_no_job(
    start_site: StartSite, tmp_path: Path, then: str
) -> None:
    """And the store in it."""
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    with a_disk_at(spool):
        site = start_site(module="kill_tasks")
        job = site.call("waits_for_its_release", then)["job"]
        site.history.wait_for("start", job)
        fill(spool)
        (tmp_path / "released").touch()
        if then == "return":
            site.wait_empty()
        else:
            site.server.wait_for_log(f"job {job} .* is dead", timeout=30)
            wait_for_looks(site)
        tried = starts(site, job)
        assert tried == 1 if then == "return" else tried in ALLOWED
        (spool / "filler").unlink()
        site.wait_empty()
        assert set_aside(site) == (set() if then == "return" else {job})
        assert starts(site, job) == tried
        assert_recorded(site)
        site.server.kill()


@pytest.mark.parametrize("then", sampled(["return", "raise", "kill"], "kill"))
def test_a_spool_directory_that_becomes_read_only_during_a_job_loses_no_job(
    start_site: StartSite, tmp_path: Path, then: str
) -> None:
    """uWSGI ignores files that it cannot write to, so nothing runs; afterwards all jobs run."""
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    site = start_site(module="kill_tasks")
    job = site.call("waits_for_its_release", then)["job"]
    (start,) = site.history.wait_for("start", job)
    with mounted("--bind", spool, spool):
        # A second mount on top: the first one must stay as it is, because the spoolers write their flags into it.
        subprocess.run(["mount", "-o", "remount,bind,ro", spool], check=True, timeout=100)
        (tmp_path / "released").touch()
        if then == "kill":
            wait_until(lambda: site.server.spooler_pids() not in ([], [start.pid]))
        else:
            site.server.wait_for_log("could not be processed")
        wait_for_looks(site)
        assert starts(site, job) == 1
        assert spoolfile.id_of(*site.files()) == job
    site.wait_empty()
    assert set_aside(site) == (set() if then == "return" else {job})
    assert starts(site, job) == (1 if then == "return" else 3)
    assert_recorded(site)


def wait_for_looks(site: Site) -> None:
    """Wait until the spooler has scanned its directory a few more times."""
    (pid,) = site.server.spooler_pids()

    def slept() -> int:
        (line,) = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.M)
        return int(line)

    before = slept()
    wait_until(lambda: slept() >= before + 4)
