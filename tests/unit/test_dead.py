"""What cannot run is set aside with its reason, found again, brought back, and removed once it is old."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoolkit.job import new_id
from spoolkit.spooldir import dead, spoolfile
from spoolkit.spooldir.spoolfile import PREFIX
from spoolkit.system import clock


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path)


def set_aside(spool: str, name: str | None = None, reason: str = "no use") -> str:
    return dead.quarantine(spoolfile.write(spool, name or new_id(), b"data"), spool, reason=reason)


def age(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(clock, "now", lambda: time.time() + seconds)


# Set aside


def test_a_file_is_set_aside_with_its_reason(spool: str) -> None:
    path = spoolfile.write(spool, new_id(), b"data", run_at=4e9)
    target = dead.quarantine(path, spool, reason="no use", task="tasks.some", traceback="Traceback")
    assert target == f"{spool}/dead/{os.path.basename(path)}"
    assert (Path(target).read_bytes(), os.stat(target).st_mtime) == (b"data", 4e9)
    assert not os.path.exists(path)
    report = dead.report(target)
    assert time.time() - 60 < report.pop("time") <= time.time()
    assert report == {
        "file": os.path.basename(path),
        "task": "tasks.some",
        "reason": "no use",
        "traceback": "Traceback",
    }
    assert stat.S_IMODE(os.stat(f"{spool}/dead").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{target}.json").st_mode) == 0o600


def test_a_report_that_is_being_written_is_no_dead_job(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, seen = os.rename, []

    def looked_at(source: str, target: str) -> None:
        seen.append((os.path.basename(source), dead.paths(spool)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", looked_at)
    kept = set_aside(spool)
    written = [(name, found) for name, found in seen if ".json." in name]
    assert [found for _, found in written] == [[]]
    monkeypatch.undo()
    # A kill leaves it behind.
    (Path(spool) / "dead" / written[0][0]).write_text("{")
    assert dead.paths(spool) == [kept]
    assert dead.locate(spool, "x" * 32, known=written[0][0]) is None


def test_from_a_priority_it_goes_to_the_same_place(spool: str) -> None:
    os.mkdir(f"{spool}/7")
    path = spoolfile.write(f"{spool}/7", new_id(), b"data")
    assert os.path.dirname(dead.quarantine(path, spool, reason="x")) == f"{spool}/dead"


def test_what_was_set_aside_earlier_stays(spool: str) -> None:
    paths = [set_aside(spool, "x", reason=str(number)) for number in range(3)]
    assert len(set(paths)) == 3
    assert [dead.report(path)["reason"] for path in paths] == ["0", "1", "2"]
    assert dead.paths(spool) == sorted(paths)


def test_so_does_a_report_whose_file_is_gone(spool: str) -> None:
    first = set_aside(spool, "x", reason="first")
    os.unlink(first)
    assert set_aside(spool, "x") != first
    assert dead.report(first)["reason"] == "first"


def test_so_does_a_file_whose_report_is_gone(spool: str) -> None:
    first = set_aside(spool, "x")
    os.unlink(f"{first}.json")
    assert set_aside(spool, "x") != first
    assert len(dead.paths(spool)) == 2


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=230).filter(lambda name: not {0, 47} & set(name)))
def test_whatever_its_name_it_is_kept_under_one_that_can_be_read(spool: str, name: bytes) -> None:
    path = os.path.join(os.fsencode(spool), PREFIX.encode() + name)
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(fd, name)
    os.close(fd)
    target = dead.quarantine(os.fsdecode(path), spool, reason="x")
    os.path.basename(target).encode()
    assert Path(target).read_bytes() == name
    assert dead.report(target)["file"] == os.path.basename(target)
    assert not os.path.lexists(path)


@pytest.mark.parametrize("text", ["\udcff", "\u20ac\n\0", "x" * 100_000])
def test_whatever_the_reason_it_is_kept(spool: str, text: str) -> None:
    path = dead.quarantine(spoolfile.write(spool, "x", b""), spool, reason=text, task=text, traceback=text)
    assert dead.report(path)["reason"] == text


def test_where_the_file_is_gone_there_is_an_error_and_nothing_is_taken(spool: str) -> None:
    with pytest.raises(FileNotFoundError):
        dead.quarantine(f"{spool}/{PREFIX}x", spool, reason="x")
    assert dead.paths(spool) == []


def test_a_link_in_its_place_is_not_written_through(spool: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("of great value")
    os.mkdir(f"{spool}/dead")
    os.symlink(target, f"{spool}/dead/{PREFIX}x.json")
    path = set_aside(spool, "x")
    assert dead.report(path)["reason"] == "no use"
    assert target.read_text() == "of great value"


# Found again


def test_where_nothing_was_set_aside_there_is_nothing(spool: str) -> None:
    assert dead.paths(spool) == []
    assert dead.locate(spool, new_id()) is None
    assert dead.delete_older(spool, clock.now() + 1, 10) == 0


def test_a_job_is_found_by_its_id_whatever_its_file_is_called(spool: str) -> None:
    first, second, third = new_id(), new_id(), new_id()
    paths = [set_aside(spool, first), set_aside(spool, f"{second}.3"), set_aside(spool, third), set_aside(spool, third)]
    assert dead.locate(spool, first) == paths[0]
    assert dead.locate(spool, second) == paths[1]
    assert dead.locate(spool, second, known=f"{PREFIX}{second}.3") == paths[1]
    assert dead.locate(spool, second, known=f"{PREFIX}{second}.2") == paths[1], "known by an earlier name"
    assert dead.locate(spool, third) in paths[2:]
    assert dead.locate(spool, new_id()) is None


def test_what_is_no_job_is_found_by_its_name(spool: str) -> None:
    path = set_aside(spool, "host_1_2_3_4")
    assert dead.locate(spool, os.path.basename(path)) == path


def test_a_report_is_no_job(spool: str) -> None:
    path = set_aside(spool)
    assert dead.locate(spool, os.path.basename(f"{path}.json")) is None


@pytest.mark.parametrize("content", [None, b"", b"no json", b"[1]", b"\xff\xfe", b"null"])
def test_a_report_that_cannot_be_read_is_empty(spool: str, content: bytes | None) -> None:
    path = set_aside(spool)
    if content is None:
        os.unlink(f"{path}.json")
    else:
        Path(f"{path}.json").write_bytes(content)
    assert dead.report(path) == {}


# Brought back


@pytest.mark.parametrize("suffix", ["", ".3", ".3.1"])
def test_a_job_is_brought_back_due_now_and_under_its_first_name(spool: str, suffix: str) -> None:
    id = new_id()
    path = set_aside(spool, f"{id}{suffix}")
    os.utime(path, (4e9, 4e9))
    target = dead.requeue(path, spool)
    assert target == f"{spool}/{PREFIX}{id}"
    assert spoolfile.is_due(target)
    assert Path(target).read_bytes() == b"data"
    assert os.listdir(f"{spool}/dead") == []


def test_what_is_no_job_keeps_its_name(spool: str) -> None:
    path = set_aside(spool, "host_1_2_3_4")
    assert dead.requeue(path, spool) == f"{spool}/{PREFIX}host_1_2_3_4"


def test_who_comes_second_is_told(spool: str) -> None:
    path = set_aside(spool)
    dead.requeue(path, spool)
    with pytest.raises(FileNotFoundError):
        dead.requeue(path, spool)


def test_it_is_brought_back_without_its_report_too(spool: str) -> None:
    path = set_aside(spool)
    os.unlink(f"{path}.json")
    assert os.path.exists(dead.requeue(path, spool))


# Removed


def test_what_is_old_enough_is_removed_with_its_report(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [set_aside(spool) for _ in range(3)]
    for path in paths:
        os.utime(path, (1, 1))  # when the job was due does not count
    os.utime(paths[0], (4e9, 4e9))
    assert dead.delete_older(spool, clock.now() - 1000, 10) == 0
    assert dead.paths(spool) == sorted(paths)
    age(monkeypatch, 1001)
    assert dead.delete_older(spool, clock.now() - 1000, 10) == 3
    assert os.listdir(f"{spool}/dead") == []


def test_only_so_many_are_removed_at_once(spool: str) -> None:
    for _ in range(5):
        set_aside(spool)
    assert [dead.delete_older(spool, time.time() + 1, 2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_report_is_json_for_people(spool: str) -> None:
    text = Path(f"{set_aside(spool)}.json").read_text()
    assert json.loads(text)["reason"] == "no use"
    assert "\n" in text
