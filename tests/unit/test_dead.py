"""Dead letters: moved with a reason, found, requeued, and deleted when they are old."""

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


# quarantine


def test_quarantine_moves_the_file_and_writes_the_reason_beside_it(spool: str) -> None:
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


def test_paths_skip_a_report_that_is_being_written(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, seen = os.rename, []

    def looked_at(source: str, target: str) -> None:
        seen.append((os.path.basename(source), dead.paths(spool)))
        rename(source, target)

    monkeypatch.setattr(os, "rename", looked_at)
    kept = set_aside(spool)
    written = [(name, found) for name, found in seen if ".json." in name]
    assert [found for _, found in written] == [[]]
    monkeypatch.undo()
    # Left behind by a killed process.
    (Path(spool) / "dead" / written[0][0]).write_text("{")
    assert dead.paths(spool) == [kept]
    assert dead.locate(spool, "x" * 32, known=written[0][0]) is None


def test_quarantine_moves_a_file_from_a_priority_to_the_same_folder(spool: str) -> None:
    os.mkdir(f"{spool}/7")
    path = spoolfile.write(f"{spool}/7", new_id(), b"data")
    assert os.path.dirname(dead.quarantine(path, spool, reason="x")) == f"{spool}/dead"


def test_quarantine_keeps_an_earlier_file_of_the_same_name(spool: str) -> None:
    paths = [set_aside(spool, "x", reason=str(number)) for number in range(3)]
    assert len(set(paths)) == 3
    assert [dead.report(path)["reason"] for path in paths] == ["0", "1", "2"]
    assert dead.paths(spool) == sorted(paths)


def test_quarantine_keeps_an_earlier_report_without_its_file(spool: str) -> None:
    first = set_aside(spool, "x", reason="first")
    os.unlink(first)
    assert set_aside(spool, "x") != first
    assert dead.report(first)["reason"] == "first"


def test_quarantine_keeps_an_earlier_file_without_its_report(spool: str) -> None:
    first = set_aside(spool, "x")
    os.unlink(f"{first}.json")
    assert set_aside(spool, "x") != first
    assert len(dead.paths(spool)) == 2


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=230).filter(lambda name: not {0, 47} & set(name)))
def test_quarantine_gives_any_file_a_readable_name(spool: str, name: bytes) -> None:
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
def test_quarantine_accepts_any_text_as_the_reason(spool: str, text: str) -> None:
    path = dead.quarantine(spoolfile.write(spool, "x", b""), spool, reason=text, task=text, traceback=text)
    assert dead.report(path)["reason"] == text


def test_quarantine_raises_if_the_file_is_gone(spool: str) -> None:
    with pytest.raises(FileNotFoundError):
        dead.quarantine(f"{spool}/{PREFIX}x", spool, reason="x")
    assert dead.paths(spool) == []


def test_quarantine_does_not_follow_a_link(spool: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("of great value")
    os.mkdir(f"{spool}/dead")
    os.symlink(target, f"{spool}/dead/{PREFIX}x.json")
    path = set_aside(spool, "x")
    assert dead.report(path)["reason"] == "no use"
    assert target.read_text() == "of great value"


# locate and report


def test_paths_and_delete_find_nothing_without_dead_files(spool: str) -> None:
    assert dead.paths(spool) == []
    assert dead.locate(spool, new_id()) is None
    assert dead.delete_older(spool, clock.now() + 1, 10) == 0


def test_locate_finds_a_job_by_its_id_under_any_file_name(spool: str) -> None:
    first, second, third = new_id(), new_id(), new_id()
    paths = [set_aside(spool, first), set_aside(spool, f"{second}.3"), set_aside(spool, third), set_aside(spool, third)]
    assert dead.locate(spool, first) == paths[0]
    assert dead.locate(spool, second) == paths[1]
    assert dead.locate(spool, second, known=f"{PREFIX}{second}.3") == paths[1]
    assert dead.locate(spool, second, known=f"{PREFIX}{second}.2") == paths[1], "known by an earlier name"
    assert dead.locate(spool, third) in paths[2:]
    assert dead.locate(spool, new_id()) is None


def test_locate_finds_a_file_of_another_library_by_its_name(spool: str) -> None:
    path = set_aside(spool, "host_1_2_3_4")
    assert dead.locate(spool, os.path.basename(path)) == path


def test_locate_does_not_take_a_report_for_a_job(spool: str) -> None:
    path = set_aside(spool)
    assert dead.locate(spool, os.path.basename(f"{path}.json")) is None


@pytest.mark.parametrize("content", [None, b"", b"no json", b"[1]", b"\xff\xfe", b"null"])
def test_report_is_empty_if_it_cannot_be_read(spool: str, content: bytes | None) -> None:
    path = set_aside(spool)
    if content is None:
        os.unlink(f"{path}.json")
    else:
        Path(f"{path}.json").write_bytes(content)
    assert dead.report(path) == {}


# requeue


@pytest.mark.parametrize("suffix", ["", ".3", ".3.1"])
def test_requeue_makes_the_file_due_now_under_its_first_name(spool: str, suffix: str) -> None:
    id = new_id()
    path = set_aside(spool, f"{id}{suffix}")
    os.utime(path, (4e9, 4e9))
    target = dead.requeue(path, spool)
    assert target == f"{spool}/{PREFIX}{id}"
    assert spoolfile.is_due(target)
    assert Path(target).read_bytes() == b"data"
    assert os.listdir(f"{spool}/dead") == []


def test_requeue_keeps_the_name_of_a_file_of_another_library(spool: str) -> None:
    path = set_aside(spool, "host_1_2_3_4")
    assert dead.requeue(path, spool) == f"{spool}/{PREFIX}host_1_2_3_4"


def test_requeue_raises_if_another_process_was_faster(spool: str) -> None:
    path = set_aside(spool)
    dead.requeue(path, spool)
    with pytest.raises(FileNotFoundError):
        dead.requeue(path, spool)


def test_requeue_works_without_a_report(spool: str) -> None:
    path = set_aside(spool)
    os.unlink(f"{path}.json")
    assert os.path.exists(dead.requeue(path, spool))


# delete_older


def test_delete_older_removes_old_files_with_their_reports(spool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [set_aside(spool) for _ in range(3)]
    for path in paths:
        os.utime(path, (1, 1))  # the time at which the job was due does not count
    os.utime(paths[0], (4e9, 4e9))
    assert dead.delete_older(spool, clock.now() - 1000, 10) == 0
    assert dead.paths(spool) == sorted(paths)
    age(monkeypatch, 1001)
    assert dead.delete_older(spool, clock.now() - 1000, 10) == 3
    assert os.listdir(f"{spool}/dead") == []


def test_delete_older_removes_no_more_than_its_limit(spool: str) -> None:
    for _ in range(5):
        set_aside(spool)
    assert [dead.delete_older(spool, time.time() + 1, 2) for _ in range(4)] == [2, 2, 1, 0]


def test_a_report_is_indented_json(spool: str) -> None:
    text = Path(f"{set_aside(spool)}.json").read_text()
    assert json.loads(text)["reason"] == "no use"
    assert "\n" in text
