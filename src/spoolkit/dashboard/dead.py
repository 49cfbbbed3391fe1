"""The dead jobs in groups, and what is done to all jobs of a group."""

from __future__ import annotations

from flask import request, url_for
from flask.typing import ResponseReturnValue

from spoolkit.admin import dead_groups
from spoolkit.admin.bulk import Manner
from spoolkit.admin.lookup import Listing
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.jobs import ACTION_TIME, MAX_REFUSED, PURGE, RETRY, Deed
from spoolkit.dashboard.routes import Routes, confirm, record, render
from spoolkit.errors import ArgumentError, counted
from spoolkit.system import clock

routes = Routes()

MAX_GROUPS = 50
"""Groups that are shown, the largest ones."""

PER_PAGE = 100
"""Jobs of a group that one page shows."""


@routes.page("/dead")
def dead(access: Access) -> ResponseReturnValue:
    """The dead jobs, by task, error and the place in the application's code."""
    until = clock.now()
    found = dead_groups.find()
    shown = found.groups[:MAX_GROUPS]
    messages = {group.key: dead_groups.message(group.newest) for group in shown}
    return render(
        "dead.html",
        found=found,
        groups=shown,
        messages=messages,
        until=repr(until),
        examined=dead_groups.MAX_EXAMINED,
    )


@routes.page("/dead/<key>")
def dead_group(access: Access, key: str) -> ResponseReturnValue:
    """The jobs of one group, those that died last first."""
    until = clock.now()
    found = dead_groups.find()
    group = found.group(key)
    ids = [job.id for job in group.jobs]
    before = request.args.get("before", "")
    start = ids.index(before) + 1 if before in ids else 0
    page = group.jobs[start : start + PER_PAGE]
    return render(
        "dead_group.html",
        found=found,
        group=group,
        message=dead_groups.message(group.newest),
        page=page,
        older=page[-1].id if start + PER_PAGE < len(ids) else None,
        is_first=start == 0,
        until=repr(until),
        deeds=[(deed, endpoint) for deed, endpoint in _DEEDS if access.may(deed.right)],
        examined=dead_groups.MAX_EXAMINED,
    )


_DEEDS = ((RETRY, "retry_group"), (PURGE, "purge_group"))


@routes.action("/dead/<key>/retry", right="retry")
def retry_group(access: Access, key: str) -> ResponseReturnValue:
    """Requeue the dead jobs of a group."""
    return _do(access, key, RETRY)


@routes.action("/dead/<key>/purge", right="purge")
def purge_group(access: Access, key: str) -> ResponseReturnValue:
    """Delete the records and the files of the dead jobs of a group."""
    return _do(access, key, PURGE)


def _do(access: Access, key: str, deed: Deed) -> ResponseReturnValue:
    """Do something to the jobs that a group had when it was shown: ask first, with their number."""
    until = _time(request.form.get("until"))
    found = dead_groups.find(until)
    group = found.group(key)
    number = counted(len(group.jobs), "job")
    details = [f"Task {group.task or '?'}: {group.error}."]
    if not found.complete:
        details.append(
            f"Only the newest {dead_groups.MAX_EXAMINED:,} dead jobs are grouped: there may be more of them."
        )
    details.append(deed.warning)
    question, button, back = f"{deed.label}: {number}?", f"{deed.label} {number}", url_for(".dead")
    page = confirm(question, button, back=back, details=details, until=repr(until))
    if page is not None:
        return page
    result = deed.act(Listing(group.jobs), Manner(access.user, ACTION_TIME))
    record(access, f"{counted(result.done, 'job')} {deed.done}: those of {group.task or '?'} dead by {group.error}")
    refused = [(id, str(error)) for id, error in list(result.refused.items())[:MAX_REFUSED]]
    return render("done.html", live=False, deed=deed, result=result, refused=refused, text="", back=back)


def _time(text: str | None) -> float:
    """The time in a form up to which jobs had died; now if there is none."""
    if not text:
        return clock.now()
    try:
        return min(float(text[:40]), clock.now())
    except ValueError as error:
        raise ArgumentError(f"until is {text[:40]!r}: give unix seconds", argument="until") from error
