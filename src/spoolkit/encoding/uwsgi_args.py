"""Arguments <-> the bytes-only dict that plain uWSGI spool functions take. Pure, but for resolving a path.

This is for functions of ``uwsgidecorators`` and for ``uwsgi.spool`` itself. spoolkit's own tasks need none of it:
their arguments cross by :mod:`spoolkit.encoding.codec`.
"""

from __future__ import annotations

import json
import math
import os
import types
import typing
from collections.abc import Callable, Mapping

from spoolkit import times
from spoolkit.encoding import packet
from spoolkit.errors import (
    ArgumentError,
    ArgumentTypeError,
    DecodeError,
    QueueOptionError,
    ReservedNameError,
    ScheduleError,
    TooLargeError,
    shown,
)
from spoolkit.system import clock

MAGIC = ("at", "priority", "spooler", "body")
"""The keys that uWSGI reads for itself."""

MAX_PRIORITY = 999_999_999
"""As long as the name of a folder of digits may be."""

RESERVED = {
    "spooler_task_name": "uWSGI puts the spool file's name there",
    "ud_spool_func": "uwsgidecorators keeps the function's name there",
    "ud_spool_ret": "uwsgidecorators keeps the return value there",
    "args": "uwsgidecorators would unpickle it",
    packet.MARKER.decode(): "it marks spoolkit's own jobs",
}

Types = Mapping[str, object] | Callable[..., object]


def prepare_spooler_args(**kwargs: object) -> dict[bytes, bytes]:
    """The bytes-only dict for ``uwsgi.spool`` and for functions of ``uwsgidecorators``.

    Text crosses as UTF-8, bytes as they are, other values as JSON text. ``at`` (unix time or an aware datetime),
    ``priority`` (a number, zero or more), ``spooler`` (an absolute path) and ``body`` (bytes of any size) keep uWSGI's
    meaning. Raises :class:`ArgumentError` of the kind that fits, naming the argument, for what uWSGI would cut,
    misread or delete unrun.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in kwargs.items():
        if not name:
            raise ReservedNameError("an argument has an empty name: uWSGI deletes such a job unrun", argument=name)
        if name in RESERVED:
            raise ReservedNameError(f"argument {name!r} is reserved ({RESERVED[name]}): rename it", argument=name)
        key = _text(name, name)
        encoded = magic(name, value) if name in MAGIC else _value(name, value)
        if name != "body":
            for what, data in (("name", key), ("value", encoded)):
                if len(data) > packet.LIMIT:
                    raise TooLargeError(
                        f"the {what} of argument {name[:80]!r} has {len(data)} bytes; uWSGI cuts it silently over "
                        f"{packet.LIMIT}: send it as body",
                        argument=name,
                        size=len(data),
                        limit=packet.LIMIT,
                    )
        fields[key] = encoded
    inside = {key: value for key, value in fields.items() if key != b"body"}
    total = packet.size(inside)
    if total > packet.LIMIT:
        largest = max(inside, key=lambda key: len(key) + len(inside[key])).decode()
        raise TooLargeError(
            f"the arguments take {total} bytes, the largest is {largest[:80]!r}; uWSGI's packet holds {packet.LIMIT}: "
            "send the large one as body",
            argument=largest,
            size=total,
            limit=packet.LIMIT,
        )
    return fields


def restore_spooler_args(
    env: Mapping[bytes, bytes] | Mapping[str, object], types: Types | None = None, /
) -> dict[str, object]:
    """The arguments back from what a plain spool function was given: the inverse of :func:`prepare_spooler_args`.

    ``env`` is the dict that uWSGI (bytes) or ``uwsgidecorators`` (text) hands over. ``types`` tells each argument's
    type, as a dict or as a function whose annotations say it: ``str`` gives the text, ``bytes`` the bytes, any other
    type the JSON value. An argument without a type comes back as text, or as bytes where it is not UTF-8. uWSGI's
    own keys are left out, all but ``body``. Raises :class:`DecodeError`, naming the argument.
    """
    wanted = hints(types) if callable(types) else dict(types or {})
    left_out = {*RESERVED, *MAGIC} - {"body"}
    restored: dict[str, object] = {}
    for key, value in env.items():
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        if name == "body":
            restored[name] = value
        elif name not in left_out:
            data = value.encode() if isinstance(value, str) else value
            if not isinstance(data, bytes):
                raise DecodeError(f"argument {name!r} is {type(value).__name__}, not bytes or text", argument=name)
            restored[name] = convert(name, data, wanted.get(name))
    return restored


def convert(name: str, data: bytes, wanted: object) -> object:
    """One value back from its bytes, by the type ``wanted`` of it; ``None``: text where it is text.

    Raises :class:`DecodeError`.
    """
    kind = typing.get_origin(wanted) or wanted  # list of list[str]
    members = typing.get_args(wanted) if kind in (typing.Union, types.UnionType) else (kind,)
    if bytes in members:
        return data
    try:
        if wanted is None:
            try:
                return data.decode()
            except UnicodeDecodeError:
                return data
        if str in members:
            return data.decode()
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"argument {name!r} is {data[:80]!r}: {error}", argument=name) from error
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, bool, list, dict) and type(value) is not kind:
        raise DecodeError(f"argument {name!r} is {data[:80]!r}, not {kind.__name__}", argument=name)
    return value


def hints(function: Callable[..., object]) -> dict[str, object]:
    """The types that the function's annotations give its arguments; where one cannot be resolved, none."""
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


