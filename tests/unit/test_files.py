"""Small files: what is read is a regular file of the right owner, what is written comes whole and belongs to it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from descriptors import descriptors
from flask import Flask, current_app
from life_process import wait_child

from spoolkit import SpoolKit, spool
from spoolkit.admin import actions, lookup, stats
from spoolkit.api import jobs_blueprint
from spoolkit.cli import commands
from spoolkit.encoding import packet
from spoolkit.errors import QueueOptionError, SpoolUnavailableError, TooLargeError
from spoolkit.job import new_id
from spoolkit.spooldir import checkpoints, gate, running, spoolers, spoolfile
from spoolkit.spooldir import dead as dead_letters
from spoolkit.spooling import engine, startup
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import clock, files, sandbox
from spoolkit.uwsgi import instance

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")

NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> str:
    made = tmp_path / "spool"
    made.mkdir(mode=0o700)
    return str(made)


def a_link(path: str) -> None:
    target = Path(path).with_name("a.json")
    target.write_text("secret")
    os.symlink(target, path)


def a_second_name(path: str) -> None:
    Path(f"{path}.target").write_text("secret")
    os.link(f"{path}.target", path)


def a_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(os.path.dirname(path))  # the path of a socket has 108 bytes at most
        listening.bind(os.path.basename(path))


STRANGE: list[Callable[[str], None]] = [os.mkdir, os.mkfifo, a_link, a_second_name, a_socket]


@pytest.fixture(autouse=True)
def same_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.getcwd())


@pytest.fixture
def no_descriptor_is_lost() -> object:
    before = len(descriptors())
    yield
    assert len(descriptors()) == before


@pytest.mark.parametrize("strange", STRANGE)
def test_a_file_that_is_not_regular_or_not_ours_is_read_as_missing(
    folder: str, strange: Callable[[str], None], no_descriptor_is_lost: None
) -> None:
    path = f"{folder}/x"
    strange(path)
    assert files.read(path) is None
    with pytest.raises(files.NotOursError):
        files.open_regular(path)


def test_open_or_create_makes_a_private_file_and_then_opens_it(folder: str) -> None:
    path = f"{folder}/x"
    for content in (b"", b"once"):
        fd = files.open_or_create(path)
        assert os.read(fd, 10) == content
        os.write(fd, b"once")
        os.close(fd)
    assert os.stat(path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("strange", STRANGE)
def test_open_or_create_raises_for_a_file_that_is_not_regular_or_not_ours(
    folder: str, strange: Callable[[str], None], no_descriptor_is_lost: None
) -> None:
    strange(f"{folder}/x")
    with pytest.raises(files.NotOursError):
        files.open_or_create(f"{folder}/x")


@pytest.mark.parametrize("strange", [os.mkdir, os.mkfifo, a_link, a_socket])
def test_every_reader_skips_a_file_that_is_not_regular(
    folder: str, strange: Callable[[str], None], no_descriptor_is_lost: None
) -> None:
    id = new_id()
    name = f"{spoolfile.PREFIX}{id}"
    for place in ("dead", "running", "checkpoints", "spoolers"):
        os.mkdir(f"{folder}/{place}")
    places = ("", "dead/", "running/", "checkpoints/")
    for path in [f"{folder}/{place}{one}" for place in places for one in (id, name, f"{name}.json")]:
        strange(path)
    for one in ("1", str(os.getpid()), "instance.json", "stopping"):
        strange(f"{folder}/spoolers/{one}")
    strange(f"{folder}/running/{os.getpid()}")
    assert spoolfile.pending(folder) == []
    assert spoolfile.locate(folder, id) is None
    assert spoolfile.peek(f"{folder}/{name}") is None
    with spoolfile.claim(f"{folder}/{name}") as fd:
        assert fd is None
    assert dead_letters.paths(folder) == []
    assert dead_letters.locate(folder, id) is None
    assert dead_letters.report(f"{folder}/dead/{name}") == {}
    assert dead_letters.delete_older(folder, before=2e10, limit=100) == 0
    assert running.read(folder, id) == (None, "")
    assert not running.is_running(folder, id)
    running.ask_to_stop(folder, id, os.getpid())
    running.ask_to_stop(folder, id, None)
    running.sweep(folder)
    assert checkpoints.Checkpoint(folder, id).value is None
    assert spoolers.pids(folder) == []
    assert spoolers.wake(folder) is None
    assert instance.read(folder) is None
    assert not gate.is_paused(folder)


def test_read_returns_none_above_the_limit(folder: str) -> None:
    path = spoolfile.write(folder, new_id(), b"")
    os.truncate(path, 8 << 40)
    assert files.read(path) is None
    assert spoolfile.peek(path, 10) is None


def test_write_is_whole_or_not_at_all(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(f"{folder}/x", b"first")

    def fails(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="no space"):
        files.write(f"{folder}/x", b"second")
    assert os.listdir(folder) == ["x"]
    assert files.read(f"{folder}/x") == b"first"


def test_files_are_open_to_the_owner_alone_with_any_umask(folder: str) -> None:
    before = os.umask(0o777)
    try:
        files.write(f"{folder}/x", b"")
        files.make_folder(f"{folder}/sub")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"{folder}/x").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(f"{folder}/sub").st_mode) == 0o700


@needs_root
def test_files_that_root_creates_belong_to_the_owner_of_the_directory(folder: str) -> None:
    os.chown(folder, NOBODY, NOBODY)
    gate.pause(folder)
    files.make_folder(f"{folder}/3")
    id = new_id()
    running.AttemptFile(folder, id).close()
    running.AttemptFile(folder, new_id())
    checkpoints.Checkpoint(folder, id).store(1)
    dead = spoolfile.write(folder, new_id(), b"x")
    dead_letters.quarantine(dead, folder, reason="x")
    spoolfile.write(f"{folder}/3", new_id(), b"x")
    spoolers.SpoolerFile(folder)
    made = [os.path.join(at, name) for at, folders, names in os.walk(folder) for name in folders + names]
    assert len(made) > 10
    assert {os.stat(path).st_uid for path in made} == {NOBODY}


@needs_root
def test_the_owner_is_that_of_the_spoolers_folder_in_a_directory_of_root(folder: str) -> None:
    os.mkdir(f"{folder}/spoolers")
    os.chown(f"{folder}/spoolers", NOBODY, NOBODY)
    assert os.stat(spoolfile.write(folder, new_id(), b"x")).st_uid == NOBODY


@needs_root
def test_check_user_accepts_the_owner_and_root_only(of_nobody: str) -> None:
    folder = of_nobody
    os.chown(folder, 4242, 4242)
    files.check_user(folder)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setuid(NOBODY)
            try:
                files.check_user(folder)
            except PermissionError as error:
                readable = False
                try:
                    files.check_readable(folder)
                except SpoolUnavailableError as unseen:
                    readable = "4242" in str(unseen) and "sudo -u" in str(unseen) and folder in str(unseen)
                code = 0 if readable and "4242" in str(error.strerror) else 2
        finally:
            os._exit(code)
    assert wait_child(pid) == 0


def test_only_what_holds_jobs_or_spoolers_is_a_spool_directory(folder: str) -> None:
    assert not spoolfile.is_spool_directory(folder)
    assert spoolfile.may_become_spool_directory(folder)
    Path(folder, ".gitkeep").touch()
    assert spoolfile.may_become_spool_directory(folder)
    Path(folder, "passwd").touch()
    assert not spoolfile.may_become_spool_directory(folder)
    files.make_folder(f"{folder}/spoolers")
    assert spoolfile.is_spool_directory(folder)


@spool
def leaves_a_mark(path: str) -> None:
    Path(path).write_text("ran")


@pytest.fixture
def of_nobody() -> Iterator[str]:
    """The spool directory of another user, who can reach it: not so what lies in pytest's folders."""
    parent = tempfile.mkdtemp(prefix="spoolkit-of-nobody-")
    os.chmod(parent, 0o755)
    directory = os.path.join(parent, "spool")
    os.mkdir(directory, 0o700)
    os.chown(directory, NOBODY, NOBODY)
    app = Flask("of_nobody")
    app.config["SPOOLKIT_SPOOL"] = directory
    SpoolKit(app)
    with app.app_context():
        yield directory
        locations.store().close()
    shutil.rmtree(parent)


