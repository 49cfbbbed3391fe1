"""May an attempt of a job start at all, now? Asked before each claim, whatever engine carries the job."""

from __future__ import annotations

from spoolkit.job import Cancelled, Failure, JobSpec, RetryAt
from spoolkit.system import clock


def instead_of_attempt(job: JobSpec) -> Cancelled | RetryAt | None:
    """Return what becomes of the job instead of an attempt, with none counted; ``None``: the attempt may start.

    The claim has the last word: it decides while no other process can move the job, and first records how an earlier
    attempt ended whose process is gone.
    """
    if job.expires_at is not None and job.expires_at <= (now := clock.now()):
        late = max(0.0, now - job.expires_at)
        return Cancelled(Failure(f"it expired {late:.1f} s before this attempt could start", ending="expired"))
    return None
