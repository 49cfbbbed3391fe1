"""Sites that can be stopped and reloaded in every way, and how the attempts of their jobs ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from uwsgi_server import START, UwsgiServer, wait_until

from spoolkit.job import FINISHED
from spoolkit.store import Store
from spoolkit.uwsgi import recommended

from .conftest import SITE, History, Site

STOP_HOOKS = [f"{name} = {value}" for name, value in recommended.STOP]
RELOAD = [f"{name} = {value}" for name, value in recommended.RELOAD if "import" not in name]
GUARD = [f"{name} = {value}" for name, value in recommended.RELOAD if "import" in name]

MODES: Mapping[str, list[str]] = {
    "prefork": [],
    "lazy-apps": [*RELOAD, *GUARD],
    "threads": ["threads = 4", *RELOAD, *GUARD],
    "two instances": [*RELOAD, *GUARD],
}


@dataclass
class Deployed:
    """A site of its own: one uWSGI, or one that serves HTTP and one that runs the jobs."""

    folder: Path
    site: Site
    web: UwsgiServer
    jobs: UwsgiServer
    ids: list[str] = field(default_factory=list)

    def call(self, task: str, *args: object) -> str:
        self.ids.append(self.site.call(task, *args)["job"])
        return self.ids[-1]

    def signal(self, signum: int) -> None:
        os.kill(self.jobs.master_pid, signum)

    def signal_group(self, signum: int) -> None:
        # The server has a session of its own.
        os.killpg(self.jobs.master_pid, signum)

    def fifo(self, command: str) -> None:
        with (self.jobs.directory / "fifo").open("w") as fifo:
            fifo.write(command)

    def touch(self) -> None:
        path = self.jobs.directory / "touched"
        path.write_text("")
        os.utime(path, (time.time() + 5, time.time() + 5))

    def release(self) -> None:
        """Let the jobs of ``holds`` and ``deaf`` end, also those that start later."""
        (self.folder / "released").touch()

    def wait_for_stop(self) -> None:
        """Wait until every spooler knows that uWSGI stops: no job starts from then on."""
        stopping = self.site.spool / "spoolers" / "stopping"
        wait_until(lambda: stopping.exists() or self.jobs.exited, message=self.jobs.log)

    def wait_for_exit(self, timeout: float) -> float:
        """Seconds until the server was gone."""
        begun = time.monotonic()
        wait_until(lambda: self.jobs.exited, timeout=timeout, message=lambda: self.jobs.log()[-4000:])
        return time.monotonic() - begun

    def starts(self, id: str) -> int:
        return len(self.site.history.events("start", id))

    def endings(self, id: str) -> list[str]:
        """How the attempts of the job ended, by its record."""
        store = Store(str(self.site.spool / "spoolkit.db"))
        try:
            return [attempt.outcome for attempt in store.history(id)[0]]
        finally:
            store.close()

    def result(self, id: str) -> bytes | None:
        store = Store(str(self.site.spool / "spoolkit.db"))
        try:
            status = store.status(id)
            return None if status is None or status.state not in FINISHED else status.result
        finally:
            store.close()

    def wait_until_up(self, timeout: float = START) -> None:
        """Wait until every process has loaded the application."""
        self.jobs.wait_for_spoolers(timeout)
        accepting = 'unix_signal:3 worker_wakeup" (accepting)'
        wait_until(lambda: self.jobs.log().count(accepting) >= 2, timeout=timeout, message=self.jobs.log)

    def unfinished(self) -> list[str]:
        return [id for id in self.ids if not self.site.history.events("end", id)]

    def file_of(self, id: str) -> bool:
        return any(id in name for name in self.site.files())


@contextmanager
def deployed(
    folder: Path,
    mode: str,
    *,
    grace: float = 20,
    spoolers: int = 2,
    processes: int = 2,
    options: list[str] | None = None,
    frequency: int = 1,
    module: str = "drain_site:app",
) -> Iterator[Deployed]:
    """The site of ``module`` in ``folder``, with a copy of its code that a test may change."""
    code = folder / "code"
    if not code.exists():
        code.mkdir(parents=True)
        for name in ("drain_site.py", "kill_tasks.py", "soak_site.py", "history.py"):
            shutil.copy(SITE / name, code / name)
    spool, history = folder / "spool", History(folder / "history")
    env = {
        "HISTORY": str(history.path),
        "PYTHONUNBUFFERED": "1",
        # If a module is rewritten within a second, Python would use the compiled code of the old one.
        "PYTHONDONTWRITEBYTECODE": "1",
        "SPOOLKIT_GRACE": str(grace),
        "SPOOLKIT_TIMEOUT_GRACE": "1",
        "SPOOLKIT_UNKNOWN_GRACE": "2",
    }
    common = [
        "master = true",
        "enable-threads = true",
        "need-app = true",
        f"processes = {processes}",
        f"pythonpath = {code}",
        f"chdir = {code}",
        f"module = {module}",
        *STOP_HOOKS,
        *MODES[mode],
        *(options or []),
    ]
    runs = [
        f"spooler-processes = {spoolers}",
        f"spooler-frequency = {frequency}",
        f"spooler = {spool}",
        "spooler-quiet = true",
    ]
    with ExitStack() as running:

        def start(name: str, lines: list[str], **more: bool) -> UwsgiServer:
            own = folder / name
            own.mkdir(exist_ok=True)
            (own / "touched").write_text("")
            lines = [*lines, f"master-fifo = {own / 'fifo'}", f"touch-reload = {own / 'touched'}"]
            server = UwsgiServer(own, options=[*common, *lines], env=env, spool=spool, **more)
            running.callback(server.kill)
            return server.__enter__()

        if mode == "two instances":
            jobs = start("jobs", runs)
            web = start("web", [f"spooler-external = {spool}"], spools=False)
        else:
            web = jobs = start("server", runs)
        yield Deployed(folder, Site(web, history), web, jobs)
