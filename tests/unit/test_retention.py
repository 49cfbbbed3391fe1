"""Old records are deleted, a few at a time, and no error in it harms a job."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolkit.job import State, new_id
from spoolkit.settings import Settings
from spoolkit.spooldir import dead, spoolfile
from spoolkit.store import Store, retention
from spoolkit.system import clock

DAY = 86400.0


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    retention.last_deletion.discard()  # as a process that has just begun
    return str(tmp_path)


@pytest.fixture
def store(spool: str) -> Iterator[Store]:
    store = Store(f"{spool}/spoolkit.db")
    yield store
    store.close()


@pytest.fixture
def config(spool: str) -> Settings:
    return Settings(spool, keep_done=7 * DAY, keep_dead=90 * DAY)


def record(store: Store, state: State, days: float | None, count: int = 1) -> list[str]:
    """Jobs that ended so many days ago."""
    ended = None if days is None else clock.now() - days * DAY
    ids = [new_id() for _ in range(count)]
    with store.transaction() as db:
        db.executemany(
            "INSERT INTO jobs (id, task, engine, state, attempt, base, finished_at)"
            " VALUES (?, 't', 'spool', ?, 1, 0, ?)",
            [(id, state.value, ended) for id in ids],
        )
        db.executemany("INSERT INTO events (job, seq, time, kind) VALUES (?, 1, 1, 'started')", [(id,) for id in ids])
    return ids


def kept(store: Store) -> set[str]:
    return {status.id for status in store.statuses()}


def later(monkeypatch: pytest.MonkeyPatch, days: float) -> None:
    monkeypatch.setattr(clock, "now", lambda: time.time() + days * DAY)


def test_delete_some_deletes_what_ended_long_enough_ago(spool: str, store: Store, config: Settings) -> None:
    over = (State.DONE, State.CANCELLED, State.LOST)
    stay = [record(store, state, 6) for state in over]
    stay += [record(store, state, None) for state in (State.RUNNING, State.RETRYING, State.QUEUED)]
    stay += [record(store, State.DEAD, 89)]
    for state in over:
        record(store, state, 8)
    record(store, State.DEAD, 91)
    retention.delete_some(store, spool, config)
    assert kept(store) == {id for ids in stay for id in ids}
    assert len(store.read("SELECT DISTINCT job FROM events")) == len(stay)


@pytest.mark.parametrize(("name", "state"), [("keep_done", State.DONE), ("keep_dead", State.DEAD)])
def test_settings_say_how_long_jobs_are_kept(spool: str, store: Store, name: str, state: State) -> None:
    (id,) = record(store, state, 1)
    retention.delete_some(store, spool, Settings(spool, **{name: 2 * DAY}))
    assert kept(store) == {id}


def test_delete_some_deletes_a_dead_job_with_its_file(
    spool: str, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dead.quarantine(spoolfile.write(spool, new_id(), b"x"), spool, reason="x")
    retention.delete_some(store, spool, config)
    assert dead.paths(spool) == [path]
    later(monkeypatch, 91)
    retention.last_deletion.discard()
    retention.delete_some(store, spool, config)
    assert os.listdir(f"{spool}/dead") == []


def test_delete_some_deletes_a_limited_number_at_once(spool: str, store: Store, config: Settings) -> None:
    record(store, State.DONE, 8, count=retention.BATCH + 5)
    retention.delete_some(store, spool, config)
    assert len(kept(store)) == 5


def test_delete_some_deletes_the_oldest_first(
    spool: str, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)
    (older,), (younger,) = record(store, State.DONE, 9), record(store, State.DONE, 8)
    retention.delete_some(store, spool, config)
    assert kept(store) == {younger}
    assert older < younger


def test_delete_some_does_nothing_within_the_interval(
    spool: str, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention.delete_some(store, spool, config)
    (id,) = record(store, State.DONE, 8)
    retention.delete_some(store, spool, config)
    assert kept(store) == {id}
    monkeypatch.setattr(retention, "INTERVAL", 0)
    retention.delete_some(store, spool, config)
    assert kept(store) == set()


def test_delete_some_reads_no_directory_of_jobs_if_there_is_nothing_to_delete(
    spool: str, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = record(store, State.DONE, days=1, count=3)
    monkeypatch.setattr(spoolfile, "folders_of_jobs", None)
    retention.delete_some(store, spool, config)
    assert kept(store) == set(ids)


def test_delete_some_ignores_a_damaged_store(spool: str, config: Settings) -> None:
    path = Path(spool, "spoolkit.db")
    path.write_bytes(b"no database" * 100)
    retention.delete_some(Store(str(path)), spool, config)
    assert path.read_bytes() == b"no database" * 100


def test_delete_some_ignores_a_file_in_place_of_the_dead_folder(spool: str, store: Store, config: Settings) -> None:
    Path(spool, "dead").write_text("x")
    record(store, State.DONE, 8)
    retention.delete_some(store, spool, config)
    assert Path(spool, "dead").read_text() == "x"
    assert kept(store) == set(), "records are deleted all the same"


def test_delete_dead_counts_a_file_and_its_record_once(
    spool: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        dead.quarantine(spoolfile.write(spool, new_id(), b"x"), spool, reason="x")
    record(store, State.DEAD, 1, count=2)
    assert retention.delete_dead(store, spool, clock.now() - 2 * DAY, 10) == 0
    assert retention.delete_dead(store, spool, time.time() + 1, 10) == 3
    record(store, State.DEAD, 1, count=2)
    assert retention.delete_dead(store, spool, time.time() + 1, 10) == 2
    assert retention.delete_dead(store, spool, time.time() + 1, 10) == 0
