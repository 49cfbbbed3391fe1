"""What passes between the machine that has accepted a job and the worker that runs it? Values, as JSON documents.

A :class:`Message` goes to the worker, and is one attempt of a job: whoever gets it a second time does not run it.
:class:`Report` objects come back. The transport that carries both is known by the name of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, cast

from spoolkit.attempt.runner import AttemptResult
from spoolkit.encoding import packet
from spoolkit.errors import DecodeError
from spoolkit.job import Bill, Cancelled, Dead, Done, Ending, Failure, JobSpec, Outcome, Progress, RetryAt, replaced
from spoolkit.store.transitions import Result
from spoolkit.system import clock

Document = dict[str, Any]
"""What JSON can hold."""

Kind = Literal["started", "running", "ended", "returned", "unusable", "echo"]
"""What a report says of an attempt. ``started``: it starts now. ``running``: it is alive. ``ended``: it has a result.
``returned``: the broker has delivered its message once more, and it was not run. ``unusable``: this version of the
worker's code cannot run it. ``echo``: it is no worker's, but shows that reports arrive."""


class Message(NamedTuple):
    """One attempt of a job, on its way to a worker."""

    #: The job, with its arguments.
    job: JobSpec
    #: The arguments in the codec's bytes.
    arguments: bytes
    #: The number of the attempt, from 1.
    attempt: int
    #: The same since the count was last reset.
    attempt_since_reset: int
    #: Where reports go to: the name of the machine's spool directory.
    origin: str
    #: Seconds after which the process that runs it is killed. ``None``: never.
    hard_limit: float | None = None
    #: The job's checkpoint, as its file has it. ``None``: it has none.
    checkpoint: bytes | None = None


class Report(NamedTuple):
    """What a worker says of an attempt."""

    kind: Kind
    #: The id of the job.
    id: str
    #: The number of the attempt.
    attempt: int
    #: The same since the count was last reset.
    attempt_since_reset: int
    #: The worker, for people: its machine and its process.
    worker: str = ""
    #: How far the attempt is, while it runs.
    progress: Progress | None = None
    #: How it has ended.
    result: AttemptResult | None = None
    #: Why it cannot be run.
    problem: str = ""
    #: The new content of the job's checkpoint, while it runs. ``None``: it has not changed.
    checkpoint: bytes | None = None


class Mark(NamedTuple):
    """A message that stays in the broker, and so tells how far its memory goes."""

    #: The number of the mark: a later one has a greater number.
    number: int
    #: All that was published before this time was published before the mark. Unix time in seconds (UTC).
    time: float


class PublishError(Exception):
    """The broker has not confirmed that it has a message; it may have it all the same."""


class Transport(Protocol):
    """Carries messages to workers, and their reports back."""

    def publish(self, message: Message) -> None:
        """Return once the broker has the message, for good as far as it can. Raises :class:`PublishError`."""
        ...

    def receive(self, origin: str, handle: Callable[[Report], bool], seconds: float) -> bool:
        """Wait for reports, and hand over each one that comes.

        Args:
            origin: For whom the reports are.
            handle: Returns whether the report is dealt with; otherwise it comes again.
            seconds: How long to wait for the first one.

        Returns:
            Whether there was a connection all the time. If not, silence means nothing.
        """
        ...

    def echo(self, origin: str, number: int) -> None:
        """Send a report to ``origin`` itself, of the kind ``echo``, with ``number`` as its attempt.

        Raises:
            PublishError: The broker has not confirmed that it has the report.
        """
        ...

    def leave_mark(self, origin: str, mark: Mark) -> None:
        """Leave a mark of ``origin`` in the broker, in place of its earlier one. Raises :class:`PublishError`."""
        ...

    def latest_mark(self, origin: str) -> Mark | None:
        """Return the mark of ``origin`` that the broker has; ``None``: none. Raises :class:`PublishError`."""
        ...

    def close(self) -> None:
        """Close the connection that :meth:`receive` has."""
        ...


transports: dict[str, Callable[[], Transport]] = {}
"""What makes the transport of an engine, by the name of the engine."""


# As documents

_OF_ORIGIN = {"queue": None, "priority": None, "chain": None, "limit_key": None, "rate_key": None}
"""Fields that matter only where the job was accepted: the worker's machine has other directories and another store."""


