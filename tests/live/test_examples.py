"""The examples work, started by the commands of their READMEs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from any_server import CommandServer, ask_to_stop, wait_for_exit, wait_until_complete
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from .conftest import PROJECT

EXAMPLES = PROJECT / "examples"
sys.path.insert(0, str(EXAMPLES / "visits"))

from benchmark import WAYS, copied  # noqa: E402

SERVERS = ["uwsgi", "gunicorn", "flask"]

Start = Callable[..., UwsgiServer]


def commands(example: str) -> list[str]:
    readme = (EXAMPLES / example / "README.md").read_text()
    return re.findall(r"```sh\n((?:uwsgi|gunicorn|flask run).*)\n```", readme)


def command(example: str, server: str) -> list[str]:
    (found,) = [words for words in map(str.split, commands(example)) if words[0] == server]
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as running:

        def start(site: Path, words: list[str], probe: str) -> UwsgiServer:
            given = CommandServer(tmp_path, words, probe=probe, cwd=site, spool=site / "my_spools")
            given._env.update(
                PYTHONUNBUFFERED="1",
                FLASK_RUN_PORT=str(given.port),
                GUNICORN_CMD_ARGS=f"--bind 127.0.0.1:{given.port}",
            )
            return running.enter_context(given)

        yield start


def stop(server: UwsgiServer, kind: str) -> None:
    wait_until_complete(kind, server)
    ask_to_stop(kind, server)
    wait_for_exit(server)


def test_each_example_has_one_command_for_each_server() -> None:
    for example in ("visits", "notifications"):
        assert [words.split()[0] for words in commands(example)] == SERVERS


@pytest.mark.parametrize("kind", sampled(SERVERS, "uwsgi", "gunicorn"))
def test_visits_are_counted(kind: str, tmp_path: Path, start: Start) -> None:
    site = copied(tmp_path, "by @thread")
    server = start(site, command("visits", kind), "/visits")
    for _ in range(5):
        assert "About</h1>" in server.get("/page/2").text
    assert server.get("/").status == 200
    assert server.get("/page/9").status == 404
    # Two processes, each with its own thread, write them in any order.
    wait_until(lambda: "<td>Home<td>1\n<tr><td>About<td>5\n" in server.get("/visits").text, message=server.log)
    server.get("/page/3")
    stop(server, kind)
    with contextlib.closing(sqlite3.connect(site / "visits.db")) as db:
        assert dict(db.execute("SELECT node, count(*) FROM visits GROUP BY node")) == {1: 1, 2: 5, 3: 1}


@pytest.mark.parametrize("way", [way for way in WAYS if WAYS[way] is not None and way != "by @thread"])
@pytest.mark.parametrize("kind", sampled(["uwsgi", "flask"], "uwsgi"))
def test_visits_are_counted_with_another_decorator_on_the_same_line(
    kind: str, way: str, tmp_path: Path, start: Start
) -> None:
    site = copied(tmp_path, way)
    server = start(site, command("visits", kind), "/visits")
    for _ in range(5):
        server.get("/page/2")
    wait_until(lambda: "<td>About<td>5\n" in server.get("/visits").text, message=server.log)


def test_a_spooler_beside_gunicorn_counts_the_visits(tmp_path: Path, start: Start) -> None:
    site = copied(tmp_path, "by @spool")
    server = start(site, command("visits", "gunicorn"), "/visits")
    spooler = subprocess.Popen([sys.executable, "-m", "flask", "spool", "run"], cwd=site, stderr=subprocess.DEVNULL)
    try:
        for _ in range(5):
            server.get("/page/2")
        wait_until(lambda: "<td>About<td>5\n" in server.get("/visits").text, message=server.log)
    finally:
        spooler.send_signal(signal.SIGTERM)
        spooler.wait(60)
    assert sorted(os.listdir(site / "my_spools" / "spoolers")) == ["slots", "tidied"]


@pytest.fixture
def notifications(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / "notifications", tmp_path / "site"))


@pytest.mark.parametrize("kind", sampled(SERVERS, "uwsgi", "flask"))
def test_accepted_notifications_are_sent_before_the_server_exits(kind: str, notifications: Path, start: Start) -> None:
    server = start(notifications, command("notifications", kind), "/task")
    for number in range(5):
        answer = server.post("/task", json={"to": "ann", "text": str(number)})
        assert answer.status == 202
        assert answer.json["accepted"] is True
    stop(server, kind)
    sent = (notifications / "sent.log").read_text().splitlines()
    assert sorted(sent) == [f"ann: {number}" for number in range(5)], server.log()


def test_accepted_notifications_are_sent_when_ctrl_c_stops_uwsgi(notifications: Path, start: Start) -> None:
    server = start(notifications, command("notifications", "uwsgi"), "/task")
    wait_until_complete("uwsgi", server)
    for number in range(4):
        assert server.post("/task", json={"to": "ann", "text": str(number)}).status == 202
    os.killpg(server.master_pid, signal.SIGINT)
    wait_for_exit(server)
    assert len((notifications / "sent.log").read_text().splitlines()) == 4, server.log()


def test_accepted_notifications_are_sent_when_the_debug_server_exits(notifications: Path, start: Start) -> None:
    server = start(notifications, [*command("notifications", "flask"), "--debug"], "/task")
    for number in range(5):
        assert server.post("/task", json={"to": "ann", "text": str(number)}).status == 202
    os.killpg(server.master_pid, signal.SIGINT)
    wait_for_exit(server)
    assert len((notifications / "sent.log").read_text().splitlines()) == 5, server.log()


@pytest.fixture(scope="module")
def notifying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UwsgiServer]:
    folder = tmp_path_factory.mktemp("notifications")
    site = Path(shutil.copytree(EXAMPLES / "notifications", folder / "site"))
    words = ["flask", "run", "--port", "{port}"]
    with CommandServer(folder, words, probe="/task", cwd=site) as server:
        yield server


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "give a JSON object"),
        ("null", "give a JSON object"),
        ('"text"', "give a JSON object"),
        ("{}", "'to' is missing"),
        ('{"to": "ann"}', "'text' is missing"),
        ('{"to": "", "text": "x"}', "'to' is missing"),
        ('{"to": "ann", "text": 5}', "'text' is missing"),
        ('{"to": "ann", "text": " "}', "'text' is missing"),
        ('{"to": "ann", "text": "x", "cc": "bob"}', "unknown names: cc"),
        ('{"to": "ann", "text": "\\ud800"}', "'text' is missing"),
    ],
)
def test_bad_json_is_answered_with_400_and_the_reason(notifying: UwsgiServer, body: str, why: str) -> None:
    answer = notifying._request("POST", "/task", body, raw=True)
    assert answer.status == 400
    assert why in json.loads(answer.text)["error"]


def test_another_content_type_is_answered_with_415(notifying: UwsgiServer) -> None:
    assert notifying._request("POST", "/task", None).status == 415
