"""Which applications does uWSGI serve, and how are they loaded in a process where uWSGI does not load them itself?

The rules are those of plugins/python/pyloader.c of uWSGI 2.0.31. ``module = shop:create_app()`` calls the function
without arguments. ``callable`` names the attribute if ``module`` does not; its default is ``application``. A file is
executed under a module name of its own. If an option is repeated, the last value counts, except for ``mount``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from spoolkit.errors import ConfigurationError
from spoolkit.system import modules
from spoolkit.uwsgi import bridge, inifile, instance

DEFAULT_CALLABLE = "application"
"""The attribute that uWSGI serves if no option names another one."""

SEPARATE_INTERPRETERS = (
    "uWSGI mounts several applications, each in an interpreter of its own, and its spoolers know the tasks of only "
    "one: set single-interpreter = true in uwsgi.ini"
)
"""The message of the error about applications in separate interpreters."""


@dataclass(frozen=True)
class Target:
    """One application that uWSGI serves."""

    #: The module to import; empty where a file is named.
    module: str
    #: The file to execute, as the option names it; empty where a module is named.
    file: str
    #: The attribute that is the application; with ``()`` at its end, the function that makes it.
    callable: str

    def __str__(self) -> str:
        return self.file or f"{self.module}:{self.callable}"


def targets(options: Mapping[str, Sequence[str]]) -> list[Target]:
    """Return the applications that these options name, in the order in which uWSGI loads them."""
    attribute = _last(options, "callable") or DEFAULT_CALLABLE
    found = []
    if module := _last(options, *instance.MODULES):
        found.append(_target(module, attribute))
    if file := _last(options, *instance.FILES):
        found.append(Target("", file, attribute))
    for mount in options.get("mount", ()):
        mounted = mount.partition("=")[2]
        if mounted.endswith((".py", ".wsgi")):
            found.append(Target("", mounted, attribute))
        elif ":" in mounted and "://" not in mounted and not mounted.endswith(".ini"):
            found.append(_target(mounted, attribute))
    return found


def has_separate_interpreters(options: Mapping[str, Sequence[str]]) -> bool:
    """Whether uWSGI gives each application an interpreter of its own: its spoolers would know the tasks of only one."""
    value = _last(options, "single-interpreter")
    return len(targets(options)) > 1 and bool(options.get("mount")) and value in (None, "false", "off", "no", "0")


def own_targets() -> list[Target]:
    """Return the applications of the uWSGI to which this process belongs."""
    return targets(options())


def options() -> Mapping[str, Sequence[str]]:
    """Return those options of the uWSGI to which this process belongs that say what it serves."""
    known = {name: value for name, value in bridge.options().items() if name in instance.APPLICATION}
    found = {
        name: [_text(item) for item in (value if isinstance(value, list) else [value])] for name, value in known.items()
    }
    if "mount" in found:
        found["mount"] = list(_mounts(*found["mount"]))
    return found


def load(target: Target) -> object:
    """Import the module or execute the file of ``target``.

    Args:
        target: The application to load.

    Returns:
        The application; if ``target`` names a factory, what the factory returns. A module may have a dict
        ``applications``, which uWSGI serves instead of one application: then that dict.

    Raises:
        ConfigurationError: The module has no such attribute, or the attribute is not an application.
        Exception: What the code of the module or of the factory raises.
    """
    module = _execute(target.file) if target.file else importlib.import_module(target.module)
    names = vars(module)  # like uWSGI, which ignores a __getattr__ of the module
    if not target.file and isinstance(applications := names.get("applications"), dict):
        return applications
    name = target.callable.removesuffix("()")
    if name not in names:
        raise ConfigurationError(
            f"uWSGI is configured to serve {target}, but {target.file or target.module} has no {name!r}: name the "
            f"application or its factory, such as module = {target.module or 'shop'}:create_app()",
            setting="module",
        )
    made = names[name]() if target.callable != name else names[name]
    if not callable(made):
        raise ConfigurationError(
            f"uWSGI is configured to serve {target}, which is a {type(made).__name__} and not an application",
            setting="module",
        )
    return made


def load_once(wanted: Iterable[Target]) -> None:
    """Load these applications in an HTTP process, where uWSGI loads them as well; each is made only once.

    When uWSGI calls a factory, it gets the application that the factory has made here. A file is not executed here,
    because uWSGI would execute it a second time; but it is known by its own module name already, so that a module which
    imports it does not execute it either.

    Args:
        wanted: The applications that uWSGI serves, in the order in which it loads them.

    Raises:
        ConfigurationError: A module has no such attribute, or the attribute is no application.
        Exception: What the code of a module or of a factory raises.
    """
    made: dict[tuple[str, str], list[object]] = {}
    for target in wanted:
        if target.file:
            _name_file(target.file)
            continue
        application = load(target)
        if target.callable.endswith("()") and not isinstance(application, dict):
            made.setdefault((target.module, target.callable.removesuffix("()")), []).append(application)
    for (module, name), applications in made.items():
        names = vars(sys.modules[module])
        names[name] = _handing_over(names, name, applications)


def _handing_over(names: dict[str, Any], name: str, made: list[object]) -> Callable[[], object]:
    """A replacement for the factory ``name``: it returns the applications in ``made`` first, then calls the factory."""
    factory = names[name]

    @functools.wraps(factory)
    def hand_over(*args: Any, **kwargs: Any) -> object:
        if args or kwargs:  # the caller is not uWSGI
            return factory(*args, **kwargs)
        application = made.pop(0)
        if not made:
            names[name] = factory
        return application

    return hand_over


def _target(text: str, attribute: str) -> Target:
    module, colon, name = text.partition(":")
    return Target(module, "", name if colon else attribute)


def _execute(path: str) -> ModuleType:
    path = _real_file(path)
    name = modules.from_file(path)
    spec = importlib.util.find_spec(name)
    if (
        spec is not None
        and spec.origin is not None
        and os.path.exists(spec.origin)
        and os.path.samefile(spec.origin, path)
    ):
        return importlib.import_module(name)
    module = _module(f"{modules.FILE_PREFIX}{modules.from_path(path)}", path)
    sys.modules[module.__name__] = module
    try:
        SourceFileLoader(module.__name__, path).exec_module(module)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _name_file(path: str) -> None:
    path, alias = _real_file(path), f"{modules.FILE_PREFIX}{modules.from_path(path)}"
    name = modules.from_file(path)
    if name not in sys.modules:
        sys.modules[name] = sys.modules[alias] = _module(name, path)


def _module(name: str, path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceFileLoader(name, path))
    assert spec is not None
    return importlib.util.module_from_spec(spec)


def _real_file(path: str) -> str:
    return os.path.join(path, "__init__.py") if os.path.isdir(path) else path


def _last(options: Mapping[str, Sequence[str]], *names: str) -> str | None:
    return next((options[name][-1] for name in reversed(names) if options.get(name)), None)


@functools.cache
def _mounts(*known: str) -> tuple[str, ...]:
    # uWSGI 2.0.31 reports only the last of several mounts. The others are read where uWSGI has read them: in its
    # command line and its ini files.
    found: list[str] = []
    words: list[str] = []
    with contextlib.suppress(OSError), open(f"/proc/{bridge.master_pid()}/cmdline", "rb") as file:
        words = os.fsdecode(file.read()).split("\0")
    ini = bridge.options().get("ini", b"")
    paths = [os.fsdecode(item) for item in (ini if isinstance(ini, list) else [ini]) if isinstance(item, bytes)]
    paths += [word.removeprefix("--ini=") for word in words if re.search(r"\.ini(:|\Z)", word)]
    for path, folder in itertools.product(dict.fromkeys(paths), (os.environ.get("PWD", ""), os.curdir)):
        with contextlib.suppress(OSError, ValueError, ConfigurationError):
            found += inifile.read(os.path.join(folder, path)).get("mount", [])
    found += [value for word, value in itertools.pairwise(words) if word == "--mount"]
    found += [word.removeprefix("--mount=") for word in words if word.startswith("--mount=")]
    return tuple(dict.fromkeys(found)) if known[-1] in found else known


def _text(value: object) -> str:
    return os.fsdecode(value) if isinstance(value, bytes) else str(value).lower()
