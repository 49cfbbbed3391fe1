"""How many attempts were there since the store was made, how did they end, and how long did they take?

The rows of jobs and events tell it, so that the end of a job costs nothing more. What the rows of a job tell is added
to the table ``totals`` in the transaction that deletes them, and a query adds both up: no sum ever falls. The table has
the columns of the query: a row for each task, ending, and bucket of either duration. Durations are whole microseconds:
a sum of fractions depends on their order, and a counter that falls by the last bit is taken for one that was reset.
For the same reason a row keeps the name of its task from the first attempt on, whatever the task is called by then.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from spoolkit.job import Ending, State

if TYPE_CHECKING:
    from spoolkit.store.database import Database  # which imports this module

BOUNDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, math.inf)
"""The upper bounds of the buckets of a histogram, in seconds. Older rows of ``totals`` may have others."""

UNMEASURED = 0.0
"""Stands in ``totals`` for the bound where there is no duration."""

MICROSECONDS = 1_000_000
"""Of a second."""

_UNSEEN = ("crashed", "lost")
"""The endings of an attempt that nobody saw: what is recorded is when they were found out."""


@dataclass
class Histogram:
    """How long something took, each time."""

    #: How often it took no longer than each of :data:`BOUNDS`, but longer than the one before.
    buckets: dict[float, int] = field(default_factory=lambda: dict.fromkeys(BOUNDS, 0))
    #: How long it took in all, in microseconds.
    microseconds: int = 0

    def add(self, below: float, times: int, microseconds: int) -> None:
        """Add that it took up to ``below`` seconds so many ``times``, and so many ``microseconds`` in all."""
        self.buckets[next(bound for bound in BOUNDS if below <= bound)] += times
        self.microseconds += microseconds


@dataclass(frozen=True)
class Totals:
    """Figures of all attempts that have ended, also of jobs whose record was deleted. None of them ever falls."""

    #: How many there were, by task and ending: ``done``, ``lost``, or one of :data:`~spoolkit.job.Ending`.
    attempts: Mapping[tuple[str, str], int]
    #: How long they took, by task: those whose end was seen, so not those that crashed or were lost.
    run: Mapping[str, Histogram]
    #: How long the jobs that are done had waited, by task: from when they were due until their first attempt started.
    wait: Mapping[str, Histogram]
    #: How many microseconds of processor time they took, by task, as far as that is known.
    cpu: Mapping[str, int] = field(default_factory=dict)
    #: How many jobs are recorded as done, by task. This falls when they are deleted.
    done: Mapping[str, int] = field(default_factory=dict, compare=False)


def totals(store: Database) -> Totals:
    """Return the figures of all attempts that have ended. Raises :class:`StoreUnavailableError`."""
    attempts, run, wait = dict[tuple[str, str], int](), dict[str, Histogram](), dict[str, Histogram]()
    cpu, done = dict[str, int](), dict[str, int]()
    for row in store.read(_ALL):
        task, number = row["task"], row["attempts"]
        if row["cpu"] is not None:
            cpu[task] = cpu.get(task, 0) + row["cpu"]
        if number is None:
            continue
        attempts[task, row["ending"]] = attempts.get((task, row["ending"]), 0) + number
        done[task] = done.get(task, 0) + row["done"]
        if row["run_below"] != UNMEASURED:
            run.setdefault(task, Histogram()).add(row["run_below"], number, row["run"])
        if row["wait_below"] != UNMEASURED:
            wait.setdefault(task, Histogram()).add(row["wait_below"], number, row["wait"])
    return Totals(attempts, run, wait, cpu, done)


def keep(db: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Add what the rows of these jobs tell to the totals, in the transaction that deletes the rows."""
    jobs = json.dumps(list(ids))
    db.execute(_KEEP_DONE, (jobs,))
    db.execute(_KEEP_OTHERS, (jobs,))
    db.execute(_KEEP_CPU, (jobs,))


def keep_done(db: sqlite3.Connection, id: str) -> None:
    """Add that a job is done to the totals, if its row says so, in the transaction in which the row ceases to."""
    db.execute(_KEEP_DONE, (json.dumps([id]),))


def _whole(seconds: str) -> str:
    return f"CAST(max(0.0, {seconds}) * {MICROSECONDS} AS INTEGER)"  # the clock may have been set back meanwhile


def _bucket(microseconds: str) -> str:
    cases = (f"WHEN {microseconds} <= {round(bound * MICROSECONDS)} THEN {bound}" for bound in BOUNDS[:-1])
    return f"CASE WHEN {microseconds} IS NULL THEN {UNMEASURED} {' '.join(cases)} ELSE 9e999 END"  # which is infinite