def as_nobody(do: Callable[[], object]) -> None:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            do()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert wait_child(pid) == 0


@needs_root
def test_what_root_enqueues_and_retries_runs_as_the_owner(of_nobody: str) -> None:
    mark = os.path.join(of_nobody, ".mark")
    job = leaves_a_mark(mark)
    dead = leaves_a_mark.using(priority=3)(mark)
    (path,) = Path(of_nobody, "3").iterdir()
    dead_letters.quarantine(str(path), of_nobody, reason="x")
    assert locations.store().requeue(dead.id, still_there=lambda: True) is None  # root makes the store

    as_nobody(lambda: Spooler(of_nobody).run_due())
    assert job.state == "done"
    os.unlink(mark)
    actions.retry(dead.id)
    as_nobody(lambda: Spooler(of_nobody).run_due())
    assert dead.state == "done"
    assert os.path.exists(mark)


@needs_root
@pytest.mark.parametrize("earlier_version", [False, True])
def test_what_root_drained_is_opened_by_the_owners_next_start(of_nobody: str, earlier_version: bool) -> None:
    gate.pause_until_start(of_nobody)
    if earlier_version:
        os.chown(os.path.join(of_nobody, "spoolers", "paused"), 0, 0)
    as_nobody(lambda: gate.on_start(of_nobody))
    assert not gate.is_paused(of_nobody)


