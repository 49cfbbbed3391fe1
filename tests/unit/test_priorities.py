"""Priorities: the folders of jobs, the order in which spoolers run them, and what uWSGI must be told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolkit import Retry, registry, spool
from spoolkit.admin import actions
from spoolkit.doctor import options
from spoolkit.doctor.findings import Site
from spoolkit.encoding import packet
from spoolkit.errors import ConfigurationError, QueueOptionError
from spoolkit.spooldir import parked, priorities, spoolfile
from spoolkit.spooldir.priorities import Lookahead
from spoolkit.spooling import handler, store_version
from spoolkit.spooling.standalone import Spooler
from spoolkit.uwsgi import bridge, recommended
from spoolkit.uwsgi.instance import Instance

done: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    done.clear()


def declare(priority: int | None = None, **given: Any) -> Any:
    def note(value: Any) -> None:
        done.append(value)
        if value == "again":
            raise Retry(0)

    return spool(priority=priority, name=f"priorities.{priority}", **given)(note)


def folder_of(directory: str, job: Any) -> str:
    path = spoolfile.locate(directory, job.id)
    assert path is not None
    return os.path.relpath(os.path.dirname(path), directory)


# Folders


def test_without_a_declared_priority_nothing_changes(directory: str) -> None:
    assert folder_of(directory, declare()(1)) == "."
    assert not priorities.is_used()
    assert "spooler-ordered" not in recommended.ini(module="app:app")


def test_with_a_declared_priority_each_job_is_in_a_folder(directory: str) -> None:
    low, normal = declare(900), declare()
    assert folder_of(directory, low(1)) == "900"
    assert folder_of(directory, low.using(priority=0)(1)) == "0"
    assert folder_of(directory, normal(1)) == "500"
    assert folder_of(directory, normal.using(delay=60)(1)) == "later/500"
    assert folder_of(directory, normal.spool(value=1, priority="7")) == "7"
    assert (low(1).priority, normal(1).priority) == (900, None)


def test_a_job_keeps_its_priority_while_it_is_tried_again_and_after_its_death(
    directory: str, work: Callable[[], None], time_passes: Callable[[float], None]
) -> None:
    job = declare(900, retries=1, backoff=60)("again")
    spooler = Spooler(directory)
    spooler.run_due()
    assert folder_of(directory, job) == "later/900"
    time_passes(3600)
    spooler.run_due()
    assert job.state == "dead"
    actions.retry(job.id)
    assert folder_of(directory, job) == "900"


@pytest.mark.parametrize("priority", [-1, 1000, True, 1.5, "1"])
def test_an_impossible_priority_is_refused(priority: Any, directory: str) -> None:
    with pytest.raises(ConfigurationError, match="priority is"):
        declare(priority)
    if priority != "1":
        with pytest.raises(QueueOptionError, match="priority is"):
            declare().using(priority=priority)


def test_many_jobs_of_one_call_have_their_priority(directory: str, work: Callable[[], None]) -> None:
    low, normal = declare(900), declare()
    low.map([("low",)] * 2)
    normal.map([("normal",)] * 2)
    normal.using(priority=1)("first")
    work()
    assert done == ["first", "normal", "normal", "low", "low"]


@pytest.mark.parametrize("is_scanned", [True, False])
def test_a_job_whose_folder_is_not_scanned_any_more_comes_back_where_it_runs(
    directory: str, monkeypatch: pytest.MonkeyPatch, is_scanned: bool
) -> None:
    """It was parked, or dead. Its call cannot be refused any more."""
    low = declare(900, retries=0)
    dead, waiting = low("again"), low.using(delay=60)("waits")
    Spooler(directory).run_due()
    assert dead.state == "dead"
    path = spoolfile.locate(directory, waiting.id)
    assert path is not None
    path = parked.park(path, directory, "t")
    monkeypatch.setattr(bridge, "has_priorities", lambda: is_scanned)
    actions.retry(dead.id)
    parked.move_back(path, directory)
    assert [folder_of(directory, job) for job in (dead, waiting)] == ["900" if is_scanned else "."] * 2


# uWSGI


def test_where_uwsgi_does_not_scan_folders_only_normal_jobs_are_accepted(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "has_priorities", lambda: False)
    with pytest.raises(QueueOptionError, match="spooler-ordered = true"):
        declare(900)(1)
    assert folder_of(directory, declare()(1)) == "."


def test_a_number_over_normal_is_refused_under_uwsgi_if_no_task_declares_one(
    directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "has_priorities", lambda: True)
    normal = declare()
    with pytest.raises(QueueOptionError, match=r"@spool\(priority=501\)"):
        normal.using(priority=501)(1)
    assert folder_of(directory, normal.using(priority=500)(1)) == "500"
    declare(501)
    assert folder_of(directory, normal.using(priority=501)(1)) == "501"


def test_the_printed_ini_and_the_doctor_know_the_line(directory: str) -> None:
    assert "\nspooler-ordered = true\n" in recommended.ini(module="app:app", priorities=True)
    declare(100)
    site = Site(directory, "", 60.0, 0.0, ())
    without, with_it = ({"spooler": [directory], **more} for more in ({}, {"spooler-ordered": ["true"]}))
    (found,) = options._ordered(Instance("uwsgi.ini", "", without), site)
    assert (found.check, found.remedy) == ("spooler-ordered", "spooler-ordered = true")
    assert list(options._ordered(Instance("uwsgi.ini", "", with_it), site)) == []


# Order


def test_a_spooler_runs_jobs_by_priority_and_those_without_a_folder_as_normal(
    directory: str, work: Callable[[], None]
) -> None:
    normal = declare()
    normal("before the deploy")
    low = declare(900)
    low("low")
    normal("normal")
    low.using(priority=3)("urgent")
    work()
    assert done == ["urgent", "normal", "before the deploy", "low"]


def test_an_urgent_job_does_not_wait_for_the_pass_in_progress(directory: str, work: Callable[[], None]) -> None:
    urgent = declare(1)

    @spool(name="priorities.asks")
    def asks(value: int) -> None:
        done.append(value)
        if value in (0, 2):
            urgent(f"urgent after {value}")

    for value in range(4):
        asks(value)
    work()
    assert done == [0, "urgent after 0", 1, 2, "urgent after 2", 3]


def handed(directory: str, job: Any) -> tuple[dict[Any, bytes], str]:
    """What uWSGI hands to the handler of spool files."""
    path = spoolfile.locate(directory, job.id)
    assert path is not None
    content = packet.load(Path(path).read_bytes())
    return {**content.fields, "spooler_task_name": os.path.basename(path).encode(), "body": content.body}, path


@pytest.fixture
def serve(directory: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], int | None]:
    """Hand a job to the handler, as uWSGI does."""
    monkeypatch.setattr(handler, "this_process", handler._ThisProcess(directory, os.getcwd()))
    monkeypatch.setattr(bridge, "rescan", lambda: None)
    return lambda job: handler._serve_in_order(*handed(directory, job), directory)


def test_the_handler_runs_more_urgent_jobs_before_the_one_that_uwsgi_hands_over(
    serve: Callable[[Any], int | None], directory: str
) -> None:
    urgent, normal = declare(1), declare()
    offered = normal("offered")
    urgent("first")
    urgent.using(priority=2)("second")
    declare(900)("low")
    assert serve(offered) == handler._LEAVE
    assert done == ["first", "second", "offered"]
    assert offered.state == "done"


def test_the_job_that_uwsgi_hands_over_may_be_gone_after_a_more_urgent_one(
    serve: Callable[[Any], int | None], directory: str
) -> None:
    offered = declare()("offered")

    @spool(priority=1, name="priorities.cancels")
    def cancels() -> None:
        offered.cancel()  # which works: the job is not locked meanwhile

    cancels()
    assert serve(offered) == handler._LEAVE
    assert (done, offered.state) == ([], "cancelled")


def test_a_job_of_another_library_runs_while_uwsgi_has_locked_it(
    serve: Callable[[Any], int | None], directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uWSGI removes its file after the handler has returned: unlocked, it would be run by another spooler meanwhile."""
    monkeypatch.setattr(handler, "execute_foreign", lambda *_: (done.append("foreign") or -2, True))
    env = {"ud_spool_func": b"somebody.elses", "spooler_task_name": f"{spoolfile.PREFIX}1_2".encode()}
    path = Path(directory, os.fsdecode(env["spooler_task_name"]))
    path.write_bytes(packet.dump(packet.Packet({b"ud_spool_func": b"somebody.elses"}, b"")))
    declare(1)("urgent")
    assert handler._serve_in_order(env, str(path), directory) == handler._LEAVE
    assert done == ["urgent"]
    assert handler._serve_in_order(env, str(path), directory) == -2
    assert done == ["urgent", "foreign"]


