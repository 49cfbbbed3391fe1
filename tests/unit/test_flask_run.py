"""The command line of the spooler beside ``flask run``."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import click
import pytest
from flask.cli import ScriptInfo

from spoolkit.lifecycle.flask_run import _command_line


def command_line(monkeypatch: pytest.MonkeyPatch, module: str | None, argv: list[str]) -> list[str]:
    main = ModuleType("__main__")
    main.__spec__ = SimpleNamespace(name=module) if module else None  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", argv)
    context = click.Context(click.Command("run"), info_name="run", obj=ScriptInfo(app_import_path="site:app"))
    python, *words = _command_line(context)
    assert python == sys.executable
    return words


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("shop.__main__", ["run", "-p", "5000"], ["-m", "shop"]),
        ("flask.__main__", ["--app", "run", "run"], ["-m", "flask", "--app", "run"]),
        ("shop.manage", ["--config", "x.toml", "run"], ["-m", "shop.manage", "--config", "x.toml"]),
    ],
)
def test_a_program_started_as_a_module_is_started_as_a_module_again(
    monkeypatch: pytest.MonkeyPatch, module: str, words: list[str], expected: list[str]
) -> None:
    assert command_line(monkeypatch, module, ["/srv/shop/__main__.py", *words]) == expected


@pytest.mark.parametrize("module", [None, "__main__"])
def test_a_script_or_a_zip_file_is_started_by_its_path_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str | None
) -> None:
    script = tmp_path / "flask"
    script.touch()
    argv = [str(script), "-e", "site.env", "--app", "shop", "run", "--debug"]
    assert command_line(monkeypatch, module, argv) == [str(script), "-e", "site.env", "--app", "shop"]


@pytest.mark.parametrize("argv", [["-c", "run"], ["/usr/bin/pytest", "tests"]])
def test_an_unknown_program_is_replaced_by_flask(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    assert command_line(monkeypatch, None, argv) == ["-m", "flask", "--app", "site:app"]
