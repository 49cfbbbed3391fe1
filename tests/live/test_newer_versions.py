"""What a newer version has left behind, on a real uWSGI: it waits for that version, and the log says so."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from pathlib import Path

from uwsgi_server import wait_until

from spoolkit.encoding import chunk, packet
from spoolkit.job import JobSpec, new_id
from spoolkit.spooldir import chunks, dead, spoolfile

from .conftest import StartSite

TASK = "site_tasks.note"


def newer(content: packet.Packet) -> bytes:
    """The file of a version that has an option of this name."""
    return packet.dump(packet.Packet({**content.fields, b"frobnicate": b"?", b"must": b"frobnicate"}, content.body))


def put(spool: Path, word: str, folder: str = "") -> None:
    job = JobSpec(new_id(), TASK, (word,), enqueued_at=time.time())
    (spool / folder).mkdir(mode=0o700, exist_ok=True)
    spoolfile.write(str(spool / folder), job.id, newer(packet.pack(job, max_body=1000)))


def put_chunk(spool: Path, *words: str) -> None:
    stem = chunk.stem(new_id(), 0, len(words))
    calls = [packet.encode_arguments((word,), {}, max_body=100) for word in words]
    jobs = chunk.Chunk(stem, JobSpec("", TASK, enqueued_at=time.time()))
    chunks.write(str(spool), [(stem, newer(chunk.pack(jobs, calls)))])


def test_a_job_of_a_newer_version_waits_until_that_version_comes(start_site: StartSite, tmp_path: Path) -> None:
    """Alone, in a folder of a priority, and in a chunk; other jobs run meanwhile, and nothing is dead."""
    older = start_site("spooler-ordered = true", module="newer_site", spoolers=2)
    put(older.spool, "alone")
    put(older.spool, "urgent", folder="5")
    put_chunk(older.spool, "first", "second")
    older.server.wait_for_log("is left for a newer version of spoolkit: the job has 'frobnicate'")
    for word in ("beside", "and again"):
        older.call("note", word.replace(" ", "-"))
        older.history.wait_for("note", word.replace(" ", "-"))
    wait_until(lambda: len(spoolfile.pending(str(older.spool))) == 3)  # one of them is on its way for a moment
    assert dead.paths(str(older.spool)) == []
    older.server.kill()
    newer_version = start_site("spooler-ordered = true", module="newer_site", env={"KNOWS": "yes"})
    words = ("alone", "urgent", "first", "second")
    for word in words:
        newer_version.history.wait_for("note", word)
    wait_until(lambda: not spoolfile.pending(str(newer_version.spool)))
    assert [len(newer_version.history.events("note", word)) for word in words] == [1] * 4
    assert os.listdir(newer_version.spool / "dead") == []


def write_newer_store(spool: Path) -> None:
    with contextlib.closing(sqlite3.connect(spool / "spoolkit.db")) as db:
        db.execute("PRAGMA user_version = 99")
    (spool / "spoolkit.db").chmod(0o600)


def test_no_job_starts_beside_a_store_of_a_newer_version(start_site: StartSite, tmp_path: Path) -> None:
    """Also after a reload, which replaces the spoolers that wait."""
    (tmp_path / "spool").mkdir(mode=0o700)
    write_newer_store(tmp_path / "spool")
    site = start_site(spoolers=2)
    site.server.wait_for_log(r"spooler \d+ starts no job.*schema has version 99.*update spoolkit")
    site.server.wait_for_log("accepts jobs, which wait")
    site.call("note", "one")
    before = set(site.server.spooler_pids())
    os.kill(site.server.master_pid, signal.SIGHUP)
    wait_until(lambda: (pids := set(site.server.spooler_pids())) and not pids & before, message=site.server.log)
    site.call("note", "two")
    removed = time.time()
    (site.spool / "spoolkit.db").unlink()
    for word in ("one", "two"):
        (event,) = site.history.wait_for("note", word)
        assert event.time > removed
    site.wait_empty()
    assert site.dead() == {}
