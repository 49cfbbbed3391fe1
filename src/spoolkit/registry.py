"""Task name -> the function and its options, in this process."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spoolkit import callables
from spoolkit.errors import SignatureError, UnknownTaskError
from spoolkit.job import TaskOptions


@dataclass(frozen=True)
class Declared:
    """A declared task: its name, the function, its options, and the names that it had before."""

    name: str
    function: Callable[..., Any]
    options: TaskOptions
    aliases: tuple[str, ...] = ()

    @cached_property
    def signature(self) -> inspect.Signature:
        """The function's own signature."""
        return inspect.signature(self.function)

    @cached_property
    def positional(self) -> list[str]:
        """The names that positional arguments go to, in order."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [parameter.name for parameter in self.signature.parameters.values() if parameter.kind in kinds]

    def check(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Raise :class:`SignatureError` where a job with these arguments, accepted by another version, cannot run."""
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            given = [f"{len(args)} by position"] if args else []
            raise SignatureError(
                f"the job was enqueued with {', '.join([*given, *kwargs]) or 'no arguments'}, "
                f"but this version's task is {self.name}{self.signature}: {error}"
            ) from None

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
_aliases: dict[str, Declared] = {}


def home() -> str | None:
    """Where the modules with the first task come from; ``None`` where no task is declared."""
    return next((declared.home for declared in _declared.values()), None)


def declare(
    function: Callable[..., Any], options: TaskOptions, name: str | None = None, aliases: Sequence[str] = ()
) -> Declared:
    """Enter ``function`` as ``name``, else as ``module.qualname``. A module may be executed twice: the last one stands.

    ``aliases`` are names under which jobs of other versions were enqueued; a task that is called so comes first.
    """
    task = getattr(function, "declared", None)
    if isinstance(task, Declared):
        raise callables.refusal(
            function, f"it is declared as the task {task.name} already: declare the function itself, with another name="
        )
    callables.check(function)
    declared = Declared(name or f"{_module_name(function)}.{function.__qualname__}", function, options, tuple(aliases))
    _declared[declared.name] = declared
    _aliases.update(dict.fromkeys(declared.aliases, declared))
    return declared


def find(name: str) -> Declared:
    """The task called ``name``, now or before. Raises :class:`UnknownTaskError`."""
    found = _declared.get(name) or _aliases.get(name)
    if found is None:
        raise UnknownTaskError(
            f"no task {name!r} is declared in this process, {_instead(name)}. If it was renamed, give the new one "
            f"aliases=[{name!r}]; else import its module where the application is made, or name it in uwsgi.ini "
            "(import =, and spooler-import = with lazy-apps)",
            task=name,
        )
    return found


def _instead(name: str) -> str:
    near = difflib.get_close_matches(name, _declared, n=3, cutoff=0.4) or sorted(_declared)[:3]
    return f"which declares {', '.join(near)}" if near else "nor any other"


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
