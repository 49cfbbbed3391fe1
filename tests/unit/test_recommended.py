"""The uwsgi.ini that is printed: one text for every one in the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from spoolkit.doctor.examine import examine
from spoolkit.uwsgi import inifile, recommended
from spoolkit.uwsgi.instance import Instance

PROJECT = Path(__file__).parents[2]
GIVEN = {"processes": 3, "threads": 1, "spoolers": 5, "spool": "%dq", "socket": "127.0.0.1:8080"}
ENVIRONMENT = {
    "HOST": "10.0.0.1",
    "PORT": "80",
    "PROCESSES": "7",
    "THREADS": "8",
    "SPOOLERS": "9",
    "SPOOLKIT_SPOOL": "/var/spool/site",
}
VALUES = ["http-socket", "processes", "threads", "spooler-processes", "spooler"]


def values(folder: Path, environment: dict[str, str], **given: object) -> list[str]:
    path = folder / "uwsgi.ini"
    path.write_text(recommended.ini(module="app:app", **given))  # type: ignore[arg-type]
    options = inifile.read(str(path), environment)
    assert all(len(options[name]) == 1 for name in VALUES)
    return [options[name][0] for name in VALUES]


@pytest.mark.parametrize("path", ["uwsgi.ini", "examples/visits/uwsgi.ini", "examples/notifications/uwsgi.ini"])
def test_each_ini_of_the_repository_equals_the_printed_one(path: str) -> None:
    assert (PROJECT / path).read_text() == recommended.ini(module="app:app"), (
        f"(cd {PROJECT}; flask spool ini > {path})"
    )


def test_values_not_given_come_from_the_environment_or_a_default(tmp_path: Path) -> None:
    assert values(tmp_path, {}) == ["127.0.0.1:5000", "2", "4", "2", f"{tmp_path}/my_spools"]
    assert values(tmp_path, ENVIRONMENT) == ["10.0.0.1:80", "7", "8", "9", "/var/spool/site"]


def test_given_values_win_over_the_environment(tmp_path: Path) -> None:
    expected = ["127.0.0.1:8080", "3", "1", "5", f"{tmp_path}/q"]
    assert values(tmp_path, ENVIRONMENT, **GIVEN) == values(tmp_path, {}, **GIVEN) == expected


def test_an_empty_environment_variable_counts_as_not_set(tmp_path: Path) -> None:
    address, *_, spool = values(tmp_path, {"HOST": "", "SPOOLKIT_SPOOL": ""})
    assert (address, spool) == ("127.0.0.1:5000", f"{tmp_path}/my_spools"), "else it would listen on every address"


@pytest.mark.parametrize("given", [{}, GIVEN], ids=["nothing", "everything"])
def test_the_printed_ini_has_each_line_for_a_stop_and_a_reload(tmp_path: Path, given: dict[str, object]) -> None:
    values(tmp_path, {}, **given)
    described = Instance("uwsgi.ini", "", inifile.read(str(tmp_path / "uwsgi.ini")))
    assert recommended.missing(described, (*recommended.STOP, *recommended.RELOAD)) == []
    (tmp_path / ("q" if given else "my_spools")).mkdir(mode=0o700)
    spool = str(tmp_path / ("q" if given else "my_spools"))
    found = examine(spool, store=f"{spool}/spoolkit.db", ini=str(tmp_path / "uwsgi.ini"))
    assert [one.check for one in found] == ["spooler-alive"]


def test_the_printed_ini_has_no_absolute_path() -> None:
    text = recommended.ini(module="app:app")
    assert re.findall(r"(?<![\w/:])/\w[\w/]*", text) == []


def test_the_printed_ini_logs_the_address_of_the_site_at_start() -> None:
    assert "print:the site is on http://127.0.0.1:8080\n" in recommended.ini(module="a", socket="127.0.0.1:8080")
    assert "print:the site is on /run/site.sock\n" in recommended.ini(module="a", socket="/run/site.sock")


FOLDERS = [
    "plain",
    "with space",
    "it's",
    "50%",
    "%d",
    "$HOME $(id)",
    'a"b',
    "a`id`b",
    "a;b&c",
    "''",
    "back\\slash",
    "-m",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_the_directories_of_queues_are_made_whatever_characters_their_folder_has(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    queues = [("%dmy_spools-queues/mail", 1), (recommended.escaped(f"{folder}/it's/$mail"), 2)]
    text = recommended.ini(module="app:app", spool="%dmy_spools", queues=queues, folder=str(folder))
    # As uWSGI reads it; what it then gives to a shell is an option here.
    (folder / "uwsgi.ini").write_text(text.replace("ini = exec://", "command = "))
    options = inifile.read(str(folder / "uwsgi.ini"), {})
    subprocess.run(["sh", "-c", *options["command"]], check=True, timeout=30, cwd="/")
    wanted = [folder / "my_spools", folder / "my_spools-queues" / "mail", folder / "it's" / "$mail"]
    assert list(dict.fromkeys(options["spooler"])) == [str(path) for path in wanted]
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (folder / "my_spools-queues", *wanted))


def test_an_ini_without_an_apostrophe_in_its_folder_names_it_by_its_variable(tmp_path: Path) -> None:
    text = recommended.ini(module="app:app", spool="%dq", queues=[("%dq-queues/mail", 1)], folder=str(tmp_path))
    assert str(tmp_path) not in text
