"""Every relative link of the pages leads to a file that is there, and to a heading of it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


def pages() -> list[str]:
    """The Markdown files of the repository, those that are not committed yet included."""
    known = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=TOP, capture_output=True, text=True,
    timeout=100)  # fmt: skip
    named = known.stdout.split("\0") if known.returncode == 0 else map(str, TOP.glob("**/*.md"))
    return sorted(name for name in named if name and (TOP / name).is_file())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub derives from the headings of the page."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number, free = 0, name
        while free in found:
            number += 1
            free = f"{name}-{number}"
        found.add(free)
    return found


@pytest.mark.parametrize("page", pages())
def test_each_link_leads_somewhere(page: str) -> None:
    dead = []
    for link in LINK.findall(FENCE.sub("", (TOP / page).read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(TOP / page / ".." / path)) if path else TOP / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert not dead


def test_the_pages_are_found() -> None:
    assert {"README.md", "docs/deploy.md", "docs/cli.md"} <= set(pages())


def test_each_decision_has_its_number_its_three_parts_and_its_place_in_the_index() -> None:
    folder = TOP / "docs" / "decisions"
    index = (folder / "README.md").read_text()
    records = sorted(folder.glob("0*.md"))
    assert len(records) > 50
    numbers = [int(path.name.split("-")[0]) for path in records]
    assert len(set(numbers)) == len(numbers)
    for number, path in zip(numbers, records, strict=True):
        text = path.read_text()
        assert path.name.startswith(f"{number:04d}-")
        assert text.startswith(f"# {number}. ")
        assert re.findall("(?m)^## (.*)$", text) == ["Context", "Decision", "Price"]
        assert f"]({path.name}) ({number})" in index
