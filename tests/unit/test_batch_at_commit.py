"""A batch that is built within a transaction is accepted at its commit: the whole of it, once, and at no other end."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import spool_site
from flask import current_app
from flask_sqlalchemy import SQLAlchemy
from life_faults import CRASHED, die_at, no_store_after
from life_process import in_child
from sqlalchemy import Engine, create_engine, select, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from sqlite_savepoints import begin_each_transaction

from spoolkit import (
    ArgumentError,
    ArgumentTypeError,
    Batch,
    BatchStateError,
    ConfigurationError,
    DecodeError,
    Job,
    JobStateError,
    JobTimeout,
    NewerJobError,
    QueueFull,
    State,
    TooLargeError,
    UnknownBatchError,
    application,
    current_job,
    signals,
    spool,
)
from spoolkit.admin import actions, lookup
from spoolkit.admin import batches as shown
from spoolkit.cli import commands
from spoolkit.coordination import batches as coordination
from spoolkit.coordination import commits
from spoolkit.coordination.outbox import TABLE
from spoolkit.encoding import batch as codec
from spoolkit.encoding import packet
from spoolkit.job import BatchStatus
from spoolkit.spooldir import batches, dead, held, spoolfile
from spoolkit.spooling import batch_jobs, execute, leftovers
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import clock, log
from spoolkit.testing import run_jobs

history = ""
"""The file to which each run is appended."""


def note(*words: object) -> None:
    with open(history, "a", encoding="ascii") as file:
        file.write(" ".join(map(str, words)) + "\n")


def ran() -> list[str]:
    return sorted(Path(history).read_text().splitlines()) if os.path.exists(history) else []


@spool(retries=0)
def step(number: int) -> int:
    note("step", number)
    if number < 0:
        raise ValueError(number)
    return number


@spool(retries=0)
def report(owner: int) -> None:
    batch = Batch.get(current_job().batch or "")
    note("report", owner, *(f"{state}={number}" for state, number in sorted(batch.progress.states.items())))


site = functools.partial(spool_site.site, globals())

WHOLE = ["report 42 done=2", "step 1", "step 2"]
"""What a batch of the members 1 and 2 does."""


@pytest.fixture(autouse=True)
def nothing_is_logged_yet() -> None:
    log._complaints.discard()  # the same line comes once a minute at most


@pytest.fixture
def spool_dir(tmp_path: Path) -> Iterator[str]:
    with site(tmp_path) as spool_dir:
        yield spool_dir


def database(folder: Path) -> Engine:
    """A database in a file. Without a pool: the children of a test must not inherit a connection."""
    engine = create_engine(f"sqlite:///{folder}/data.db", poolclass=NullPool)
    begin_each_transaction(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id VARCHAR(32) PRIMARY KEY)"))
    return engine


@pytest.fixture
def session(spool_dir: str, tmp_path: Path) -> Iterator[Session]:
    with Session(database(tmp_path)) as session:
        yield session


def a_batch(session: object, *numbers: int, **options: Any) -> Batch:
    with Batch("import", then=report.call(42), after_commit=session, **options) as batch:
        for number in numbers:
            batch.add(step, number)
    return batch


def waiting(spool_dir: str) -> list[str]:
    """The ids of the jobs that wait, which have the task of their batch while that is one file."""
    return sorted(spoolfile.id_of(os.path.basename(path)) or "" for path in spoolfile.pending(spool_dir))


def run(spool_dir: str) -> None:
    spooler = Spooler(spool_dir)
    for _ in range(6):
        spooler.run_due()


def is_unknown(id: str) -> bool:
    try:
        return Batch.get(id) is None
    except UnknownBatchError:
        return True


def test_a_batch_is_accepted_at_the_commit_and_calls_back(spool_dir: str, session: Session) -> None:
    batch = a_batch(session, 1, 2)
    assert (batch.held, waiting(spool_dir), held.names(spool_dir)) == (True, [], {batch.id})
    run(spool_dir)
    assert ran() == []
    session.commit()
    assert not batch.held
    assert [batch.progress.states, batch.complete] == [{State.QUEUED: 2}, False]
    assert waiting(spool_dir) == sorted(job.id for job in batch.jobs)
    run(spool_dir)
    assert (ran(), batch.complete, batch.results) == (WHOLE, True, [1, 2])
    assert batch.callback is not None
    assert batch.callback.state is State.DONE
    assert (held.names(spool_dir), waiting(spool_dir), batches.staged(spool_dir)) == (set(), [], [])


@pytest.mark.parametrize("end", [Session.rollback, Session.close])
def test_a_transaction_that_ends_without_a_commit_leaves_no_batch(
    spool_dir: str, session: Session, end: Callable[[Session], None], caplog: pytest.LogCaptureFixture
) -> None:
    jobs: list[Job[Any]] = []
    with Batch("import", then=report.call(42), after_commit=session) as batch:
        jobs.append(batch.add(step, 1))
    assert jobs[0].held
    with caplog.at_level(logging.INFO):
        end(session)
    assert f"the batch {batch.id} of 1 job was not accepted" in caplog.text
    assert (batch.held, jobs[0].held, is_unknown(batch.id)) == (False, False, True)
    assert (held.names(spool_dir), waiting(spool_dir)) == (set(), [])
    run(spool_dir)
    assert ran() == []


def test_before_the_commit_each_question_has_a_clear_answer(spool_dir: str, session: Session) -> None:
    with Batch("import", after_commit=session) as batch:
        job = batch.add(step, 1)
    questions: list[Callable[[], object]] = [
        lambda: batch.status,
        lambda: batch.progress,
        lambda: batch.complete,
        lambda: batch.jobs,
        lambda: batch.results,
        lambda: batch.callback,
        lambda: batch.wait(timeout=1),
        lambda: Batch.get(batch.id),
        lambda: shown.details(batch.id),
    ]
    for question in questions:
        with pytest.raises(BatchStateError, match="waits for the commit"):
            question()
    with pytest.raises(BatchStateError, match="make another one"), batch:
        pass
    assert (job.held, job.state) == (True, State.QUEUED)
    with pytest.raises(JobStateError, match="commit"):
        job.wait(timeout=1)
    with pytest.raises(JobStateError, match="not accepted yet"):
        job.cancel()
    session.commit()
    assert job.state is State.QUEUED
    assert not job.held


def test_other_processes_do_not_know_a_held_batch(spool_dir: str, session: Session) -> None:
    batch = a_batch(session, 1)
    held._here.set({})  # as in another process
    assert (batch.held, is_unknown(batch.id)) == (False, True)


def test_an_exception_in_the_block_leaves_nothing_to_commit(spool_dir: str, session: Session) -> None:
    batch = Batch("import", after_commit=session)
    with contextlib.suppress(RuntimeError), batch:
        batch.add(step, 1)
        raise RuntimeError
    session.commit()
    assert (is_unknown(batch.id), waiting(spool_dir)) == (True, [])


def test_an_empty_batch_calls_back_after_the_commit(spool_dir: str, session: Session) -> None:
    batch = a_batch(session)
    run(spool_dir)
    assert ran() == []
    session.commit()
    assert (batch.complete, batch.progress.total) == (True, 0)
    run(spool_dir)
    assert ran() == ["report 42"]
    dropped = a_batch(session)
    session.rollback()
    assert is_unknown(dropped.id)


@pytest.mark.parametrize(("inner", "outer"), [("commit", "commit"), ("commit", "rollback"), ("rollback", "commit")])
def test_a_batch_is_accepted_if_all_savepoints_around_it_and_the_root_are(
    spool_dir: str, session: Session, inner: str, outer: str
) -> None:
    savepoint = session.begin_nested()
    batch = a_batch(session, 1, 2)
    getattr(savepoint, inner)()
    assert batch.held is (inner == "commit")
    getattr(session, outer)()
    is_accepted = inner == outer == "commit"
    assert is_unknown(batch.id) is not is_accepted
    run(spool_dir)
    assert ran() == (WHOLE if is_accepted else [])


@pytest.fixture
def db(spool_dir: str, tmp_path: Path) -> Iterator[SQLAlchemy]:
    app = application.current()
    assert app is not None
    app.config.update(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/app.db", SPOOLKIT_AFTER_COMMIT="auto")
    db = SQLAlchemy(app)
    commits.listen_for_writes()
    db.session.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
    db.session.commit()
    yield db
    db.session.remove()
    db.engine.dispose()


def insert(db: SQLAlchemy, id: int) -> None:
    db.session.execute(text(f"INSERT INTO notes VALUES ({id})"))


def test_a_batch_waits_without_being_asked_if_its_transaction_has_changes_at_the_end_of_the_block(
    spool_dir: str, db: SQLAlchemy
) -> None:
    with Batch("opened before the transaction") as batch:
        for number in (1, 2):
            insert(db, number)
            batch.add(step, number)
    assert batch.held
    db.session.commit()
    assert (batch.held, batch.progress.total) == (False, 2)
    with Batch("committed within the block") as batch:
        insert(db, 3)
        batch.add(step, 3)
        db.session.commit()
    assert (batch.held, batch.progress.total) == (False, 1)
    db.session.execute(text("SELECT * FROM notes"))
    with Batch("nothing was written") as batch:
        batch.add(step, 4)
    assert (batch.held, batch.progress.total) == (False, 1)
    insert(db, 5)
    with Batch("at once", after_commit=False) as batch:
        batch.add(step, 5)
    assert (batch.held, batch.progress.total) == (False, 1)
    with Batch("rolled back") as batch:
        batch.add(step, 6)
    db.session.rollback()
    assert is_unknown(batch.id)


def test_a_hook_of_another_database_layer_tells_of_the_commit(spool_dir: str) -> None:
    functions: list[Callable[[], None]] = []
    current_app.extensions["spoolkit"].on_commit = functions.append
    batch = a_batch(True, 1, 2)
    dropped = a_batch(True, 3)
    assert (batch.held, dropped.held) == (True, True)
    functions.pop()
    assert is_unknown(dropped.id)
    functions.pop()()
    run(spool_dir)
    assert (ran(), batch.complete) == (WHOLE, True)


def test_what_cannot_wait_is_refused_in_the_call(spool_dir: str, session: Session) -> None:
    with pytest.raises(ConfigurationError, match="give the session"):
        Batch("x", after_commit=True)
    with pytest.raises(ArgumentTypeError, match="after_commit"):
        Batch("x", after_commit="soon")
    with Batch("x", after_commit=session) as batch, pytest.raises(ArgumentError, match="Batch"):
        batch.add(step.using(after_commit=session).call(1))


def test_a_batch_that_is_too_large_for_one_file_is_refused(
    spool_dir: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolfile, "MAX_SIZE", 500)
    with pytest.raises(TooLargeError, match="several batches"):
        a_batch(session, 1, 2)
    assert held.names(spool_dir) == set()


def test_a_batch_that_a_queue_has_no_room_for_is_refused_before_the_commit(tmp_path: Path) -> None:
    with site(tmp_path, SPOOLKIT_MAX_WAITING=1) as spool_dir, Session(database(tmp_path)) as session:
        with pytest.raises(QueueFull):
            a_batch(session, 1, 2)
        session.commit()
        assert (held.names(spool_dir), waiting(spool_dir)) == (set(), [])


def test_members_keep_the_options_of_their_calls_and_their_queues(tmp_path: Path) -> None:
    with site(tmp_path, SPOOLKIT_QUEUES={"mail": {}}) as spool_dir, Session(database(tmp_path)) as session:
        with Batch("import", then=report.using(queue="mail").call(42), after_commit=session) as batch:
            mail = batch.add(step.using(queue="mail", tags=["a"], headers={"b": "c"}).call(1))
            delayed = batch.add(step.using(delay=1000).call(2))
            urgent = batch.add(step.using(priority=3).call(3))
            expired = batch.add(step.using(expires=clock.now() - 1 and 0.0001).call(4))
        mail_dir = locations.queue_dir("mail")
        assert (held.names(mail_dir), held.names(spool_dir)) == ({batch.id}, set()), "where the first member runs"
        session.commit()
        assert (waiting(mail_dir), waiting(spool_dir)) == ([mail.id], sorted([delayed.id, urgent.id, expired.id]))
        assert os.path.exists(f"{spool_dir}/3/{spoolfile.PREFIX}{urgent.id}")
        assert delayed.status.run_at == pytest.approx(clock.now() + 1000, abs=60)
        assert (mail.status.queue, mail.status.tags) == ("mail", ("a",))
        run(spool_dir)
        run(mail_dir)
        assert (delayed.state, expired.state, batch.complete) == (State.QUEUED, State.CANCELLED, False)
        delayed.cancel()
        run(mail_dir)
        assert ran() == ["report 42 cancelled=2 done=2", "step 1", "step 3"]


def test_a_death_cancels_the_rest_if_the_batch_says_so(spool_dir: str, session: Session) -> None:
    batch = a_batch(session, -1, 2, on_death="cancel")
    session.commit()
    run(spool_dir)
    assert ran() == ["report 42 cancelled=1 dead=1", "step -1"]
    assert batch.status.on_death == "cancel"


def test_a_signal_tells_of_each_member_at_the_commit(spool_dir: str, session: Session) -> None:
    told: list[str] = []

    def note_job(sender: object, job: Any, **_: object) -> None:
        told.append(job.id)

    with signals.job_accepted.connected_to(note_job):
        batch = a_batch(session, 1, 2)
        assert told == []
        session.commit()
    assert told == [job.id for job in batch.jobs]


def test_a_batch_is_accepted_at_the_commit_also_if_the_store_is_broken(
    spool_dir: str, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    batch = a_batch(session, 1, 2)
    with no_store_after(0):
        session.commit()
    assert "a spooler tries again" in caplog.text
    assert (batch.held, waiting(spool_dir)) == (False, [batch.id])
    assert (batch.progress.states, batch.name, batch.jobs) == ({State.QUEUED: 2}, "import", [])
    assert shown.details(batch.id).status == batch.status
    run(spool_dir)
    assert (ran(), batch.complete) == (WHOLE, True)


def test_run_jobs_runs_the_members_of_a_batch_that_the_commit_could_not_enqueue(
    spool_dir: str, session: Session
) -> None:
    batch = a_batch(session, 1, 2)
    with no_store_after(0):
        session.commit()
    assert [job.task for job in run_jobs()] == [step.name] * 2 + [report.name]
    assert (ran(), batch.complete) == (WHOLE, True)


@pytest.mark.parametrize("name", ["stage", "publish"])
def test_a_batch_is_accepted_at_the_commit_also_on_a_full_disk(
    spool_dir: str, session: Session, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = a_batch(session, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(batches, name, Mock(side_effect=OSError(28, "No space left on device")))
        session.commit()
    assert (batch.progress.total, ran()) == (2, [])
    coordination.sweep(spool_dir)
    run(spool_dir)
    assert (ran(), batch.complete) == (WHOLE, True)


def test_a_batch_waits_for_a_spool_directory_that_is_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with site(tmp_path, SPOOLKIT_QUEUES={"mail": {}}) as spool_dir, Session(database(tmp_path)) as session:
        mail_dir = locations.queue_dir("mail")
        with Batch("import", then=report.call(42), after_commit=session) as batch:
            batch.add(step, 1)
            batch.add(step.using(queue="mail").call(2))
        os.rename(mail_dir, f"{mail_dir}-gone")
        session.commit()
        run(spool_dir)
        assert f"a spooler tries again: [Errno 2] No such file or directory: '{mail_dir}'" in caplog.text
        assert (ran(), waiting(spool_dir), batches.staged(spool_dir)) == ([], [batch.id], [])
        os.rename(f"{mail_dir}-gone", mail_dir)
        run(spool_dir)
        run(mail_dir)
        run(spool_dir)
        assert (ran(), batch.complete) == (WHOLE, True)


def test_a_file_that_cannot_be_moved_at_the_commit_is_accepted_by_a_sweep(
    spool_dir: str, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch, empty = a_batch(session, 1, 2), a_batch(session)
    with monkeypatch.context() as patch:
        patch.setattr(batch_jobs.held, "accept", Mock(side_effect=OSError(28, "No space left on device")))
        session.commit()
    assert (held.names(spool_dir), waiting(spool_dir)) == ({batch.id, empty.id}, [])
    told: list[str] = []

    def note_job(sender: object, job: Any, **_: object) -> None:
        told.append(job.task)

    with signals.job_accepted.connected_to(note_job):
        leftovers.sweep(spool_dir)
    assert told == [*[step.name] * 2, report.name] or told == [report.name, *[step.name] * 2]
    assert f"the batch {batch.id} of 2 jobs is accepted by a sweep" in caplog.text
    run(spool_dir)
    assert (batch.complete, empty.complete, ran()) == (True, True, sorted([*WHOLE, "report 42"]))


def test_a_batch_that_another_process_accepts_is_left_to_it(spool_dir: str, session: Session) -> None:
    batch = a_batch(session, 1, 2)
    [path] = [f"{folder}/{name}" for folder, _, names in os.walk(f"{spool_dir}/held") for name in names]
    with spoolfile.claim(path) as fd:
        assert fd is not None
        with pytest.raises(FileNotFoundError):
            batch_jobs.accept_held(path, folder=spool_dir, spool_dir=spool_dir, config=locations._current())
    session.commit()
    assert batch.progress.total == 2


def test_a_spooler_leaves_the_file_to_the_process_of_the_commit_while_that_lives(
    spool_dir: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, record = a_batch(session, 1, 2), batch_jobs._record
    statuses: list[int] = []

    def record_slowly(*args: Any) -> None:
        locations.store().close()
        statuses.append(in_child(lambda: run(spool_dir)))
        assert waiting(spool_dir) == [batch.id]
        record(*args)

    monkeypatch.setattr(batch_jobs, "_record", record_slowly)
    session.commit()
    assert (statuses, batch.progress.states) == ([0], {State.QUEUED: 2})
    run(spool_dir)
    assert ran() == WHOLE


def test_what_a_killed_process_has_written_of_the_members_is_in_nobodys_way(
    spool_dir: str, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    batch = a_batch(session, 1, 2)
    with no_store_after(0):
        session.commit()
    caplog.clear()
    [path] = spoolfile.pending(spool_dir)
    members = codec.unpack(packet.load(spoolfile.peek(path) or b"")).members
    batches.stage(spool_dir, batch.id, members[:1])
    run(spool_dir)
    assert (ran(), caplog.text) == (WHOLE, "")


def test_a_time_limit_that_strikes_at_the_commit_takes_no_member_away(
    spool_dir: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = a_batch(session, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(batches, "stage", Mock(side_effect=JobTimeout("too long", job="x", error_type=None)))
        with pytest.raises(JobTimeout):
            session.commit()
    run(spool_dir)
    assert (ran(), batch.complete) == (WHOLE, True)


def test_the_held_batch_of_a_killed_process_is_deleted(tmp_path: Path) -> None:
    with site(tmp_path) as spool_dir:
        engine = database(tmp_path)
        assert in_child(lambda: a_batch(Session(engine), 1, 2) and os._exit(9)) == 9
        leftovers.sweep(spool_dir)
        assert held.names(spool_dir) == set()
        run(spool_dir)
        assert ran() == []


# Wherever a process is killed


def notes(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(text("SELECT id FROM notes")))


def rows(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(TABLE.c.id)))


def commit(engine: Engine, *numbers: int) -> None:
    """A transaction that makes a batch, and writes a row of the application's with its id."""
    with Session(engine) as session:
        batch = a_batch(session, *numbers)
        session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": batch.id})
        session.commit()


