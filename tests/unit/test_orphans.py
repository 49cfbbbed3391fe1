"""Jobs whose process a stop kills: the marks left while the store is locked, and what removes them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoolkit import StoreUnavailableError
from spoolkit.attempt import bookkeeping, runner
from spoolkit.job import JobSpec, TaskOptions
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import spoolers
from spoolkit.spooldir.running import AttemptFile
from spoolkit.spooling import handler
from spoolkit.store import Store, orphans, retention
from spoolkit.store.claims import Granted, PreviousCrashed
from spoolkit.system import clock, files, process

ID = "0" * 32


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "spoolkit.db"))
    yield store
    store.close()


class Running:
    """A process that has claimed the job of :data:`ID`."""

    def __init__(self, store: Store) -> None:
        code = (
            "import sys, time; from spoolkit.store import Store; from spoolkit.job import JobSpec\n"
            "Store(sys.argv[1]).claim(JobSpec(id=sys.argv[2], task='t'), file='f', still_there=lambda: True, "
            "max_attempts=1)\n"
            "print('claimed', flush=True); time.sleep(60)"
        )
        command = [sys.executable, "-c", code, store.path, ID]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "claimed\n"
        self.pid = self._process.pid
        self.identity = process.identity(self.pid)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def running(store: Store) -> Iterator[Running]:
    running = Running(store)
    yield running
    running.kill()


def spool_dir(store: Store) -> str:
    return os.path.dirname(store.path)


def marks(store: Store) -> list[str]:
    return sorted(os.listdir(Path(spool_dir(store), files.SPOOLERS)))


def test_mark_stopped_leaves_the_mark_of_a_process_that_is_dead_by_now(store: Store, running: Running) -> None:
    spoolers.mark_stopped(spool_dir(store), running.pid)
    running.kill()
    spoolers.mark_stopped(spool_dir(store), running.pid)
    assert spoolers.was_stopped(spool_dir(store), running.pid, running.identity)


def test_mark_stopped_leaves_no_mark_of_a_dead_process(store: Store, running: Running) -> None:
    running.kill()
    spoolers.mark_stopped(spool_dir(store), running.pid)
    assert not os.path.exists(Path(spool_dir(store), files.SPOOLERS))


def claim(store: Store) -> object:
    return store.claim(JobSpec(id=ID, task="t"), file="f", still_there=lambda: True, max_attempts=1)


def test_a_mark_stays_until_the_store_has_the_interrupted_attempt(
    store: Store, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoolers.mark_stopped(spool_dir(store), running.pid)
    running.kill()

    def unavailable(*args: object, **options: object) -> None:
        raise StoreUnavailableError("locked", path=store.path)

    def run() -> runner.AttemptResult:
        try:
            start = bookkeeping.claim(job, declared.options, store, config, path=str(path))
        except StoreUnavailableError as error:
            start = bookkeeping.claim_without_store(job, declared.options, config, error, lambda: 2)
        assert isinstance(start, Granted)
        with AttemptFile(spool_dir(store), job.id) as attempt_file:
            return runner.run(job, declared, start, config, attempt_file=attempt_file)

    job, declared, config = (
        JobSpec(id=ID, task="t"),
        Declared("t", lambda: None, TaskOptions()),
        Settings(spool_dir(store)),
    )
    path = Path(spool_dir(store), "f")
    path.touch()
    with monkeypatch.context() as locked:
        locked.setattr(orphans, "interrupt", unavailable)
        run()
    assert marks(store) == [f"stopped.{running.pid}"]
    assert isinstance(claim(store), PreviousCrashed)
    ended = run()
    assert ended is not None
    bookkeeping.record(job, ended, store, spool_dir(store), file="f")
    assert [attempt.outcome for attempt in store.history(ID)[0]] == ["interrupted", "done"]
    assert marks(store) == []


def test_delete_leftovers_removes_marks_that_no_running_job_needs(store: Store, running: Running) -> None:
    spoolers.mark_stopped(spool_dir(store), running.pid)
    spoolers.mark_stopped(spool_dir(store), os.getpid())
    running.kill()
    retention.delete_leftovers(store, spool_dir(store))
    assert marks(store) == [f"stopped.{running.pid}"], "the next claim asks for it"
    orphans.interrupt(store, [running.pid], kill=lambda pid: None, read_leftovers=lambda id, queue: (None, ""))
    retention.delete_leftovers(store, spool_dir(store))
    assert marks(store) == []


def test_a_spooler_that_starts_removes_old_temporary_files(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("dead/f", "dead/f.json", "dead/f.json.12-12.new", "dead/f.12-12.new", "spoolers/paused.12-12.new")
    names += ("spoolers/paused", f"checkpoints/{ID}", f"checkpoints/{ID}.12-12.new")
    for name in names:
        path = Path(directory, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")

    def sweep() -> set[str]:
        handler.start(directory)
        return {name for name in names if Path(directory, name).exists()}

    assert sweep() == set(names), "their writers may be at work"
    later = clock.now() + files.STRAY_AGE + 1
    monkeypatch.setattr(clock, "now", lambda: later)
    assert sweep() == {"dead/f", "dead/f.json", "dead/f.12-12.new", "spoolers/paused", f"checkpoints/{ID}"}
