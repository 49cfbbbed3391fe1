"""Every way to stop and to reload, on every kind of uWSGI: jobs finish, none is lost, none runs twice.

The cells of the tests that were chosen run side by side; each test then says what is expected of its cell.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import pytest
from sampling import sampled
from uwsgi_server import Response, wait_until

from .draining import MODES, Deployed, deployed

AT_ONCE = 2 * (os.cpu_count() or 1)
GRACE = 20.0
SHORT_GRACE = 1.0
LONG = 60.0
HELD = -1.0


@dataclass(frozen=True)
class Row:
    """An action while two jobs run for ``seconds`` and two wait; ``finished``: whether the running ones must finish.

    ``seconds=HELD``: they run until the stop or the reload is well under way.
    """

    name: str
    act: Callable[[Deployed], None]
    seconds: float = HELD
    grace: float = GRACE
    finished: bool = True
    reloads: bool = False
    request: bool = False
    task: str = "work"
    but: frozenset[str] = frozenset()
    """The modes in which running jobs cannot finish: they are interrupted."""


@dataclass
class Cell:
    """The result. ``finished`` and ``interrupted`` count the jobs that were running at that moment."""

    finished: int = 0
    interrupted: int = 0
    queued_started: int = 0
    twice: int = 0
    lost: list[str] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)
    endings: list[list[str]] = field(default_factory=list)
    seconds: float | None = None
    answer: Response | None = None
    versions: set[str] = field(default_factory=set)
    most_spoolers: int = 0
    log: str = ""


def twice(first: int, second: int, pause: float) -> Callable[[Deployed], None]:
    def act(site: Deployed) -> None:
        site.signal(first)
        site.jobs.wait_for_log("graceful shutdown triggered")
        time.sleep(pause)  # as a person presses Ctrl-C twice: the signals must not count as one
        site.signal(second)

    return act


def reload_then_stop(site: Deployed) -> None:
    site.signal(signal.SIGHUP)
    site.jobs.wait_for_log("chain reload starting|gracefully killing workers")
    site.signal(signal.SIGTERM)


PREFORK = frozenset({"prefork"})

ROWS = (
    Row("SIGTERM", lambda site: site.signal(signal.SIGTERM)),
    Row("SIGINT", lambda site: site.signal(signal.SIGINT)),
    Row("SIGQUIT", lambda site: site.signal(signal.SIGQUIT)),
    Row("group SIGINT", lambda site: site.signal_group(signal.SIGINT)),
    Row("group SIGTERM", lambda site: site.signal_group(signal.SIGTERM)),
    Row("fifo q", lambda site: site.fifo("q")),
    Row("two signals", twice(signal.SIGTERM, signal.SIGTERM, 0.5), seconds=LONG, finished=False),
    Row("during a request", lambda site: site.signal(signal.SIGTERM), request=True),
    Row("idle", lambda site: site.signal(signal.SIGTERM), seconds=0),
    Row("beyond the grace", lambda site: site.signal(signal.SIGTERM), LONG, SHORT_GRACE, finished=False),
    Row("harakiri", lambda site: site.signal(signal.SIGTERM), LONG, 4.0, finished=False, task="overruns"),
    Row("SIGHUP", lambda site: site.signal(signal.SIGHUP), reloads=True, but=PREFORK),
    Row("fifo r", lambda site: site.fifo("r"), reloads=True, but=PREFORK),
    Row("fifo c", lambda site: site.fifo("c"), reloads=True),
    Row("touch-reload", lambda site: site.touch(), reloads=True, but=PREFORK),
    Row("reload, then stop", reload_then_stop, but=PREFORK),
)


def run(folder: Path, mode: str, row: Row) -> Cell:
    cell = Cell()
    with deployed(folder, mode, grace=row.grace) as site:
        if row.reloads or not row.seconds:
            # A reload skips processes that are still starting, and in its first milliseconds uWSGI ignores SIGTERM.
            site.wait_until_up()
        call = ("holds",) if row.seconds == HELD else (row.task, row.seconds)
        running = [site.call(*call) for _ in range(2 if row.seconds else 0)]
        for id in running:
            site.site.history.wait_for("start", id)
        waiting = [site.call("work", 0.1) for _ in running]
        if row.reloads:
            code = folder / "code" / "drain_site.py"
            code.write_text(code.read_text().replace('VERSION = "old"', 'VERSION = "new"'))
        requested = request(site, cell) if row.request else None
        row.act(site)
        if row.reloads:
            reloaded(site, cell, mode)
        else:
            site.wait_for_stop()  # a job that ended earlier would let a waiting one start
            site.release()
            cell.seconds = site.wait_for_exit(row.grace + 40)
            cell.queued_started = sum(site.starts(id) for id in waiting)
        if requested is not None:
            requested.join(60)
        ended = {id for id in running if site.site.history.events("end", id)}
        cell.finished = len(ended)
        cell.endings = [site.endings(id) for id in running]
        cell.interrupted = sum("interrupted" in endings for endings in cell.endings)
        cell.log = site.jobs.log()
    if row.seconds == LONG:  # let the job be short at the next start
        code = folder / "code" / "drain_site.py"
        code.write_text(code.read_text().replace("+ seconds", "+ 0.1"))
    with deployed(folder, mode) as again:
        again.ids = site.ids
        wait_until(lambda: not again.unfinished(), timeout=40, message=lambda: f"unfinished: {again.unfinished()}")
        again.site.wait_empty()
        cell.lost = again.unfinished()
        cell.runs = [again.starts(id) for id in running]
        ends = [len(again.site.history.events("end", id)) for id in site.ids]
        cell.twice = len(again.site.history.events("twice")) + sum(count > 1 for count in ends)
    return cell


def request(site: Deployed, cell: Cell) -> threading.Thread:
    def ask() -> None:
        cell.answer = site.web.get("/slow/2.0")

    thread = threading.Thread(target=ask)
    thread.start()
    site.site.history.wait_for("request")
    return thread


def reloaded(site: Deployed, cell: Cell, mode: str) -> None:
    """Wait until the new code serves; meanwhile the site answers, and the number of spoolers does not grow."""

    def serves_new() -> bool:
        cell.most_spoolers = max(cell.most_spoolers, len(site.jobs.spooler_pids()))
        try:
            return site.jobs.get("/version").json["version"] == "new"
        except (OSError, HTTPException):
            # With a single thread, uWSGI drops a connection that it has just accepted when it is asked to exit.
            if mode == "threads":
                raise
            return False

    if mode == "prefork":
        # Only a full reload reads the code again; a chain reload does not.
        site.jobs.wait_for_log("chain reload starting|racefully killing worker")
        site.release()
        wait_until(lambda: not site.unfinished(), timeout=40, message=site.jobs.log)
        return
    in_a_row = 0
    deadline = time.monotonic() + 60
    while in_a_row < 10:
        in_a_row = in_a_row + 1 if serves_new() else 0
        assert time.monotonic() < deadline, site.jobs.log()[-4000:]
    site.release()
    wait_until(lambda: not site.unfinished(), timeout=40, message=site.jobs.log)
    for _ in range(2):
        id = site.call("work", 0.1)
        wait_until(lambda id=id: site.result(id), message=site.jobs.log)
        cell.versions.add((site.result(id) or b"").decode())


# Each way to stop or to reload once, and each mode of uWSGI with both; the other cells run in make matrix. SIGINT alone
# is much the same as that to the group, and a stop by the FIFO is in test_draining.py.
SAMPLE = {
    "SIGTERM": "threads",
    "group SIGINT": "prefork",
    "two signals": "threads",
    "during a request": "threads",
    "beyond the grace": "lazy-apps",
    "harakiri": "two instances",
    "SIGHUP": "threads",
    "fifo r": "prefork",
    "fifo c": "lazy-apps",
    "touch-reload": "two instances",
    "reload, then stop": "lazy-apps",
}
CELLS = [(row, mode) for row in ROWS for mode in MODES]
KEPT = [(row, mode) for row, mode in CELLS if SAMPLE.get(row.name) == mode]


@pytest.fixture(scope="module")
def matrix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    folder = tmp_path_factory.mktemp("stops")

    def one(row: Row, mode: str) -> Cell | BaseException:
        try:
            return run(folder / f"{mode}-{row.name}".replace(" ", "-"), mode, row)
        except BaseException as error:
            return error

    chosen = [
        (item.callspec.params["row"], item.callspec.params["mode"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.function is test_a_stop_or_reload_loses_no_job
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ran = list(pool.map(lambda cell: one(*cell), chosen))
    return {(row.name, mode): cell for (row, mode), cell in zip(chosen, ran, strict=True)}


Matrix = dict[tuple[str, str], Cell | BaseException]


@pytest.mark.timeout(600)  # the fixture runs all cells
@pytest.mark.parametrize(("row", "mode"), sampled(CELLS, *KEPT), ids=lambda part: getattr(part, "name", part))
def test_a_stop_or_reload_loses_no_job(matrix: Matrix, row: Row, mode: str) -> None:
    cell = matrix[row.name, mode]
    if isinstance(cell, BaseException):
        raise cell
    print(
        f"| {row.name} | {mode} | {cell.finished} | {cell.interrupted} | {cell.twice} | {len(cell.lost)} | "
        f"{'' if cell.seconds is None else f'{cell.seconds:.1f}'} |"
    )
    jobs = 2 if row.seconds else 0
    finishes = row.finished and mode not in row.but
    assert (cell.twice, cell.lost) == (0, []), cell
    assert cell.queued_started == 0, cell
    if finishes:
        assert (cell.finished, cell.interrupted) == (jobs, 0), cell
        assert cell.runs == [1] * jobs
    else:
        assert all("crashed" not in endings for endings in cell.endings), cell
        assert row.reloads or cell.interrupted == jobs, cell
    if row.request:
        assert cell.answer is not None
        assert cell.answer.status == 200
    if row.reloads and mode != "prefork":
        assert cell.versions == {'"new"'}
        assert cell.most_spoolers <= 4
    if cell.seconds is not None:
        assert cell.seconds < min(row.grace, LONG) + 20
