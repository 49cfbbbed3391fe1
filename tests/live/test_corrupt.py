"""Files that are not jobs: good jobs still run, and every bad file stays visible."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from uwsgi_server import wait_until

from spoolkit.encoding import codec, packet
from spoolkit.job import JobSpec, new_id
from spoolkit.spooldir import dead, spoolfile

from .conftest import StartSite

GOOD = {b"spoolkit": b"1", b"id": b"0" * 32, b"task": b"site_tasks.note", b"enqueued_at": b"1.0"}
CALL = codec.encode_call(("bad",), {}, ["word"])


def file(fields: dict[bytes, bytes], body: bytes = b"") -> bytes:
    return packet.dump(packet.Packet(fields, body))


def pair(key: bytes, value: bytes) -> bytes:
    return struct.pack("<H", len(key)) + key + struct.pack("<H", len(value)) + value


# Files that uWSGI's own code deletes without running them, or ignores for ever.
UNREADABLE = {
    "empty": b"",
    "one-byte": b"\x11",
    "three-bytes": b"\x11\x05\x00",
    "header-only": struct.pack("<BHB", 17, 100, 0),
    "cut-in-a-value": file(GOOD)[:40],
    "cut-in-a-length": struct.pack("<BHB", 17, 1, 0) + b"\x05",
    "empty-key": struct.pack("<BHB", 17, 6, 0) + pair(b"", b"ab"),
    "key-too-long": struct.pack("<BHB", 17, 8, 0) + b"\xff\xff" + b"abcdef",
    "value-too-long": struct.pack("<BHB", 17, 8, 0) + b"\x01\x00k\xff\xffabc",
    "text": b"this was never a spool file\n" * 10,
}

# Files that reach Python and are not jobs.
UNDECODABLE = {
    "nothing-in-it": file({}),
    "foreign": file({b"who": b"knows"}),
    "other-format": file({**GOOD, b"spoolkit": b"99", b"call": CALL}),
    "no-id": file({key: value for key, value in GOOD.items() if key != b"id"} | {b"call": CALL}),
    "id-of-a-path": file({**GOOD, b"id": b"../../etc/passwd", b"call": CALL}),
    "no-arguments": file(GOOD),
    "broken-json": file({**GOOD, b"call": b'[["x"'}),
    "wrong-shape": file({**GOOD, b"call": b'{"a": 1}'}),
    "unknown-tag": file({**GOOD, b"call": b'[[{"$nobody": 1}], {}]'}),
    "unknown-task": file({**GOOD, b"task": b"site_tasks.nobody", b"call": CALL}),
    "not-utf8": file({**GOOD, b"task": b"\xff\xfe", b"call": CALL}),
    "broken-body": file(GOOD, b"\x00\xff" * 1000),
}


def put(spool: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        spoolfile.write(str(spool), name, data)


def test_bad_files_that_exist_before_the_start_do_not_stop_good_jobs_and_stay_visible(
    start_site: StartSite, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    put(spool, UNREADABLE | UNDECODABLE)
    (spool / "uwsgi_spoolfile_on_a_folder").mkdir()
    (spool / "uwsgi_spoolfile_on_a_link").symlink_to("/etc/hostname")
    os.mkfifo(spool / "uwsgi_spoolfile_on_a_pipe")
    with open(os.fsencode(spool) + b"/uwsgi_spoolfile_on_\xff\xfe", "wb") as odd:
        odd.write(file({**GOOD, b"call": CALL}))
    site = start_site(spoolers=2)
    for word in ("one", "two", "three"):
        site.call("note", word)
        site.history.wait_for("note", word)
    # Shorter than a header: it may still be written, so it stays where it is.
    young = {name for name, data in UNREADABLE.items() if len(data) < 4}
    expected = (set(UNREADABLE) | set(UNDECODABLE)) - young
    # And the one whose name is no UTF-8.
    wait_until(
        lambda: len(site.dead()) > len(expected),
        message=lambda: f"not set aside: {expected - {n.removeprefix(spoolfile.PREFIX) for n in site.dead()}}",
    )
    assert {name.removeprefix(spoolfile.PREFIX) for name in site.dead()} >= expected
    assert len(site.dead()) == len(expected) + 1
    assert all(report["reason"] for report in site.dead().values())
    for name in site.dead():
        assert (spool / "dead" / name).exists()
    for name in expected & (set(UNREADABLE) | set(UNDECODABLE)):
        assert (spool / "dead" / f"{spoolfile.PREFIX}{name}").read_bytes() == (UNREADABLE | UNDECODABLE)[name]
    left = {f"{spoolfile.PREFIX}{name}" for name in young | {"a_folder", "a_link", "a_pipe"}}
    # A good job's file goes after its last line.
    wait_until(lambda: set(site.files()) == left, message=lambda: f"{site.files()} instead of {left}")
    assert site.history.events("note", "bad") == []


def test_undecodable_files_that_come_while_uwsgi_runs_become_dead(start_site: StartSite) -> None:
    site = start_site(spoolers=2)
    put(site.spool, UNDECODABLE)
    site.call("note", "good")
    site.history.wait_for("note", "good")
    site.wait_empty()
    assert {name.removeprefix(spoolfile.PREFIX) for name in site.dead()} == set(UNDECODABLE)
    report = site.dead()[f"{spoolfile.PREFIX}unknown-task"]
    assert report["task"] == "site_tasks.nobody"
    assert "site_tasks.nobody" in report["reason"]


def test_a_dead_job_runs_when_its_file_is_moved_back(start_site: StartSite) -> None:
    site = start_site()
    job = JobSpec(id=new_id(), task="site_tasks.note", args=("back",), enqueued_at=1.0)
    data = packet.dump(packet.pack(job, max_body=1000))
    path = spoolfile.write(str(site.spool / ".."), job.id, data)
    moved = dead.quarantine(path, str(site.spool), reason="by hand")
    os.rename(moved, site.spool / os.path.basename(path))
    site.history.wait_for("note", "back")
