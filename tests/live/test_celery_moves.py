"""A site moves to Celery and back by one setting, and is served by uWSGI or gunicorn, while jobs wait."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from any_server import CommandServer
from brokers import Broker, Redis, is_installed
from celery_workers import CODE, FOREVER, Site
from uwsgi_server import UwsgiServer, wait_until

from spoolkit import Job
from spoolkit.store import locations

pytestmark = pytest.mark.matrix


def use(site: Site, engine: str) -> None:
    site.env["SITE_SETTINGS"] = json.dumps({"SPOOLKIT_ENGINE": engine})


@pytest.mark.parametrize(("before", "after"), [("spool", "celery"), ("celery", "spool")])
def test_by_one_setting_the_next_calls_go_elsewhere_and_no_job_is_left_behind(
    before: str, after: str, tmp_path: Path
) -> None:
    if not is_installed("redis"):
        pytest.skip("redis is not installed")
    with Redis(tmp_path / "broker") as broker, ExitStack() as stack:
        site = Site(tmp_path / "site", broker)
        stack.callback(site.kill)
        use(site, before)
        site.origin.start()
        site.worker.start()
        dead, retrying = site.call_each(("fails once", {"retries": 0}), ("fails once", {"backoff": 4}))
        site.until(dead, "dead")
        site.until_noted("fail", [retrying])
        site.worker.kill()
        if before == "spool":
            site.origin.kill()
        waiting, delayed = site.call_each(("quick", {}), ("quick", {"delay": 4}))
        if before == "celery":
            wait_until(lambda: site.is_sent(waiting), timeout=FOREVER, message=site.logs)
            site.origin.kill()

        use(site, after)
        site.origin.start()
        site.worker.start()
        (next_one,) = site.call("quick")
        site.command("spool", "retry", dead)
        for id in (dead, retrying, waiting, delayed, next_one):
            found = site.until(id, "done")
            assert site.starts(id) == list(range(1, found["attempt"] + 1))
        with site.looking():
            rows = locations.store().read("SELECT id, engine FROM jobs", ())
        engines = {row["id"]: row["engine"] for row in rows}
        assert engines == dict.fromkeys((dead, retrying, waiting, delayed), before) | {next_one: after}
        assert site.sent() == []


def served(kind: str, site: Site, folder: Path) -> UwsgiServer:
    """A server for the application that a factory makes; with uWSGI, its own spoolers are the origin."""
    folder.mkdir()
    if kind == "gunicorn":
        words = ["gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "celery_tasks:create_app()"]
        return CommandServer(folder, words, env=site.env, spool=site.spool, cwd=CODE)
    options = ["master = true", "processes = 2", "enable-threads = true", "module = celery_tasks:create_app()"]
    options += [f"spooler = {site.spool}", "spooler-processes = 2", "spooler-frequency = 1"]
    return UwsgiServer(folder, options=options, env=site.env, spool=site.spool, cwd=CODE)


@pytest.mark.parametrize("kind", ["uwsgi", "gunicorn"])
def test_all_that_tells_of_a_job_says_what_the_worker_did_also_after_the_broker_was_away(
    kind: str, broker: Broker, tmp_path: Path
) -> None:
    site = Site(tmp_path / "site", broker, application="celery_tasks:create_app")
    with ExitStack() as stack:
        stack.callback(site.kill)
        site.worker.start()
        server = stack.enter_context(served(kind, site, tmp_path / "server"))
        if kind == "gunicorn":
            site.origin.start()

        def logs() -> str:
            return server.log()[-3000:] + site.logs()

        def over(id: str) -> float:
            """Wait until a page says that a job is done. Returns how much later than its end that was recorded."""
            wait_until(lambda: server.get(f"/jobs/{id}").json["state"] == "done", timeout=FOREVER, message=logs)
            assert "done" in server.get(f"/spool/jobs/{id}").text
            with site.looking():
                job = Job.get(id)
                assert job.wait(0)
                assert (job.state, job.result) == ("done", {"how": "quick"})
                finished = job.status.finished_at
            assert finished is not None
            (end,) = site.notes("end", id)
            return site.on_monotonic(finished) - end.at

        late = [over(server.post("/call/quick").text) for _ in range(5)]
        print(f"{kind}, {broker.url.partition(':')[0]}: recorded {max(late):.3f} s after the end, at the latest")
        broker.kill()
        ids = [server.post("/call/quick").text for _ in range(5)]
        log = server if kind == "uwsgi" else site.origin
        wait_until(lambda: "cannot be published" in log.log(), timeout=FOREVER, message=logs)
        ids += [server.post("/call/quick").text for _ in range(5)]
        assert {server.get(f"/jobs/{id}").json["state"] for id in ids} == {"queued"}
        broker.__enter__()
        for id in ids:
            over(id)
        assert site.show(ids[0])["state"] == "done"
