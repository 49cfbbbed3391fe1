"""Scrapes of a real uWSGI while its jobs run, and while their records are deleted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from uwsgi_server import UwsgiServer, wait_until

from .conftest import site_in

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(server: UwsgiServer) -> tuple[Values, Values]:
    """The gauges, and what must never fall."""
    answer = server.get("/metrics")
    assert answer.status == 200, answer.text
    gauges, counters = Values(), Values()
    for family in text_string_to_metric_families(answer.text):
        found = gauges if family.type == "gauge" else counters
        found.update({(sample.name, frozenset(sample.labels.items())): sample.value for sample in family.samples})
    return gauges, counters


def of(values: Values, name: str, **labels: str) -> float:
    return values[name, frozenset(labels.items())]


@pytest.mark.parametrize("number", [40, pytest.param(600, marks=pytest.mark.matrix)])
def test_no_counter_falls_while_jobs_run_and_records_are_deleted(tmp_path: Path, number: int) -> None:
    site = site_in(tmp_path, module="metrics_app", processes=2, threads=4, spoolers=2)
    over, until = threading.Event(), time.monotonic() + 100

    def repeat(step: Callable[[], None]) -> None:
        while not over.is_set() and time.monotonic() < until:
            step()

    def scrapes(server: UwsgiServer) -> Callable[[], None]:
        last = Values()

        def step() -> None:
            _, now = scrape(server)
            fallen = {key: (value, now.get(key)) for key, value in last.items() if now.get(key, -1.0) < value}
            assert not fallen
            last.update(now)

        return step

    def purge(server: UwsgiServer) -> None:
        assert server.post("/purge").status == 200
        over.wait(0.05)

    with site.server as server, ThreadPoolExecutor(3) as pool:
        watching = [pool.submit(repeat, scrapes(server)) for _ in range(2)]
        purging = pool.submit(repeat, lambda: purge(server))
        try:
            for _ in range(4):
                assert server.post(f"/call/{number // 4}").status == 200

            def all_have_ended() -> bool:
                gauges, counters = scrape(server)
                done = of(counters, "spoolkit_attempts_total", task="works", ending="done")
                failed = of(counters, "spoolkit_attempts_total", task="fails", ending="failed")
                assert max(done, failed) <= number, "none is counted twice"
                return (done, failed, of(gauges, "spoolkit_queue_jobs", queue="default")) == (number, number, 0)

            wait_until(all_have_ended, timeout=90, message=lambda: f"{scrape(server)} {server.log()[-3000:]}")
        finally:
            over.set()
        for one in (*watching, purging):
            one.result(timeout=60)
        wait_until(lambda: server.post("/purge").json["deleted"] == 0, timeout=60)
        gauges, counters = scrape(server)
        assert of(gauges, "spoolkit_jobs", task="works", state="done") == 0
        assert of(counters, "spoolkit_attempts_total", task="works", ending="done") == number
        assert of(counters, "spoolkit_attempt_seconds_count", task="fails") == number
        assert of(counters, "spoolkit_wait_seconds_count", task="works") == number
