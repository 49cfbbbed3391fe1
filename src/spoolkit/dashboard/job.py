"""The page of one job: what it is, what happened to it, why it failed, and what it printed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flask import Response
from flask.typing import ResponseReturnValue

from spoolkit import registry
from spoolkit.admin import lookup, redaction, surroundings, timeline, tracebacks, words
from spoolkit.admin.lookup import Details
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import Routes, render
from spoolkit.errors import UnknownJobError
from spoolkit.job import Attempt
from spoolkit.registry import CALL_OPTIONS

routes = Routes()

MAX_EVENTS = 200
"""Events that are shown, the newest ones: a job may have 10,000 attempts, each with two."""

MAX_TEXT = 64 * 1024
"""Characters of one text that are shown: of a log, a traceback, the arguments, the result."""

MAX_TEXTS = 256 * 1024
"""Characters of all logs and tracebacks together: the page is fetched anew every two seconds."""


@dataclass(frozen=True)
class Shown:
    """An attempt, as far as the page has room for it."""

    #: The attempt.
    attempt: Attempt
    #: How it ended, after how long, and why.
    ending: str
    #: Its traceback with the own frames; ``None``: it has none, or there is no room for it.
    own: str | None = None
    #: The whole traceback, if it has frames of libraries as well.
    whole: str | None = None
    #: The end of its log; ``None``: there is none, or no room for it.
    log: str | None = None
    #: Whether the log is longer.
    is_cut: bool = False


@routes.page("/jobs/<id>")
def job(access: Access, id: str) -> ResponseReturnValue:
    """Everything that is known of a job."""
    found = lookup.details(id, newest=MAX_EVENTS)
    code, shown = redaction.as_code(found), redaction.details(found)
    status, may_see = shown.status, access.may("arguments")
    return render(
        "job.html",
        job=status,
        schedule=shown.schedule,
        call=_cut(f"{(status.task or '?').rpartition('.')[2]}{code}") if may_see and code is not None else None,
        result=_cut(status.result.decode("utf-8", "replace")) if may_see and status.result is not None else None,
        checkpoint=_cut(surroundings.checkpoint(status)) if may_see else None,
        options={name: value for name in CALL_OPTIONS if (value := getattr(status, name)) is not None},
        reasons=surroundings.reasons_to_wait(status, with_keys=may_see),
        batch=surroundings.batch(status),
        chain=surroundings.chain(status.id),
        entries=timeline.entries(shown),
        attempts=list(_attempts(reversed(shown.attempts), show_texts=access.may("logs"))),
        can_edit=registry.this_process.get(status.task or "") is not None,
        is_complete=len(shown.attempts) >= status.attempt,
        report=_report(found) if access.may("logs") and not shown.attempts else None,
    )


@routes.page("/jobs/<id>/attempts/<int:number>/log.txt", right="logs")
def job_log(access: Access, id: str, number: int) -> ResponseReturnValue:
    """What an attempt printed and logged, as a file to download."""
    access.require("view")
    found = redaction.details(lookup.details(id))
    attempt = next((one for one in found.attempts if one.number == number), None)
    if attempt is None:
        raise UnknownJobError(f"job {words.cut(id, 40)} has no attempt {number}", job=id)
    response = Response(f"{words.plain(attempt.log)}\n", mimetype="text/plain")
    name = re.sub(r"[^\w.-]", "_", id, flags=re.ASCII)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}-{number}.log.txt"'
    return response


def _attempts(newest_first: Iterable[Attempt], *, show_texts: bool) -> Iterator[Shown]:
    """The attempts, with tracebacks and logs as long as there is room for them."""
    room = MAX_TEXTS if show_texts else 0
    for attempt in newest_first:
        ending = words.cut(timeline.ending(attempt), 2000)
        if room <= 0:
            yield Shown(attempt, ending)
            continue
        trace, log = words.plain(attempt.traceback or ""), words.plain(attempt.log)
        own, cut = tracebacks.without_libraries(trace), log[-MAX_TEXT:]
        yield Shown(
            attempt, ending, own or None, trace if trace != own else None, cut or None, is_cut=len(cut) < len(log)
        )
        room -= len(own) + len(trace) + len(cut)


def _report(found: Details) -> str | None:
    """The traceback in the report beside a dead file, of a job that has no record."""
    text = lookup.report(found.status.id).get("traceback")
    return words.plain(redaction.text(found, text))[-MAX_TEXT:] if isinstance(text, str) and text else None


def _cut(text: str | None) -> str | None:
    """A long text, as far as it is shown."""
    if text is None or len(text) <= MAX_TEXT:
        return text and words.plain(text)
    return f"{words.plain(text[:MAX_TEXT])}… ({len(text) - MAX_TEXT} more characters)"
