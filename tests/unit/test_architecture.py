"""ARCHITECTURE.md and docs/internals.md are true: files and functions exist, wings and layers are those of the code."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "src" / "spoolkit"
PAGES = ["ARCHITECTURE.md", "docs/internals.md"]
ARCHITECTURE = (TOP / "ARCHITECTURE.md").read_text()
FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.py)`")
PLACE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.py)`: `([\w.]+)`")


def located(name: str) -> Path | None:
    """The file that a page calls ``name``: a path in the package, or in the repository."""
    return next((path for path in (PACKAGE / name, TOP / name) if path.is_file()), None)


def defined(path: Path) -> set[str]:
    """The names that a module defines at its top, and the methods of its classes as ``Class.method``."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_each_file_that_the_page_names_exists(page: str) -> None:
    named = set(FILE.findall((TOP / page).read_text()))
    assert len(named) > 5
    assert [name for name in sorted(named) if located(name) is None] == []


@pytest.mark.parametrize("page", PAGES)
def test_each_function_that_the_page_names_is_in_its_file(page: str) -> None:
    places = PLACE.findall((TOP / page).read_text())
    assert len(places) > 5
    missing = []
    for name, function in places:
        path = located(name)
        if path is None or function not in defined(path):
            missing.append(f"{name}: {function}")
    assert missing == []


def test_the_wings_of_the_table_are_the_folders_of_the_package() -> None:
    wings = re.findall(r"^\| `(\w+)/` \|", ARCHITECTURE, re.MULTILINE)
    assert sorted(wings) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_diagram_shows_the_layers_that_import_linter_enforces() -> None:
    diagram = ARCHITECTURE.partition("```mermaid")[2].partition("```")[0]
    boxes = re.findall(r'^ +(\w+)\["([^"]+)"\](?: --> (\w+))?$', diagram, re.MULTILINE)
    assert [after for _, _, after in boxes[:-1]] == [name for name, _, _ in boxes[1:]]
    shown = [{name.strip().removesuffix("/") for name in label.split("·")} for _, label, _ in boxes]
    [contract] = [
        contract
        for contract in tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    assert shown == [{name.strip() for name in re.split(r"[|:]", layer)} for layer in contract["layers"]]
    folders = {name.strip() for _, label, _ in boxes for name in label.split("·") if name.strip().endswith("/")}
    assert folders == {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