@contextlib.contextmanager
def site_with_outbox(folder: Path) -> Iterator[tuple[str, Engine]]:
    with site(folder) as spool_dir:
        engine = database(folder)
        current_app.extensions["spoolkit"].outbox(engine).create(engine)
        yield spool_dir, engine


def settle(spool_dir: str, engine: Engine) -> None:
    for _ in range(2):
        leftovers.sweep(spool_dir)
        coordination.sweep(spool_dir)
        run(spool_dir)
    leftovers.sweep(spool_dir)
    assert (held.names(spool_dir), rows(engine), waiting(spool_dir)) == (set(), set(), [])


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.matrix), 41])
@pytest.mark.parametrize("numbers", [(1, 2), pytest.param((), marks=pytest.mark.matrix)])
def test_a_process_killed_at_any_step_leaves_a_whole_batch_if_and_only_if_it_committed(
    tmp_path: Path, numbers: tuple[int, ...], stride: int
) -> None:
    outcomes = set()
    for number in range(3, 400, stride):
        with site_with_outbox(tmp_path / str(number)) as (spool_dir, engine):

            def work(number: int = number, engine: Engine = engine) -> None:
                die_at(number)
                commit(engine, *numbers)

            status = in_child(work)
            assert status in (0, CRASHED)
            settle(spool_dir, engine)
            committed = notes(engine)
            outcomes.add(bool(committed))
            assert ran() == ((WHOLE if numbers else ["report 42"]) if committed else []), number
            assert all(Batch.get(id).status.generation == 1 for id in committed)
        if status == 0:
            assert outcomes == {True, False}
            return
    pytest.fail("it never came to its end")


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.matrix), 71])
@pytest.mark.parametrize("what", ["spooler", "sweep"])
def test_who_is_killed_at_any_step_while_it_accepts_a_batch_leaves_it_to_the_next(
    tmp_path: Path, what: str, stride: int
) -> None:
    for number in range(0, 500, stride):
        with site_with_outbox(tmp_path / str(number)) as (spool_dir, engine):

            def leave(what: str = what, engine: Engine = engine) -> None:
                """A process that is killed after its commit: before the rename, or before the members are enqueued."""
                patch = pytest.MonkeyPatch()
                where = held if what == "sweep" else batch_jobs
                patch.setattr(where, "accept" if what == "sweep" else "_expand", lambda *_, **__: os._exit(CRASHED))
                commit(engine, 1, 2)

            assert in_child(leave) == CRASHED
            assert held.names(spool_dir) == (notes(engine) if what == "sweep" else set())

            def work(number: int = number, spool_dir: str = spool_dir, what: str = what) -> None:
                die_at(number)
                if what == "sweep":
                    leftovers.sweep(spool_dir)
                    return
                pytest.MonkeyPatch().setattr(execute, "execute_job", lambda *_: os._exit(0))  # the batch is done
                run(spool_dir)

            status = in_child(work)
            assert status in (0, CRASHED)
            settle(spool_dir, engine)
            [batch] = map(Batch.get, notes(engine))
            assert (batch.complete, batch.status.generation) == (True, 1)
            assert ran() == WHOLE, number
        if status == 0:
            return
    pytest.fail("it never came to its end")


