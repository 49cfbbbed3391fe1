"""The guards of the test run itself, in small runs of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from sampling import in_sample

TESTS = Path(__file__).parents[1]
SHARED = """
import pytest

@pytest.fixture(scope="module")
def server():
    return object()

@pytest.mark.parametrize("number", range(6))
def test_number(server, number):
    pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(TESTS / "conftest.py", folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = matrix\n")
    (folder / "test_shared.py").write_text(SHARED)
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", folder, *options]
    env = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


def test_a_shared_fixture_made_in_one_process_passes(tmp_path: Path) -> None:
    done = run(tmp_path, "-n", "2", "--dist", "loadfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_shared_fixture_made_in_two_processes_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, "-n", "2", "--dist", "load")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "6 passed" in done.stdout
    assert "test_shared.py: server was made 2 times" in done.stdout


HANGS = """
import os, signal

def test_fine(): pass

def test_hangs():
    reader, writer = os.pipe()
    if os.fork() == 0:
        signal.pause()
    os.close(writer)
    os.read(reader, 1)
"""


def test_a_test_that_takes_too_long_ends_the_run_with_its_name_and_all_stacks(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGS)
    done = run(tmp_path, "-n", "1", "--max-worker-restart", "0", "--timeout", "1", "test_hanging.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "crashed while running 'test_hanging.py::test_hangs'" in done.stdout
    assert "test_hanging.py::test_hangs has not ended within 1 s" in done.stderr
    assert re.search(r"test_hanging.py\", line \d+ in test_hangs\n", done.stderr)


def test_the_samples_together_are_the_whole_matrix() -> None:
    tests = [f"test_matrix.py::test_number[{number}]" for number in range(400)]
    parts = [[test for test in tests if in_sample(test, f"{part}/8")] for part in range(1, 9)]
    assert sorted(test for part in parts for test in part) == sorted(tests)
    assert min(map(len, parts)) > 20


def test_a_run_with_a_failed_test_is_whole_and_one_that_ended_early_is_not(tmp_path: Path) -> None:
    """``tests/failed_few.py`` lets ``.ci/run`` run a few failed tests once more, and no others in their place."""
    program = [sys.executable, str(TESTS / "failed_few.py"), str(tmp_path / ".pytest_cache")]
    fails = "def test_fails() -> None:\n    raise ValueError\n\n\n"
    (tmp_path / "test_failing.py").write_text(fails)
    run(tmp_path, "-n", "1", "test_failing.py")
    done = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "test_failing.py::test_fails\n"), done.stderr
    (tmp_path / "test_failing.py").write_text(fails + HANGS)
    run(tmp_path, "-n", "1", "--max-worker-restart", "0", "--timeout", "1", "test_failing.py")
    done = subprocess.run(program, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (1, "not all tests were run\n")
