"""The doctor finds each problem where it is, finds nothing in a healthy directory, and its remedies work."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from descriptors import descriptors
from life_process import read_pipe, wait_child
from uwsgi_server import wait_until

from spoolkit.doctor import directory as directory_checks
from spoolkit.doctor import machine
from spoolkit.doctor.examine import examine
from spoolkit.doctor.findings import Entry, Finding
from spoolkit.doctor.spoolers import stranded
from spoolkit.encoding import packet
from spoolkit.job import JobSpec, new_id
from spoolkit.spooldir import dead, later, spoolers, spoolfile
from spoolkit.spooldir.spoolfile import PREFIX, TEMPORARY
from spoolkit.store import Store
from spoolkit.system import clock, files
from spoolkit.uwsgi import instance

HEALTHY = {
    "master": "true",
    "enable-threads": "true",
    "spooler": "%dmy spool",
    "spooler-frequency": "1",
    "die-on-term": "true",
    "http-socket": "127.0.0.1:0",
    "buffer-size": "32768",
}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away and mount")


@dataclass
class Site:
    """A spool directory with an ini file that serves it."""

    root: Path
    ini: dict[str, str] = field(default_factory=lambda: dict(HEALTHY))
    lines: list[str] = field(default_factory=list)

    @property
    def spool(self) -> Path:
        return self.root / "my spool"

    @property
    def store(self) -> Path:
        return self.spool / "spoolkit.db"

    @property
    def ini_path(self) -> Path:
        return self.root / "uwsgi.ini"

    def examine(self, **given: Any) -> list[Finding]:
        options = [f"{name} = {value}" for name, value in self.ini.items()]
        self.ini_path.write_text("\n".join(["[uwsgi]", *options, *self.lines, ""]))
        found = examine(str(self.spool), **{"store": str(self.store), "ini": str(self.ini_path), **given})
        return apart_from_deploying(found)

    def only(self, **given: Any) -> Finding:
        (finding,) = self.examine(**given)
        return finding

    def job(self, *, due: float = 0.0, folder: str = "", name: str = "", data: bytes | None = None) -> Path:
        """Write the file of a job that has been due for ``due`` seconds."""
        place = self.spool / folder
        place.mkdir(mode=0o700, exist_ok=True)
        job = JobSpec(id=new_id(), task="tasks.some", enqueued_at=1.0)
        content = packet.dump(packet.pack(job, max_body=1000)) if data is None else data
        return Path(spoolfile.write(str(place), name or job.id, content, run_at=time.time() - due))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    site.spool.mkdir(mode=0o700)
    me = spoolers.SpoolerFile(str(site.spool))
    yield site
    me.leave()


def apart_from_deploying(findings: list[Finding]) -> list[Finding]:
    """The findings without those about a stop or a reload, which tests/live/test_pausing.py covers."""
    return [finding for finding in findings if finding.check not in ("stop", "reload")]


def heal(finding: Finding) -> None:
    """Run the command of the remedy."""
    done = subprocess.run(["bash", "-c", finding.remedy], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (finding, done.stderr)


@contextlib.contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A process that calls ``work`` and then waits."""
    ready, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(ready)
            held = [work()]
            os.write(write, b"x")
            while held:
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(write)
        assert read_pipe(ready) == b"x", "the child failed"
        yield pid
    finally:
        os.close(ready)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_child(pid)


def lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")


def counts(finding: Finding, site: Site) -> list[int]:
    """The numbers in the problem, without those in paths."""
    plain = re.sub(re.escape(str(site.root)) + "[^:;,]*", "", finding.problem)
    return [int(digits) for digits in re.findall(r"\b\d+\b", plain)]


# Health


def test_examine_finds_nothing_in_a_healthy_directory(site: Site) -> None:
    store = Store(str(site.store))
    store.record_event("0" * 32, "looked at")
    store.claim(JobSpec(id="1" * 32, task="tasks.some"), file=None, still_there=lambda: True, max_attempts=1)
    site.job(due=0)
    site.job(due=-1000)
    (site.spool / "README").write_text("a note of ours")
    (site.spool / f"{TEMPORARY}{new_id()}").write_bytes(b"being written")
    assert site.examine() == []
    store.close()


def test_examine_finds_nothing_in_a_directory_with_jobs_of_another_library(site: Site) -> None:
    assert site.examine() == []
    site.job(name="host_1_2_3_4", data=packet.dump(packet.Packet({b"ud_spool_func": b"f"})))
    assert site.examine() == []


def test_examine_follows_a_link_to_the_spool_directory(site: Site) -> None:
    (site.root / "link").symlink_to(site.spool)
    assert site.examine() == []
    found = examine(str(site.root / "link"), store=str(site.store), ini=str(site.ini_path))
    assert apart_from_deploying(found) == []


