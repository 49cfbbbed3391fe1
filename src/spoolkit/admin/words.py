"""How are states, times and errors of jobs told to people, in a terminal and on a page?"""

from __future__ import annotations

import re
from datetime import datetime

from spoolkit.admin import redaction
from spoolkit.job import Event, Progress, State, Status
from spoolkit.system import clock, log

BAR_WIDTH = 20
"""Characters of a progress bar."""

# Of ECMA-48: control sequences, commands with a text up to its terminator, and escapes of two characters.
_ESCAPES = re.compile(
    "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)?"
    "|\x1b[ -/]*[0-~]"
)


def when(status: Status) -> str:
    """Since when the job has been in its state, or when it is due."""
    time = time_of(status)
    if status.state is State.RUNNING:
        return f"for {span(time)}"
    if status.finished_at is not None:
        return f"{span(time)} ago"
    if time is not None and time > clock.now():
        return f"in {span(time)}"
    return f"due {span(time)} ago" if time is not None else ""


def time_of(status: Status) -> float | None:
    """The time that :func:`when` is about, in unix seconds (UTC)."""
    if status.state is State.RUNNING:
        return status.started_at
    if status.finished_at is not None:
        return status.finished_at
    return status.run_at if status.run_at is not None else status.enqueued_at


def note(status: Status, *, with_keys: bool = True) -> str:
    """The progress of a running job, the error of a failed one, or what a waiting one waits for and when it expires.

    Args:
        status: The job.
        with_keys: Whether the key of its limit is told, which is made of arguments.
    """
    status = redaction.status(status)
    asked = "stop requested  " if status.cancel_asked and status.state is State.RUNNING else ""
    if status.state is State.RUNNING:
        return asked + ("" if status.progress is None else bar(status.progress))
    if status.result_error is not None:
        return status.result_error
    line = expiry = error = ""
    if status.parked_for is not None:
        line = f"waits for room under the limit of {status.parked_for if with_keys else 'its task'}"
    elif status.slot_at is not None and status.slot_at > clock.now():
        line = "waits for its slot under the rate of its task"
    if status.paused:
        line = "its task is paused"
    if status.expires_at is not None and status.state in (State.QUEUED, State.RETRYING):
        is_over = status.expires_at <= clock.now()
        expiry = f"expired {span(status.expires_at)} ago" if is_over else f"expires in {span(status.expires_at)}"
    if status.error_message is not None and status.state is not State.QUEUED:
        error = ": ".join(filter(None, (status.error_type, status.error_message)))
    return "  ".join(filter(None, (line, expiry, error)))


def event_text(event: Event) -> str:
    """What happened, who did it, and why, as far as it is known: ``cancelled by anna: cancelled before it ran``."""
    return f"{event.kind}{f' by {event.by}' if event.by else ''}{f': {event.message}' if event.message else ''}"


def bar(progress: Progress) -> str:
    """The progress as a bar; as a number where the total is unknown."""
    if not progress.total or progress.total <= 0:
        return f"{progress.done:g}  {progress.note}".rstrip()
    share = min(1.0, max(0.0, progress.done / progress.total))
    full = round(share * BAR_WIDTH)
    return f"[{'#' * full}{'.' * (BAR_WIDTH - full)}] {progress.done:g}/{progress.total:g}  {progress.note}".rstrip()


def span(time: float | None) -> str:
    """The time between ``time`` (unix time in seconds) and now, such as ``2.0 min``."""
    return "?" if time is None else duration(abs(clock.now() - time))


def ago(time: float | None) -> str:
    """When that was, or will be, seen from now: ``2.0 min ago``, ``in 5 s``; empty for ``None``."""
    if time is None:
        return ""
    return f"in {span(time)}" if time > clock.now() else f"{span(time)} ago"


def duration(seconds: float) -> str:
    """Seconds in a unit that people read easily, such as ``400 ms`` or ``2.0 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if seconds < 10 * unit else 0}f} {name}"
    return f"{seconds / 86400:.0f} d"


def size(count: int) -> str:
    """Bytes in a unit that people read easily, such as ``45 MiB``."""
    if count < 10 * 2**30:
        return f"{count / 2**20:.{1 if count < 10 * 2**20 else 0}f} MiB"
    return f"{count / 2**30:.0f} GiB"


def stamp(time: float | None) -> str:
    """Unix time in seconds as the local date and time, to the millisecond."""
    if time is None:
        return ""
    return datetime.fromtimestamp(time).astimezone().isoformat(" ", "milliseconds")


def moment(time: float | None) -> str:
    """Unix time in seconds as the local date and time with the name of the zone: ``2026-11-26 18:05:01.250 CET``."""
    if time is None:
        return ""
    local = datetime.fromtimestamp(time).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d} {local:%Z}"


def cut(value: object, limit: int = 80) -> str:
    """The value on one line of ``limit`` characters at most, without what controls a terminal."""
    # Before it is made plain: an id or a name may have megabytes.
    text = "" if value is None else str(value)
    plain = log.one_line(_ESCAPES.sub("", text[: 4 * limit]))
    return plain if len(plain) <= limit and len(text) <= 4 * limit else f"{plain[:limit]}…"


def is_text(value: str) -> bool:
    """Whether the value can be written as UTF-8: the name of a file, which may be the id of a dead job, may not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(text: str) -> str:
    """Several lines of text, such as a log, without control sequences; other control characters are escaped."""
    return log.block(_ESCAPES.sub("", text.replace("\r\n", "\n")))
