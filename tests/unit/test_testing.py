"""What the tests of a site see: no job reaches a real directory; waiting jobs can be listed, run and cleared."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask, current_app

from spoolkit import (
    Batch,
    JobFailedError,
    Limit,
    Retry,
    SpoolKit,
    UnknownBatchError,
    application,
    current_job,
    spool,
)
from spoolkit.coordination import limits
from spoolkit.job import new_id
from spoolkit.spooldir import parked, spoolfile
from spoolkit.store import locations
from spoolkit.system import sandbox
from spoolkit.testing import clear_jobs, run_jobs, waiting_jobs

ran: list[object] = []


@spool
def greet(name: str, *, loud: bool = False) -> str:
    ran.append((name, loud, current_app.name, current_job().attempt))
    return f"hello {name}"


@spool
def greet_both(first: str, second: str) -> None:
    greet(first)
    greet(second)


@spool(retries=2)
def fails() -> None:
    ran.append("failed")
    raise ValueError("no paper")


@spool(retries=2)
def asks_again() -> None:
    ran.append("asked")
    raise Retry(delay=60)


@spool
def again() -> None:
    again()


@spool(limit=Limit(1))
def one_at_a_time(n: int) -> None:
    ran.append(n)


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory outside the temporary folder, where a site would have its jobs. It must never be created."""
    path = Path("/var/lib") / f"spoolkit-test-{secrets.token_hex(8)}" / "my_spools"
    yield path
    assert not path.parent.exists(), "the test run has made the site's own directory"


@pytest.fixture
def app(real: Path) -> Iterator[Flask]:
    ran.clear()
    app = Flask("shop")
    app.config["SPOOLKIT_SPOOL"] = real
    SpoolKit(app)
    with app.app_context():
        yield app
        clear_jobs()


def test_jobs_of_a_test_run_go_to_a_private_directory(app: Flask, real: Path) -> None:
    job = greet("ann")
    private = Path(sandbox.private(str(real)))
    assert private != real
    assert [path.name for path in private.glob("uwsgi_spoolfile_on_*")] == [f"uwsgi_spoolfile_on_{job.id}"]
    assert private.stat().st_mode & 0o777 == 0o700
    assert job.state == "queued"


def test_a_store_outside_the_temporary_folder_is_private_as_well(app: Flask, real: Path) -> None:
    app.config["SPOOLKIT_STORE"] = real.parent / "jobs.db"
    greet("ann")
    run_jobs()
    assert Path(sandbox.private(str(real.parent / "jobs.db"))).exists()


def test_a_queue_outside_the_temporary_folder_is_private_as_well(app: Flask, real: Path) -> None:
    job = greet.using(queue=str(real.parent / "other"))("ann")
    assert Path(sandbox.private(str(real.parent / "other")), f"uwsgi_spoolfile_on_{job.id}").exists()


def test_a_directory_in_the_temporary_folder_is_used_as_it_is(tmp_path: Path) -> None:
    assert sandbox.private(str(tmp_path)) == str(tmp_path)


def test_waiting_jobs_come_oldest_first_with_their_arguments(app: Flask) -> None:
    jobs = [greet("ann"), greet.using(delay=60)("bob", loud=True), fails()]
    assert waiting_jobs() == jobs
    first, second, third = waiting_jobs()
    assert (first.args, first.kwargs) == (("ann",), {})
    assert (second.args, second.kwargs) == (("bob",), {"loud": True})
    assert second.run_at is not None
    assert waiting_jobs(fails.name) == [third]


def test_run_jobs_runs_due_jobs_in_the_application_context(app: Flask) -> None:
    job = greet("ann")
    later = greet.using(delay=60)("bob")
    assert run_jobs() == [job]
    assert ran == [("ann", False, "shop", 1)]
    assert (job.state, job.result, later.state) == ("done", "hello ann", "queued")


def test_run_jobs_also_runs_jobs_that_the_jobs_enqueue(app: Flask) -> None:
    greet_both("ann", "bob")
    assert [job.task for job in run_jobs()] == [greet_both.name, greet.name, greet.name]
    assert [name for name, *_ in ran] == ["ann", "bob"]  # type: ignore[misc]


def test_run_jobs_delayed_also_runs_jobs_and_attempts_that_are_not_due(app: Flask) -> None:
    greet.using(delay=60)("ann")
    job = asks_again()
    run_jobs(delayed=True)
    assert ran.count("asked") == 3
    assert job.state == "dead"


