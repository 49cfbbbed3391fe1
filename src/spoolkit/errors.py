"""Which errors does spoolkit raise? One root, one class for each kind, the details as attributes."""

from __future__ import annotations

from datetime import timedelta


def shown(value: object, limit: int = 80) -> str:
    """The ``repr()`` of ``value``, cut at ``limit`` characters, for a message.

    It never raises. ``repr()`` itself may: for a number of more than 4,300 digits, also within a list, and for an
    object of the application with a faulty ``__repr__()``.
    """
    try:
        text = hex(value) if type(value) is int and value.bit_length() > 256 else repr(value)
    except Exception:
        text = f"<{type(value).__name__} that repr() cannot show>"
    return text if len(text) <= limit else f"{text[:limit]}…"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 job`` or ``2 jobs``: the number and its noun, perhaps with a verb.

    Args:
        number: The number.
        one: What follows a 1.
        many: What follows any other number; ``None``: ``one`` with an ``s``.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


class SpoolkitError(Exception):
    """The root of all errors of spoolkit."""

    #: The name of the argument at fault, if there is one.
    argument: str | None = None

    def __init__(self, message: str, *, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument

    def to_dict(self) -> dict[str, str | None]:
        """The error as a dict for JSON, with ``type``, ``message`` and ``argument``."""
        return {"type": type(self).__name__, "message": str(self), "argument": self.argument}


class ArgumentError(SpoolkitError, ValueError):
    """The call was refused, and nothing was written. Over HTTP a 400."""

    #: The index of the row at fault, from 0, in a call of ``map()``.
    row: int | None = None


def of_row(error: ArgumentError, row: int) -> ArgumentError:
    """Return ``error``, which now names the row with this index."""
    error.row = row
    error.args = (f"row {row}: {error}",)
    return error


class SignatureError(ArgumentError, TypeError):
    """The arguments do not fit the signature of the task's function."""


class ArgumentTypeError(ArgumentError, TypeError):
    """A value is of an unsupported type."""

    def __init__(self, message: str, *, argument: str | None = None, type_name: str | None = None) -> None:
        super().__init__(message, argument=argument)
        #: The name of the type.
        self.type_name = type_name


class ReservedNameError(ArgumentError):
    """An argument has a name that means something else to uWSGI or to its decorators."""


class TooLargeError(ArgumentError):
    """Something is larger than uWSGI or the configuration allows."""

    def __init__(self, message: str, *, size: int, limit: int, argument: str | None = None) -> None:
        super().__init__(message, argument=argument)
        #: The size in bytes.
        self.size = size
        #: The largest size allowed, in bytes.
        self.limit = limit


class ScheduleError(ArgumentError):
    """An ``at``, ``delay`` or ``expires`` is not a usable time: no time zone, negative, or many years ahead."""


class QueueOptionError(ArgumentError):
    """A ``priority``, a ``spooler`` (or ``queue``) or a ``body`` that uWSGI would misread, or never run."""


class SpoolUnavailableError(SpoolkitError):
    """The spool directory takes no job or cannot be read: it is full, read-only, missing, or another user's.

    Where it was raised by a call, the job was not accepted. Over HTTP a 503.
    """

    def __init__(self, message: str, *, directory: str | None = None, errno: int | None = None) -> None:
        super().__init__(message)
        #: The path of the spool directory.
        self.directory = directory
        #: The error number of the operating system, if it gave one.
        self.errno = errno


def unavailable(spool_dir: str, error: OSError) -> SpoolUnavailableError:
    """Return the error of a call whose file could not be written."""
    return SpoolUnavailableError(
        f"the spool directory {spool_dir} takes no job ({error.strerror or error}), nothing was accepted: "
        "make sure that it exists, is writable and not full",
        directory=spool_dir,
        errno=error.errno,
    )


class PartlyAcceptedError(SpoolUnavailableError):
    """A call of ``map()`` that replaces jobs stopped in the middle: the calls in :attr:`accepted` stand, no other does.

    Only with ``on_duplicate="replace"``; any other call of ``map()`` is accepted as a whole or not at all.
    """

    def __init__(
        self, message: str, *, accepted: tuple[int, ...], directory: str | None = None, errno: int | None = None
    ) -> None:
        super().__init__(message, directory=directory, errno=errno)
        #: The indexes of the rows that were accepted, from 0.
        self.accepted = accepted


class PartlyPausedError(SpoolUnavailableError):
    """A pause, a drain or a resume reached some spool directories and not others. To repeat it does no harm."""

    def __init__(
        self, message: str, *, changed: tuple[str, ...], failed: tuple[str, ...], errno: int | None = None
    ) -> None:
        super().__init__(message, directory=failed[0], errno=errno)
        #: The paths of the spool directories in which it took effect.
        self.changed = changed
        #: The paths of the others.
        self.failed = failed


class QueueFull(SpoolkitError):  # noqa: N818 - the field's own word
    """Too many jobs wait, or the process is exiting; the job was not accepted. Over HTTP a 503.

    The thread pool of this process is full, or a queue of spooled jobs (``SPOOLKIT_MAX_WAITING``).
    """

    #: Seconds after which a client may try again.
    RETRY_AFTER = 5

    def __init__(self, message: str, *, limit: int, waiting: int | None = None, queue: str | None = None) -> None:
        super().__init__(message)
        #: How many jobs may wait.
        self.limit = limit
        #: How many jobs waited when they were last counted, up to the limit. ``None``: not known.
        self.waiting = waiting
        #: The queue of spooled jobs: its name, or the path of its spool directory. ``None``: it is a thread pool.
        self.queue = queue


class ForbiddenError(SpoolkitError):
    """Somebody has no right to do this on the page, or their request was not sent by it. Over HTTP a 403."""

    def __init__(self, message: str, *, right: str | None = None) -> None:
        super().__init__(message)
        #: The right that is missing; ``None``: it is not for a right.
        self.right = right


class DecodeError(SpoolkitError, ValueError):
    """Bytes from the spool directory are not a job of spoolkit's."""


class NewerJobError(SpoolkitError):
    """The job has options that only a newer version of spoolkit knows, and without which it must not run.

    Its file is as it should be, and is left for that version.
    """

    def __init__(self, message: str, *, fields: tuple[str, ...]) -> None:
        super().__init__(message)
        #: The names of the fields of its packet that this version does not know.
        self.fields = fields


class UnknownTaskError(SpoolkitError, LookupError):
    """No task of this name is declared in this process."""

    def __init__(self, message: str, *, task: str) -> None:
        super().__init__(message)
        #: The name.
        self.task = task


class UnknownQueueError(SpoolkitError, LookupError):
    """The application has no queue of this name."""

    def __init__(self, message: str, *, queue: str) -> None:
        super().__init__(message)
        #: The name.
        self.queue = queue


class UnknownScheduleError(SpoolkitError, LookupError):
    """No periodic task has a schedule of this name."""

    def __init__(self, message: str, *, schedule: str) -> None:
        super().__init__(message)
        #: The name.
        self.schedule = schedule


class NewerScheduleError(SpoolkitError):
    """A newer version of spoolkit has declared the schedule, with options that this one does not know."""

    def __init__(self, message: str, *, schedule: str) -> None:
        super().__init__(message)
        #: The name of the schedule.
        self.schedule = schedule


class NoCurrentJobError(SpoolkitError, RuntimeError):
    """``current_job()`` was called outside a running job."""


class ConfigurationError(SpoolkitError, ValueError):
    """A setting, or an option of a declaration, has a value that cannot be used."""

    def __init__(self, message: str, *, setting: str | None = None) -> None:
        super().__init__(message)
        #: The name of the setting or option.
        self.setting = setting


class TaskFunctionError(ConfigurationError, TypeError):
    """What was declared as a task cannot be called by a job."""

    def __init__(self, message: str, *, function: str) -> None:
        super().__init__(message, setting="function")
        #: The name of the function, or the ``repr()`` of the object that was declared instead of one.
        self.function = function


class DuplicateTaskError(ConfigurationError):
    """Two functions are declared under the same task name."""

    def __init__(self, message: str, *, task: str, places: tuple[str, str]) -> None:
        super().__init__(message, setting="name")
        #: The name.
        self.task = task
        #: Where both functions are defined, each as ``file:line``.
        self.places = places


class StoreUnavailableError(SpoolkitError):
    """The store, which records what happens to jobs, cannot be read or written. Jobs are accepted and run anyway."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        #: The path of the store's file.
        self.path = path


class NewerStoreError(StoreUnavailableError):
    """A newer spoolkit has written the store: jobs are accepted, but no spooler of this version starts one."""


class BatchError(SpoolkitError):
    """The root of the errors about one batch."""

    def __init__(self, message: str, *, batch: str) -> None:
        super().__init__(message)
        #: The id of the batch.
        self.batch = batch


class UnknownBatchError(BatchError, LookupError):
    """There is no record of the batch: it was never accepted, or its record was deleted with those of its members."""


class BatchStateError(BatchError):
    """The batch takes no members: it was accepted already, or its ``with`` block was not entered. Or it waits for a
    commit, and there is nothing to ask of it before that.
    """


class JobError(SpoolkitError):
    """The root of the errors about one job."""

    def __init__(self, message: str, *, job: str) -> None:
        super().__init__(message)
        #: The id of the job.
        self.job = job


class UnknownJobError(JobError, LookupError):
    """The job has neither a file nor a record: it was never accepted, or its record was deleted. Over HTTP a 404."""


class AmbiguousJobError(UnknownJobError):
    """The ids of several jobs begin with the given text."""

    def __init__(self, message: str, *, job: str, candidates: tuple[str, ...]) -> None:
        super().__init__(message, job=job)
        #: Some of these ids, newest first.
        self.candidates = candidates


class JobStateError(JobError):
    """The state of the job does not allow the action."""

    def __init__(self, message: str, *, job: str, state: str) -> None:
        super().__init__(message, job=job)
        #: The state of the job.
        self.state = state


class DuplicateJobError(JobStateError):
    """Another job holds the key of a unique task's job, which therefore was not made, or not run again."""

    def __init__(self, message: str, *, job: str, state: str, holder: str) -> None:
        super().__init__(message, job=job, state=state)
        #: The id of the job that holds the key. For a call, :attr:`job` is the same.
        self.holder = holder


class KeyLockedError(SpoolkitError):
    """A call of a unique task was refused: another caller has locked its key for long. Over HTTP a 503.

    Raised at once where that caller is the same thread: its signal handler, or a finalizer, has called the task.
    """

    def __init__(self, message: str, *, key: str, pid: int | None) -> None:
        super().__init__(message)
        #: The name of the key's file in ``unique/``; empty: all keys.
        self.key = key
        #: The process of that caller, if it is known.
        self.pid = pid


class ResultUnavailableError(JobError):
    """The job is done, but its result could not be kept: it is too large, or of an unsupported type."""


class JobFailedError(JobError):
    """The job is dead. The notes of this error hold the traceback of the task."""

    def __init__(self, message: str, *, job: str = "", error_type: str | None = None) -> None:
        super().__init__(message, job=job)
        #: The name of the type of the exception that the task raised, if it raised one.
        self.error_type = error_type


class JobCrashedError(JobFailedError):
    """The job is dead: its process died during the last attempt."""


class JobTimeout(JobFailedError):  # noqa: N818 - the field's own word; a task catches it on purpose
    """Raised in a task that runs longer than its ``timeout``, and by ``job.result`` if that made the job dead."""

    def __init__(self, message: str = "", *, job: str = "", error_type: str | None = None) -> None:
        super().__init__(message, job=job, error_type=error_type)


class JobMemoryError(JobFailedError, MemoryError):
    """A task took more memory than its ``memory=`` allows: the record of the attempt names this type.

    In the task itself it is a ``MemoryError``, which it may catch.
    """

    def __init__(self, message: str = "", *, limit: int = 0) -> None:
        super().__init__(message)
        #: How many bytes the attempt could take.
        self.limit = limit


class JobCancelled(JobError):  # noqa: N818 - as above
    """Raised in a cancelled job by ``progress()``, and by ``job.result`` of a cancelled job."""

    def __init__(self, message: str = "", *, job: str = "") -> None:
        super().__init__(message or "the job was cancelled", job=job)


class JobLostError(JobError):
    """The process or the file of the job is gone, and nothing is left to run."""


class Retry(SpoolkitError):  # noqa: N818 - the field's own word; a task raises it on purpose
    """Raised by a task to run its job again, if attempts are left.

    Args:
        delay: Seconds or a timedelta until the next attempt. ``None``: the ``backoff`` of the task.
        reason: A text for the record of the job.

    Raises:
        ScheduleError: ``delay`` is not a time, or is negative.
    """

    def __init__(self, delay: float | timedelta | None = None, reason: str = "") -> None:
        super().__init__(reason or "the task asked to run again")
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if seconds is not None and not (is_number and 0 <= seconds < float("inf")):
            raise ScheduleError(
                f"delay of Retry is {shown(delay)}: give seconds or a timedelta, zero or more", argument="delay"
            )
        #: Seconds until the next attempt; ``None``: the ``backoff`` of the task.
        self.delay = seconds
        #: A text for the record of the job.
        self.reason = reason


class Abort(SpoolkitError):  # noqa: N818 - as above
    """Raised by a task whose job cannot succeed: no further attempt is made, and the job is dead.

    Args:
        reason: A text for the record of the job.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task gave up")
        #: A text for the record of the job.
        self.reason = reason
