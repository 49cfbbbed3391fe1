"""The unit files of docs/deploy.md, run as systemd would run them."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from uwsgi_server import UwsgiServer, free_port, wait_until

from spoolkit.lifecycle import units

from .conftest import PROJECT

NAMES = ["The site and its jobs", "The jobs of the site"]


def unit(description: str) -> str:
    """The text of a unit file on the page."""
    blocks = (PROJECT / "docs" / "deploy.md").read_text().split("```ini\n")[1:]
    (text,) = (block for block in (one.partition("```")[0] for one in blocks) if f"={description}\n" in block)
    return text


def service(text: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser["Service"]


@pytest.fixture
def machine() -> Iterator[Path]:
    """A folder that replaces the root directory and contains the site. Others may read it, as the unit's user must."""
    folder = Path(tempfile.mkdtemp())
    site = folder / "srv" / "site"
    site.mkdir(parents=True)
    (site / ".venv").symlink_to(Path(sys.executable).parent.parent)
    for name in ("app.py", "tasks.py", "spool_args.py", "uwsgi.ini"):
        shutil.copy(PROJECT / name, site)
    (folder / "var" / "lib").mkdir(parents=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def placed(text: str, folder: Path) -> str:
    return text.replace("/srv/", f"{folder}/srv/").replace("/var/lib/", f"{folder}/var/lib/")


def can_be_another_user() -> bool:
    """Whether the user ``nobody`` can run this environment's Python."""
    try:
        command = [sys.executable, "-c", "import spoolkit"]
        return not subprocess.run(command, user="nobody", cwd="/", capture_output=True, timeout=100).returncode
    except PermissionError:
        return False


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("description", NAMES)
def test_systemd_accepts_the_unit_files(machine: Path, description: str) -> None:
    path = machine / "site.service"
    path.write_text(placed(unit(description), machine).replace("User=site", "User=daemon"))
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, timeout=100)
    assert "site.service" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


