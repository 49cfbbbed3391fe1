"""The tasks that run by themselves: when they are due, how their last runs ended; run one now, pause it, resume it."""

from __future__ import annotations

from flask import request
from flask.typing import ResponseReturnValue

from spoolkit.admin import filters, redaction
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, back_to, record, render
from spoolkit.encoding import codec
from spoolkit.errors import DecodeError
from spoolkit.schedules import control
from spoolkit.schedules.schedule import Schedule
from spoolkit.spooling import scheduled

routes = Routes()


@routes.page("/periodic")
def periodic(access: Access) -> ResponseReturnValue:
    """All schedules, with their last and next runs."""
    found = control.known()
    calls = (
        {one.name: _call(one.schedule) for one in found if one.schedule is not None} if access.may("arguments") else {}
    )
    queries = {one.name: str(filters.JobFilter(task=one.schedule.task)) for one in found if one.schedule is not None}
    return render("periodic.html", schedules=found, calls=calls, queries=queries)


def _call(schedule: Schedule) -> str:
    try:
        args, kwargs = codec.decode_call(schedule.call.encode())
    except DecodeError:
        return "(…)"  # of a type that this process does not know
    return redaction.call_as_code(schedule.task, tuple(args), kwargs)


@routes.action("/periodic/run", right="run")
def run_schedule(access: Access) -> ResponseReturnValue:
    """Enqueue a job of a schedule now, besides its due times."""
    name = request.values.get("name", "")
    job = scheduled.run_now(name, by=access.user)
    record(access, f"ran the schedule {name} now, as job {job.id}")
    return back_to("job", id=job.id)


@routes.action("/periodic/pause", right="pause")
def pause_schedule(access: Access) -> ResponseReturnValue:
    """Let no job of a schedule start until it is resumed."""
    name = request.values.get("name", "")
    control.pause(name)
    record(access, f"paused the schedule {name}")
    return back_to("periodic")


@routes.action("/periodic/resume", right="pause")
def resume_schedule(access: Access) -> ResponseReturnValue:
    """Let a schedule run again, from its next due time on."""
    name = request.values.get("name", "")
    control.resume(name)
    record(access, f"resumed the schedule {name}")
    return back_to("periodic")
