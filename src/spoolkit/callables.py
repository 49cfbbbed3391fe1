"""What may be declared as a task, and which results show that a task has not done its work? Pure."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable
from types import AsyncGeneratorType, CoroutineType, GeneratorType, MethodDescriptorType, WrapperDescriptorType
from typing import Any

from spoolkit.errors import TaskFunctionError, shown

_LAZY: dict[type, str] = {
    CoroutineType: "a coroutine",
    GeneratorType: "a generator",
    AsyncGeneratorType: "an async generator",
    map: "a map object",
    filter: "a filter object",
}


def check(function: Any) -> None:
    """Refuse a function that a spooler could not call, or could not find by its name.

    Raises:
        TaskFunctionError: ``function`` is not a function, has no name, needs an object, or is a generator.
    """
    problem = _problem(function)
    if problem is not None:
        raise refusal(function, problem)


def name(function: object) -> str:
    """Return the name of a function for the log, such as ``shop.hooks.open_pool``. It never raises."""
    own = getattr(function, "__qualname__", None)
    return f"{getattr(function, '__module__', '?')}.{own}" if isinstance(own, str) else shown(function)


def refusal(function: Any, problem: str) -> TaskFunctionError:
    """The error that says why ``function`` cannot be a task: ``problem`` follows the function's name."""
    which = getattr(function, "__qualname__", None) or f"{function!r:.100}"
    return TaskFunctionError(f"{which} cannot be a task: {problem}", function=str(which))


def _problem(function: Any) -> str | None:
    if isinstance(function, type):
        return "it is a class: declare a function that makes the object and uses it"
    if isinstance(function, (staticmethod, classmethod)):
        kind = type(function).__name__
        return f"it is a {kind} object: write @{kind} above the declaration, or move the function out of the class"
    if isinstance(function, (functools.partial, functools.partialmethod)):
        return "it is a partial object, which has no name: write a function with def that calls it"
    if not callable(function):
        return "it is not callable: put the decorator above a function"
    names = (getattr(function, name, None) for name in ("__module__", "__name__", "__qualname__"))
    if not all(isinstance(name, str) and name for name in names):
        return (
            f"it is an object of {type(function).__qualname__} without a function's name, by which a spooler would "
            "find it: write a function with def that calls it"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "it is a generator, whose body runs only while something iterates over it: do the work without yield"
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return "its signature cannot be read: write a function with def that calls it"
    if _lacks_its_object(function, parameters):
        return (
            f"it is a method, and a job has no object to pass as {parameters[0]!r}: declare a function outside of the "
            "class, pass what identifies the object, and make or load the object in the task"
        )
    return None


def _lacks_its_object(function: Any, parameters: list[str]) -> bool:
    if isinstance(function, (MethodDescriptorType, WrapperDescriptorType)):
        return True
    # The qualified name says whether the function stands in a class. In a function, `self` is an argument like others.
    scope = function.__qualname__.rpartition(".")[0]
    in_class = bool(scope) and not scope.endswith("<locals>")
    return in_class and not inspect.ismethod(function) and parameters[:1] in (["self"], ["cls"])


def is_async(function: Any) -> bool:
    """Whether ``function`` is declared with ``async def``."""
    return inspect.iscoroutinefunction(function)


def kind_of_lazy(function: Any) -> str | None:
    """What ``function`` is, if a call does not run its body: a coroutine function or a generator; else ``None``."""
    if inspect.iscoroutinefunction(function):
        return "a coroutine function"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "a generator"
    return None


def unfinished(returned: object) -> str | None:
    """Why a task that returned this value has not done its work; ``None`` if it has.

    A coroutine is closed, so that Python does not warn later, in another place, that nobody awaited it.
    """
    # By type(): isinstance() looks through a LocalProxy to its object, and a LocalProxy has every special method.
    kind = type(returned)
    lazy = _LAZY.get(kind)
    if lazy is None and issubclass(kind, Awaitable) and not hasattr(kind, "_get_current_object"):
        lazy = f"an awaitable ({kind.__qualname__})"
    if lazy is None:
        return None
    if isinstance(returned, CoroutineType):
        returned.close()
        return f"the task returned {lazy}, whose body did not run: declare it with async def, also in its decorators"
    return (
        f"the task returned {lazy}, which nothing awaits or iterates over: do that in the task, and return the values"
    )
