"""The figures for Prometheus: what is in them, who gets them, and that dashboard and alerts ask for no others."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask, current_app
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from spoolkit import Limit, registry, spool
from spoolkit.admin import actions
from spoolkit.cli import commands
from spoolkit.dashboard import Access, basic_auth, dashboard_blueprint, metrics_blueprint
from spoolkit.errors import ConfigurationError
from spoolkit.job import Bill, Done, JobSpec, State, new_id
from spoolkit.metrics import text
from spoolkit.spooldir import gate, held
from spoolkit.store import locations, totals

DOCS = Path(__file__).parents[2] / "docs"
NAME = re.compile(r"\bspoolkit_\w+")

Work = Callable[[], None]


@pytest.fixture(autouse=True)
def own_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tasks of the test are declared."""
    monkeypatch.setattr(registry, "this_process", registry.Registry())


def scrape() -> dict[tuple[str, ...], float]:
    """The value of each sample, by its name and the values of its labels in the order of their names."""
    return {key_of(sample): sample.value for sample in samples()}


def samples() -> Iterator[Sample]:
    for family in text_string_to_metric_families(text.render().decode()):
        yield from family.samples


def key_of(sample: Sample) -> tuple[str, ...]:
    return sample.name, *(sample.labels[label] for label in sorted(sample.labels))


def declare(body: Callable[[], Any], name: str = "shop.one", **options: Any) -> Any:
    def one() -> Any:
        return body()

    return spool(name=name, **{"retries": 0, **options})(one)


def fail() -> None:
    raise ValueError("no luck")


def test_a_task_that_never_ran_has_zeros(directory: str) -> None:
    """So that its first failure is an increase."""
    declare(fail)
    found = scrape()
    assert found["spoolkit_attempts_total", "done", "shop.one"] == 0
    assert found["spoolkit_attempts_total", "failed", "shop.one"] == 0
    assert found["spoolkit_attempt_seconds_bucket", "+Inf", "shop.one"] == 0
    assert found["spoolkit_jobs", "dead", "shop.one"] == 0
    assert found["spoolkit_oldest_due_seconds", "default"] == 0
    assert found["spoolkit_spoolers", "false", "default"] == 0


def test_jobs_and_attempts_are_counted_also_after_their_deletion(directory: str, work: Work) -> None:
    good, bad = declare(lambda: print("said"), "shop.good"), declare(fail, "shop.bad")
    good(), good(), bad()
    assert scrape()["spoolkit_queue_jobs", "default"] == 3
    work()
    before = scrape()
    assert before["spoolkit_attempts_total", "done", "shop.good"] == 2
    assert before["spoolkit_attempts_total", "failed", "shop.bad"] == 1
    assert (before["spoolkit_jobs", "done", "shop.good"], before["spoolkit_jobs", "dead", "shop.bad"]) == (2, 1)
    assert before["spoolkit_attempt_seconds_count", "shop.good"] == 2
    assert before["spoolkit_attempt_seconds_count", "shop.bad"] == 1
    assert before["spoolkit_wait_seconds_count", "shop.good"] == 2
    assert actions.purge([State.DONE, State.DEAD]) == 3
    after = scrape()
    assert (after["spoolkit_jobs", "done", "shop.good"], after["spoolkit_jobs", "dead", "shop.bad"]) == (0, 0)
    of_rows = ("spoolkit_jobs", "spoolkit_memory_bytes")
    assert {key: value for key, value in before.items() if key[0] not in of_rows} == {
        key: value for key, value in after.items() if key[0] not in of_rows
    }


def test_the_bills_of_jobs_are_told_by_task(directory: str) -> None:
    for bill, task in ((Bill(0.5, 4096), "shop.one"), (Bill(0.25, 8192), "shop.one"), (Bill(2.0), "shop.thread")):
        done(bill, task)
    found = scrape()
    assert found["spoolkit_cpu_seconds_total", "shop.one"] == 0.75
    assert found["spoolkit_memory_bytes", "shop.one"] == 8192
    assert found["spoolkit_cpu_seconds_total", "shop.thread"] == 2
    assert ("spoolkit_memory_bytes", "shop.thread") not in found
    assert actions.purge([State.DONE]) == 3
    assert scrape()["spoolkit_cpu_seconds_total", "shop.one"] == 0.75


