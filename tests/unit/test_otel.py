"""Spans of calls and attempts, and how they hang together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from spoolkit import Batch, Retry, SpoolKit, callbacks, spool, thread
from spoolkit.contrib.otel import instrument
from spoolkit.spooling.standalone import Spooler


def work_of(how: str = "") -> None:
    if how == "fails":
        raise ValueError(how)
    if how == "retries":
        raise Retry(0)
    if how == "calls":
        one()


one = spool(name="otel.one", retries=0)(work_of)
twice = spool(name="otel.twice", retries=1, backoff=0)(work_of)
threaded = thread(name="otel.threaded")(work_of)

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

Spans = Callable[[], list[ReadableSpan]]


@pytest.fixture
def spans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Lets what is due run, and returns the spans that have ended."""
    monkeypatch.setattr(callbacks, "this_process", callbacks.ThisProcess())
    app = Flask("traced")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", TESTING=True)
    instrument(SpoolKit(app), provider)
    spooler = Spooler(str(tmp_path / "spool"))
    exporter.clear()

    def run() -> list[ReadableSpan]:
        for _ in range(3):
            spooler.run_due()
        return list(exporter.get_finished_spans())

    with app.app_context():
        yield run


def links(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_an_attempt_is_linked_to_its_call(spans: Spans) -> None:
    with provider.get_tracer("site").start_as_current_span("request") as request:
        job = one()
    sent, _, processed = spans()
    assert (sent.name, sent.kind) == ("send otel.one", SpanKind.PRODUCER)
    assert sent.parent is not None
    assert sent.parent.span_id == request.get_span_context().span_id
    assert (processed.name, processed.kind, processed.parent) == ("process otel.one", SpanKind.CONSUMER, None)
    assert links(processed) == [id_of(sent)]
    assert attributes(sent) == {
        "messaging.system": "spoolkit",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "otel.one",
        "messaging.message.id": job.id,
    }
    assert attributes(processed)["messaging.operation.type"] == "process"
    assert attributes(processed)["spoolkit.job.attempt"] == 1
    assert set(job.headers or {}) == {"traceparent"}
    assert processed.status.status_code is StatusCode.UNSET


def test_each_attempt_is_a_span_and_an_error_is_its_status(spans: Spans) -> None:
    twice("fails")
    sent, first, second = spans()
    assert links(first) == links(second) == [id_of(sent)]
    assert id_of(first) != id_of(second)
    assert first.status.status_code is StatusCode.ERROR
    assert attributes(first)["error.type"] == "ValueError"
    assert [event.name for event in first.events] == ["exception"]


def test_a_retry_that_the_task_asks_for_is_no_error(spans: Spans) -> None:
    twice("retries")
    assert [span.status.status_code for span in spans()] == [StatusCode.UNSET] * 3


def test_a_call_within_a_job_belongs_to_the_attempt(spans: Spans) -> None:
    one("calls")
    _, inner_sent, outer, inner = spans()
    assert inner_sent.parent is not None
    assert inner_sent.parent.span_id == id_of(outer)
    assert links(inner) == [id_of(inner_sent)]


def test_a_job_of_a_thread_is_linked_as_well(spans: Spans) -> None:
    assert threaded().wait(40)
    # The job may be over before its call is.
    sent, processed = sorted(spans(), key=lambda span: span.kind is SpanKind.CONSUMER)
    assert (processed.parent, links(processed)) == (None, [id_of(sent)])


def test_a_refused_call_is_an_error(spans: Spans) -> None:
    with pytest.raises(TypeError):
        one(object())  # type: ignore[arg-type]
    (sent,) = spans()
    assert sent.status.status_code is StatusCode.ERROR


def test_jobs_of_a_map_share_one_span_and_those_of_a_batch_hang_on_its_maker(spans: Spans) -> None:
    one.map([("a",), ("b",)])
    sent, *processed = spans()
    assert attributes(sent)["messaging.batch.message_count"] == 2
    assert [links(span) for span in processed] == [[id_of(sent)]] * 2
    exporter.clear()
    with provider.get_tracer("site").start_as_current_span("request") as request, Batch("one") as batch:
        batch.add(one)
    _, member = spans()
    assert links(member) == [request.get_span_context().span_id]


def test_headers_that_leave_no_room_cost_the_link_and_not_the_job(spans: Spans) -> None:
    one.using(headers={"large": "x" * 8170})()
    _, processed = spans()
    assert links(processed) == []


def test_a_broken_header_costs_the_link_and_not_the_job(spans: Spans) -> None:
    callbacks.this_process.has_any = False  # the call has no hooks
    one.using(headers={"traceparent": "nonsense"})()
    callbacks.this_process.has_any = True
    (processed,) = spans()
    assert (links(processed), processed.status.status_code) == ([], StatusCode.UNSET)
