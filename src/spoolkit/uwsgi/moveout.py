"""What stands in the place of each line of a uwsgi.ini where another server serves the site?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from spoolkit.uwsgi import inifile, recommended
from spoolkit.uwsgi.counterparts import SECTIONS, Counterpart

_OFF = frozenset({"false", "off", "no", "0"})
_PLACEHOLDERS = frozenset({"set", "set-ph", "set-placeholder"})
_SPOOLKIT = frozenset((*recommended.STOP, *recommended.RELOAD))


class Verdict(StrEnum):
    """What is said of a line."""

    #: Something stands in its place.
    REPLACED = "replaced"
    #: Nothing has to.
    NEEDLESS = "needless"
    #: Nothing does.
    NOTHING = "nothing"
    #: The option is not in the table.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Answer:
    """What is said of one line of the ini file."""

    #: The option.
    option: str
    #: Its value; includes, conditions and placeholders are resolved.
    value: str
    #: Whether something stands in its place.
    verdict: Verdict
    #: What stands in its place, by its kind: see ``counterparts.KINDS``.
    places: Mapping[str, str]
    #: What the reader must know.
    note: str = ""


def answers(path: str, environment: Mapping[str, str] = os.environ) -> list[Answer]:
    """Return what stands in the place of each line of an ini file, the lines of one option together.

    Args:
        path: The file; ``path:section`` for another section than ``[uwsgi]``.
        environment: The environment variables that the file may use.

    Raises:
        OSError: A file cannot be read.
        ConfigurationError: uWSGI would not start with this file, or it uses something that is not understood here.
    """
    options = inifile.read(path, environment)
    defined = {text.partition("=")[0] for name in _PLACEHOLDERS for text in options.get(name, ())}
    # uWSGI makes an option of each placeholder, which has a line already.
    listed = {name: values for name, values in options.items() if name not in defined or find(name)}
    return [_answer(name, value) for name, values in listed.items() for value in values]


def _answer(option: str, value: str) -> Answer:
    found = find(option)
    if option in _PLACEHOLDERS:
        return Answer(option, value, Verdict.NEEDLESS, {}, "a placeholder: its value stands where it is used")
    if (option, value) in _SPOOLKIT or value.startswith("print:"):
        return Answer(option, value, Verdict.NEEDLESS, {}, "a line for uWSGI: without it jobs finish as well")
    if option == "ini" and value.startswith("exec://"):
        note = "a command, which was not run: what it prints would be options as well"
        return Answer(option, value, Verdict.UNKNOWN, {}, note)
    if found is None:
        return Answer(option, value, Verdict.UNKNOWN, {}, "not in the table: uwsgi --help says what it does")
    if value in _OFF and (found.needless or not any("{" in place for place in found.places.values())):
        return Answer(option, value, Verdict.NEEDLESS, {}, "it is off")
    places = {kind: text.format(**words) for words in [_words(value)] for kind, text in _places(found, value).items()}
    verdict = Verdict.REPLACED if places else Verdict.NEEDLESS if found.needless else Verdict.NOTHING
    return Answer(option, value, verdict, places, found.note.replace("{value}", value))


def find(option: str) -> Counterpart | None:
    """Return the counterpart of an option: the one that names it, or else the one with its longest beginning."""
    return max(_matches(option), key=lambda match: len(match[0]), default=("", None))[1]


def _matches(option: str) -> Iterator[tuple[str, Counterpart]]:
    for counterpart in (one for section in SECTIONS.values() for one in section):
        for name in counterpart.names:
            if name == option or (name.endswith("*") and option.startswith(name[:-1])):
                yield name, counterpart


def _places(found: Counterpart, value: str) -> Mapping[str, str]:
    return found.for_socket if found.for_socket and "/" in value else found.places


def _words(value: str) -> dict[str, str]:
    """The value, and its parts as an address. Without a host, uWSGI listens on every address of the machine."""
    host, port = value.rpartition(":")[::2]
    if re.fullmatch(r"\*?:\d+", value, re.ASCII):
        value, host = f"0.0.0.0:{port}", "0.0.0.0"  # noqa: S104 - as the file says
    return {"value": value, "host": host.strip("[]"), "port": port}
