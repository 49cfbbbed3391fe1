"""``flask spool moveout``, and the table on docs/leaving-uwsgi.md, which is made of the same data."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import Result
from flask import Flask
from granian.cli import cli as granian
from gunicorn.config import Config
from hypothesis import given
from hypothesis import strategies as st
from waitress.adjustments import Adjustments

from spoolkit import SpoolKit, settings
from spoolkit.cli import commands
from spoolkit.store import locations
from spoolkit.uwsgi import moveout, recommended
from spoolkit.uwsgi.counterparts import KINDS, SECTIONS, Counterpart
from spoolkit.uwsgi.moveout import Answer, Verdict

PAGE = Path(__file__).parents[2] / "docs" / "leaving-uwsgi.md"
TABLE = re.compile(r"(?<=<!-- the table of flask spool moveout -->\n)(.*?)(?=<!-- its end -->)", re.DOTALL)
ALL = [one for section in SECTIONS.values() for one in section]

# Options of builds with PCRE or libcap.
OTHER_BUILDS = {"cap", "route", "route-*", "error-route", "final-route", "response-route"}


def places(kind: str) -> set[str]:
    """All that the table names of this kind, for a value that is a number."""
    named = [one.places.get(kind, "") for one in ALL] + [one.for_socket.get(kind, "") for one in ALL]
    return {text.format(value="7", host="127.0.0.1", port="5000") for text in named if text}


def options(kind: str) -> set[str]:
    return {word.partition("=")[0] for text in places(kind) for word in text.split() if word.startswith("--")}


def test_gunicorn_granian_and_waitress_have_the_options_that_the_table_names() -> None:
    known = {word for setting in Config().settings.values() for word in setting.cli or ()}
    assert options("gunicorn") <= known
    known = {word for option in granian.params if isinstance(option, click.Option) for word in option.opts}
    known |= {word for option in granian.params if isinstance(option, click.Option) for word in option.secondary_opts}
    assert options("granian") <= known
    known = {f"--{name.replace('_', '-')}" for name, _ in Adjustments._params}
    assert options("waitress") <= known


def test_the_settings_and_commands_of_spoolkit_exist() -> None:
    for text in places("spoolkit"):
        if text.startswith("flask spool "):
            command = commands.commands[text.split()[2]]
            assert {word for word in text.split() if word.startswith("--")} <= {
                word for option in command.params for word in option.opts
            }
        else:
            assert text.partition("=")[0] in settings.NAMES


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_lines_that_the_table_names(tmp_path: Path) -> None:
    lines = sorted(places("systemd") - {"ExecStart=7/bin/python -m gunicorn"})
    replaced = {"WorkingDirectory=7": "WorkingDirectory=/", "RootDirectory=7": "RootDirectory=/"}
    replaced |= {"User=7": "User=daemon", "Group=7": "Group=daemon", "Environment=7": "Environment=A=7"}
    replaced |= {"SupplementaryGroups=7": "SupplementaryGroups=daemon"}
    replaced |= {"StandardError=append:7": "StandardError=append:/tmp/x"}
    lines = [replaced.get(line, line) for line in lines]
    path = tmp_path / "site.service"
    path.write_text("[Service]\nExecStart=/bin/true\n" + "\n".join(lines) + "\n")
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=100)
    assert "site.service" not in done.stderr, done.stderr
    path.write_text("[Service]\nExecStart=/bin/true\nNoSuchLine=1\n")
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=100)
    assert "NoSuchLine" in done.stderr, "a line that systemd does not know is seen by this test"


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_accepts_the_lines_that_the_table_names(tmp_path: Path) -> None:
    lines = [line.replace("//7;", "//127.0.0.1:7;").replace("unix:7", "unix:/7") for line in places("nginx")]
    # Each in a location of its own: some may stand only once. The files of a certificate do not exist.
    text = " ".join(f"location /{n} {{ {line} }}" for n, line in enumerate(lines) if "certificate" not in line)
    path = tmp_path / "nginx.conf"
    path.write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} "
        f"http {{ access_log off; server {{ listen 127.0.0.1:1; location @site {{ return 404; }} {text} }} }}"
    )
    done = subprocess.run(["nginx", "-t", "-c", path, "-p", tmp_path], capture_output=True, text=True, timeout=60)
    assert "syntax is ok" in done.stderr, done.stderr


def test_uwsgi_has_the_options_of_the_table() -> None:
    uwsgi = Path(sys.executable).parent / "uwsgi"
    text = subprocess.run([uwsgi, "--help"], capture_output=True, text=True, timeout=60).stdout
    known = set(re.findall(r"--([a-z0-9-]+)", text))
    assert len(known) > 500
    names = [name for one in ALL for name in one.names]
    assert len(names) == len(set(names))
    assert not [name for name in names if name not in OTHER_BUILDS and not fnmatch.filter(known, name)]


def test_each_counterpart_says_something() -> None:
    for one in ALL:
        assert bool(one.places) or one.note, one
        assert not (one.places and one.needless), one
        assert {*one.places, *one.for_socket} <= {*KINDS}, one


INI = """\
[uwsgi]
include = more.ini
set-ph = port=8000
http-socket = :%(port)
socket = /run/site.sock
if-env = WORKERS
processes = %(_)
endif =
for = 15 2
hook-master-start = unix_signal:%(_) gracefully_kill_them_all
endfor =
cheaper = 2
log-maxsize = 5
master = true
lazy-apps = false
frobnicate = yes
ini = exec://echo cheap=true
"""


@pytest.fixture
def ini(tmp_path: Path) -> Path:
    (tmp_path / "more.ini").write_text("[uwsgi]\nharakiri = 20\n")
    (tmp_path / "uwsgi.ini").write_text(INI.replace("more.ini", str(tmp_path / "more.ini")))
    return tmp_path / "uwsgi.ini"


def test_each_line_is_answered_with_includes_conditions_and_placeholders_resolved(ini: Path) -> None:
    found = moveout.answers(str(ini), {"WORKERS": "3"})
    assert [(one.option, one.value, str(one.verdict)) for one in found] == [
        ("harakiri", "20", "replaced"),
        ("set-ph", "port=8000", "needless"),
        ("http-socket", ":8000", "replaced"),
        ("socket", "/run/site.sock", "replaced"),
        ("processes", "3", "replaced"),
        ("hook-master-start", "unix_signal:15 gracefully_kill_them_all", "needless"),
        ("hook-master-start", "unix_signal:2 gracefully_kill_them_all", "needless"),
        ("cheaper", "2", "nothing"),
        ("log-maxsize", "5", "nothing"),
        ("master", "true", "needless"),
        ("lazy-apps", "false", "needless"),
        ("frobnicate", "yes", "unknown"),
        ("ini", "exec://echo cheap=true", "unknown"),
    ]
    answer = {one.option: one for one in found}
    assert answer["http-socket"].places == {
        "gunicorn": "--bind 0.0.0.0:8000",
        "granian": "--host 0.0.0.0 --port 8000",
        "waitress": "--listen=0.0.0.0:8000",
    }
    assert answer["socket"].places["nginx"] == "proxy_pass http://unix:/run/site.sock;"
    assert answer["socket"].places["granian"] == "--uds /run/site.sock"
    assert answer["processes"].places == {"gunicorn": "--workers 3", "granian": "--workers 3"}


def test_the_printed_ini_has_no_line_that_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "uwsgi.ini"
    path.write_text(recommended.ini(module="app:app", queues=[("%dq", 2)], spoolers=2, priorities=True))
    found = moveout.answers(str(path), {})
    assert [one.option for one in found if one.verdict is Verdict.UNKNOWN] == ["ini"], "which runs a command"
    assert [one for one in found if one.verdict is Verdict.NOTHING] == []


# What an ini file cannot have in a name: its own notation. Options that read other files or decide on lines are not
# lines of their own.
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True).filter(
    lambda name: not re.match(r"if-|for|end|ini$|include$|inherit$|set", name)
)
VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%$"), min_size=1, max_size=20)


@given(lines=st.lists(st.tuples(st.one_of(NAMES, st.sampled_from([one.names[0] for one in ALL])), VALUES)))
def test_no_line_is_passed_over(lines: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ini") / "uwsgi.ini"
    path.write_text("[uwsgi]\n" + "".join(f"{name} = {value}\n" for name, value in lines))
    found: list[Answer] = moveout.answers(str(path), {})
    assert sorted((one.option, one.value) for one in found) == sorted(lines)
    for one in found:
        assert one.places if one.verdict is Verdict.REPLACED else one.note


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("shop", root_path=str(tmp_path))
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    with app.app_context():
        yield app
        locations.store().close()


def invoke(app: Flask, *given: object) -> Result:
    return app.test_cli_runner().invoke(commands, ["moveout", *map(str, given)])


def test_the_command_prints_the_answers(app: Flask, ini: Path) -> None:
    done = invoke(app, ini)
    assert done.exit_code == 0, done.output
    assert "cheaper = 2\n    no option: the number of processes is fixed\n" in done.output
    assert "frobnicate = yes\n    unknown: not in the table" in done.output
    printed = json.loads(invoke(app, ini, "--json").output)
    assert {
        "option": "cheaper",
        "value": "2",
        "verdict": "nothing",
        "places": {},
        "note": "the number of processes is fixed",
    } in printed


def test_a_file_that_cannot_be_read_is_an_error(app: Flask, tmp_path: Path) -> None:
    done = invoke(app, tmp_path / "missing.ini")
    assert (done.exit_code, "missing.ini cannot be read: No such file" in done.output) == (1, True)
    (tmp_path / "self.ini").write_text(f"[uwsgi]\nini = {tmp_path}/self.ini\n")
    done = invoke(app, tmp_path / "self.ini")
    assert (done.exit_code, "includes itself" in done.output) == (1, True)


def shown(one: Counterpart) -> str:
    """The counterpart as a row of the page."""
    words = {"value": "VALUE", "host": "HOST", "port": "PORT"}
    names = ", ".join(f"`{name}`" for name in one.names)
    instead = [f"{kind}: `{text.format(**words)}`" for kind, text in one.places.items()]
    if not instead:
        instead = ["not needed" if one.needless else "no option"]
    return f"| {names} | {'<br>'.join(instead)} | {one.note.replace('{value}', 'VALUE')} |\n"


def test_the_table_of_the_page_is_the_table_of_the_command() -> None:
    page = PAGE.read_text()
    text = "".join(
        f"\n### {title}\n\n| uwsgi.ini | instead | |\n|---|---|---|\n{''.join(map(shown, section))}"
        for title, section in SECTIONS.items()
    )
    updated = TABLE.sub(lambda found: f"{text}\n", page)
    if os.environ.get("SPOOLKIT_WRITE_DOCS"):
        PAGE.write_text(updated)
    assert updated == page
