"""The worked examples of docs/internals.md run. ``SPOOLKIT_WRITE_DOCS=1`` updates the code that the page copies."""

from __future__ import annotations

import ast
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest
from flask import Flask

from spoolkit import SpoolKit
from spoolkit.doctor import machine
from spoolkit.doctor.findings import Finding, Site
from spoolkit.job import State
from spoolkit.store import database, locations, rows
from spoolkit.store.database import Database

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs" / "internals.md"
COPIED = re.compile(r"(?<=^<!-- code: )(\S+) (\w+)( -->\n```python\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)


def block(language: str, heading: str) -> str:
    """The first block of code in this language below the heading."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return textwrap.dedent(re.findall(rf"^( *)```{language}\n(.*?)^\1```$", section, re.DOTALL | re.MULTILINE)[0][1])


def source(name: str, symbol: str) -> str:
    text = (TOP / "src" / "spoolkit" / name).read_text()
    [found] = [node for node in ast.parse(text).body if getattr(node, "name", None) == symbol]
    return f"{ast.get_source_segment(text, found)}\n"


def test_the_migration_adds_the_column_to_an_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "spoolkit.db")
    older = Database(path)
    with older.transaction() as db:
        rows.insert(db, "a", State.QUEUED, 0.0, {"task": "t", "engine": "spool"})
    older.close()
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, block("sql", "A column in the store")))
    newer = Database(path)
    assert [row["host"] for row in newer.read("SELECT host FROM jobs")] == [None]
    newer.close()


def test_the_command_prints_its_answer_and_its_json(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(block("python", "A command"), names)
    oldest: click.Command = names["oldest"]
    app = Flask("the_application", root_path=str(tmp_path))
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    with app.app_context():
        assert app.test_cli_runner().invoke(oldest).output == "no job is due\n"
        assert app.test_cli_runner().invoke(oldest, ["--json"]).output.split() == ["{", '"oldest_due":', "null", "}"]
        locations.store().close()


@pytest.mark.parametrize(("kind", "found"), [("tmpfs", 1), ("ext4", 0)])
def test_the_check_finds_a_directory_in_memory_and_nothing_elsewhere(
    kind: str, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {**vars(machine), "_file_system_type": lambda path: kind}
    exec(block("python", "A check of the doctor"), names)
    findings: list[Finding] = list(names["_memory"](Site(str(tmp_path), "", 60.0, 0.0, [])))
    assert [finding.check for finding in findings] == ["memory"] * found


def test_the_code_that_the_page_copies_is_the_code_of_the_package() -> None:
    page = PAGE.read_text()
    assert len(COPIED.findall(page)) == 1
    current = COPIED.sub(lambda match: f"{match[1]} {match[2]}{match[3]}{source(match[1], match[2])}", page)
    if os.environ.get("SPOOLKIT_WRITE_DOCS"):
        PAGE.write_text(current)
    assert current == page
