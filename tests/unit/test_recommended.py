"""The uwsgi.ini that is printed: one text for every one in the repository."""

from __future__ import annotations

import re
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
