"""The benchmark suite runs: each figure of each contender, with few jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from brokers import is_installed

from .conftest import PROJECT

RIVALS = PROJECT / ".venv-bench-rivals"
UWSGI = {"spoolkit", "uwsgidecorators", "uwsgi-tasks"}


def measure(output: Path, *options: str) -> dict[str, Any]:
    """One round with few jobs; the report."""
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--output", output, *options]
    env = {**os.environ, "BENCH_JOBS": os.environ.get("BENCH_JOBS") or "200"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=env, timeout=100)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads((output / "results.json").read_text())
    return report


@pytest.mark.matrix
def test_the_suite_measures_every_figure_and_counts_every_job(tmp_path: Path) -> None:
    report = measure(tmp_path, "--pending", "100")
    # A delayed job of the others may run at once: uWSGI sets the time after it has written the file.
    assert "spoolkit" not in report["wrong"]
    assert report["results"].keys() == UWSGI
    for name in UWSGI:
        [values] = report["results"][name]
        assert values.keys() == {figure["name"] for figure in report["figures"]}, name
    [values] = report["results"]["spoolkit"]
    assert values["early"] == values["early_pending"] == 0
    assert "ran exactly once" in (tmp_path / "results.md").read_text()


@pytest.mark.matrix
@pytest.mark.skipif(
    not (RIVALS / ".made").exists() or not shutil.which("redis-server"),
    reason="make bench RIVALS=all makes the environment of the rivals; they need a redis-server",
)
def test_each_rival_runs_each_job_exactly_once(tmp_path: Path) -> None:
    report = measure(tmp_path, "--rivals", str(RIVALS), "--only", "Redis,SQLite", "drain")
    assert report["wrong"] == {}
    assert len(report["results"]) == 7
    assert all(values["drain"] > 0 for [values] in report["results"].values())


@pytest.mark.matrix
def test_another_checkout_is_measured_with_its_own_code(tmp_path: Path) -> None:
    """The code of the other checkout is on the path first: a broken one is not replaced by ours."""
    package = tmp_path / "other" / "src" / "spoolkit"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('this is the other checkout')\n")
    command = [sys.executable, "-m", "benchmarks", "--base", tmp_path / "other", "--only", "other", "drain"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, timeout=100)
    assert done.returncode != 0
    assert "this is the other checkout" in done.stderr


@pytest.mark.matrix
@pytest.mark.timeout(480)
@pytest.mark.skipif(not is_installed("redis"), reason="redis is not installed")
def test_jobs_in_workers_are_measured_and_all_of_them_run() -> None:
    command = [sys.executable, "-m", "benchmarks.over_celery", "redis"]
    few = ["--jobs", "20", "--rounds", "1", "--away", "1"]
    done = subprocess.run([*command, *few], capture_output=True, text=True, cwd=PROJECT, timeout=420)
    assert "Traceback" not in done.stderr, done.stderr
    for line in ("Enqueue, celery ÷ spool", "broker is away ÷ while it is there, p99", "| Steady: enqueued and run"):
        assert line in done.stdout
    assert "did not run" not in done.stdout