@needs_root
def test_who_may_not_see_the_directory_is_told_and_not_that_there_is_nothing(of_nobody: str) -> None:
    job = leaves_a_mark("/dev/null")
    os.chown(of_nobody, 4242, 4242)
    shutil.rmtree(os.path.join(of_nobody, "spoolers"), ignore_errors=True)
    asked: list[Callable[[], object]] = [
        lambda: lookup.jobs(),
        lambda: lookup.find(job.id),
        lambda: stats.gather(),
        lambda: actions.purge(),
        lambda: actions.retry(job.id),
        lambda: actions.cancel(job.id),
        lambda: gate.state(of_nobody),
        lambda: leaves_a_mark("/dev/null"),
    ]

    def ask() -> None:
        for one in asked:
            with pytest.raises(SpoolUnavailableError, match="4242"):
                one()
        for words in (["ls"], ["stats"], ["retry", "--dead"], ["purge"], ["show", job.id], ["pause"], ["run"]):
            result = current_app.test_cli_runner().invoke(commands, words)
            assert result.exit_code == 1, words
            assert "sudo -u" in result.output, (words, result.output)

    as_nobody(ask)


@needs_root
@pytest.mark.parametrize("hidden", ["directory", "store"])
def test_over_http_what_may_not_be_seen_is_a_503(of_nobody: str, hidden: str) -> None:
    site = Flask("over_http")
    site.config["SPOOLKIT_SPOOL"] = of_nobody
    SpoolKit(site)
    site.register_blueprint(jobs_blueprint(listing=True))
    with site.app_context():
        job = leaves_a_mark("/dev/null")
        assert site.test_client().get(f"/jobs/{job.id}").status_code == 200
        locations.store().requeue(job.id, still_there=lambda: True)  # makes the store
        locations.store().close()
    os.chown(of_nobody if hidden == "directory" else os.path.join(of_nobody, locations.STORE_FILE), 4242, 4242)
    shutil.rmtree(os.path.join(of_nobody, "spoolers"), ignore_errors=True)

    def ask() -> None:
        client = site.test_client()
        for path in (f"/jobs/{job.id}", "/jobs/" + "0" * 32, "/jobs"):
            answer = client.get(path)
            assert answer.status_code == 503, (path, answer.text)
            error = answer.get_json()["error"]
            assert error["type"] == f"{'Spool' if hidden == 'directory' else 'Store'}UnavailableError"
            assert "4242" in error["message"], "whose it is"

    as_nobody(ask)


@needs_root
def test_a_job_that_is_not_accepted_names_the_directory(of_nobody: str) -> None:
    os.chmod(of_nobody, 0o500)

    def ask() -> None:
        with pytest.raises(SpoolUnavailableError, match=re.escape(of_nobody)) as refused:
            leaves_a_mark("/dev/null")
        assert (refused.value.directory, refused.value.errno) == (of_nobody, errno.EACCES)

    as_nobody(ask)
    assert not spoolfile.pending(of_nobody)


