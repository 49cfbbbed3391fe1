"""A process that knows only its code finds the directory that the last spooler of its user published."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spoolkit.settings import Settings
from spoolkit.system import published


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("SPOOLKIT_SPOOL", raising=False)
    return tmp_path / "state" / "spoolkit"


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "releases" / "1").mkdir(parents=True)
    return str(tmp_path / "releases" / "1")


@pytest.fixture
def spool(tmp_path: Path) -> str:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    return str(tmp_path / "elsewhere")


def test_the_spool_directory_is_configured_else_from_environment_else_published_else_default(
    code: str, spool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.load({"SPOOLKIT_GRACE": 1}, code).spool == f"{code}/my_spools"
    published.publish([code], spool, "my_spools")
    assert Settings.load({"SPOOLKIT_GRACE": 2}, code).spool == spool
    monkeypatch.setenv("SPOOLKIT_SPOOL", f"{code}/env")
    assert Settings.load({}, code).spool == f"{code}/env"
    assert Settings.load({"SPOOLKIT_SPOOL": f"{code}/app"}, code).spool == f"{code}/app"


def test_the_default_itself_is_not_published_and_replaces_another(code: str, spool: str, state: Path) -> None:
    published.publish([code], spool, "my_spools")
    published.publish([code], f"{code}/my_spools", "my_spools")
    assert published.find(code) is None
    assert os.listdir(state) == []


def test_a_link_to_the_release_is_found_under_its_own_name(code: str, spool: str, tmp_path: Path) -> None:
    os.symlink(code, tmp_path / "current")
    published.publish([code, str(tmp_path / "current")], spool, "my_spools")
    assert published.find(str(tmp_path / "current")) == spool
    (tmp_path / "releases" / "2").mkdir()
    (tmp_path / "current").unlink()
    os.symlink(tmp_path / "releases" / "2", tmp_path / "current")
    assert published.find(str(tmp_path / "current")) == spool, "the next release, before its first spooler"
    assert published.find(str(tmp_path / "releases" / "2")) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_find_never_returns_a_directory_of_another_user(code: str, spool: str, state: Path) -> None:
    published.publish([code], spool, "my_spools")
    os.chown(spool, 4242, -1)
    assert published.find(code) is None
    os.chown(spool, 0, -1)
    assert published.find(code) == spool
    os.chown(state, 4242, -1)
    assert published.find(code) is None


def test_publish_removes_files_of_folders_that_are_gone(code: str, spool: str, state: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    published.publish([code], str(tmp_path / "gone"), "my_spools")
    (tmp_path / "gone").rmdir()
    assert published.find(code) is None
    published.publish([], spool, "my_spools")
    assert os.listdir(state) == []


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"code": 1, "spool": 2}', b'{"code": "x", "spool": "relative"}']
)
def test_find_ignores_a_damaged_file(code: str, spool: str, state: Path, content: bytes) -> None:
    published.publish([code], spool, "my_spools")
    (path,) = state.iterdir()
    path.write_bytes(content)
    assert published.find(code) is None
