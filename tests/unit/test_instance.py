"""The options of the running uWSGI, left in the spool directory for who looks from outside."""

from __future__ import annotations

import json
import os
import stat
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from life_process import wait_child

from spoolkit.system import process
from spoolkit.uwsgi import instance
from spoolkit.uwsgi.instance import Instance


@pytest.fixture
def spool(tmp_path: Path) -> str:
    return str(tmp_path)


def publish(spool: str, options: dict[str, object], pid: int | None = None) -> None:
    instance.publish(spool, options, os.getpid() if pid is None else pid, "2.0.31")


def read(spool: str) -> Instance:
    found = instance.read(spool)
    assert found is not None
    return found


def test_published_options_are_read_back(spool: str) -> None:
    publish(spool, {"master": True, "spooler": b"/srv/spool", "threads": b"2", "socket": [b"/tmp/a", b"/tmp/b"]})
    found = read(spool)
    assert found.options == {
        "master": ("true",),
        "spooler": ("/srv/spool",),
        "threads": ("2",),
        "socket": ("/tmp/a", "/tmp/b"),
    }
    assert (found.version, found.master_pid) == ("2.0.31", os.getpid())
    assert str(os.getpid()) in found.source


def test_a_later_publication_replaces_the_earlier_one(spool: str) -> None:
    publish(spool, {"threads": b"2"})
    publish(spool, {"master": True})
    assert read(spool).options == {"master": ("true",)}
    assert os.listdir(f"{spool}/spoolers") == ["instance.json"]


def test_only_options_that_the_doctor_needs_are_published(spool: str) -> None:
    hooks = [b"exec:curl -u me:secret", b"unix_signal:15 gracefully_kill_them_all"]
    publish(spool, {"env": b"PASSWORD=secret", "http-auth": b"secret", "hook-master-start": hooks, "master": True})
    assert "secret" not in Path(spool, instance.PATH).read_text()
    assert read(spool).of("hook-master-start") == ["unix_signal:15 gracefully_kill_them_all"]


def test_the_published_file_is_open_to_its_owner_alone(spool: str) -> None:
    publish(spool, {})
    assert stat.S_IMODE(os.stat(f"{spool}/spoolers").st_mode) == 0o700
    assert stat.S_IMODE(os.stat(f"{spool}/spoolers/instance.json").st_mode) == 0o600


def test_option_values_that_are_not_utf8_are_read_escaped(spool: str) -> None:
    publish(spool, {"spooler": b"/srv/\xff"})
    assert read(spool).of("spooler") == [r"/srv/\xff"]


def test_an_instance_whose_master_is_gone_is_not_read(spool: str) -> None:
    pid = os.fork()
    if not pid:
        publish(spool, {"master": True})
        os._exit(0)
    wait_child(pid)
    assert os.path.exists(f"{spool}/spoolers/instance.json")
    assert instance.read(spool) is None


def test_an_instance_whose_pid_is_another_process_now_is_not_read(spool: str) -> None:
    publish(spool, {"master": True})
    path = Path(spool, instance.PATH)
    content = json.loads(path.read_text())
    content["identity"] = process.identity(1).decode()
    path.write_text(json.dumps(content))
    assert instance.read(spool) is None


CONTENT: dict[str, Any] = {"master_pid": os.getpid(), "identity": process.own().decode(), "version": "2", "options": {}}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no json", b"\xff", b"null", b"[]", b"1", b"[" * 100_000),
        *(json.dumps({**CONTENT, "options": wrong}).encode() for wrong in (None, [], "x", {"a": 1})),
        *(json.dumps({**CONTENT, "master_pid": wrong}).encode() for wrong in (None, "x", [])),
        json.dumps({**CONTENT, "identity": None}).encode(),
        *(json.dumps({k: v for k, v in CONTENT.items() if k != gone}).encode() for gone in CONTENT),
    ],
    ids=count(),  # their content is of this process
)
def test_damaged_content_is_read_as_no_instance(spool: str, content: bytes) -> None:
    os.mkdir(f"{spool}/spoolers")
    Path(spool, instance.PATH).write_bytes(content)
    assert instance.read(spool) is None


def test_the_same_content_undamaged_is_read(spool: str) -> None:
    os.mkdir(f"{spool}/spoolers")
    Path(spool, instance.PATH).write_text(json.dumps(CONTENT))
    assert read(spool).version == "2"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("../real", path)])
def test_a_pipe_a_folder_or_a_link_is_read_as_no_instance(spool: str, make: Any) -> None:
    os.mkdir(f"{spool}/spoolers")
    Path(spool, "real").write_text(json.dumps(CONTENT))
    make(f"{spool}/{instance.PATH}")
    assert instance.read(spool) is None


@pytest.mark.parametrize("where", ["missing/deep", "file"])
def test_publishing_where_no_file_can_be_written_is_no_error(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("x")
    instance.publish(str(tmp_path / where), {"master": True}, os.getpid(), "2.0.31")
    assert instance.read(str(tmp_path / where)) is None
    assert os.listdir(tmp_path) == ["file"]


def test_a_publication_that_fails_leaves_no_temporary_file(spool: str) -> None:
    os.makedirs(f"{spool}/spoolers/instance.json/full")
    publish(spool, {"master": True})
    assert os.listdir(f"{spool}/spoolers") == ["instance.json"]


# The options of an instance


@pytest.mark.parametrize(
    ("values", "on"),
    [
        *(([value], True) for value in ("", "true", "1", "yes", "2", "on", "anything")),
        *(([value], False) for value in ("false", "off", "no", "0", "False", "OFF", "No")),
        ((["true", "false"]), False),
        ((["false", ""]), True),
        ([], False),
    ],
)
def test_the_last_value_of_a_flag_counts(values: list[str], on: bool) -> None:
    assert Instance("x", "2", {"master": values} if values else {}).on("master") is on


def test_a_flag_of_several_names_is_on_if_one_of_them_is() -> None:
    found = Instance("x", "2", {"lazy-apps": ["false"], "lazy": ["true"]})
    assert found.on("lazy-apps", "lazy")
    assert not found.on("lazy-apps")
    assert found.of("lazy", "none", "lazy-apps") == ["true", "false"]
