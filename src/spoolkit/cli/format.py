"""How do jobs look in a terminal? Tables, of the words of :mod:`spoolkit.admin.words`.

rich is imported inside the functions: a site that only serves requests does not need it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spoolkit.admin.words import note, when
from spoolkit.job import Status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE = 1000
"""Columns of output that goes to a file or a pipe: lines for scripts must not be cut."""

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
