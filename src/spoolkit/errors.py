"""Every error of spoolkit: one root, typed, with its evidence as attributes."""

from __future__ import annotations

from datetime import timedelta


def shown(value: object, limit: int = 80) -> str:
    """``value`` as a message shows it: its ``repr()``, at most ``limit`` characters of it.

    Never raises: ``repr()`` of a number of more than 4,300 digits does, also within a list, and so may the
    application's own.
    """
    try:
        text = hex(value) if type(value) is int and value.bit_length() > 256 else repr(value)
    except Exception:
        text = f"<{type(value).__name__} that repr() cannot show>"
    return text if len(text) <= limit else f"{text[:limit]}…"


class SpoolkitError(Exception):
    """The root of all errors of spoolkit.

    ``argument`` names the argument at fault, where there is one.
    """

    argument: str | None = None

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument

    def to_dict(self) -> dict[str, str | None]:
        """The error as JSON over HTTP tells it: ``type``, ``message`` and ``argument``."""
        return {"type": type(self).__name__, "message": str(self), "argument": self.argument}


class ArgumentError(SpoolkitError, ValueError):
    """The call was refused at the door: nothing was written. Over HTTP a 400."""


class SignatureError(ArgumentError, TypeError):
    """The arguments do not fit the task's own signature."""


class ArgumentTypeError(ArgumentError, TypeError):
    """A value of this type cannot cross to the spooler. ``type_name`` says which type it is."""

    def __init__(self, message: str, *, argument: str | None = None, type_name: str | None = None) -> None:
        super().__init__(message, argument=argument)
        self.type_name = type_name


class ReservedNameError(ArgumentError):
    """The argument's name means something else to uWSGI or to its decorators."""


class TooLargeError(ArgumentError):
    """Something is over a limit of uWSGI's or of the configuration: ``size`` of ``limit`` bytes."""

    def __init__(self, message: str, *, size: int, limit: int, argument: str | None = None) -> None:
        super().__init__(message, argument=argument)
        self.size = size
        self.limit = limit


class ScheduleError(ArgumentError):
    """An ``at`` or a ``delay`` in a form that cannot be meant."""


class QueueOptionError(ArgumentError):
    """A ``priority``, a ``spooler`` or a ``body`` that uWSGI would misread."""


class SpoolUnavailableError(SpoolkitError):
    """The spool directory takes no job, or cannot be read: full, read-only, gone, or another user's. Over HTTP a 503.

    Where a job was to be accepted, nothing was.

    ``directory`` is the spool directory, ``errno`` the operating system's reason, where it gave one.
    """

    def __init__(self, message: str, *, directory: str | None = None, errno: int | None = None) -> None:
        super().__init__(message)
        self.directory = directory
        self.errno = errno


class QueueFull(SpoolkitError):  # noqa: N818 - the field's own word
    """As much waits in this process as may. Nothing was accepted. Over HTTP a 503.

    ``limit`` is how many may wait.
    """

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class DecodeError(SpoolkitError, ValueError):
    """Bytes from the spool directory that are no job of spoolkit's."""


class UnknownTaskError(SpoolkitError, LookupError):
    """No task of this name is declared in this process. ``task`` is the name."""

    def __init__(self, message: str, *, task: str) -> None:
        super().__init__(message)
        self.task = task


class NoCurrentJobError(SpoolkitError, RuntimeError):
    """``current_job()`` was asked outside a running job."""


class ConfigurationError(SpoolkitError, ValueError):
    """A setting or a registration that cannot be used. ``setting`` is its name."""

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting


class TaskFunctionError(ConfigurationError, TypeError):
    """What was declared as a task is nothing that a job could call. ``function`` is its name."""

    def __init__(self, message: str, *, function: str) -> None:
        super().__init__(message, setting="function")
        self.function = function


class DuplicateTaskError(ConfigurationError):
    """Two functions have one task's name. ``task`` is the name, ``places`` are both functions, as ``file:line``."""

    def __init__(self, message: str, *, task: str, places: tuple[str, str]) -> None:
        super().__init__(message, setting="name")
        self.task = task
        self.places = places


class StoreUnavailableError(SpoolkitError):
    """The record of jobs cannot be read or written. Jobs are accepted and run all the same. ``path`` is its file."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class JobError(SpoolkitError):
    """Something about one job. ``job`` is its id."""

    def __init__(self, message: str, *, job: str) -> None:
        super().__init__(message)
        self.job = job


class UnknownJobError(JobError, LookupError):
    """There is neither a file nor a record of the job: never accepted, or pruned since. Over HTTP a 404."""


class AmbiguousJobError(UnknownJobError):
    """More than one job's id begins like this. ``candidates`` are some of them, newest first."""

    def __init__(self, message: str, *, job: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message, job=job)
        self.candidates = candidates


class JobStateError(JobError):
    """The job's state does not allow it. ``state`` is where it stands."""

    def __init__(self, message: str, *, job: str, state: str) -> None:
        super().__init__(message, job=job)
        self.state = state


class ResultUnavailableError(JobError):
    """The job is done, but its result could not be kept: too large, or of a type that cannot cross."""


class JobFailedError(JobError):
    """The job is dead. ``error_type`` names what the task raised; the traceback stands in the notes."""

    def __init__(self, message: str, *, job: str = "", error_type: str | None = None) -> None:
        super().__init__(message, job=job)
        self.error_type = error_type


class JobCrashedError(JobFailedError):
    """The job is dead: its process died in the last attempt."""


class JobTimeout(JobFailedError):  # noqa: N818 - the field's own word; a task catches it on purpose
    """Raised in a task that runs longer than its ``timeout``; asked for its result, a job that died of it raises it."""

    def __init__(self, message: str = "", *, job: str = "", error_type: str | None = None) -> None:
        super().__init__(message, job=job, error_type=error_type)


class JobCancelled(JobError):  # noqa: N818 - as above
    """Raised by ``progress()`` in a job that was cancelled; asked for its result, a cancelled job raises it."""

    def __init__(self, message: str = "", *, job: str = "") -> None:
        super().__init__(message or "the job was cancelled", job=job)


class JobLostError(JobError):
    """The job went away with its process or its file; nothing is left to run."""


class Retry(SpoolkitError):  # noqa: N818 - the field's own word; a task raises it on purpose
    """Raised by a task: run this job again, as long as attempts are left.

    Args:
        delay: Seconds or a timedelta until the next attempt; ``None``: the task's own ``backoff``.
        reason: What goes into the record.

    Raises:
        ScheduleError: ``delay`` is no time, or a negative one.
    """

    def __init__(self, delay: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason or "the task asked to run again")
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 <= seconds < float("inf")):
            raise ScheduleError(
                f"delay of Retry is {shown(delay)}: give seconds or a timedelta, zero or more", argument="delay"
            )
        #: Seconds, or ``None``.
        self.delay = seconds
        self.reason = reason


class Abort(SpoolkitError):  # noqa: N818 - as above
    """Raised by a task: this job cannot succeed, do not try again. It is kept as dead, with ``reason``."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task gave up")
        self.reason = reason
