"""Requests and commands read a bounded number of names and files, however many jobs wait."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app
from flask.testing import FlaskClient

from spoolkit import UnknownJobError, api, spool
from spoolkit.admin import actions, lookup, stats
from spoolkit.api import jobs_blueprint
from spoolkit.cli import watch
from spoolkit.doctor import directory as directory_checks
from spoolkit.doctor import machine
from spoolkit.doctor.examine import examine
from spoolkit.encoding import packet
from spoolkit.job import JobSpec, State, new_id
from spoolkit.spooldir import dead, spoolfile
from spoolkit.store import locations

NO_JOB = "0" * 32

MANY = 60


@spool(backoff=1000)
def ends(how: str) -> None:
    if how == "fails":
        raise ValueError("as ever")


class Entries:
    """The result of ``os.scandir``, whose entries are counted."""

    def __init__(self, path: str, cost: Counter[str], scandir: Callable[[str], Any]) -> None:
        self._entries, self._cost = scandir(path), cost

    def __enter__(self) -> Iterator[os.DirEntry[str]]:
        return self._each(self._entries)

    def __exit__(self, *_: object) -> None:
        self._entries.close()

    def _each(self, entries: Iterator[os.DirEntry[str]]) -> Iterator[os.DirEntry[str]]:
        for entry in entries:
            self._cost["names"] += 1
            yield entry


@pytest.fixture
def cost(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The names that are read, the scans of directories, the spool files that are looked at and those that are opened.

    Not the folders above them: how many there are depends on where the tests run.
    """
    counted: Counter[str] = Counter()

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted_call(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return call(*args, **kwargs)

        return counted_call

    def lstat(path: Any, *args: Any, old: Any = os.lstat, **kwargs: Any) -> os.stat_result:
        counted["lstat"] += os.path.basename(str(path)).startswith(spoolfile.PREFIX)
        return old(path, *args, **kwargs)  # type: ignore[no-any-return]

    monkeypatch.setattr(os, "scandir", counting("scans", lambda path, old=os.scandir: Entries(path, counted, old)))
    monkeypatch.setattr(os, "lstat", lstat)
    monkeypatch.setattr(spoolfile, "peek", counting("opened", spoolfile.peek))
    return counted


@pytest.fixture
def client(directory: str, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A client of a site where many jobs wait and a request reads ten names."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    app.register_blueprint(jobs_blueprint(listing=True, details=True))
    monkeypatch.setattr(lookup, "MAX_NAMES", 10)
    monkeypatch.setattr(api, "MAX_NAMES", 10)
    monkeypatch.setattr(watch, "MAX_NAMES", 10)
    return app.test_client()


@pytest.fixture
def many(client: FlaskClient) -> list[str]:
    return [ends.using(delay=1000)("x").id for _ in range(MANY)]


def get(client: FlaskClient, path: str, status: int = 200) -> Any:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.get_json()


def test_a_request_for_an_unknown_id_reads_few_names(many: list[str], client: FlaskClient, cost: Counter[str]) -> None:
    get(client, f"/jobs/{NO_JOB}", 404)
    assert cost["names"] <= 30
    assert cost["lstat"] <= 1000
    assert cost["opened"] == 0
    cost.clear()
    with pytest.raises(UnknownJobError):
        lookup.find(NO_JOB)
    assert cost["names"] >= MANY, "a command reads them all"


def test_a_request_for_a_job_without_a_file_reads_few_names(
    client: FlaskClient, directory: str, work: Callable[[], None], cost: Counter[str]
) -> None:
    made = ends("fails")
    work()
    for path in spoolfile.pending(directory):
        os.unlink(path)
    for _ in range(MANY):
        ends.using(delay=1000)("x")
    cost.clear()
    assert get(client, f"/jobs/{made.id}")["state"] == "lost"
    assert cost["names"] <= 60
    assert cost["opened"] == 0


@pytest.mark.parametrize("priority", [None, 0, 99])
def test_a_request_finds_each_waiting_job(many: list[str], client: FlaskClient, priority: int | None) -> None:
    made = ends.using(delay=1000, priority=priority)("x")
    for id in (made.id, *many):
        assert get(client, f"/jobs/{id}")["state"] == "queued"


def test_a_request_finds_a_file_that_was_renamed_while_the_store_was_broken(
    many: list[str], client: FlaskClient, directory: str
) -> None:
    path = os.path.join(directory, spoolfile.LATER, f"{spoolfile.PREFIX}{many[0]}")
    for _ in range(3):
        path, _ = spoolfile.count_attempt(path)
        path = spoolfile.reschedule(path, 2e9)
        assert get(client, f"/jobs/{many[0]}")["state"] == "queued"
    for _ in range(20):
        path = spoolfile.reschedule(path, 2e9)
    assert lookup.find(many[0]).state is State.QUEUED, "a command finds it under any name"


def test_a_request_finds_a_file_under_any_name_in_a_small_directory(client: FlaskClient, directory: str) -> None:
    made = ends.using(delay=1000)("x")
    path = os.path.join(directory, spoolfile.LATER, f"{spoolfile.PREFIX}{made.id}")
    for _ in range(20):
        path = spoolfile.reschedule(path, 2e9)
    assert get(client, f"/jobs/{made.id}")["state"] == "queued"


def test_a_request_for_a_dead_job_reads_few_names(many: list[str], client: FlaskClient, directory: str) -> None:
    for path in spoolfile.pending(directory):
        dead.quarantine(path, directory, reason="x")
    for id in many:
        assert get(client, f"/jobs/{id}")["state"] == "dead"


@pytest.mark.parametrize("query", ["", "?task=none", "?state=dead", "?state=done"])
def test_the_list_reads_few_names_and_says_so(
    many: list[str], client: FlaskClient, query: str, cost: Counter[str]
) -> None:
    found = get(client, f"/jobs{query}")
    assert found["complete"] is (query.startswith("?state"))
    assert cost["names"] <= 30
    assert len(found["jobs"]) == (10 if query == "" else 0)


def test_the_list_shows_recorded_jobs_whose_files_it_did_not_read(
    client: FlaskClient, directory: str, work: Callable[[], None]
) -> None:
    failed = [ends("fails").id for _ in range(MANY)]
    work()
    found = get(client, "/jobs?limit=1000")
    assert not found["complete"]
    assert [(job["id"], job["state"]) for job in found["jobs"]] == [(id, "retrying") for id in failed[::-1]]


def test_the_list_of_few_files_is_complete_and_newest_first(client: FlaskClient) -> None:
    made = [ends.using(delay=1000)("x").id for _ in range(10)]
    found = get(client, "/jobs")
    assert ([job["id"] for job in found["jobs"]], found["complete"]) == (made[::-1], True)


def test_a_refresh_of_watch_reads_few_names_once(many: list[str], cost: Counter[str]) -> None:
    figures, running, finished = watch._refresh()
    assert (running, finished, figures.complete) == ([], [], False)
    assert cost["names"] <= 12
    assert cost["lstat"] <= 100
    assert "or more" in str(watch._view(figures, running, finished)[0])


def test_gather_counts_all_files_with_one_scan(many: list[str], directory: str, cost: Counter[str]) -> None:
    found = stats.gather(max_examined=5)
    assert sum(found.counts.values()) == MANY
    assert not found.complete
    assert cost["names"] <= MANY + 2
    assert cost["opened"] == 5
    assert cost["lstat"] <= 50


def test_examine_reads_a_bounded_number_of_files_and_says_so(
    directory: str, cost: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_checks, "MAX_ENTRIES", 10)
    opened: list[str] = []
    opening = machine.open_regular
    monkeypatch.setattr(machine, "open_regular", lambda path: (opened.append(path), opening(path))[1])
    for number in range(MANY):
        id = new_id()
        data = packet.dump(packet.pack(JobSpec(id, "tasks.x", (number,)), max_body=1000))
        spoolfile.write(directory, id, data, run_at=1.0)
    found = {one.check: one for one in examine(directory, store=locations.store().path)}
    assert f"{directory} holds more than 10 files" in found["many-files"].problem
    assert len(set(opened)) <= 11
    for path in spoolfile.pending(directory)[9:]:
        Path(path).unlink()
    assert "many-files" not in {one.check for one in examine(directory, store=locations.store().path)}


def test_retry_finds_a_dead_job_among_many(many: list[str], directory: str) -> None:
    for path in spoolfile.pending(directory):
        os.rename(path, f"{path}.30")
    for path in spoolfile.pending(directory):
        dead.quarantine(path, directory, reason="x")
    actions.retry(many[7])
    assert lookup.find(many[7]).state is State.QUEUED
