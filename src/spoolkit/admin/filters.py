"""Which jobs are meant by ``task:shop.mail state:dead error:"timed out" arg.user_id:5``? A pure parser.

Each word narrows the list. It has a name, a colon and a value, in quotes where that has spaces.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from spoolkit.encoding import redact
from spoolkit.errors import ArgumentError, shown
from spoolkit.job import State, Status

NAMES = ("task", "state", "queue", "tag", "id", "error")
"""The names of words, besides ``arg.`` and the name of an argument."""

MAX_LENGTH = 1000
"""Characters of a filter."""

DEFAULT_QUEUE = "default"

_WORD = re.compile(r'\s*(?P<name>[^\s:"]*)(?P<colon>:?)(?P<value>"(?:[^"\\]|\\.)*"|[^\s"]*)(?P<rest>[^\s]*)')
_ARGUMENT = "arg."
_ID = re.compile("[0-9a-f]{1,32}")


@dataclass(frozen=True)
class JobFilter:
    """What jobs must be like. Each field that is not empty narrows the list."""

    #: The name of their task.
    task: str = ""
    #: Their states, any of these.
    states: frozenset[State] = frozenset()
    #: The name of their queue.
    queue: str = ""
    #: One of their tags.
    tag: str = ""
    #: The beginning of their id.
    id: str = ""
    #: A part of the type and message of their last error, whatever its case.
    error: str = ""
    #: Arguments, each with its name and its value as text.
    arguments: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        words = [("task", self.task), ("state", ",".join(state for state in State if state in self.states))]
        words += [("queue", self.queue), ("tag", self.tag), ("id", self.id), ("error", self.error)]
        words = [(name, value) for name, value in words if value]
        words += [(f"{_ARGUMENT}{name}", value) for name, value in self.arguments]
        return " ".join(f"{name}:{_quoted(value)}" for name, value in words)

    def with_states(self, states: Iterable[State]) -> JobFilter:
        """Return the same filter for other states; none: for all."""
        return replace(self, states=frozenset(states))

    def fits(self, status: Status) -> bool:
        """Return whether a job is meant, but for its arguments."""
        error = f"{status.error_type or ''}: {status.error_message or ''}".lower()
        return (
            (not self.states or status.state in self.states)
            and self.task in ("", status.task)
            and self.queue in ("", status.queue or DEFAULT_QUEUE)
            and (not self.tag or self.tag in (status.tags or ()))
            and status.id.startswith(self.id)
            and self.error.lower() in error
        )

    def fits_arguments(self, args: list[Any], kwargs: dict[str, Any], signature: inspect.Signature | None) -> bool:
        """Return whether a job with these arguments is meant. It is not found by a value that is not shown.

        Args:
            args: The tagged JSON of each argument by position.
            kwargs: That of each argument by name.
            signature: That of the task's function; ``None``: it is not known here, and no argument by position is.
        """
        args, kwargs = redact.call(args, kwargs, signature)
        named: Mapping[str, Any] = kwargs
        if signature is not None:
            try:
                named = {**kwargs, **signature.bind(*args, **kwargs).arguments}
            except TypeError:  # another version of the task
                named = kwargs
        return all(name in named and value in _texts(named[name]) for name, value in self.arguments)


def parse(text: str) -> JobFilter:
    """Return the filter that a person has typed.

    Raises:
        ArgumentError: A word has no name, an unknown one, or a value that makes no sense; the message says what to do.
    """
    if len(text) > MAX_LENGTH:
        raise _error(f"the filter has {len(text)} characters: give at most {MAX_LENGTH}")
    found = dict[str, Any]()
    arguments = dict[str, str]()
    position, end = 0, len(text.rstrip())
    while position < end:
        word = _WORD.match(text, position)
        assert word is not None  # it matches any text
        position = word.end()
        name, value = word["name"], word["value"]
        if word["rest"] or (not word["colon"] and value):
            raise _error(
                f'{shown(word[0].strip())}: put the value in quotes that has spaces or quotes, error:"not found"'
            )
        if not word["colon"]:
            raise _error(f"{shown(name)} has no name before it: write one of {_hint(name)}")
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if not value:
            raise _error(f"{name}: has no value: write it directly after the colon")
        is_argument = name.startswith(_ARGUMENT) and len(name) > len(_ARGUMENT)
        if name in (arguments if is_argument else found):
            raise _error(f"{name}: was given twice: give it once")
        if is_argument:
            if redact.is_secret(name[len(_ARGUMENT) :]):
                raise _error(f"{name[len(_ARGUMENT) :]} is secret by its name: jobs cannot be found by its value")
            arguments[name] = value
        elif name in NAMES:
            found[name] = value
        else:
            raise _error(
                f"{shown(name)} is no name here: give one of {', '.join(NAMES)}, or arg. and an argument's name"
            )
    if "state" in found:
        found["states"] = _states(found.pop("state"))
    if not _ID.fullmatch(found.get("id", "0").lower()):
        raise _error(f"id is {shown(found['id'])}: give the beginning of an id, hex digits such as 18af")
    if "id" in found:
        found["id"] = found["id"].lower()
    named = tuple((name[len(_ARGUMENT) :], value) for name, value in arguments.items())
    return JobFilter(**found, arguments=named)


def _states(text: str) -> frozenset[State]:
    known = {str(state): state for state in State}
    names = [name for name in text.lower().split(",") if name]
    for name in names:
        if name not in known:
            raise _error(f"state is {shown(name)}: give one of {', '.join(known)}, or several with commas")
    return frozenset(known[name] for name in names)


def _hint(word: str) -> str:
    names = ("id", "task") if _ID.fullmatch(word) else ("task", "error")
    if word in set(State):
        names = ("state", "task")
    return " or ".join(f"{name}:{word[:40]}" for name in names)


def _error(message: str) -> ArgumentError:
    return ArgumentError(message, argument="q")


def _quoted(value: str) -> str:
    if value and not re.search(r'[\s"\\]', value):
        return value
    escaped = re.sub(r'(["\\])', r"\\\1", value)
    return f'"{escaped}"'


def _texts(tree: Any) -> set[str]:
    """The texts by which a value is found: that of ``5`` and of ``"5"`` are the same."""
    if isinstance(tree, str):
        return {tree}
    if isinstance(tree, dict) and len(tree) == 1:
        (tag, inner), *_ = tree.items()
        return _texts(inner) if tag.startswith("$") and isinstance(inner, (str, int, float)) else set()
    if tree is None or isinstance(tree, (bool, int, float)):
        return {json.dumps(tree), str(tree)}
    return set()
