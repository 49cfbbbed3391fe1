"""The spooler process of ``flask spool run``, on its own."""

from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from descriptors import descriptors

from spoolkit.spooldir import gate, spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import polling

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
    before = descriptors(tmp_path)
    spoolers = [Spooler(str(tmp_path)) for _ in range(5)]
    for spooler in spoolers:
        spooler.run_due()
    assert descriptors(tmp_path) == before


def test_a_paused_spooler_does_not_list_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spooler = Spooler(str(tmp_path))
    gate.pause(str(tmp_path))
    monkeypatch.setattr(spoolfile, "scanned", None)
    spooler.run_due()
    assert spooler._until_next() == 1.0


MANY_OPEN = """
import os, resource, sys
from spoolkit.spooling import supervisor
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
while os.dup(0) < 1100:
    pass
sys.exit(supervisor.supervise({sys.argv[1]: 2}, until_eof=os.dup(0)))
"""


may_have_many = pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 1200, reason="this user may not have so many descriptors"
)


@may_have_many
def test_processes_with_more_than_1024_descriptors_wait_for_jobs_and_stop(tmp_path: Path) -> None:
    """As in an application that opens many at its import. There ``select()`` fails."""
    done = subprocess.run(
        [sys.executable, "-c", MANY_OPEN, str(tmp_path)], input="", capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


@may_have_many
def test_what_can_be_read_is_told_by_descriptors_of_any_number() -> None:
    (read, write), (other, held) = os.pipe(), os.pipe()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most[1], most[1]))
    high = fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, 1100)
    try:
        assert polling.readable([high, other], 0) == []
        os.write(write, b"1")
        assert polling.readable([high, other], 60) == [high]
        os.read(high, 1)
        os.close(write)
        assert polling.readable([high, other], 60) == [high], "at its end"
    finally:
        for fd in (read, high, other, held):
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, most)
    with pytest.raises(OSError, match="Bad file descriptor"):
        polling.readable([high], 0)
