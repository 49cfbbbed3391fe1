"""HTTP processes and spoolers load the same application, however uwsgi.ini names it, also after a reload."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import UwsgiServer, free_port, wait_until

from spoolkit.spooldir import gate

from .conftest import SITE, History, Site
from .draining import GUARD, RELOAD, STOP_HOOKS

SOURCE = Path(__file__).parent / "factory_site"

WAYS = {
    "attribute": ["module = wsgi:app"],
    "default name": ["wsgi = wsgi"],
    "factory": ["module = shop:create_app()"],
    "callable": ["module = shop", "callable = create_app()"],
    "file": ["wsgi-file = single.py", "callable = app"],
    "mount": ["mount = /shop=shop:create_app()", "manage-script-name = true"],
}

MAIN = ("factory", "callable", "file", "mount")
REST = ("attribute", "default name")

StartLoading = Callable[..., Site]

RELOADED = 60.0
"""Seconds in which even a busy machine replaces all processes."""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A copy of the site, which a test may change."""
    copy = tmp_path / "code"
    shutil.copytree(SOURCE, copy)
    shutil.copy(SITE / "history.py", copy)
    return copy


@pytest.fixture
def start(tmp_path: Path, code: Path, history: History) -> Iterator[StartLoading]:
    with ExitStack() as running:

        def start(*options: str, code: Path = code, guard: bool = True) -> Site:
            lines = [
                "master = true",
                "enable-threads = true",
                "need-app = true",
                "processes = 2",
                f"chdir = {code}",
                f"pythonpath = {code}",
                "spooler-processes = 1",
                "spooler-frequency = 1",
                f"spooler = {tmp_path / 'spool'}",
                *STOP_HOOKS,
                *RELOAD,
                *(GUARD if guard else []),
                *options,
            ]
            # If a module is rewritten within a second, Python would use the compiled code of the old one.
            env = {"HISTORY": str(history.path), "PYTHONDONTWRITEBYTECODE": "1"}
            server = UwsgiServer(tmp_path, options=lines, env=env)
            running.callback(server.kill)
            return Site(server.__enter__(), history)

        yield start


def greeted(site: Site, name: str, prefix: str = "") -> tuple[str, ...]:
    """Run a job and return what it recorded about its application."""
    answer = site.server.get(f"{prefix}/greet/{name}")
    assert answer.status == 200, (answer.text, site.server.log()[-3000:])
    (event,) = site.history.wait_for("greeted", name, timeout=RELOADED)
    return event.words[2:]


def log_of_a_start_that_fails(start: StartLoading, *options: str) -> str:
    log = ""
    try:
        site = start(*options)  # it listens for a moment
        wait_until(lambda: site.server.exited, timeout=RELOADED, message=site.server.log)
        log = site.server.log()
    except AssertionError as error:
        log = str(error)
    return log


@pytest.mark.parametrize("way", sampled([*WAYS], *MAIN))
def test_each_way_to_name_an_application_serves_jobs_and_makes_it_once(start: StartLoading, way: str) -> None:
    site = start(*WAYS[way])
    expected = ("hi", "single", "old") if way == "file" else ("hello", "shop", "old")
    assert greeted(site, "bob", "/shop" if way == "mount" else "") == expected
    site.wait_empty()
    assert not site.dead()
    made = Counter(event.pid for event in site.history.wait_for("made", count=3, timeout=RELOADED))
    assert max(made.values()) == 1, made


FAILS_ONCE = """
import os, time, uwsgi
if uwsgi.worker_id() == 1 and not os.path.exists({flag!r}):
    while not any(worker["apps"] for worker in uwsgi.workers()):
        time.sleep(0.01)
    open({flag!r}, "w").close()
    raise RuntimeError("half deployed")
"""


def test_a_process_that_fails_at_the_first_start_while_another_serves_is_started_again(
    start: StartLoading, code: Path, tmp_path: Path
) -> None:
    file, flag = code / "shop" / "__init__.py", tmp_path / "failed"
    file.write_text(file.read_text() + FAILS_ONCE.format(flag=str(flag)))
    site = start(*WAYS["factory"])
    wait_until(flag.exists, message=site.server.log)
    site.server.wait_for_log("the processes that have loaded it continue", timeout=RELOADED)
    wait_until(lambda: len(site.server.worker_pids()) == 2, timeout=RELOADED, message=site.server.log)
    assert greeted(site, "again")[-1] == "old"
    assert "destroying the instance" not in site.server.log()


@pytest.mark.parametrize("way", sampled(["factory", "file", "mount"], "factory"))
def test_a_broken_version_leaves_the_old_one_running_until_it_is_fixed(
    start: StartLoading, code: Path, way: str
) -> None:
    site = start(*WAYS[way])
    file, prefix = code / ("single.py" if way == "file" else "shop/__init__.py"), "/shop" if way == "mount" else ""
    assert greeted(site, "before", prefix)[-1] == "old"
    # A reload does not replace a process that is still starting: its first version would be the broken one.
    wait_until(lambda: site.server.log().count(" ready in ") >= 2, timeout=RELOADED, message=site.server.log)
    healthy = file.read_text()
    broken = healthy.replace('record("made"', 'raise RuntimeError("half deployed")\n{}record("made"')
    file.write_text(broken.format("" if way == "file" else "    "))
    os.kill(site.server.master_pid, signal.SIGHUP)
    consequence = "the processes that run the old version continue"
    wait_until(lambda: site.server.log().count(consequence) >= 2, timeout=RELOADED)
    assert "RuntimeError: half deployed" in site.server.log()
    assert "destroying the instance" not in site.server.log()
    assert site.server.get(f"{prefix}/version").text == "old"
    assert greeted(site, "meanwhile", prefix)[-1] == "old"
    file.write_text(healthy.replace('VERSION = "old"', 'VERSION = "new"'))
    site.server.wait_for_log("chain reloading complete", timeout=RELOADED)
    wait_until(lambda: site.server.get(f"{prefix}/version").text == "new")
    assert greeted(site, "after", prefix)[-1] == "new"


