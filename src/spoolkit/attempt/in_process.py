"""How does one attempt of a job without a file run? It is claimed, run and recorded in the process that has it."""

from __future__ import annotations

from collections.abc import Callable

from spoolkit import signals
from spoolkit.attempt import admission, bookkeeping, job_log, runner
from spoolkit.attempt.runner import AttemptResult
from spoolkit.coordination import limits
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import JobSpec
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import running
from spoolkit.store import Store, locations, write_behind
from spoolkit.store.claims import Full, Granted


def attempt(
    job: JobSpec,
    declared: Declared,
    store: Store,
    config: Settings,
    number: int,
    on_answer: Callable[[], object] = lambda: None,
) -> AttemptResult | Full | None:
    """Claim, run and record one attempt of ``job``. Never raises.

    Args:
        job: The job.
        declared: The task.
        store: Where the attempt is recorded.
        config: The settings in force.
        number: Which attempt of the job it is, from 1: it counts where the store cannot be written.
        on_answer: Called before the attempt starts, or if none does, unless that is for want of room.

    Returns:
        What became of the attempt; ``Full`` if the job has to wait for room under its limit; ``None`` if another
        process runs the job.
    """
    spool_dir = locations.spool_dir_of(job.queue, config)
    with running.AttemptFile(spool_dir, job.id) as attempt_file:
        try:
            result = _claim_and_run(job, declared, store, config, number, attempt_file, on_answer)
        finally:
            # Before it is recorded, which wakes processes that wait: their query would write a row for a finished job.
            write_behind.writer().discard(job)
        if isinstance(result, AttemptResult):
            state = bookkeeping.record(job, result, store, spool_dir)
            signals.ended(job, result.attempt, result.outcome, state)
    if isinstance(result, AttemptResult):
        limits.ended(job.limit_key, job.task, store, config)  # a full pool may pass jobs of the task to the spooler
    return result


def _claim_and_run(
    job: JobSpec,
    declared: Declared,
    store: Store,
    config: Settings,
    number: int,
    attempt_file: running.AttemptFile,
    on_answer: Callable[[], object],
) -> AttemptResult | Full | None:
    claim: Granted | AttemptResult | Full | None
    declared = declared.for_job(job)
    room = limits.room(job, declared.options, config)
    try:
        if room is not None and attempt_file.fd == -1:
            # Beside the other jobs of this process, which have files, it would look as if it were over.
            raise StoreUnavailableError("this process cannot show what it runs", path=attempt_file.spool_dir)
        claim = bookkeeping.claim(job, declared.options, store, config, room=room)
    except StoreUnavailableError as error:
        claim = bookkeeping.claim_without_store(job, declared.options, config, error, lambda: number, room=room)
    if isinstance(claim, Full):
        return claim
    on_answer()
    if not isinstance(claim, Granted):
        return claim
    return runner.run(job, declared, claim, config, attempt_file=attempt_file)


def attempt_untracked(job: JobSpec, declared: Declared, config: Settings, number: int) -> AttemptResult:
    """Run one attempt of ``job`` without a record of it. Never raises. The arguments are those of :func:`attempt`."""
    if (instead := admission.instead_of_attempt(job)) is not None:
        job_log.ended(job, instead, tracked=False)
        result = AttemptResult(instead)
    else:
        result = runner.run(job, declared.for_job(job), Granted(number, number), config, attempt_file=None)
    signals.ended(job, result.attempt, result.outcome, signals.state_of(result.outcome))
    return result
