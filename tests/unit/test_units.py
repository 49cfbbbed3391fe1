"""``flask spool unit``: the text of the units. tests/live/test_systemd.py starts them."""

from __future__ import annotations

import configparser
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from granian.cli import cli as granian
from gunicorn.config import Config
from waitress.adjustments import Adjustments

from spoolkit import SpoolKit, settings
from spoolkit.cli import commands
from spoolkit.errors import ConfigurationError
from spoolkit.lifecycle import units
from spoolkit.store import locations

SITE = units.Site("site", "shop:app", "daemon", "/srv/site", sys.executable, {"SPOOLKIT_SPOOL": "/var/lib/site"})
GIVEN = {"address": "127.0.0.1:8000", "processes": 1, "threads": 4, "thread_grace": 10.0}
TEXTS = {"jobs": units.jobs(SITE, grace=30, processes=2)} | {
    server: units.http(SITE, server, **GIVEN)  # type: ignore[arg-type]
    for server in units.SERVERS
}


def service(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return dict(parser["Service"])


def words(text: str) -> list[str]:
    return shlex.split(service(text)["ExecStart"])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    strange = units.Site("odd", "shop:app", "daemon", "/", sys.executable, {"SPOOLKIT_X": "a 'b' \"c\" %h $HOME \\n ä"})
    texts = {**TEXTS, "strange": units.jobs(strange, grace=1.5)}
    for name, text in texts.items():
        (tmp_path / f"{name}.service").write_text(text.replace("WorkingDirectory=/srv/site", "WorkingDirectory=/"))
    paths = [str(tmp_path / f"{name}.service") for name in texts]
    done = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, timeout=100)
    assert not [line for line in done.stderr.splitlines() if str(tmp_path) in line or ".service" in line], done.stderr
    assert done.returncode == 0, done.stderr


def test_a_value_is_written_in_the_notation_of_systemd() -> None:
    site = units.Site("x", "a b:app", "daemon", "/srv/50%", "/py thon", {"SPOOLKIT_X": 'it\'s "50%" \\ $A'})
    lines = units.jobs(site, grace=0).splitlines()
    assert "WorkingDirectory=/srv/50%%" in lines
    assert 'Environment="SPOOLKIT_X=it\'s \\"50%%\\" \\\\ $A"' in lines
    assert 'ExecStart="/py thon" -m flask --app "a b:app" spool run' in lines
    site = units.Site("x", "a$b:app", "daemon", "/", "/python")
    assert 'ExecStart=/python -m flask --app "a$$b:app" spool run' in units.jobs(site, grace=0)


@pytest.mark.parametrize("value", ["a\nUser=root", "a\0", "a\x7f"])
def test_a_value_that_would_begin_a_line_of_its_own_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="control character"):
        units.jobs(units.Site("x", "app:app", "daemon", "/", "/python", {"SPOOLKIT_X": value}), grace=0)


@pytest.mark.parametrize("name", TEXTS)
def test_systemd_kills_after_the_grace_period_and_signals_one_process(name: str) -> None:
    options = service(TEXTS[name])
    grace = 30 if name == "jobs" else units.REQUESTS + 10
    assert int(options["TimeoutStopSec"]) == grace + units.MARGIN
    assert (options["KillMode"], options["KillSignal"]) == ("mixed", "SIGTERM")
    # Only these two speak the protocol.
    assert options["Type"] == ("notify" if name in ("jobs", "gunicorn") else "exec")