@pytest.mark.parametrize("way", ["factory", "file"])
def test_a_first_version_that_fails_says_so_once_and_names_no_old_one(
    start: StartLoading, code: Path, way: str
) -> None:
    file = code / ("single.py" if way == "file" else "shop/__init__.py")
    text = file.read_text().replace('record("made"', 'raise RuntimeError("never worked")\n{}record("made"')
    file.write_text(text.format("" if way == "file" else "    "))
    log = log_of_a_start_that_fails(start, *WAYS[way])
    assert "destroying the instance" in log
    assert "old version" not in log
    assert log.count("RuntimeError: never worked") == 1
    assert "the site does not start" in log


def test_without_the_guard_a_spooler_loads_the_application_before_its_first_job(start: StartLoading) -> None:
    site = start("module = shop:create_app()", "spooler-import = shop.tasks", guard=False)
    assert greeted(site, "bob") == ("hello", "shop", "old")


def test_without_the_guard_jobs_wait_until_the_application_can_be_loaded(start: StartLoading, code: Path) -> None:
    file = code / "shop" / "__init__.py"
    healthy = file.read_text()
    only_there = "    import uwsgi\n    assert not uwsgi.i_am_the_spooler(), 'not here'\n    record("
    file.write_text(healthy.replace("    record(", only_there))
    site = start("module = shop:create_app()", "spooler-import = shop.tasks", guard=False)
    assert site.server.get("/greet/bob").status == 200
    site.server.wait_for_log("cannot load the application: its jobs wait", timeout=RELOADED)
    assert len(site.files()) == 1
    file.write_text(healthy.replace("    record(", "    record('mended')\n    record("))
    os.kill(site.server.spooler_pids()[0], signal.SIGTERM)  # an imported factory is not imported again
    site.history.wait_for("greeted", "bob", timeout=RELOADED)
    assert not site.dead()


def test_each_job_of_two_mounted_applications_runs_in_its_own_one(start: StartLoading) -> None:
    site = start(
        "mount = /shop=shop:create_app()",
        "mount = /single=single:app",
        "single-interpreter = true",
        "manage-script-name = true",
    )
    assert greeted(site, "alice", "/shop") == ("hello", "shop", "old")
    assert greeted(site, "bob", "/single") == ("hi", "single", "old")


def test_applications_in_interpreters_of_their_own_are_refused(start: StartLoading) -> None:
    log = log_of_a_start_that_fails(start, "mount = /shop=shop:create_app()", "mount = /single=single:app")
    assert "set single-interpreter = true" in log


@pytest.mark.parametrize("way", sampled(["file", "import by a path"], "file"))
def test_a_job_outlives_the_release_directory_of_its_call(
    start: StartLoading, code: Path, tmp_path: Path, way: str
) -> None:
    releases, current = tmp_path / "releases", tmp_path / "current"
    for number in ("1", "2"):
        shutil.copytree(code, releases / number)
    options = {
        "file": [f"wsgi-file = {current}/wsgi.py"],
        "import by a path": ["module = shop:create_app()", f"spooler-import = {current}/shop/tasks.py"],
    }[way]
    current.symlink_to(releases / "1")
    site = start(*options, code=releases / "1", guard=way == "file")
    gate.pause(str(site.spool))  # it must not be due earlier than the server has stopped
    assert site.server.get("/greet/bob/later").status == 200
    site.server.stop()
    shutil.rmtree(releases / "1")
    current.unlink()
    current.symlink_to(releases / "2")
    (releases / "2" / "shop" / "__init__.py").write_text(
        (code / "shop" / "__init__.py").read_text().replace("old", "new")
    )
    site = start(*options, code=releases / "2", guard=way == "file")
    gate.resume(str(site.spool))
    (event,) = site.history.wait_for("greeted", "bob", timeout=RELOADED)
    assert event.words[2:] == ("hello", "shop", "new")


def test_the_page_about_factories_works_as_it_is_printed(tmp_path: Path, history: History) -> None:
    page = (Path(__file__).parents[2] / "docs" / "factory.md").read_text()
    folder = tmp_path / "site"
    for name, text in re.findall(r"```python\n# (shop/\w+\.py)\n(.*?)```", page, re.DOTALL):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "flask", "--app", "shop", "spool", "ini", "--socket", f"127.0.0.1:{free_port()}"]
    printed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=100).stdout
    assert "module = shop:create_app()\n" in printed
    (folder / "uwsgi.ini").write_text(printed)
    server = UwsgiServer(tmp_path, ini=folder / "uwsgi.ini")
    server.port = int(re.findall(r"http-socket = .*:(\d+)", printed)[0])
    with server:
        job = server.post("/orders/7").json["job"]
        done = wait_until(
            lambda: (found := server.get(f"/jobs/{job}").json)["state"] == "done" and found, timeout=RELOADED
        )
    assert done["result"] == "The Shop: receipt for order 7"
