"""Background tasks for Flask on the uWSGI server that already runs the site."""

from spoolkit.attempt.current_job import current_job
from spoolkit.decorators import periodic, spool, thread
from spoolkit.encoding.codec import register
from spoolkit.encoding.uwsgi_args import restore_spooler_args
from spoolkit.errors import (
    Abort,
    AmbiguousJobError,
    ArgumentError,
    ArgumentTypeError,
    ConfigurationError,
    DecodeError,
    DuplicateJobError,
    DuplicateTaskError,
    JobCancelled,
    JobCrashedError,
    JobError,
    JobFailedError,
    JobLostError,
    JobStateError,
    JobTimeout,
    NewerJobError,
    NewerStoreError,
    NoCurrentJobError,
    QueueFull,
    QueueOptionError,
    ReservedNameError,
    ResultUnavailableError,
    Retry,
    ScheduleError,
    SignatureError,
    SpoolkitError,
    SpoolUnavailableError,
    StoreUnavailableError,
    TaskFunctionError,
    TooLargeError,
    UnknownJobError,
    UnknownScheduleError,
    UnknownTaskError,
)
from spoolkit.extension import SpoolKit
from spoolkit.handle import Job
from spoolkit.job import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, State
from spoolkit.spooling.uwsgi_arguments import prepare_spooler_args
from spoolkit.system.log import JobLogFilter
from spoolkit.threads.background import BackgroundThread, QueueThread
from spoolkit.times import seconds_from_text

__version__ = "0.1.0"

__all__ = [
    "SPOOL_IGNORE",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "Abort",
    "AmbiguousJobError",
    "ArgumentError",
    "ArgumentTypeError",
    "BackgroundThread",
    "ConfigurationError",
    "DecodeError",
    "DuplicateJobError",
    "DuplicateTaskError",
    "Job",
    "JobCancelled",
    "JobCrashedError",
    "JobError",
    "JobFailedError",
    "JobLogFilter",
    "JobLostError",
    "JobStateError",
    "JobTimeout",
    "NewerJobError",
    "NewerStoreError",
    "NoCurrentJobError",
    "QueueFull",
    "QueueOptionError",
    "QueueThread",
    "ReservedNameError",
    "ResultUnavailableError",
    "Retry",
    "ScheduleError",
    "SignatureError",
    "SpoolKit",
    "SpoolUnavailableError",
    "SpoolkitError",
    "State",
    "StoreUnavailableError",
    "TaskFunctionError",
    "TooLargeError",
    "UnknownJobError",
    "UnknownScheduleError",
    "UnknownTaskError",
    "current_job",
    "periodic",
    "prepare_spooler_args",
    "register",
    "restore_spooler_args",
    "seconds_from_text",
    "spool",
    "thread",
]
