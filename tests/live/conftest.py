"""A site on a real uWSGI, with a history of what its tasks did."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from brokers import BROKERS, Broker, is_installed
from uwsgi_server import Response, UwsgiServer, wait_until

PROJECT = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"


class Event(NamedTuple):
    """One line of the history."""

    time: float
    pid: int
    words: tuple[str, ...]


class History:
    """The events that the tasks of a site have written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def events(self, *words: str) -> list[Event]:
        """The events that begin with ``words``, in order."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        parsed = [Event(float(t), int(p), tuple(rest)) for t, p, *rest in (line.split(" ") for line in lines)]
        return [event for event in parsed if event.words[: len(words)] == words]

    def wait_for(self, *words: str, count: int = 1, timeout: float = 40) -> list[Event]:
        """The same, as soon as there are ``count`` of them."""
        wait_until(
            lambda: len(self.events(*words)) >= count,
            timeout=timeout,
            message=lambda: f"{words} happened {len(self.events(*words))} times, not {count}; history: {self.events()}",
        )
        return self.events(*words)


class Site:
    """A server and its history."""

    def __init__(self, server: UwsgiServer, history: History) -> None:
        self.server = server
        self.history = history
        self.spool = server.spool

    def call(self, task: str, *args: Any, expect: int = 200, **asked: Any) -> dict[str, Any]:
        """POST /call/<task>; ``asked`` holds ``kwargs``, ``using``, ``spool`` or ``packet``."""
        answer = self.server.post(f"/call/{task}", json={"args": args, **asked})
        assert answer.status == expect, (answer.text, self.server.log()[-3000:])
        return answer.json

    def files(self) -> list[str]:
        """The names of the spool files, those of delayed jobs among them."""
        # In this order: a job that is moved in or put off meanwhile is in the list after that of its old place.
        later = self.spool / "later"
        names = [name for folder in (later, self.spool, later) if folder.exists() for name in os.listdir(folder)]
        jobs = {name for name in names if name.startswith("uwsgi_spoolfile_on_")}
        return sorted(jobs - {"uwsgi_spoolfile_on_later"})

    def dead(self) -> dict[str, dict[str, Any]]:
        """The files in ``dead/``, by name, each with its report."""
        folder = self.spool / "dead"
        names = os.listdir(folder) if folder.exists() else []
        # The report is written before the file is moved there, so it is complete if the file exists.
        kept = sorted(name for name in names if not name.endswith((".json", ".new")))
        return {name: json.loads((folder / f"{name}.json").read_text()) for name in kept}

    def wait_empty(self, timeout: float = 40) -> None:
        wait_until(
            lambda: not self.files(),
            timeout=timeout,
            message=lambda: f"left in the spool: {self.files()}; {self.server.log()[-3000:]}",
        )


StartSite = Callable[..., Site]


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


def environment_in(folder: Path) -> dict[str, str]:
    return {
        "HISTORY": str(folder / "history"),
        "SPOOLKIT_SPOOL": str(folder / "spool"),
        "PYTHONPATH": str(SITE),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a process of the site, inside or outside uWSGI."""
    return environment_in(tmp_path)


def site_in(
    folder: Path,
    *options: str,
    module: str = "site_app",
    processes: int = 1,
    threads: int = 2,
    spoolers: int = 1,
    frequency: int | None = 1,
    env: Mapping[str, str] = {},
    spool: Path | None = None,
) -> Site:
    """A site with its files in ``folder`` and a server that is not started yet; ``options`` are lines of its ini."""
    spool = spool or folder / "spool"
    lines: Sequence[str] = [
        "master = true",
        "enable-threads = true",
        "need-app = true",
        f"processes = {processes}",
        f"threads = {threads}",
        f"pythonpath = {SITE}",
        f"chdir = {SITE}",
        f"module = {module}:app",
        f"spooler-processes = {spoolers}",
        *([] if frequency is None else [f"spooler-frequency = {frequency}"]),
        f"spooler = {spool}",
        *options,
    ]
    server = UwsgiServer(folder, options=lines, env={**environment_in(folder), **env}, spool=spool)
    return Site(server, History(folder / "history"))


@pytest.fixture
def start_site(tmp_path: Path, environment: dict[str, str]) -> Iterator[StartSite]:
    with ExitStack() as running:

        def start(*options: str, env: Mapping[str, str] = {}, **given: Any) -> Site:
            site = site_in(tmp_path, *options, env={**environment, **env}, **given)
            running.enter_context(site.server)
            return site

        yield start


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One site for all tests of a file that do not need their own server."""
    site = site_in(tmp_path_factory.mktemp("site"))
    with site.server:
        yield site


__all__ = ["Response"]


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Each of the real brokers."""
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    with BROKERS[request.param](tmp_path / "broker") as broker:
        yield broker