def test_examine_changes_no_file_and_leaks_no_descriptor(site: Site) -> None:
    path = site.job(due=1000, data=b"\x11\xff\xff\x00broken")
    site.job(due=1000)
    before, opened = {path: path.lstat() for path in site.root.rglob("*")}, descriptors(site.root)
    assert site.examine()
    assert len(descriptors(site.root)) == len(opened)
    assert path.read_bytes() == b"\x11\xff\xff\x00broken"
    after = {path: path.lstat() for path in site.root.rglob("*")}
    assert after.keys() - before.keys() == {site.ini_path}
    assert {path: about.st_mtime_ns for path, about in before.items() if path.is_file()} == {
        path: about.st_mtime_ns for path, about in after.items() if path in before and path.is_file()
    }


# The options of uWSGI

OPTIONS = {
    "master is off": ({"master": "false"}, "master", "error"),
    "master is off, in words": ({"master": "No"}, "master", "error"),
    "no threads": ({"enable-threads": None}, "threads", "warning"),
    "threads = N is not the same": ({"enable-threads": None, "threads": "2"}, "threads", "warning"),
    "no spooler": ({"spooler": None}, "spooler", "error"),
    "a relative spooler": ({"spooler": "my spool"}, "spooler", "warning"),
    "another spooler": ({"spooler": "/var/spool/other"}, "spooler", "error"),
    "harakiri": ({"spooler-harakiri": "60"}, "spooler-harakiri", "warning"),
    "processes by a placeholder": ({"spooler-processes": "$(N)"}, "spooler-processes", "warning"),
    "frequency 30": ({"spooler-frequency": "30"}, "spooler-frequency", "warning"),
    "frequency 11": ({"spooler-frequency": "11"}, "spooler-frequency", "warning"),
    "frequency 0": ({"spooler-frequency": "0"}, "spooler-frequency", "error"),
    "frequency in words": ({"spooler-frequency": "often"}, "spooler-frequency", "error"),
    "frequency below a second": ({"spooler-frequency": "0.5"}, "spooler-frequency", "error"),
    "lazy-apps": ({"lazy-apps": "true", "module": "app:app"}, "spooler-import", "error"),
    "lazy": ({"lazy": "true", "module": "app:app"}, "spooler-import", "error"),
    "a guard without an application": ({"spooler-import": "spoolkit.guard"}, "spooler-import", "error"),
    "a factory that the spooler's import does not call": (
        {"lazy-apps": "true", "module": "shop:create_app()", "spooler-import": "shop"},
        "spooler-import",
        "warning",
    ),
    "a file that the spooler's import does not execute": (
        {"lazy-apps": "true", "wsgi-file": "app.py", "spooler-import": "tasks"},
        "spooler-import",
        "warning",
    ),
    "a path to import": ({"spooler-import": "shop/tasks.py"}, "spooler-import", "warning"),
    "an interpreter for each application": ({"module": "one:app", "mount": "/two=two:app"}, "interpreters", "error"),
    "no die-on-term": ({"die-on-term": None}, "die-on-term", "warning"),
    "die-on-term is off": ({"die-on-term": "0"}, "die-on-term", "warning"),
    "a hook for another signal": (
        {"die-on-term": None, "hook-master-start": "unix_signal:1 gracefully_kill_them_all"},
        "die-on-term",
        "warning",
    ),
    "the default for headers": ({"buffer-size": None}, "buffer-size", "warning"),
    "little room for headers": ({"buffer-size": "4096"}, "buffer-size", "warning"),
    "an http router": ({"http": "127.0.0.1:0"}, "socket", "warning"),
    "a socket": ({"socket": "127.0.0.1:0"}, "socket", "warning"),
    "a socket, named": ({"socket": "127.0.0.1:0", "protocol": "uwsgi"}, "socket", "warning"),
    "a uwsgi-socket": ({"uwsgi-socket": "/tmp/s", "protocol": "http"}, "socket", "warning"),
    "a socket open to the spooler": ({"socket": "/tmp/s", "allowed-modifiers": "0, 17"}, "socket", "warning"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_keep_jobs_from_running_are_found_and_the_remedy_works(site: Site, case: str) -> None:
    changes, check, severity = OPTIONS[case]
    for name, value in changes.items():
        if value is None:
            site.ini.pop(name, None)
        else:
            site.ini[name] = value
    finding = site.only()
    assert (finding.check, finding.severity) == (check, severity)
    assert finding.problem.startswith(f"{site.ini_path}: ")
    name, _, value = finding.remedy.partition(" = ")
    assert ";" not in value, "in an ini file a comment does not begin behind a value"
    site.ini[name] = value
    assert site.examine() == []


HARMLESS: dict[str, dict[str, str | None]] = {
    "master is made by the spooler": {"master": None},
    "a flag without a value": {"master": "", "enable-threads": "", "die-on-term": ""},
    "a hook that stops": {"die-on-term": None, "hook-master-start": "unix_signal:15 gracefully_kill_them_all"},
    "frequency 10": {"spooler-frequency": "10"},
    "no frequency, which spoolkit sets to 1": {"spooler-frequency": None},
    "frequency by its short name": {"spooler-frequency": None, "spooler-freq": "2"},
    "no harakiri": {"spooler-harakiri": "0"},
    "several processes": {"spooler-processes": "4"},
    "lazy-apps that import": {"lazy-apps": "true", "spooler-import": "app"},
    "lazy-apps that import for all": {"lazy-apps": "true", "shared-pyimport": "app"},
    "lazy-apps is off": {"lazy-apps": "false"},
    "a closed socket": {"socket": "127.0.0.1:0", "allowed-modifiers": "0"},
    "a closed router": {"http": "127.0.0.1:0", "allowed-modifiers": "0"},
    "a socket that speaks http": {"socket": "127.0.0.1:0", "protocol": "http"},
    "a spooler elsewhere": {"spooler": None, "spooler-external": "%dmy spool", "spooler-frequency": None},
    "a spooler by another way": {"spooler": "%d../%c/my spool/"},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_options_are_not_findings(site: Site, case: str) -> None:
    for name, value in HARMLESS[case].items():
        if value is None:
            site.ini.pop(name, None)
        else:
            site.ini[name] = value
    assert site.examine() == []


def test_options_of_spoolers_are_not_expected_of_an_instance_without_spoolers(site: Site) -> None:
    for name in ("spooler", "spooler-frequency"):
        del site.ini[name]
    site.ini |= {"spooler-external": str(site.spool), "lazy-apps": "true"}
    site.job(folder="7")
    assert site.examine() == []


def test_two_different_values_of_spooler_processes_are_found(site: Site) -> None:
    site.lines = ["spooler-processes = 2", "spooler-processes = 3"]
    assert site.only().check == "spooler-processes"
    site.lines = ["spooler-processes = 3", "spooler-processes = 3"]
    assert site.examine() == []


def test_one_matching_spooler_among_several_is_enough(site: Site) -> None:
    site.lines = ["spooler = /var/spool/other"]
    assert site.examine() == []


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["ini = %p"], "includes itself"),
        (["include = %dnowhere.ini"], "nowhere.ini"),
        (["include = %dmore.yml"], "not an ini file"),
        (["if-moon = full", "x = y"], "moon"),
    ],
)
def test_an_unreadable_ini_file_is_found_and_the_rest_is_examined(site: Site, lines: list[str], says: str) -> None:
    site.lines = lines
    site.spool.chmod(0o777)
    first, second = site.examine()
    assert (first.check, second.check) == ("ini", "permissions")
    assert says in first.problem


