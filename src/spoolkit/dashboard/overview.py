"""The first page: is the site doing well, what runs, and who runs it?"""

from __future__ import annotations

from flask.typing import ResponseReturnValue

from spoolkit.admin import activity, lookup, pages, redaction, stats
from spoolkit.dashboard import chart
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, render
from spoolkit.job import State

routes = Routes()

MAX_RUNNING = 100
"""Running jobs that are shown."""


@routes.page("/")
def overview(access: Access) -> ResponseReturnValue:
    """What is due, what runs, who runs it, and the last hour."""
    files = lookup.list_files()
    running = lookup.jobs(states=(State.RUNNING,), files=files)
    hour = activity.last_hour()
    return render(
        "overview.html",
        figures=stats.gather(files=files, max_examined=pages.MAX_EXAMINED),
        running=redaction.listed(running[:MAX_RUNNING]),
        more_running=max(0, len(running) - MAX_RUNNING),
        hour=hour,
        bars=chart.bars([(minute.done, minute.dead) for minute in hour]),
        chart=chart,
        spoolers=activity.list_spoolers(running),
        last_deploy=activity.last_deploy(),
    )
