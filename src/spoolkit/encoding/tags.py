"""What may the tags of a job be, and how do they become bytes? Pure: no input or output."""

from __future__ import annotations

import json
from typing import Any

from spoolkit.errors import ArgumentError, ArgumentTypeError, DecodeError, shown

MAX_TAGS = 16
"""How many tags a job has at most."""

MAX_LENGTH = 100
"""Characters that a tag has at most."""


def check(given: Any) -> tuple[str, ...] | None:
    """Return the tags of a call in their order, each once; ``None`` if there are none.

    Raises:
        ArgumentTypeError: They are not a list of texts.
        ArgumentError: They are too many, or one is empty, too long or not printable.
    """
    if not isinstance(given, (list, tuple, set, frozenset)) or not all(isinstance(tag, str) for tag in given):
        raise ArgumentTypeError(
            f'tags is {shown(given)}: give a list of texts, such as ["user:42"]',
            argument="tags",
            type_name=type(given).__qualname__,
        )
    found = tuple(dict.fromkeys(sorted(given) if isinstance(given, (set, frozenset)) else given))
    if len(found) > MAX_TAGS:
        raise ArgumentError(f"tags has {len(found)} tags: give {MAX_TAGS} at most", argument="tags")
    for tag in found:
        if not 0 < len(tag) <= MAX_LENGTH or not tag.isprintable():
            raise ArgumentError(
                f"tags has {shown(tag)}: give one to {MAX_LENGTH} printable characters for each tag", argument="tags"
            )
    return found or None


def write(tags: tuple[str, ...]) -> bytes:
    """Return tags as bytes, all of them ASCII."""
    return json.dumps(tags, separators=(",", ":")).encode()


def read(data: bytes) -> tuple[str, ...]:
    """Read what :func:`write` returned. Raises :class:`DecodeError`."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the tags are not JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(tag, str) for tag in found):
        raise DecodeError(f"the tags are {shown(found)}, not a list of texts")
    return tuple(found)