def test_buckets_hold_what_is_below_their_bound(directory: str, work: Work) -> None:
    declare(lambda: None)()
    work()
    counts = [
        sample.value
        for sample in samples()
        if sample.name == "spoolkit_attempt_seconds_bucket" and sample.labels["task"] == "shop.one"
    ]
    assert len(counts) == len(totals.BOUNDS)
    assert counts == sorted(counts)
    assert counts[-1] == 1


def test_what_keeps_jobs_from_running_is_there(directory: str, work: Work) -> None:
    task = declare(lambda: None)
    task()
    os.utime(next(Path(directory).glob("uwsgi_spoolfile_on_*")), (1e9, 1e9))
    gate.pause(directory)
    found = scrape()
    assert found["spoolkit_oldest_due_seconds", "default"] > 1e6
    assert found["spoolkit_queue_paused", "default"] == 1
    gate.resume(directory)
    assert scrape()["spoolkit_queue_paused", "default"] == 0


@pytest.mark.parametrize("name", ['a"b', "back\\slash", "two\nlines", "ümläut", "a" * 500, "{task=}", "half \ud800"])
def test_any_name_is_a_label(directory: str, name: str) -> None:
    store = locations.store()
    with store.transaction() as db:
        db.execute(
            "INSERT INTO jobs (id, task, engine, state, attempt, base, finished_at)"
            " VALUES ('1', ?, 'thread', 'done', 1, 0, 1)",
            (name.encode("utf-8", "backslashreplace").decode(),),
        )
    found = scrape()
    assert found["spoolkit_jobs", "done", name.encode("utf-8", "backslashreplace").decode()] == 1


def test_a_key_of_a_limit_is_no_label(directory: str) -> None:
    @spool(name="shop.keyed", limit=Limit(1, key=lambda user: user))
    def keyed(user: str) -> None: ...

    keyed("ann@example.org")
    assert b"ann@" not in text.render()


# Who gets them.


def app() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("path", ["/metrics", "/spool/metrics"])
def test_the_figures_are_for_those_who_may_view(directory: str, path: str) -> None:
    app().config["METRICS_PASSWORD"] = "secret"
    app().register_blueprint(metrics_blueprint(access=basic_auth("METRICS_PASSWORD", can={"view"})))
    app().register_blueprint(dashboard_blueprint(access=basic_auth("METRICS_PASSWORD")), url_prefix="/spool")
    client = app().test_client()
    assert client.get(path).status_code == 401
    known = {"Authorization": "Basic " + base64.b64encode(b"prometheus:secret").decode()}
    answer = client.get(path, headers=known)
    assert (answer.status_code, answer.content_type) == (200, text.CONTENT_TYPE)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "spoolkit_oldest_due_seconds" in answer.text
    assert client.post(path, headers=known).status_code == 405


def test_the_figures_are_closed_by_default(directory: str) -> None:
    app().register_blueprint(metrics_blueprint())
    assert app().test_client().get("/metrics").status_code == 404


def test_the_right_to_view_is_asked_for(directory: str) -> None:
    app().register_blueprint(metrics_blueprint(access=lambda request: Access("ann", {"logs"})))
    assert app().test_client().get("/metrics").status_code == 403


def test_what_cannot_be_read_fails_the_scrape(directory: str) -> None:
    app().register_blueprint(metrics_blueprint(access=lambda request: Access("ann", {"view"})))
    Path(directory, "spoolkit.db").write_bytes(b"no database" * 1000)
    answer = app().test_client().get("/metrics")
    assert (answer.status_code, answer.mimetype) == (503, "text/plain")
    assert "spoolkit.db" in answer.text
    assert "spoolkit_" not in answer.text
    result = app().test_cli_runner().invoke(commands, ["metrics"])
    assert (result.exit_code, "spoolkit_" in result.output) == (1, False)


