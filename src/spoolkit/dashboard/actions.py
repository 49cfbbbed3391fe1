"""What is done to one job. Each action is a POST to a URL of its own; who did it becomes an event of the job."""

from __future__ import annotations

from flask import request, url_for
from flask.typing import ResponseReturnValue

from spoolkit.admin import actions, lookup, stack
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, back_to, confirm, record, render
from spoolkit.job import State

routes = Routes()


@routes.action("/jobs/<id>/retry", right="retry")
def retry_job(access: Access, id: str) -> ResponseReturnValue:
    """Requeue a dead job."""
    actions.retry(id, by=access.user)
    record(access, f"retried job {id}")
    return back_to_job(id)


@routes.action("/jobs/<id>/cancel", right="cancel")
def cancel_job(access: Access, id: str) -> ResponseReturnValue:
    """Cancel a job: one that runs is asked to stop; with the field ``force`` its process is killed."""
    force = request.form.get("force") == "yes"
    status = lookup.find(id)
    if force:
        question, button = f"Kill the process of job {status.id}?", "Kill it"
        details = ["The attempt ends at once, and the job is cancelled. It does not run again."]
    else:
        question, button = f"Cancel job {status.id}?", "Cancel it"
        asked = "It runs: it is asked to stop, and continues until its task checks for that."
        details = [asked if status.state is State.RUNNING else "It will not run."]
    page = confirm(question, button, back=url_for(".job", id=id), details=details, force="yes" if force else "")
    if page is not None:
        return page
    state = actions.cancel(id, force=force, by=access.user)
    record(access, f"asked job {id} to stop" if state is State.RUNNING else f"cancelled job {id}")
    return back_to_job(id)


@routes.action("/jobs/<id>/run", right="run")
def run_job(access: Access, id: str) -> ResponseReturnValue:
    """Make a waiting job due now."""
    actions.run_now(id, by=access.user)
    record(access, f"had job {id} run now")
    return back_to_job(id)


@routes.action("/jobs/<id>/purge", right="purge")
def purge_job(access: Access, id: str) -> ResponseReturnValue:
    """Delete the record of a finished job, and its file if it is dead."""
    status = lookup.find(id)
    text = "Nothing of it is left then" + (": it can never run again." if status.state is State.DEAD else ".")
    back = url_for(".job", id=id)
    if (page := confirm(f"Delete job {status.id}?", "Delete it", back=back, details=[text])) is not None:
        return page
    actions.purge_job(id)
    record(access, f"deleted job {id}, which was {status.state}")
    return back_to("jobs")


@routes.action("/jobs/<id>/stack", right="logs")
def ask_stack(access: Access, id: str) -> ResponseReturnValue:
    """Ask the process of a running job where it is. It changes nothing, but the process has to answer: hence a POST."""
    access.require("view")
    return render("stack.html", live=False, found=stack.stack(id))


def back_to_job(id: str) -> ResponseReturnValue:
    """Return to the page of a job, where its history shows what was done."""
    return back_to("job", id=id)
