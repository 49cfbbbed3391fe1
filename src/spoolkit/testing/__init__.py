"""For the tests of a site: look at the jobs that it has enqueued, and run them in the test's own process.

In a test run no job reaches a directory that a spooler of the site serves, so these functions see the jobs of this test
run only.
"""

from spoolkit.testing.jobs import clear_jobs, run_jobs, waiting_jobs

__all__ = ["clear_jobs", "run_jobs", "waiting_jobs"]