def test_a_job_that_is_accepted_names_the_directory_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("accepts", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    with app.app_context(), caplog.at_level("DEBUG", "spoolkit"):
        job = leaves_a_mark("/dev/null")
    said = [record for record in caplog.records if job.id in record.getMessage()]
    assert [record.levelname for record in said] == ["DEBUG"]
    assert said[0].getMessage().endswith(f"is accepted in {tmp_path / 'spool'}")


def test_commands_that_look_make_no_directory_and_say_that_there_is_none(tmp_path: Path) -> None:
    app = Flask("looks", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    for words in (["ls"], ["stats"], ["pause"], ["retry", "--dead"]):
        result = app.test_cli_runner().invoke(commands, words)
        assert result.exit_code == 1, result.output
        assert "is not there" in result.output
    assert not (tmp_path / "spool").exists()


def test_another_directory_is_not_paused_nor_a_queue(tmp_path: Path) -> None:
    app = Flask("looks", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    other = tmp_path / "etc"
    for path in (tmp_path / "spool", other):
        path.mkdir(mode=0o700)
    SpoolKit(app)
    for words in (["pause"], ["drain"], ["resume"]):
        assert app.test_cli_runner().invoke(commands, [*words, str(other)]).exit_code == 2
    with app.app_context(), pytest.raises(QueueOptionError, match="not a spool directory"):
        leaves_a_mark.using(queue=str(other))("x")
    assert list(other.iterdir()) == []


def test_what_no_spooler_would_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Flask("large", root_path=str(tmp_path))
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SPOOLKIT_MAX_BODY=1 << 40)
    SpoolKit(app)
    monkeypatch.setattr(spoolfile, "MAX_SIZE", 4 + packet.LIMIT + 100_000)
    monkeypatch.setattr(engine, "MAX_BODY", 100_000)
    with app.app_context():
        leaves_a_mark("x" * 90_000)
        with pytest.raises(TooLargeError):
            leaves_a_mark("x" * 110_000)


@pytest.mark.parametrize("look", [startup.tidy, lambda directory: Spooler(directory).run_due()], ids=["vet", "run_due"])
def test_what_no_spooler_can_read_is_set_aside(tmp_path: Path, look: Callable[[str], object]) -> None:
    app, directory = Flask("large", root_path=str(tmp_path)), str(tmp_path / "spool")
    app.config["SPOOLKIT_SPOOL"] = directory
    SpoolKit(app)
    with app.app_context():
        sound, sparse = leaves_a_mark(str(tmp_path / "mark")), leaves_a_mark(str(tmp_path / "other"))
        os.truncate(tmp_path / "spool" / f"{spoolfile.PREFIX}{sparse.id}", spoolfile.MAX_SIZE + 1)
        look(directory)
        (kept,) = dead_letters.paths(directory)
        assert f"a job has at most {spoolfile.MAX_SIZE}" in dead_letters.report(kept)["reason"]
        assert sparse.state == "dead"
        Spooler(directory).run_due()
        assert sound.state == "done"
    assert not (tmp_path / "other").exists()


SYSTEM_CALLS = (
    "open write close rename link unlink mkdir chmod fchmod chown fchown stat lstat fstat utime fsync listdir scandir"
)


@pytest.mark.parametrize(("second", "first_ms_of_a_second"), [(0.5, []), (0.0, ["utime"])])
def test_accepting_a_job_is_a_file_and_a_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: float, first_ms_of_a_second: list[str]
) -> None:
    app = Flask("lean", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    called: list[str] = []
    monkeypatch.setattr(spoolers, "wake", lambda *_: None)
    monkeypatch.setattr(sandbox, "is_test_run", lambda: False)  # which looks for links in the path at each call
    monkeypatch.setattr(clock, "now", lambda: 1_800_000_000 + second)
    with app.app_context():
        leaves_a_mark("x")

        def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: called.append(name) or call(*args, **kwargs)  # type: ignore[func-returns-value]

        for name in SYSTEM_CALLS.split():
            monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
        leaves_a_mark("x")
    # Who owns the directory, so that its spoolers can open the file.
    owner = ["lstat", "stat"]
    ask_first, ask_later = ([], owner) if os.geteuid() == 0 else (owner, [])
    assert called == [*ask_first, "open", "fchmod", *ask_later, "write", *first_ms_of_a_second, "close", "rename"]


def test_a_spool_directory_that_was_removed_does_not_come_back_in_the_process_that_made_it(tmp_path: Path) -> None:
    app = Flask("removed", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    with app.app_context():
        leaves_a_mark("x")
        locations.store().close()
        shutil.rmtree(tmp_path / "spool")
        with pytest.raises(SpoolUnavailableError):
            leaves_a_mark("x")
    assert not (tmp_path / "spool").exists()
