"""How do jobs look in a terminal? Tables, times and progress bars.

rich is imported inside the functions: a site that only serves requests does not need it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from spoolkit.admin import redaction
from spoolkit.job import Progress, State, Status
from spoolkit.system import clock

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 1000
"""Columns of output that goes to a file or a pipe: lines for scripts must not be cut."""

BAR_WIDTH = 20
"""Characters of a progress bar."""

GAP = 2
"""Spaces between two columns."""

TASK = "TASK"
"""The title of the column of tasks."""

MIN_WIDTH = 4
"""Characters that are left of a text that is cut."""

_STYLES = {"running": "cyan", "retrying": "yellow", "done": "green", "dead": "bold red", "lost": "red"}


def console() -> Console:
    """Return a console for standard output, as wide as the terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDE
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, wrap: bool = False) -> Table:
    """Make a table, with numbers aligned to the right.

    Args:
        headers: The titles of the columns.
        rows: The cells of each row.
        wrap: Whether a text of the last column that is too long continues in the next line. Otherwise a narrow
            terminal cuts the last column and the column of tasks, with an ellipsis. It cuts no other column: half an
            id or half a state would mislead.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, show_header=any(headers), header_style="bold", padding=(0, GAP, 0, 0))
    rows = [list(row) for row in rows]
    texts = [[Text(line(cell), style=_STYLES.get(str(cell), "")) for cell in row] for row in rows]
    widths = [
        max(cell_len(text) for text in (header, *(row[at].plain for row in texts))) for at, header in enumerate(headers)
    ]
    # The columns that a narrow terminal cuts.
    flexible = [at for at, header in enumerate(headers) if header == TASK or at == len(headers) - 1]
    room = console().width - sum(width + GAP for at, width in enumerate(widths) if at not in flexible)
    for at, header in enumerate(headers):
        numbers = bool(rows) and all(isinstance(row[at], (int, float)) for row in rows)
        max_width = None
        if at in flexible:
            after = sum(min(widths[later], MIN_WIDTH) + GAP for later in flexible if later > at and widths[later])
            max_width = max(MIN_WIDTH, min(widths[at], room - after))
            room -= max_width + GAP
        made.add_column(
            header,
            justify="right" if numbers else "left",
            no_wrap=not (wrap and at == len(headers) - 1),
            overflow="fold" if wrap else "ellipsis",
            min_width=widths[at] if max_width is None else None,
            max_width=max_width,
        )
    for row in texts:
        made.add_row(*row)
    return made


def print_lines(*things: object) -> None:
    """Print texts and tables, for people."""
    from rich.table import Table

    out = console()
    for thing in things:
        if isinstance(thing, Table) and not out.is_terminal:
            # Tables pad their last column with spaces.
            with out.capture() as captured:
                out.print(thing)
            for text in captured.get().splitlines():
                out.print(text.rstrip())
        else:
            out.print(thing)


def line(value: object) -> str:
    """The value on one line, without characters that control the terminal."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else " " for c in text)


def summary(status: Status) -> list[object]:
    """The job as a row of cells for :data:`HEADERS`."""
    attempt = str(status.attempt) if status.max_attempts is None else f"{status.attempt}/{status.max_attempts}"
    return [status.id, status.task or "?", status.state, attempt, when(status), note(status)]


HEADERS = ("ID", TASK, "STATE", "ATTEMPT", "WHEN", "")


def when(status: Status) -> str:
    """Since when the job has been in its state, or when it is due."""
    if status.state is State.RUNNING:
        return f"for {span(status.started_at)}"
    if status.finished_at is not None:
        return f"{span(status.finished_at)} ago"
    due = status.run_at if status.run_at is not None else status.enqueued_at
    if due is not None and due > clock.now():
        return f"in {span(due)}"
    return f"due {span(due)} ago" if due is not None else ""


def note(status: Status) -> str:
    """The progress of a running job, the error of a failed one, or what a waiting one waits for and when it expires."""
    status = redaction.status(status)
    asked = "stop requested  " if status.cancel_asked and status.state is State.RUNNING else ""
    if status.state is State.RUNNING:
        return asked + ("" if status.progress is None else bar(status.progress))
    if status.result_error is not None:
        return status.result_error
    line = expiry = error = ""
    if status.parked_for is not None:
        line = f"waits for room under the limit of {status.parked_for}"
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


def duration(seconds: float) -> str:
    """Seconds in a unit that people read easily, such as ``400 ms`` or ``2.0 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if seconds < 10 * unit else 0}f} {name}"
    return f"{seconds / 86400:.0f} d"


def stamp(time: float | None) -> str:
    """Unix time in seconds as the local date and time, to the millisecond."""
    if time is None:
        return ""
    return datetime.fromtimestamp(time).astimezone().isoformat(" ", "milliseconds")
