"""What is old is forgotten, a little at a time, and whatever is wrong with it no job is hurt."""

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
    monkeypatch.setattr(retention, "_last", -retention.PAUSE)  # as a process that has just begun
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


def test_what_is_over_for_long_enough_is_forgotten(spool: str, store: Store, config: Settings) -> None:
    over = (State.DONE, State.CANCELLED, State.LOST)
    stay = [record(store, state, 6) for state in over]
    stay += [record(store, state, None) for state in (State.RUNNING, State.RETRYING, State.QUEUED)]
    stay += [record(store, State.DEAD, 89)]
    for state in over:
        record(store, state, 8)
    record(store, State.DEAD, 91)
    retention.a_little(store, spool, config)
    assert kept(store) == {id for ids in stay for id in ids}
    assert len(store.read("SELECT DISTINCT job FROM events")) == len(stay)


@pytest.mark.parametrize(("name", "state"), [("keep_done", State.DONE), ("keep_dead", State.DEAD)])
def test_how_long_is_set(spool: str, store: Store, name: str, state: State) -> None:
    (id,) = record(store, state, 1)
    retention.a_little(store, spool, Settings(spool, **{name: 2 * DAY}))
    assert kept(store) == {id}


def test_a_dead_job_is_forgotten_with_its_file(
    spool: str, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = dead.quarantine(spoolfile.write(spool, new_id(), b"x"), spool, reason="x")
    retention.a_little(store, spool, config)
    assert dead.paths(spool) == [path]
    later(monkeypatch, 91)
    monkeypatch.setattr(retention, "_last", -retention.PAUSE)
    retention.a_little(store, spool, config)
    assert os.listdir(f"{spool}/dead") == []


def test_only_so_many_are_forgotten_at_once(spool: str, store: Store, config: Settings) -> None:
    record(store, State.DONE, 8, count=retention.AT_ONCE + 5)
    retention.a_little(store, spool, config)
    assert len(kept(store)) == 5


def test_the_oldest_go_first(spool: str, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 1)
    (older,), (younger,) = record(store, State.DONE, 9), record(store, State.DONE, 8)
    retention.a_little(store, spool, config)
    assert kept(store) == {younger}
    assert older < younger


def test_it_looks_only_now_and_then(
    spool: str, store: Store, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    retention.a_little(store, spool, config)
    (id,) = record(store, State.DONE, 8)
    retention.a_little(store, spool, config)
    assert kept(store) == {id}
    monkeypatch.setattr(retention, "PAUSE", 0)
    retention.a_little(store, spool, config)
    assert kept(store) == set()


def test_a_store_that_is_broken_is_somebody_elses_business(spool: str, config: Settings) -> None:
    Path(spool, "spoolkit.db").write_bytes(b"no database" * 100)
    retention.a_little(Store(f"{spool}/spoolkit.db"), spool, config)


def test_so_is_a_folder_of_the_dead_that_is_none(spool: str, store: Store, config: Settings) -> None:
    Path(spool, "dead").write_text("x")
    retention.a_little(store, spool, config)


def test_files_and_records_of_the_dead_are_counted_as_one(
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
