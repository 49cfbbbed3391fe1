"""Where is a running job now? Its process is asked for its stack: files, lines and functions, and no values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spoolkit.admin import lookup, tracebacks
from spoolkit.errors import JobStateError
from spoolkit.job import State, Status
from spoolkit.spooldir import running, stacks
from spoolkit.store import locations
from spoolkit.system import clock


@dataclass(frozen=True)
class Frame:
    """A call that has not returned."""

    #: The path of the file.
    file: str
    #: The line in it.
    line: int
    #: The name of the function.
    function: str
    #: Whether it is the application's: neither Python's, nor a library's, nor ours.
    own: bool


@dataclass(frozen=True)
class Stack:
    """Where a job was at one moment."""

    #: The id of the job.
    job: str
    #: Which attempt of it runs, from 1.
    attempt: int
    #: The process that runs it.
    pid: int
    #: When the process answered, in unix seconds (UTC).
    time: float
    #: The calls of the task, the last one is where it is.
    frames: list[Frame]
    #: The same for other threads of a spooler in which code of the application runs.
    others: list[list[Frame]]

    def to_dict(self) -> dict[str, Any]:
        """The stack as a dictionary for ``json.dumps()``."""
        return {
            **vars(self),
            "frames": [vars(frame) for frame in self.frames],
            "others": [[vars(frame) for frame in frames] for frames in self.others],
        }


def stack(id: str) -> Stack:
    """Ask the process that runs a job where it is. It goes on meanwhile.

    Args:
        id: The full id of the job.

    Returns:
        The answer, after two seconds at most.

    Raises:
        UnknownJobError: There is neither a file nor a record of the job.
        JobStateError: The job does not run, or its process does not answer, or this user may not ask it.
        SpoolUnavailableError: This process cannot read a spool directory.
        StoreUnavailableError: This process may not read the store.
    """
    status = lookup.find(id)
    runner = _runner(status)
    if runner is None:
        raise _not_running(lookup.find(id))
    if runner.stack is None or not runner.thread:
        raise _silent(status, "its process cannot answer: it could make no file, or the application has the signal")
    try:
        found = stacks.ask(runner.pid, runner.identity, runner.thread, runner.stack)
    except PermissionError as error:
        raise _silent(status, f"this user may not ask process {runner.pid}") from error
    except (stacks.NoAnswerError, OSError) as error:
        if (after := lookup.find(id)).state is not State.RUNNING:
            raise _not_running(after) from None
        raise _silent(status, str(error)) from error
    # Meanwhile it may have gone on to another job.
    after = lookup.find(id)
    if _runner(after) != runner or after.attempt != status.attempt:
        raise _not_running(after)
    first, *others = ([_frame(*frame) for frame in reversed(frames)] for frames in found)
    own = [frames for frames in others if any(frame.own for frame in frames)]
    return Stack(id, status.attempt, runner.pid, clock.now(), _of_task(first), own if status.has_file else [])


def _runner(status: Status) -> running.Runner | None:
    if status.state is not State.RUNNING or status.pid is None:
        return None
    return running.runner(locations.spool_dir_of(status.queue), status.id, status.pid)


def _not_running(status: Status) -> JobStateError:
    if status.state is State.RUNNING:
        message = f"an attempt of job {status.id} begins or ends at this moment: ask again"
    else:
        message = f"job {status.id} does not run: it is {status.state}"
    return JobStateError(message, job=status.id, state=str(status.state))


def _silent(status: Status, reason: str) -> JobStateError:
    return JobStateError(f"job {status.id} runs, but {reason}", job=status.id, state="running")


def _of_task(frames: list[Frame]) -> list[Frame]:
    """The frames from the task on, without those of spoolkit and of the server above it."""
    for at, frame in enumerate(frames):
        if frame.file.endswith(_CALLER) and frame.function == "call":
            return frames[at + 1 :]
    return frames


def _frame(file: str, line: int, function: str) -> Frame:
    return Frame(file, line, function, tracebacks.is_own(file))


_CALLER = "/spoolkit/attempt/calling.py"
"""The module that calls the function of a task, in ``call()``."""
