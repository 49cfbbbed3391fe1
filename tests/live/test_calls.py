"""What the function of a job may return, in spoolkit and in other libraries; and coroutines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from uwsgi_server import UwsgiServer, wait_until

from .conftest import SITE, History, Site

RETRY_DELAY = 1.2


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("calls")
    options = ["master = true", "enable-threads = true", "need-app = true", "module = foreign_app:app", "processes = 1"]
    options += [f"pythonpath = {SITE}", f"chdir = {SITE}", "threads = 2", "spooler-frequency = 1"]
    options += ["spooler-processes = 4", f"spooler = {folder / 'spool'}", "die-on-term = true"]
    env = {"HISTORY": str(folder / "history"), "PYTHONPATH": str(SITE), "SPOOLKIT_RETRY_DELAY": str(RETRY_DELAY)}
    env |= {"SPOOLKIT_TIMEOUT_GRACE": "1", "SPOOLKIT_UNKNOWN_GRACE": "0"}
    with UwsgiServer(folder, options=options, env=env) as server:
        yield Site(server, History(folder / "history"))


def is_over(site: Site, id: str) -> dict[str, Any] | None:
    answer = site.server.get(f"/jobs/{id}")
    if answer.status != 200 or answer.json["state"] not in ("done", "dead"):
        return None
    # A dead job's file is moved a moment before it is recorded; until then the reason is a single text.
    return answer.json if answer.json["state"] == "done" or answer.json["error"]["type"] else None


def ended(site: Site, id: str) -> dict[str, Any]:
    return wait_until(lambda: is_over(site, id), message=site.server.log) or {}


def dead_of(site: Site, task: str) -> str:
    """Why a job of another library is dead."""

    def reasons() -> list[str]:
        return [report["reason"] for report in site.dead().values() if report["task"] == task]

    (reason,) = wait_until(reasons, message=site.server.log)
    return reason


def test_a_handler_that_returns_any_integer_equal_to_spool_ok_is_done(site: Site) -> None:
    names = ("ours", "enum", "index", "plain")
    for name in names:
        site.server.post(f"/handler/{name}")
    site.wait_empty()
    assert [len(site.history.events("ran", name)) for name in names] == [1, 1, 1, 1]


def test_spool_retry_and_spool_ignore_are_passed_to_uwsgi(site: Site) -> None:
    names = ("retry", "ignore")
    for name in names:
        site.server.post(f"/handler/{name}")
    site.wait_empty()
    assert [len(site.history.events("ran", name)) for name in names] == [2, 2]


SHOWN = {
    "none": "returned None",
    "true": "returned True",
    "false": "returned False",
    "text": "returned a value of type str",
    "float": "returned a value of type float",
    "huge": "returned a value of type int",
    "exits": "failed and runs again: from exits",
}


def test_after_any_other_answer_the_job_runs_again_later_and_the_log_says_why(site: Site) -> None:
    for name in SHOWN:
        site.server.post(f"/handler/{name}")
    for name, shown in SHOWN.items():
        first, second = site.history.wait_for("ran", name, count=2)
        assert second.time - first.time >= RETRY_DELAY
        site.server.wait_for_log(f"the handler of uwsgi.spooler {shown}")
    site.wait_empty()
    assert all(len(site.history.events("ran", name)) == 2 for name in SHOWN)


def test_a_job_that_returns_a_coroutine_is_dead(site: Site) -> None:
    site.server.post("/handler/coroutine")

    def reasons() -> list[str]:
        return [report["reason"] for report in site.dead().values() if report["task"] is None]

    (reason,) = wait_until(reasons, message=site.server.log)
    assert "returned a coroutine, whose body did not run" in reason


def test_of_decorated_functions_the_true_reason_is_kept(site: Site) -> None:
    for name in ("raw_none", "raw_ours", "raw_async", "unreadable", "in_spool"):
        site.server.post(f"/decorated/{name}")
    assert dead_of(site, "raw_none").startswith(
        "raw_none ran to its end and returned None, where uWSGI expects SPOOL_OK"
    )
    assert "a coroutine, whose body did not run" in dead_of(site, "raw_async")
    assert dead_of(site, "unreadable").startswith("the arguments could not be read: UnpicklingError")
    assert "now declared with spoolkit, as foreign_app.in_spool" in dead_of(site, "in_spool")
    site.wait_empty()
    assert [len(site.history.events("ran", name)) for name in ("raw_none", "raw_ours", "raw_async", "unreadable")] == [
        *(1, 1, 0, 0)
    ]


@pytest.mark.parametrize("engine", ["spool", "thread"])
def test_a_coroutine_runs_to_its_end(site: Site, engine: str) -> None:
    job = site.server.post(f"/job/in_{engine}").json["job"]
    assert ended(site, job)["result"] == "hello"
    (event,) = site.history.events("async", engine)
    assert event.words[2:] == ("hello", job)


def test_a_coroutine_is_cancelled_at_its_timeout(site: Site) -> None:
    found = ended(site, site.server.post("/job/hangs").json["job"])
    for _ in range(10):
        if "hard limit" not in found["error"]["message"]:
            break
        # The process stood still until then.
        found = ended(site, site.server.post("/job/hangs").json["job"])
    assert (found["state"], found["error"]["type"]) == ("dead", "JobTimeout")
    site.history.wait_for("async", "cancelled")


def test_a_coroutine_that_blocks_its_loop_is_ended_by_the_hard_limit(site: Site) -> None:
    found = ended(site, site.server.post("/job/blocks").json["job"])
    assert (found["state"], found["error"]["type"]) == ("dead", "JobTimeout")
    assert "hard limit" in found["error"]["message"]