def test_held_jobs_that_cannot_be_seen_fail_the_scrape(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spool_dir: str) -> set[str]:
        raise PermissionError(errno.EACCES, "Permission denied", spool_dir)

    monkeypatch.setattr(held, "names", refuse)
    app().register_blueprint(metrics_blueprint(access=lambda request: Access("ann", {"view"})))
    answer = app().test_client().get("/metrics")
    assert (answer.status_code, answer.mimetype) == (503, "text/plain")


def test_without_prometheus_client_the_error_says_what_to_install(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "spoolkit.metrics.text")
    monkeypatch.delattr("spoolkit.metrics.text")
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ConfigurationError, match=re.escape("spoolkit[metrics]")):
        metrics_blueprint()
    app().register_blueprint(dashboard_blueprint(access=lambda request: Access("ann", {"view"})))
    answer = app().test_client().get("/metrics")
    assert (answer.status_code, "spoolkit[metrics]" in answer.text) == (503, True)
    result = app().test_cli_runner().invoke(commands, ["metrics"])
    assert (result.exit_code, "spoolkit[metrics]" in result.output) == (1, True)


def test_the_command_prints_the_same_as_the_page(directory: str) -> None:
    declare(fail)
    runner = app().test_cli_runner()
    assert runner.invoke(commands, ["metrics"]).output.encode() == text.render()
    found = json.loads(runner.invoke(commands, ["metrics", "--json"]).output)
    assert {"name": "spoolkit_oldest_due_seconds", "labels": {"queue": "default"}, "value": 0} in found


# The documents.


def known() -> dict[str, set[str]]:
    """The labels of each name that a scrape has."""
    declare(fail)
    current_store_has_a_paused_task()
    done(Bill(0.5, 4096))
    return {sample.name: set(sample.labels) for sample in samples()}


def done(bill: Bill, task: str = "shop.one") -> None:
    """Record a job that is done and had this bill."""
    store, job = locations.store(), JobSpec(new_id(), task)
    store.claim(job, file=None, still_there=lambda: True, max_attempts=1)
    assert store.finish(job, 1, Done(), bill=bill) is State.DONE


def current_store_has_a_paused_task() -> None:
    from spoolkit.coordination import pauses

    pauses.pause(locations.spool_dir(), "shop.one")


def check_query(query: str, labels: dict[str, set[str]]) -> None:
    """The names in a query are those of a scrape, with the labels that it compares and groups by."""
    names = NAME.findall(query)
    assert names, query
    assert set(names) <= labels.keys(), query
    of_all = set.union(*(labels[name] for name in names)) | {"instance", "le"}
    asked = re.findall(r"(\w+)(?:=~|!~|!=|=)\"", query)
    grouped = [label for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(", ")]
    assert {*asked, *grouped} <= of_all, query


def test_each_query_of_the_grafana_dashboard_finds_its_figures(directory: str) -> None:
    labels, board = known(), json.loads((DOCS / "grafana" / "spoolkit.json").read_text())
    targets = [target for panel in board["panels"] for target in panel["targets"]]
    assert len(targets) > 10
    for target in targets:
        check_query(target["expr"], labels)
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= set(re.findall(r"\w+", target["expr"]))
    (query,) = [one["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    assert set(NAME.findall(query)) <= labels.keys()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_each_alert_finds_its_figures(directory: str) -> None:
    page = (DOCS / "metrics.md").read_text()
    rules = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "alert:" in block)
    found = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in found] == ["JobsWait", "JobsDie", "NoSpooler"]
    labels = known()
    for rule in found:
        check_query(rule["expr"], labels)


def test_each_figure_is_on_the_page(directory: str) -> None:
    page = (DOCS / "metrics.md").read_text()
    named = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in known()} == named
    endings = set(re.findall(r"`(\w+)`", next(line for line in page.splitlines() if "_attempts_total`" in line)))
    assert set(totals._OTHER_ENDINGS) - {"expired", "skipped"} <= endings


def test_the_code_of_the_page_opens_the_figures(directory: str) -> None:
    page = (DOCS / "metrics.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, {"app": app()})
    app().config["METRICS_PASSWORD"] = "secret"
    assert app().test_client().get("/metrics", auth=("any", "secret")).status_code == 200
