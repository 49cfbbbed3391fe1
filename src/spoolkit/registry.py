"""Which function does a task's name mean in this process, and with which options?"""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from spoolkit import callables
from spoolkit.errors import DuplicateTaskError, SignatureError, UnknownTaskError
from spoolkit.job import JobSpec, TaskOptions, is_plain
from spoolkit.system import modules

ONE_DICT = frozenset({"args", "arguments", "env", "environ", "vars", "kwargs", "data", "params", "packet", "payload"})
"""Names that uWSGI's manual and its users give the one argument of a function declared with uwsgidecorators."""

CALL_OPTIONS = ("retries", "backoff", "timeout")
"""The options of a task that a call of it may give as well: they have the same names in its job."""


@dataclass(frozen=True)
class Declared:
    """A declared task."""

    #: The name by which jobs know the task; by default ``module.qualname``.
    name: str
    #: The function that its jobs call.
    function: Callable[..., Any]
    #: How its jobs are run.
    options: TaskOptions
    #: Names that it had in earlier versions of the code.
    aliases: tuple[str, ...] = ()
    #: The name of the engine that carries its jobs.
    engine: str = "spool"
    #: Where the function is defined, ``file:line``.
    place: str = ""
    #: The ``__spec__`` of the function's module at the time of the declaration: a reload makes a new one.
    module_spec: object = field(default=None, repr=False, compare=False)
    #: What the decorator returned in place of the function, a :class:`~spoolkit.task.Task`.
    task: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def has_keys(self) -> bool:
        """Whether its jobs have a key of a limit or of a rate."""
        return self.options.limit is not None or self.options.rate is not None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Its name, and those that it had in earlier versions of the code."""
        return self.name, *self.aliases

    def for_job(self, job: JobSpec) -> Declared:
        """The task with the options that the call of ``job`` gave; itself, as nearly always, if it gave none."""
        if is_plain(job):
            return self
        given = {name: value for name in CALL_OPTIONS if (value := getattr(job, name)) is not None}
        return replace(self, options=replace(self.options, **given)) if given else self

    @cached_property
    def signature(self) -> inspect.Signature:
        """The function's own signature."""
        return inspect.signature(self.function)

    @cached_property
    def is_async(self) -> bool:
        """Whether the function is declared with ``async def``."""
        return callables.is_async(self.function)

    @cached_property
    def positional(self) -> list[str]:
        """The names of the parameters that take positional arguments, in order."""
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return [parameter.name for parameter in self.signature.parameters.values() if parameter.kind in kinds]

    def mismatch(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str | None:
        """Why the function cannot be called with these arguments, and what to change; ``None`` if it can."""
        if self._is_plain_fit(args, kwargs):
            return None
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            return f"{error}{self._advice(args, kwargs)}"
        return None

    def bound(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """The arguments of a call that fits, by the names of the function's parameters, with defaults applied."""
        if self._defaults is not None:  # ten times as fast as bind()
            return {**self._defaults, **dict(zip(self.positional, args, strict=False)), **kwargs}
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    @cached_property
    def _defaults(self) -> dict[str, Any] | None:
        """The parameters in order, with their defaults; ``None`` if the function takes any number of arguments."""
        parameters = self.signature.parameters.values()
        if any(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in parameters):
            return None
        return {one.name: one.default for one in parameters}

    @cached_property
    def _by_keyword(self) -> frozenset[str]:
        """The names of the parameters that take keyword arguments."""
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return frozenset(parameter.name for parameter in self.signature.parameters.values() if parameter.kind in kinds)

    @cached_property
    def _required(self) -> frozenset[str]:
        """The names of the parameters that must be given."""
        any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = self.signature.parameters.values()
        return frozenset(
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty and parameter.kind not in any_number
        )

    @cached_property
    def _numbers_of_arguments(self) -> range:
        """How many positional arguments certainly fit if there are no others."""
        return range(len(self._required), len(self.positional) + 1 if self._required <= {*self.positional} else 0)

    def _is_plain_fit(self, args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
        """Whether the arguments certainly fit: each is that of a named parameter, and none is missing.

        ``bind()`` answers for all others, but takes ten times as long.
        """
        if not kwargs:
            return len(args) in self._numbers_of_arguments
        if len(args) > len(self.positional):
            return False
        taken, named = self.positional[: len(args)], kwargs.keys()
        return named <= self._by_keyword and named.isdisjoint(taken) and self._required <= named | set(taken)

    def check(self, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
        """Check the arguments of a job that another version of the code may have enqueued.

        Raises:
            SignatureError: This version's function cannot be called with them.
        """
        if problem := self.mismatch(args, kwargs):
            given = [f"{len(args)} by position"] if args else []
            raise SignatureError(
                f"the job was enqueued with {', '.join([*given, *kwargs]) or 'no arguments'}, "
                f"but this version's task is {self.name}{self.signature}: {problem}"
            )

    def _advice(self, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
        """What to change in a function that takes one dict, as those of uwsgidecorators do; else an empty text."""
        parameters = list(self.signature.parameters.values())
        if args or not kwargs or len(parameters) != 1 or parameters[0].name in kwargs:
            return ""
        name, kind, annotation = parameters[0].name, parameters[0].kind, str(parameters[0].annotation).lower()
        if kind not in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD):
            return ""
        if name not in ONE_DICT and not any(word in annotation for word in ("dict", "mapping")):
            return ""
        function = self.function.__name__
        return (
            f". uwsgidecorators calls a function with one dict, spoolkit with the arguments themselves: write "
            f"def {function}({', '.join(kwargs)}), or def {function}(**{name}) to have them as a dict"
        )

    @cached_property
    def code_folder(self) -> str | None:
        """The folder from which the function's module, or its top package, was imported."""
        return modules.folder(self.function.__module__)


class Registry:
    """The tasks of one process."""

    def __init__(self) -> None:
        #: The declared tasks by name, in the order of their declaration.
        self.tasks: dict[str, Declared] = {}
        #: The same by the names that they had in earlier versions of the code.
        self.aliases: dict[str, Declared] = {}
        #: The schedules of periodic tasks by name, each with its task: see :mod:`spoolkit.schedules.declared`.
        self.schedules: dict[str, tuple[Any, Declared]] = {}
        #: The priorities that tasks are declared with. Where there is none, nothing is done for priorities.
        self.priorities: set[int] = set()

    def get(self, name: str) -> Declared | None:
        """The task with this name, or with this name as an alias; ``None`` if there is none."""
        return self.tasks.get(name) or self.aliases.get(name)


this_process = Registry()
"""The tasks of this process."""


def names_of(task: str) -> tuple[str, ...]:
    """Return the name of a task and its aliases; ``task`` alone if this process does not declare it."""
    declared = this_process.get(task)
    return (task,) if declared is None else declared.names


def code_folder() -> str | None:
    """The folder of the modules with the first task; ``None`` where no task is declared."""
    return next((declared.code_folder for declared in this_process.tasks.values()), None)


def code_folders() -> set[str]:
    """The folders of all modules with tasks."""
    return {declared.code_folder for declared in this_process.tasks.values() if declared.code_folder is not None}


def declare(
    function: Callable[..., Any],
    options: TaskOptions,
    name: str | None = None,
    aliases: Sequence[str] = (),
    engine: str = "spool",
    task: Any = None,
) -> Declared:
    """Declare ``function`` as the task ``name``, by default ``module.qualname``.

    Where the same lines are executed again (a factory that is called twice, a module that is reloaded), the later
    function replaces the earlier one; see :func:`check_not_replaced`.

    Args:
        function: The function that jobs of the task call.
        options: How they are run.
        name: The task's name.
        aliases: Names that the task had in earlier versions of the code, whose jobs may still be waiting.
        engine: The name of the engine that carries its jobs.
        task: What the decorator returns in place of the function.

    Returns:
        The declared task.

    Raises:
        TaskFunctionError: ``function`` cannot be a task.
        DuplicateTaskError: Another function has this name, or one of the aliases.
    """
    wrapped = getattr(function, "declared", None)
    if isinstance(wrapped, Declared):
        raise callables.refusal(
            function,
            f"it is declared as the task {wrapped.name} already: declare the function itself, with another name=",
        )
    callables.check(function)
    declared = Declared(
        name or f"{_module_name(function)}.{function.__qualname__}",
        function,
        options,
        tuple(aliases),
        engine,
        _place(function),
        getattr(sys.modules.get(function.__module__), "__spec__", None),
        task,
    )
    earlier = this_process.tasks.get(declared.name)
    if earlier is not None:
        _check_same_task(earlier, declared)
    for alias in declared.names:
        other = this_process.aliases.get(alias) or this_process.tasks.get(alias)
        if other is not None and other.name != declared.name:
            whose = "the name" if alias == other.name else "an alias"
            raise _duplicate(
                f"{alias!r} is {whose} of the task {other.name} ({other.place}), and cannot be one of {declared.name} "
                f"({declared.place}): remove it from one of the two",
                other,
                declared,
            )
    for alias in earlier.aliases if earlier is not None else ():
        this_process.aliases.pop(alias, None)
    this_process.tasks[declared.name] = declared
    if options.priority is not None:
        this_process.priorities.add(options.priority)
    this_process.aliases.update(dict.fromkeys(declared.aliases, declared))
    return declared


def check_not_replaced(declared: Declared) -> None:
    """Refuse a call of a task whose function was replaced by a later declaration: a spooler would run the later one.

    Raises:
        DuplicateTaskError: The task was replaced.
    """
    later = this_process.tasks.get(declared.name)
    if later is None or later.function is declared.function or _is_same_file_under_two_names(declared, later):
        return
    raise _duplicate(
        f"the task {declared.name} ({declared.place}) was declared again ({later.place}), and its jobs run the later "
        "function: call the later task, or give each function a name of its own, @spool(name=...)",
        declared,
        later,
    )


def _check_same_task(earlier: Declared, later: Declared) -> None:
    if earlier.function is later.function and earlier.engine != later.engine:
        raise _duplicate(
            f"{later.name} ({later.place}) is a task for {earlier.engine} already, and is now declared for "
            f"{later.engine}: give one of the two another name, name=...",
            earlier,
            later,
        )
    if earlier.place == later.place or _is_executed_again(earlier, later):
        return
    raise _duplicate(
        f"two functions are called {later.name}: {earlier.place} and {later.place}. A job knows its task by the name: "
        "rename one of them, or give it a name of its own, @spool(name=...)",
        earlier,
        later,
    )


def _is_executed_again(earlier: Declared, later: Declared) -> bool:
    """Whether a module was executed again with its lines moved, as in a reload after an edit."""
    before, after = earlier.function, later.function
    if before.__module__ != after.__module__:
        return False
    if before.__module__ == "__main__" and not os.path.exists(later.place.rpartition(":")[0]):
        return True  # typed in a shell or a notebook, where each input is a file of its own
    if earlier.place.rpartition(":")[0] != later.place.rpartition(":")[0]:
        return False
    return earlier.module_spec is not later.module_spec or _globals(before) is not _globals(after)


def _is_same_file_under_two_names(earlier: Declared, later: Declared) -> bool:
    # __main__ and the module's own name, or the one that uWSGI's wsgi-file makes of it: both are in use, and equal. A
    # function within a function may have captured values that the other one has not.
    before, after = earlier.function, later.function
    is_renamed = before.__module__ != after.__module__ and earlier.place == later.place
    return is_renamed and "<locals>" not in after.__qualname__


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:  # written in C
        return f"{function.__module__}:{function.__qualname__}"
    return f"{os.path.realpath(code.co_filename)}:{code.co_firstlineno}"


def _globals(function: Callable[..., Any]) -> object:
    return getattr(inspect.unwrap(function), "__globals__", None)


def _duplicate(message: str, earlier: Declared, later: Declared) -> DuplicateTaskError:
    return DuplicateTaskError(message, task=later.name, places=(earlier.place, later.place))


def find(name: str) -> Declared:
    """The task with this name, or with this name as an alias.

    Raises:
        UnknownTaskError: No task of this process has or had this name.
    """
    found = this_process.get(name)
    if found is None:
        raise UnknownTaskError(
            f"no task {name!r} is declared in this process, {_known_tasks(name)}. If it was renamed, give the new one "
            f"aliases=[{name!r}]; else import its module where the application is made, or name it in uwsgi.ini "
            "(import =, and spooler-import = with lazy-apps)",
            task=name,
        )
    return found


def by_function(name: str) -> list[Declared]:
    """The tasks whose function is called ``name``, sorted by the task's name."""
    found = [declared for declared in this_process.tasks.values() if declared.function.__name__ == name]
    return sorted(found, key=lambda declared: declared.name)


def _known_tasks(name: str) -> str:
    near = difflib.get_close_matches(name, this_process.tasks, n=3, cutoff=0.4) or sorted(this_process.tasks)[:3]
    return f"which declares {', '.join(near)}" if near else "nor is any other"


def _module_name(function: Callable[..., Any]) -> str:
    return modules.dotted_name(function.__module__)