def test_a_missing_ini_file_is_found(site: Site) -> None:
    finding = site.only(ini=str(site.root / "nowhere.ini"))
    assert finding.check == "ini"
    assert "nowhere.ini" in finding.problem


# The uWSGI that runs


def publish(site: Site, *, version: str = "2.0.31", **options: object) -> None:
    given: dict[str, object] = {name: value.encode() for name, value in HEALTHY.items()}
    given["spooler"] = str(site.spool).encode()
    given |= {name.replace("_", "-"): value for name, value in options.items()}
    instance.publish(
        str(site.spool), {key: value for key, value in given.items() if value is not None}, os.getpid(), version
    )


def test_without_an_ini_file_the_running_uwsgi_is_examined(site: Site) -> None:
    publish(site)
    assert site.examine(ini=None) == []
    publish(site, spooler_frequency=b"30")
    finding = site.only(ini=None)
    assert finding.check == "spooler-frequency"
    assert finding.problem.startswith(f"the running uWSGI (pid {os.getpid()}): ")


@pytest.mark.parametrize(
    ("version", "options", "severity"),
    [
        ("2.0.26", {}, "error"),
        ("2.0.9", {}, "error"),
        ("2.0.26", {"threads": b"2"}, "warning"),
        ("2.0.27", {}, "warning"),
        ("2.1", {}, "warning"),
    ],
)
def test_missing_enable_threads_is_an_error_only_before_2_0_27(
    site: Site, version: str, options: dict[str, object], severity: str
) -> None:
    publish(site, version=version, enable_threads=None, **options)
    finding = site.only(ini=None)
    assert (finding.check, finding.severity) == ("threads", severity)


def test_a_running_uwsgi_with_only_its_last_spooler_and_hook_known_has_no_findings(site: Site) -> None:
    publish(site, spooler=b"/var/spool/other", die_on_term=None, hook_master_start=b"unix_signal:2 stop")
    assert site.examine(ini=None) == []


def test_without_a_known_uwsgi_no_options_are_examined(site: Site) -> None:
    assert site.examine(ini=None) == []


# The spoolers


