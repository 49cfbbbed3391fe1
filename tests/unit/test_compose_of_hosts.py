"""examples/celery: its compose file and its image, as far as they can be checked without a container engine.

tests/live/test_celery_hosts.py runs the commands of the file, each in a network of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import compose
import pytest
from brokers import Process
from uwsgi_server import free_port, wait_until

from spoolkit.uwsgi import inifile, recommended
from spoolkit.uwsgi.instance import Instance

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "examples" / "celery"
FILE = FOLDER / "docker-compose.yml"
PASSWORD = "secret7"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return compose.read(FILE, {"REDIS_PASSWORD": PASSWORD})


@pytest.fixture(scope="module")
def services(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = content["services"]
    return found


def test_the_file_follows_the_specification(content: dict[str, Any]) -> None:
    compose.check(content)


def test_there_is_no_start_without_a_password_and_none_is_in_the_file() -> None:
    with pytest.raises(KeyError, match="REDIS_PASSWORD: a password"):
        compose.read(FILE, {})
    for line in FILE.read_text().splitlines():
        if "redis://" in line or re.match(r"\s*REDIS_PASSWORD:", line):
            assert "${REDIS_PASSWORD:?" in line
    assert "requirepass $${REDIS_PASSWORD}\n" in FILE.read_text()


def test_a_worker_shares_nothing_with_the_site_but_the_image_and_the_broker(services: dict[str, Any]) -> None:
    workers = [services["worker1"], services["worker2"]]
    assert all("volumes" not in one and "ports" not in one for one in workers)
    assert {one["image"] for one in (*workers, services["site"])} == {"spoolkit-celery"}
    assert {one["environment"]["BROKER_URL"] for one in (*workers, services["site"])} == {
        f"redis://:{PASSWORD}@redis:6379/0"
    }
    assert len({one["hostname"] for one in (*workers, services["site"])}) == 3  # the node name of a worker has it


def test_what_must_outlive_a_container_is_in_a_volume(content: dict[str, Any], services: dict[str, Any]) -> None:
    for name, target in (("site", services["site"]["environment"]["SPOOLKIT_SPOOL"]), ("redis", "/data")):
        (volume,) = services[name]["volumes"]
        assert volume.partition(":")[2] == target
        assert volume.partition(":")[0] in content["volumes"]
    assert f"--mode 0700 {services['site']['environment']['SPOOLKIT_SPOOL']}" in (FOLDER / "Dockerfile").read_text()


def test_each_service_is_watched_restarted_and_has_time_to_stop(services: dict[str, Any]) -> None:
    for name, one in services.items():
        assert one["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert one["restart"] == "unless-stopped", name
        assert one["read_only"], name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        if name != "redis":
            assert one["init"]
            assert one["depends_on"]["redis"]["condition"] == "service_healthy"
            # As long as a stop may take that lets running jobs finish, and ten seconds of the server's own.
            assert int(one["stop_grace_period"].removesuffix("s")) >= 30 + 10
    assert int(services["site"]["environment"]["SPOOLKIT_GRACE"]) == 30


def test_redis_takes_its_password_from_the_environment_and_shows_it_to_nobody(
    services: dict[str, Any], tmp_path: Path
) -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    shell, option, script = services["redis"]["command"]
    assert (shell, option) == ("sh", "-c")
    script = script.replace("redis-server -", f"redis-server - --bind 127.0.0.1 --port {port}")
    env = {**os.environ, "REDIS_PASSWORD": PASSWORD}
    check = services["redis"]["healthcheck"]["test"][1].replace("redis-cli", f"redis-cli -p {port}")
    redis = Process([shell, option, script], tmp_path / "redis.log", cwd=tmp_path, env=env)

    def is_healthy(password: str) -> bool:
        done = subprocess.run(
            ["sh", "-c", check], env={**env, "REDIS_PASSWORD": password}, capture_output=True, timeout=60
        )
        return done.returncode == 0

    redis.start()
    try:
        wait_until(lambda: is_healthy(PASSWORD), message=redis.log)
        assert not is_healthy("another")
        assert PASSWORD not in Path(f"/proc/{redis.pid}/cmdline").read_text()
        assert PASSWORD not in redis.log()
        assert (tmp_path / "appendonlydir").exists()
    finally:
        redis.kill()


def test_the_image_has_the_files_that_its_commands_need(services: dict[str, Any]) -> None:
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    let_through = (PROJECT / ".dockerignore").read_text().split()
    copied = []
    for arguments in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE):
        for source in arguments.split()[:-1]:
            copied.append(source)
            assert (PROJECT / source).exists()
            assert any(f"!{source}".removesuffix("/") in (line, f"{line}/") or source.startswith(line[1:] + "/")
                       for line in let_through if line.startswith("!")), source  # fmt: skip
    assert services["site"]["command"] == ["uwsgi", "--ini", "uwsgi.ini"]
    assert "examples/celery/uwsgi.ini" in copied
    assert services["worker1"]["command"] == services["worker2"]["command"]
    assert text.rpartition("FROM ")[2].count("gcc") == 0
    assert [line for line in text.splitlines() if line.startswith("USER")] == ["USER spoolkit"]


def test_the_ini_is_the_printed_one_and_lets_jobs_finish() -> None:
    ini = FOLDER / "uwsgi.ini"
    assert ini.read_text() == (PROJECT / "uwsgi.ini").read_text()
    described = Instance("uwsgi.ini", "", inifile.read(str(ini)))
    assert recommended.missing(described, (*recommended.STOP, *recommended.RELOAD)) == []
