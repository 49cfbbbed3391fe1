"""What a stop and a reload promise beyond the matrix: a version that does not import, a request that never ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from spoolkit.spooldir import gate, spoolers
from spoolkit.spooldir.spoolfile import PREFIX

from .draining import RELOAD, STOP_HOOKS, Deployed, deployed

ALIASED = '@spool(retries=20, aliases=["drain_site.sturdy"])\ndef strong'


def rewrite(site: Deployed, old: str, new: str) -> None:
    """Deploy another version."""
    code = site.folder / "code" / "drain_site.py"
    text = code.read_text()
    assert old in text
    code.write_text(text.replace(old, new))


@contextlib.contextmanager
def requests_without_end(site: Deployed, count: int) -> Iterator[None]:
    """Within it, that many requests are in progress; they get no answer."""

    def ask_in_vain() -> None:
        with pytest.raises(OSError, match=r"closed|reset"):
            site.web.get("/slow/60.0")

    asking = [threading.Thread(target=ask_in_vain) for _ in range(count)]
    for thread in asking:
        thread.start()
    site.site.history.wait_for("request", count=count)
    yield
    for thread in asking:
        thread.join(60)
        assert not thread.is_alive()


def versions(site: Deployed) -> set[str]:
    return {site.web.get("/version").json["version"] for _ in range(8)}


@pytest.mark.matrix  # test_loading.py has one such version in each run
def test_a_reload_to_code_that_does_not_import_keeps_the_old_code_running(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps") as site:
        site.wait_until_up()
        spoolers = site.jobs.spooler_pids()
        rewrite(site, 'VERSION = "old"', 'VERSION = "new"\nraise ImportError("half deployed")')
        site.signal(signal.SIGHUP)
        site.jobs.wait_for_log("drain_site:app cannot be loaded", timeout=60)
        # It has tried twice, so the first failure has had its consequences.
        wait_until(lambda: site.jobs.log().count("drain_site:app cannot be loaded") >= 2, timeout=60)
        assert versions(site) == {"old"}
        assert site.jobs.spooler_pids() == spoolers
        id = site.call("work", 0.1)
        assert wait_until(lambda: site.result(id)) == b'"old"'
        rewrite(site, 'raise ImportError("half deployed")', "")
        site.jobs.wait_for_log("chain reloading complete", timeout=60)
        assert versions(site) == {"new"}
        id = site.call("work", 0.1)
        assert wait_until(lambda: site.result(id)) == b'"new"'


def test_a_start_with_code_that_does_not_import_stops_uwsgi(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps") as site:
        rewrite(site, 'VERSION = "old"', 'raise ImportError("never worked")')
    with contextlib.suppress(AssertionError), deployed(tmp_path, "lazy-apps") as site:  # it may not even come up
        site.wait_for_exit(60)
    assert "need-app requested, destroying the instance" in (tmp_path / "server" / "uwsgi.log").read_text()


@pytest.mark.parametrize("mode", sampled(["lazy-apps", "threads"], "threads"))
def test_a_stop_ends_after_the_grace_period_although_requests_never_end(tmp_path: Path, mode: str) -> None:
    with deployed(tmp_path, mode, grace=2) as site:
        job = site.call("work", 60.0)
        site.site.history.wait_for("start", job)
        with requests_without_end(site, 2 if mode == "lazy-apps" else 8):
            site.signal(signal.SIGTERM)
            site.wait_for_exit(50)  # the requests and the job would take 60 s
        assert site.endings(job) == ["interrupted"]


def test_no_job_starts_once_uwsgi_stops_although_its_http_process_hangs(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps", processes=1) as site:
        spool = str(site.site.spool)
        gate.pause(spool)
        for _ in range(100):
            site.call("work", 0.3)
        http = site.web.get("/version").json["pid"]
        gate.resume(spool)
        spoolers.wake_all(spool)
        site.site.history.wait_for("end", count=4)
        os.kill(http, signal.SIGSTOP)
        try:
            site.signal(signal.SIGTERM)
            # The gate closes within half a second; how soon that is seen depends on the machine.
            seen = [(time.monotonic(), 0)]

            def no_more_start() -> bool:
                now, count = time.monotonic(), len(site.site.history.events("start"))
                if count != seen[-1][1]:
                    seen.append((now, count))
                return now - seen[-1][0] > 1.5

            wait_until(no_more_start)
            assert seen[-1][1] < len(site.ids)
        finally:
            os.kill(http, signal.SIGCONT)
        site.wait_for_exit(60)
        assert not [id for id in site.ids if site.endings(id) not in ([], ["done"])]


@pytest.mark.parametrize("busy", sampled(["requests", "import"], "requests"))
def test_a_stop_by_the_fifo_ends_after_the_grace_period(tmp_path: Path, busy: str) -> None:
    """No signal tells of it, and a process that starts does not hear of it at all."""
    slow = "import sys, time\nif not __import__('uwsgi').i_am_the_spooler(): time.sleep(3)\n"
    if busy == "import":
        with deployed(tmp_path, "lazy-apps", grace=2):
            pass
        code = tmp_path / "code" / "drain_site.py"
        code.write_text(code.read_text().replace("import contextlib\n", f"import contextlib\n{slow}"))
    with deployed(tmp_path, "lazy-apps", grace=2) as site, contextlib.ExitStack() as asking:
        if busy == "requests":
            site.wait_until_up()
            asking.enter_context(requests_without_end(site, 2))
        site.fifo("q")
        site.wait_for_exit(50)  # the requests would take 60 s


def test_a_busy_spooler_finishes_its_job_before_it_exits_by_a_signal(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps", spoolers=1) as site:
        job = site.call("work", 1.0)
        (start,) = site.site.history.wait_for("start", job)
        os.kill(start.pid, signal.SIGTERM)
        site.call("work", 0.1)
        wait_until(lambda: not site.unfinished())
        assert [site.starts(id) for id in site.ids] == [1, 1]
        first, second = (site.site.history.events("end", id)[0].pid for id in site.ids)
        assert (first, second != start.pid) == (start.pid, True)


def test_an_idle_spooler_exits_by_a_signal_at_once(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps", spoolers=1) as site:
        site.site.history.wait_for("start", site.call("work", 0.0))
        site.site.wait_empty()
        (spooler,) = site.jobs.spooler_pids()
        os.kill(spooler, signal.SIGTERM)
        wait_until(lambda: site.jobs.spooler_pids() not in ([], [spooler]))


def test_signals_have_their_default_effect_in_processes_that_a_task_forks(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps", spoolers=1) as site:
        site.call("forks")
        (event,) = site.site.history.wait_for("forked", "ended", "by")
        assert event.words[-1] == str(int(signal.SIGTERM))


@pytest.mark.parametrize("cut_by", sampled(["a stop", "a kill"], "a kill"))
def test_an_interrupted_job_continues_at_its_checkpoint(tmp_path: Path, cut_by: str) -> None:
    with deployed(tmp_path, "lazy-apps", grace=0.5, spoolers=1) as site:
        job = site.call("counts" if cut_by == "a stop" else "counts_through_kills", 0.3, 6)
        site.site.history.wait_for("step", job, count=3)
        if cut_by == "a stop":
            site.signal(signal.SIGTERM)
            site.wait_for_exit(60)
        else:
            os.kill(site.site.history.events("start", job)[0].pid, signal.SIGKILL)
            check_steps(site, job)
    if cut_by == "a stop":
        with deployed(tmp_path, "lazy-apps", spoolers=1) as site:
            check_steps(site, job)


def check_steps(site: Deployed, job: str) -> None:
    result = wait_until(lambda: site.result(job), message=site.jobs.log)
    assert json.loads(result) == [15, 2]
    wait_until(
        lambda: os.listdir(site.site.spool / "checkpoints") == [], message="it is over, and its checkpoint stays"
    )
    steps = [event.words[2] for event in site.site.history.events("step", job)]
    assert sorted(set(steps)) == [str(step) for step in range(6)]
    assert len(steps) <= 7, "only the step that was cut off comes again"


@pytest.mark.parametrize("version", sampled(["the next", "a broken one"], "the next"))
def test_a_stop_while_all_http_processes_are_replaced_waits_for_jobs(tmp_path: Path, version: str) -> None:
    with deployed(tmp_path, "threads", grace=20) as site:
        site.wait_until_up()
        job = site.call("holds")
        site.site.history.wait_for("start", job)
        if version == "a broken one":
            rewrite(site, 'VERSION = "old"', "VERSION = 1 / 0")
        site.fifo("r")
        site.jobs.wait_for_log("racefully killing worker" if version == "the next" else "ZeroDivisionError")
        time.sleep(0.3)  # they have looked whether this is a stop by then
        site.signal(signal.SIGTERM)
        site.wait_for_stop()
        site.release()
        site.wait_for_exit(60)
        assert len(site.site.history.events("end", job)) == 1
        assert site.endings(job) == ["done"]


def test_a_site_without_a_spooler_stops_and_reloads_like_any_other(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps"):
        pass
    common = ["master = true", "enable-threads = true", "need-app = true", "processes = 2", "module = drain_site:app"]
    lines = [*common, f"pythonpath = {tmp_path / 'code'}", *STOP_HOOKS, *RELOAD, "import = spoolkit.guard"]
    env = {"HISTORY": str(tmp_path / "history"), "PYTHONPATH": str(tmp_path / "code")}
    own = tmp_path / "alone"
    own.mkdir()
    with UwsgiServer(own, options=lines, env=env, spool=tmp_path / "spool", spools=False) as server:
        wait_until(lambda: server.log().count("WSGI app 0") == 2)
        os.kill(server.master_pid, signal.SIGHUP)
        server.wait_for_log("chain reloading complete")
        os.kill(server.master_pid, signal.SIGTERM)
        wait_until(lambda: server.exited, message=server.log)
    assert "Error" not in server.log()


def test_jobs_enqueued_by_another_version_run_or_die_with_a_reason(tmp_path: Path) -> None:
    with deployed(tmp_path, "lazy-apps") as site:
        site.wait_until_up()
        gate.pause(str(site.site.spool))
        renamed, changed, gone = site.call("sturdy", 0.0), site.call("work", 0.0), site.call("forks")
        rewrite(site, "@spool(retries=20, backoff=0.1)\ndef sturdy", ALIASED)
        rewrite(site, "def work(seconds: float)", "def work(minutes: float, seconds: float)")
        rewrite(site, "def forks()", "def forked()")
        site.signal(signal.SIGHUP)
        site.jobs.wait_for_log("chain reloading complete", timeout=40)
        gate.resume(str(site.site.spool))
        site.site.history.wait_for("end", renamed)
        dead = wait_until(lambda: site.site.dead() if len(site.site.dead()) == 2 else None)
        reasons = {id: dead[f"{PREFIX}{id}"]["reason"] for id in (changed, gone)}
        assert "enqueued with 1 by position" in reasons[changed]
        assert "drain_site.work(minutes: 'float', seconds: 'float')" in reasons[changed]
        assert "'drain_site.forks'" in reasons[gone]
        assert "drain_site.forked" in reasons[gone]
        assert site.starts(changed) == 0
        site.site.wait_empty()
