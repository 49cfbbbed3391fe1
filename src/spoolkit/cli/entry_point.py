"""How does uWSGI's option ``module`` name the application that a command runs for?"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
from types import ModuleType

import click
from flask import Flask, current_app
from flask.cli import ScriptInfo

from spoolkit.system import modules

NAMES = ("app", "application")
"""Names that Flask's own command tries for an application, in this order."""

FACTORIES = ("create_app", "make_app")
"""Names that Flask's own command tries for a factory, in this order."""


def of_command() -> str:
    """Find the application that this command was started with.

    Returns:
        ``module:app`` or ``module:create_app()``.

    Raises:
        click.UsageError: uWSGI cannot load the application in this way.
    """
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    context = click.get_current_context(silent=True)
    info = context.find_object(ScriptInfo) if context is not None else None
    given = info.app_import_path if info is not None and info.create_app is None else None
    # Without --app, Flask tries these two files. The one that it found is imported by now.
    for path in [given] if given else ["wsgi.py", "app.py", app.import_name]:
        name, _, attribute = path.partition(":")
        module = modules.find(_dotted(name))
        if module is None:
            continue
        if attribute and (found := _called(module, attribute)):
            return found
        if (callable_name := _attribute_of(module, app)) or (not attribute and (callable_name := _factory_of(module))):
            return f"{module.__name__}:{callable_name}"
    raise click.UsageError(
        "uWSGI cannot load this application, because it calls a factory without arguments: write a module that "
        "creates the application, such as wsgi.py with app = create_app('production'), and give --module wsgi:app"
    )


def of_option(given: str) -> str:
    """Complete the option ``--module`` for uWSGI.

    Args:
        given: ``module`` or ``module:attribute``; the path of a file is accepted too.

    Returns:
        ``module:attribute``, with ``()`` where the attribute is a factory. A module that cannot be imported here is
        left as it is.

    Raises:
        click.BadParameter: The attribute is missing, and the module has none with a usual name.
    """
    name, colon, attribute = given.partition(":")
    name = _dotted(name)
    if attribute.endswith(")"):
        return f"{name}:{attribute}"
    module = _imported(name)
    if colon:
        return f"{name}:{attribute}{'()' if module and _is_factory(vars(module).get(attribute)) else ''}"
    if module is None:
        raise click.BadParameter(f"{given!r} cannot be imported here: give the attribute too, such as {given}:app")
    usual_name = next((name for name in NAMES if callable(vars(module).get(name))), None) or _factory_of(module)
    if usual_name is None:
        raise click.BadParameter(f"{given!r} has no attribute app: give the name of its application, {given}:NAME")
    return f"{name}:{usual_name}"


def folder(entry_point: str) -> str | None:
    """The folder to import ``entry_point`` from, if it is inside the current folder, as with ``--app src/shop``."""
    name = entry_point.partition(":")[0]
    file = getattr(modules.find(name), "__file__", None)
    if file is None:
        return None
    path, here = os.path.realpath(file), os.path.realpath(os.curdir)
    for _ in range(name.count(".") + 1 + (os.path.basename(path) == "__init__.py")):
        path = os.path.dirname(path)
    is_below = path.startswith(f"{here}{os.sep}") and "site-packages" not in path
    return path if is_below else None


def _called(module: ModuleType, expression: str) -> str | None:
    """``module:attribute``, with ``()`` where it is a function; ``None`` where the expression passes arguments."""
    tree = ast.parse(expression.strip(), mode="eval").body
    if isinstance(tree, ast.Name):
        return f"{module.__name__}:{tree.id}{'()' if inspect.isfunction(vars(module).get(tree.id)) else ''}"
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args and not tree.keywords:
        return f"{module.__name__}:{tree.func.id}()"
    return None


def _attribute_of(module: ModuleType, app: Flask) -> str | None:
    return next((name for name, value in vars(module).items() if value is app), None)


def _factory_of(module: ModuleType) -> str | None:
    return next((f"{name}()" for name in FACTORIES if _is_factory(vars(module).get(name))), None)


def _is_factory(value: object) -> bool:
    if not inspect.isfunction(value):
        return False
    try:
        inspect.signature(value).bind()
    except TypeError:  # a WSGI application that is a function, or a factory that uWSGI cannot call
        return False
    return True


def _dotted(path: str) -> str:
    is_file = path.endswith(".py") or os.sep in path
    return modules.from_file(os.path.join(path, "__init__.py") if os.path.isdir(path) else path) if is_file else path


def _imported(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except Exception:  # the module's own code may raise anything
        return None
