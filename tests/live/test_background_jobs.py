"""examples/background-jobs: after each step of its README the site does what it did before, and no job is lost."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from any_server import CommandServer
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from .conftest import PROJECT

EXAMPLE = PROJECT / "examples" / "background-jobs"
sys.path.insert(0, str(EXAMPLE))

import port  # noqa: E402

GUNICORN = ["gunicorn", "--workers", "2", "--threads", "2", "--bind", "127.0.0.1:{port}", "app:app"]


def test_the_diffs_of_the_readme_lead_from_one_folder_to_the_other(tmp_path: Path) -> None:
    diffs = port.steps()
    states = [port.ported(step, tmp_path / str(step)) for step in range(len(diffs) + 1)]
    # This also compares the line numbers, which port.apply() does not need and patch does.
    assert [port.difference(*states[step : step + 2]) for step in range(len(diffs))] == diffs
    assert port.difference(states[-1], EXAMPLE / "after") == ""


def test_a_diff_is_refused_where_the_files_differ_from_it(tmp_path: Path) -> None:
    site = port.ported(0, tmp_path / "site")
    (site / "tasks.py").write_text("pass\n")
    with pytest.raises(ValueError, match=r"tasks\.py does not have these lines once"):
        port.apply(port.steps()[0], site)


class Server(CommandServer):
    """A server of the site, in a folder of its own."""

    def __init__(self, site: Path, name: str, command: list[str], probe: str = "/") -> None:
        directory = site.parent / f"{len(os.listdir(site.parent))}-{name}"
        directory.mkdir()
        super().__init__(directory, command, probe=probe, cwd=site, spool=site / "my_spools")
        # Python would use the compiled old code for new code of the same second.
        self._env.update(PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1")
        if name == "uwsgi":
            ini = (site / "uwsgi.ini").read_text()
            (directory / "uwsgi.ini").write_text(ini.replace("127.0.0.1:5000", f"127.0.0.1:{self.port}"))
            self._command += ["--ini", str(directory / "uwsgi.ini")]

    def __exit__(self, *error: object) -> None:
        self.stop()


class SpoolRun(Server):
    def _answers(self) -> bool:
        return True


@contextlib.contextmanager
def served(site: Path, kind: str) -> Iterator[UwsgiServer]:
    """The site on uWSGI, or on gunicorn and ``flask spool run``."""
    if kind == "uwsgi":
        with Server(site, "uwsgi", ["uwsgi"]) as server:
            yield server
    else:
        with SpoolRun(site, "jobs", ["flask", "spool", "run"]), Server(site, "gunicorn", GUNICORN) as server:
            yield server


def done(site: Path) -> list[tuple[float, str]]:
    """What the jobs did, and when."""
    lines = (site / "done.log").read_text().splitlines() if (site / "done.log").exists() else []
    return [(float(when), what) for when, _, what in (line.partition(" ") for line in lines)]


def wait_for(site: Path, *expected: str, within: float = 60) -> None:
    wait_until(
        lambda: {*expected} <= {what for _, what in done(site)},
        timeout=within,
        message=lambda: f"{expected} are not in {done(site)}; {logs(site)}",
    )


def logs(site: Path) -> str:
    return "\n".join(f"{path}: {path.read_text()[-3000:]}" for path in sorted(site.parent.glob("*/server.log")))


def start_jobs(server: UwsgiServer, delay: int) -> None:
    for page in ("uwsgi_thread/0", f"uwsgi_spool/0?delay={delay}", "uwsgi_spool/1", "deliver/17", "uwsgi_tasks/17"):
        assert server.get(f"/{page}").json == {"started": True}


@pytest.mark.parametrize(
    ("step", "kind"),
    sampled(
        [(0, "uwsgi"), *((step, kind) for step in (1, 2, 3) for kind in ("uwsgi", "gunicorn")), (4, "gunicorn")],
        (4, "gunicorn"),
    ),
)
def test_the_site_does_the_same_after_each_step(step: int, kind: str, tmp_path: Path) -> None:
    site = port.ported(step, tmp_path / "site")
    with served(site, kind) as server:
        asked = time.time()
        start_jobs(server, delay=1)
        wait_for(site, "deliver 17 postponed", "announce 17 postponed")
        (site / "partner").mkdir()
        wait_for(site, "thread 0", "spool 0", "spool 1", "deliver 17 sent", "announce 17 sent")
    whats = [what for _, what in done(site) if "postponed" not in what]
    assert sorted(whats) == ["announce 17 sent", "deliver 17 sent", "spool 0", "spool 1", "thread 0"]
    # uWSGI's own function writes the file before it sets the time, and a spooler may look in between.
    assert step == 0 or dict(map(reversed, done(site)))["spool 0"] >= asked + 1 - 0.001


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("step", "old", "new"),
    [(step, kind, kind) for step in (1, 2, 3) for kind in ("uwsgi", "gunicorn") if (step, kind) != (1, "gunicorn")]
    + [(4, "uwsgi", "gunicorn")],
)
def test_jobs_that_are_accepted_before_a_step_are_done_after_it(step: int, old: str, new: str, tmp_path: Path) -> None:
    site = port.ported(step - 1, tmp_path / "site")
    with served(site, old) as server:
        start_jobs(server, delay=6)
        wait_for(site, "thread 0", "spool 1", "deliver 17 postponed", "announce 17 postponed")
    assert {"deliver 17 sent", "announce 17 sent"}.isdisjoint(what for _, what in done(site))
    port.apply(port.steps()[step - 1], site)
    (site / "partner").mkdir()
    with served(site, new):
        wait_for(site, "spool 0", "deliver 17 sent", "announce 17 sent")
        spool = site / "my_spools"
        wait_until(lambda: not [*spool.rglob("uwsgi_spoolfile_on_*")], message=lambda: f"{[*spool.rglob('*')]}")


@pytest.mark.matrix
def test_a_job_that_uwsgi_tasks_has_pickled_is_dead_with_the_reason_where_uwsgi_is_left_too_early(
    tmp_path: Path,
) -> None:
    site = port.ported(0, tmp_path / "site")
    with served(site, "uwsgi") as server:
        server.get("/uwsgi_tasks/17")
        wait_for(site, "announce 17 postponed")
    port.apply(port.steps()[0], site)
    (site / "partner").mkdir()
    with served(site, "gunicorn"):
        reports = site / "my_spools" / "dead"
        wait_until(
            lambda: any("pickle" in report.read_text() for report in reports.glob("*.json")),
            timeout=60,
            message=lambda: logs(site),
        )
    assert "announce 17 sent" not in [what for _, what in done(site)]
