"""spoolkit.compat.uwsgi_tasks without uWSGI."""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from spoolkit import ConfigurationError, SignatureError, State, TaskFunctionError, registry
from spoolkit.admin import actions
from spoolkit.compat import refused, uwsgi_tasks
from spoolkit.compat.uwsgi_tasks import RetryTaskException, TaskExecutor, cron, get_current_task, task, timer
from spoolkit.encoding import packet
from spoolkit.errors import ArgumentTypeError
from spoolkit.schedules import declared, ticks
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


def test_each_name_of_stock_is_there_and_on_the_page() -> None:
    spec = importlib.util.find_spec("uwsgi_tasks")
    assert spec is not None
    assert spec.origin is not None
    trees = [ast.parse(Path(spec.origin).with_name(name).read_text()) for name in ("__init__.py", "decorators.py")]
    names = {alias.name for node in trees[0].body if isinstance(node, ast.ImportFrom) for alias in node.names} - {"*"}
    names |= {node.name for node in trees[1].body if isinstance(node, ast.FunctionDef)}
    assert len(names) > 15
    assert names == set(uwsgi_tasks.__all__)
    assert all(hasattr(uwsgi_tasks, name) for name in names)
    table = re.search(r"## uwsgi-tasks\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert table is not None
    assert names <= set(re.findall(r"`(\w+)`", table[1]))


def test_a_call_is_a_job_with_arguments_of_many_types(directory: str, work: Work) -> None:
    seen: list[Any] = []

    @task
    def noted(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    job = noted(1, {2, 3}, day=datetime(2026, 11, 26, tzinfo=UTC))
    assert job is not None
    work()
    assert (seen, job.state) == ([((1, {2, 3}), {"day": datetime(2026, 11, 26, tzinfo=UTC)})], State.DONE)
    for call, kind in ((lambda: noted(object()), ArgumentTypeError), (lambda: limited(1), SignatureError)):
        with pytest.raises(kind):
            call()


@task
def limited() -> None: ...


def test_the_options_of_a_declaration(directory: str, time_passes: Pass) -> None:
    def function() -> None: ...

    later, naive = timedelta(seconds=30), datetime(2050, 1, 1, 12)
    for at, due in (
        (later, clock.now() + 30),
        (naive, naive.replace(tzinfo=UTC).timestamp()),
        (b"5", 5.0),
        (None, None),
    ):
        job = task(executor=TaskExecutor.SPOOLER, at=at, priority="10", retry_count=3)(function)()
        assert job is not None
        assert (job.run_at, job.priority) == (due, 10)
    changed = task(executor=TaskExecutor.MULE, mule=1)(function)
    changed.setup["priority"] = 7
    job = changed()
    assert job is not None
    assert job.priority == 7


def test_what_cannot_be_declared_is_refused() -> None:
    def function(signum: int = 0) -> None: ...

    def generator() -> Any:
        yield

    for setup in ({"colour": 1}, {"retry_count": -1}, {"retry_timeout": "x"}, {"priority": "high"}, {"at": "soon"}):
        with pytest.raises(ConfigurationError):
            task(function, **setup)  # type: ignore[arg-type]
    with pytest.raises(TaskFunctionError):
        task(generator)
    with pytest.raises(ConfigurationError, match="iterations"):
        timer(seconds=5, iterations=3)
    for name, instead in refused.INSTEAD_OF_TASKS.items():
        with pytest.raises(ConfigurationError, match=f"^{name} of uwsgi_tasks needs uWSGI: ") as raised:
            getattr(uwsgi_tasks, name)(function)
        assert instead in str(raised.value)
    with pytest.raises(ConfigurationError, match="pip install"):
        refused.missing("timer")()


def test_a_function_is_run_again_as_often_as_its_retry_count_says(
    directory: str, work: Work, time_passes: Pass
) -> None:
    seen: list[Any] = []

    @task(retry_count=3, retry_timeout=timedelta(seconds=20))
    def retried(word: str) -> None:
        current = get_current_task()
        assert current is not None
        seen.append((current.args, current.retry_count, current.retry_timeout, dict(current.buffer)))
        current.buffer["run"] = current.buffer.get("run", 0) + 1
        raise RetryTaskException(timeout=50)

    job = retried("word")
    assert job is not None
    for _ in range(2):
        work()
        time_passes(49)
        work()
        time_passes(1)
    work()
    assert seen == [
        (("word",), 3, 20.0, {}),
        (("word",), 2, 50.0, {"run": 1}),
        (("word",), 1, 50.0, {"run": 2}),
    ]
    assert job.state is State.DEAD
    actions.retry(job.id)
    work()
    assert (len(seen), seen[-1][1], job.state) == (4, 3, State.RETRYING)


def test_one_that_returns_spool_retry_is_run_again_and_another_number_is_nothing(directory: str, work: Work) -> None:
    @task(retry_count=2)
    def returning(value: object) -> object:
        return value

    @task(spooler_return=True)
    def deciding(value: object) -> object:
        return value

    found = []
    for function in (returning, deciding):
        for value in (-1, uwsgi_tasks.SPOOL_RETRY, -2, None, 0):
            job = function(value)
            assert job is not None
            work()
            found.append(job.state)
    again, done = State.RETRYING, State.DONE
    assert found == [again, again, done, done, done, again, again, done, State.DEAD, again]


def test_one_that_raises_is_dead_and_kept(directory: str, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    @task(retry_count=5)
    def broken() -> None:
        raise ValueError("of the application's own")

    job = broken()
    assert job is not None
    work()
    assert job.state is State.DEAD


def test_the_retries_of_a_function_that_always_asks_are_bounded(
    directory: str, work: Work, time_passes: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOOLKIT_COMPAT_RETRIES", "4")
    runs: list[int] = []

    @task
    def asking() -> None:
        runs.append(1)
        raise RetryTaskException(count=10, timeout=1)

    job = asking()
    assert job is not None
    for _ in range(12):
        work()
        time_passes(2)
    assert (len(runs), job.state) == (5, State.DEAD)


def test_at_runtime_a_function_runs_in_its_caller_and_in_its_folder(tmp_path: Path) -> None:
    seen: list[Any] = []

    @task(executor=TaskExecutor.RUNTIME, working_dir=str(tmp_path))
    def here(word: str) -> None:
        current = get_current_task()
        assert current is not None
        seen.append((word, os.getcwd(), current.function_name))

    before = os.getcwd()
    assert here("word") is None
    assert seen == [("word", os.path.realpath(tmp_path), f"{__name__}.here")]
    assert (os.getcwd(), get_current_task()) == (before, None)


def test_timers_and_crons_are_schedules(directory: str, work: Work, time_passes: Pass) -> None:
    seen: list[int] = []

    @timer(seconds=30, signal=5)
    def beat(signum: int) -> None:
        seen.append(signum)

    @cron(minute=-1, executor=TaskExecutor.SPOOLER)
    def each_minute(signum: int) -> None: ...

    assert beat.__name__ == "beat"
    assert sorted(name.rpartition(".")[2] for name in declared.here()) == [
        "beat@timer(30)",
        "each_minute@cron(-1, -1, -1, -1, -1)",
    ]
    ticks.reconcile(directory)
    time_passes(30)
    work()
    assert seen == [5]


def test_a_file_of_stock_is_a_dead_letter_whose_reason_says_why(directory: str, work: Work) -> None:
    @task
    def function() -> None: ...

    fields = {b"function_name": f"{__name__}.function".encode(), b"setup": pickle.dumps({}), b"args": pickle.dumps(())}
    spoolfile.write(directory, "vm_1_1_123_1795727710_246241", packet.dump(packet.Packet(fields)))
    work()
    (report,) = Path(directory, dead.FOLDER).glob("*.json")
    assert "uwsgi_tasks has pickled this job" in report.read_text()


def test_django_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    django, conf = ModuleType("django"), ModuleType("django.conf")
    django.setup = lambda: done.append(os.environ["DJANGO_SETTINGS_MODULE"])  # type: ignore[attr-defined]
    conf.settings = SimpleNamespace(configured=False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "django", django)
    monkeypatch.setitem(sys.modules, "django.conf", conf)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "")
    uwsgi_tasks.django_setup("shop.settings")
    conf.settings.configured = True
    uwsgi_tasks.django_setup("other.settings")
    uwsgi_tasks.set_uwsgi_callbacks()
    assert done == ["shop.settings"]
