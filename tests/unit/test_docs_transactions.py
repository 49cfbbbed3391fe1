"""The code on docs/transactions.md does what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Column, Integer, String, inspect

from spoolkit import Batch, SpoolKit, spool

PAGE = Path(__file__).parents[2] / "docs" / "transactions.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@spool
def send_mail(user: int, template: str) -> None: ...


@spool
def store_row(id: int) -> None: ...


@spool
def report(user: int) -> None: ...


class Database:
    """A layer that calls functions after its commit."""

    def __init__(self) -> None:
        self.functions: list[Callable[[], None]] = []

    def call_after_commit(self, function: Callable[[], None]) -> None:
        self.functions.append(function)


@pytest.fixture
def names(tmp_path: Path) -> dict[str, Any]:
    """What the page takes for granted."""
    app = Flask("documented")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/app.db"
    db = SQLAlchemy(app)

    class User(db.Model):  # type: ignore[name-defined, misc]
        id = Column(Integer, primary_key=True)
        email = Column(String)

    with app.app_context():
        db.create_all()
    return {
        "app": app,
        "db": db,
        "User": User,
        "email": "ann@example.org",
        "send_mail": send_mail,
        "Batch": Batch,
        "report": report,
        "rows": [User(), User()],
        "store_row": store_row,
        "SpoolKit": SpoolKit,
    }


def test_the_code_of_the_page(names: dict[str, Any]) -> None:
    waiting, batch, outbox, hook = BLOCKS
    exec(outbox, names)
    with names["app"].app_context():
        assert inspect(names["db"].engine).has_table("spoolkit_outbox")
        before_commit, commit, _ = waiting.partition("db.session.commit()")
        exec(before_commit, names)
        assert names["job"].held
        exec(commit, names)
        assert not names["job"].held
        assert names["job"].state == "queued"
        before_commit, commit, _ = batch.partition("db.session.commit()")
        exec(before_commit, names)
        assert names["batch"].held
        exec(commit, names)
        assert names["batch"].progress.states == {"queued": 2}
        names["database"] = database = Database()
        exec(hook, names)
        job = send_mail.using(after_commit=True)(1, "welcome")
        assert job.held
        database.functions.pop()()
        assert job.state == "queued"
        names["db"].engine.dispose()
