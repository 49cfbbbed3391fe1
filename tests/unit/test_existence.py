"""A job exists as long as anything is known of it: its file, in whatever folder, or its record."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from spoolkit import Job, StoreUnavailableError, spool
from spoolkit.spooldir import dead, spoolfile
from spoolkit.store import existence, locations


@spool(retries=1, backoff=1000.0)
def task(how: str = "") -> None:
    if how == "look":
        seen.append(exists(locations.spool_dir(), os.environ["THE_JOB"]))
    elif how:
        raise ValueError


seen: list[bool] = []


def exists(directory: str, id: str) -> bool:
    return existence.exists(locations.store(), [directory], id)


def test_no_job_has_an_id_that_nobody_gave(directory: str) -> None:
    assert not exists(directory, "1" * 32)
    assert not exists(f"{directory}-of-nobody", "1" * 32)
    assert not os.path.exists(locations.store().path), "a question makes no store"


def test_a_job_exists_while_it_waits_and_after_its_end(directory: str, work: Callable[[], None]) -> None:
    due, delayed, urgent, many = task(), task.using(delay=60)(), task.using(priority=3)(), task.map([(), ()])
    jobs = [due, delayed, urgent, *many]
    assert all(exists(directory, job.id) for job in jobs)
    work()
    assert all(exists(directory, job.id) for job in jobs)


def test_a_job_exists_while_it_runs(directory: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    job = task("look")
    monkeypatch.setenv("THE_JOB", job.id)
    seen.clear()
    work()
    assert seen == [True]


def test_a_job_exists_under_a_later_name_and_among_the_dead_without_a_record(directory: str) -> None:
    job = task()
    (path,) = spoolfile.pending(directory)
    path = spoolfile.reschedule(path, 0.0)
    assert exists(directory, job.id)
    dead.quarantine(path, directory, reason="by hand")
    assert exists(directory, job.id)


def test_where_the_store_cannot_be_read_only_a_file_tells(directory: str) -> None:
    job: Job[None] = task()
    os.mkdir(locations.store().path)
    assert exists(directory, job.id)
    with pytest.raises(StoreUnavailableError):
        exists(directory, "1" * 32)
