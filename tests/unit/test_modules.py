"""The name of a module does not depend on how its file was loaded."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from enum import Enum
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.encoding import codec
from spoolkit.system import modules

Load = Callable[[str, Path], ModuleType]

COLOUR = "from enum import Enum\nclass Colour(Enum):\n    RED = 1\n"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Execute a file as uWSGI does: under a name of uWSGI's choice."""

    def load(name: str, path: Path) -> ModuleType:
        loader = SourceFileLoader(name, str(path))
        spec = importlib.util.spec_from_file_location(name, str(path), loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        loader.exec_module(module)
        return module

    return load


def site(root: Path, *files: str, content: str = "") -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(content)
    return root / files[-1]


@pytest.mark.parametrize("prefix", ["", modules.FILE_PREFIX])
@pytest.mark.parametrize("is_on_path", [True, False])
def test_a_file_loaded_by_its_path_has_the_name_to_import(
    prefix: str, is_on_path: bool, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site(tmp_path, "shop/__init__.py", "shop/tasks.py")
    if is_on_path:
        monkeypatch.syspath_prepend(tmp_path)
    name = prefix + modules.from_path(str(path))
    load(name, path)
    assert modules.dotted_name(name) == "shop.tasks"


def test_the_name_is_the_same_in_each_release(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    current = tmp_path / "current"
    found = set()
    for release in ("1", "v2"):
        path = site(tmp_path / "releases" / release, "app.py")
        current.unlink(missing_ok=True)
        current.symlink_to(path.parent)
        monkeypatch.setattr(sys, "path", [str(current), str(tmp_path), *sys.path])
        for file in (path, current / "app.py"):
            name = modules.FILE_PREFIX + modules.from_path(str(file))
            load(name, file)
            found.add(modules.dotted_name(name))
    assert found == {"app"}


def test_folders_without_an_init_are_packages_where_they_can_be_imported(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = site(tmp_path, "space/shop/__init__.py", "space/shop/tasks.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert modules.from_file(str(path)) == "space.shop.tasks"
    monkeypatch.syspath_prepend(tmp_path / "space")
    assert modules.from_file(str(path)) == "shop.tasks"
    monkeypatch.setattr(sys, "path", ["/"])
    assert modules.from_file(str(path)) == "shop.tasks"


def test_a_file_that_is_run_is_known_by_its_own_name(tmp_path: Path, load: Load) -> None:
    """A script, or the file of a mule, which uWSGI gives a spec of that name."""
    load("__main__", site(tmp_path, "shop/__init__.py", "shop/nightly.py"))
    assert modules.dotted_name("__main__") == "shop.nightly"


def test_a_name_that_somebody_chose_stays(tmp_path: Path, load: Load) -> None:
    path = site(tmp_path, "mail_v2.py")
    load("plugins.mail", path)
    assert modules.dotted_name("plugins.mail") == "plugins.mail"
    assert modules.dotted_name(__name__) == __name__
    assert modules.dotted_name("no_such_module") == "no_such_module"


def test_a_class_of_a_file_loaded_by_its_path_crosses(tmp_path: Path, load: Load) -> None:
    path = site(tmp_path, "paint.py", content=COLOUR)
    name = modules.FILE_PREFIX + modules.from_path(str(path))
    colour = load(name, path).Colour
    data = codec.encode(colour.RED)
    assert b"paint:Colour" in data
    assert codec.decode(data) is colour.RED
    del sys.modules[name]
    imported: type[Enum] = load("paint", path).Colour
    assert codec.decode(data) is imported["RED"]


@given(st.lists(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), min_size=1, max_size=4))
def test_what_uwsgi_makes_of_a_path_is_recognised(parts: list[str]) -> None:
    file = "/srv/" + "/".join(parts) + ".py"
    name = modules.from_path(file)
    assert name == "_srv_" + "_".join(parts)
    assert modules.is_from_path(name, file)
    assert modules.is_from_path(modules.FILE_PREFIX + name, file)
    assert not modules.is_from_path(".".join(parts), file)
