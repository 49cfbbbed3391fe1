"""Tasks: which job a call makes, and what a call or a declaration refuses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app

from spoolkit import (
    ArgumentError,
    ArgumentTypeError,
    ConfigurationError,
    Job,
    NoCurrentJobError,
    QueueOptionError,
    ScheduleError,
    SignatureError,
    SpoolKit,
    SpoolUnavailableError,
    current_job,
    prepare_spooler_args,
    spool,
    thread,
)
from spoolkit.encoding import packet
from spoolkit.spooldir.spoolfile import PREFIX


@spool
def add(first: int, second: int = 1) -> int:
    return first + second


@spool
def anything(*args: object, **kwargs: object) -> None: ...


@spool
def named(at: float, body: bytes, id: int, args: list[int], self: str, delay: int) -> None: ...


@spool
def waits(delay: int) -> None: ...


@thread
def in_thread(word: str) -> None: ...


@pytest.fixture(autouse=True)
def directory(tmp_path: Path) -> Iterator[Path]:
    app = Flask("an_application", root_path=str(tmp_path))
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    with app.app_context():
        yield tmp_path / "spool"


def written(directory: Path) -> list[Job]:
    files = sorted(directory.glob(f"{PREFIX}*"))
    return [Job.of(packet.unpack(packet.load(path.read_bytes()))) for path in files]


def test_a_call_writes_a_job_to_the_spool_directory(directory: Path) -> None:
    job = add(1, second=2)
    assert [vars(one) for one in written(directory)] == [vars(job)]
    assert (job.task, job.args, job.kwargs) == (f"{__name__}.add", (1,), {"second": 2})
    assert (job.engine, job.run_at) == ("spool", None)
    assert abs(job.enqueued_at - time.time()) < 60
    assert directory.stat().st_mode & 0o777 == 0o700


def test_file_names_sort_in_the_order_of_the_calls(directory: Path) -> None:
    jobs = [add(i) for i in range(50)]
    assert written(directory) == jobs


def test_using_takes_options_apart_from_the_arguments(directory: Path) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert add.using(at=soon)(1).run_at == soon.timestamp()
    assert add.using(delay=timedelta(minutes=1))(1).run_at == pytest.approx(time.time() + 60, abs=30)
    late = add.using(at=4_000_000.5 + time.time())(1)
    (path,) = (directory / "later").glob(f"{PREFIX}{late.id}")
    assert path.stat().st_mtime >= late.run_at  # type: ignore[operator]


def test_arguments_may_have_any_name(directory: Path) -> None:
    kwargs = {"at": 1.5, "body": b"b", "id": 2, "args": [3], "self": "me", "delay": 4}
    assert named(**kwargs).kwargs == kwargs
    assert anything(1, function=2, packet=3, kwargs=4, job=5).kwargs == {
        "function": 2,
        "packet": 3,
        "kwargs": 4,
        "job": 5,
    }
    assert len(written(directory)) == 2


def test_spool_takes_uwsgis_magic_keys_among_the_arguments(directory: Path) -> None:
    at = time.time() + 100
    job = add.spool(first=5, at=at)
    assert (job.kwargs, job.run_at) == ({"first": 5}, at)
    assert add.spool(first=5, at=b"1790000000").run_at == 1_790_000_000
    assert add.spool(first=5, delay=5).run_at == pytest.approx(time.time() + 5, abs=30)
    assert anything.spool(delay=5).kwargs == {}
    assert waits.spool(delay=5).kwargs == {"delay": 5}
    assert add.spool(prepare_spooler_args(first=5, second=6)).kwargs == {"first": 5, "second": 6}
    assert add.spool(prepare_spooler_args(first=5, at=at)).run_at == pytest.approx(at, abs=1)
    assert anything.spool({b"raw": b"\xff"}).kwargs == {"raw": b"\xff"}
    assert anything.spool(body=bytearray(b"its body")).kwargs == {"body": b"its body"}
    assert anything.spool(spooler=directory, word="x").queue == str(directory)


@pytest.mark.parametrize(
    ("call", "error", "argument"),
    [
        (lambda: add(), SignatureError, "first"),
        (lambda: add(1, 2, 3), SignatureError, None),
        (lambda: add(1, third=3), SignatureError, "third"),
        (lambda: add(object()), ArgumentTypeError, "first"),
        (lambda: add(1, second=[object()]), ArgumentTypeError, "second[0]"),
        (lambda: add.using(at=datetime(2026, 1, 1))(1), ScheduleError, "at"),
        (lambda: add.using(at="tomorrow")(1), ScheduleError, "at"),
        (lambda: add.using(at=1, delay=1)(1), ScheduleError, "delay"),
        (lambda: add.using(priority="../evil")(1), QueueOptionError, "priority"),
        (lambda: add.using(queue="unknown")(1), QueueOptionError, "queue"),
        (lambda: add.using(queue="not/absolute")(1), QueueOptionError, "spooler"),
        (lambda: add.spool(first=1, at="tomorrow"), ScheduleError, "at"),
        (lambda: add.spool(first=1, at=None), ScheduleError, "at"),
        (lambda: add.spool(first=1, body="text"), QueueOptionError, "body"),
        (lambda: add.spool(first=1, body=b"x"), SignatureError, "body"),
        (lambda: add.spool(first=1, priority=-1), QueueOptionError, "priority"),
        (lambda: add.spool({b"first": b"five"}), ArgumentError, "first"),
        (lambda: add.spool({b"\xff": b"5"}), ArgumentError, "\ufffd"),
        (lambda: add.spool({"first": 5}), ArgumentTypeError, "first"),
        (lambda: add.spool({b"first": 5}), ArgumentTypeError, "first"),
    ],
)
def test_a_call_with_unusable_arguments_is_refused_and_writes_nothing(
    directory: Path, call, error: type[ArgumentError], argument: str | None
) -> None:
    with pytest.raises(error) as refused:
        call()
    assert refused.value.argument == argument
    assert written(directory) == []


def test_the_error_of_a_function_that_takes_one_dict_says_what_to_change(directory: Path) -> None:
    def stock(args): ...  # type: ignore[no-untyped-def]

    def typed(mine: dict[str, str]) -> None: ...

    def other(user: int) -> None: ...

    tasks = {function: spool(name=f"stock.{function.__name__}")(function) for function in (stock, typed, other)}
    wanted = r"stock\.stock: missing .*'args'\. uwsgidecorators .*write def stock\(a, b\), or def stock\(\*\*args\)"
    for call in (
        lambda: tasks[stock].spool(a=1, b=2),
        lambda: tasks[stock](a=1, b=2),
        lambda: tasks[stock].spool(prepare_spooler_args(a=1, b=2)),
    ):
        with pytest.raises(SignatureError, match=wanted) as refused:
            call()
        assert refused.value.argument == "args"
    with pytest.raises(SignatureError, match=r"def typed\(a\), or def typed\(\*\*mine\)"):
        tasks[typed](a=1)
    with pytest.raises(SignatureError, match=r"this version's task is .*def stock\(a\)"):
        tasks[stock].declared.check((), {"a": 1})
    with pytest.raises(SignatureError) as refused:
        tasks[other](a=1)
    assert "uwsgidecorators" not in str(refused.value)
    tasks[stock]({"a": 1})
    assert [job.args for job in written(directory)] == [({"a": 1},)]


def test_the_error_for_too_large_arguments_names_the_largest_one(directory: Path) -> None:
    current_app.config["SPOOLKIT_MAX_BODY"] = 1000
    with pytest.raises(ArgumentError) as refused:
        add(1, second="x" * 2000)  # type: ignore[arg-type]
    assert refused.value.argument == "second"
    assert written(directory) == []


def test_a_call_does_not_make_a_spool_directory_that_was_removed(directory: Path) -> None:
    os.rmdir(directory)
    for call in (add, add.using(priority=3)):
        with pytest.raises(SpoolUnavailableError) as refused:
            call(1)
        assert refused.value.directory == str(directory)
        assert refused.value.errno == 2
    assert not directory.exists()


def test_fsync_syncs_the_file_and_its_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    add(1)
    assert synced == []
    current_app.config["SPOOLKIT_FSYNC"] = True
    job = add(1)
    assert synced == [str(directory / f"tmp_{job.id}"), str(directory)]


def test_an_application_starts_where_its_spool_directory_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app = Flask("another")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "file" / "spool"
    SpoolKit(app)
    with app.app_context(), pytest.raises(SpoolUnavailableError):
        add(1)


def test_a_job_with_a_priority_is_written_to_a_folder_of_that_name(directory: Path) -> None:
    job = add.using(priority=3)(1)
    (path,) = (directory / "3").glob(f"{PREFIX}*")
    assert vars(packet.unpack(packet.load(path.read_bytes()))) == vars(job)
    assert (directory / "3").stat().st_mode & 0o777 == 0o700


def test_run_calls_the_plain_function(directory: Path) -> None:
    @spool
    def asks(word: str) -> tuple[str, str]:
        return word, current_job().engine

    assert add.run(1, 2) == 3
    assert asks.run("x") == ("x", "inline")
    with pytest.raises(NoCurrentJobError):
        current_job()
    assert written(directory) == []


def test_attributes_that_another_library_sets_on_the_function_hide_no_method(directory: Path) -> None:
    def shared(word: str) -> str:
        return word

    vars(shared).update(spool=None, run=None, using=None, name="other", declared=None, _engine=None, mark=5)
    task: Any = spool(name="shared.once")(shared)
    assert task.mark == 5
    assert task.spool(word="x").task == task.name == "shared.once"
    assert task.using(delay=5)("x").run_at is not None
    assert task.run("x") == "x"


def test_a_task_has_the_name_of_its_function_and_a_short_repr() -> None:
    assert add.__name__ == "add"
    assert repr(add) == f"<SpoolTask {__name__}.add>"


@pytest.mark.parametrize(
    "option",
    [
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
        {"retries": 10**9},
        {"backoff": -1},
        {"backoff": "5"},
        {"backoff": float("nan")},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": "5"},
        {"retry_on": ValueError()},
        {"retry_on": "ValueError"},
        {"retry_on": 5},
        {"timeout": timedelta(0)},
        {"timeout": timedelta(days=-1)},
        {"backoff": timedelta(seconds=-1)},
        {"retry_on": (ValueError, "OSError")},
        {"discard_on": int},
    ],
)
def test_an_unusable_option_is_refused_by_its_name(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        spool(**option)
    assert refused.value.setting in option
    assert str(refused.value).startswith(refused.value.setting)


@pytest.mark.parametrize(
    ("option", "kept"),
    [
        ({"timeout": timedelta(minutes=1)}, ("timeout", 60.0)),
        ({"backoff": timedelta(milliseconds=1500)}, ("backoff", 1.5)),
        ({"retry_on": [OSError, KeyError]}, ("retry_on", (OSError, KeyError))),
        ({"discard_on": {KeyError}}, ("discard_on", (KeyError,))),
        ({"discard_on": []}, ("discard_on", ())),
    ],
)
@pytest.mark.parametrize("decorator", [spool, thread])
def test_options_take_timedeltas_and_collections_of_exceptions(
    decorator: Any, option: dict[str, Any], kept: Any
) -> None:
    def of_options() -> None: ...

    task = decorator(name=f"options.{decorator.__name__}.{kept[0]}", **option)(of_options)
    assert getattr(task.declared.options, kept[0]) == kept[1]


def test_options_take_their_limits_and_refuse_what_is_beyond() -> None:
    assert spool(retries=0, backoff=0, timeout=0.1, retry_on=OSError, discard_on=())(lambda: None)
    with pytest.raises(ConfigurationError):
        thread(timeout=-1)
