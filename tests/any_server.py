"""Every server that spoolkit knows, each started on the same site, with one interface."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from uwsgi_server import START, STOP, UwsgiServer, is_gone, wait_until

UWSGI = {
    "uwsgi": ["processes = 2"],
    "uwsgi-threads": ["processes = 2", "threads = 4"],
    "uwsgi-lazy": ["processes = 2", "threads = 4", "lazy-apps = true"],
}
GUNICORN = {
    "gunicorn-sync": ["--workers", "2"],
    "gunicorn-gthread": ["--workers", "2", "--threads", "4"],
    "gunicorn-preload": ["--workers", "2", "--preload"],
}
GRANIAN = {
    "granian": ["--workers", "2", "--blocking-threads", "1"],
    "granian-threads": ["--workers", "2", "--blocking-threads", "4"],
}
WAITRESS = {"waitress": ["--threads=4"]}
FLASK = {"flask": [], "flask-reloader": ["--debug"]}

ALL = [*UWSGI, *GUNICORN, *GRANIAN, *WAITRESS, *FLASK]
ONE_PROCESS = [*WAITRESS, *FLASK]
"""Servers with one process, whatever number is asked for."""


class CommandServer(UwsgiServer):
    """A server that one command of this environment starts. ``{port}`` is its port, ``probe`` a page that answers."""

    def __init__(self, directory: Path, command: Sequence[object], *, probe: str = "/pid", **given: object) -> None:
        super().__init__(directory, ini=Path(os.devnull), **given)  # type: ignore[arg-type]
        self._probe = probe
        self._log = directory / "server.log"
        self._command = [str(part).replace("{port}", str(self.port)) for part in command]

    def __enter__(self) -> CommandServer:
        self._launch(self._command)
        try:
            wait_until(lambda: self.exited or self._answers(), timeout=START, message=lambda: self.log()[-4000:])
            assert not self.exited, f"it did not start:\n{self.log()[-4000:]}"
        except BaseException:
            self.kill()
            raise
        return self

    def _answers(self) -> bool:
        try:
            return self.get(self._probe).status < 500
        except (OSError, HTTPException):
            return False

    def worker_pids(self) -> list[int]:
        others = self._pids(r"(?:Booting worker with pid|Spawning worker-\d+ with PID): (\d+)")
        return others or super().worker_pids() or [int(self.get("/pid").text)]


def start(
    kind: str,
    directory: Path,
    *,
    site: Path,
    module: str,
    env: Mapping[str, str],
    options: Sequence[str] = (),
    processes: int | None = None,
) -> UwsgiServer:
    """The server ``kind`` of :data:`ALL`, not started yet, for ``module``:app in the folder ``site``.

    ``options`` are lines of uWSGI's ini or words of the command line; ``processes``: that many instead of two.
    """
    env = {"PYTHONPATH": str(site), "PYTHONUNBUFFERED": "1", **env}
    options = [*options]
    if kind in UWSGI:
        lines = [
            "master = true",
            "need-app = true",
            f"chdir = {site}",
            f"pythonpath = {site}",
            f"module = {module}:app",
        ]
        # By default SIGINT ends a worker within its request, and skips all that uWSGI does when a worker exits.
        lines += ["hook-master-start = unix_signal:15 gracefully_kill_them_all"]
        lines += ["spooler-frequency = 1", f"spooler = {directory / 'spool'}", *UWSGI[kind], *options]
        lines += [f"processes = {processes}"] * (processes is not None)
        return UwsgiServer(directory, options=lines, env=env)
    if kind in GUNICORN:
        words = ["gunicorn", "--bind", "127.0.0.1:{port}", "--chdir", site, *GUNICORN[kind], *options]
        words += ["--workers", processes] * (processes is not None)
        # No test needs its control socket.
        return CommandServer(directory, [*words, f"{module}:app"], env=env, cwd=site)
    if kind in GRANIAN:
        words = ["granian", "--interface", "wsgi", "--port", "{port}", "--respawn-failed-workers"]
        words += ["--respawn-interval", "0.5", *GRANIAN[kind], *options]
        words += ["--workers", processes] * (processes is not None)
        return CommandServer(directory, [*words, f"{module}:app"], env=env, cwd=site)
    if kind in WAITRESS:
        words = ["waitress-serve", "--listen=127.0.0.1:{port}", *WAITRESS[kind], *options, f"{module}:app"]
        return CommandServer(directory, words, env=env, cwd=site)
    command = ["flask", "--app", module, "run", "--port", "{port}", *FLASK[kind], *options]
    return CommandServer(directory, command, env={**env, "SPOOLKIT_DEV_RUNNER": "false"}, cwd=site)


def wait_until_complete(kind: str, server: UwsgiServer, processes: int | None = None) -> None:
    """Wait until each HTTP process serves: before that, it handles a stop signal as its master would."""

    def complete() -> bool:
        pids = server.worker_pids()
        return len(pids) == (processes or 2) and all(_serves(kind, pid) for pid in pids)

    if kind not in ONE_PROCESS and not server.exited:
        wait_until(complete, message=server.log)


def _serves(kind: str, pid: int) -> bool:
    """Whether the process waits for requests: by the kernel functions in which its threads wait."""
    try:
        if kind in GUNICORN:
            main = Path(f"/proc/{pid}/task/{pid}/wchan").read_text()
            return "poll" in main or "select" in main
        return any("epoll" in path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/wchan"))
    except OSError:  # it is gone meanwhile
        return False


def ask_to_stop(kind: str, server: UwsgiServer) -> None:
    """Stop it as an administrator does, or as Ctrl-C in a terminal does, which signals the whole group."""
    if kind in FLASK:
        os.killpg(server.master_pid, signal.SIGINT)
    else:
        os.kill(server.master_pid, signal.SIGTERM)


def wait_for_exit(server: UwsgiServer, timeout: float = STOP) -> None:
    wait_until(lambda: server.exited, timeout=timeout, message=lambda: f"it goes on:\n{server.log()[-3000:]}")


def ask_to_reload(kind: str, server: UwsgiServer, touched: Path) -> None:
    """Make the server replace its processes."""
    if kind in FLASK:
        later = touched.stat().st_mtime + 10
        os.utime(touched, (later, later))
    else:
        os.kill(server.master_pid, signal.SIGHUP)


def wait_for_others(server: UwsgiServer, pids: Sequence[int], timeout: float = 60) -> None:
    """Wait until all of ``pids`` are gone and the server answers again."""

    def replaced() -> bool:
        with suppress(OSError, HTTPException):  # a process that exits may interrupt its answer
            return server.get("/pid").status == 200 and all(map(is_gone, pids))
        return False

    wait_until(replaced, timeout=timeout, message=lambda: f"not replaced: {pids}\n{server.log()[-3000:]}")


def occurrences(server: UwsgiServer, pattern: str) -> int:
    return len(re.findall(pattern, server.log()))
