"""Registrations of several processes in one set of tables, as uWSGI keeps them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spoolkit.uwsgi import ledger, timers
from spoolkit.uwsgi.ledger import Ledger


class Tables:
    """What uWSGI's processes share, as core/signal.c of 2.0.31 keeps it."""

    def __init__(self, processes: int) -> None:
        self.entries: list[tuple[str, int, tuple[Any, ...]]] = []
        self.handlers: list[dict[int, Any]] = [{} for _ in range(processes + 1)]

    def fire(self, worker: int) -> list[str]:
        """What is called when everything is due and ``worker`` is the first that is idle."""
        called: list[str] = []
        for _, number, _ in self.entries:
            self.handlers[worker].get(number, str)(called)
        return called


class Process:
    """The module ``uwsgi`` in one HTTP process (``worker`` > 0), the master (0) or a spooler (-1)."""

    def __init__(self, tables: Tables, worker: int, respawns: int = 0) -> None:
        self._tables, self._worker, self._respawns = tables, worker, respawns
        self.started_on = 1

    def worker_id(self) -> int:
        return max(self._worker, 0)

    def masterpid(self) -> int:
        return os.getpid() if self._worker == 0 else os.getppid()

    def workers(self) -> list[dict[str, int]]:
        return [{"respawn_count": self._respawns} for _ in self._tables.handlers[1:]]

    def signal_registered(self, number: int) -> bool:
        return number in self._tables.handlers[self.worker_id()]

    def register_signal(self, number: int, target: str, handler: Any) -> None:
        if self._worker < 0:
            raise ValueError("unable to register signal")
        self._tables.handlers[self._worker][number] = handler if callable(handler) else None
        if self._worker == 0:
            for page in self._tables.handlers[1:]:
                page.update(self._tables.handlers[0])

    def _add(self, kind: str, number: int, schedule: tuple[Any, ...]) -> None:
        if sum(kind == one for one, _, _ in self._tables.entries) >= 64:
            raise ValueError("unable to add it")
        self._tables.entries.append((kind, number, schedule))

    def add_timer(self, number: int, *schedule: Any) -> None:
        self._add("timer", number, schedule)

    def add_cron(self, number: int, *schedule: Any) -> None:
        self._add("cron", number, schedule)


def function(name: str) -> Any:
    def call(called: Any) -> None:
        if isinstance(called, list):
            called.append(name)

    call.__qualname__ = name
    return call


def free_signal(uwsgi: Any) -> int:
    """As uwsgidecorators finds one."""
    return next(number for number in range(256) if not uwsgi.signal_registered(number))


def load(uwsgi: Any, code: list[tuple[str, int]]) -> None:
    """Import an application with these timers: names and seconds."""
    for name, seconds in code:
        number = free_signal(uwsgi)
        uwsgi.register_signal(number, "", function(name))
        uwsgi.add_timer(number, seconds)


def start(tables: Tables, directory: Path, worker: int, respawns: int = 0) -> Any:
    tables.handlers[worker] = dict.fromkeys(tables.handlers[worker], crash) if respawns else tables.handlers[worker]
    uwsgi = Process(tables, worker, respawns)
    timers.replace_functions(uwsgi, str(directory))
    return uwsgi


def crash(called: Any) -> None:
    raise AssertionError("the handler of a process that is gone was called")


CODES = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([1, 5])), max_size=6)


