"""Jobs over HTTP: what every visitor sees, and what only ``details`` shows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from spoolkit import SpoolKit, api, application, spool
from spoolkit.api import jobs_blueprint
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations


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
    app.register_blueprint(jobs_blueprint(listing=True))
    app.register_blueprint(jobs_blueprint(details=True, url_prefix="/staff"), name="staff")
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def run_all() -> None:
    Spooler(application.settings().spool).run_due()


def get(client: FlaskClient, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.get_json()


def test_a_job_shows_its_result_but_not_its_arguments(client: FlaskClient) -> None:
    job = secretive("open sesame")
    run_all()
    found = get(client, f"/jobs/{job.id}")
    assert (found["state"], found["error"]) == ("done", None)
    assert found["result"] == {"day": {"$date": "2026-11-21"}, "length": 11}
    for path in (f"/jobs/{job.id}", "/jobs"):
        assert b"sesame" not in client.get(path).data
    assert get(client, f"/staff/{job.id}")["arguments"] == {"args": ["[redacted]"], "kwargs": {}}


def test_a_job_shows_its_error_but_not_its_traceback(client: FlaskClient) -> None:
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
def test_a_job_whose_result_cannot_be_kept_is_done_with_an_error(client: FlaskClient, task: Any, says: str) -> None:
    job = task()
    run_all()
    found = get(client, f"/jobs/{job.id}")
    assert (found["state"], found["result"]) == ("done", None)
    assert found["error"]["type"] == "ResultUnavailableError"
    assert says in found["error"]["message"]


def test_an_unknown_job_is_a_404_in_json(client: FlaskClient) -> None:
    for path in ("/jobs/" + "0" * 32, "/staff/" + "0" * 32):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.get_json()["error"]["type"] == "UnknownJobError"


def test_a_queued_job_is_shown_while_the_store_is_broken(client: FlaskClient, tmp_path: Path) -> None:
    job = secretive("x")
    (tmp_path / "spool" / "spoolkit.db").write_bytes(b"no database" * 100)
    assert get(client, f"/jobs/{job.id}")["state"] == "queued"
    assert [found["id"] for found in get(client, "/jobs")["jobs"]] == [job.id]


def test_without_listing_the_list_is_a_404_and_a_single_job_is_shown(app: Flask, client: FlaskClient) -> None:
    app.register_blueprint(jobs_blueprint(url_prefix="/closed"), name="closed")
    job = secretive("x")
    answer = client.get("/closed")
    assert answer.status_code == 404
    assert answer.get_json()["error"]["type"] == "NotFound"
    assert job.id not in answer.text
    assert get(client, f"/closed/{job.id}")["state"] == "queued"
    for part in (job.id[:31], job.id[:8], job.id.upper() if job.id.upper() != job.id else job.id + "0"):
        assert client.get(f"/closed/{part}").status_code == 404, "only a full id is an answer"


@pytest.fixture
def ids(client: FlaskClient) -> list[str]:
    """One job done, with a tag, three queued, newest first."""
    done = secretive.using(tags=["user:42"])("x")
    run_all()
    return [job.id for job in reversed([done, *(returns_much.using(delay=100 + i)() for i in range(3))])]


@pytest.mark.parametrize(
    ("query", "which"),
    [
        ("", slice(0, 4)),
        ("?state=queued", slice(0, 3)),
        ("?state=done", slice(3, 4)),
        ("?state=done,queued", slice(0, 4)),
        ("?state=done&state=queued&limit=2", slice(0, 2)),
        (f"?task={secretive.name}", slice(3, 4)),
        ("?task=other", slice(0, 0)),
        ("?tag=user:42", slice(3, 4)),
        ("?tag=user", slice(0, 0)),
    ],
)
def test_the_list_filters_jobs_newest_first(client: FlaskClient, ids: list[str], query: str, which: slice) -> None:
    listed = get(client, f"/jobs{query}")["jobs"]
    assert [job["id"] for job in listed] == ids[which]
    assert not any("result" in job for job in listed)


@pytest.mark.parametrize("query", ["state=runing", "limit=0", "limit=-1", "limit=1001", "limit=many", "limit=%C2%B2"])
def test_an_invalid_query_is_a_400(client: FlaskClient, query: str) -> None:
    answer = client.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert answer.get_json()["error"]["argument"] == query.partition("=")[0]


def test_the_list_says_that_it_is_incomplete(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        secretive("x")
    assert get(client, "/jobs?task=other") == {"jobs": [], "complete": True}
    monkeypatch.setattr(api, "MAX_EXAMINED", 2)
    assert get(client, "/jobs?task=other") == {"jobs": [], "complete": False}


@pytest.mark.parametrize("damaged", [b"", b"\0" * 50, b"[" * 100_000, b"1" * 5000, b"\xff"])
def test_a_damaged_result_is_an_error_of_the_job_and_not_a_500(client: FlaskClient, damaged: bytes) -> None:
    job = secretive("x")
    run_all()
    with locations.store().transaction() as db:
        db.execute("UPDATE jobs SET result = ?", (damaged,))
    found = get(client, f"/jobs/{job.id}")
    assert (found["state"], found["result"], found["error"]["type"]) == ("done", None, "DecodeError")
