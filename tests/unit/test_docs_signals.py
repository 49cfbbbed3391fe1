"""The code on docs/signals.md does what the page says."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, current_app, g, has_request_context

from spoolkit import SpoolKit, callbacks, current_job, spool
from spoolkit.signals import job_dead
from spoolkit.spooling import handler, spooler_hooks
from spoolkit.system.process import PerProcess

PAGE = (Path(__file__).parents[2] / "docs" / "signals.md").read_text()


def blocks(heading: str) -> list[str]:
    (section,) = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def app() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def page(directory: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that the code of the page uses."""
    monkeypatch.setattr(callbacks, "this_process", callbacks.ThisProcess())
    return {
        "kit": SpoolKit(app()),
        "spool": spool,
        "current_job": current_job,
        "g": g,
        "has_request_context": has_request_context,
        "done": [],
        "__name__": __name__,
    }


def run(code: str, namespace: dict[str, Any], body: str = "") -> None:
    exec(code.replace(" ...\n", f" {body}\n") if body else code, namespace)


def test_a_receiver_hears_of_a_dead_job(page: dict[str, Any], work: Callable[[], None]) -> None:
    page["alert"] = page["done"].append
    run(*blocks("Signals"), page)

    @spool(retries=0, name="docs.fails")
    def fails() -> None:
        raise ValueError("no")

    job = fails()
    work()
    job_dead.disconnect(page["report"])
    assert page["done"] == [f"job {job.id} of docs.fails is dead: ValueError: no"]


def test_hooks_run_around_calls_and_attempts(page: dict[str, Any], work: Callable[[], None]) -> None:
    @contextlib.contextmanager
    def force_locale(locale: str) -> Iterator[None]:
        page["done"].append(f"in {locale}")
        yield
        page["done"].append("out")

    page.update(force_locale=force_locale, current_tenant=lambda: "acme")
    run(*blocks("Hooks around attempts and calls"), page)

    @spool(name="docs.hooked")
    def hooked() -> None:
        page["done"].append(dict(current_job().headers))

    hooked.using(headers={"locale": "de"})()
    work()
    assert page["done"] == ["in de", {"locale": "de", "tenant": "acme"}, "out"]


def test_the_page_instruments_the_application(page: dict[str, Any], work: Callable[[], None]) -> None:
    run(*blocks("Traces with OpenTelemetry"), page)

    @spool(name="docs.traced")
    def traced() -> None:
        page["done"].append("runs, with the API alone")

    traced()
    work()
    assert page["done"] == ["runs, with the API alone"]


SENTRY = """
import logging
import sys
from flask import Flask
import sentry_sdk
from sentry_sdk.transport import Transport
from spoolkit import SpoolKit, spool
from spoolkit.spooling.standalone import Spooler

logging.basicConfig()
sent = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        sent.extend(item.payload.json for item in envelope.items)

sentry_sdk.init(dsn="https://key@sentry.invalid/1", transport=Kept, traces_sample_rate=1.0)
app = Flask("site")
app.config["SPOOLKIT_SPOOL"] = sys.argv[1]
kit = SpoolKit(app)
exec(sys.argv[2])

@spool(retries=0, name="docs.traced")
def traced():
    raise ValueError("seen by Sentry")

with app.app_context():
    with sentry_sdk.start_transaction(name="request") as request:
        job = traced()
    Spooler(sys.argv[1]).run_due()
transactions = {one["transaction"]: one for one in sent if one.get("type") == "transaction"}
first, second = transactions["request"], transactions["docs.traced"]
(error,) = [one for one in sent if "exception" in one]
assert first["contexts"]["trace"]["trace_id"] == second["contexts"]["trace"]["trace_id"], sent
assert second["tags"]["job"] == job.id, sent
assert error["exception"]["values"][-1]["value"] == "seen by Sentry", sent
"""


def test_a_transaction_of_sentry_continues_the_trace_of_the_request(tmp_path: Path) -> None:
    # In a process of its own: Sentry changes many modules.
    (code,) = blocks("Traces and errors with Sentry")
    (tmp_path / "spool").mkdir(mode=0o700)
    command = [sys.executable, "-c", SENTRY, str(tmp_path / "spool"), code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_spooler_opens_a_pool_and_closes_it(
    page: dict[str, Any], work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spooler_hooks, "_state", PerProcess(spooler_hooks._State))
    page["connect"] = lambda: SimpleNamespace(close=lambda: page["done"].append("closed"))
    run(*blocks("Hooks at the start and the end of a spooler"), page)

    @spool(name="docs.pooled")
    def pooled() -> None:
        page["done"].append(page["pool"])

    pooled()
    work()
    handler.end()
    assert page["done"] == [page["pool"], "closed"]


def test_headers_come_with_the_job(page: dict[str, Any], work: Callable[[], None]) -> None:
    declaration, call, provided = blocks("Headers")
    run(declaration, page, "done.append((locale, dict(current_job().headers)))")
    run(call, page)
    run(provided, page)
    with app().test_request_context():
        g.request_id = "4f1c"
        run(call, page)
    work()
    given = {"locale": "de", "tenant": "acme"}
    assert page["done"] == [("de", given), ("de", {**given, "request_id": "4f1c"})]
