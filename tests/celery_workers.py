"""A site whose jobs run in a real worker of Celery over a real broker: its processes, and what its tasks have noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from brokers import Broker, Process
from flask import Flask
from uwsgi_server import wait_until

from spoolkit import SpoolKit
from spoolkit.admin import as_json, lookup
from spoolkit.store import locations

CODE = Path(__file__).parent / "live" / "site"

FOREVER = 90.0
"""Seconds after which a test gives up to wait. Nothing takes a quarter of it on a busy machine."""


FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


def fake_clock(ahead: float) -> dict[str, str]:
    """The environment of a process whose time of day is ahead by so many seconds; its monotonic clock is right."""
    if not ahead:
        return {}
    if not os.path.exists(FAKETIME):
        pytest.skip("libfaketime is not installed")
    return {"LD_PRELOAD": FAKETIME, "FAKETIME": f"{ahead:+g}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class Note(NamedTuple):
    """What a task has noted."""

    word: str
    #: The id of the job.
    id: str
    attempt: int
    #: On the monotonic clock, which all processes of the machine share.
    at: float


class Site:
    """The processes of a site: an origin (``flask spool run``) and a worker; none is started yet.

    Args:
        folder: Where its files are.
        broker: The broker.
        application: What ``FLASK_APP`` says.
        env: More variables of the environment; see ``celery_tasks`` for those that it reads.
    """

    def __init__(
        self,
        folder: Path,
        broker: Broker,
        *,
        application: str = "site_with_celery",
        env: Mapping[str, str] = {},
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.spool = folder / "spool"
        #: Where its processes have temporary files.
        self.temporary = folder / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "SITE": str(folder),
            "TMPDIR": str(self.temporary),
            "BROKER": broker.url,
            "FLASK_APP": application,
            "PYTHONPATH": os.pathsep.join([str(CODE), os.environ.get("PYTHONPATH", "")]),
            "C_FORCE_ROOT": "1",
            **env,
        }
        self.origin = self.process("origin", "flask", "spool", "run")
        self.worker_command = ["celery", "-A", "spoolkit.celery", "worker", "--concurrency", "2", "--loglevel", "INFO"]
        self.worker = self.process("worker", *self.worker_command)

    def process(self, name: str, *command: str) -> Process:
        """A process of the site with its output in ``name``.log, not started yet."""
        return Process([sys.executable, "-m", *command], self.folder / f"{name}.log", cwd=self.folder, env=self.env)

    def command(self, *words: str, text: str = "") -> str:
        """Run a command of the application. Returns its output."""
        ran = subprocess.run(
            [sys.executable, "-m", "flask", *words],
            cwd=self.folder,
            env=self.env,
            input=text,
            capture_output=True,
            text=True,
            timeout=FOREVER,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def call(self, *how: str, **using: Any) -> list[str]:
        """Enqueue jobs; ``using`` as in ``Task.using()``. Returns their ids."""
        return self.call_each(*((one, using) for one in how))

    def call_each(self, *jobs: tuple[str, dict[str, Any]]) -> list[str]:
        """The same for jobs that are called in several ways."""
        return self.command("call", text=json.dumps(jobs)).split()

    def show(self, id: str) -> dict[str, Any]:
        """What the command line says of a job."""
        found: dict[str, Any] = json.loads(self.command("spool", "show", id, "--json"))
        return found

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Within it, this process is one of the site's machine, and may ask for its jobs."""
        app = Flask("onlooker", root_path=str(self.folder))
        app.config.update(SPOOLKIT_SPOOL=self.spool, SPOOLKIT_DEV_RUNNER=False)
        SpoolKit(app)
        with app.app_context():
            try:
                yield
            finally:
                locations.store().close()

    def until(self, id: str, *states: str) -> dict[str, Any]:
        """Wait until a job is in one of these states. Returns what is known of it then."""
        with self.looking():

            def found() -> dict[str, Any] | None:
                details = as_json.detailed(lookup.details(id))
                return details if details["state"] in states else None

            return wait_until(found, timeout=FOREVER, message=lambda: f"{id} is not {states}\n{self.logs()}")

    def notes(self, word: str, id: str | None = None) -> list[Note]:
        """What the tasks have noted under this word; ``id``: those of this job only."""
        path = self.folder / "notes"
        # A line is written at once.
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        notes = [Note(what, job, int(attempt), float(at)) for what, job, attempt, at in lines]
        return [note for note in notes if note.word == word and id in (None, note.id)]

    def starts(self, id: str) -> list[int]:
        """The numbers of the attempts of a job that have started, in this order."""
        return [note.attempt for note in self.notes("start", id)]

    def until_noted(self, word: str, ids: Sequence[str]) -> None:
        """Wait until each of these jobs has noted the word."""
        wait_until(lambda: {note.id for note in self.notes(word)}.issuperset(ids), timeout=FOREVER, message=self.logs)

    def sent(self) -> list[Path]:
        """The files of the jobs that are with the broker or a worker."""
        return sorted((self.spool / "sent").glob("**/uwsgi*"))

    def is_sent(self, id: str) -> bool:
        """Whether the broker or a worker has had this job: its file was moved, or an attempt has started."""
        return any(id in path.name for path in self.sent()) or bool(self.notes("start", id))

    def events(self, id: str) -> list[tuple[str, int | None]]:
        """What is recorded of a job, in order: each event with its attempt."""
        with self.looking():
            rows = locations.store().read("SELECT kind, attempt FROM events WHERE job = ? ORDER BY seq", (id,))
            return [(row["kind"], row["attempt"]) for row in rows]

    def endings(self) -> set[str]:
        """How attempts have ended until now."""
        with self.looking():
            return {row["kind"] for row in locations.store().read("SELECT DISTINCT kind FROM events", ())}

    @staticmethod
    def on_monotonic(unix: float) -> float:
        """The moment of a time of the origin on the clock of the notes."""
        return unix - time.time() + time.monotonic()

    def go(self) -> None:
        """Let the tasks end that wait for it."""
        (self.folder / "go").touch()

    def logs(self) -> str:
        """The ends of the logs of all processes."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def kill(self) -> None:
        """End all processes."""
        self.worker.kill()
        self.origin.kill()
