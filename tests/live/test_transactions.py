"""A process is killed around a commit: another one makes the job if, and only if, the transaction was committed."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool
from uwsgi_server import wait_until

from spoolkit.coordination.outbox import TABLE

from .conftest import SITE, History, Site, site_in

COMMITTED = {
    "before the row is deleted": True,
    "before the row": False,
    "after the row": False,
    "before the rename": True,
    "after the rename": True,
}
"""The points at which a process is killed, and whether its transaction was committed by then."""

OTHERS = [pytest.param(point, marks=pytest.mark.matrix) for point in COMMITTED if point != "before the rename"]


def held(spool: Path) -> list[str]:
    names = [name for _, _, files in os.walk(spool / "held") for name in files]
    return [name for name in names if name.startswith("uwsgi_spoolfile_on_")]


def notes(folder: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(folder / "data.db", timeout=60)) as connection:
        return {id for (id,) in connection.execute("SELECT id FROM notes")}


def ran(history: History) -> set[str]:
    return {event.words[1] for event in history.events("ran")}


def wait_settled(spool: Path, history: History) -> None:
    wait_until(lambda: not held(spool), timeout=120, message=lambda: f"held: {held(spool)}")
    folder = history.path.parent
    wait_until(
        lambda: ran(history) == notes(folder),
        timeout=120,
        message=lambda: f"ran: {ran(history)}, committed: {notes(folder)}",
    )


def make_database(folder: Path) -> None:
    engine = create_engine(f"sqlite:///{folder}/data.db", poolclass=NullPool)
    TABLE.create(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE notes (id VARCHAR(32) PRIMARY KEY)"))


@pytest.fixture(scope="module")
def held_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("held")
    make_database(folder)
    site = site_in(folder, module="held_app", processes=2)
    with site.server:
        yield site


@pytest.mark.parametrize("point", ["before the rename", *OTHERS])
def test_a_killed_http_process_leaves_a_job_if_and_only_if_it_committed(held_site: Site, point: str) -> None:
    folder = held_site.history.path.parent
    before = notes(folder)
    with contextlib.suppress(HTTPException, OSError):
        held_site.server.post(f"/call/{quote(point)}")
    assert not held_site.history.events("not-killed")
    wait_settled(held_site.spool, held_site.history)
    assert (len(notes(folder) - before) == 1) is COMMITTED[point]


BATCH_COMMITTED = {
    "after the row": False,
    "before the rename": True,
    "after the rename": True,
    "in the spooler as well": True,
    "before the record": True,
    "after the record": True,
    "before the members are moved": True,
}
"""The same for a process that makes a batch."""

OTHER_BATCHES = [
    pytest.param(point, marks=pytest.mark.matrix) for point in BATCH_COMMITTED if point != "after the rename"
]


@pytest.mark.parametrize("point", ["after the rename", *OTHER_BATCHES])
def test_a_killed_http_process_leaves_a_whole_batch_if_and_only_if_it_committed(held_site: Site, point: str) -> None:
    history, before = held_site.history, len(held_site.history.events("made"))
    with contextlib.suppress(HTTPException, OSError):
        held_site.server.post(f"/batch/{quote(point)}")
    assert not history.events("not-killed")
    [made] = history.events("made")[before:]
    _, batch, *members = made.words
    wait_settled(held_site.spool, history)
    assert notes(history.path.parent).issuperset(members) is BATCH_COMMITTED[point]
    if point == "in the spooler as well":
        assert len(history.events("killed")) == 1
    if BATCH_COMMITTED[point]:
        history.wait_for("called-back", batch, timeout=120)
    for words in (["called-back", batch], *(["ran", member] for member in members)):
        found = [event for event in history.events(words[0]) if event.words == (*words,)]
        assert len(found) == BATCH_COMMITTED[point], words


@pytest.mark.matrix
def test_flask_spool_run_settles_what_killed_processes_have_left(tmp_path: Path, environment: dict[str, str]) -> None:
    spool, history = tmp_path / "spool", History(tmp_path / "history")
    spool.mkdir(mode=0o700)
    make_database(tmp_path)
    given = {**os.environ, **environment}
    for point in COMMITTED:
        killed = subprocess.run([sys.executable, "held_app.py", point], cwd=SITE, env=given, timeout=120, check=False)
        assert killed.returncode == -signal.SIGKILL
    assert len(notes(tmp_path)) == sum(COMMITTED.values())
    assert held(spool) != []
    command = [sys.executable, "-m", "flask", "--app", "held_app", "spool", "run"]
    with (tmp_path / "log").open("wb") as log:
        spooler = subprocess.Popen(command, cwd=SITE, env=given, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_settled(spool, history)
        finally:
            os.killpg(spooler.pid, signal.SIGKILL)
            spooler.wait(60)