def magic(name: str, value: object) -> bytes:
    """The value of one of uWSGI's own keys, well-formed. Raises :class:`QueueOptionError` or :class:`ScheduleError`."""
    if name == "at":
        # uWSGI cuts a fraction off, and so would run the job up to a second early.
        return str(math.ceil(at(value))).encode()
    if name == "priority":
        return str(priority(value)).encode()
    if name == "spooler":
        return os.fsencode(spooler(value))
    return body(value)


def at(value: object) -> float:
    """``at`` as uWSGI's spelling has it: unix time, an aware datetime, or digits as text or bytes."""
    if isinstance(value, (str, bytes)):
        value = times.seconds_from_text(value)
    time = times.run_at(value, None, now=clock.now())
    if time is None:
        raise ScheduleError("at is None: leave it out, or give unix time or an aware datetime", argument="at")
    return time


def priority(value: object) -> int:
    """A priority: a number from 0 to 999,999,999; uWSGI makes a folder of that name, so nothing else may pass."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= MAX_PRIORITY:
        return int(text)
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 9):
        raise QueueOptionError(f"priority is {shown(value)}: give a number from 0 to 999999999", argument="priority")
    return int(text)


def spooler(value: object) -> str:
    """A spool directory as uWSGI wants it: the absolute real path."""
    if (
        not isinstance(value, (str, bytes, os.PathLike))
        or not os.path.isabs(path := os.fsdecode(value))
        or "\0" in path
    ):
        raise QueueOptionError(f"spooler is {shown(value)}: give a spool directory's absolute path", argument="spooler")
    return os.path.realpath(path)


def body(value: object) -> bytes:
    """A body: bytes. uWSGI takes neither text nor None, and a bytearray lands as a plain argument."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise QueueOptionError(f"body is {type(value).__name__}: uWSGI's body takes bytes", argument="body")
    return bytes(value)


def _value(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return _text(name, value)
    try:
        return _text(name, json.dumps(value, allow_nan=False, ensure_ascii=False))
    except ArgumentError:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentTypeError(
            f"argument {name!r} cannot be written as JSON ({error}): give text, bytes or a JSON value",
            argument=name,
            type_name=type(value).__qualname__,
        ) from error


def _text(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ArgumentTypeError(
            f"argument {name!r} holds a lone surrogate and is not valid text: {error}", argument=name, type_name="str"
        ) from error


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON value")
