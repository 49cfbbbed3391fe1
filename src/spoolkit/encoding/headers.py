"""What may the headers of a job be, and how do they become bytes? Pure: no input or output."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from spoolkit.errors import ArgumentTypeError, DecodeError, TooLargeError, shown

LIMIT = 8 * 1024
"""Bytes that the headers of a job take in its packet, at most."""

_PER_CHARACTER, _PER_HEADER = 12, 6
"""Bytes that a character takes at most, and a header beside its characters."""


def check(given: Any) -> Mapping[str, str]:
    """Return a copy of headers that nobody can change.

    Raises:
        ArgumentTypeError: They are not a dict of texts.
        TooLargeError: They take more than :data:`LIMIT` bytes.
    """
    if not isinstance(given, Mapping) or not all(isinstance(part, str) for pair in given.items() for part in pair):
        # Not the values: a header may be a password.
        what = (
            f"a dict with {', '.join(map(_pair, given.items()))}"
            if isinstance(given, Mapping)
            else type(given).__name__
        )
        raise ArgumentTypeError(
            f'headers is {what[:200]}: give a dict of str to str, such as {{"request_id": "4f1c"}}',
            argument="headers",
            type_name=type(given).__qualname__,
        )
    found = MappingProxyType(dict(given))
    if (size := _size(found)) > LIMIT:
        largest = max(found, key=lambda name: len(name) + len(found[name]))
        raise TooLargeError(
            f"the headers take {size} bytes, the largest is {shown(largest)}; the limit is {LIMIT} bytes: send large "
            "values as arguments, or the key by which the task finds them",
            argument="headers",
            size=size,
            limit=LIMIT,
        )
    return found


def _pair(pair: tuple[Any, Any]) -> str:
    name, value = pair
    return f"{shown(name)}: {type(value).__name__}"


def joined(first: Mapping[str, str], second: Mapping[str, str]) -> Mapping[str, str] | None:
    """Return both; of two with one name the second. ``None``: together they take more than :data:`LIMIT` bytes."""
    if not first or not second:
        return second or first
    both = MappingProxyType({**first, **second})
    return both if _size(both) <= LIMIT else None


def _size(headers: Mapping[str, str]) -> int:
    characters = sum(len(name) + len(value) for name, value in headers.items())
    most = _PER_CHARACTER * characters + _PER_HEADER * len(headers)
    return most if most <= LIMIT else len(write(headers))


def write(headers: Mapping[str, str]) -> bytes:
    """Return headers as bytes, all of them ASCII."""
    return json.dumps(dict(headers), separators=(",", ":")).encode()


def read(data: bytes) -> Mapping[str, str]:
    """Read what :func:`write` returned. Raises :class:`DecodeError`."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the headers are not JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DecodeError(
            f"the headers are of type {type(found).__name__}, or their values are, not an object of texts"
        )
    return MappingProxyType(found)