def test_run_jobs_raises_job_failed_error_with_the_traceback(app: Flask) -> None:
    job = fails()
    with pytest.raises(JobFailedError, match="ValueError: no paper") as caught:
        run_jobs()
    assert (caught.value.job, caught.value.error_type) == (job.id, "ValueError")
    assert 'raise ValueError("no paper")' in "".join(caught.value.__notes__)
    assert job.state == "retrying"


def test_run_jobs_without_check_does_not_raise_for_a_failed_job(app: Flask) -> None:
    job = fails()
    run_jobs(delayed=True, check=False)
    assert ran == ["failed"] * 3
    assert job.state == "dead"


def test_run_jobs_stops_with_an_error_after_max_jobs(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spoolkit.testing.jobs.MAX_JOBS", 5)
    again()
    with pytest.raises(ValueError, match="ran 5 jobs and there are more"):
        run_jobs()


def test_run_jobs_passes_over_a_file_that_cannot_be_read(app: Flask) -> None:
    with app.app_context():
        damaged = Path(application.settings().spool, f"{spoolfile.PREFIX}{new_id()}")
        damaged.parent.mkdir(exist_ok=True)
        damaged.write_bytes(b"no job")
        assert run_jobs() == []
        assert damaged.exists()
        damaged.unlink()


def test_clear_jobs_leaves_neither_jobs_nor_records(app: Flask) -> None:
    greet("ann")
    run_jobs()
    fails()
    run_jobs(delayed=True, check=False)
    greet.using(delay=60)("bob")
    clear_jobs()
    result = app.test_cli_runner().invoke(args=["spool", "ls"])
    assert (waiting_jobs(), result.output.strip()) == ([], "no jobs")


def test_clear_jobs_leaves_no_callback_of_a_batch_whose_members_it_cancels(app: Flask) -> None:
    with Batch("greetings", then=greet.call("all")) as batch:
        batch.add(greet, "ann")
    assert [job.args for job in waiting_jobs()] == [("ann",)]
    clear_jobs()
    assert waiting_jobs() == []
    with pytest.raises(UnknownBatchError):
        _ = batch.status


def test_run_jobs_runs_a_batch_and_its_callback(app: Flask) -> None:
    with Batch("greetings", then=greet.call("all")) as batch:
        batch.add(greet, "ann")
        batch.add(fails.using(retries=0).call())
    assert [job.args for job in run_jobs(check=False)] == [("ann",), (), ("all",)]
    assert batch.complete


def test_a_parked_job_is_a_waiting_job_and_can_be_run_and_cleared(app: Flask) -> None:
    jobs = [one_at_a_time(n) for n in range(3)]
    for job in jobs:
        path = spoolfile.locate(locations.spool_dir(), job.id)
        assert path is not None
        parked.park(path, locations.spool_dir(), limits.group(job.limit_key or ""))
    assert waiting_jobs() == jobs
    assert sorted(run_jobs(), key=lambda job: job.id) == jobs
    path = spoolfile.locate(locations.spool_dir(), one_at_a_time(3).id)
    assert path is not None
    parked.park(path, locations.spool_dir(), limits.group(jobs[0].limit_key or ""))
    clear_jobs()
    assert waiting_jobs() == []


def test_run_jobs_and_clear_jobs_refuse_outside_a_test_run(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "is_test_run", lambda: False)
    for function in (run_jobs, clear_jobs):
        with pytest.raises(ValueError, match="is for tests only"):
            function()


SITE = """
from flask import Flask
from spoolkit import SpoolKit, spool
app = Flask(__name__)
SpoolKit(app)
@spool
def job(): pass
at_import = job()
"""

TEST = """
import shop
def test_the_job_is_not_where_the_site_has_its_jobs():
    assert shop.at_import.state == "queued"
    shop.job()
"""


def test_a_job_enqueued_while_tests_are_collected_reaches_no_real_directory(tmp_path: Path) -> None:
    site, temporary = tmp_path / "site", tmp_path / "temporary"
    site.mkdir()
    temporary.mkdir()
    (site / "shop.py").write_text(SITE)
    (site / "test_shop.py").write_text(TEST)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SPOOLKIT", "PYTEST"))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = subprocess.run(
        command,
        cwd=site,
        env={**env, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert not (site / "my_spools").exists()
    assert list(temporary.glob("spoolkit-tests-*")) == [], "the private directory outlived the run"
