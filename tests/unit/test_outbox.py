"""No job without commit, no commit without job: wherever a process is killed, the row in the outbox tells."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from flask import current_app
from life_faults import CRASHED, Steps, die_at
from life_process import in_child, read_pipe, start_child, wait_child
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from sqlite_savepoints import begin_each_transaction

from spoolkit import ConfigurationError, spool
from spoolkit.coordination import outbox as outbox_module
from spoolkit.coordination.outbox import TABLE
from spoolkit.spooldir import held, spoolfile
from spoolkit.spooling import leftovers


@spool
def note(value: int) -> None:
    pass


def postgres_binaries() -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return str(found[-1].parent) if found else None


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server of this module's own."""
    pytest.importorskip("psycopg")
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(f"/tmp/spoolkit-postgres-{os.getpid()}")
    folder.mkdir(mode=0o700)
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres", "cwd": folder}
    initdb = [f"{binaries}/initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "--no-sync"]
    subprocess.run(initdb, check=True, capture_output=True, **user, timeout=100)
    options = ["-D", f"{folder}/data", "-k", str(folder), "-h", "", "-c", "max_prepared_transactions=5", "-F"]
    server = subprocess.Popen([f"{binaries}/postgres", *options], stderr=subprocess.DEVNULL, **user)
    try:
        yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.matrix)])
def engine(request: pytest.FixtureRequest, directory: str, tmp_path: Path) -> Iterator[Engine]:
    """A database with an outbox, that of the application."""
    url = f"sqlite:///{tmp_path}/data.db" if request.param == "sqlite" else request.getfixturevalue("postgres")
    # Without a pool: the children of a test must not inherit a connection.
    engine = create_engine(url, poolclass=NullPool)
    if request.param == "sqlite":
        begin_each_transaction(engine)

        @event.listens_for(engine, "connect")
        def connected(connection: Any, record: object) -> None:
            connection.execute("PRAGMA busy_timeout = 100")

    deadline = time.monotonic() + 60
    while True:
        try:
            with engine.begin() as connection:
                connection.execute(text("DROP TABLE IF EXISTS notes"))
                connection.execute(text("CREATE TABLE notes (id VARCHAR(32) PRIMARY KEY)"))
            break
        except OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    table = current_app.extensions["spoolkit"].outbox(engine)
    table.drop(engine, checkfirst=True)
    table.create(engine)
    yield engine
    engine.dispose()


def rows(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(TABLE.c.id)))


def notes(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(text("SELECT id FROM notes")))


def accepted(directory: str) -> set[str]:
    return {spoolfile.id_of(os.path.basename(path)) or "chunk" for path in spoolfile.pending(directory)}


def sweep(directory: str) -> None:
    leftovers.sweep(directory)


def settle(directory: str, engine: Engine) -> None:
    """Sweep until nothing is held: a database needs a moment to find out that its client is gone."""
    deadline = time.monotonic() + 30
    while held.names(directory) and time.monotonic() < deadline:
        sweep(directory)
    sweep(directory)
    assert (held.names(directory), rows(engine)) == (set(), set())


def enqueue(engine: Engine, end: Callable[[Session], object] = Session.commit) -> None:
    """A transaction that writes a row of the application's and calls a task; the row holds the id of the job."""
    with Session(engine) as session:
        job = note.using(after_commit=session)(5)
        session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": job.id})
        end(session)


def test_a_job_is_accepted_at_the_commit_and_its_row_goes_with_the_next_sweep(directory: str, engine: Engine) -> None:
    with Session(engine) as session:
        job = note.using(after_commit=session)(5)
        session.commit()
        assert (accepted(directory), rows(engine)) == ({job.id}, {job.id})
    sweep(directory)
    assert rows(engine) == set()


def test_a_transaction_that_is_rolled_back_leaves_neither(directory: str, engine: Engine) -> None:
    enqueue(engine, Session.rollback)
    assert (accepted(directory), held.names(directory), rows(engine)) == (set(), set(), set())


