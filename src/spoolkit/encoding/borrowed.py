"""Does an argument belong to the request or to its database session, and what should a job get instead? Pure.

Such values are recognised by the names of their classes, so that Flask and SQLAlchemy need not be imported. An argument
that is a proxy must not even be asked for its target.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

MAX_DEPTH = 10
MAX_VALUES = 1000
"""How far :func:`find` searches an argument: to go deeper or further would cost the caller more than it is worth."""


class Advice(NamedTuple):
    """What a value is, and what to pass to a job instead."""

    #: For a message: "it is ...: pass ...".
    text: str
    #: Whether ``@thread(copy_request=True)`` gives the task a copy of its own.
    with_request: bool = False


_ADVICE = {
    ("werkzeug", "FileStorage"): Advice(
        "it is an uploaded file, which is closed with the request: save it and pass its path, or pass file.read()"
    ),
    ("werkzeug", "Request"): Advice(
        "it is the request, which is over before the job: pass the values that the task needs, such as request.path",
        True,
    ),
    ("werkzeug", "LimitedStream"): Advice("it is the body of the request: pass request.get_data()"),
    ("werkzeug", "EnvironHeaders"): Advice(
        "these are the headers of the request: pass dict(request.headers), or the one that the task needs", True
    ),
    ("werkzeug", "ImmutableMultiDict"): Advice(
        "it is a part of the request (args, form, files, cookies): pass the values that the task needs, or "
        "request.args.to_dict()",
        True,
    ),
    ("werkzeug", "CombinedMultiDict"): Advice(
        "these are the values of the request: pass those that the task needs, or request.values.to_dict()", True
    ),
    ("werkzeug", "LocalProxy"): Advice(
        "it is a proxy (request, session, g, current_user or the like), which has no target or another one "
        "in a job: pass the values that the task needs",
        True,
    ),
    ("flask", "SessionMixin"): Advice(
        "it is the session of the request: pass the values that the task needs, or dict(session)", True
    ),
    ("flask", "_AppCtxGlobals"): Advice(
        "it is flask.g, which ends with the request: pass the values that the task needs"
    ),
    ("sqlalchemy", "Session"): Advice("it is a database session, which serves one thread: let the task open its own"),
    ("sqlalchemy", "AsyncSession"): Advice(
        "it is a database session, which serves one loop: let the task open its own"
    ),
    ("sqlalchemy", "Connection"): Advice(
        "it is a database connection, which serves one thread: let the task open its own"
    ),
}

_OF_SESSION = Advice(
    "it belongs to the caller's database session, which neither loads nor saves it in a job: commit, pass its id, and "
    "load it in the task"
)


def advice(value: object) -> Advice | None:
    """Return the advice for a value that belongs to a request or a session; ``None`` for any other value."""
    # By type(), never isinstance(): a LocalProxy answers isinstance() for its target.
    for base in type(value).__mro__:
        package = base.__module__.partition(".")[0]
        if found := _ADVICE.get((package, base.__name__)):
            return found
    return _of_session(value)


def _of_session(value: object) -> Advice | None:
    # SQLAlchemy's own attribute of an instance. An instance that no session holds may be passed to a job.
    state = _attributes(value).get("_sa_instance_state")
    return None if getattr(state, "session_id", None) is None else _OF_SESSION


def is_mapped(value: object) -> bool:
    """Return whether ``value`` is an instance of a class that SQLAlchemy maps, in a session or not."""
    return "_sa_instance_state" in _attributes(value)


def find(name: str, value: object) -> tuple[str, object, Advice] | None:
    """Find a value in an argument that belongs to a request or a session.

    Args:
        name: The argument, for the first part of the result.
        value: Its value.

    Returns:
        Where the value is, such as ``items[3].owner``, the value itself, and the advice; ``None`` if there is none.
    """
    for where, inner in islice(_values(name, value, 0), MAX_VALUES):
        if found := advice(inner):
            return where, inner, found
    return None


def _values(where: str, value: object, depth: int) -> Iterator[tuple[str, object]]:
    yield where, value
    if depth < MAX_DEPTH and advice(value) is None:
        for inner_where, inner in _members(where, value):
            yield from _values(inner_where, inner, depth + 1)


def _members(where: str, value: Any) -> Iterator[tuple[str, object]]:
    kind = type(value)
    # By the methods of the built-in type: those of a subclass may load from a database, or raise.
    if issubclass(kind, (list, tuple)):
        base: Any = list if issubclass(kind, list) else tuple
        for number, member in enumerate(islice(base.__iter__(value), MAX_VALUES)):
            yield f"{where}[{number}]", member
    elif issubclass(kind, (set, frozenset)):
        base = set if issubclass(kind, set) else frozenset
        for member in list(islice(base.__iter__(value), MAX_VALUES)):
            yield f"{where}{{}}", member
    elif issubclass(kind, dict):
        for key, member in list(islice(dict.items(value), MAX_VALUES)):
            yield f"{where}[{key!r:.80}]" if type(key) in (str, int) else f"{where}[...]", member
    elif dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            if field.name in (attributes := _attributes(value)):
                yield f"{where}.{field.name}", attributes[field.name]
            elif field.name in kind.__dict__ and hasattr(kind.__dict__[field.name], "__get__"):  # __slots__
                yield f"{where}.{field.name}", getattr(value, field.name, None)


def _attributes(value: object) -> Mapping[str, object]:
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(found, dict) else {}
