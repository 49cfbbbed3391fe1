"""How do the tests of a site inspect the jobs that it has enqueued, and run them in their own process?

In a test run no job reaches a spool directory of the site, so these functions see only the jobs of this test run.
"""

from spoolkit.testing.jobs import clear_jobs, run_jobs, waiting_jobs

__all__ = ["clear_jobs", "run_jobs", "waiting_jobs"]
