"""What happened to each job: one row per job, and events that are only ever added, in SQLite.

The file says whether a job will run, the store says what became of it. So accepting a job writes nothing here, and
where the store cannot be had (:class:`StoreUnavailableError`) jobs run all the same: their attempts are counted in the
names of their files then.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from spoolkit.job import (
    FINISHED,
    MOVES,
    Cancelled,
    Dead,
    Done,
    Failure,
    JobSpec,
    Outcome,
    Progress,
    RetryAt,
    State,
    Status,
)
from spoolkit.store import claims
from spoolkit.store.claims import AlreadySettled, Claim, Granted, InUse
from spoolkit.store.database import event, insert, update
from spoolkit.store.queries import Records
from spoolkit.system import clock, process

ARGUMENTS_LIMIT = 4096
"""Bytes of a job's arguments that are kept with its record, to be shown once the file is gone."""


FileExists = Callable[[str, str | None], bool]


@dataclass(frozen=True)
class Result:
    """What a finished job gave back, in the codec's bytes, or why it could not be kept."""

    data: bytes | None = None
    error: str | None = None


class Store(Records):
    """The record of jobs, and its moves: each names the state it comes from, what has been settled is left alone.

    Every one raises :class:`StoreUnavailableError` where it cannot be recorded.
    """

    def claim(
        self,
        job: JobSpec,
        *,
        file: str | None,
        still_there: Callable[[], bool],
        max_attempts: int,
        attempts_in_filename: int = 0,
        arguments: bytes | None = None,
        file_exists: Callable[[str], bool] = lambda name: False,
    ) -> Claim:
        """Count an attempt of ``job`` before it begins, or say why it must not.

        ``file`` is the name of the job's file, ``still_there()`` whether it has that name now, asked while nobody can
        move the job. ``max_attempts`` is how many it may have since the last fresh count, ``attempts_in_filename``
        how many it has had since then at least. ``file_exists(name)`` says whether the job has another file
        of that name.
        """
        now = clock.now()
        with self.transaction() as db:
            if not still_there():
                return InUse()
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job.id,)).fetchone()
            attempt, base, asked = (0, 0, 0) if row is None else (row["attempt"], row["base"], row["cancel"])
            if row is not None:
                if (verdict := claims.verdict(row, file, file_exists)) is not None:
                    return verdict
                if row["state"] == State.RUNNING:
                    # The file was settled, but the store could not be told: how it ended is not known any more.
                    event(db, job.id, "failed", now, attempt, detail={"message": "how it ended was not recorded"})
                if row["state"] in (State.DEAD, State.QUEUED):
                    base = attempt  # moved back to be run again: a fresh count
                    asked = 0
            number = max(attempt, base + attempts_in_filename) + 1
            if number - base > max_attempts:
                # There are fewer now than when it was scheduled, or the last ended with its process, unrecorded.
                return AlreadySettled(Dead(Failure("no attempt is left")))
            given = {
                "state": State.RUNNING.value,
                "attempt": number,
                "base": base,
                "max_attempts": base + max_attempts,
                "run_at": job.run_at,
                "started_at": now,
                "finished_at": None,
                "file": file,
                "pid": os.getpid(),
                "identity": process.own(),
                "cancel": asked,
            }
            if row is None:
                given.update(
                    id=job.id,
                    task=job.task,
                    engine=job.engine,
                    queue=job.queue,
                    enqueued_at=job.enqueued_at,
                    arguments=arguments if arguments and len(arguments) <= ARGUMENTS_LIMIT else None,
                )
                insert(db, given)
            else:
                given.update(task=job.task, error_type=None, error_message=None, ending=None, progress=None)
                update(db, job.id, given)
            event(db, job.id, "started", now, number, detail={"pid": os.getpid()})
        return Granted(number, number - base)

    def finish(
        self,
        job: JobSpec,
        number: int,
        outcome: Outcome,
        *,
        result: Result | None = None,
        progress: Progress | None = None,
        log: str = "",
    ) -> bool:
        """Record how the attempt ``number`` of ``job`` ended; whether it was still open."""
        now = clock.now()
        state, failure = _state(outcome)
        with self.transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job.id,)).fetchone()
            if row is None or row["state"] != State.RUNNING or row["attempt"] != number:
                return False
            if state is State.RETRYING and row["cancel"]:
                state = State.CANCELLED
            given: dict[str, Any] = {"state": state.value, "finished_at": now if state in FINISHED else None}
            if state in FINISHED or job.has_file:
                # Elsewhere a job that waits for its next attempt still belongs to its process.
                given.update(pid=None, identity=None)
            if isinstance(outcome, RetryAt):
                given["run_at"] = outcome.time
            if result is not None:
                given.update(result=result.data, result_error=result.error)
            if progress is not None:
                given["progress"] = progress_text(progress)
            detail: dict[str, Any] = {}
            ending = "done"
            if failure is not None:
                ending = failure.ending
                given.update(error_type=failure.type, error_message=failure.message, ending=ending)
                detail = {"type": failure.type, "message": failure.message, "traceback": failure.traceback}
            update(db, job.id, given)
            event(db, job.id, ending, now, number, seconds=now - row["started_at"], detail=detail, log=log)
        return True

    def refuse(self, job: JobSpec, failure: Failure, *, file: str | None) -> None:
        """Record ``job`` as dead without an attempt: there is no task that could run it."""
        now = clock.now()
        with self.transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job.id,)).fetchone()
            given: dict[str, Any] = {"state": State.DEAD.value, "finished_at": now, "file": file}
            given.update(error_type=failure.type, error_message=failure.message, ending=failure.ending)
            if row is None:
                given.update(id=job.id, task=job.task, engine=job.engine, queue=job.queue, enqueued_at=job.enqueued_at)
                insert(db, {**given, "run_at": job.run_at, "attempt": 0, "base": 0})
            elif State.DEAD in MOVES[State(row["state"])]:
                update(db, job.id, given)
            else:
                return
            event(db, job.id, "refused", now, detail={"message": failure.message})

    # What people do.

    def cancel(
        self, status: Status, reason: str, *, file: str | None, log: str = "", progress: Progress | None = None
    ) -> bool:
        """Record as cancelled what does not run; whether it was so. The caller holds the job's file, called ``file``.

        ``log`` and ``progress`` are what an attempt left behind whose process is gone.
        """
        now = clock.now()
        with self.transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (status.id,)).fetchone()
            attempt = None  # that ends with this
            given = {"state": State.CANCELLED.value, "finished_at": now, "cancel": 1, "error_message": reason}
            given["ending"] = "cancelled"
            if row is None:
                given.update(id=status.id, task=status.task or "?", engine=status.engine, queue=status.queue)
                given.update(enqueued_at=status.enqueued_at, run_at=status.run_at, attempt=0, base=0)
                insert(db, given)
            elif State.CANCELLED in MOVES[State(row["state"])] and not (row["file"] == file and claims.is_running(row)):
                attempt = row["attempt"] if row["state"] == State.RUNNING else None
                if progress is not None:
                    given["progress"] = progress_text(progress)
                update(db, status.id, {**given, "pid": None, "identity": None})
            else:
                return False
            event(db, status.id, "cancelled", now, attempt, detail={"message": reason}, log=log)
        return True

    def ask_to_stop(self, id: str) -> bool:
        """Note that the running job ``id`` is not wanted any more; whether it runs."""
        with self.transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
            if row is None or not claims.is_running(row):
                return False
            update(db, id, {"cancel": 1})
            event(db, id, "cancel asked", clock.now(), row["attempt"])
        return True

    def cancel_running(
        self, id: str, *, kill: Callable[[int], None], left: Callable[[], tuple[Progress | None, str]]
    ) -> bool:
        """Have ``kill`` end the process that runs the job ``id``, and record the job as cancelled; whether it ran.

        ``left`` gives the progress and the log that the attempt leaves behind. Nobody can settle the job or claim
        another one meanwhile: the process killed is the one that runs this very job.
        """
        with self.transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
            if row is None or not claims.is_running(row):
                return False
            kill(row["pid"])
            now, number = clock.now(), row["attempt"]
            reason = f"its process {row['pid']} was killed in attempt {number}, to cancel it"
            progress, log = left()
            given: dict[str, Any] = {"state": State.CANCELLED.value, "finished_at": now, "cancel": 1}
            given.update(pid=None, identity=None, ending="cancelled", error_type=None, error_message=reason)
            if progress is not None:
                given["progress"] = progress_text(progress)
            update(db, id, given)
            event(db, id, "killed", now, number)
            event(db, id, "cancelled", now, number, now - row["started_at"], {"message": reason}, log)
        return True

    def note(self, id: str, kind: str) -> None:
        """Add an event."""
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM jobs WHERE id = ?", (id,)).fetchone() is not None:
                event(db, id, kind, clock.now())

    def requeue(self, id: str, *, still_there: Callable[[], bool]) -> None:
        """Count the job ``id`` as queued from now on, if its file lies among the dead (``still_there()``).

        Before it is moved back: a kill may come between the two, and a file that is back may be claimed at once.
        """
        with self.transaction() as db:
            if db.execute("SELECT 1 FROM jobs WHERE id = ?", (id,)).fetchone() is not None and still_there():
                # Whatever its state: its death may be unrecorded.
                db.execute(
                    "UPDATE jobs SET state = 'queued', base = attempt, max_attempts = NULL, run_at = NULL,"
                    " finished_at = NULL, cancel = 0, pid = NULL, identity = NULL WHERE id = ?",
                    (id,),
                )
                event(db, id, "retried", clock.now())

    def prune(
        self, states: Iterable[State], before: float, limit: int, *, file_exists: FileExists = lambda id, file: False
    ) -> int:
        """Forget up to ``limit`` jobs that ended in ``states`` before ``before`` (unix time); returns how many.

        Not those of which ``file_exists(id, name)`` says that their file is still there: it would be a new job.
        """
        gone: list[str] = []
        with self.transaction() as db:
            for state in states:
                rows = db.execute(
                    "SELECT id, file FROM jobs WHERE state = ? AND finished_at < ? ORDER BY finished_at LIMIT ?",
                    (state.value, before, limit - len(gone)),
                ).fetchall()
                gone += [row["id"] for row in rows if not file_exists(row["id"], row["file"])]
            for id in gone:
                db.execute("DELETE FROM events WHERE job = ?", (id,))
                db.execute("DELETE FROM jobs WHERE id = ?", (id,))
        return len(gone)


def progress_text(progress: Progress) -> str:
    """How a row holds it."""
    return json.dumps([progress.done, progress.total, progress.note])


def _state(outcome: Outcome) -> tuple[State, Failure | None]:
    match outcome:
        case Done():
            return State.DONE, None
        case RetryAt(_, failure):
            return State.RETRYING, failure
        case Dead(failure):
            return State.DEAD, failure
        case Cancelled(failure):
            return State.CANCELLED, failure