def dump_message(message: Message) -> Document:
    """Return a message as a document. Raises :class:`TooLargeError` if the job does not fit into a packet."""
    data = packet.load(packet.dump_job(replaced(message.job, **_OF_ORIGIN), b""))
    fields = {key.decode(): value.decode() for key, value in data.fields.items() if key != packet.CALL}
    return {
        "job": fields,
        "call": message.arguments.decode(),
        "attempt": message.attempt,
        "attempt_since_reset": message.attempt_since_reset,
        "origin": message.origin,
        "is_late": message.job.is_late,
        "checkpoint": _text(message.checkpoint),
    }


def load_message(document: object) -> Message:
    """Read what :func:`dump_message` returned.

    Raises:
        NewerJobError: Another version has written it, and this one must not run the job.
        DecodeError: It is no message.
    """
    try:
        found = cast(Document, document)
        call = found["call"].encode()
        fields = {key.encode(): value.encode() for key, value in found["job"].items()}
        attempt, since_reset, origin = int(found["attempt"]), int(found["attempt_since_reset"]), str(found["origin"])
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DecodeError(f"this is no message of a job: {type(error).__name__}: {error}") from error
    job = packet.unpack(packet.Packet(fields, call))
    if found.get("is_late"):  # no file says so: it is decided for each attempt
        job = replaced(job, is_late=True)
    return Message(job, call, attempt, since_reset, origin, checkpoint=_data(found.get("checkpoint")))


def dump_report(report: Report) -> Document:
    """Return a report as a document."""
    document = {**report._asdict(), "progress": report.progress and _dump_progress(report.progress)}
    result = report.result and _dump_result(report.result)
    return {**document, "result": result, "checkpoint": _text(report.checkpoint)}


def load_report(document: object) -> Report:
    """Read what :func:`dump_report` returned. Raises :class:`DecodeError`."""
    try:
        found = cast(Document, document)
        return Report(
            kind=found["kind"],
            id=str(found["id"]),
            attempt=int(found["attempt"]),
            attempt_since_reset=int(found["attempt_since_reset"]),
            worker=str(found["worker"]),
            progress=found["progress"] and Progress(*found["progress"]),
            result=found["result"] and _load_result(int(found["attempt"]), found["result"]),
            problem=str(found["problem"]),
            checkpoint=_data(found.get("checkpoint")),
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DecodeError(f"this is no report of an attempt: {type(error).__name__}: {error}") from error


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def _data(text: object) -> bytes | None:
    return None if text is None else str(text).encode()


def _dump_progress(progress: Progress) -> list[Any]:
    return [progress.done, progress.total, progress.note]


_OUTCOMES: Mapping[type[Outcome], str] = {Done: "done", RetryAt: "retry", Dead: "dead", Cancelled: "cancelled"}


def _dump_result(result: AttemptResult) -> Document:
    outcome = result.outcome
    document: Document = {"outcome": _OUTCOMES[type(outcome)], "log": result.log, "bill": list(result.bill)}
    if not isinstance(outcome, Done):
        failure = outcome.failure
        document["failure"] = [failure.message, failure.type, failure.traceback, failure.ending]
    if isinstance(outcome, RetryAt):
        # Not the time: the clock of this machine may be another one.
        document["delay"] = max(0.0, outcome.time - clock.now())
    if result.result is not None:
        value = result.result
        document["value"] = [None if value.data is None else value.data.decode(), value.error]
    document["progress"] = result.progress and _dump_progress(result.progress)
    return document


def _load_result(attempt: int, document: Mapping[str, Any]) -> AttemptResult:
    outcome, value = _load_outcome(document), None
    if found := document.get("value"):
        value = Result(None if found[0] is None else found[0].encode(), found[1])
    progress = document["progress"] and Progress(*document["progress"])
    return AttemptResult(
        outcome, attempt, result=value, progress=progress, log=str(document["log"]), bill=Bill(*document["bill"])
    )


def _load_outcome(document: Mapping[str, Any]) -> Outcome:
    kind = document["outcome"]
    if kind == "done":
        return Done()
    message, type_name, traceback, ending = document["failure"]
    failure = Failure(str(message), type_name, traceback, cast(Ending, ending))
    match kind:
        case "retry":
            return RetryAt(clock.now() + float(document["delay"]), failure)
        case "dead":
            return Dead(failure)
        case "cancelled":
            return Cancelled(failure)
    raise DecodeError(f"an attempt cannot end as {kind!r}")