def test_where_no_job_may_start_an_urgent_one_waits_as_well(
    serve: Callable[[Any], int | None], directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered, urgent = declare()("offered"), declare(1)("urgent")
    monkeypatch.setattr(store_version, "is_newer", lambda: True)
    assert serve(offered) is None
    assert (done, offered.state, urgent.state) == ([], "queued", "queued")


def write(directory: str, folder: int | None, name: str, *, due: bool = True) -> str:
    path = Path(directory, *([] if folder is None else [str(folder)]))
    path.mkdir(exist_ok=True)
    file = path / f"{spoolfile.PREFIX}{name}"
    file.write_text("")
    os.utime(file, (0, 0) if due else (2**33, 2**33))
    return str(file)


FILES = st.lists(st.tuples(st.none() | st.integers(0, 999), st.booleans()), max_size=8)


@settings(max_examples=30)
@given(files=FILES, number=st.none() | st.integers(0, 999))
def test_what_is_found_before_a_job_is_due_more_urgent_and_in_order(
    files: list[tuple[int | None, bool]], number: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = str(tmp_path_factory.mktemp("spool"))
    written = [(folder, write(directory, folder, f"{n}", due=due), due) for n, (folder, due) in enumerate(files)]
    path = write(directory, number, "offered")

    def rank(folder: int | None) -> int:
        return 500 if folder is None else folder

    assert priorities.of(path, directory) == rank(number)
    lookahead = Lookahead(directory)
    found = list(lookahead.before(path))
    urgent = {one for folder, one, due in written if due and rank(folder) < rank(number)}
    assert set(found) == urgent
    ranks = [priorities.of(one, directory) for one in found]
    assert ranks == sorted(ranks)
    assert list(lookahead.before(path)) == [], "each only once: another spooler may run it"


def test_a_folder_that_is_new_is_looked_into_if_its_number_is_declared(directory: str) -> None:
    path = write(directory, None, "offered")
    lookahead = Lookahead(directory)
    assert list(lookahead.before(path)) == []
    declare(5)
    lookahead._next_listing.clear()  # the time until then has passed
    urgent = write(directory, 5, "urgent")
    assert list(lookahead.before(path)) == [urgent]


def test_the_name_of_a_spool_directory_may_be_a_number(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    path = write(str(tmp_path / "7"), None, "job")
    assert priorities.of(path, str(tmp_path / "7")) == 500
