"""The benchmark suite runs: each figure of each contender, with few jobs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PROJECT

UWSGI = {"spoolkit", "uwsgidecorators", "uwsgi-tasks"}


@pytest.mark.matrix
def test_the_suite_measures_every_figure_and_counts_every_job(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--pending", "100", "--output", tmp_path]
    env = {**os.environ, "BENCH_JOBS": os.environ.get("BENCH_JOBS") or "200"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=env)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "results.json").read_text())
    # A delayed job of the others may run at once: uWSGI sets the time after it has written the file.
    assert "spoolkit" not in report["wrong"]
    assert report["results"].keys() == UWSGI | {"spoolkit, printed ini"}
    for name in UWSGI:
        [values] = report["results"][name]
        assert values.keys() == {figure["name"] for figure in report["figures"]}, name
    [values] = report["results"]["spoolkit"]
    assert values["early"] == values["early_pending"] == 0
    assert "ran exactly once" in (tmp_path / "results.md").read_text()
