"""The seam: what carries a job to where it runs."""

from __future__ import annotations

from typing import Protocol

from spoolkit.job import AnyJob
from spoolkit.registry import Declared


class Engine(Protocol):
    """Carries jobs. Each engine passes the same conformance suite (``tests/unit/test_engines.py``)."""

    name: str

    def submit(self, job: AnyJob, declared: Declared) -> AnyJob:
        """Accept ``job``, a call of the task ``declared``, to run once after ``job.run_at``.

        When this returns, the job is accepted; when it raises, nothing was. Returns the job as it was accepted: another
        engine may have taken it. Raises :class:`ArgumentError` for what
        this engine cannot carry, :class:`SpoolUnavailableError` or :class:`QueueFull` for what it cannot keep now.
        """
        ...
