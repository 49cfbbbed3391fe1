"""Background tasks for Flask on the uWSGI server that already runs the site."""

from spoolkit.codec import register
from spoolkit.errors import (
    ArgumentError,
    ArgumentTypeError,
    ConfigurationError,
    DecodeError,
    NoCurrentJobError,
    QueueOptionError,
    ReservedNameError,
    Retry,
    ScheduleError,
    SignatureError,
    SpoolkitError,
    SpoolUnavailableError,
    TooLargeError,
    UnknownTaskError,
)
from spoolkit.extension import SpoolKit
from spoolkit.job import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, Job
from spoolkit.plain import prepare_spooler_args, restore_spooler_args
from spoolkit.runner import current_job
from spoolkit.task import spool, thread

__version__ = "0.1.0"

__all__ = [
    "SPOOL_IGNORE",
    "SPOOL_OK",
    "SPOOL_RETRY",
    "ArgumentError",
    "ArgumentTypeError",
    "ConfigurationError",
    "DecodeError",
    "Job",
    "NoCurrentJobError",
    "QueueOptionError",
    "ReservedNameError",
    "Retry",
    "ScheduleError",
    "SignatureError",
    "SpoolKit",
    "SpoolUnavailableError",
    "SpoolkitError",
    "TooLargeError",
    "UnknownTaskError",
    "current_job",
    "prepare_spooler_args",
    "register",
    "restore_spooler_args",
    "spool",
    "thread",
]
