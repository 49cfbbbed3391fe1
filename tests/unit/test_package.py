"""The package as its users' tools see it: types, imports, names."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import spoolkit
from spoolkit.settings import Settings

PROJECT = Path(__file__).parents[2]

TYPED = """
from datetime import datetime, timedelta
from typing import Any
from spoolkit import Job, periodic, spool, thread

@spool
def plain(duration: int) -> str:
    return ""

@spool(retries=5, backoff=lambda attempt: attempt * 2.0, retry_on=OSError)
def with_options(duration: int, word: str = "") -> None: ...

@thread
def in_thread(duration: int) -> None: ...

@spool
async def later(duration: int) -> float:
    return 1.0

@thread(retries=1)
async def later_in_thread(duration: int) -> float:
    return 1.0

@periodic(every=60, kwargs={"duration": 1})
@periodic(cron="0 3 * * *", tz="Europe/Berlin", missed="all", overlap="allow", max_late=timedelta(hours=1), args=(5,))
@spool(retries=1)
def by_itself(duration: int) -> str:
    return ""

kept: Job[str] = by_itself(5)

class Site:
    job: Job[str] = plain(5)

ok: Job[object] = with_options(5, word="x")
ok = plain.using(at=datetime.now(), delay=timedelta(1))(5)
ok = in_thread(5)
result: str = plain.run(5)
ok = plain.spool(duration=5, at=1)
text: str = plain.using(delay=1)(5).result
number: float = later(5).result + later_in_thread(5).result + later.run(5)
known: Job[Any] = Job.get("x")
by_job: dict[Job[str], int] = {plain(5): 1}
"""


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("typing")

    def check(code: str) -> str:
        (folder / "checked.py").write_text(code)
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder / "cache", folder / "checked.py"]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=100).stdout

    return check


def test_calls_that_fit_type_check(mypy) -> None:
    assert "Success" in mypy(TYPED)


def test_calls_that_do_not_fit_are_refused_by_the_type_checker(mypy) -> None:
    bad = [
        'plain("x")',
        "plain()",
        "plain(5, 6)",
        "with_options(5, word=6)",
        'plain.using(delay=1)("x")',
        'plain.using(at="tomorrow")',
        'in_thread("x")',
        'plain.run("x")',
        "wrong: int = plain.run(5)",
        "in_thread.using(delay=1)",
        "spool(retries='x')",
        "another: int = plain(5).result",
        "another: Job[int] = plain.using(delay=1)(5)",
        "another: str = later(5).result",
        'later("x")',
    ]
    found = mypy(TYPED + "\n".join(bad) + "\n")
    first = TYPED.count("\n") + 1
    for number, line in enumerate(bad, start=first):
        assert f"checked.py:{number}: error" in found, f"{line} passed: {found}"


def test_importing_spoolkit_imports_no_server() -> None:
    code = (
        "import sys, spoolkit; heavy = {'uwsgi', 'uwsgidecorators', 'uwsgi_tasks', 'celery', 'pickle'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd="/", timeout=100
    )
    assert done.stdout.strip() in ("[]", "['pickle']"), done.stderr  # Flask's own dependencies import pickle


IMPORT_ALL = """
import importlib, pkgutil
import spoolkit

before = {name: getattr(spoolkit, name) for name in spoolkit.__all__}
modules = [module.name for module in pkgutil.walk_packages(spoolkit.__path__, "spoolkit.")]
for name in modules:
    importlib.import_module(name)
assert {"spoolkit.spooling.engine", "spoolkit.threads.engine", "spoolkit.testing.jobs"} <= set(modules), modules
replaced = [name for name, value in before.items() if getattr(spoolkit, name) is not value]
assert not replaced, replaced

@spoolkit.spool
def spooled(): ...

@spoolkit.spool(retries=1)
def spooled_with_options(): ...

@spoolkit.thread
def in_thread(): ...

@spoolkit.thread(track=False)
def in_thread_with_options(): ...

tasks = [spooled, spooled_with_options, in_thread, in_thread_with_options]
print(*(type(task).__name__ for task in tasks))
"""


def test_no_submodule_replaces_a_public_object_when_it_is_imported(tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(IMPORT_ALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.stdout.split() == ["SpoolTask", "SpoolTask", "ThreadTask", "ThreadTask"], done.stderr


def test_no_module_of_ours_imports_pickle() -> None:
    for path in (PROJECT / "src").rglob("*.py"):
        assert "import pickle" not in path.read_text()


def test_each_public_name_exists_and_has_a_docstring() -> None:
    for name in spoolkit.__all__:
        member = getattr(spoolkit, name)
        assert getattr(member, "__doc__", None) or isinstance(member, int), name


def test_errors_have_one_root_and_become_json() -> None:
    errors = [value for value in vars(spoolkit).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) >= 13
    assert all(issubclass(error, spoolkit.SpoolkitError) for error in errors)
    error = spoolkit.ArgumentError("it is wrong", argument="it").to_dict()
    assert error == {"type": "ArgumentError", "message": "it is wrong", "argument": "it"}


def test_every_setting_is_in_the_readme() -> None:
    readme = (PROJECT / "README.md").read_text()
    settings_source = (PROJECT / "src/spoolkit/settings.py").read_text()
    for name in set(re.findall(r"SPOOLKIT_[A-Z_]+[A-Z]", settings_source)):
        assert f"`{name}`" in readme, name


def test_the_readme_has_the_default_of_each_setting() -> None:
    readme = (PROJECT / "README.md").read_text()
    for field in fields(Settings):
        if field.name not in ("spool", "store", "queues"):  # which depend on the site
            row = re.search(rf"^\| `SPOOLKIT_{field.name.upper()}` \| `([^`]*)`", readme, re.MULTILINE)
            assert row is not None, field.name
            written = row[1] if isinstance(field.default, tuple) else json.loads(row[1])
            default = ", ".join(field.default) if isinstance(field.default, tuple) else field.default
            assert written == default, field.name


@pytest.mark.parametrize("name", ["api", "errors", "guard", "job", "settings", "testing"])
def test_a_module_that_files_of_a_site_name_keeps_its_path(name: str) -> None:
    assert importlib.import_module(f"spoolkit.{name}").__name__ == f"spoolkit.{name}"
