"""A call that waits for a commit is accepted at the commit of the root transaction, and at no other end."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy_lite import SQLAlchemy as Lite
from life_process import in_child
from sqlalchemy import Engine, create_engine, delete, event, text, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from sqlalchemy.orm.attributes import flag_modified
from sqlite_savepoints import begin_each_transaction

from spoolkit import (
    ArgumentTypeError,
    ConfigurationError,
    JobStateError,
    JobTimeout,
    QueueFull,
    SpoolKit,
    UnknownJobError,
    spool,
    thread,
)
from spoolkit.admin import actions
from spoolkit.coordination import commits
from spoolkit.doctor import directory as doctor_directory
from spoolkit.doctor.examine import examine
from spoolkit.handle import Job
from spoolkit.job import State
from spoolkit.spooldir import dead, held, spoolfile
from spoolkit.spooling import leftovers, publication, unique_jobs
from spoolkit.spooling.standalone import Spooler
from spoolkit.testing.inline import InlineEngine
from spoolkit.threads.pool import Pool

ran: list[object] = []


@spool
def note(value: object) -> None:
    ran.append(value)


@thread
def think(value: object) -> None:
    ran.append(value)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path}/data.db")
    begin_each_transaction(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def insert(session: Session, id: int = 1) -> None:
    session.execute(text(f"INSERT INTO notes VALUES ({id})"))


def accepted(directory: str) -> list[str]:
    return sorted(spoolfile.id_of(os.path.basename(path)) or "chunk" for path in spoolfile.pending(directory))


def is_unknown(job: Job[Any]) -> bool:
    try:
        return job.status is None
    except UnknownJobError:
        return True


def test_a_job_is_accepted_at_the_commit_and_runs(directory: str, session: Session, work: Callable[[], None]) -> None:
    insert(session)
    job = note.using(after_commit=session)(5)
    assert (job.held, job.state, accepted(directory)) == (True, State.QUEUED, [])
    work()
    assert ran == []
    session.commit()
    assert (job.held, job.state, accepted(directory)) == (False, State.QUEUED, [job.id])
    work()
    assert (ran, job.state) == ([5], State.DONE)
    assert held.names(directory) == set()


def test_other_processes_do_not_know_a_held_job(directory: str, session: Session) -> None:
    job = note.using(after_commit=session)(5)

    def look() -> None:
        with pytest.raises(UnknownJobError):
            Job.get(job.id)

    assert in_child(look) == 0
    assert Job.get(job.id).held
    session.commit()
    assert in_child(lambda: Job.get(job.id)) == 0


ENDS: dict[str, Callable[[Session], object]] = {
    "rolled back": lambda session: session.rollback(),
    "closed": lambda session: session.close(),
    "invalidated": lambda session: session.invalidate(),
    "reset": lambda session: getattr(session, "reset", session.close)(),  # since 2.0.22
}


@pytest.mark.parametrize("end", ENDS)
def test_a_transaction_that_ends_without_a_commit_leaves_no_job(
    directory: str, session: Session, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    insert(session)
    job = note.using(after_commit=session)(5)
    with caplog.at_level(logging.DEBUG):
        ENDS[end](session)
    assert (job.held, is_unknown(job), accepted(directory), held.names(directory)) == (False, True, [], set())
    (record,) = (record for record in caplog.records if "without a commit" in record.message)
    assert record.levelno == logging.INFO
    insert(session)
    session.commit()
    assert accepted(directory) == []


def test_a_session_that_is_collected_leaves_no_job(directory: str, engine: Engine) -> None:
    session = Session(engine)
    job = note.using(after_commit=session)(5)
    del session
    gc.collect()
    assert (job.held, held.names(directory)) == (False, set())


EXIT = """
import atexit, threading
# Registered first, so called last.
atexit.register(lambda: (exiting.set(), thread.join()))
from flask import Flask
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from spoolkit import SpoolKit, spool
app = Flask("exits")
app.config["SPOOLKIT_SPOOL"] = %(spool)r
kit = SpoolKit(app)
@spool
def note(): ...
called, exiting = threading.Event(), threading.Event()
def request():
    with app.app_context(), Session(engine) as session:
        session.execute(text("INSERT INTO notes VALUES (5)"))
        note.using(after_commit=session)()
        called.set()
        exiting.wait()
        session.commit()
