"""spoolkit.compat.uwsgidecorators without uWSGI, and docs/compat.md."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from spoolkit import ArgumentError, Job, State, TaskFunctionError, registry
from spoolkit.admin import actions
from spoolkit.compat import spooled
from spoolkit.compat.uwsgidecorators import spool, spoolforever, spoolraw
from spoolkit.encoding import packet
from spoolkit.errors import ArgumentTypeError, QueueOptionError, ScheduleError, SignatureError
from spoolkit.spooldir import dead, spoolfile
from spoolkit.spooling import other_libraries
from spoolkit.system import clock

PAGE = (Path(__file__).parents[2] / "docs" / "compat.md").read_text()

Work = Callable[[], None]
Pass = Callable[[float], None]


@pytest.fixture(autouse=True)
def own_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    monkeypatch.setattr(other_libraries, "adopters", {})


def dead_letters(directory: str) -> list[str]:
    folder = os.path.join(directory, dead.FOLDER)
    return [name for name in os.listdir(folder) if not name.endswith(".json")] if os.path.isdir(folder) else []


def stock_file(directory: str, name: str, fields: dict[bytes, bytes], body: bytes = b"") -> str:
    """Write a file as uwsgidecorators does."""
    return spoolfile.write(directory, f"vm_1_1_123_1795727710_24624{name}", packet.dump(packet.Packet(fields, body)))


# The calling side


def test_a_function_gets_a_dict_with_the_keys_and_the_text_of_stock(directory: str, work: Work) -> None:
    seen: list[Any] = []

    @spool
    def noted(arguments: dict[str, Any]) -> None:
        seen.append(arguments)

    job = noted.spool({b"a": b"b", "c": "é"}, at=b"1", priority="3", body=b"hello", raw=b"\xff")
    work()
    assert seen == [
        {
            "spooler_task_name": f"{spoolfile.PREFIX}{job.id}",
            "ud_spool_func": "noted",
            "ud_spool_ret": "-2",
            "a": "b",
            "c": "é",
            "at": "1",
            "priority": "3",
            "body": "hello",
            "raw": b"\xff",
        }
    ]
    assert (job.state, job.priority, job.run_at) == (State.DONE, 3, 1.0)


def test_arguments_of_many_types_are_passed(directory: str, work: Work) -> None:
    seen: list[Any] = []

    @spool(pass_arguments=True)
    def noted(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    job = noted(1, {2, 3}, day=date(2026, 11, 26), at=b"1", priority=b"7")
    work()
    assert seen == [((1, {2, 3}), {"day": date(2026, 11, 26)})]
    assert (job.state, job.priority, job.run_at) == (State.DONE, 7, 1.0)


def test_what_cannot_be_carried_is_refused_in_the_call_by_its_name(directory: str) -> None:
    @spool
    def of_dict(arguments: dict[str, Any]) -> None: ...

    @spool(pass_arguments=True)
    def of_arguments(first: object, *, second: object = None) -> None: ...

    refused: list[tuple[Callable[[], object], type[ArgumentError], str | None]] = [
        (lambda: of_dict(n=5), ArgumentTypeError, "n"),
        (lambda: of_dict({5: "text"}), ArgumentTypeError, None),
        (lambda: of_dict({"": "text"}), ArgumentTypeError, None),
        (lambda: of_dict("text"), ArgumentTypeError, None),
        (lambda: of_dict({}, {}), SignatureError, None),
        (lambda: of_dict(at="soon"), ScheduleError, "at"),
        (lambda: of_dict(priority="high"), QueueOptionError, "priority"),
        (lambda: of_dict(spooler="relative"), QueueOptionError, "spooler"),
        (lambda: of_arguments(object()), ArgumentTypeError, "first"),
        (lambda: of_arguments(1, second=print), ArgumentTypeError, "second"),
        (lambda: of_arguments(1, 2), SignatureError, None),
        (lambda: of_arguments(1, body=b"never seen"), QueueOptionError, "body"),
        (lambda: of_arguments(1, message_dict={}), QueueOptionError, "message_dict"),
    ]
    for call, kind, argument in refused:
        with pytest.raises(kind) as raised:
            call()
        assert raised.value.argument == argument
    assert spoolfile.pending(directory) == []


def test_what_would_not_run_is_refused_at_the_declaration() -> None:
    async def coroutine() -> None: ...

    def generator() -> Iterator[int]:
        yield 1

    for function in (coroutine, generator, int, "text"):
        with pytest.raises(TaskFunctionError):
            spool(function)  # type: ignore[call-overload]


# What follows


@pytest.mark.parametrize(
    ("returned", "state"),
    [
        (-2, State.DONE),
        ("-2", State.DONE),
        (-1, State.RETRYING),
        (0, State.RETRYING),
        (5, State.RETRYING),
        (None, State.DEAD),
        ("text", State.DEAD),
    ],
)
def test_the_number_that_spoolraw_returns_decides(directory: str, work: Work, returned: object, state: State) -> None:
    @spoolraw
    def raw(arguments: dict[str, Any]) -> object:
        return returned

    @spoolraw(pass_arguments=True)
    def with_arguments(number: object) -> object:
        return number

    @spool
    def changed(arguments: dict[str, Any]) -> None:
        arguments["ud_spool_ret"] = returned

    jobs = [raw(), with_arguments(returned), changed()]
    work()
    assert [job.state for job in jobs] == [state, state, state]


def test_a_function_that_raises_has_bounded_attempts_and_may_be_run_again(
    directory: str, work: Work, time_passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOLKIT_COMPAT_RETRIES", "2")
    runs: list[int] = []

    @spool
    def failing(arguments: dict[str, Any]) -> None:
        runs.append(1)
        raise ValueError("of the application's own")

    job = failing()
    for _ in range(5):
        work()
        time_passes(30)
    assert (job.state, len(runs)) == (State.DEAD, 3)
    assert len(dead_letters(directory)) == 1
    actions.retry(job.id)
    work()
    assert len(runs) == 4


def test_a_job_of_spoolforever_is_followed_by_the_next_one_until_it_is_cancelled(
    directory: str, work: Work, time_passes: Pass
) -> None:
    seen: list[str] = []

    @spoolforever
    def forever(arguments: dict[str, Any]) -> None:
        seen.append(arguments["word"])

    forever({"word": "again"})
    for count in range(1, 4):
        work()
        assert seen == ["again"] * count
        time_passes(1)
    (path,) = spoolfile.pending(directory)
    _job_of(path).cancel()
    time_passes(10)
    work()
    assert (len(seen), spoolfile.pending(directory)) == (3, [])


def _job_of(path: str) -> Job[Any]:
    job = packet.unpack(packet.load(Path(path).read_bytes()))
    return Job(job.id, job.task)


def test_a_run_of_spoolforever_that_is_repeated_has_one_successor(
    directory: str, work: Work, time_passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill between the file of the next run and the record of this one."""
    write_once = spooled._write_once

    def interrupted(*args: Any, **kwargs: Any) -> None:
        write_once(*args, **kwargs)
        monkeypatch.setattr(spooled, "_write_once", write_once)
        raise OSError("interrupted")

    monkeypatch.setattr(spooled, "_write_once", interrupted)
    runs: list[int] = []

    @spoolforever
    def forever(arguments: dict[str, Any]) -> None:
        runs.append(1)

    forever()
    work()
    assert len(spoolfile.pending(directory)) == 2  # the one that failed, and the next
    time_passes(5)
    work()
    assert len(spoolfile.pending(directory)) == 1
    time_passes(5)
    work()
    assert len(spoolfile.pending(directory)) == 1
    assert len(runs) == 4