def _done(condition: str = "") -> str:
    """The query for attempts that completed their job. A job has one at most, which its row tells."""
    # The times come before the columns of any size in a row, so that SQLite does not read these. The limit has it
    # compute each duration once. And with the + it reads the table in order, not by an index on almost all of it.
    first_start = "SELECT min(time) FROM events WHERE job = jobs.id AND kind = 'started'"
    begun = f"CASE attempt WHEN 1 THEN started_at ELSE coalesce(({first_start}), started_at) END"
    return (
        f"SELECT task, 'done' AS ending, {_bucket('run')} AS run_below, {_bucket('wait')} AS wait_below,"  # noqa: S608
        " count(*) AS attempts, coalesce(sum(run), 0) AS run, coalesce(sum(wait), 0) AS wait, sum(cpu) AS cpu"
        f" FROM (SELECT task, {_CPU} AS cpu, {_whole('finished_at - started_at')} AS run,"
        f" {_whole(f'{begun} - coalesce(run_at, enqueued_at, started_at)')} AS wait"
        f" FROM jobs WHERE +state = 'done' {condition} LIMIT -1 OFFSET 0) GROUP BY 1, 3, 4"
    )


def _others(condition: str = "") -> str:
    """The query for attempts that ended otherwise: each of these is an event."""
    endings, unseen = (", ".join(f"'{ending}'" for ending in some) for some in (_OTHER_ENDINGS, _UNSEEN))
    return (
        f"SELECT task, ending, {_bucket('run')} AS run_below, {UNMEASURED} AS wait_below,"  # noqa: S608
        " count(*) AS attempts, coalesce(sum(run), 0) AS run, 0 AS wait"
        f" FROM (SELECT task, kind AS ending, CASE WHEN kind NOT IN ({unseen}) THEN {_whole('seconds')} END AS run"
        # Spelled as in the index events_of_endings: SQLite uses it only then.
        " FROM events JOIN jobs ON jobs.id = events.job"
        " WHERE events.attempt IS NOT NULL AND events.kind NOT IN ('started', 'done')"
        f" AND events.kind IN ({endings}) {condition} LIMIT -1 OFFSET 0) GROUP BY 1, 2, 3"
    )


def _cpu(condition: str = "") -> str:
    """The query for the processor time of jobs, which a row has of all attempts of its job."""
    return (
        f"SELECT task, sum({_CPU}) AS cpu FROM jobs"  # noqa: S608 - texts of this module
        f" WHERE cpu IS NOT NULL {condition} GROUP BY task"
    )


def _addition(query: str) -> str:
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in ("attempts", "run", "wait"))
    conflict = f"ON CONFLICT (task, ending, run_below, wait_below) DO UPDATE SET {sums}"
    return f"INSERT INTO totals SELECT {_COLUMNS} FROM ({query}) WHERE 1 {conflict}"  # noqa: S608 - of this module


_OTHER_ENDINGS = ("lost", *get_args(Ending))
_OF_THESE = "AND jobs.id IN (SELECT value FROM json_each(?))"
_NOT_DONE = "AND state IN ({})".format(", ".join(f"'{state}'" for state in State if state is not State.DONE))
_COLUMNS = "task, ending, run_below, wait_below, attempts, run, wait"
_CPU = f"CAST(cpu * {MICROSECONDS} AS INTEGER)"

# One statement, and so one state of the file: a row that is deleted meanwhile is in the sum once. And one way through
# almost all rows: to group them, SQLite sorts them, which costs more than to read them.
_ALL = (
    f"SELECT *, NULL AS cpu, 0 AS done FROM totals UNION ALL SELECT *, attempts FROM ({_done()})"  # noqa: S608 - as above
    f" UNION ALL SELECT *, NULL, 0 FROM ({_others()})"
    " UNION ALL SELECT task, NULL, NULL, NULL, NULL, NULL, NULL, cpu, 0"
    f" FROM (SELECT * FROM cpu_totals UNION ALL {_cpu(_NOT_DONE)})"
)
_KEEP_DONE, _KEEP_OTHERS = _addition(_done(_OF_THESE)), _addition(_others(_OF_THESE))
_KEEP_CPU = (
    f"INSERT INTO cpu_totals SELECT * FROM ({_cpu(_OF_THESE)}) WHERE 1"  # noqa: S608 - texts of this module
    " ON CONFLICT (task) DO UPDATE SET cpu = cpu + excluded.cpu"
)
