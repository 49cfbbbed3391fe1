"""Under which name can a module be imported, however its file was loaded into this process?

A script is ``__main__``. uWSGI names a module that it loads by its file after the path in its option: ``wsgi-file =
app.py`` becomes ``uwsgi_file_app``, ``spooler-import = /srv/releases/7/shop/tasks.py`` becomes
``_srv_releases_7_shop_tasks`` (uwsgi_pythonize in plugins/python/python_plugin.c). A job that contained such a name
could run only where the file is loaded in the same way, and could no longer run once the release directory is removed.
"""

from __future__ import annotations

import os
import re
import sys
from types import ModuleType

FILE_PREFIX = "uwsgi_file_"
"""With this uWSGI begins the module name of an application's file."""


def dotted_name(name: str) -> str:
    """Return the name under which the loaded module ``name`` can be imported; if none is known, ``name`` itself."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    spec = getattr(module, "__spec__", None)
    if name == "__main__" and spec is not None and spec.name != name:  # python -m
        return str(spec.name)
    if not isinstance(file, str):  # a shell, or a built-in module
        return name
    if name == "__main__" or is_from_path(name, file) or (spec is None and not _fits(name, file)):
        return from_file(file)
    return name


def folder(name: str) -> str | None:
    """Return the folder that holds the loaded module ``name``, or its top-level package; ``None`` if it has no file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if not isinstance(file, str):
        return None
    found = os.path.dirname(os.path.abspath(file))
    for _ in range(dotted_name(name).count(".") + (os.path.basename(file) == "__init__.py")):
        found = os.path.dirname(found)
    return found


def find(name: str) -> ModuleType | None:
    """Return the loaded module with this dotted name, or ``None``. Nothing is imported."""
    found = sys.modules.get(name)
    if found is None:
        candidates = [other for other, module in list(sys.modules.items()) if _is_loaded_by_path(other, module)]
        found = next((sys.modules.get(other) for other in candidates if dotted_name(other) == name), None)
    return found


def from_path(path: str) -> str:
    """Return the module name that uWSGI makes of ``path`` when it loads a file by it, without :data:`FILE_PREFIX`."""
    path = re.sub(r"^(sym|http|data)://", "", path)
    return re.sub(r"[._]py\Z", "", path.replace("/", "_").replace(".", "_"))


def is_from_path(name: str, file: str) -> bool:
    """Whether ``name`` is the name that uWSGI makes of the path ``file``, and not a name to import."""
    if _fits(name, file):
        return False
    paths = (file, os.path.dirname(file)) if os.path.basename(file) == "__init__.py" else (file,)
    return name.removeprefix(FILE_PREFIX) in map(from_path, paths)


def from_file(file: str) -> str:
    """Return the dotted name of ``file``, with its packages (which have an ``__init__.py``) below ``sys.path``.

    It contains no part of the absolute path, so that it is the same in another release directory.
    """
    as_given, real = _from_file(os.path.abspath(file)), _from_file(os.path.realpath(file))
    return ".".join(as_given if len(as_given) <= len(real) else real)


def _from_file(path: str) -> list[str]:
    folder, name = os.path.split(os.path.splitext(path)[0])
    parts = [] if name == "__init__" else [name]
    while os.path.isfile(os.path.join(folder, "__init__.py")) and os.path.basename(folder):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    # Folders without an __init__.py are packages as well, if the import system finds them.
    above: list[list[str]] = []
    for root in {path(entry) for entry in sys.path for path in (os.path.abspath, os.path.realpath)}:
        if root != os.sep and f"{folder}{os.sep}".startswith(f"{root}{os.sep}"):
            above.append([part for part in folder[len(root) :].split(os.sep) if part])
    nearest = min(above, key=len, default=[])
    return [*nearest, *parts] if all(map(str.isidentifier, nearest)) else parts


def _fits(name: str, file: str) -> bool:
    """Whether ``file`` has the path that a module imported as ``name`` has."""
    folder, base = os.path.split(file)
    path = os.path.join(os.sep, folder, base.partition(".")[0])
    tail = f"{os.sep}{name.replace('.', os.sep)}"
    return path.endswith((tail, f"{tail}{os.sep}__init__"))


def _is_loaded_by_path(name: str, module: ModuleType | None) -> bool:
    # Not getattr(): it would run the __getattr__ of the module, and make a lazy loader import it.
    file = object.__getattribute__(module, "__dict__").get("__file__") if isinstance(module, ModuleType) else None
    return name != "__main__" and isinstance(file, str) and is_from_path(name, file)