# Files of stock


def test_a_file_of_stock_becomes_a_job_once(directory: str, work: Work) -> None:
    seen: list[Any] = []

    @spool
    def noted(arguments: dict[str, Any]) -> None:
        seen.append((arguments["word"], arguments["body"]))

    fields = {b"ud_spool_func": b"noted", b"ud_spool_ret": b"-2", b"word": b"hello"}
    path = stock_file(directory, "1", fields, b"any bytes")
    content = Path(path).read_bytes()
    work()
    work()
    assert seen == [("hello", "any bytes")]
    Path(path).write_bytes(content)  # as after a kill before it was removed
    os.utime(path, (1, 1))
    work()
    work()
    assert seen == [("hello", "any bytes")]
    assert spoolfile.pending(directory) == []


def test_the_function_of_a_file_is_told_by_the_keys_of_its_library(directory: str, work: Work) -> None:
    seen: list[Any] = []

    @spool
    def noted(arguments: dict[str, Any]) -> None:
        seen.append(arguments["task"])

    stock_file(directory, "1", {b"ud_spool_func": b"noted", b"task": b"an argument"})
    own = stock_file(directory, "2", {b"task": b"noted"})
    work()
    work()
    assert seen == ["an argument"]
    assert os.path.exists(own), "the file of a handler of the application's own"


def test_a_pickle_of_stock_is_a_dead_letter_whose_reason_says_so(directory: str, work: Work) -> None:
    @spool(pass_arguments=True)
    def noted(*args: Any) -> None: ...

    fields = {b"ud_spool_func": b"noted", b"args": pickle.dumps((1,)), b"kwargs": pickle.dumps({})}
    stock_file(directory, "1", fields)
    stock_file(directory, "2", {b"ud_spool_func": b"noted"})
    work()
    reports = [path.read_text() for path in Path(directory, dead.FOLDER).glob("*.json")]
    assert sorted("pickled" in report for report in reports) == [False, True]


def test_a_file_of_stock_for_an_unknown_function_is_left_alone_without_uwsgi(directory: str, work: Work) -> None:
    path = stock_file(directory, "1", {b"ud_spool_func": b"nobody"})
    work()
    assert os.path.exists(path)
    assert dead_letters(directory) == []


# docs/compat.md


def test_the_code_of_the_page_runs(directory: str, work: Work) -> None:
    printed: list[tuple[object, ...]] = []
    namespace: dict[str, Any] = {"__name__": "of_the_page", "print": lambda *words: printed.append(words)}
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        exec(block, namespace)
    (shown,) = re.findall(r"`(resize\.task\..*?\)\(.*?\))`", PAGE)
    job = eval(shown, namespace)
    assert (job.tags, job.run_at > clock.now()) == (("user:5",), True)
    work()
    assert printed == [("resize", "cat.png"), ("mail to", "ann@example.org", 2)]