@settings(deadline=None, max_examples=30)
@given(generations=st.lists(CODES, min_size=1, max_size=6), processes=st.integers(1, 3))
def test_each_timer_fires_once_in_whichever_process(
    generations: list[list[tuple[str, int]]], processes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("spool")
    tables = Tables(processes)
    for respawns, code in enumerate(generations):
        for worker in range(1, processes + 1):
            load(start(tables, directory, worker, respawns), code)
        for worker in range(1, processes + 1):
            assert sorted(tables.fire(worker)) == sorted(name for name, _ in code)


def test_a_hundred_reloads_add_no_table_entry(tmp_path: Path) -> None:
    tables = Tables(2)
    code = [(f"f{number}", 1) for number in range(5)]
    for respawns in range(101):
        for worker in (1, 2):
            load(start(tables, tmp_path, worker, respawns), code)
    assert len(tables.entries) == 5


def test_processes_that_register_concurrently_add_each_timer_once(tmp_path: Path) -> None:
    tables = Tables(4)
    code = [(name, 1) for name in "abcdefghij"]

    def run(worker: int) -> None:
        ready.wait(60)
        load(start(tables, tmp_path, worker), code[worker:] + code[:worker])

    ready = threading.Barrier(4)
    threads = [threading.Thread(target=run, args=(worker,)) for worker in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for worker in (1, 2, 3, 4):
        assert sorted(tables.fire(worker)) == list("abcdefghij")


def test_a_signal_number_chosen_by_the_application_is_kept(tmp_path: Path) -> None:
    tables = Tables(2)
    for worker in (1, 2):
        uwsgi = start(tables, tmp_path, worker)
        uwsgi.register_signal(26, "", function("chosen"))
        uwsgi.add_timer(26, 1)
        uwsgi.add_cron(26, 0, 3, -1, -1, -1)
    assert tables.entries == [("timer", 26, (1,)), ("cron", 26, (0, 3, -1, -1, -1))]
    assert tables.fire(2) == ["chosen", "chosen"]


def test_a_timer_may_be_added_before_its_handler(tmp_path: Path) -> None:
    tables = Tables(2)
    for worker in (1, 2):
        uwsgi = start(tables, tmp_path, worker)
        uwsgi.add_timer(3, 1)
        uwsgi.register_signal(3, "", function("late"))
    assert tables.fire(1) == tables.fire(2) == ["late"]


def test_a_spooler_registers_no_timer(tmp_path: Path) -> None:
    tables = Tables(1)
    load(start(tables, tmp_path, -1), [("a", 1)])
    assert tables.entries == []


def test_signals_that_the_master_registered_are_kept(tmp_path: Path) -> None:
    tables = Tables(1)
    master = start(tables, tmp_path, 0)
    load(master, [("inherited", 1)])
    worker = start(tables, tmp_path, 1)
    load(worker, [("own", 1)])
    assert sorted(tables.fire(1)) == ["inherited", "own"]


def test_a_signal_number_of_a_killed_process_calls_no_other_function(tmp_path: Path) -> None:
    book = Ledger(str(tmp_path / "spoolers" / "timers.1"), "this")
    book.reserve(set())
    with (tmp_path / "spoolers" / "timers.1").open("a") as file:
        file.write('{"number": 0}\n')  # and killed, before or after uWSGI had the entry
    with book.entry(("a",), 0, fixed=False, taken=set()) as entry:
        assert entry == ledger.Entry(1, is_new=True)
    with book.entry(("a",), 5, fixed=False, taken=set()) as entry:
        assert entry == ledger.Entry(1, is_new=False)


def test_an_unfinished_line_of_the_ledger_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "spoolers" / "timers.1"
    with Ledger(str(path), "this").entry(("a",), 0, fixed=False, taken=set()):
        pass
    with path.open("ab") as file:
        file.write(b'\n{"number": 7, "ke')
    with Ledger(str(path), "this").entry(("b",), 1, fixed=False, taken=set()) as entry:
        assert entry == ledger.Entry(1, is_new=True)
    assert Ledger(str(path), "this").numbers() == {0, 1}


def test_a_ledger_of_another_uwsgi_is_overwritten(tmp_path: Path) -> None:
    path = str(tmp_path / "spoolers" / "timers.1")
    with Ledger(path, "before").entry(("a",), 0, fixed=False, taken=set()):
        pass
    assert Ledger(path, "after").numbers() == set()
    with Ledger(path, "after").entry(("a",), 4, fixed=False, taken=set()) as entry:
        assert entry == ledger.Entry(4, is_new=True)


def test_ledgers_of_dead_masters_are_removed(tmp_path: Path) -> None:
    gone = tmp_path / "spoolers" / "timers.4194305"
    gone.parent.mkdir()
    gone.write_text("")
    Ledger(str(tmp_path / "spoolers" / f"timers.{os.getpid()}"), "this").reserve(set())
    assert [path.name for path in gone.parent.iterdir()] == [f"timers.{os.getpid()}"]


def test_the_error_of_a_full_table_says_what_to_do(tmp_path: Path) -> None:
    tables = Tables(1)
    uwsgi = start(tables, tmp_path, 1)
    load(uwsgi, [(f"f{number}", 1) for number in range(64)])
    with pytest.raises(ValueError, match="restart it, which empties its tables"):
        load(uwsgi, [("one more", 1)])


def test_timers_are_added_and_logged_if_the_ledger_cannot_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tables = Tables(1)
    (tmp_path / "spoolers").write_text("in the way")
    load(start(tables, tmp_path, 1), [("a", 1)])
    assert tables.fire(1) == ["a"]
    assert "may fire more than once, because the file that lists the registered timers" in caplog.text
