"""Stock uWSGI: ``@uwsgidecorators.spool``, which keeps no state and no result."""

from __future__ import annotations

import uwsgi
import uwsgidecorators

from benchmarks.records import ran
from benchmarks.sites import web


@uwsgidecorators.spool
def job(arguments: dict[str, bytes]) -> int:
    ran(int(arguments["number"]), float(arguments["stamp"]))
    return uwsgi.SPOOL_OK


def enqueue(number: int, stamp: float, due: float | None) -> None:
    arguments = {"number": str(number), "stamp": repr(stamp)}
    if due is not None:
        arguments["at"] = str(int(due))  # whole seconds only
    job.spool(arguments)


app = web.site(enqueue)
