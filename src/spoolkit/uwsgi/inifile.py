"""Which options does an ini file set, by the rules of core/ini.c, core/config.c and core/uwsgi.c of uWSGI 2.0.31?"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import socket
from collections.abc import Callable, Mapping

from spoolkit.errors import ConfigurationError

IMMEDIATE = frozenset({"spooler-processes"})
"""Options that uWSGI applies while it reads the file, without resolving ``$(...)`` and ``%(...)``."""

_INCLUDES = frozenset({"ini", "include", "inherit"})
_PLACEHOLDERS = frozenset({"set", "set-ph", "set-placeholder"})
_BLANK = " \t\r"
_ENDS = frozenset({"end", "endfor", "endif", "end-if", "end-for"})
_DEPTH = 20
"""How deep files may include each other, and placeholders may contain placeholders."""

_LONGEST = 65536
"""Characters of a value above which no more placeholders in it are resolved."""

_TESTS: Mapping[str, Callable[[str], bool]] = {
    "exists": os.path.exists,
    "file": os.path.isfile,
    "dir": os.path.isdir,
    "directory": os.path.isdir,
    "hostname": lambda name: name == socket.gethostname(),
    "plugin": lambda name: True,
    "reload": lambda name: False,
}


def read(path: str, environment: Mapping[str, str] = os.environ) -> Mapping[str, list[str]]:
    """Return the options of an ini file, each with its values in order; includes, conditions and placeholders resolved.

    Args:
        path: The file, whose section ``[uwsgi]`` is read; ``path:section`` for another section.
        environment: The environment variables that the file may use.

    Raises:
        OSError: A file cannot be read.
        ConfigurationError: uWSGI would not start with this file, or it uses something that is not understood here.
    """
    reader = _Reader(environment)
    reader.load(path)
    for address in reader.inherited:  # an inherited file may add further ones while this loop runs
        reader.load(address)
    reader.fill(r"\$", environment.get)
    reader.fill("%", reader.first)
    options: dict[str, list[str]] = {}
    for name, value in reader.options:
        options.setdefault(name, []).append(value)
    return options


class _Reader:
    """Reads one ini file and those that it includes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.options: list[tuple[str, str]] = []
        self.inherited: list[str] = []
        self._first_file: dict[str, str] = {}
        self._environment = environment
        # Inside a condition or a loop: the values for "%(_)", each of which makes one line of the line that is read.
        self._fillers: Callable[[], list[str]] | None = None
        self._last = ""
        self._depth = 0

    def first(self, name: str) -> str | None:
        return next((value for key, value in self.options if key == name), None)

    def load(self, address: str) -> None:
        path, _, section = address.rpartition(":") if ":" in address else (address, "", "")
        self._last = path = path or self._last
        self._depth += 1
        if self._depth > _DEPTH:
            raise ConfigurationError(f"{path} includes itself")
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
        known = _magic(path, section)
        self._first_file = self._first_file or {key.upper(): known[key] for key in "pdsoxnec"}
        known |= self._first_file
        inside = False
        for line in re.sub("(?s)%(.)", lambda found: known.get(found[1], ""), text).split("\n"):
            line = line.strip(_BLANK)
            if line.startswith("["):
                inside = line[1:-1] == (section or "uwsgi")
            elif inside and line and line[0] not in ";#":
                name, _, value = line.partition("=")
                self._line(name.rstrip(_BLANK), value.lstrip(_BLANK))
        self._depth -= 1

    def fill(self, mark: str, lookup: Callable[[str], str | None]) -> None:
        place = re.compile(mark + r"\(([^()]+)\)")

        def filled(found: re.Match[str]) -> str:
            value = lookup(found[1])
            return found[0] if value is None else value  # like uWSGI: what is unknown stays as it is

        for number, (name, value) in enumerate(self.options):
            for _ in range(_DEPTH):
                if name not in IMMEDIATE and len(value) < _LONGEST:
                    value = place.sub(filled, value)
            self.options[number] = name, value

    def _line(self, name: str, value: str) -> None:
        if name in _ENDS:
            self._fillers = None
        elif self._fillers is None:
            self._take(name, value)
        elif _is_logic(name):
            raise ConfigurationError(f"{name} within a condition or a loop: uWSGI does not start with that")
        else:
            for filler in self._fillers():
                self._take(name, value.replace("%(_)", filler))

    def _take(self, name: str, value: str) -> None:
        if name == "for":
            self._fillers = lambda: [word for word in value.split(" ") if word]
        elif name == "for-times":
            self._fillers = lambda: [str(number + 1) for number in range(int(value) if value.isdigit() else 0)]
        elif _is_logic(name):
            self._fillers = lambda: self._condition(name.removeprefix("if-"), value)
        elif name not in _INCLUDES:
            self.options.append((name, value))
            if name in _PLACEHOLDERS:
                key, _, text = value.partition("=")
                self.options.append((key, text))
        elif value.startswith("exec://"):
            # What a command prints is not known without running it; that of `flask spool ini` prints nothing.
            self.options.append((name, value))
        elif name != "ini" and not value.endswith(".ini") and ".ini:" not in value:
            raise ConfigurationError(f"it includes {value}, which is not an ini file")
        elif name == "inherit":
            self.inherited.append(value)  # uWSGI reads it after the rest
            if len(self.inherited) > _DEPTH:
                raise ConfigurationError(f"{value} inherits from itself")
        else:
            self.load(value)

    def _condition(self, name: str, value: str) -> list[str]:
        kind = name.removeprefix("not-")
        filler: str | None = value
        if kind in ("env", "opt"):
            key, equal, wanted = value.partition("=")
            filler = self._environment.get(key) if kind == "env" else self.first(key)
            holds = filler is not None and (not equal or filler == wanted)
        elif kind in _TESTS:
            holds = _TESTS[kind](value)
        else:
            raise ConfigurationError(f"it uses {name}, which is not understood here")
        return ["%(_)" if filler is None else filler] if holds == (kind == name) else []


def _is_logic(name: str) -> bool:
    return name == "for" or name.startswith(("if-", "for-"))


def _magic(path: str, section: str) -> dict[str, str]:
    # uWSGI does not resolve the path of a file that is a link itself.
    full = os.path.abspath(path) if os.path.islink(path) else os.path.realpath(path)
    folder, name = os.path.split(full)
    stem, dot, ending = name.rpartition(".")
    known = {"p": full, "d": os.path.join(folder, ""), "s": name, "o": path, "x": section, "%": "%", "(": "%("}
    known |= {"n": stem if dot else name, "e": ending, "c": os.path.basename(folder)}
    known |= {"v": os.getcwd(), "h": socket.gethostname(), "u": str(os.getuid()), "g": str(os.getgid())}
    with contextlib.suppress(KeyError):  # a user or group without a name
        known |= {"U": pwd.getpwuid(os.getuid()).pw_name, "G": grp.getgrgid(os.getgid()).gr_name}
    return known