engine = create_engine(%(url)r)
if %(outbox)r:
    kit.outbox(engine).create(engine, checkfirst=True)
thread = threading.Thread(target=request, daemon=True)
thread.start()
called.wait()
"""


@pytest.mark.parametrize("outbox", [False, True])
def test_a_commit_while_the_process_exits_loses_no_job(directory: str, engine: Engine, outbox: bool) -> None:
    """As of a daemon thread that answers a request."""
    code = EXIT % {"url": str(engine.url), "spool": directory, "outbox": outbox}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=100)
    assert len(accepted(directory)) == 1


def test_a_child_that_ends_a_session_of_its_parent_touches_no_job(directory: str, session: Session) -> None:
    job = note.using(after_commit=session)(5)
    assert in_child(session.rollback) == 0
    assert held.names(directory) == {job.id}
    session.commit()
    assert accepted(directory) == [job.id]


def test_a_released_savepoint_is_no_commit(directory: str, session: Session) -> None:
    insert(session)
    with session.begin_nested():
        insert(session, 2)
        job = note.using(after_commit=session)(5)
    assert job.held
    session.rollback()
    assert (is_unknown(job), held.names(directory)) == (True, set())


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("root", [True, False])
def test_a_job_is_accepted_if_all_savepoints_around_it_and_the_root_are(
    directory: str, session: Session, inner: bool, outer: bool, root: bool
) -> None:
    insert(session)
    at_root = note.using(after_commit=session)("root")
    first = session.begin_nested()
    in_outer = note.using(after_commit=session)("outer")
    second = session.begin_nested()
    in_inner = note.using(after_commit=session)("inner")
    for savepoint, released in ((second, inner), (first, outer)):
        assert at_root.held
        savepoint.commit() if released else savepoint.rollback()
    after = note.using(after_commit=session)("after")
    assert accepted(directory) == []
    session.commit() if root else session.rollback()
    expected = [(at_root, root), (in_outer, root and outer), (in_inner, root and outer and inner), (after, root)]
    assert accepted(directory) == sorted(job.id for job, is_accepted in expected if is_accepted)
    assert held.names(directory) == set()


def test_a_commit_within_savepoints_commits_them_all(directory: str, session: Session) -> None:
    insert(session)
    session.begin_nested()
    session.begin_nested()
    job = note.using(after_commit=session)(5)
    session.commit()
    assert accepted(directory) == [job.id]


def test_a_commit_of_the_root_within_a_savepoint_commits_both(directory: str, session: Session) -> None:
    root = session.begin()
    session.begin_nested()
    job = note.using(after_commit=session)(5)
    root.commit()
    assert accepted(directory) == [job.id]


def test_a_commit_that_fails_leaves_no_job(directory: str, engine: Engine) -> None:
    with Session(engine) as session:

        @event.listens_for(session, "before_commit")
        def fail(session: Session) -> None:
            raise RuntimeError("not now")

        job = note.using(after_commit=session)(5)
        with pytest.raises(RuntimeError, match="not now"):
            session.commit()
        session.rollback()
        assert (is_unknown(job), held.names(directory)) == (True, set())


def test_a_listener_that_raises_after_the_commit_takes_no_job_away(directory: str, session: Session) -> None:
    @event.listens_for(session, "after_commit")
    def fail(session: Session) -> None:
        raise RuntimeError("too late")

    insert(session)
    job = note.using(after_commit=session)(5)
    with pytest.raises(RuntimeError, match="too late"):
        session.commit()
    assert accepted(directory) == [job.id]


def test_a_call_in_a_listener_of_the_commit_is_accepted_at_once(directory: str, session: Session) -> None:
    jobs: list[Job[None]] = []
    event.listen(session, "after_commit", lambda session: jobs.append(note.using(after_commit=session)(5)))
    insert(session)
    session.commit()
    assert accepted(directory) == [jobs[0].id]


@pytest.mark.parametrize("commits", [True, False])
def test_a_call_in_a_listener_of_a_release_waits_for_the_transaction_around(
    directory: str, session: Session, commits: bool
) -> None:
    jobs: list[Job[None]] = []
    event.listen(session, "after_commit", lambda session: jobs.append(note.using(after_commit=session)(5)), once=True)
    with session.begin_nested(), session.begin_nested():
        insert(session)
    assert jobs[0].held
    session.commit() if commits else session.rollback()
    assert accepted(directory) == ([jobs[0].id] if commits else [])


def test_a_call_within_a_flush_belongs_to_the_transaction_around_it(directory: str, session: Session) -> None:
    jobs: list[Job[None]] = []

    @event.listens_for(session, "before_commit")
    def call(session: Session) -> None:
        jobs.append(note.using(after_commit=session)(5))

    insert(session)
    session.commit()
    assert accepted(directory) == [jobs[0].id]


@pytest.mark.parametrize("mode", ["create_savepoint", "conditional_savepoint", "rollback_only"])
def test_the_session_of_a_test_within_an_outer_transaction_commits_for_itself(
    directory: str, engine: Engine, mode: Any
) -> None:
    with engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            insert(session)
            first = note.using(after_commit=session)(1)
            session.commit()
            insert(session, 2)
            second = note.using(after_commit=session)(2)
            session.rollback()
        assert (accepted(directory), is_unknown(second)) == ([first.id], True)
        if outer.is_active:
            outer.rollback()


def test_a_session_can_be_given_as_a_scoped_or_an_asynchronous_one(directory: str, engine: Engine) -> None:
    scoped = scoped_session(sessionmaker(engine))
    job = note.using(after_commit=scoped)(1)
    scoped.commit()
    scoped.remove()
    asynchronous = AsyncSession()
    other = note.using(after_commit=asynchronous)(2)
    assert other.held
    asynchronous.sync_session.commit()
    assert accepted(directory) == [job.id, other.id]


def test_an_asynchronous_session_tells_of_its_commits(directory: str, tmp_path: Path) -> None:
    async def work() -> list[Job[None]]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/data.db")
        async with AsyncSession(engine) as session:
            await session.execute(text("CREATE TABLE notes (id INTEGER PRIMARY KEY)"))
            committed = note.using(after_commit=session)(1)
            assert committed.held
            await session.commit()
            await session.execute(text("INSERT INTO notes VALUES (1)"))
            rolled_back = note.using(after_commit=session)(2)
            await session.rollback()
            closed = note.using(after_commit=session)(3)
        await engine.dispose()
        return [committed, rolled_back, closed]

    committed, *dropped = asyncio.run(work())
    assert (accepted(directory), held.names(directory)) == ([committed.id], set())
    assert all(map(is_unknown, dropped))


def test_a_delayed_job_is_held_as_well(directory: str, session: Session) -> None:
    job = note.using(delay=100, after_commit=session)(5)
    assert os.listdir(directory) == ["held"]
    session.commit()
    assert Path(directory, "later", f"uwsgi_spoolfile_on_{job.id}").exists()
    assert job.state is State.QUEUED


def test_a_priority_is_kept(directory: str, session: Session) -> None:
    job = note.using(priority=3, after_commit=session)(5)
    session.commit()
    assert Path(directory, "3", f"uwsgi_spoolfile_on_{job.id}").exists()


@pytest.mark.parametrize("commits", [True, False])
def test_many_jobs_are_held_at_once(directory: str, session: Session, work: Callable[[], None], commits: bool) -> None:
    jobs = note.map([(number,) for number in range(30)], after_commit=session)
    assert all(job.held for job in jobs)
    session.commit() if commits else session.rollback()
    assert not any(job.held for job in jobs)
    work()
    assert sorted(ran) == (list(range(30)) if commits else [])  # type: ignore[type-var]
    assert held.names(directory) == set()


@pytest.mark.parametrize("commits", [True, False])
def test_a_thread_job_waits_in_memory(directory: str, session: Session, commits: bool) -> None:
    job = think.using(after_commit=session)(5)
    assert (job.held, job.state, ran) == (True, State.QUEUED, [])
    session.commit() if commits else session.rollback()
    assert job.wait(10) if commits else is_unknown(job)
    assert ran == ([5] if commits else [])


def test_an_inline_job_runs_at_the_commit(directory: str, session: Session) -> None:
    spec = InlineEngine().submit(Job("0" * 32, note.name, (5,), engine="inline"), note.declared, session)
    assert ran == []
    session.commit()
    assert (ran, Job.get(spec.id).state) == ([5], State.DONE)


def test_arguments_are_refused_in_the_call(directory: str, session: Session) -> None:
    with pytest.raises(ArgumentTypeError):
        note.using(after_commit=session)(object())
    assert os.listdir(directory) == []
    session.commit()


@pytest.mark.parametrize("wrong", ["yes", 1, object(), Session])
def test_what_is_no_session_is_refused(directory: str, wrong: object) -> None:
    with pytest.raises(ArgumentTypeError, match="give True, False, or a session"):
        note.using(after_commit=wrong)(5)
    assert accepted(directory) == []


def test_true_without_a_known_session_asks_for_one(directory: str) -> None:
    for task in (note, think):
        with pytest.raises(ConfigurationError, match="give the session"):
            task.using(after_commit=True)(5)
    assert (accepted(directory), ran) == ([], [])


def test_a_held_job_can_be_neither_waited_for_nor_cancelled(directory: str, session: Session) -> None:
    job = note.using(after_commit=session)(5)
    with pytest.raises(JobStateError, match="waits for a commit"):
        job.wait(60)
    with pytest.raises(JobStateError, match="not accepted yet"):
        job.cancel()
    session.commit()
    assert job.cancel() is State.CANCELLED


def test_a_job_that_cannot_be_moved_at_the_commit_is_moved_later(
    directory: str, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = note.using(after_commit=session)(5)
    with monkeypatch.context() as patch:
        patch.setattr(publication.held, "accept", Mock(side_effect=OSError(28, "No space left")))
        session.commit()
    assert "cannot be accepted yet" in caplog.text
    assert (accepted(directory), held.names(directory)) == ([], {job.id})
    leftovers.sweep(directory)
    assert (accepted(directory), held.names(directory)) == ([job.id], set())


def test_a_job_that_cannot_be_moved_on_a_full_disk_is_not_deleted_with_its_process(
    directory: str, engine: Engine
) -> None:
    engine.dispose()

    def mkdir(path: str, *_: object) -> None:
        raise FileExistsError(17, path) if os.path.lexists(path) else OSError(28, "No space left")

    def commit_on_a_full_disk() -> None:
        with Session(engine) as session, pytest.MonkeyPatch.context() as patch:
            note.using(after_commit=session)(5)
            patch.setattr(publication.held, "accept", Mock(side_effect=OSError(28, "No space left")))
            patch.setattr(os, "mkdir", mkdir)
            session.commit()

    assert in_child(commit_on_a_full_disk) == 0
    leftovers.sweep(directory)
    assert len(accepted(directory)) == 1


def test_the_held_job_of_a_killed_process_is_deleted(
    directory: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.dispose()
    assert in_child(lambda: note.using(after_commit=Session(engine))(5) and os._exit(9)) == 9
    with Session(engine) as session:
        living = note.using(after_commit=session)(6)
        leftovers.sweep(directory)
        assert held.names(directory) == {living.id}
        assert "was deleted" in caplog.text
        session.commit()
    assert accepted(directory) == [living.id]
    leftovers.sweep(directory)
    own = os.path.basename(held.own_folder(directory, with_rows=False))
    assert set(os.listdir(os.path.join(directory, "held"))) == {held.COMMITTED, own}


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)


TABLE = Note.__table__

numbers = itertools.count(1000)


def modify(session: Session) -> None:
    one = session.get(Note, 100)
    assert one is not None
    flag_modified(one, "id")


def set_to(session: Session, id: int) -> None:
    one = session.get(Note, 100)
    assert one is not None
    one.id = id
    assert session.dirty


def write_and_refresh(session: Session) -> None:
    one = Note(id=next(numbers))
    session.add(one)
    session.commit()
    assert one.id


def within_savepoint(session: Session, *, released: bool) -> None:
    savepoint = session.begin_nested()
    session.execute(TABLE.insert(), {"id": next(numbers)})
    savepoint.commit() if released else savepoint.rollback()


def write_and_roll_back(session: Session) -> None:
    insert(session, next(numbers))
    session.rollback()


WRITTEN: dict[str, Callable[[Any], object]] = {
    "a new object": lambda session: session.add(Note(id=next(numbers))),
    "a flushed object": lambda session: (session.add(Note(id=next(numbers))), session.flush()),
    "a modified object": modify,
    "a changed object": lambda session: set_to(session, next(numbers)),
    "a deleted object": lambda session: session.delete(session.get(Note, 100)),
    "an INSERT": lambda session: session.execute(TABLE.insert(), {"id": next(numbers)}),
    "an UPDATE": lambda session: session.execute(update(Note).values(id=Note.id)),
    "a DELETE": lambda session: session.execute(delete(Note).where(Note.id == -1)),
    "SQL": lambda session: insert(session, next(numbers)),
    "SQL on the connection": lambda session: session.connection().exec_driver_sql("\n update notes set id = id"),
    "many objects": lambda session: session.bulk_save_objects([Note(id=next(numbers)), Note(id=next(numbers))]),
    "a released savepoint": lambda session: within_savepoint(session, released=True),
    "an open savepoint": lambda session: (session.begin_nested(), insert(session, next(numbers))),
}

NOT_WRITTEN: dict[str, Callable[[Any], object]] = {
    "nothing": lambda session: None,
    "a query": lambda session: session.get(Note, 100),
    "the same value again": lambda session: set_to(session, 100),
    "SQL that reads": lambda session: session.execute(text("SELECT 1")),
    "a commit before": write_and_refresh,
    "a rollback before": write_and_roll_back,
    "a savepoint that was rolled back": lambda session: within_savepoint(session, released=False),
}


SETTING = """
import sys
from flask import Flask
import spoolkit.testing
from spoolkit import SpoolKit, spool
app = Flask("set")
app.config.update(SPOOLKIT_SPOOL=%(spool)r, SQLALCHEMY_DATABASE_URI=%(url)r)
SpoolKit(app)
assert "sqlalchemy" not in sys.modules
app.config["SPOOLKIT_AFTER_COMMIT"] = "auto"
SpoolKit(app)
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text
db = SQLAlchemy(app)
@spool
def note(): ...
with app.app_context():
    db.session.execute(text("INSERT INTO notes VALUES (5)"))
    assert note().held
    db.session.commit()
    db.engine.dispose()