def test_a_directory_without_a_living_spooler_is_found(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.spool.mkdir(mode=0o700)
    assert (site.only().check, site.only().severity) == ("spooler-alive", "error")
    assert "no uWSGI is known" not in site.only().problem
    assert "no uWSGI is known" in site.only(ini=None).problem


def test_a_dead_spooler_and_another_process_with_its_pid_do_not_count_as_alive(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.spool.mkdir(mode=0o700)
    with child(lambda: spoolers.SpoolerFile(str(site.spool))) as pid:
        assert site.examine() == []
    assert site.only().check == "spooler-alive"
    (site.spool / "spoolers" / str(os.getpid())).write_bytes((site.spool / "spoolers" / str(pid)).read_bytes())
    assert site.only().check == "spooler-alive"


def test_a_stopped_spooler_is_found_and_the_remedy_continues_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.spool.mkdir(mode=0o700)
    with child(lambda: spoolers.SpoolerFile(str(site.spool))) as pid:
        stop(pid)
        finding = site.only()
        assert (finding.check, finding.remedy) == ("spooler-alive", f"kill -CONT {pid}")
        heal(finding)
        wait_until(lambda: site.examine() == [])


def test_a_lock_held_by_another_program_is_found(site: Site) -> None:
    path = site.job(due=10)
    with child(lambda: lock(path)) as pid:
        finding = site.only()
        assert finding.check == "lock"
        assert f"pid {pid}" in finding.problem
        assert str(path) in finding.problem
        heal(finding)
        wait_until(lambda: site.examine() == [])


def test_a_lock_held_by_a_stopped_process_is_found(site: Site) -> None:
    path = site.job(due=10)
    with child(lambda: lock(path)) as pid:
        stop(pid)
        finding = site.only()
        assert (finding.check, finding.remedy) == ("lock", f"kill -CONT {pid}")


def test_a_lock_held_in_another_container_is_found(site: Site) -> None:
    path = site.job(due=10)
    # As the kernel shows what has no pid here: a lock of a descriptor instead of a process.
    fd = os.open(path, os.O_RDWR)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, b"\1\0" + bytes(30))
    finding = site.only()
    assert (finding.check, finding.remedy) == ("lock", "run all spoolers of a directory in one container")
    os.close(fd)
    assert site.examine() == []


def test_a_lock_on_a_job_that_has_just_become_due_is_ignored(site: Site) -> None:
    path = site.job(due=0)
    with child(lambda: lock(path)):
        assert site.examine() == []


def test_a_lock_held_by_a_spooler_is_found_only_if_it_is_stopped(site: Site) -> None:
    path = site.job(due=1000)

    def serve() -> object:
        return spoolers.SpoolerFile(str(site.spool)), lock(path)

    with child(serve) as pid:
        assert site.examine() == [], "a job that runs is not late either"
        stop(pid)
        assert sorted(finding.check for finding in site.examine()) == ["lock", "spooler-alive"]


def test_jobs_due_for_too_long_are_counted_with_the_age_of_the_oldest(site: Site) -> None:
    site.job(due=70)
    site.job(due=100)
    site.job(due=50)
    finding = site.only()
    assert finding.check == "due-job"
    jobs, seconds = counts(finding, site)
    assert jobs == 2
    assert 100 <= seconds < 130
    assert finding.remedy == "spooler-processes = 2"
    assert site.examine(max_due_age=200) == []
    assert counts(site.only(max_due_age=10), site)[0] == 3


def test_a_late_job_without_a_spooler_has_the_remedy_of_the_missing_spooler(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.spool.mkdir(mode=0o700)
    site.job(due=100)
    alive, due = site.examine()
    assert (alive.check, due.check) == ("spooler-alive", "due-job")
    assert alive.remedy == due.remedy


# The files


@pytest.mark.parametrize(
    ("mode", "severity"), [(0o750, "warning"), (0o755, "warning"), (0o770, "error"), (0o702, "error"), (0o500, "error")]
)
def test_a_spool_directory_that_other_users_can_open_is_found(site: Site, mode: int, severity: str) -> None:
    site.spool.chmod(mode)
    (finding,) = (found for found in site.examine() if found.check != "clock")  # for which it must write there
    assert (finding.check, finding.severity) == ("permissions", severity)
    assert f"{mode:04o}" in finding.problem
    heal(finding)
    assert site.examine() == []


@pytest.mark.parametrize(
    ("mode", "severity"), [(0o000, "error"), (0o400, "error"), (0o200, "error"), (0o640, "warning"), (0o602, "warning")]
)
@pytest.mark.parametrize("folder", ["", "7"])
def test_a_job_that_uwsgi_cannot_open_or_other_users_can_is_found(
    site: Site, mode: int, severity: str, folder: str
) -> None:
    if folder:
        site.ini["spooler-ordered"] = "true"
    site.job(folder=folder).chmod(mode)
    finding = site.only()
    assert (finding.check, finding.severity) == ("permissions", severity)
    assert counts(finding, site)[0] == 1
    heal(finding)
    assert site.examine() == []


@needs_root
def test_a_directory_and_jobs_of_another_owner_are_found(site: Site) -> None:
    path = site.job()
    os.chown(path, 4242, -1)
    finding = site.only()
    assert (finding.check, finding.severity) == ("permissions", "error")
    heal(finding)
    assert site.examine() == []
    os.chown(site.spool, 4242, -1)
    finding = site.only()
    assert "4242" in finding.problem
    heal(finding)
    assert site.examine() == []


@needs_root
def test_the_expected_owner_is_the_user_of_the_spoolers(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.spool.mkdir(mode=0o700)
    os.chown(site.spool, 4242, -1)

    def serve() -> object:
        me = spoolers.SpoolerFile(str(site.spool))  # as root: another user cannot reach pytest's directories
        os.setuid(4242)
        return me

    with child(serve):
        assert site.examine() == []
        os.chown(site.job(), 0, -1)
        assert site.only().remedy.endswith("-exec chown 4242 {} +")


def test_a_priority_folder_without_spooler_ordered_is_found(site: Site) -> None:
    site.job(folder="7", due=1000)
    finding = site.only()
    assert (finding.check, finding.remedy) == ("spooler-ordered", "spooler-ordered = true")
    assert counts(finding, site) == [1]
    site.lines = [finding.remedy]
    assert site.only().check == "due-job", "now that uWSGI scans it, the job is late"


def test_a_priority_folder_that_is_not_a_number_is_found(site: Site) -> None:
    site.job(folder="urgent now", due=1000)
    finding = site.only()
    assert finding.check == "priority-folder"
    heal(finding)
    assert site.only().check == "due-job"
    assert not any((site.spool / "urgent now").iterdir())


def directory(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("README")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))


def damaged(path: Path) -> None:
    path.write_bytes(b"\x11\xff\xff\x00broken")
    path.chmod(0o600)


def broken_off(path: Path) -> None:
    path.write_bytes(b"\x11\x04\x00\x00\x09\x00ab")
    path.chmod(0o600)


FOREIGN: Mapping[str, tuple[Callable[[Path], None], str, str]] = {
    "a directory": (directory, f"{PREFIX}x", "warning"),
    "a link": (link, f'{PREFIX}it\'s a "link"', "warning"),
    "a fifo": (fifo, f"{PREFIX}x", "warning"),
    "a socket": (listening, f"{PREFIX}x", "warning"),
    "a file that is too short": (damaged, f"{PREFIX}x", "error"),
    "a packet that breaks off": (broken_off, f"{PREFIX}$(touch x)", "error"),
    "a name with a new line": (damaged, f"{PREFIX}a\nb", "error"),
    "a name that is not UTF-8": (damaged, os.fsdecode(PREFIX.encode() + b"\xff"), "error"),
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("folder", ["", "7"])
def test_an_unsound_file_is_found_and_the_remedy_moves_it_to_dead(
    site: Site, case: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, name, severity = FOREIGN[case]
    site.ini["spooler-ordered"] = "true"
    place = site.spool / folder
    place.mkdir(mode=0o700, exist_ok=True)
    monkeypatch.chdir(place)
    make(place / name)
    finding = site.only()
    assert (finding.check, finding.severity) == ("foreign-file", severity)
    assert finding.problem.isprintable()
    heal(finding)
    kind = "dead-job" if stat.S_ISREG(os.lstat(site.spool / "dead" / name).st_mode) else "foreign-file"
    assert [found.check for found in site.examine()] == [kind]
    assert os.listdir(site.spool / "dead") == [name]


def test_a_damaged_file_is_found_with_the_reason(site: Site) -> None:
    site.job(data=b"\x11\xff\xff\x00broken")
    assert "the header announces 65535 bytes, but the file has 6" in site.only().problem


def test_a_parked_file_that_is_damaged_is_found_and_a_sound_one_is_not(site: Site) -> None:
    line = site.spool / "parked" / "k0"
    line.mkdir(mode=0o700, parents=True)
    os.rename(site.job(), line / f"{PREFIX}{'a' * 32}")
    assert site.examine() == []
    os.rename(site.job(data=b"\x11\xff\xff\x00broken"), line / f"{PREFIX}{'b' * 32}")
    finding = site.only()
    assert (finding.check, finding.severity) == ("foreign-file", "error")
    assert "the header announces 65535 bytes" in finding.problem


def test_a_job_whose_name_is_not_utf8_is_found(site: Site) -> None:
    os.rename(site.job(), os.fsencode(site.spool) + b"/" + PREFIX.encode() + b"\xff")
    assert "UTF-8" in site.only().problem


def test_a_file_named_by_a_number_is_found_where_uwsgi_takes_it_for_a_job(site: Site) -> None:
    (site.spool / "12").write_bytes(b"x")
    assert site.examine() == []
    site.ini["spooler-ordered"] = "true"
    assert (site.only().check, site.only().severity) == ("foreign-file", "error")


def test_a_locked_file_is_not_called_damaged(site: Site) -> None:
    path = site.job(data=b"\x11\xff\xff\x00broken")
    assert site.only().check == "foreign-file"
    with child(lambda: lock(path)):
        assert site.examine() == []


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_without_a_header_is_found_when_it_is_a_minute_old(
    site: Site, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.job(data=b"x" * size, due=1000)
    assert site.examine() == []
    monkeypatch.setattr(clock, "now", lambda: time.time() + directory_checks.HEADER_TIME + 1)
    finding, skew = site.examine()
    assert (finding.check, finding.severity, skew.check) == ("foreign-file", "warning", "clock")
    assert f"has {size} bytes" in finding.problem


def test_many_findings_of_one_kind_are_reported_as_six(site: Site) -> None:
    for number in range(8):
        (site.spool / f"{PREFIX}{number}").mkdir()
    found = site.examine()
    assert {finding.check for finding in found} == {"foreign-file"}
    assert len(found) == 6
    assert found[-1].problem == "and 3 more of the same kind"


def test_a_temporary_file_is_found_when_it_is_too_old_to_have_a_writer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.spool / "7").mkdir(mode=0o700)
    site.ini["spooler-ordered"] = "true"
    (site.spool / "dead").mkdir(mode=0o700)
    for folder in ("", "7", "dead"):  # the last one is not looked into for jobs
        path = site.spool / folder / (f"{TEMPORARY}{new_id()}" + (".json" if folder == "dead" else ""))
        path.write_bytes(b"x")
        os.utime(path, (1.0, 1.0))  # the time of content may be that of the job
    assert site.examine() == []
    monkeypatch.setattr(clock, "now", lambda: time.time() + files.STRAY_AGE + 1)
    finding, skew = site.examine()
    assert (finding.check, finding.severity, skew.check) == ("stray-file", "warning", "clock")
    assert counts(finding, site) == [2]
    assert shlex.split(finding.remedy)[1] == str(site.spool)


def test_dead_jobs_are_found(site: Site) -> None:
    dead.quarantine(str(site.job()), str(site.spool), reason="no such page")
    finding = site.only()
    assert (finding.check, finding.severity) == ("dead-job", "warning")
    assert counts(finding, site) == [1]
    assert finding.remedy.startswith("flask spool dead"), "the files have the secrets of the arguments in them"


@pytest.mark.parametrize(("folder", "ending"), [("", ".7"), ("", "-2"), ("", ".bak"), ("7", "")])
def test_a_copy_of_a_job_is_found_and_the_remedy_removes_it(site: Site, folder: str, ending: str) -> None:
    site.ini["spooler-ordered"] = "true"
    job = site.job()
    (site.spool / folder).mkdir(mode=0o700, exist_ok=True)
    copy = site.spool / folder / f"{job.name}{ending}"
    shutil.copy(job, copy)
    finding = site.only()
    assert (finding.check, finding.severity) == ("copied-job", "warning")
    assert str(job) in finding.problem
    assert str(copy) in finding.problem
    heal(finding)
    assert site.examine() == []
    assert spoolfile.pending(str(site.spool)) == [str(job)]


def test_a_job_that_is_put_off_while_the_directory_is_read_is_no_copy(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, scan = str(site.job()), directory_checks.scan

    def put_off(directory: str, folder: str | None = None) -> Iterator[Entry]:
        yield from scan(directory, folder)
        if folder is None:
            moved = os.path.basename(later.put_off(job, directory, time.time() + 60))
            yield from (entry for entry in scan(directory) if entry.name == moved)

    monkeypatch.setattr(directory_checks, "scan", put_off)
    assert "copied-job" not in {finding.check for finding in site.examine()}


def test_stranded_jobs_are_found_and_the_remedy_moves_them(site: Site) -> None:
    elsewhere = Site(site.root / "else where")
    elsewhere.spool.mkdir(mode=0o700, parents=True)
    asked = [str(elsewhere.spool), str(site.spool), str(site.root / "gone")]
    assert stranded(asked, [str(site.spool)]) == []
    jobs = [elsewhere.job(), elsewhere.job(folder="7"), elsewhere.job(folder=later.FOLDER, due=-60)]
    site.job()
    (finding,) = stranded(asked, [str(site.spool)])
    assert (finding.check, finding.severity) == ("stranded-job", "error")
    assert counts(finding, site) == [3]
    spooler = spoolers.SpoolerFile(str(elsewhere.spool))
    assert stranded(asked, [str(site.spool)]) == [], "a spooler runs them"
    spooler.leave()
    heal(finding)
    assert all((site.spool / job.name).is_file() for job in jobs)
    assert stranded(asked, [str(site.spool)]) == []


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("x")], ids=["nothing", "a file"])
def test_a_spool_directory_that_cannot_be_read_is_found(tmp_path: Path, make: Callable[[Path], None]) -> None:
    site = Site(tmp_path)
    make(site.spool)
    finding = site.examine()[0]
    assert (finding.check, finding.severity) == ("directory", "error")
    assert str(site.spool) in finding.problem


def test_a_missing_spool_directory_is_created_by_the_remedy(tmp_path: Path) -> None:
    site = Site(tmp_path)
    heal(site.only())
    assert site.only().check == "spooler-alive"


# The machine


@pytest.mark.parametrize(("seconds", "found"), [(3, True), (-3, True), (0.3, False)])
def test_a_clock_that_differs_from_the_file_system_is_found(
    site: Site, seconds: float, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "now", lambda: time.time() + seconds)
    assert [(finding.check, finding.severity) for finding in site.examine()] == [("clock", "error")] * found


def test_a_busy_machine_that_takes_seconds_for_a_file_is_no_clock_that_differs(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, late = tempfile.TemporaryFile, [0.0]

    def make_slowly(**given: Any) -> Any:
        late[0] += 3
        file = make(**given)
        late[0] += 3
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", make_slowly)
    monkeypatch.setattr(clock, "now", lambda: time.time() - 3 + late[0])
    assert site.examine() == []


def test_a_job_due_in_more_than_ten_years_is_found(site: Site) -> None:
    site.job(due=-9 * 365 * 86400)
    assert site.examine() == []
    path = site.job(due=-11 * 365.25 * 86400)
    finding = site.only()
    assert (finding.check, finding.severity) == ("clock", "warning")
    assert str(path) in finding.problem
    heal(finding)
    assert site.examine() == []


def test_a_priority_folder_modified_in_the_future_is_found(site: Site) -> None:
    site.ini["spooler-ordered"] = "true"
    site.job(folder="7")
    os.utime(site.spool / "7", (4e9, 4e9))
    finding = site.only()
    assert (finding.check, finding.severity) == ("clock", "error")
    heal(finding)
    assert site.examine() == []


MOUNT = "26 1 0:23 / {} rw,relatime shared:5 - {} source rw\n"


@pytest.mark.parametrize(
    ("mounts", "severity"),
    [
        ([("/", "ext4"), ("{}", "nfs4")], "error"),
        ([("/", "nfs")], "error"),
        ([("/", "ext4"), ("{}", "9p")], "warning"),
        ([("/", "9p"), ("{}", "ext4")], None),
        ([("{}", "ext4"), ("/", "9p")], None),
        ([("{}", "nfs4"), ("{}", "ext4")], None),
        ([("{}", "ext4"), ("{}", "nfs4")], "error"),
        ([("/", "ext4"), ("{}/spoolers", "nfs4")], None),
        ([("/", "ext4"), ("{}er", "nfs4")], None),
    ],
)
def test_a_network_file_system_is_found(
    site: Site, mounts: list[tuple[str, str]], severity: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = site.root / "mountinfo"
    here = str(site.spool).replace(" ", r"\040")
    table.write_text("".join(MOUNT.format(point.format(here), kind) for point, kind in mounts))
    monkeypatch.setattr(machine, "MOUNTS", str(table))
    found = site.examine()
    assert [(finding.check, finding.severity) for finding in found] == [("file-system", severity)] * bool(severity)
    if found:
        assert found[0].remedy.startswith("SPOOLKIT_SPOOL=")


def test_a_store_on_a_network_file_system_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    table = site.root / "mountinfo"
    table.write_text(MOUNT.format("/", "ext4") + MOUNT.format(site.root / "db", "cifs"))
    monkeypatch.setattr(machine, "MOUNTS", str(table))
    (site.root / "db").mkdir()
    (found,) = examine(str(site.spool), store=str(site.root / "db" / "spoolkit.db"))
    assert (found.check, found.severity) == ("file-system", "error")
    assert found.remedy.startswith("SPOOLKIT_STORE=")


def test_a_failing_check_is_a_finding_and_the_others_are_made(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MOUNTS", str(site.root / "nowhere"))
    site.store.write_bytes(b"no database" * 100)
    site.store.chmod(0o600)
    first, second = site.examine()
    assert (first.check, first.severity, second.check) == ("file-system", "warning", "store")


@needs_root
@pytest.mark.parametrize(
    ("options", "says"), [("size=20m", "MB left"), ("size=100m,nr_inodes=200", None), ("nr_inodes=5", "inodes left")]
)
def test_a_disk_that_is_nearly_full_is_found(site: Site, options: str, says: str | None) -> None:
    with ExitStack() as mounted:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "none", site.spool],
            capture_output=True,
            text=True,
            timeout=100,
        )
        if done.returncode:
            pytest.skip(f"only root may mount: {done.stderr}")
        mounted.callback(subprocess.run, ["umount", "--lazy", site.spool], check=True)
        me = spoolers.SpoolerFile(str(site.spool))
        mounted.callback(me.leave)
        if says == "inodes left":
            for number in range(2):
                (site.spool / f"filler{number}").touch()
        found = site.examine()
        assert [finding.check for finding in found if finding.check != "clock"] == ["disk"] * bool(says)
        assert says is None or says in found[-1].problem


# The store


def made(path: Path) -> Store:
    store = Store(str(path))
    for number in range(100):
        job = JobSpec(id=f"{number:032}", task="tasks.some")
        store.claim(job, file=None, still_there=lambda: True, max_attempts=1, arguments=b"x" * 3000)
    return store


def test_a_store_that_other_users_can_read_is_found(site: Site) -> None:
    store = made(site.store)
    for path in (site.store, site.store.with_name("spoolkit.db-wal"), site.store.with_name("spoolkit.db-shm")):
        path.chmod(0o644)
        finding = site.only()
        assert (finding.check, finding.severity) == ("store", "error")
        assert str(path) in finding.problem
        heal(finding)
        assert site.examine() == []
    store.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


def cut(path: Path) -> None:
    made(path).close()
    os.truncate(path, path.stat().st_size // 2)


def scribbled(path: Path) -> None:
    made(path).close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * 20000)


def folder(path: Path) -> None:
    path.mkdir(mode=0o700)


@pytest.mark.parametrize("make", [garbage, cut, scribbled, folder, fifo])
def test_an_unusable_store_is_found_and_the_remedy_moves_it_away(site: Site, make: Callable[[Path], None]) -> None:
    make(site.store)
    if site.store.is_file():
        site.store.chmod(0o600)
    finding = site.only()
    assert (finding.check, finding.severity) == ("store", "error")
    heal(finding)
    assert site.examine() == []
    assert os.path.lexists(f"{site.store}.old")


def test_an_empty_store_is_not_a_finding(site: Site) -> None:
    site.store.touch(mode=0o600)
    assert site.examine() == []


def test_a_store_in_a_missing_directory_is_found(site: Site) -> None:
    store = str(site.root / "nowhere" / "spoolkit.db")
    finding = site.only(store=store)
    assert (finding.check, finding.severity) == ("store", "error")
    heal(finding)
    assert site.examine(store=store) == []


@pytest.mark.parametrize("place", ["held", "parked", "schedules", "unique"])
def test_a_place_that_is_not_a_directory_is_found(site: Site, place: str) -> None:
    (site.spool / place).mkdir(mode=0o700)
    assert site.examine() == []
    (site.spool / place).rmdir()
    (site.spool / place).write_bytes(b"")
    assert site.only().check == "foreign-file"


@pytest.mark.parametrize("folder", ["held", "parked/" + "ab" * 32])
def test_a_job_that_waits_for_something_else_is_neither_late_nor_lost(site: Site, folder: str) -> None:
    os.makedirs(site.spool / folder, mode=0o700)
    path = site.job(folder=folder, due=1000)
    assert site.examine() == []
    os.link(path, site.spool / "another name")
    assert "has another name elsewhere" in site.only().problem


@pytest.mark.parametrize("folder", ["", "later"])
def test_the_temporary_name_of_a_file_that_was_linked_to_its_own_is_not_taken_for_a_stranger(
    site: Site, folder: str
) -> None:
    (site.spool / "later").mkdir(mode=0o700, exist_ok=True)
    path = site.job(folder=folder, due=-60)
    os.link(path, site.spool / folder / f"{TEMPORARY}{new_id()}")
    assert site.examine() == []


def test_a_store_written_by_a_later_version_is_found(site: Site) -> None:
    made(site.store).close()
    with contextlib.closing(sqlite3.connect(site.store)) as db:
        db.execute("PRAGMA user_version = 99")
    assert site.only().check == "store"


def test_an_unreadable_folder_does_not_hide_other_findings(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as lost+found, where the spool directory is a file system of its own. Here root is refused as well."""
    (site.spool / "lost+found").mkdir(mode=0)
    scandir = os.scandir

    def closed(path: str) -> object:
        if os.path.basename(path) == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    for number in range(20):
        (site.spool / f"{PREFIX}{number}").mkdir()
    assert len(site.examine()) >= 6


def others_may_write(path: Path) -> bool:
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    return subprocess.run([sys.executable, "-c", code, path], stderr=subprocess.DEVNULL, timeout=100).returncode == 0


def test_examining_the_store_keeps_the_locks_of_this_process(site: Site) -> None:
    store = made(site.store)
    assert others_may_write(site.store)
    with store.transaction():
        assert site.examine() == []
        assert not others_may_write(site.store)
    store.close()


def test_the_store_is_examined_where_the_spool_directory_is_missing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    elsewhere = tmp_path / "elsewhere.db"
    garbage(elsewhere)
    elsewhere.chmod(0o600)
    found = examine(str(site.spool), store=str(elsewhere))
    assert [finding.check for finding in found] == ["directory", "store"]
