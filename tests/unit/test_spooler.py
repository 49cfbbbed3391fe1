"""The spooler process of ``flask spool run``, on its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from descriptors import descriptors

from spoolkit.spooldir import gate, spoolfile
from spoolkit.spooling.standalone import Spooler

USED_UP = """
import os, resource, sys
from spoolkit.spooling.standalone import Spooler
spooler = Spooler(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    while True:
        os.dup(0)
except OSError:
    pass
spooler.run_due()
print("it goes on")
"""


def test_a_process_without_a_free_descriptor_ends_and_is_replaced(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USED_UP, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Too many open files" in done.stderr


def test_who_only_runs_what_is_due_keeps_no_descriptor(tmp_path: Path) -> None:
    """As many tests do, here and in sites. From 1,024 descriptors on, ``select()`` fails."""
    before = descriptors()
    spoolers = [Spooler(str(tmp_path)) for _ in range(5)]
    for spooler in spoolers:
        spooler.run_due()
    assert descriptors() == before


def test_a_paused_spooler_does_not_list_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spooler = Spooler(str(tmp_path))
    gate.pause(str(tmp_path))
    monkeypatch.setattr(spoolfile, "scanned", None)
    spooler.run_due()
    assert spooler._until_next() == 1.0
