"""What a spooler puts right before its first job: files that uWSGI would delete, examined by one of many spoolers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spoolkit.encoding import packet
from spoolkit.job import JobSpec, new_id
from spoolkit.spooldir import spoolfile
from spoolkit.spooling import startup

OTHER_SPOOLER = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.lockf(fd, fcntl.LOCK_EX)
print("locked", flush=True)
if sys.stdin.readline() == "done\\n":
    os.utime(fd, ns=(time.time_ns(),) * 2)
"""


def packed() -> bytes:
    return packet.dump(packet.pack(JobSpec(new_id(), "tasks.x", (1,)), max_body=1000))


@pytest.fixture
def spool(tmp_path: Path) -> str:
    (tmp_path / "spool" / "spoolers").mkdir(parents=True, mode=0o700)
    return str(tmp_path / "spool")


@pytest.fixture
def damaged(spool: str) -> str:
    return spoolfile.write(spool, new_id(), packed()[:-1])


@contextmanager
def other_spooler(spool: str) -> Iterator[subprocess.Popen[str]]:
    """A spooler that examines the jobs until it is written to."""
    path = os.path.join(spool, "spoolers", startup.TIDIED)
    with subprocess.Popen([sys.executable, "-c", OTHER_SPOOLER, path], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.mark.parametrize("end", ["done", "killed"])
def test_a_spooler_examines_the_jobs_unless_another_one_has_done_so_since_its_start(
    spool: str, damaged: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = startup.time.sleep
    with other_spooler(spool) as other:

        def let_other_end(seconds: float) -> None:
            if other.stdin is not None and not other.stdin.closed:
                other.stdin.write(f"{end}\n")
                other.stdin.close()
            sleep(seconds)

        monkeypatch.setattr(startup.time, "sleep", let_other_end)
        startup.tidy(spool)
    assert os.path.exists(damaged) is (end == "done")
    startup.tidy(spool)
    assert not os.path.exists(damaged), "a spooler that starts later examines them again"


def test_a_spooler_that_is_stopped_does_not_keep_others_waiting_for_ever(
    spool: str, damaged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "MAX_WAIT", 0.1)
    with other_spooler(spool):
        startup.tidy(spool)
    assert not os.path.exists(damaged)


def test_a_spooler_examines_the_jobs_where_it_cannot_tell_others_so(spool: str, damaged: str) -> None:
    Path(spool, "spoolers", startup.TIDIED).symlink_to("elsewhere")
    startup.tidy(spool)
    assert not os.path.exists(damaged)
    assert not os.path.exists(os.path.join(spool, "spoolers", "elsewhere"))


def test_files_of_sound_jobs_are_opened_once_and_not_locked(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {spoolfile.write(spool, new_id(), packed()) for _ in range(5)}
    monkeypatch.setattr(spoolfile, "claim", None)
    startup.tidy(spool)
    assert set(spoolfile.scanned(spool)) == paths