def test_the_jobs_of_a_map_have_a_row_for_each_file(directory: str, engine: Engine) -> None:
    with Session(engine) as session:
        note.map([(number,) for number in range(1001)], after_commit=session)
        session.commit()
    assert len(rows(engine)) == 2
    settle(directory, engine)
    assert len(spoolfile.pending(directory)) == 2


def test_a_sweep_forgets_all_rows_but_those_of_held_files(
    directory: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "AT_ONCE", 3)
    for _ in range(7):
        enqueue(engine)
    kept = sorted(rows(engine))[1:5]
    kit = current_app.extensions["spoolkit"]
    kit._commits.outbox.forget(directory, lambda spool_dir: set(kept))
    assert rows(engine) == set(kept)
    sweep(directory)
    assert rows(engine) == set()


def test_a_file_that_is_set_aside_while_the_held_files_are_listed_is_among_them(
    directory: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its row would be deleted, and the job with it. Nothing was set aside before."""
    listed = held._files
    with Session(engine) as session:
        job = note.using(after_commit=session)(5)
        (path,) = Path(held.own_folder(directory, with_rows=True)).iterdir()

        def set_aside_first(folder: str) -> list[str]:
            held._set_aside(str(path), directory, held.OUTBOX)
            return listed(folder)

        monkeypatch.setattr(held, "_files", set_aside_first)
        assert held.names(directory) == {job.id}


def test_each_spool_directory_of_an_http_process_is_asked_about(
    directory: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a thread still asks about another one."""
    monkeypatch.setattr(leftovers.bridge, "is_uwsgi", lambda: True)
    asked, answered = [threading.Event(), threading.Event()], threading.Event()

    def ask(spool_dir: str, *_: object) -> None:
        asked[spool_dir != directory].set()
        answered.wait(60)

    monkeypatch.setattr(leftovers, "_ask", ask)
    other = f"{directory}-other"
    for spool_dir in (directory, other):
        os.makedirs(os.path.join(spool_dir, held.FOLDER), mode=0o700, exist_ok=True)
        sweep(spool_dir)
    try:
        assert all(one.wait(60) for one in asked)
    finally:
        answered.set()


def test_a_database_that_gives_no_answers_is_not_asked_for_long(
    directory: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = current_app.extensions["spoolkit"]
    for _ in range(3):
        assert in_child(lambda: enqueue(engine, lambda session: os._exit(CRASHED))) == CRASHED
    asked = Mock(return_value=None)
    with monkeypatch.context() as patch:
        patch.setattr(kit._commits.outbox, "was_committed", asked)
        patch.setattr(leftovers, "ASK_TIME", -1.0)
        sweep(directory)
        assert asked.call_count == 0
        patch.setattr(leftovers, "ASK_TIME", 600.0)
        sweep(directory)
        assert asked.call_count == 3
    settle(directory, engine)


def watch(engine: Engine, reached: Callable[[], None]) -> None:
    """Call ``reached()`` at each step into the file system, and before and after each statement and commit."""
    Steps(pytest.MonkeyPatch(), reached)
    event.listen(engine, "before_cursor_execute", lambda *args: reached())
    event.listen(engine, "after_cursor_execute", lambda *args: reached())
    event.listen(engine, "commit", lambda connection: reached())
    event.listen(Session, "after_commit", lambda session: reached(), insert=True)


def at_its_end(session: Session) -> None:
    """Die when the files are as they are after the commit and its rename, and the row is still there."""
    session.commit()
    os._exit(CRASHED)


def at(name: str) -> Callable[[Session], None]:
    def end(session: Session) -> None:
        event.listen(session, name, lambda session: os._exit(CRASHED), insert=True)
        session.commit()

    return end


POINTS: dict[str, tuple[Callable[[Session], None], bool]] = {
    "before the row": (Session.commit, False),
    "after the row": (lambda session: os._exit(CRASHED), False),
    "before the commit": (at("before_commit"), False),
    "before the rename": (at("after_commit"), True),
    "before the row is deleted": (at_its_end, True),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_at_a_point_leaves_a_job_if_and_only_if_it_committed(
    directory: str, engine: Engine, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, is_committed = POINTS[point]
    if point == "before the row":
        monkeypatch.setattr(outbox_module.Outbox, "add", lambda *args: os._exit(CRASHED))
    assert in_child(lambda: enqueue(engine, end)) == CRASHED
    settle(directory, engine)
    assert (len(accepted(directory)), accepted(directory)) == (is_committed, notes(engine))


@pytest.mark.matrix
@pytest.mark.parametrize("end", [Session.commit, Session.rollback])
def test_a_process_killed_at_any_step_leaves_a_job_if_and_only_if_it_committed(
    directory: str, engine: Engine, end: Callable[[Session], None]
) -> None:
    enqueue(engine)  # all folders are there
    settle(directory, engine)
    outcomes = set()
    for step in itertools.count():
        assert step < 200
        before = notes(engine)

        def work(step: int = step) -> None:
            left = step

            def reached() -> None:
                nonlocal left
                if left == 0:
                    os._exit(CRASHED)
                left -= 1

            watch(engine, reached)
            enqueue(engine, end)

        status = in_child(work)
        settle(directory, engine)
        assert accepted(directory) == notes(engine)
        outcomes.add(notes(engine) != before)
        if status == 0:
            break
    assert outcomes == ({True, False} if end is Session.commit else {False})


@pytest.mark.matrix
def test_a_sweep_killed_at_any_step_leaves_it_to_the_next_one(directory: str, engine: Engine) -> None:
    def crash_after_commit() -> None:
        event.listen(Session, "after_commit", lambda session: os._exit(CRASHED), insert=True)
        enqueue(engine)

    def crash_before_commit() -> None:
        enqueue(engine, lambda session: os._exit(CRASHED))

    for step in itertools.count():
        assert step < 200
        assert [in_child(crash_after_commit), in_child(crash_before_commit)] == [CRASHED, CRASHED]

        def work(step: int = step) -> None:
            die_at(step)
            sweep(directory)

        status = in_child(work)
        settle(directory, engine)
        assert accepted(directory) == notes(engine)
        if status == 0:
            break
    assert accepted(directory) != set()


def test_a_commit_that_seems_to_fail_is_asked_of_the_row(directory: str, engine: Engine) -> None:
    """As when the connection breaks after the server has committed."""
    for commits in (True, False):
        with Session(engine) as session:
            job = note.using(after_commit=session)(5)
            connection = session.connection()
            do_commit = connection.dialect.do_commit

            def fail(dbapi: Any, commits: bool = commits, do_commit: Callable[[Any], None] = do_commit) -> None:
                if commits:
                    do_commit(dbapi)
                raise OperationalError("COMMIT", None, Exception("connection lost"))

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(connection.dialect, "do_commit", fail)
                with pytest.raises(OperationalError):
                    session.commit()
            with contextlib.suppress(DBAPIError):
                session.rollback()
        assert (job.held, held.names(directory)) == (False, {job.id})
        settle(directory, engine)
        assert (job.id in accepted(directory)) is commits


def test_a_transaction_in_progress_is_not_decided(directory: str, engine: Engine) -> None:
    """The row of a transaction whose file has been set aside may still be committed."""
    reading, writing = os.pipe()
    go, going = os.pipe()

    def hold() -> None:
        with Session(engine) as session:
            job = note.using(after_commit=session)(5)
            session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": job.id})
            (path,) = Path(held.own_folder(directory, with_rows=True)).iterdir()
            held._set_aside(str(path), directory, held.OUTBOX)
            os.write(writing, b".")
            os.read(go, 1)
            session.commit()

    pid = start_child(hold)
    read_pipe(reading)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(outbox_module._LIMITS, "postgresql", "SET LOCAL lock_timeout = '100ms'")
        sweep(directory)
    assert (len(held.names(directory)), accepted(directory)) == (1, set())
    os.write(going, b".")
    assert wait_child(pid) == 0
    settle(directory, engine)
    assert accepted(directory) == notes(engine) != set()


def test_a_savepoint_takes_its_row_along(directory: str, engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
        savepoint = session.begin_nested()
        dropped = note.using(after_commit=session)(1)
        savepoint.rollback()
        with session.begin_nested():
            kept = note.using(after_commit=session)(2)
        session.commit()
    assert (accepted(directory), dropped.held) == ({kept.id}, False)
    settle(directory, engine)
    assert accepted(directory) == {kept.id}


def test_rows_of_another_machine_are_left_alone(directory: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(TABLE.insert(), {"id": "f" * 32, "spool": "another"})
    enqueue(engine)
    sweep(directory)
    assert rows(engine) == {"f" * 32}


def test_without_its_table_the_call_is_refused(directory: str, engine: Engine) -> None:
    TABLE.drop(engine)
    with Session(engine) as session, pytest.raises(DBAPIError):
        note.using(after_commit=session)(5)
    assert (held.names(directory), accepted(directory)) == (set(), set())
    TABLE.create(engine)


def test_a_session_of_another_database_is_refused(directory: str, engine: Engine) -> None:
    other = create_engine("sqlite://")
    with Session(other) as session, pytest.raises(ConfigurationError, match="one commit cannot cover both"):
        note.using(after_commit=session)(5)
    other.dispose()
    assert held.names(directory) == set()


def test_what_is_no_engine_is_refused(directory: str, engine: Engine) -> None:
    for wrong in ("sqlite://", AsyncEngine.__new__(AsyncEngine), None):
        with pytest.raises(ConfigurationError, match="synchronous engine"):
            current_app.extensions["spoolkit"].outbox(wrong)


def test_an_engine_that_commits_each_statement_is_refused(directory: str, engine: Engine) -> None:
    kit, of_kit = current_app.extensions["spoolkit"], current_app.extensions["spoolkit"]._commits.outbox
    by_itself = create_engine(engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    for wrong in (by_itself, engine.execution_options(isolation_level="AUTOCOMMIT")):
        with pytest.raises(ConfigurationError, match=r"isolation level AUTOCOMMIT, .*: give one without") as raised:
            kit.outbox(wrong)
        assert raised.value.setting == "outbox"
    kit.outbox(by_itself.execution_options(isolation_level="SERIALIZABLE"))
    kit._commits.outbox = of_kit
    for bind, options in ((wrong, {}), (engine, {"isolation_level": "AUTOCOMMIT"})):
        with Session(bind) as session:
            session.connection(execution_options=options)
            with pytest.raises(ConfigurationError, match="connection of the session"):
                note.using(after_commit=session)(5)
    assert held.names(directory) == rows(engine) == set()
    by_itself.dispose()


def test_a_process_without_the_outbox_leaves_its_files_alone(directory: str, engine: Engine) -> None:
    assert in_child(lambda: enqueue(engine, lambda session: os._exit(CRASHED))) == CRASHED
    kit = current_app.extensions["spoolkit"]
    own, kit._commits.outbox = kit._commits.outbox, None
    sweep(directory)
    assert len(held.names(directory)) == 1
    kit._commits.outbox = own
    settle(directory, engine)
    assert accepted(directory) == set()


@pytest.mark.matrix
def test_a_prepared_transaction_is_not_decided(directory: str, postgres: str) -> None:
    engine = create_engine(postgres, poolclass=NullPool)
    kit = current_app.extensions["spoolkit"]
    kit.outbox(engine).drop(engine, checkfirst=True)
    TABLE.create(engine)

    def prepare() -> None:
        with Session(engine, twophase=True) as session:
            note.using(after_commit=session)(5)
            session.prepare()
            os._exit(CRASHED)

    for end in ("ROLLBACK PREPARED", "COMMIT PREPARED"):
        assert in_child(prepare) == CRASHED
        sweep(directory)
        assert len(held.names(directory)) == 1
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            (gid,) = connection.scalars(text("SELECT gid FROM pg_prepared_xacts"))
            connection.exec_driver_sql(f"{end} '{gid}'")
        settle(directory, engine)
    assert len(accepted(directory)) == 1
