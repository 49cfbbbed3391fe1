"""The tasks: how often each runs, how long it takes, how often it fails; pause one, resume it."""

from __future__ import annotations

from flask import request
from flask.typing import ResponseReturnValue

from spoolkit.admin import filters, pages, pausing, stats, task_figures
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, back_to, record, render

routes = Routes()


@routes.page("/tasks")
def tasks(access: Access) -> ResponseReturnValue:
    """All tasks, each with the figures of the last hour."""
    figures = stats.gather(max_examined=pages.MAX_EXAMINED, run_times=False)
    found = task_figures.of_tasks(figures)
    return render(
        "tasks.html",
        tasks=found,
        queries={one.task: str(filters.JobFilter(task=one.task)) for one in found},
        shares=stats.PERCENTILES,
        complete=figures.complete,
    )


@routes.action("/tasks/pause", right="pause")
def pause_task(access: Access) -> ResponseReturnValue:
    """Start no job of a task until it is resumed."""
    name = pausing.pause(request.values.get("task", ""))
    record(access, f"paused the task {name}")
    return back_to("tasks")


@routes.action("/tasks/resume", right="pause")
def resume_task(access: Access) -> ResponseReturnValue:
    """Start jobs of a task again."""
    name = pausing.resume(request.values.get("task", ""))
    record(access, f"resumed the task {name}")
    return back_to("tasks")
