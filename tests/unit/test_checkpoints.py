"""What a job stores for its next attempt."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from life_process import in_child

from spoolkit import ArgumentTypeError, DecodeError, StoreUnavailableError, TooLargeError, current_job, spool
from spoolkit.attempt import bookkeeping, runner
from spoolkit.attempt.current_job import CurrentJob, as_current_job
from spoolkit.attempt.runner import AttemptResult
from spoolkit.job import Done, JobSpec, TaskOptions
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import checkpoints
from spoolkit.spooldir.checkpoints import Checkpoint
from spoolkit.spooldir.running import AttemptFile
from spoolkit.store import Store, retention
from spoolkit.store.claims import Granted

ID = "0" * 32


def job(folder: Path) -> CurrentJob:
    """The job in a new attempt."""
    return CurrentJob(JobSpec(ID, "t"), attempt_file=AttemptFile(str(folder), ID))


def test_resume_gives_what_an_earlier_attempt_stored_last(tmp_path: Path) -> None:
    first = job(tmp_path)
    assert first.resume() is None
    assert first.resume("nothing") == "nothing"
    first.checkpoint({"page": 3})
    first.checkpoint({"page": 4, "seen": {1, 2}})
    assert first.resume() == {"page": 4, "seen": {1, 2}}
    assert job(tmp_path).resume() == {"page": 4, "seen": {1, 2}}
    assert os.listdir(tmp_path / checkpoints.FOLDER) == [ID]


def test_steps_skips_what_is_done_and_repeats_the_interrupted_step(tmp_path: Path) -> None:
    def attempt(until: str) -> list[str]:
        came = []
        for item in job(tmp_path).steps("abcde"):
            came.append(item)
            if item == until:
                break
        return came

    assert attempt("c") == ["a", "b", "c"]
    assert attempt("d") == ["c", "d"]
    assert attempt("") == ["d", "e"]
    assert attempt("") == []


def test_steps_counts_several_loops_apart(tmp_path: Path) -> None:
    first = job(tmp_path)
    assert list(first.steps([1, 2])) == [1, 2]
    second = first.steps([3, 4])
    assert [next(second), next(second)] == [3, 4]
    again = job(tmp_path)
    assert list(again.steps([1, 2])) == []
    assert list(again.steps([3, 4])) == [4]


def test_steps_and_checkpoint_do_not_overwrite_each_other(tmp_path: Path) -> None:
    first = job(tmp_path)
    for number in first.steps(range(3)):
        first.checkpoint(number * 10)
    again = job(tmp_path)
    assert again.resume() == 20
    assert list(again.steps(range(4))) == [3]


@pytest.mark.parametrize(("data", "error"), [(object(), ArgumentTypeError), ("x" * checkpoints.LIMIT, TooLargeError)])
def test_checkpoint_refuses_a_value_that_cannot_be_stored_and_keeps_the_earlier_one(
    tmp_path: Path, data: object, error: type[Exception]
) -> None:
    first = job(tmp_path)
    first.checkpoint("kept")
    with pytest.raises(error):
        first.checkpoint(data)
    assert first.resume() == job(tmp_path).resume() == "kept"


def test_checkpoint_raises_if_the_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / checkpoints.FOLDER).write_text("in the way")
    with pytest.raises(StoreUnavailableError):
        job(tmp_path).checkpoint(1)


def test_resume_raises_for_a_value_that_this_version_cannot_read(tmp_path: Path) -> None:
    job(tmp_path).checkpoint(1)
    (tmp_path / checkpoints.FOLDER / ID).write_bytes(b'[{"$of a later version": 1}, []]')
    with pytest.raises(DecodeError):
        job(tmp_path).resume()


def test_checkpoint_and_steps_work_outside_a_spooler() -> None:
    @spool
    def walks() -> tuple[object, list[int]]:
        current_job().checkpoint("here")
        return current_job().resume(), list(current_job().steps([1, 2]))

    assert walks.run() == ("here", [1, 2])
    with as_current_job(CurrentJob(JobSpec(ID, "t"))):
        assert current_job().resume() is None, "another run has stored it"


@pytest.mark.parametrize(("attempt", "used", "expected"), [(1, False, False), (1, True, True), (2, False, True)])
def test_an_attempt_tells_whether_there_may_be_a_checkpoint(
    tmp_path: Path, attempt: int, used: bool, expected: bool
) -> None:
    declared = Declared("t", lambda: current_job().checkpoint(1) if used else None, TaskOptions())
    with AttemptFile(str(tmp_path), ID) as attempt_file:
        settings = Settings(str(tmp_path))
        result = runner.run(JobSpec(ID, "t"), declared, Granted(attempt, attempt), settings, attempt_file=attempt_file)
    assert result.outcome == Done()
    assert result.may_have_checkpoint is expected


def test_the_checkpoint_of_a_killed_attempt_is_deleted_when_a_later_one_completes_the_job(tmp_path: Path) -> None:
    job, declared = JobSpec(ID, "t"), Declared("t", lambda: None, TaskOptions())
    store, settings = Store(str(tmp_path / "spoolkit.db")), Settings(str(tmp_path))
    path = tmp_path / "f"
    path.touch()
    assert in_child(lambda: bookkeeping.claim(job, declared.options, store, settings, path=str(path))) == 0
    Checkpoint(str(tmp_path), ID).store(1)
    crashed = bookkeeping.claim(job, declared.options, store, settings, path=str(path))
    assert isinstance(crashed, AttemptResult)
    bookkeeping.record(job, crashed, store, str(tmp_path))
    assert os.listdir(tmp_path / checkpoints.FOLDER) == [ID]
    path = path.rename(tmp_path / "f.1")
    start = bookkeeping.claim(job, declared.options, store, settings, path=str(path))
    assert isinstance(start, Granted)
    with AttemptFile(str(tmp_path), ID) as attempt_file:
        ended = runner.run(job, declared, start, settings, attempt_file=attempt_file)
    bookkeeping.record(job, ended, store, str(tmp_path))
    store.close()
    assert os.listdir(tmp_path / checkpoints.FOLDER) == []


def test_sweep_removes_the_checkpoints_of_finished_jobs(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "spoolkit.db"))
    done, waiting, unknown, old = (f"{n:032x}" for n in range(4))
    for id in (done, waiting, unknown, old):
        Checkpoint(str(tmp_path), id).store(1)
    for id in (done, waiting):
        store.claim(JobSpec(id=id, task="t"), file=None, still_there=lambda: True, max_attempts=1)
    store.finish(JobSpec(id=done, task="t"), 1, Done())
    long_ago = time.time() - 2 * retention.CHECKPOINT_AGE
    os.utime(tmp_path / checkpoints.FOLDER / old, (long_ago, long_ago))
    retention.delete_leftovers(store, str(tmp_path))
    store.close()
    assert sorted(os.listdir(tmp_path / checkpoints.FOLDER)) == sorted([waiting, unknown])
