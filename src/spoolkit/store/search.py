"""How are jobs found by what is in their records, and counted? No index helps, so only the newest ones are read."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from spoolkit.job import State
from spoolkit.store.database import Database

# What JSON has without quotes: numbers, true, false, null.
_BARE = re.compile(r"[-+.\w]+", re.ASCII)


@dataclass(frozen=True)
class Search:
    """What records must be like. Each field that is not empty narrows the search."""

    #: The names of the task.
    tasks: tuple[str, ...] = ()
    #: One of the tags.
    tag: str = ""
    #: The name of the queue.
    queue: str = ""
    #: The beginning of the id.
    prefix: str = ""
    #: A part of the type and message of the last error, whatever its case.
    error: str = ""
    #: Values in the arguments, whatever their case. Whole ones: how far a search has looked tells that records have
    #: them, also where that value is secret, which nobody must find out part by part.
    texts: tuple[str, ...] = ()
    #: The least id.
    down_to: str = ""
    #: The name of the default queue, which records leave out.
    default_queue: str = "default"

    @property
    def is_slow(self) -> bool:
        """Whether every record must be read, because no index helps."""
        return bool(self.queue or self.error or self.texts)


def clauses(also: Search) -> tuple[list[str], list[object]]:
    """Return the conditions of a query on jobs, and their values."""
    found: list[tuple[str, tuple[object, ...]]] = []
    if also.tasks:
        found.append((f"task IN ({', '.join('?' * len(also.tasks))})", also.tasks))
    if also.tag:
        found.append(("id IN (SELECT job FROM job_tags WHERE tag = ?)", (also.tag,)))
    if also.queue:
        found.append(("coalesce(queue, ?) = ?", (also.default_queue, also.queue)))
    if also.prefix:
        # As a range, for which the index of the ids serves. No id has a character beyond "~".
        found.append(("id >= ? AND id < ?", (also.prefix, f"{also.prefix}~")))
    if also.down_to:
        found.append(("id >= ?", (also.down_to,)))
    if also.error:
        text = "lower(coalesce(error_type, '') || ': ' || coalesce(error_message, ''))"
        found.append((f"instr({text}, lower(?))", (also.error,)))
    for text in also.texts:
        arguments, quoted = "lower(CAST(arguments AS TEXT))", json.dumps(text, ensure_ascii=False)
        if _BARE.fullmatch(text):
            clause = f"(instr({arguments}, lower(?)) OR {arguments} GLOB lower(?))"
            found.append((clause, (quoted, f"*[[,:]{text}[],}}]*")))
        else:
            found.append((f"instr({arguments}, lower(?))", (quoted,)))
    return [clause for clause, _ in found], [value for _, values in found for value in values]


def window(store: Database, before: str, size: int) -> str:
    """Return the least id of the ``size`` newest records whose id is less than ``before``; empty: there are fewer.

    Args:
        store: Where they are recorded.
        before: An id; empty: all records count.
        size: How many records.
    """
    where, values = ("WHERE id < ?", (before,)) if before else ("", ())
    newest = f"SELECT id FROM jobs {where} ORDER BY id DESC LIMIT ?"  # noqa: S608 - no values
    found = store.read(f"SELECT count(*) AS n, min(id) AS least FROM ({newest})", (*values, size))  # noqa: S608 - as above
    return str(found[0]["least"]) if found and found[0]["n"] == size else ""


def count_states(store: Database, also: Search) -> dict[State, int]:
    """Return how many records there are by state."""
    where, values = clauses(also)
    sql = f"SELECT state, count(*) AS n FROM jobs WHERE {' AND '.join(where) or '1'} GROUP BY state"  # noqa: S608 - no values
    return {State(row["state"]): row["n"] for row in store.read(sql, tuple(values))}


def with_arguments(store: Database, also: Search, limit: int) -> list[tuple[str, str, State, bytes]]:
    """Return id, task, state and arguments of the newest records whose arguments were kept, at most ``limit``."""
    where, values = clauses(also)
    where.append("arguments IS NOT NULL")
    sql = f"SELECT id, task, state, arguments FROM jobs WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ?"  # noqa: S608 - no values
    rows = store.read(sql, (*values, limit))
    return [(row["id"], row["task"], State(row["state"]), row["arguments"]) for row in rows]


def arguments_of(store: Database, ids: list[str]) -> dict[str, bytes]:
    """Return the arguments of those of these jobs (a thousand at most) of which they were kept."""
    marks = ", ".join("?" * len(ids))
    sql = f"SELECT id, arguments FROM jobs WHERE id IN ({marks}) AND arguments IS NOT NULL"  # noqa: S608 - marks only
    return {row["id"]: row["arguments"] for row in store.read(sql, tuple(ids))}
