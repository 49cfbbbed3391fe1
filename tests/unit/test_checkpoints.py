"""What a job stores of itself, for the attempt after this one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from spoolkit import ArgumentTypeError, DecodeError, StoreUnavailableError, TooLargeError, current_job, spool
from spoolkit.attempt.current_job import CurrentJob, running
from spoolkit.job import JobSpec
from spoolkit.spooldir import checkpoints as kept
from spoolkit.spooldir.checkpoints import Checkpoint
from spoolkit.store import Store, retention

ID = "0" * 32


def job(folder: Path) -> CurrentJob:
    """The job in a new attempt."""
    return CurrentJob(id=ID, task="t", _checkpoint=Checkpoint(str(folder), ID))


def test_the_next_attempt_gets_what_was_stored_last(tmp_path: Path) -> None:
    first = job(tmp_path)
    assert first.resume() is None
    assert first.resume("nothing") == "nothing"
    first.checkpoint({"page": 3})
    first.checkpoint({"page": 4, "seen": {1, 2}})
    assert first.resume() == {"page": 4, "seen": {1, 2}}
    assert job(tmp_path).resume() == {"page": 4, "seen": {1, 2}}
    assert os.listdir(tmp_path / kept.FOLDER) == [ID]


def test_steps_that_are_done_are_skipped_and_the_interrupted_one_comes_again(tmp_path: Path) -> None:
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


def test_several_loops_each_go_on_where_they_were(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("data", "error"), [(object(), ArgumentTypeError), ("x" * kept.LIMIT, TooLargeError)])
def test_what_cannot_be_kept_is_refused_and_the_one_before_stays(
    tmp_path: Path, data: object, error: type[Exception]
) -> None:
    first = job(tmp_path)
    first.checkpoint("kept")
    with pytest.raises(error):
        first.checkpoint(data)
    assert first.resume() == job(tmp_path).resume() == "kept"


def test_where_it_cannot_be_written_the_task_is_told(tmp_path: Path) -> None:
    (tmp_path / kept.FOLDER).write_text("in the way")
    with pytest.raises(StoreUnavailableError):
        job(tmp_path).checkpoint(1)


def test_what_this_version_cannot_read_is_said(tmp_path: Path) -> None:
    job(tmp_path).checkpoint(1)
    (tmp_path / kept.FOLDER / ID).write_bytes(b'[{"$of a later version": 1}, []]')
    with pytest.raises(DecodeError):
        job(tmp_path).resume()


def test_outside_of_a_spooler_a_task_runs_as_well() -> None:
    @spool
    def walks() -> tuple[object, list[int]]:
        current_job().checkpoint("here")
        return current_job().resume(), list(current_job().steps([1, 2]))

    assert walks.run() == ("here", [1, 2])
    with running(CurrentJob(id=ID, task="t")):
        assert current_job().resume() is None, "what one run stored is another one's"


def test_checkpoints_of_jobs_that_are_over_are_swept(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "spoolkit.db"))
    done, waiting, unknown, old = (f"{n:032x}" for n in range(4))
    for id in (done, waiting, unknown, old):
        Checkpoint(str(tmp_path), id).store(1)
    for id in (done, waiting):
        store.claim(JobSpec(id=id, task="t"), file=None, still_there=lambda: True, max_attempts=1)
    from spoolkit.job import Done

    store.finish(JobSpec(id=done, task="t"), 1, Done())
    long_ago = time.time() - 2 * retention.CHECKPOINT_AGE
    os.utime(tmp_path / kept.FOLDER / old, (long_ago, long_ago))
    retention.delete_leftovers(store, str(tmp_path))
    store.close()
    assert sorted(os.listdir(tmp_path / kept.FOLDER)) == sorted([waiting, unknown])
