"""The list of jobs, and what is done to many of them: to those that are selected, or to all that match a filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flask import request, url_for
from flask.typing import ResponseReturnValue

from spoolkit.admin import bulk, filters, lookup, pages, redaction
from spoolkit.admin.bulk import WAITING, BulkResult, Manner
from spoolkit.admin.filters import JobFilter
from spoolkit.admin.lookup import UNFINISHED, Listing
from spoolkit.admin.pages import Counts
from spoolkit.dashboard.access import Access, Right
from spoolkit.dashboard.routes import Routes, confirm, record, render
from spoolkit.errors import ArgumentError, UnknownJobError, counted
from spoolkit.job import FINISHED, State, new_id
from spoolkit.store import locations

routes = Routes()

PER_PAGE = 100
"""Jobs that one page shows."""

MAX_AT_ONCE = 1000
"""Jobs that one action is done to, at most."""

ACTION_TIME = 10.0
"""Seconds after which an action tries no further job: the browser waits for it, and so does a thread of the server."""

MAX_REFUSED = 20
"""Refused jobs that are named."""


@dataclass(frozen=True)
class Deed:
    """An action on many jobs."""

    #: The right that it needs.
    right: Right
    #: The endpoint.
    endpoint: str
    #: The button.
    label: str
    #: What was done to the jobs.
    done: str
    #: The states of the jobs that it makes sense for.
    states: frozenset[State]
    #: Does it.
    act: Callable[[Listing, Manner], BulkResult]
    #: What to consider before.
    warning: str = ""


RETRY = Deed("retry", "retry_jobs", "Retry", "retried", frozenset({State.DEAD}), bulk.retry)
CANCEL = Deed(
    "cancel",
    "cancel_jobs",
    "Cancel",
    "cancelled or asked to stop",
    frozenset(UNFINISHED),
    bulk.cancel,
    "Those that run are asked to stop: each continues until its task checks for that. The others will not run.",
)
RUN = Deed("run", "run_jobs", "Run now", "made due now", WAITING, bulk.run_now)
PURGE = Deed(
    "purge",
    "purge_jobs",
    "Delete",
    "deleted",
    FINISHED,
    bulk.purge,
    "Nothing of them is left then: dead jobs can never run again.",
)
DEEDS = (RETRY, CANCEL, RUN, PURGE)


@routes.page("/jobs")
def jobs(access: Access) -> ResponseReturnValue:
    """The jobs that a filter finds, newest first."""
    text = request.args.get("q", "").strip()
    try:
        wanted = _filter(access, text)
    except ArgumentError as error:
        return render("jobs.html", live=False, status=400, text=text, problem=error)
    before = request.args.get("before") or None
    files = lookup.list_files()
    page = pages.page(wanted, before=before, limit=PER_PAGE, files=files)
    counts = pages.count(wanted, files, page if before is None else None)
    chosen = counts.of(wanted.states or State)
    return render(
        "jobs.html",
        text=text,
        problem=None,
        wanted=wanted,
        page=page,
        shown=redaction.listed(page.jobs),
        before=before,
        counts=counts,
        chosen=chosen,
        until=new_id(),
        tabs=[(state, str(wanted.with_states({state}))) for state in State],
        tab_of_all=str(wanted.with_states(())),
        deeds=[(deed, chosen.of(deed.states)) for deed in DEEDS if access.may(deed.right)],
    )


def _filter(access: Access, text: str) -> JobFilter:
    wanted = filters.parse(text)
    if wanted.arguments or wanted.error:
        # Whoever may not see arguments must not find them out one by one, nor those that an error quotes.
        access.require("arguments")
    return wanted


@routes.action("/jobs/retry", right="retry")
def retry_jobs(access: Access) -> ResponseReturnValue:
    """Requeue dead jobs."""
    return _do(access, RETRY)


@routes.action("/jobs/cancel", right="cancel")
def cancel_jobs(access: Access) -> ResponseReturnValue:
    """Cancel jobs that are not finished."""
    return _do(access, CANCEL)


@routes.action("/jobs/run", right="run")
def run_jobs(access: Access) -> ResponseReturnValue:
    """Make waiting jobs due now."""
    return _do(access, RUN)


@routes.action("/jobs/purge", right="purge")
def purge_jobs(access: Access) -> ResponseReturnValue:
    """Delete the records of finished jobs, and the files of dead ones."""
    return _do(access, PURGE)


def _do(access: Access, deed: Deed) -> ResponseReturnValue:
    """Do something to the jobs that a form names: ask first, with their number, and say what was done and what not."""
    text, until, ids = request.form.get("q", ""), request.form.get("until", ""), request.form.getlist("id")
    if request.form.get("what") == "all":
        # Parsed and counted before the question, so that a filter that makes no sense is never confirmed.
        wanted = _filter(access, text)
        states = (wanted.states or frozenset(State)) & deed.states
        found = pages.select(wanted.with_states(states), until=until, limit=MAX_AT_ONCE) if states else Listing()
        counts = pages.tally(found) if found.complete else pages.count(wanted).of(states)
        page = _ask(deed, counts.text(), counts, [_as_words(wanted)], what="all", q=text, until=until)
    else:
        found = _selected(ids)
        counts = pages.tally(found).of(deed.states)
        others = len(ids) - counts.total
        left = [f"{counted(others, 'other selected job')} cannot: no such job, or in another state."] if others else []
        page = _ask(deed, counts.text(), counts, left, what="selected", id=[job.id for job in found])
    if page is not None:
        return page
    result = deed.act(found, Manner(access.user, ACTION_TIME))
    record(
        access, f"{result.done} jobs {deed.done}: {text or 'all' if request.form.get('what') == 'all' else 'selected'}"
    )
    return render(
        "done.html",
        live=False,
        deed=deed,
        result=result,
        refused=_first(result),
        text=text,
        until=until,
        back=_list_of(text),
    )


def _list_of(text: str) -> str:
    return url_for(".jobs", q=text or None)


def _ask(deed: Deed, number: str, counts: Counts, more: Sequence[str], **fields: object) -> ResponseReturnValue | None:
    if not counts.total:
        what = " or ".join(sorted(deed.states))
        raise ArgumentError(f"none of these jobs is {what}: select some that are, and choose {deed.label} again")
    states = ", ".join(f"{counts.text(state)} {state}" for state in State if counts.states.get(state))
    jobs = "job" if counts.total == 1 else "jobs"
    bound = f"{MAX_AT_ONCE:,} at most are done at once; then you are asked again."
    details = [f"In these states: {states}.", *more, deed.warning, bound if counts.total > MAX_AT_ONCE else ""]
    question, button = f"{deed.label}: {number} {jobs}?", f"{deed.label} {number} {jobs}"
    return confirm(question, button, back=_list_of(request.form.get("q", "")), details=details, **fields)


def _as_words(wanted: JobFilter) -> str:
    return f"All that match {wanted}, of those that were there when the list was made." if str(wanted) else "All jobs."


def _selected(ids: Sequence[str]) -> Listing:
    """The jobs with these ids, newest first: those that there are."""
    found, wanted = Listing(), set(ids[:MAX_AT_ONCE])
    files = lookup.list_files()
    recorded = lookup.from_store(lambda: locations.store().states([*wanted])) or {}
    # Only those that there are: where many jobs wait, each of the others would be looked for among their files.
    for id in sorted(wanted & {*recorded, *files.waiting, *files.dead}, reverse=True):
        try:
            found.append(lookup.find(id))
        except UnknownJobError:
            continue
    return found


def _first(result: BulkResult) -> list[tuple[str, str]]:
    return [(id, str(error)) for id, error in list(result.refused.items())[:MAX_REFUSED]]
