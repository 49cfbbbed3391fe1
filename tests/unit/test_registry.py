"""Names of tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spoolkit import ConfigurationError, SignatureError, UnknownTaskError, registry, spool
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


def test_a_renamed_task_is_found_by_the_names_it_had() -> None:
    @spool(name="mail.send", aliases=["mail.send_mail", "old.mail"])
    def send() -> None: ...

    assert send.name == "mail.send"
    for name in ("mail.send", "mail.send_mail", "old.mail"):
        assert registry.find(name) is send.declared


def test_a_task_comes_before_another_ones_alias() -> None:
    @spool(name="shop.pay")
    def pay() -> None: ...

    @spool(name="shop.charge", aliases=["shop.pay"])
    def charge() -> None: ...

    assert registry.find("shop.pay") is pay.declared


@pytest.mark.parametrize(
    ("setting", "given"),
    [("aliases", {"aliases": "one"}), ("aliases", {"aliases": [1]}), ("name", {"name": ""}), ("name", {"name": 5})],
)
def test_names_that_are_none_are_refused(setting: str, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=setting) as refused:
        spool(**given)
    assert refused.value.setting == setting


def test_an_unknown_name_names_what_may_have_become_of_it() -> None:
    @spool(name="billing.send_invoice")
    def send_invoice() -> None: ...

    with pytest.raises(UnknownTaskError, match=r"'billing\.send_invoices'.*billing\.send_invoice, .*aliases="):
        registry.find("billing.send_invoices")


def test_arguments_of_another_version_are_named_beside_its_own() -> None:
    @spool(name="versions.resize")
    def resize(image: str, width: int) -> None: ...

    resize.declared.check(("a.png",), {"width": 5})
    with pytest.raises(SignatureError, match=r"1 by position, size, but .* versions\.resize\(image: .*'width'"):
        resize.declared.check(("a.png",), {"size": 5})
