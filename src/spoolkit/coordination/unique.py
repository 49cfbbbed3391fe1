"""Which calls of a unique task have the same key, and what happens to a call whose key is taken? Pure."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from spoolkit.encoding import codec
from spoolkit.errors import ArgumentTypeError, ConfigurationError, shown
from spoolkit.job import State, Unique, Until
from spoolkit.registry import Declared

HOLDING: Mapping[Until, frozenset[State]] = {
    "end": frozenset({State.QUEUED, State.RUNNING, State.RETRYING}),
    "start": frozenset({State.QUEUED}),
}
"""The states in which a job holds its key. A dead job that somebody retries is queued again, and holds it again."""


class Action(Enum):
    """What happens to a call."""

    ACCEPT = "a new job is made"
    RETURN = "the caller gets the job that holds the key"
    RAISE = "the caller gets an error"
    REPLACE = "the job that holds the key gets the arguments and the due time of the call"


def holds(state: State | None, until: Until) -> bool:
    """Return whether a job in ``state`` holds its key. ``None``: there is no such job."""
    return state in HOLDING[until]


def decide(state: State | None, unique: Unique) -> Action:
    """Return what happens to a call.

    Args:
        state: The state of the job that the key names; ``None``: it names none, or one that was never accepted.
        unique: What the task declares.
    """
    if not holds(state, unique.until):
        return Action.ACCEPT
    if unique.on_duplicate == "raise":
        return Action.RAISE
    # A job that has started has read its arguments.
    return Action.REPLACE if unique.on_duplicate == "replace" and state is State.QUEUED else Action.RETURN


def digest(declared: Declared, unique: Unique, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Return the name of the key of a call, which fits the function: a ``k`` and 64 hex digits.

    Equal arguments give equal keys, whether they are given by position, by name or by default, and in whatever order
    the keys of dicts come.

    Raises:
        ArgumentTypeError: A part of the key is of an unsupported type. Also raises what the task's function for the key
            raises.
    """
    bound = declared.bound(args, kwargs)
    if unique.key is True:
        data = codec.encode_call(tuple(bound.values()), {}, tuple(bound))
    elif isinstance(unique.key, tuple):
        data = codec.encode_call(tuple([bound[name] for name in unique.key]), {}, unique.key)
    else:
        named = {name: bound[name] for name in named_by(unique.key) if name in bound}
        data = codec.encode(unique.key(**named), argument="the key that unique returns")
    if b"{" in data:
        data = json.dumps(json.loads(data), sort_keys=True).encode()
    task = declared.name.encode(errors="surrogatepass")
    return "k" + hashlib.sha256(b"%b\0%b" % (task, data)).hexdigest()


def named_by(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the names of the arguments that a function of a key asks for, by its own signature.

    Raises:
        ConfigurationError: It cannot be called with arguments by name.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    by_name = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    if not parameters or any(one.kind not in by_name for one in parameters):
        raise ConfigurationError(
            f"the function {shown(function)} of a key must name the arguments that it gets: write "
            "lambda user_id: user_id",
            setting="key",
        )
    return tuple(one.name for one in parameters if one.kind is not one.VAR_KEYWORD)


def check_key(declared: Declared, unique: Unique) -> None:
    """Refuse a key that no call of the task could have.

    Raises:
        ConfigurationError: It names an argument that the task does not have, or a default that is of an unsupported
            type.
    """
    named = {
        one.name: one
        for one in declared.signature.parameters.values()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
    if unique.key is True:
        wanted, optional = tuple(named), frozenset[str]()
    elif isinstance(unique.key, tuple):
        wanted, optional = unique.key, frozenset[str]()
    else:
        wanted = named_by(unique.key)
        own = inspect.signature(unique.key).parameters
        optional = frozenset(name for name in wanted if own[name].default is not inspect.Parameter.empty)
    for name in wanted:
        if name not in named and name not in optional:
            raise ConfigurationError(
                f"unique names {shown(name)}, but {declared.name}{declared.signature} has no such argument: give "
                f"names of {', '.join(named) or 'its arguments'}",
                setting="unique",
            )
        default = named[name].default if name in named else None
        if default is not inspect.Parameter.empty and not callable(unique.key):
            try:
                codec.encode(default, argument=name)
            except ArgumentTypeError as error:
                raise ConfigurationError(
                    f"unique uses {name!r} of {declared.name}, whose default is of an unsupported type ({error}): name "
                    "the arguments that make up the key",
                    setting="unique",
                ) from error
