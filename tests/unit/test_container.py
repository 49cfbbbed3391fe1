"""Dockerfile and docker-compose.yml, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from uwsgi_server import free_port

from spoolkit.uwsgi import inifile, recommended
from spoolkit.uwsgi.instance import Instance

PROJECT = Path(__file__).parents[2]
COMPOSE = (PROJECT / "docker-compose.yml").read_text()


@pytest.fixture(scope="module")
def web() -> dict[str, Any]:
    service: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]["web"]
    return service


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """The instructions, each with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", (PROJECT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(verb, " ".join(rest.split())) for line in lines if line for verb, _, rest in [line.partition(" ")]]


def final_stage(dockerfile: list[tuple[str, str]]) -> list[tuple[str, str]]:
    last = max(i for i, (verb, _) in enumerate(dockerfile) if verb == "FROM")
    return dockerfile[last:]


def test_the_compose_file_follows_the_specification() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("compose_spec")
    from compose_spec import PyCompose

    # Compose replaces ${NAME:-default} before it reads the file.
    assert PyCompose.from_yaml(re.sub(r"\$\{\w+:-(\w*)\}", r"\1", COMPOSE)).service_names() == ["web"]


def test_jobs_are_in_a_volume_that_outlives_the_container(
    web: dict[str, Any], dockerfile: list[tuple[str, str]]
) -> None:
    volume, _, target = web["volumes"][0].partition(":")
    assert volume in yaml.safe_load(COMPOSE)["volumes"]
    assert f"SPOOLKIT_SPOOL={target}" in dict(dockerfile)["ENV"].split()
    assert ("VOLUME", target) in dockerfile


def test_the_container_restarts_and_a_stop_may_take_longer_than_the_grace_period(web: dict[str, Any]) -> None:
    assert web["restart"] == "unless-stopped"
    grace = int(web["environment"]["SPOOLKIT_GRACE"])
    # uWSGI's master checks once a second, and a request that does not end is killed two seconds after the grace period.
    assert int(web["stop_grace_period"].removesuffix("s")) >= grace + 10
    assert web["healthcheck"]["test"][0] == "CMD"


def test_the_image_does_not_run_as_root_and_has_no_compiler(dockerfile: list[tuple[str, str]]) -> None:
    stage = final_stage(dockerfile)
    assert [arguments for verb, arguments in stage if verb == "USER"] == ["spoolkit"]
    assert not any("gcc" in arguments for _, arguments in stage)


def test_each_copied_file_exists_and_is_not_ignored(dockerfile: list[tuple[str, str]]) -> None:
    let_through = (PROJECT / ".dockerignore").read_text().split()
    for verb, arguments in dockerfile:
        if verb == "COPY" and not arguments.startswith("--from"):
            for source in arguments.split()[:-1]:
                assert (PROJECT / source).exists()
                assert f"!{source.removeprefix('./')}" in let_through


def test_the_image_runs_the_command_of_the_readme(dockerfile: list[tuple[str, str]]) -> None:
    assert json.loads(dict(dockerfile)["CMD"]) == ["uwsgi", "--ini", "uwsgi.ini"]


def test_the_healthcheck_fails_if_nothing_answers(web: dict[str, Any]) -> None:
    command, code = web["healthcheck"]["test"][1:3], web["healthcheck"]["test"][3]
    assert command == ["python", "-c"]
    checked = subprocess.run(
        [sys.executable, "-c", code.replace("5000", str(free_port()))], capture_output=True, timeout=100
    )
    assert checked.returncode != 0


def test_the_applications_ini_has_every_line_for_a_stop_and_a_reload() -> None:
    described = Instance("uwsgi.ini", "", inifile.read(str(PROJECT / "uwsgi.ini")))
    assert recommended.missing(described, (*recommended.STOP, *recommended.RELOAD)) == []
