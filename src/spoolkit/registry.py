"""Task name -> the function and its options, in this process."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spoolkit.errors import UnknownTaskError
from spoolkit.job import TaskOptions


@dataclass(frozen=True)
class Declared:
    """A declared task: its name, the function, its options."""

    name: str
    function: Callable[..., Any]
    options: TaskOptions

    @cached_property
    def signature(self) -> inspect.Signature:
        """The function's own signature."""
        return inspect.signature(self.function)

    @cached_property
    def positional(self) -> list[str]:
        """The names that positional arguments go to, in order."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [parameter.name for parameter in self.signature.parameters.values() if parameter.kind in kinds]

    @cached_property
    def home(self) -> str | None:
        """The directory from which the function's module, or the package at its top, was imported."""
        module = sys.modules.get(self.function.__module__)
        file: str | None = getattr(module, "__file__", None)
        if file is None:
            return None
        levels = _module_name(self.function).count(".") + (os.path.basename(file) == "__init__.py")
        directory = os.path.dirname(os.path.abspath(file))
        for _ in range(levels):
            directory = os.path.dirname(directory)
        return directory


_declared: dict[str, Declared] = {}


def home() -> str | None:
    """Where the modules with the first task come from; ``None`` where no task is declared."""
    return next((declared.home for declared in _declared.values()), None)


def declare(function: Callable[..., Any], options: TaskOptions) -> Declared:
    """Enter ``function`` under its name, ``module.qualname``. A module may be executed twice: the last one stands."""
    declared = Declared(f"{_module_name(function)}.{function.__qualname__}", function, options)
    _declared[declared.name] = declared
    return declared


def find(name: str) -> Declared:
    """The task called ``name``. Raises :class:`UnknownTaskError`."""
    try:
        return _declared[name]
    except KeyError:
        raise UnknownTaskError(
            f"no task {name!r} is declared in this process: import its module where the application is made, "
            "or name it in uwsgi.ini (import =, and spooler-import = with lazy-apps)",
            task=name,
        ) from None


def _module_name(function: Callable[..., Any]) -> str:
    # What runs as a script is __main__ only there; a spooler knows it by its module's or its file's name.
    if function.__module__ == "__main__":
        main = sys.modules["__main__"]
        if spec := getattr(main, "__spec__", None):  # python -m
            return str(spec.name)
        file: str | None = getattr(main, "__file__", None)
        if file is not None:  # a shell has none
            return os.path.splitext(os.path.basename(file))[0]
    return function.__module__
