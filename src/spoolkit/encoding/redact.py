"""Which values are secret, and what is shown in their place? Pure: no input or output.

A value is secret because of its name: that of the argument, of the key of a dict, of the field of a dataclass, of a
header. What is redacted is the tagged JSON of :mod:`spoolkit.encoding.codec`, where each of these is a key of an
object. So nothing of the application is called, and no type is forgotten. What is stored is never changed.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from spoolkit.errors import ArgumentError, ConfigurationError, shown

Json = Any

Named = str | Callable[[str], object]
"""The words of a name, such as ``"card"`` or ``"account_number"``, or a function that says whether a name is secret."""

REDACTED = "[redacted]"
"""What is shown in place of a secret value."""

UNKNOWN_TASK = "[hidden: the task is not known here]"
"""What is shown in place of an argument by position, where no signature tells its name."""

OTHER_SIGNATURE = "[hidden: the arguments do not fit the task]"
"""The same where they are those of another version of the task: a name may belong to another argument."""

MARKERS = frozenset({REDACTED, UNKNOWN_TASK, OTHER_SIGNATURE})

WORDS = frozenset(
    {
        "apikey",
        "auth",
        "authorization",
        "cookie",
        "credential",
        "key",
        "passphrase",
        "passwd",
        "password",
        "pwd",
        "secret",
        "token",
    }
)
"""A name is secret if one of its words is one of these, or its plural."""

MAX_KNOWN = 4096
"""Names that are judged once, if they have no more than :data:`MAX_LENGTH` characters."""

MAX_LENGTH = 100

MIN_SCRUBBED = 6
"""Characters of a secret text, at least, for it to be replaced in other texts: a short one is in many words."""

# In snake_case and kebab-case between the words, in camelCase before a capital. Digits belong to no word.
_BOUNDARY = re.compile(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Names:
    """What makes a name secret, in one process."""

    def __init__(self) -> None:
        self._secret: set[tuple[str, ...]] = {(word,) for word in WORDS}
        self._functions: list[Callable[[str], object]] = []
        # A search judges the names of thousands of jobs, which are few.
        self._judge = lru_cache(maxsize=MAX_KNOWN)(self._judge_anew)

    def add(self, *names: Named) -> None:
        """Make more names secret.

        Raises:
            ConfigurationError: One of them is neither a name nor a function.
        """
        for name in names:
            if isinstance(name, str) and (words := _words(name)):
                self._secret.add(words)
            elif callable(name):
                self._functions.append(name)
            else:
                raise ConfigurationError(
                    f'redact has {shown(name)}: give names of arguments, such as "card", or a function that gets a '
                    "name and says whether its value is secret",
                    setting="redact",
                )
        self._judge.cache_clear()

    def __contains__(self, name: str) -> bool:
        return self._judge(name) if len(name) <= MAX_LENGTH else self._judge_anew(name)

    def _judge_anew(self, name: str) -> bool:
        own = _words(name)
        if any(_is_within(words, own) for words in self._secret):
            return True
        return any(_says_secret(function, name) for function in self._functions)


this_process = Names()
"""What makes a name secret in this process, whichever of its applications has said so."""


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.casefold() for word in _BOUNDARY.split(name) if word)


def _is_within(words: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """Whether ``own`` has these words, or their plurals, one after the other."""
    windows = (own[at : at + len(words)] for at in range(len(own) - len(words) + 1))
    return any(all(one in (word, f"{word}s") for one, word in zip(window, words, strict=True)) for window in windows)


def _says_secret(function: Callable[[str], object], name: str) -> bool:
    try:
        return bool(function(name))
    except Exception:  # what cannot be judged is not shown
        return True


def is_secret(name: str) -> bool:
    """Whether the value with this name is secret: ``api_key`` and ``accessToken`` are, ``monkey`` is not."""
    return name in this_process


def value(tree: Json) -> Json:
    """Return a value as it may be shown.

    Args:
        tree: The tagged JSON of the value.

    Returns:
        The same with :data:`REDACTED` in place of each value with a secret name.
    """
    if isinstance(tree, list):
        return [value(member) for member in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1 and "$dict" in tree and isinstance(tree["$dict"], dict):
        return {"$dict": mapping(tree["$dict"])}
    if len(tree) == 1 and next(iter(tree)).startswith("$"):  # a tag is the name of a type
        return {tag: value(member) for tag, member in tree.items()}
    return mapping(tree)


def mapping(tree: Mapping[str, Json]) -> dict[str, Json]:
    """Return values by their names as they may be shown, such as arguments or headers."""
    return {name: REDACTED if is_secret(name) else value(member) for name, member in tree.items()}


def call(
    args: Sequence[Json], kwargs: Mapping[str, Json], signature: inspect.Signature | None
) -> tuple[list[Json], dict[str, Json]]:
    """Return the arguments of a call as they may be shown.

    Args:
        args: The tagged JSON of each argument by position.
        kwargs: That of each argument by name.
        signature: The signature of the task's function; ``None``: it is not known in this process.

    Returns:
        The same two with a marker in place of each value that may not be shown. Without a signature that fits, no
        argument by position has a name, and none is shown.
    """
    by_name = mapping(kwargs)
    if signature is None:
        return [UNKNOWN_TASK] * len(args), by_name
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return [OTHER_SIGNATURE] * len(args), by_name
    names, rest_by_name = _names_of(signature, len(args))
    if rest_by_name is not None and is_secret(rest_by_name):
        by_name.update({name: REDACTED for name in kwargs if name not in signature.parameters})
    return [REDACTED if is_secret(name) else value(tree) for name, tree in zip(names, args, strict=True)], by_name


def _names_of(signature: inspect.Signature, count: int) -> tuple[list[str], str | None]:
    """The name of the parameter of each of ``count`` arguments by position, and that of the ``**`` parameter."""
    names, rest, rest_by_name = [], "", None
    for one in signature.parameters.values():
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD):
            names.append(one.name)
        elif one.kind is one.VAR_POSITIONAL:
            rest = one.name
        elif one.kind is one.VAR_KEYWORD:
            rest_by_name = one.name
    return [*names[:count], *[rest] * (count - len(names))], rest_by_name


def restored(edited: Json, original: Json) -> Json:
    """Return what a person has edited, with the values that were not shown put back.

    Args:
        edited: What :func:`value` or :func:`call` returned, as it was changed since.
        original: What that function was given.

    Raises:
        ArgumentError: There is a marker where there was no value that it may stand for.
    """
    if isinstance(edited, str) and edited in MARKERS:
        if original is _NOTHING:
            raise ArgumentError(f"{edited} stands for a value that was not there before: give the value")
        return original
    if isinstance(edited, dict):
        by_name = original if isinstance(original, dict) else {}
        return {name: restored(member, by_name.get(name, _NOTHING)) for name, member in edited.items()}
    if isinstance(edited, list):
        # Of another length, it is not known which member was removed, and whose secret the marker stands for.
        same = isinstance(original, list) and len(original) == len(edited)
        return [restored(member, original[at] if same else _NOTHING) for at, member in enumerate(edited)]
    return edited


_NOTHING = object()


def secret_texts(original: Json, redacted: Json) -> set[str]:
    """The texts and numbers that ``redacted`` does not show, each of :data:`MIN_SCRUBBED` characters or more."""
    if isinstance(redacted, str) and redacted in MARKERS:
        return {text for text in map(str, _leaves(original)) if len(text) >= MIN_SCRUBBED}
    if isinstance(original, dict) and isinstance(redacted, dict):
        return set().union(*(secret_texts(original[name], redacted[name]) for name in original))
    if isinstance(original, list) and isinstance(redacted, list):
        return set().union(*(secret_texts(one, other) for one, other in zip(original, redacted, strict=True)))
    return set()


_WITH_A_CLASS = frozenset({"$dataclass", "$enum", "$path"})
"""Tags of values that begin with the name of their class, which is in each traceback."""


def _leaves(tree: Json) -> Iterator[object]:
    if isinstance(tree, dict):
        for tag, member in tree.items():
            if tag == "$bytes" and isinstance(member, str):
                yield repr(base64.b64decode(member))[2:-1]
            yield from _leaves(member[1:] if tag in _WITH_A_CLASS and isinstance(member, list) else member)
    elif isinstance(tree, list):
        for member in tree:
            yield from _leaves(member)
    elif isinstance(tree, (str, int, float)):
        yield tree


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` with :data:`REDACTED` in place of each of ``secrets``, also as ``repr()`` and JSON write it."""
    forms = {form for secret in secrets for form in _forms(secret)}
    # One after the other: to try thousands of them at each place of a log, as one pattern does, takes seconds.
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, REDACTED)
    return text


def _forms(secret: str) -> tuple[str, ...]:
    quoted = repr(secret), json.dumps(secret), json.dumps(secret, ensure_ascii=False)
    return secret, *(one[1:-1] for one in quoted)
