"""The first page: is the site doing well, what runs, and who runs it?"""

from __future__ import annotations

from flask.typing import ResponseReturnValue

from spoolkit.admin import lookup, stats
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, render
from spoolkit.job import State

routes = Routes()

MAX_RUNNING = 50
"""Running jobs that are shown."""


@routes.page("/")
def overview(access: Access) -> ResponseReturnValue:
    """What is due, what runs, and the figures of the queues."""
    files = lookup.list_files()
    figures = stats.gather(files=files)
    running = lookup.jobs(states=(State.RUNNING,), limit=MAX_RUNNING, files=files)
    return render("overview.html", figures=figures, running=running)