def test_each_server_accepts_its_command() -> None:
    # Only its options: where gunicorn itself is imported, spoolkit takes this process for one of gunicorn's.
    config = Config().parser().parse_args(words(TEXTS["gunicorn"])[3:])
    assert (config.bind, config.workers, config.threads) == (["127.0.0.1:8000"], 1, 4)
    assert (config.graceful_timeout, config.args) == (units.REQUESTS + 10, ["shop:app"])
    context = granian.make_context("granian", words(TEXTS["granian"])[3:])
    given = context.params
    assert (given["host"], given["port"], given["workers"], given["blocking_threads"]) == ("127.0.0.1", 8000, 1, 4)
    assert (given["workers_kill_timeout"], given["respawn_failed_workers"]) == (units.REQUESTS + 10, True)
    keywords, names = Adjustments.parse_args(words(TEXTS["waitress"])[3:])
    assert (keywords["listen"].strip(), keywords["threads"], names) == ("127.0.0.1:8000", "4", ["shop:app"])


def test_a_factory_and_a_socket_are_named_as_each_server_names_them() -> None:
    site = units.Site("site", "shop:create_app()", "daemon", "/", "/python")
    given = {**GIVEN, "address": "/run/site/http.sock"}
    texts = {server: " ".join(words(units.http(site, server, **given))) for server in units.SERVERS}  # type: ignore[arg-type]
    assert "--bind unix:/run/site/http.sock" in texts["gunicorn"]
    assert texts["gunicorn"].endswith(" shop:create_app()")
    assert "--uds /run/site/http.sock" in texts["granian"]
    assert texts["granian"].endswith(" --factory shop:create_app")
    assert "--unix-socket=/run/site/http.sock" in texts["waitress"]
    assert texts["waitress"].endswith(" --call shop:create_app")


@pytest.mark.parametrize("address", ["", "5000", "localhost:http", "localhost:"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="neither host:port nor the path of a socket"):
        units.http(SITE, "gunicorn", **{**GIVEN, "address": address})  # type: ignore[arg-type]


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.chdir(tmp_path)
    app = Flask("shop", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    with app.app_context():
        yield app
        locations.store().close()


def invoke(app: Flask, *given: str) -> Result:
    return app.test_cli_runner().invoke(commands, ["unit", "--module", "shop:app", *given])


def test_the_command_prints_the_unit_of_this_site(app: Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in settings.NAMES:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("SPOOLKIT_GRACE", "50")
    done = invoke(app, "--user", "www-data", "--processes", "3", "--name", "web")
    assert done.exit_code == 0, done.output
    options = service(done.output)
    assert (options["User"], options["WorkingDirectory"]) == ("www-data", str(tmp_path))
    assert words(done.output) == [
        *(sys.executable, "-m", "flask", "--app", "shop:app"),
        *("spool", "run", "--processes", "3"),
    ]
    assert options["Environment"] == "SPOOLKIT_GRACE=50"
    assert options["TimeoutStopSec"] == "65"
    assert done.output.startswith("# /etc/systemd/system/web-jobs.service\n")
    assert (
        '"name": "web.service"' in invoke(app, "--user", "a", "--name", "web", "--server", "granian", "--json").output
    )


def test_the_spool_directory_is_named_unless_the_configuration_names_it(app: Flask) -> None:
    assert "Environment=SPOOLKIT_SPOOL" not in invoke(app, "--user", "a").output
    spool = app.config.pop("SPOOLKIT_SPOOL")
    assert "Environment=SPOOLKIT_SPOOL=" in invoke(app, "--user", "a").output
    app.config["SPOOLKIT_SPOOL"] = spool


def test_the_user_is_the_owner_of_the_spool_directory_and_not_root(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o700)
    if os.geteuid() == 0:
        refused = invoke(app)
        assert (refused.exit_code, "should not run as root" in refused.output) == (2, True)
        os.chown(tmp_path / "spool", pwd.getpwnam("daemon").pw_uid, -1)
    assert f"User={pwd.getpwuid((tmp_path / 'spool').stat().st_uid).pw_name}\n" in invoke(app).output


def test_what_cannot_be_is_refused(app: Flask) -> None:
    assert "one process" in invoke(app, "--user", "a", "--server", "waitress", "--processes", "2").output
    assert "give letters" in invoke(app, "--user", "a", "--name", "a/b").output
