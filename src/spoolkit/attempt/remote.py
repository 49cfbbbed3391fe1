"""What passes between the machine that has accepted a job and the worker that runs it? Values, as JSON documents.

A :class:`Message` goes to the worker, and stands for one attempt of a job; there may be any number of copies of it.
:class:`Report` objects come back. The first of them asks whether the attempt may start, and the origin allows each
attempt once: an :class:`Answer` says so. The transport that carries all three is known by the name of the engine.
"""

from __future__ import annotations

import hashlib
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

Kind = Literal["asks", "running", "ended", "returned", "unusable", "echo"]
"""What a report says of an attempt. ``asks``: may it start? ``running``: it is alive. ``ended``: it has a result.
``returned``: its worker has had no answer, and will not start it. ``unusable``: this version of the worker's code
cannot run it. ``echo``: it is no worker's, but shows that reports arrive."""

Says = Literal["start", "no", "stop"]
"""An answer to a worker. ``start``: the attempt is its own now. ``no``: it must not start, and nothing is left to do.
``stop``: the attempt that runs was asked to stop, or counts as lost."""


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
    #: Which of all that have asked for this attempt reports: see :func:`reply_name`.
    run: str = ""
    #: The worker, for people: its machine and its process.
    worker: str = ""
    #: How far the attempt is, while it runs.
    progress: Progress | None = None
    #: How it has ended.
    result: AttemptResult | None = None
    #: Whether its worker has Celery deliver the next attempt, which is due soon.
    goes_on: bool = False
    #: Why it cannot be run.
    problem: str = ""
    #: Which arguments its message has: see :func:`digest`. Only of one that asks.
    arguments: str = ""
    #: The new content of the job's checkpoint, while it runs. ``None``: it has not changed.
    checkpoint: bytes | None = None


class Answer(NamedTuple):
    """What the origin says to a worker."""

    #: To which run: see :attr:`Report.run`.
    run: str
    #: What.
    says: Says


def reply_name(run: str) -> str:
    """Return for whom the answer to a run is: the name of its worker process, with which the name of the run begins."""
    return run.partition(".")[0]


def digest(arguments: bytes) -> str:
    """Return a short text that tells the arguments of a job from others.

    A unique job may be replaced, with other arguments, while a message with the old ones is on its way.
    """
    return hashlib.blake2b(arguments, digest_size=16).hexdigest()


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

    def answer(self, answer: Answer) -> None:
        """Send an answer to the worker that has asked; it may be gone. Raises :class:`PublishError`."""
        ...

    def leave_mark(self, origin: str, time: float) -> None:
        """Leave a message in the broker, in place of the earlier one, that tells how far its memory goes.

        Args:
            origin: Whose messages it is about.
            time: All that ``origin`` published before this time is in the broker. Unix time in seconds (UTC).

        Raises:
            PublishError: The broker has not confirmed that it has the mark.
        """
        ...

    def latest_mark(self, origin: str) -> float | None:
        """Return the time of the mark that the broker has; ``None``: it has none. Raises :class:`PublishError`."""
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
            run=str(found["run"]),
            worker=str(found["worker"]),
            progress=found["progress"] and Progress(*found["progress"]),
            result=found["result"] and _load_result(int(found["attempt"]), found["result"]),
            goes_on=bool(found["goes_on"]),
            problem=str(found["problem"]),
            arguments=str(found["arguments"]),
            checkpoint=_data(found.get("checkpoint")),
        )
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise DecodeError(f"this is no report of an attempt: {type(error).__name__}: {error}") from error


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode()


def _data(text: object) -> bytes | None:
    return None if text is None else str(text).encode()


def load_answer(document: object) -> Answer:
    """Read an answer, which travels as an object with its fields. Raises :class:`DecodeError`."""
    try:
        found = cast(Document, document)
        return Answer(str(found["run"]), found["says"])
    except (TypeError, KeyError) as error:
        raise DecodeError(f"this is no answer to a worker: {type(error).__name__}: {error}") from error


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
