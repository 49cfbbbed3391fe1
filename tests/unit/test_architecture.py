"""ARCHITECTURE.md and docs/internals.md name files, functions, wings and layers that exist.

``SPOOLKIT_WRITE_DOCS=1`` updates the diagram.
"""

from __future__ import annotations

import ast
import os
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


def drawn() -> str:
    """The diagram: one box per layer of import-linter's contract, from top to bottom."""
    [contract] = [
        contract
        for contract in tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    boxes = []
    for number, layer in enumerate(contract["layers"]):
        names = [f"{name}/" if name in wings else name for name in re.split(r" *[|:] *", layer)]
        following = f" --> layer{number + 1}" if layer != contract["layers"][-1] else ""
        boxes.append(f'    layer{number}["{" · ".join(names)}"]{following}\n')
    return "flowchart TD\n" + "".join(boxes)


def test_the_diagram_shows_the_layers_that_import_linter_enforces() -> None:
    current = re.sub(r"(?<=^```mermaid\n).*?(?=^```$)", drawn(), ARCHITECTURE, flags=re.DOTALL | re.MULTILINE)
    if os.environ.get("SPOOLKIT_WRITE_DOCS"):
        (TOP / "ARCHITECTURE.md").write_text(current)
    assert current == ARCHITECTURE
