"""The lock files: make and the Dockerfile install what pyproject.toml asks for, each file checked by its hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
RIVALS, PLOTS = "benchmarks/requirements-rivals.txt", "benchmarks/requirements-plots.txt"
HOSTS = "examples/celery/requirements.txt"
LOCKS = ("requirements.txt", "requirements-dev.txt", "requirements-build.txt", RIVALS, PLOTS, HOSTS)


def locked(name: str) -> dict[str, str]:
    """The version of each package in the lock ``name``."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / name).read_text(), re.MULTILINE))


def declared() -> dict[str, list[str]]:
    """The requirements of pyproject.toml, by the lock file that must satisfy them."""
    project: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    extras, groups = project["project"]["optional-dependencies"], project["dependency-groups"]
    run = [*project["project"]["dependencies"], *extras["uwsgi"], *extras["app"]]
    return {
        "requirements.txt": run,
        "requirements-dev.txt": [*run, *groups["test"], *groups["check"]],
        "requirements-build.txt": [*groups["build"], *project["build-system"]["requires"]],
        RIVALS: groups["rivals"],
        PLOTS: groups["plots"],
        HOSTS: [*project["project"]["dependencies"], *extras["uwsgi"], *extras["celery"], *groups["hosts"]],
    }


@pytest.mark.parametrize("name", LOCKS)
def test_each_lock_file_satisfies_pyproject_toml(name: str) -> None:
    versions = locked(name)
    for text in declared()[name]:
        wanted = Requirement(text)
        version = versions.get(canonicalize_name(wanted.name))
        assert version is not None, f"{text} is not in {name}: make update"
        assert wanted.specifier.contains(version), f"{name} has {version}, not {text}: make update"


@pytest.mark.parametrize("name", LOCKS)
def test_each_lock_file_has_hashes_and_no_address_of_an_index(name: str) -> None:
    text = (PROJECT / name).read_text()
    assert "://" not in text
    entries = [entry for entry in re.split(r"\n(?=[^\s#])", text) if "==" in entry]
    assert entries
    for entry in entries:
        assert "--hash=sha256:" in entry, entry


@pytest.mark.parametrize("name", ["requirements.txt", HOSTS])
def test_the_site_runs_with_the_versions_that_are_tested(name: str) -> None:
    tested = locked("requirements-dev.txt")
    assert {package: tested.get(package) for package in locked(name)} == locked(name)


@pytest.mark.parametrize("name", ["Makefile", "Dockerfile", "examples/celery/Dockerfile"])
def test_each_install_command_uses_a_lock_file(name: str) -> None:
    """Except in the environments that are meant to differ from it, and for the tool that writes the lock files."""
    text = (PROJECT / name).read_text().replace("\\\n", " ").replace("$(INSTALL)", "pip install --no-build-isolation")
    text = text.replace("$(LOCKED)", "pip install --no-build-isolation --require-hashes --requirement")
    commands = re.findall(r"\S*/pip install [^&\n]*", text)
    ours = [command for command in commands if not re.match(r"\$\(VENV\)-(update|latest|lowest)/", command)]
    assert len(ours) == {"Makefile": 5}.get(name, 3), ours
    for command in ours:
        assert "--require-hashes" in command or "--no-deps" in command, command
        assert "--no-build-isolation" in command or "requirements-build.txt" in command, command