class Service:
    """A unit that is run as systemd would run it, but on this machine and with a port of its own."""

    def __init__(self, machine: Path, options: Mapping[str, str], *, confined: bool = False) -> None:
        self.machine = machine
        self.options = options
        self.user = pwd.getpwnam("nobody") if can_be_another_user() else pwd.getpwuid(os.geteuid())
        self.port = free_port()
        given = dict(word.split("=", 1) for word in shlex.split(options["Environment"]))
        given |= {"PORT": str(self.port)} if "PORT" in given else {}
        self.environment = {"PATH": "/usr/bin:/bin", "NOTIFY_SOCKET": str(machine / "notify"), **given}
        self._confined = confined

    @contextlib.contextmanager
    def started(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process, once systemd would call it active. It is killed at the end if it still lives."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, (self.machine / "log").open("wb") as log:
            notified.bind(str(self.machine / "notify"))
            (self.machine / "notify").chmod(0o666)
            notified.settimeout(60)
            command = shlex.split(self.options["ExecStart"])
            identity = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}
            if self._confined:
                command = [
                    "unshare",
                    "--mount",
                    "sh",
                    "-c",
                    CONFINE,
                    *(str(self.user.pw_uid), str(self.user.pw_gid)),
                    *command,
                ]
                identity = {}
            process = subprocess.Popen(
                command,
                cwd=self.options["WorkingDirectory"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **identity,  # type: ignore[call-overload]
            )
            try:
                if self.options["Type"] == "notify":
                    wait_until(lambda: b"READY=1" in notified.recv(4096), timeout=60, message=self.log)
                yield process
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait(60)

    def log(self) -> str:
        return (self.machine / "log").read_text()

    def python(self, *arguments: str) -> str:
        """What the site's Python prints with these arguments, as this user."""
        folder = self.options["WorkingDirectory"]
        done = subprocess.run(
            [str(Path(folder, ".venv", "bin", "python")), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            cwd=folder,
            env=self.environment,
            user=self.user.pw_uid,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run_a_job(self) -> None:
        """Enqueue a job, as a process outside the unit, and wait until it is done."""
        job = self.python("-c", "import app, tasks; print(tasks.spool_task(0).id)").strip()
        show = ["-m", "flask", "--app", "app", "spool", "show", job, "--json"]
        wait_until(lambda: '"done"' in self.python(*show), timeout=60, message=self.log)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(getattr(signal, self.options["KillSignal"]))
        assert process.wait(int(self.options["TimeoutStopSec"])) == 0, self.log()


CONFINE = """
set -e
for folder in /usr /etc /boot /proc/sys; do
    if [ -d $folder ]; then mount --bind $folder $folder; mount -o remount,bind,ro $folder; fi
done
user=$0 group=$1; shift
exec setpriv --no-new-privs --reuid "$user" --regid "$group" --clear-groups "$@"
"""
"""What ProtectSystem=full, ProtectKernelTunables and NoNewPrivileges mean for a process, in a name space of its own."""


def can_confine() -> bool:
    """Whether this machine lets a test have mounts of its own."""
    try:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", CONFINE, "0", "0", "true"], capture_output=True, timeout=60
        )
    except OSError:
        return False
    return done.returncode == 0 and can_be_another_user()


@pytest.mark.parametrize("description", NAMES)
def test_the_unit_starts_runs_a_job_and_stops(machine: Path, description: str) -> None:
    unit_file = Service(machine, service(placed(unit(description), machine)))
    state = machine / "var" / "lib" / unit_file.options["StateDirectory"]
    state.mkdir(mode=int(unit_file.options["StateDirectoryMode"], 8))
    os.chown(state, unit_file.user.pw_uid, unit_file.user.pw_gid)
    with unit_file.started() as process:
        unit_file.run_a_job()
        unit_file.stop(process)
    assert state.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("server", ["", *(pytest.param(name, marks=pytest.mark.matrix) for name in units.SERVERS)])
def test_a_printed_unit_starts_works_and_stops(machine: Path, server: str) -> None:
    """The site answers, or runs a job, as a user without further rights, in folders that it cannot change."""
    site, state = machine / "srv" / "site", machine / "var" / "lib" / "site"
    state.mkdir(mode=0o700)
    user = pwd.getpwnam("nobody") if can_be_another_user() else pwd.getpwuid(os.geteuid())
    os.chown(state, user.pw_uid, user.pw_gid)
    port = free_port()
    command = [str(site / ".venv" / "bin" / "python"), "-m", "flask", "--app", "app", "spool", "unit"]
    command += ["--user", user.pw_name, "--address", f"127.0.0.1:{port}", *(["--server", server] if server else [])]
    environment = {"PATH": "/usr/bin:/bin", "SPOOLKIT_SPOOL": str(state)}
    printed = subprocess.run(
        command, cwd=site, env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    unit_file = Service(machine, service(printed), confined=can_confine())
    assert unit_file.options["User"] == user.pw_name

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}/uwsgi_spool/0", timeout=60) as answer:
                return "job" in json.loads(answer.read())
        except URLError:
            return False

    with unit_file.started() as process:
        if server:
            wait_until(lambda: process.poll() is not None or answers(), timeout=60, message=unit_file.log)
            assert process.poll() is None, unit_file.log()
        else:
            unit_file.run_a_job()
        unit_file.stop(process)


@pytest.mark.parametrize("description", NAMES)
def test_the_units_wait_longer_than_the_grace_period_and_signal_one_process_only(description: str) -> None:
    options = service(unit(description))
    grace = int(options["Environment"].partition("SPOOLKIT_GRACE=")[2])
    assert int(options["TimeoutStopSec"]) >= grace + 10
    assert (options["KillMode"], options["KillSignal"]) == ("mixed", "SIGTERM")


TASKS = """
import os, time
from flask import Flask
from spoolkit import SpoolKit, spool
app = Flask("shop", root_path=os.getcwd())
SpoolKit(app)

@spool
def waits():
    deadline = time.monotonic() + 120
    while not os.path.exists("finish") and time.monotonic() < deadline:
        time.sleep(0.01)
"""


@pytest.mark.parametrize("is_abstract", [False, pytest.param(True, marks=pytest.mark.matrix)])
def test_flask_spool_run_reports_to_systemd(tmp_path: Path, is_abstract: bool) -> None:
    """It is ready, watched, and asks for time while a job finishes; the job learns nothing of the service manager."""
    (tmp_path / "shop.py").write_text(TASKS)
    name = f"spoolkit-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    said: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, (tmp_path / "log").open("wb") as log:
        notified.bind(f"\0{name}" if is_abstract else name)
        notified.settimeout(1)

        def hears(*lines: str) -> Callable[[], bool]:
            def heard() -> bool:
                with contextlib.suppress(TimeoutError):
                    said.extend(notified.recv(4096).decode().split("\n"))
                return all(line in said for line in lines)

            return heard

        environment = {**os.environ, "SPOOLKIT_SPOOL": str(tmp_path / "spool"), "SPOOLKIT_GRACE": "120"}
        environment |= {"NOTIFY_SOCKET": f"@{name}" if is_abstract else name, "WATCHDOG_USEC": "2000000"}
        flask = [sys.executable, "-m", "flask", "--app", "shop"]
        process = subprocess.Popen(
            [*flask, "spool", "run"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )

        def message() -> str:
            return f"{said} {(tmp_path / 'log').read_text()}"

        try:
            wait_until(hears("READY=1", "STATUS=0 running, 0 due", "WATCHDOG=1"), timeout=60, message=message)
            enqueue = [sys.executable, "-c", "import shop; shop.waits(); shop.waits()"]
            subprocess.run(enqueue, cwd=tmp_path, env=environment, check=True, timeout=60)
            wait_until(hears("STATUS=1 running, 1 due"), timeout=60, message=message)
            said.clear()
            process.send_signal(signal.SIGTERM)
            wait_until(hears("STOPPING=1", "STATUS=1 running, stopping"), timeout=60, message=message)
            said.clear()
            # Again and again: each asks for thirty seconds more.
            wait_until(hears("EXTEND_TIMEOUT_USEC=30000000"), timeout=60, message=message)
            (tmp_path / "finish").touch()
            assert process.wait(60) == 0
        finally:
            (tmp_path / "finish").touch()
            if process.poll() is None:
                process.kill()
                process.wait(60)


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_nginx_serves_the_site_with_these_lines(tmp_path: Path) -> None:
    with UwsgiServer(tmp_path, ini=PROJECT / "uwsgi.ini") as server:
        port = free_port()
        text = (PROJECT / "docs" / "deploy.md").read_text().partition("```nginx\n")[2].partition("```")[0]
        text = text.replace("listen 80", f"listen 127.0.0.1:{port}").replace(":5000", f":{server.port}")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
        path = tmp_path / "nginx.conf"
        path.write_text(
            f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}} "
            f"http {{ access_log off; {folders} {text} }}"
        )
        nginx = subprocess.Popen(["nginx", "-c", path, "-p", tmp_path], stderr=subprocess.PIPE, text=True)

        def ask(path: str) -> str:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                return str(answer.read().decode())

        def listens() -> bool:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                return nginx.poll() is not None
            return True

        try:
            wait_until(listens)
            assert nginx.poll() is None, nginx.communicate(timeout=60)[1]
            job = json.loads(ask("/uwsgi_spool/0"))["job"]
            wait_until(lambda: json.loads(ask(f"/jobs/{job}"))["state"] == "done")
        finally:
            nginx.terminate()
            nginx.communicate(timeout=60)