def test_a_batch_is_not_forgotten_while_its_file_is_there(
    spool_dir: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process was killed between the record and the end of the file, and a sweep has moved the members."""
    batch = a_batch(session, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(spoolfile, "finish", Mock(side_effect=OSError(30, "Read-only file system")))
        session.commit()
    [file] = spoolfile.pending(spool_dir)
    os.rename(file, aside := f"{spool_dir}/aside")
    coordination.sweep(spool_dir)
    run(spool_dir)
    assert ran() == WHOLE
    os.rename(aside, file)
    actions.purge([State.DONE])
    assert batch.complete
    run(spool_dir)
    assert (ran(), waiting(spool_dir)) == (WHOLE, [])
    step(3)
    run(spool_dir)
    actions.purge([State.DONE])
    assert is_unknown(batch.id)


# Its file


def test_an_older_version_leaves_the_file_alone(
    spool_dir: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = a_batch(session, 1, 2)
    with no_store_after(0):
        session.commit()
    with monkeypatch.context() as patch:
        patch.setattr(packet, "_is_known", packet.FIELDS.__contains__)
        patch.setattr(execute.batch, "is_batch", lambda content: False)
        run(spool_dir)
        now = clock.now()
        patch.setattr(clock, "now", lambda: now + 5000)
        run(spool_dir)
        assert (waiting(spool_dir), ran()) == ([batch.id], [])
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: now + 10000)
        run(spool_dir)
    assert (ran(), batch.complete) == (WHOLE, True)


def test_people_see_the_file_as_a_job_and_may_cancel_it(spool_dir: str, session: Session) -> None:
    batch = a_batch(session, 1, 2)
    with no_store_after(0):
        session.commit()
    assert [(job.id, job.task, job.state) for job in lookup.jobs()] == [(batch.id, codec.TASK, State.QUEUED)]
    for words, seen in ((["batch", batch.id], "import"), (["show", batch.id], codec.TASK), (["ls"], codec.TASK)):
        result = current_app.test_cli_runner().invoke(commands, words)
        assert (result.exit_code, seen in result.output) == (0, True), result.output
    with pytest.raises(JobStateError, match="a spooler enqueues its members"):
        actions.run_now(batch.id)
    assert actions.cancel(batch.id) is State.CANCELLED
    run(spool_dir)
    assert (ran(), is_unknown(batch.id)) == ([], True)


def test_a_damaged_file_is_a_dead_letter(spool_dir: str) -> None:
    status = BatchStatus("0" * 32, "x", clock.now(), None, 0, "wait", None, {})
    whole = codec.pack(status, [], None)
    spoolfile.write(spool_dir, status.id, whole[:-1])
    run(spool_dir)
    assert (waiting(spool_dir), len(dead.paths(spool_dir))) == ([], 1)


def test_a_batch_comes_out_of_its_file_as_it_went_in() -> None:
    status = BatchStatus("0" * 32, "müll \udcff", 5.0, None, 0, "cancel", None, {State.QUEUED: 1})
    member = packet.dump_job(codec.job(status), b"[[1],{}]")
    content = packet.load(codec.pack(status, [member], b"callback"))
    assert codec.is_batch(content)
    assert codec.unpack(content) == codec.Content(status, [(codec.job(status), member)], b"callback")
    fields = dict(content.fields)
    for changed in ({b"members": b"2"}, {b"on_death": b"?"}, {b"on_death": b"\xff"}, {b"name": b"\xff"}):
        with pytest.raises(DecodeError):
            codec.unpack(packet.Packet({**fields, **changed}, content.body))
    with pytest.raises(DecodeError, match="name"):
        codec.unpack(packet.Packet({key: value for key, value in fields.items() if key != b"name"}, content.body))
    with pytest.raises(DecodeError, match="break off"):
        codec.unpack(packet.Packet(fields, content.body[:-1]))
    with pytest.raises(NewerJobError):
        codec.unpack(packet.Packet({**fields, packet.MUST: b"members,frobnicate"}, content.body))
