"""The queues: how many jobs wait and for how long, who runs them; pause, drain and resume one."""

from __future__ import annotations

from flask import request, url_for
from flask.typing import ResponseReturnValue

from spoolkit.admin import activity, lookup, pages, pausing, stats
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, back_to, confirm, record, render
from spoolkit.job import State

routes = Routes()


@routes.page("/queues")
def queues(access: Access) -> ResponseReturnValue:
    """All queues, each with its figures and its spoolers."""
    files = lookup.list_files()
    figures = stats.gather(files=files, max_examined=pages.MAX_EXAMINED, run_times=False)
    running = lookup.jobs(states=(State.RUNNING,), files=files)
    return render("queues.html", figures=figures, spoolers=activity.list_spoolers(running))


@routes.action("/queues/pause", right="pause")
def pause_queue(access: Access) -> ResponseReturnValue:
    """Start no job of a queue until it is resumed."""
    queue, spool_dir = _queue()
    pausing.pause_queues([spool_dir])
    record(access, f"paused the queue {queue}")
    return back_to("queues")


@routes.action("/queues/drain", right="pause")
def drain_queue(access: Access) -> ResponseReturnValue:
    """Start no job of a queue until the site starts again."""
    queue, spool_dir = _queue()
    question = f"Drain the queue {queue}?"
    text = "Running jobs finish, and no other job starts until the site starts again, or somebody resumes the queue."
    if (page := confirm(question, "Drain it", back=url_for(".queues"), details=[text], queue=queue)) is not None:
        return page
    pausing.drain_queues([spool_dir])
    record(access, f"drained the queue {queue}")
    return back_to("queues")


@routes.action("/queues/resume", right="pause")
def resume_queue(access: Access) -> ResponseReturnValue:
    """Start jobs of a queue again."""
    queue, spool_dir = _queue()
    pausing.resume_queues([spool_dir])
    record(access, f"resumed the queue {queue}")
    return back_to("queues")


def _queue() -> tuple[str, str]:
    """The queue that a form names, and its spool directory."""
    queue = request.values.get("queue", "")
    return queue, pausing.directory_of(queue)
