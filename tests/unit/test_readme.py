"""README.md: the order of its sections, its table of settings, its table of errors, and the words of all pages."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

import spoolkit
from spoolkit.settings import Settings

TOP = Path(__file__).parents[2]
README = (TOP / "README.md").read_text()
PAGES = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md"]
PAGES += [str(path.relative_to(TOP)) for path in [*TOP.glob("docs/*.md"), *TOP.glob("examples/*/README.md")]]
OLD_WORDS = re.compile(
    r"\b(whoever|told|morgue|vetting|losses|start values?|so long as may be|be had|who looks)\b",
    re.IGNORECASE,
)


def test_installing_comes_first_and_within_the_first_60_lines() -> None:
    lines = README.splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[:2] == ["## Install it in your own site", "## The demo in two commands"]
    assert lines.index("## The demo in two commands") <= 60


def test_the_table_of_settings_has_each_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `SPOOLKIT_(\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert sorted(rows) == sorted(field.name.upper() for field in fields(Settings))
    defaults = Settings(spool="")
    for name, shown in rows.items():
        default = getattr(defaults, name.lower())
        if isinstance(default, bool):
            assert shown == f"`{str(default).lower()}`", name
        elif isinstance(default, (int, float)):
            assert float(re.findall(r"`([\d.]+)`", shown)[0]) == default, name


def test_the_table_of_errors_names_public_errors() -> None:
    section = README.partition("\n## Errors\n")[2].partition("\n## ")[0]
    named = re.findall(r"`([A-Z]\w+)`", section)
    assert "ArgumentTypeError" in named
    known = [getattr(spoolkit, name, None) or getattr(__import__("builtins"), name, None) for name in named]
    assert all(isinstance(error, type) and issubclass(error, Exception) for error in known)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_uses_words_that_only_this_project_understood(page: str) -> None:
    assert OLD_WORDS.findall((TOP / page).read_text()) == []
