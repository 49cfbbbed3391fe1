"""A real uWSGI for tests: started on a free port, asked over HTTP, stopped or killed."""

from __future__ import annotations

import contextlib
import http.client
import json as jsonlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

START = 60.0
STOP = 30.0


def wait_until(condition: Callable[[], T], *, timeout: float = 40, message: str | Callable[[], str] = "") -> T:
    """Wait until ``condition`` is true and return its value; fail with ``message`` after ``timeout`` seconds."""
    begun = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - begun
        if waited > timeout:
            raise AssertionError((message() if callable(message) else message) or f"not within {timeout} s")
        # A condition reads a log or a store: checked too often, it would slow down the server that the test waits for.
        time.sleep(min(0.01 + waited / 20, 0.05))
    return value


def is_gone(pid: int) -> bool:
    """Whether the process has ended. A dead one without a parent keeps its number until init waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def members_of_session(leader: int) -> list[int]:
    """The living processes of the session that the process ``leader`` has begun."""
    members = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields and int(fields[3]) == leader and fields[0] != "Z":
                members.append(int(name))
    return sorted(members)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat behind the name: state, parent, group, session, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


@dataclass(frozen=True)
class Response:
    """An HTTP answer."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        return jsonlib.loads(self.text)


class UwsgiServer:
    """One uWSGI server, started with an ini file or with lines of options."""

    def __init__(
        self,
        directory: Path,
        *,
        ini: Path | None = None,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        spool: Path | None = None,
        cwd: Path | None = None,
        spools: bool = True,
    ) -> None:
        self.directory = directory
        self._spools = spools
        self.spool = spool or directory / "spool"
        self.port = free_port()
        self._cwd = cwd or directory
        self._log = directory / "uwsgi.log"
        self._ini = ini or self._written(options)
        self._env = {**os.environ, **(env or {}), "HOST": "127.0.0.1", "PORT": str(self.port)}
        self._env["SPOOLKIT_SPOOL"] = str(self.spool)
        self._process: subprocess.Popen[bytes] | None = None

    def _written(self, options: Sequence[str]) -> Path:
        path = self.directory / "uwsgi.ini"
        path.write_text("\n".join(["[uwsgi]", f"http-socket = 127.0.0.1:{self.port}", *options, ""]))
        return path

    def __enter__(self) -> UwsgiServer:
        if not self.spool.exists():
            self.spool.mkdir(mode=0o700)
        self._launch(["uwsgi", "--ini", self._ini])
        try:
            wait_until(lambda: self.exited or self._listens(), timeout=START, message=lambda: self.log()[-4000:])
            assert not self.exited, f"uWSGI did not start:\n{self.log()[-4000:]}"
            wait_until(
                lambda: not self._spools or self.spooler_pids(), timeout=START, message=lambda: self.log()[-4000:]
            )
            # uWSGI starts its processes first, and ignores SIGTERM until then.
            wait_until(lambda: not self._ignores(signal.SIGTERM), message="the master ignores SIGTERM")
        except BaseException:
            self.kill()
            raise
        return self

    def _launch(self, command: Sequence[str | Path]) -> None:
        """Start a program of this environment, with a session of its own."""
        binary = Path(sys.executable).with_name(str(command[0]))
        assert binary.exists(), f"{binary} is missing: make test installs it"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [binary, *command[1:]],
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def __exit__(self, *_: object) -> None:
        # Tests of a stop stop the server themselves: a graceful stop here would add seconds to every test.
        self.kill()

    @property
    def master_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exited(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def spooler_pids(self) -> list[int]:
        return self._pids(r"spawned the uWSGI spooler on dir \S+ with pid (\d+)")

    def wait_for_spoolers(self, timeout: float = START) -> UwsgiServer:
        """Wait until each spooler has loaded the application: with lazy-apps that is after uWSGI listens."""
        folder = self.spool / "spoolers"
        wait_until(
            lambda: all((folder / str(pid)).exists() for pid in self.spooler_pids()), timeout=timeout, message=self.log
        )
        return self

    def worker_pids(self) -> list[int]:
        return self._pids(r"pawned uWSGI worker \d+ \((?:new )?pid: (\d+)")

    def get(self, path: str) -> Response:
        return self._request("GET", path)

    def post(self, path: str, json: Any = None) -> Response:
        return self._request("POST", path, json)

    def request(self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] = {}) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=180)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return Response(answer.status, answer.read().decode(), dict(answer.getheaders()))
        finally:
            connection.close()

    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def wait_for_log(self, pattern: str, timeout: float = 40) -> None:
        wait_until(
            lambda: re.search(pattern, self.log()),
            timeout=timeout,
            message=lambda: f"{pattern!r} is not in the log:\n{self.log()[-4000:]}",
        )

    def stop(self) -> None:
        """Stop it as an administrator does; kill it if it does not exit in time."""
        if self._process is not None and not self.exited:
            self._process.send_signal(signal.SIGINT)  # SIGTERM is a brutal reload without die-on-term
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP)
        self.kill()

    def kill(self) -> None:
        """Kill the master and its children at the same time, as a power cut does."""
        if self._process is None:
            return
        # The session is ours alone. After a kill of the master, spoolers go on until the directory is empty.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(STOP)
        wait_until(lambda: not self._members(), message="processes of uWSGI survived")
        self._process = None

    def _ignores(self, signum: int) -> bool:
        ignored = re.search(r"^SigIgn:\s+(\w+)", Path(f"/proc/{self.master_pid}/status").read_text(), re.M)
        return bool(ignored) and bool(int(ignored[1], 16) & 1 << signum - 1)

    def _members(self) -> list[int]:
        """The living processes of this server's session, including those that jobs started."""
        return members_of_session(self.master_pid)

    def _pids(self, announced: str) -> list[int]:
        # By the log, not by their names: pyuwsgi cannot set those.
        return sorted({int(pid) for pid in re.findall(announced, self.log())} & set(self._members()))

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return bool(self.worker_pids())

    def _request(self, method: str, path: str, json: Any = None, *, raw: bool = False) -> Response:
        body = json if raw or json is None else jsonlib.dumps(json)
        return self.request(method, path, body, {} if json is None else {"Content-Type": "application/json"})


def free_port() -> int:
    """A port of 127.0.0.1 on which no process listens, and which no other test gets while this process lives."""
    probe = socket.socket()
    # The socket stays bound, so that the kernel gives its port to nobody who asks for any. With this option a server
    # that asks for this very port gets it: each sets the option as well.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(("127.0.0.1", 0))
    port = int(probe.getsockname()[1])
    probe.detach()
    return port
