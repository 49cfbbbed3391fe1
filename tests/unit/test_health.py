"""Is the site ready for jobs? What cannot be seen is not ready."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolkit import spool
from spoolkit.admin import health
from spoolkit.admin.health import Facts, Reason, decide
from spoolkit.admin.stats import QueueFigures
from spoolkit.cli import commands
from spoolkit.dashboard import Access, basic_auth, dashboard_blueprint, health_blueprint
from spoolkit.spooldir import gate, spoolers
from spoolkit.spooldir.spoolers import SpoolerFile
from spoolkit.store import database, locations
from spoolkit.system import clock, disk, files

PAGE = Path(__file__).parents[2] / "docs" / "health.md"
WELL = QueueFigures("default", "/spool", 3, 1, 2, "open", 5.0)


@spool(name="health.one")
def one() -> None: ...


@pytest.fixture
def served(directory: str) -> Iterator[str]:
    """The spool directory, of which this process is a spooler."""
    before = signal.signal(signal.SIGUSR1, lambda *args: None)  # by which a call wakes a spooler
    spooler = SpoolerFile(directory)
    yield directory
    spooler.leave()
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture(autouse=True)
def seen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "BELIEVED", 0.0)


def checks() -> list[str]:
    return [reason.check for reason in health.reasons()]


# What follows from the facts.


def test_a_site_where_all_is_well_is_ready() -> None:
    assert decide(Facts([WELL]), 300.0) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts([replace(WELL, oldest_due=301.0)]), Reason("due", "a due job of default has been waiting for 301 s")),
        (Facts([replace(WELL, spoolers=0)]), Reason("spooler", "no spooler of default is alive")),
        (Facts([replace(WELL, state="drained")]), Reason("gate", "default is drained: no job starts")),
        (Facts([WELL], {"default": "no name"}), Reason("code", "no new spooler of default starts: no name")),
        (Facts([WELL], store="it is locked"), Reason("store", "it is locked")),
        (Facts([WELL], disks=["it is full"]), Reason("disk", "it is full")),
        (Facts([WELL], unseen=["no right"]), Reason("unseen", "no right")),
        (Facts(), Reason("unseen", "there is no queue")),
    ],
)
def test_each_problem_is_a_reason(facts: Facts, expected: Reason) -> None:
    assert decide(facts, 300.0) == [expected]


ages = st.none() | st.floats(0, 1e6)


@settings(max_examples=50)
@given(
    st.lists(
        st.builds(
            QueueFigures,
            st.sampled_from(["default", "mail"]),
            st.just("/spool"),
            st.integers(0, 9),
            st.integers(0, 9),
            st.integers(0, 2),
            st.sampled_from(["open", "paused", "drained"]),
            ages,
        )
    ),
    st.floats(0, 1000),
)
def test_a_site_is_ready_only_if_each_queue_is(queues: list[QueueFigures], most: float) -> None:
    ready = [one.spoolers > 0 and one.state == "open" and (one.oldest_due or 0) <= most for one in queues]
    assert (decide(Facts(queues), most) == []) is (bool(ready) and all(ready))


# The facts.


def test_a_served_directory_is_ready(served: str) -> None:
    assert health.reasons() == []


def test_without_a_spooler_it_is_not(directory: str) -> None:
    assert checks() == ["spooler"]


def test_a_queue_that_has_no_directory_yet_has_no_spooler(served: str) -> None:
    current_app.config["SPOOLKIT_QUEUES"] = {"mail": {}}
    assert health.reasons() == [Reason("spooler", "no spooler of mail is alive")]


def test_a_job_that_has_been_due_for_long_is_seen(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one()
    assert checks() == []
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 400)
    assert checks() == ["due"]
    assert health.reasons(max_due_age=1000) == []
    current_app.config["SPOOLKIT_MAX_DUE_AGE"] = 500
    assert health.reasons() == []


def test_a_job_that_runs_is_not_due(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job, now = one(), clock.now()
    (path,) = Path(served).glob("uwsgi_spoolfile_on_*")
    locations.store().claim(job, file=path.name, still_there=lambda: True, max_attempts=1)
    monkeypatch.setattr(clock, "now", lambda: now + 400)
    assert checks() == []


def test_a_closed_gate_and_a_version_that_does_not_load_are_seen(served: str) -> None:
    gate.pause(served)
    spoolers.publish_load_error(served, "app cannot be loaded: NameError")
    assert checks() == ["gate", "code"]
    gate.resume(served)
    assert checks() == ["code"]


def garbage(store: str) -> Callable[[], None]:
    Path(store).write_bytes(b"no database" * 1000)
    return lambda: None


def locked(store: str) -> Callable[[], None]:
    other = sqlite3.connect(store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other.close


def newer(store: str) -> Callable[[], None]:
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA user_version = 999")
    return lambda: None


@pytest.mark.parametrize("break_it", [garbage, locked, newer])
def test_a_store_that_cannot_be_used_is_seen(
    served: str, break_it: Callable[[str], Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHECK_LOCK_TIMEOUT", 0.05)
    one()
    locations.store().totals()
    with locations.store().transaction():
        pass
    assert checks() == []
    locations.store().close()
    undo = break_it(locations.store().path)
    try:
        assert "store" in checks()
    finally:
        undo()


def test_a_disk_that_is_nearly_full_is_seen(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "MIN_FREE_BYTES", 1 << 80)
    (reason,) = health.reasons()
    assert reason.check == "disk"
    assert "MB left" in reason.text


def test_a_directory_that_is_missing_is_not_ready(directory: str) -> None:
    current_app.config["SPOOLKIT_SPOOL"] = f"{directory}/missing"
    assert {"unseen", "store"} <= set(checks())


def test_a_directory_that_may_not_be_read_is_not_ready(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> None:
        raise files.unavailable(path, PermissionError(13, "Permission denied"))

    monkeypatch.setattr(files, "check_readable", refused)
    assert checks() == ["unseen"]


# Who is answered, and what.


def app() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]


def get(path: str, **given: Any) -> tuple[int, dict[str, Any]]:
    answer = app().test_client().get(path, **given)
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, json.loads(answer.text)


@pytest.mark.parametrize("prefix", ["", "/spool"])
def test_everybody_gets_an_answer_and_reasons_need_access(served: str, prefix: str) -> None:
    app().config["HEALTH_PASSWORD"] = "secret"
    make = dashboard_blueprint if prefix else health_blueprint
    app().register_blueprint(make(access=basic_auth("HEALTH_PASSWORD")), url_prefix=prefix)
    assert get(f"{prefix}/health/live") == (200, {"live": True})
    assert get(f"{prefix}/health/ready") == (200, {"ready": True})
    gate.pause(served)
    assert get(f"{prefix}/health/live") == (200, {"live": True})
    assert get(f"{prefix}/health/ready") == (503, {"ready": False})
    assert get(f"{prefix}/health/ready", auth=("any", "wrong")) == (503, {"ready": False})
    reasons = [{"check": "gate", "text": "default is paused: no job starts"}]
    assert get(f"{prefix}/health/ready", auth=("any", "secret")) == (503, {"ready": False, "reasons": reasons})
    assert app().test_client().post(f"{prefix}/health/ready").status_code == 405
    assert app().test_client().head(f"{prefix}/health/ready").status_code == 503


def test_strangers_who_ask_often_get_the_answer_of_a_moment_ago(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app().register_blueprint(health_blueprint())
    monkeypatch.setattr(health, "BELIEVED", 60.0)
    assert get("/health/ready")[0] == 200
    monkeypatch.setattr(health, "look", None)
    assert get("/health/ready")[0] == 200


def test_reasons_need_the_right_to_view(directory: str) -> None:
    app().register_blueprint(health_blueprint(access=lambda request: Access("ann", {"logs"})))
    assert get("/health/ready", headers={"Cookie": "a=b"}) == (503, {"ready": False})


def test_the_command_prints_the_reasons_and_exits_with_1(served: str) -> None:
    runner = app().test_cli_runner()
    well = runner.invoke(commands, ["check"])
    assert (well.exit_code, well.output) == (0, "ready\n")
    gate.pause(served)
    result = runner.invoke(commands, ["check"])
    assert (result.exit_code, result.output) == (1, "not ready [gate] default is paused: no job starts\n")
    as_json = runner.invoke(commands, ["check", "--json"])
    assert as_json.exit_code == 1
    assert [reason["check"] for reason in json.loads(as_json.output)["reasons"]] == ["gate"]
    assert runner.invoke(commands, ["check", "--max-due-age", "soon"]).exit_code == 2


# The page.


def test_each_check_is_on_the_page_and_its_code_runs(served: str) -> None:
    page = PAGE.read_text()
    source = Path(health.__file__).read_text()
    assert set(re.findall(r'Reason\("(\w+)"', source)) == set(re.findall(r"(?m)^\| `(\w+)` \|", page))
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {"app": app()})
    assert get("/health/ready")[0] == 200


def test_the_healthcheck_of_the_page_is_that_of_the_compose_file() -> None:
    (code,) = re.findall(r'"import http.client;.*"', PAGE.read_text())
    assert code in (PAGE.parents[1] / "docker-compose.yml").read_text()