"""


class TestFlask:
    @pytest.fixture(params=[SQLAlchemy, Lite])
    def extension(self, request: pytest.FixtureRequest) -> type[Any]:
        return request.param  # type: ignore[no-any-return]

    @pytest.fixture
    def db(self, tmp_path: Path, extension: type[Any]) -> Iterator[Any]:
        app = Flask("with_a_database")
        url = f"sqlite:///{tmp_path}/app.db"
        app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SQLALCHEMY_DATABASE_URI=url)
        app.config.update(SQLALCHEMY_ENGINES={"default": url})
        (tmp_path / "spool").mkdir(mode=0o700)
        SpoolKit(app)
        db = extension(app)
        with app.app_context():
            Base.metadata.create_all(db.engine)
            with db.engine.begin() as connection:
                connection.execute(text("INSERT INTO notes VALUES (100)"))
            yield db
            db.engine.dispose()

    @pytest.fixture
    def spool_dir(self, tmp_path: Path) -> str:
        return str(tmp_path / "spool")

    @pytest.fixture
    def automatic(self, db: Any) -> Any:
        current_app.config["SPOOLKIT_AFTER_COMMIT"] = "auto"
        commits.listen_for_writes()  # as the SpoolKit object does where the setting is there before it
        return db

    def test_true_means_the_session_of_the_request(self, db: Any, tmp_path: Path) -> None:
        job = note.using(after_commit=True)(5)
        assert job.held
        db.session.commit()
        assert accepted(str(tmp_path / "spool")) == [job.id]

    @pytest.mark.parametrize("before", [*WRITTEN, *NOT_WRITTEN])
    @pytest.mark.parametrize("extension", [SQLAlchemy])
    def test_an_automatic_call_waits_where_something_was_written(
        self, automatic: Any, spool_dir: str, before: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        session = automatic.session
        {**WRITTEN, **NOT_WRITTEN}[before](session)
        waits = before in WRITTEN
        job = note(1)
        apart = note.using(after_commit=False)(2)
        many = note.map([(3,), (4,)])
        assert (job.held, apart.held, [one.held for one in many]) == (waits, False, [waits, waits])
        if waits:
            session.commit()
            session.execute(text("SELECT 1"))
            assert not note(5).held
            insert(session, next(numbers))
            dropped = note(6)
        session.rollback()
        assert len(accepted(spool_dir)) == 3 + waits
        assert job.id in accepted(spool_dir)
        warnings = [record for record in caplog.records if "without a commit" in record.message]
        assert [(record.levelno, dropped.id in record.message) for record in warnings] == [
            (logging.WARNING, True)
        ] * waits

    def test_an_automatic_call_for_a_view_that_only_reads_is_accepted_at_once(
        self, automatic: Any, spool_dir: str
    ) -> None:
        """As after a commit, when the id of an object is read again."""
        with current_app.app_context():
            one = Note(id=7)
            automatic.session.add(one)
            automatic.session.commit()
            job = note(one.id)
        assert accepted(spool_dir) == [job.id]

    def test_an_automatic_call_in_a_listener_of_the_commit_is_accepted_at_once(
        self, automatic: Any, spool_dir: str
    ) -> None:
        jobs: list[Job[None]] = []
        session = automatic.session
        event.listen(session, "after_commit", lambda session: jobs.append(note(5)), once=True)
        insert(session, 1)
        session.commit()
        assert accepted(spool_dir) == [jobs[0].id]

    def test_the_end_of_a_request_without_a_commit_leaves_no_job(
        self, db: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO), current_app.app_context():
            db.session.execute(text("SELECT 1"))
            note.using(after_commit=True)(5)
        assert held.names(str(tmp_path / "spool")) == set()
        assert "ended without a commit" in caplog.text


class Hook:
    """A database layer that calls functions at its commit."""

    def __init__(self) -> None:
        self.functions: list[Callable[[], None]] = []

    def commit(self) -> None:
        functions, self.functions = self.functions, []
        for function in functions:
            function()
            function()  # the second time does nothing

    def rollback(self) -> None:
        self.functions.clear()


def hook_of_app() -> tuple[SpoolKit, Hook]:
    kit, hook = current_app.extensions["spoolkit"], Hook()
    kit.on_commit = hook.functions.append
    return kit, hook


def test_a_hook_tells_of_the_commits_of_other_database_layers(directory: str) -> None:
    kit, hook = hook_of_app()
    kit.on_commit = lambda function: hook.functions.append(function)
    job = note.using(after_commit=True)(5)
    assert job.held
    hook.commit()
    assert accepted(directory) == [job.id]
    dropped = note.using(after_commit=True)(6)
    hook.rollback()
    assert (accepted(directory), is_unknown(dropped), held.names(directory)) == ([job.id], True, set())


def test_a_hook_that_raises_refuses_the_call(directory: str) -> None:
    kit, _ = hook_of_app()

    def fail(function: Callable[[], None]) -> None:
        raise RuntimeError("no transaction")

    kit.on_commit = fail
    with pytest.raises(RuntimeError, match="no transaction"):
        note.using(after_commit=True)(5)
    assert held.names(directory) == set()
    with pytest.raises(ConfigurationError, match="give a function"):
        kit.on_commit = 5  # type: ignore[assignment]


def test_a_full_pool_refuses_in_the_call_and_not_at_the_commit(directory: str, session: Session) -> None:
    first = think.using(after_commit=session)(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pool, "_has_room", lambda pool, call: False)
        with pytest.raises(QueueFull):
            think.using(after_commit=session)(2)
        session.commit()
    assert first.wait(10)
    assert ran == [1]


def test_sqlalchemy_is_imported_by_the_setting_alone_and_no_write_is_missed_then(
    directory: str, engine: Engine
) -> None:
    code = SETTING % {"url": str(engine.url), "spool": directory}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=100)


def test_the_doctor_finds_nothing_wrong_with_held_jobs(directory: str, session: Session) -> None:
    def problems() -> list[str]:
        return [found.problem for found in examine(directory, store=os.path.join(directory, "spoolkit.db"))]

    before = problems()
    note.using(after_commit=session)(5)
    assert problems() == before


def test_the_doctor_finds_a_held_job_that_nobody_settles(
    directory: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> list[str]:
        store = os.path.join(directory, "spoolkit.db")
        return [one.check for one in examine(directory, store=store) if one.check == "held-job"]

    monkeypatch.setattr(doctor_directory, "HELD_TIME", -60.0)  # no file is that young
    job = note.using(after_commit=session)(5)
    assert found() == []  # its transaction is in progress
    with monkeypatch.context() as patch:
        patch.setattr(publication.held, "accept", Mock(side_effect=OSError(28, "No space left")))
        session.commit()
    assert found() == ["held-job"]
    assert found() == ["held-job"]  # to look changes nothing
    Spooler(directory).run_due()  # as flask spool run does
    assert (found(), job.state) == ([], State.DONE)


def test_purge_leaves_held_jobs_alone(directory: str, session: Session) -> None:
    job = note.using(after_commit=session)(5)
    assert actions.purge() == 0
    session.commit()
    assert accepted(directory) == [job.id]


def test_a_publication_that_fails_is_logged_and_the_others_are_made(
    directory: str, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (note.using(after_commit=session)(number) for number in (1, 2))
    accept, left = held.accept, [first.id]

    def fail_once(path: str, *args: Any, **given: Any) -> None:
        if left:
            left.pop()
            raise RuntimeError("a fault of ours")
        accept(path, *args, **given)

    monkeypatch.setattr(held, "accept", fail_once)
    session.commit()
    assert accepted(directory) == [second.id]
    assert "cannot be accepted yet" in caplog.text
    leftovers.sweep(directory)
    assert accepted(directory) == [first.id, second.id]


@spool(unique=("key",))
def once(key: str, values: list[int]) -> None:
    ran.append((key, values))


@spool(unique=("key",), on_duplicate="raise")
def strict(key: str) -> None:
    ran.append(key)


@spool(unique=("key",), on_duplicate="replace")
def latest(key: str, value: int) -> None:
    ran.append((key, value))


def test_a_key_is_taken_at_the_commit_and_not_before(
    directory: str, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    held_job = once.using(after_commit=session)("a", [1])
    at_once = once("a", [2])
    assert (held_job.duplicate, at_once.duplicate) == (False, False)
    with caplog.at_level(logging.INFO):
        session.commit()
    assert (held_job.duplicate, held_job.held, is_unknown(held_job)) == (True, False, True)
    assert (
        f"job {held_job.id} of {once.name} is a duplicate: at its commit, job {at_once.id} has its key" in caplog.text
    )
    assert (accepted(directory), held.names(directory)) == ([at_once.id], set())


def test_a_key_that_was_free_at_the_commit_is_held_by_the_job(
    directory: str, session: Session, work: Callable[[], None]
) -> None:
    earlier = once("a", [1])
    values = [2]
    job, other = (once.using(after_commit=session)("a", values) for _ in range(2))
    values.append(3)  # what counts are the arguments of the call
    work()
    assert earlier.state is State.DONE
    session.commit()
    assert (job.duplicate, other.duplicate, accepted(directory)) == (False, True, [job.id])
    assert once("a", [4]) == job
    work()
    assert ran == [("a", [1]), ("a", [2])]


def test_a_transaction_that_ends_without_a_commit_takes_no_key(directory: str, session: Session) -> None:
    once.using(after_commit=session)("a", [1])
    session.rollback()
    assert not once("a", [2]).duplicate


def test_a_duplicate_that_is_an_error_is_logged_at_the_commit(
    directory: str, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    job = strict.using(after_commit=session)("a")
    first = strict("a")
    session.commit()
    assert (job.duplicate, accepted(directory), held.names(directory)) == (True, [first.id], set())
    assert [record.levelno for record in caplog.records if job.id in record.message] == [logging.WARNING]


def test_the_commit_replaces_the_arguments_of_a_waiting_job(
    directory: str, session: Session, work: Callable[[], None]
) -> None:
    job = latest.using(after_commit=session)("a", 2)
    first = latest("a", 1)
    session.commit()
    assert (job.duplicate, len(accepted(directory))) == (True, 1)
    work()
    assert (ran, first.state) == ([("a", 2)], State.DONE)


def test_a_debounced_job_is_due_by_its_own_bound(directory: str, session: Session) -> None:
    job = latest.using(after_commit=session, delay=100, max_wait=10)("a", 1)
    session.commit()
    assert Job.get(job.id).run_at == pytest.approx(job.enqueued_at + 10)


def test_many_calls_of_a_unique_task_are_held(directory: str, session: Session, work: Callable[[], None]) -> None:
    taken = once("b", [0])
    jobs = once.map([("a", [1]), ("b", [2]), ("a", [3]), ("c", [4])], after_commit=session)
    assert all(job.held for job in jobs)
    session.commit()
    assert [job.duplicate for job in jobs] == [False, True, True, False]
    assert accepted(directory) == sorted([taken.id, jobs[0].id, jobs[3].id])
    work()
    assert sorted(ran) == [("a", [1]), ("b", [0]), ("c", [4])]  # type: ignore[type-var]


def test_a_key_that_cannot_be_made_is_refused_in_the_call(directory: str, session: Session) -> None:
    with pytest.raises(ArgumentTypeError):
        once.using(after_commit=session)(object(), [1])  # type: ignore[arg-type]
    assert held.names(directory) == set()


def test_a_sweep_takes_the_key_of_a_job_that_it_accepts(
    directory: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (once.using(after_commit=session)("a", [number]) for number in (1, 2))
    with monkeypatch.context() as patch:
        patch.setattr(publication.held, "accept", Mock(side_effect=OSError(28, "No space left")))
        session.commit()
    assert held.names(directory) == {first.id, second.id}
    leftovers.sweep(directory)
    assert (accepted(directory), held.names(directory)) == ([first.id], set())
    assert once("a", [3]) == first


def test_a_sweep_without_the_task_leaves_a_unique_job_to_a_process_that_makes_its_key(
    directory: str, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(publication.held, "accept", Mock(side_effect=OSError(28, "No space left")))
        job = once.using(after_commit=session)("a", [1])
        plain = note.using(after_commit=session)(1)
        session.commit()
    with monkeypatch.context() as patch:
        patch.setattr(leftovers.registry.this_process, "get", lambda name: None)
        leftovers.sweep(directory)
    assert (accepted(directory), held.names(directory)) == ([plain.id], {job.id})
    assert f"{once.name}, which is unique, is not imported here" in caplog.text
    leftovers.sweep(directory)
    assert accepted(directory) == sorted([job.id, plain.id])
    assert once("a", [2]) == job


def test_a_held_file_that_can_never_be_accepted_is_dead(
    directory: str, session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    once.using(after_commit=session)("a", [1])
    monkeypatch.setattr(unique_jobs, "submit", Mock(side_effect=RuntimeError("the function of the key failed")))
    session.commit()
    leftovers.sweep(directory)
    assert "the function of the key failed" in caplog.text
    assert held.names(directory) == set()
    assert len(dead.paths(directory)) == 1


@pytest.mark.parametrize("stop", [JobTimeout, KeyboardInterrupt])
def test_a_time_limit_that_strikes_at_the_commit_costs_no_job(
    directory: str, session: Session, stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(session)
    first, second = (note.using(after_commit=session)(number) for number in (1, 2))
    accept = held.accept

    def strike(path: str, *args: Any, **given: Any) -> None:
        if first.id in path:
            raise stop("the task has run for too long")
        accept(path, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(held, "accept", strike)
        with pytest.raises(stop):
            session.commit()
    session.close()
    assert accepted(directory) == [second.id]
    leftovers.sweep(directory)
    assert accepted(directory) == [first.id, second.id]


def test_a_held_file_that_is_gone_at_the_commit_is_named(
    directory: str, session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    job = note.using(after_commit=session)(1)
    Path(held.own_folder(directory, with_rows=False), f"uwsgi_spoolfile_on_{job.id}").unlink()
    session.commit()
    assert "is gone" in caplog.text
