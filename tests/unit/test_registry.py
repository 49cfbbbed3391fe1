"""Names of tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spoolkit import UnknownTaskError, registry
from spoolkit.job import TaskOptions


def test_a_task_is_found_by_module_and_name() -> None:
    def inner() -> None: ...

    declared = registry.declare(inner, TaskOptions())
    assert declared.name == f"{__name__}.test_a_task_is_found_by_module_and_name.<locals>.inner"
    assert registry.find(declared.name) is declared


def test_it_knows_where_positional_arguments_go() -> None:
    def mixed(first: int, /, second: int, *rest: int, only: int, **others: int) -> None: ...

    declared = registry.declare(mixed, TaskOptions())
    assert declared.positional == ["first", "second"]
    assert list(declared.signature.parameters) == ["first", "second", "rest", "only", "others"]


def test_a_module_executed_twice_declares_twice() -> None:
    def once() -> None: ...

    first, second = registry.declare(once, TaskOptions()), registry.declare(once, TaskOptions(retries=1))
    assert registry.find(first.name) is second


def test_an_unknown_name_says_what_to_do() -> None:
    with pytest.raises(UnknownTaskError, match=r"uwsgi\.ini") as unknown:
        registry.find("tasks.nobody")
    assert unknown.value.task == "tasks.nobody"


CLEAN = "from spoolkit import spool\n@spool\ndef clean(): ...\nprint(clean.name, clean.declared.home)"


def names_itself(*command: str, cwd: str | Path) -> list[str]:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=cwd, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_script_is_known_by_its_files_name(tmp_path: Path) -> None:
    (tmp_path / "nightly.py").write_text(CLEAN)
    assert names_itself(f"{tmp_path}/nightly.py", cwd="/") == ["nightly.clean", str(tmp_path)]


def test_a_module_run_as_a_script_is_known_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "nightly.py").write_text(CLEAN)
    assert names_itself("-m", "jobs.nightly", cwd=tmp_path) == ["jobs.nightly.clean", str(tmp_path)]


def test_in_a_shell_a_task_can_be_declared() -> None:
    assert names_itself("-c", CLEAN, cwd="/") == ["__main__.clean", "None"]


def test_home_is_the_directory_that_holds_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_site" / "jobs"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("def top(): ...")
    (package / "__init__.py").write_text("")
    (package / "mail.py").write_text("def send(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    import a_site  # type: ignore[import-not-found]
    from a_site.jobs import mail  # type: ignore[import-not-found]

    for function in (a_site.top, mail.send):
        assert registry.declare(function, TaskOptions()).home == str(tmp_path)
