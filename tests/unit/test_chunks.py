"""``map()``: many jobs in one file, which a spooler makes jobs like any other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask

from spoolkit import (
    AmbiguousJobError,
    ArgumentError,
    ArgumentTypeError,
    Job,
    JobStateError,
    ScheduleError,
    SignatureError,
    SpoolKit,
    SpoolUnavailableError,
    State,
    TooLargeError,
    spool,
)
from spoolkit.admin import actions, lookup, stats
from spoolkit.errors import UnknownJobError
from spoolkit.spooldir import chunks, dead, later, spoolfile
from spoolkit.spooldir.chunks import FOLDER
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import files, locks
from spoolkit.testing import clear_jobs, run_jobs, waiting_jobs

ran: list[object] = []


@spool(retries=0)
def add(left: int, right: int = 0) -> int:
    ran.append((left, right))
    if right < 0:
        raise ValueError("negative")
    return left + right


class Site(NamedTuple):
    spool: Path
    run: Any

    def names(self, folder: str = "") -> list[str]:
        return [name for name in os.listdir(self.spool / folder) if name.startswith((spoolfile.PREFIX, "tmp_"))]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    app = Flask("shop")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_MAX_BODY=10_000)
    SpoolKit(app)
    ran.clear()
    with app.app_context():
        yield Site(tmp_path / "spool", Spooler(str(tmp_path / "spool")).run_due)


def test_each_row_becomes_a_job_with_a_state_and_a_result_of_its_own(site: Site) -> None:
    jobs = add.map([(1,), {"left": 2, "right": 3}, (4, -1)])
    assert [job.state for job in jobs] == [State.QUEUED] * 3
    assert len(site.names()) == 1
    site.run()
    assert [job.state for job in jobs] == [State.DONE, State.DONE, State.DEAD]
    assert [jobs[0].result, jobs[1].result] == [1, 5]
    assert ran == [(1, 0), (2, 3), (4, -1)]
    assert (site.names(), os.listdir(site.spool / FOLDER)) == ([], [])


def test_no_row_is_no_file(site: Site) -> None:
    assert add.map([]) == []
    assert site.names() == []


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ((), SignatureError),
        ({"middle": 1}, SignatureError),
        ((object(),), ArgumentTypeError),
        (("x" * 20_000,), TooLargeError),
        (5, ArgumentTypeError),
        ([5], ArgumentTypeError),
        ("ab", ArgumentTypeError),
    ],
)
def test_a_bad_row_is_an_error_with_its_index_and_nothing_is_accepted(site: Site, row: Any, kind: type) -> None:
    with pytest.raises(ArgumentError, match=r"^row 2: ") as refused:
        add.map([(1,), (2,), row, (3,)])
    assert type(refused.value) is kind
    assert refused.value.row == 2
    assert site.names() == []


def test_due_times_are_spread_evenly(site: Site) -> None:
    jobs = add.map([(number,) for number in range(4)], spread=timedelta(minutes=1))
    assert jobs[0].run_at is not None
    assert [job.run_at for job in jobs] == [jobs[0].run_at + seconds for seconds in (0, 15, 30, 45)]
    assert [job.status.run_at for job in jobs] == [job.run_at for job in jobs]
    site.run()
    assert [job.state for job in jobs] == [State.DONE] + [State.QUEUED] * 3
    assert [job.status.run_at for job in jobs[1:]] == pytest.approx([job.run_at for job in jobs[1:]])


@pytest.mark.parametrize("spread", [-1, "60", None, 1e12])
def test_a_spread_that_is_no_time_is_refused(site: Site, spread: Any) -> None:
    with pytest.raises(ScheduleError) as refused:
        add.map([(1,)], spread=spread)
    assert refused.value.argument == "spread"


def test_many_jobs_have_the_options_of_one(site: Site) -> None:
    jobs = add.map([(1,), (2,)], priority=7, delay=1000)
    assert site.names() == []
    assert len(site.names("7")) == 1
    assert jobs[1].state is State.QUEUED
    site.run()
    assert [job.priority for job in waiting_jobs()] == [7, 7]
    assert ran == []


def test_many_rows_are_several_chunks(site: Site) -> None:
    jobs = add.map([(number,) for number in range(2001)])
    assert len(site.names()) == 3
    assert [job.id for job in jobs] == sorted({job.id for job in jobs})
    assert lookup.details(jobs[2000].id).arguments == ((2000,), {})


def test_on_a_full_disk_no_chunk_is_accepted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    create, made = files.create, list[str]()

    def create_two(path: str, *owned_by: tuple[int, int]) -> int:
        made.append(path)
        if len(made) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(path, *owned_by)

    monkeypatch.setattr(files, "create", create_two)
    with pytest.raises(SpoolUnavailableError, match="nothing was accepted"):
        add.map([(number,) for number in range(2001)])
    assert site.names() == []


def test_a_job_of_a_chunk_is_found_before_it_has_a_file_of_its_own(site: Site) -> None:
    jobs = add.map([(1,), (2, 3)])
    assert Job.get(jobs[1].id).task == add.name
    assert lookup.details(jobs[1].id).arguments == ((2, 3), {})
    assert {status.id for status in lookup.jobs()} == {job.id for job in jobs}
    assert stats.gather().counts == {(add.name, State.QUEUED): 2}
    with pytest.raises(AmbiguousJobError):
        lookup.full_id(jobs[1].id[:31])
    with pytest.raises(UnknownJobError):
        lookup.find(f"{jobs[0].id[:-3]}002")


def test_a_job_of_a_chunk_is_cancelled_before_it_has_a_file_of_its_own(site: Site) -> None:
    jobs = add.map([(1,), (2,), (3,)])
    assert jobs[1].cancel() is State.CANCELLED
    site.run()
    assert [job.state for job in jobs] == [State.DONE, State.CANCELLED, State.DONE]
    assert ran == [(1, 0), (3, 0)]


def test_a_delayed_job_of_a_chunk_is_run_now(site: Site) -> None:
    jobs = add.map([(1,), (2,)], delay=1000)
    assert actions.run_now(jobs[1].id) is State.QUEUED
    site.run()
    assert ran == [(2, 0)]


def test_a_test_sees_and_runs_and_clears_the_jobs_of_a_chunk(site: Site) -> None:
    add.map([(1,), (2,)])
    assert [job.args for job in waiting_jobs()] == [(1,), (2,)]
    run_jobs()
    assert ran == [(1, 0), (2, 0)]
    add.map([(3,)])
    clear_jobs()
    assert waiting_jobs() == []


def test_only_its_owner_may_read_a_chunk_and_its_jobs(site: Site) -> None:
    add.map([(1,)], delay=1000)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in site.spool.glob(f"{spoolfile.PREFIX}*")}
    site.run()
    modes |= {stat.S_IMODE(path.stat().st_mode) for path in site.spool.rglob(f"{spoolfile.PREFIX}*")}
    assert modes == {0o600}
    assert stat.S_IMODE((site.spool / FOLDER).stat().st_mode) == 0o700


@pytest.mark.parametrize("ending", [".bak", ".chunk.bak", "x.chunk"])
def test_a_copy_of_a_chunk_under_another_name_is_a_dead_letter(site: Site, ending: str) -> None:
    jobs = add.map([(1,)])
    (name,) = site.names()
    content = (site.spool / name).read_bytes()
    (site.spool / f"{name.removesuffix('.chunk')}{ending}").write_bytes(content)
    site.run()
    site.run()
    assert [job.state for job in jobs] == [State.DONE]
    assert ran == [(1, 0)]
    (path,) = dead.paths(str(site.spool))
    assert "copy" in dead.report(path)["reason"]


def test_a_copy_of_a_chunk_that_was_run_runs_no_job_again(site: Site) -> None:
    jobs = add.map([(1,), (2,)])
    (name,) = site.names()
    content = (site.spool / name).read_bytes()
    site.run()
    (site.spool / name).write_bytes(content)
    site.run()
    assert [job.state for job in jobs] == [State.DONE] * 2
    assert ran == [(1, 0), (2, 0)]


def test_a_chunk_with_a_link_elsewhere_does_not_change_what_the_link_names(site: Site, tmp_path: Path) -> None:
    jobs = add.map([(1,)])
    (name,) = site.names()
    os.link(site.spool / name, tmp_path / "elsewhere")
    before = (tmp_path / "elsewhere").read_bytes()
    site.run()
    assert jobs[0].state is State.DONE
    assert (tmp_path / "elsewhere").read_bytes() == before


def test_a_damaged_chunk_is_a_dead_letter_and_runs_once_it_is_mended(site: Site) -> None:
    jobs = add.map([(1,), (2,)])
    (name,) = site.names()
    whole = (site.spool / name).read_bytes()
    (site.spool / name).write_bytes(whole[:-9])
    site.run()
    (path,) = dead.paths(str(site.spool))
    Path(path).write_bytes(whole)
    actions.retry(os.path.basename(path))
    site.run()
    assert [job.state for job in jobs] == [State.DONE] * 2


def test_a_chunk_that_an_older_version_has_left_is_expanded(site: Site) -> None:
    """Which gives it another name at each try."""
    jobs = add.map([(1,)])
    (name,) = site.names()
    spoolfile.reschedule(spoolfile.reschedule(str(site.spool / name), 1.0), 1.0)
    site.run()
    assert jobs[0].state is State.DONE


def test_a_chunk_that_is_moved_without_the_files_of_its_jobs_is_a_dead_letter_until_they_follow(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, place = add.map([(1,), (2,), (3,)]), later.place

    def kill_after_one(*args: Any) -> None:
        monkeypatch.setattr(later, "place", die)
        place(*args)

    def die(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(later, "place", kill_after_one)
    chunk = site.spool / site.names()[0]
    with pytest.raises(KeyboardInterrupt):
        chunks.expand_unlocked(str(chunk), str(site.spool))
    monkeypatch.setattr(later, "place", place)
    os.rename(site.spool / FOLDER, tmp_path / "left")
    site.run()
    (path,) = dead.paths(str(site.spool))
    assert "moved without its jobs" in dead.report(path)["reason"]
    os.rename(tmp_path / "left", site.spool / FOLDER)
    actions.retry(os.path.basename(path))
    site.run()
    assert [job.state for job in jobs] == [State.DONE] * 3
    assert sorted(ran) == [(1, 0), (2, 0), (3, 0)]
    assert os.listdir(site.spool / FOLDER) == []


def test_a_spooler_that_starts_removes_the_folder_that_a_killed_one_has_left(site: Site) -> None:
    left, filled = site.spool / FOLDER / "left", site.spool / FOLDER / "filled"
    for folder in (left, filled):
        folder.mkdir(parents=True)
    (filled / "job").touch()
    chunks.sweep(str(site.spool))
    assert os.listdir(site.spool / FOLDER) == ["filled"]


def test_a_job_is_not_expanded_while_another_process_does_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = add.map([(1,)])
    monkeypatch.setattr(actions, "CLAIM_TIME", 0.05)
    monkeypatch.setattr(locks, "try_lock", lambda fd: False)
    with pytest.raises(JobStateError, match="locked by another process"):
        job.cancel()
    assert chunks.find(str(site.spool), job.id)
