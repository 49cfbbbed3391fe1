"""``GET /jobs`` of the application, on its own ``uwsgi.ini``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from uwsgi_server import UwsgiServer, wait_until

from .conftest import PROJECT

KEYS = {
    "id",
    "task",
    "state",
    "attempt",
    "max_attempts",
    "run_at",
    "expires_at",
    "parked",
    "paused",
    "slot_at",
    "enqueued_at",
    "started_at",
    "finished_at",
    "progress",
    "result",
    "error",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UwsgiServer]:
    with UwsgiServer(tmp_path_factory.mktemp("application"), ini=PROJECT / "uwsgi.ini") as server:
        yield server


def job(site: UwsgiServer, id: str) -> dict[str, Any]:
    answer = site.get(f"/jobs/{id}")
    assert answer.status == 200, answer.text
    assert "no-store" in answer.headers["Cache-Control"]
    return answer.json


def test_get_jobs_shows_a_job_that_waits(site: UwsgiServer) -> None:
    first = job(site, site.get("/uwsgi_spool/2?delay=300").json["job"])
    assert set(first) == KEYS
    assert (first["state"], first["attempt"], first["max_attempts"]) == ("queued", 0, None)
    assert first["task"] == "tasks.spool_task"
    assert first["run_at"] == pytest.approx(first["enqueued_at"] + 300, abs=0.001)
    assert (first["started_at"], first["finished_at"], first["progress"], first["error"]) == (None, None, None, None)


def test_get_jobs_shows_a_job_that_runs(site: UwsgiServer) -> None:
    id = site.get("/uwsgi_spool/600?delay=0.5").json["job"]
    running = wait_until(lambda: (shown := job(site, id))["progress"] and shown)
    assert (running["state"], running["attempt"], running["max_attempts"]) == ("running", 1, 4)
    progress = running["progress"]
    assert progress == {"done": max(1, progress["done"]), "total": 600, "note": "seconds"}
    assert running["started_at"] >= running["run_at"]


def test_get_jobs_shows_a_job_that_is_done(site: UwsgiServer) -> None:
    id = site.get("/uwsgi_spool/2").json["job"]
    wait_until(lambda: job(site, id)["state"] == "done")
    last = job(site, id)
    assert set(last) == KEYS
    assert (last["attempt"], last["result"], last["error"]) == (1, None, None)
    assert last["progress"] == {"done": 2, "total": 2, "note": "seconds"}
    assert last["finished_at"] >= last["started_at"] + 2


def test_get_jobs_lists_nothing_and_accepts_full_ids_only(site: UwsgiServer) -> None:
    id = site.get("/uwsgi_spool/1?delay=100").json["job"]
    for path in ("/jobs", "/jobs?state=queued", "/jobs?limit=x", f"/jobs/{id[:31]}", f"/jobs/{id[:8]}", "/jobs/"):
        answer = site.get(path)
        assert answer.status == 404
        assert answer.json["error"]["type"] in ("NotFound", "UnknownJobError")
        assert id not in answer.text


@pytest.mark.parametrize(
    ("path", "status", "argument"),
    [
        ("/jobs/" + "0" * 32, 404, None),
        ("/jobs/nothing", 404, None),
        ("/jobs/%2e%2e", 404, None),
        ("/jobs/%00", 404, None),
        ("/jobs/" + "x" * 600, 404, None),
    ],
)
def test_get_jobs_answers_404_for_an_unknown_job(
    site: UwsgiServer, path: str, status: int, argument: str | None
) -> None:
    answer = site.get(path.replace("²", "%C2%B2"))
    assert answer.status == status
    assert answer.json["error"]["argument"] == argument
    assert answer.json["error"]["message"]


def test_methods_other_than_get_are_refused(site: UwsgiServer) -> None:
    id = site.get("/uwsgi_spool/1?delay=100").json["job"]
    for path in ("/jobs", f"/jobs/{id}"):
        assert site.post(path).status == 405
