"""The guards of the test run itself, in small runs of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SHARED = """
import pytest

@pytest.fixture(scope="module")
def server():
    return object()

@pytest.mark.parametrize("number", range(6))
def test_it(server, number):
    pass

@pytest.mark.matrix
@pytest.mark.parametrize("number", range(40))
def test_long(number):
    pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(CONFTEST, folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = matrix\naddopts = -p no:cacheprovider\n")
    (folder / "test_shared.py").write_text(SHARED)
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", folder, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("options", [(), ("-n", "2", "--dist", "loadfile")])
def test_what_is_made_once_passes(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = run(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_made_in_two_processes_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "-n", "2", "--dist", "load")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "46 passed" in done.stdout
    assert "test_shared.py: server was made 2 times" in done.stdout


def test_the_samples_together_are_the_matrix(tmp_path: Path) -> None:
    found: list[str] = []
    for part in ("1/3", "2/3", "3/3"):
        listed = run(tmp_path, "-m", "matrix", "--sample", part, "--collect-only").stdout
        found += [line for line in listed.splitlines() if "::" in line]
    assert len(found) == len(set(found)) == 40
