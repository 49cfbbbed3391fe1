"""How do jobs become spans of OpenTelemetry? By hooks and headers alone. Needs the extra ``spoolkit[otel]``.

The names are those of the semantic conventions for messaging. Only the API is used: without an SDK, which the
application sets up, all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from spoolkit.attempt.current_job import CurrentJob
from spoolkit.encoding import headers
from spoolkit.errors import JobCancelled, Retry
from spoolkit.job import JobSpec

_propagator = TraceContextTextMapPropagator()


class Hooks(Protocol):
    """What is needed of a :class:`~spoolkit.extension.SpoolKit`."""

    def headers(self, function: Callable[[], Mapping[str, str] | None], /) -> object:
        """Provide headers."""

    def around_enqueue(self, function: Callable[[Any], Generator[None, Any, None]], /) -> object:
        """Run around each call."""

    def around_attempt(self, function: Callable[[Any], Generator[None, Any, None]], /) -> object:
        """Run around each attempt."""


def instrument(kit: Hooks, tracer_provider: TracerProvider | None = None) -> None:
    """Make a span of each call of a task, and one of each attempt of a job, which is linked to that of its call.

    Each attempt is a trace of its own: it may come days after its call, and there may be many.

    Args:
        kit: The ``SpoolKit`` of the application.
        tracer_provider: Where the spans go; ``None``: the global one, also where it is set later.
    """
    tracer = trace.get_tracer("spoolkit", tracer_provider=tracer_provider)

    def current() -> dict[str, str]:
        # For jobs that are made without a call of their own, as those of a batch.
        found: dict[str, str] = {}
        _propagator.inject(found)
        return found

    def send(job: JobSpec) -> Generator[None, Any, None]:
        attributes = _attributes(job, "send")
        with tracer.start_as_current_span(f"send {job.task}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
            assert isinstance(job.headers, dict)
            both = headers.joined(job.headers, current())
            job.headers.update(both or {})  # with headers that leave no room, there is no link
            accepted = yield
            if isinstance(accepted, list):
                span.set_attribute("messaging.batch.message_count", len(accepted))
            else:
                span.set_attribute("messaging.message.id", accepted.id)

    def process(job: CurrentJob) -> Generator[None, Any, None]:
        sent = trace.get_current_span(_propagator.extract(job.headers, Context())).get_span_context()
        with tracer.start_as_current_span(
            f"process {job.task}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=[Link(sent)] if sent.is_valid else [],
            attributes={
                **_attributes(job, "process"),
                "messaging.message.id": job.id,
                "spoolkit.job.attempt": job.attempt,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except (Retry, JobCancelled):
                raise  # what the task, or a person, wants is no error
            except BaseException as error:
                span.record_exception(error)
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(Status(StatusCode.ERROR, type(error).__qualname__))
                raise

    kit.headers(current)
    kit.around_enqueue(send)
    kit.around_attempt(process)


def _attributes(job: JobSpec, operation: str) -> dict[str, str]:
    return {
        "messaging.system": "spoolkit",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": job.task,
    }
