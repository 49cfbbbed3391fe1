"""The benchmark suite runs: each figure of each contender, with few jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PROJECT


@pytest.mark.matrix
def test_the_suite_measures_every_figure_and_counts_every_job(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--output", tmp_path]
    env = {**os.environ, "BENCH_JOBS": os.environ.get("BENCH_JOBS") or "200"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=env)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "results.json").read_text())
    assert summary["wrong"] == {}
    assert set(summary["results"]) == {"spoolkit", "uwsgidecorators", "uwsgi-tasks"}
    for name, (values,) in summary["results"].items():
        assert values.keys() == {figure["name"] for figure in summary["figures"]}, name
        assert all(value >= 0 for value in values.values()), name
    assert "Each job ran exactly once." in (tmp_path / "results.md").read_text()
