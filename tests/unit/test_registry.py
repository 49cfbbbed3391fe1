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


def test_a_module_executed_twice_declares_twice() -> None:
    def once() -> None: ...

    first, second = registry.declare(once, TaskOptions()), registry.declare(once, TaskOptions(retry_delay=1))
    assert registry.find(first.name) is second


def test_an_unknown_name_says_what_to_do() -> None:
    with pytest.raises(UnknownTaskError, match=r"uwsgi\.ini") as unknown:
        registry.find("tasks.nobody")
    assert unknown.value.task == "tasks.nobody"


def test_a_script_is_known_by_its_files_name(tmp_path: Path) -> None:
    script = tmp_path / "nightly.py"
    script.write_text("from spoolkit import spool\n@spool\ndef clean(): ...\nprint(clean.name, clean.declared.home)")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd="/", env=dict(os.environ))
    assert done.stdout.split() == ["nightly.clean", str(tmp_path)], done.stderr


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
