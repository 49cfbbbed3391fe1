"""How do arguments become the bytes-only dict of ``uwsgi.spool``, and arguments again? Pure: no input or output.

This is for functions of ``uwsgidecorators`` and for ``uwsgi.spool`` itself. The arguments of spoolkit's own tasks are
encoded by :mod:`spoolkit.encoding.codec`.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Mapping

from spoolkit import times
from spoolkit.encoding import packet, redact
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

MAGIC = ("at", "priority", "spooler", "body")
"""The keys whose values uWSGI itself reads."""

MAX_PRIORITY = 999
"""The greatest priority, for what may wait longest."""

RESERVED = {
    "spooler_task_name": "uWSGI puts the spool file's name there",
    "ud_spool_func": "uwsgidecorators keeps the function's name there",
    "ud_spool_ret": "uwsgidecorators keeps the return value there",
    "args": "uwsgidecorators would unpickle it",
    packet.MARKER.decode(): "it marks spoolkit's own jobs",
}

Types = Mapping[str, object] | Callable[..., object]
"""The type of each argument by name, or a function whose annotations say it."""


def encode(arguments: Mapping[str, object], *, now: float) -> dict[bytes, bytes]:
    """Make the bytes-only dict for ``uwsgi.spool`` and for functions of ``uwsgidecorators``.

    Text becomes UTF-8, bytes stay as they are, other values become JSON text.

    Args:
        arguments: The arguments by name. ``at`` (unix time in seconds, or an aware datetime), ``priority`` (a whole
            number, zero or more), ``spooler`` (the absolute real path of a spool directory) and ``body`` (bytes of any
            size) have the meaning that uWSGI gives them.
        now: Unix time in seconds.

    Returns:
        The dict.

    Raises:
        ArgumentError: uWSGI would cut the argument, misread it, or delete the job without running it. The subclass
            says why, and the error names the argument.
    """
    fields: dict[bytes, bytes] = {}
    for name, value in arguments.items():
        if not name:
            raise ReservedNameError(
                "an argument has an empty name: uWSGI deletes such a job without running it", argument=name
            )
        if name in RESERVED:
            raise ReservedNameError(f"argument {name!r} is reserved ({RESERVED[name]}): rename it", argument=name)
        key = _text(name, name)
        encoded = _option(name, value, now) if name in MAGIC else _value(name, value)
        if name != "body":
            for part, data in (("name", key), ("value", encoded)):
                if len(data) > packet.LIMIT:
                    raise TooLargeError(
                        f"the {part} of argument {name[:80]!r} has {len(data)} bytes; uWSGI silently cuts more than "
                        f"{packet.LIMIT}: send it as body",
                        argument=name,
                        size=len(data),
                        limit=packet.LIMIT,
                    )
        fields[key] = encoded
    in_packet = {key: value for key, value in fields.items() if key != b"body"}
    total = packet.size(in_packet)
    if total > packet.LIMIT:
        largest = max(in_packet, key=lambda key: len(key) + len(in_packet[key])).decode()
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
    """Restore the arguments that a plain spool function was given: the inverse of :func:`prepare_spooler_args`.

    Args:
        env: The dict that uWSGI (with bytes) or ``uwsgidecorators`` (with text) passes to the function.
        types: The type of each argument: a dict, or a function whose annotations are used. ``str`` gives the text,
            ``bytes`` the bytes, any other type the JSON value. An argument without a type comes back as text, or as
            bytes where it is not UTF-8.

    Returns:
        The arguments by name, without uWSGI's own keys, except ``body``.

    Raises:
        DecodeError: An argument cannot be read as its type; the error names it.
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
    """Restore one value from its bytes.

    Args:
        name: The argument, for messages.
        data: The bytes of its value.
        wanted: Its type; ``None``: text if the bytes are UTF-8, else the bytes.

    Raises:
        DecodeError: The bytes are not a value of that type.
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
        if redact.is_secret(name):
            raise DecodeError(f"argument {name!r} is {redact.REDACTED}, which cannot be read", argument=name) from None
        raise DecodeError(f"argument {name!r} is {data[:80]!r}: {error}", argument=name) from error
    if kind is float and type(value) is int:
        return float(value)
    if kind in (int, float, bool, list, dict) and type(value) is not kind:
        given = redact.REDACTED if redact.is_secret(name) else repr(data[:80])
        raise DecodeError(f"argument {name!r} is {given}, not {kind.__name__}", argument=name)
    return value


def hints(function: Callable[..., object]) -> dict[str, object]:
    """Return the types in the annotations of ``function``; an empty dict where one of them cannot be resolved."""
    try:
        return typing.get_type_hints(function)
    except Exception:
        return {}


def _option(name: str, value: object, now: float) -> bytes:
    if name == "at":
        # uWSGI drops the fraction, and would run the job up to a second early.
        return str(math.ceil(at(value, now=now))).encode()
    if name == "priority":
        return str(priority(value)).encode()
    if name == "spooler":
        return spool_dir(value).encode("utf-8", "surrogateescape")  # a directory's name need not be UTF-8
    return body(value)


def at(value: object, *, now: float) -> float:
    """Return the unix time in seconds that uWSGI's key ``at`` means.

    Args:
        value: Unix time in seconds, an aware datetime, or digits as text or bytes.
        now: Unix time in seconds.

    Raises:
        ScheduleError: The value is none of these, or more than ten years ahead.
    """
    if isinstance(value, (str, bytes)):
        value = times.seconds_from_text(value)
    time = times.run_at(value, None, now=now)
    if time is None:
        raise ScheduleError("at is None: leave it out, or give unix time or an aware datetime", argument="at")
    return time


def priority(value: object) -> int:
    """Return the priority as a number.

    Args:
        value: A whole number from 0 to 999, also as text or bytes. Nothing else may pass: uWSGI makes a folder
            of that name.

    Raises:
        QueueOptionError: The value is not such a number.
    """
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= MAX_PRIORITY:
        return int(text)
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 9):
        raise QueueOptionError(
            f"priority is {shown(value)}: give a number from 0 to {MAX_PRIORITY}", argument="priority"
        )
    return int(text)


def spool_dir(value: object) -> str:
    """Return the path that uWSGI's key ``spooler`` names. uWSGI compares it as text: the caller resolves links.

    Args:
        value: An absolute path, as str, bytes or an object with ``__fspath__``.

    Raises:
        QueueOptionError: The value is not an absolute path.
    """
    fspath = getattr(type(value), "__fspath__", None)
    path = value if fspath is None else fspath(value)
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogateescape")
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise QueueOptionError(f"spooler is {shown(value)}: give a spool directory's absolute path", argument="spooler")
    return path


def body(value: object) -> bytes:
    """Return the body as bytes: uWSGI takes neither text nor None, and treats a bytearray as a plain argument.

    Raises:
        QueueOptionError: The value is not bytes, a bytearray or a memoryview.
    """
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
            f"argument {name!r} contains a lone surrogate and is not valid text: {error}",
            argument=name,
            type_name="str",
        ) from error


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a JSON value")
