"""Settings: those of the application come before those of the environment, and these before the defaults."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from flask import Flask

from spoolkit import application
from spoolkit.errors import ConfigurationError
from spoolkit.settings import Settings


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("SPOOLKIT_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(application, "this_process", application.Applications())


def test_settings_that_are_not_given_have_their_defaults(tmp_path: Path) -> None:
    loaded = Settings.load({}, str(tmp_path))
    assert loaded == Settings(spool=str(tmp_path / "my_spools"))
    assert (loaded.fsync, loaded.max_body, loaded.retry_delay, loaded.dev_runner) == (False, 64 * 2**20, 5.0, True)


def test_the_environment_comes_before_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {"SPOOL": "elsewhere", "FSYNC": "yes", "MAX_BODY": "100", "RETRY_DELAY": "0.5", "DEV_RUNNER": "off"}
    for name, value in values.items():
        monkeypatch.setenv(f"SPOOLKIT_{name}", value)
    assert Settings.load({}, str(tmp_path)) == Settings(str(tmp_path / "elsewhere"), True, 100, 0.5, False)


def test_the_application_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPOOLKIT_SPOOL", "/environment")
    monkeypatch.setenv("SPOOLKIT_FSYNC", "1")
    loaded = Settings.load({"SPOOLKIT_SPOOL": tmp_path / "application", "SPOOLKIT_FSYNC": False}, "/")
    assert (loaded.spool, loaded.fsync) == (str(tmp_path / "application"), False)


@pytest.mark.parametrize(
    ("name", "in_environment", "in_application", "expected"),
    [
        ("SPOOL", "/environment", "/tmp/application", "/tmp/application"),
        ("FSYNC", "1", False, False),
        ("MAX_BODY", "100", 0, 0),
        ("RETRY_DELAY", "100", 0.25, 0.25),
        ("DEV_RUNNER", "0", "on", True),
        ("MAX_BODY", "100", None, 100),  # None: not given
    ],
)
def test_each_setting_is_taken_from_the_application_before_the_environment(
    name: str, in_environment: str, in_application: object, expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SPOOLKIT_{name}", in_environment)
    loaded = Settings.load({f"SPOOLKIT_{name}": in_application}, "/")
    assert getattr(loaded, name.lower()) == expected


@pytest.mark.parametrize(
    ("given", "spool"), [("a/b", "root/a/b"), ("../a", "a"), ("link", "real"), ("", "root/my_spools")]
)
def test_a_relative_spool_directory_refers_to_the_folder_of_the_application(
    given: str, spool: str, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")  # uWSGI wants the real path
    assert Settings.load({"SPOOLKIT_SPOOL": given}, str(tmp_path / "root")).spool == str(tmp_path / spool)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FSYNC", "maybe"),
        ("DEV_RUNNER", 2),
        ("MAX_BODY", "big"),
        ("MAX_BODY", -1),
        ("MAX_BODY", ""),
        ("MAX_BODY", True),
        ("RETRY_DELAY", "inf"),
        ("RETRY_DELAY", "-0.1"),
        ("RETRY_DELAY", "nan"),
        ("SPOOL", 5),
        ("THREADS", 0),
        ("THREADS", "many"),
        ("THREAD_QUEUE", -1),
        ("THREAD_GRACE", "forever"),
    ],
)
def test_an_unusable_value_is_refused_with_the_name_of_its_setting(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"SPOOLKIT_{name}") as refused:
        Settings.load({f"SPOOLKIT_{name}": value}, "/")
    assert refused.value.setting == f"SPOOLKIT_{name}"


def test_without_an_application_a_relative_spool_directory_lies_in_the_given_code_folder(tmp_path: Path) -> None:
    assert application.settings(str(tmp_path)).spool == str(tmp_path / "my_spools")
    app = Flask("the_application")
    app.config["SPOOLKIT_SPOOL"] = str(tmp_path / "of_the_application")
    application.add(app)
    assert application.settings(str(tmp_path)).spool == str(tmp_path / "of_the_application")
    del app  # no application is alive any more
    gc.collect()
    assert application.settings(str(tmp_path)).spool == str(tmp_path / "my_spools")


def test_without_a_code_folder_it_lies_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert application.settings().spool == str(tmp_path / "my_spools")


def test_settings_are_made_once_until_a_value_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    app = Flask("the_application", root_path=str(tmp_path))
    before = application.settings_of(app)
    app.config["OTHER"] = "value"
    monkeypatch.setenv("OTHER", "value")
    assert application.settings_of(app) == before
    app.config["SPOOLKIT_THREADS"] = 3
    assert application.settings_of(app).threads == 3
    del app.config["SPOOLKIT_THREADS"]
    monkeypatch.setenv("SPOOLKIT_THREADS", "4")
    assert application.settings_of(app).threads == 4
    monkeypatch.setenv("SPOOLKIT_THREADS", "")
    assert application.settings_of(app).threads == before.threads
    monkeypatch.setattr(os, "environ", {"SPOOLKIT_THREADS": "5"})  # a task may do that
    assert application.settings_of(app).threads == 5


def test_a_value_that_only_equals_the_one_before_is_read_anew(tmp_path: Path) -> None:
    app = Flask("the_application", root_path=str(tmp_path))
    app.config["SPOOLKIT_THREADS"] = 1
    assert application.settings_of(app).threads == 1
    app.config["SPOOLKIT_THREADS"] = True
    with pytest.raises(ConfigurationError, match="SPOOLKIT_THREADS"):
        application.settings_of(app)
