"""Jobs as JSON: what is public, and what only with ``details``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from spoolkit import SpoolKit, settings, spool
from spoolkit.api import jobs_blueprint
from spoolkit.engines.spooler import Spooler


@spool(retries=0)
def secretive(password: str) -> object:
    if password == "wrong":
        raise ValueError("not that one")
    return {"day": date(2026, 11, 21), "length": len(password)}


@spool
def returns_a_stream() -> object:
    return open


@spool
def returns_much() -> str:
    return "x" * 2000


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_MAX_RESULT=1000)
    SpoolKit(app)
    app.register_blueprint(jobs_blueprint())
    app.register_blueprint(jobs_blueprint(details=True, url_prefix="/staff"), name="staff")
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def run_all() -> None:
    Spooler(settings.current().spool).run_due()


def get(client: FlaskClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.get_json()


def test_a_result_is_public_arguments_are_not(client: FlaskClient) -> None:
    job = secretive("open sesame")
    run_all()
    found = get(client, f"/jobs/{job.id}")
    assert (found["state"], found["error"]) == ("done", None)
    assert found["result"] == {"day": {"$date": "2026-11-21"}, "length": 11}
    for path in (f"/jobs/{job.id}", "/jobs"):
        assert b"sesame" not in client.get(path).data
    assert get(client, f"/staff/{job.id}")["arguments"] == {"args": ["open sesame"], "kwargs": {}}


def test_an_error_is_public_a_traceback_is_not(client: FlaskClient) -> None:
    job = secretive("wrong")
    run_all()
    found = get(client, f"/jobs/{job.id}")
    assert (found["state"], found["result"], found["attempt"], found["max_attempts"]) == ("dead", None, 1, 1)
    assert found["error"] == {"type": "ValueError", "message": "not that one"}
    for path in (f"/jobs/{job.id}", "/jobs"):
        assert b"Traceback" not in client.get(path).data
    (attempt,) = get(client, f"/staff/{job.id}")["attempts"]
    assert attempt["traceback"].startswith("Traceback (most recent call last):")
    assert "runner.py" not in attempt["traceback"], "the task's own lines are what tells"
    assert attempt["outcome"] == "failed"


@pytest.mark.parametrize(("task", "says"), [(returns_a_stream, "cannot"), (returns_much, "SPOOLKIT_MAX_RESULT")])
def test_a_job_whose_result_cannot_be_kept_is_done_all_the_same(client: FlaskClient, task: Any, says: str) -> None:
    job = task()
    run_all()
    found = get(client, f"/jobs/{job.id}")
    assert (found["state"], found["result"]) == ("done", None)
    assert found["error"]["type"] == "ResultUnavailableError"
    assert says in found["error"]["message"]


def test_an_unknown_job_is_told_in_json(client: FlaskClient) -> None:
    for path in ("/jobs/" + "0" * 32, "/staff/" + "0" * 32):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.get_json()["error"]["type"] == "UnknownJobError"


def test_without_a_store_what_is_queued_is_still_told(client: FlaskClient, tmp_path: Path) -> None:
    job = secretive("x")
    (tmp_path / "spool" / "spoolkit.db").write_bytes(b"no database" * 100)
    assert get(client, f"/jobs/{job.id}")["state"] == "queued"
    assert [found["id"] for found in get(client, "/jobs")["jobs"]] == [job.id]
