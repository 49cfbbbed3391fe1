"""Python values <-> tagged JSON bytes: a closed set of types, the rest refused by name. Pure; no pickle.

What JSON has crosses as itself. Everything else is an object with one key, its tag: ``{"$tuple": [1, 2]}``; a dict
that could be taken for one goes as ``{"$dict": {...}}``. Enums and dataclasses are named, and found again only among
the modules that are imported already: a name that came from a file never imports or calls anything.

It is over 300 lines long so that the two directions of one format can be read side by side.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, FunctionType, GeneratorType
from typing import Any, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from spoolkit.errors import ArgumentTypeError, ConfigurationError, DecodeError

T = TypeVar("T")
Json = Any

MAX_DEPTH = 100
"""Levels of nesting: what is deeper, or contains itself, is refused with its name instead of a RecursionError."""

_PLAIN_INT_BITS = 64
_PATHS: dict[str, type[PurePath]] = {
    cls.__name__: cls for cls in (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)
}
_TAG = re.compile(r"[A-Za-z0-9_.:-]+")


class _Registered(NamedTuple):
    cls: type
    tag: str
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]


_by_type: dict[type, _Registered] = {}
_by_tag: dict[str, _Registered] = {}


def register(cls: type[T], *, tag: str, encode: Callable[[T], object], decode: Callable[[Any], T]) -> None:
    """Let values of exactly the class ``cls`` cross.

    ``tag`` names the type in the bytes and must stay the same for as long as jobs wait; ``encode`` makes of a value
    something that crosses already, ``decode`` makes the value of that again. Raises :class:`ConfigurationError` for a
    tag or a class that is taken; the same class from a module executed again replaces itself.
    """
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise ConfigurationError(f"the tag {tag!r} of {_name(cls)}: give letters, digits and _.:-", setting=str(tag))
    if cls in (*_ENCODERS, dict, list, tuple, set, frozenset, *_PATHS.values()) or issubclass(cls, Enum):
        raise ConfigurationError(f"{_name(cls)} crosses by itself: there is nothing to register", setting=tag)
    known = _by_tag.get(tag)
    if known is not None and _name(known.cls) != _name(cls):
        raise ConfigurationError(f"the tag {tag!r} belongs to {_name(known.cls)}: choose another", setting=tag)
    earlier = _by_type.get(cls)
    if earlier is not None and earlier.tag != tag:
        raise ConfigurationError(f"{_name(cls)} is registered as {earlier.tag!r} already", setting=tag)
    if known is not None:
        del _by_type[known.cls]
    _by_type[cls] = _by_tag[tag] = _Registered(cls, tag, encode, decode)


def encode(value: object, *, argument: str = "value") -> bytes:
    """The bytes of ``value``. Raises :class:`ArgumentTypeError`, naming where in ``argument`` the culprit stands."""
    return _dump(_encode(value, argument, 0))


def encode_call(args: tuple[object, ...], kwargs: dict[str, object], names: Sequence[str] = ()) -> bytes:
    """The bytes of a call's arguments; ``names`` are those of the positional ones, for messages."""
    positional = [_encode(v, names[i] if i < len(names) else f"args[{i}]", 0) for i, v in enumerate(args)]
    by_name = {_text(name, name): _encode(value, name, 0) for name, value in kwargs.items()}
    return _dump([positional, by_name])


def decode(data: bytes) -> object:
    """The value again. Raises :class:`DecodeError`, and nothing else, whatever the bytes."""
    return _guarded(lambda: _decode(_parse(data), 0))


def decode_call(data: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
    """A call's arguments again. Raises :class:`DecodeError`, and nothing else, whatever the bytes."""
    call = _guarded(lambda: _parse(data))
    match call:
        case [list(args), dict(kwargs)]:
            return _guarded(
                lambda: (tuple(_decode(v, 0) for v in args), {name: _decode(v, 0) for name, v in kwargs.items()})
            )
    raise DecodeError("the arguments are no pair of a list and an object")


# -- there ---------------------------------------------------------------------------------------------------------


def _dump(tree: Json) -> bytes:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _encode(value: object, where: str, depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise _refusal(value, where, f"nests deeper than {MAX_DEPTH} levels, or contains itself")
    cls = type(value)
    if simple := _ENCODERS.get(cls):
        return simple(value, where)
    if cls is list:
        return _items(value, where, depth)
    if cls is tuple:
        return {"$tuple": _items(value, where, depth)}
    if cls is dict:
        return _encode_dict(value, where, depth)  # type: ignore[arg-type]
    if cls in (set, frozenset):
        # In an order of their own, so that equal sets have equal bytes.
        return {f"${cls.__name__}": sorted((_encode(v, f"{where}{{}}", depth + 1) for v in value), key=_dump)}  # type: ignore[attr-defined]
    if registered := _by_type.get(cls):
        return {f"${registered.tag}:": _encode(registered.encode(value), where, depth + 1)}
    if isinstance(value, Enum):
        return _encode_enum(value, where, depth)
    if cls.__name__ in _PATHS and _PATHS[cls.__name__] is cls:
        return {"$path": [cls.__name__, _text(str(value), where)]}
    if dataclasses.is_dataclass(value):
        return _encode_dataclass(value, where, depth)
    raise _refusal(value, where, _HINTS.get(cls, "send its id or a plain value, or register the type in spool_args.py"))


def _items(values: Any, where: str, depth: int) -> list[Json]:
    return [_encode(value, f"{where}[{i}]", depth + 1) for i, value in enumerate(values)]


def _encode_dict(value: dict[object, object], where: str, depth: int) -> Json:
    tree: dict[str, Json] = {}
    for key, member in value.items():
        if type(key) is not str:
            raise _refusal(value, where, f"has the key {key!r:.80}: the keys of a dict must be text")
        tree[_text(key, where)] = _encode(member, f"{where}[{key!r}]", depth + 1)
    return {"$dict": tree} if any(key.startswith("$") for key in tree) else tree


def _encode_int(value: Any, where: str) -> Json:
    # Python refuses to read or write a decimal of more than 4,300 digits.
    return value if value.bit_length() <= _PLAIN_INT_BITS else {"$int": hex(value)}


def _encode_float(value: Any, where: str) -> Json:
    return value if math.isfinite(value) else {"$float": repr(value)}


def _text(value: Any, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _refusal(value, where, f"holds a lone surrogate and is not valid text ({error})") from error
    return str(value)


def _encode_datetime(value: Any, where: str) -> Json:
    return {"$datetime": [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value.tzinfo, where)]}


def _encode_time(value: Any, where: str) -> Json:
    return {"$time": [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value.tzinfo, where)]}


def _encode_timedelta(value: Any, where: str) -> Json:
    return {"$timedelta": [value.days, value.seconds, value.microseconds]}


def _zone(zone: tzinfo | None, where: str) -> Json:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return ["offset", offset.days, offset.seconds, offset.microseconds, *(_text(part, where) for part in name)]
    if type(zone) is ZoneInfo and zone.key is not None:
        return ["key", zone.key]
    raise _refusal(zone, where, "is no zone that crosses: use datetime.timezone, or zoneinfo.ZoneInfo by its key")


def _encode_enum(value: Enum, where: str, depth: int) -> Json:
    # A combination of flags has no name of its own.
    member = _encode(int(value.value), where, depth + 1) if isinstance(value, Flag) else value.name
    return {"$enum": [_reference(type(value), where), member]}


def _encode_dataclass(value: Any, where: str, depth: int) -> Json:
    cls = type(value)
    fields = {field.name: field for field in dataclasses.fields(value)}
    for name in vars(value) if hasattr(value, "__dict__") else ():
        if name not in fields and not isinstance(getattr(cls, name, None), functools.cached_property):
            raise _refusal(value, where, f"has the attribute {name!r}, which is no field: register the type")
    missing = [name for name in fields if not hasattr(value, name)]
    if missing:
        raise _refusal(value, where, f"has no value for its field {missing[0]!r}")
    state = {name: _encode(getattr(value, name), f"{where}.{name}", depth + 1) for name in fields}
    return {"$dataclass": [_reference(cls, where), state]}


def _reference(cls: type, where: str) -> str:
    if cls.__module__ == "__main__" or _lookup(cls.__module__, cls.__qualname__) is not cls:
        raise ArgumentTypeError(
            f"argument {where!r} is of {_name(cls)}, which a spooler cannot find by that name: "
            "define the class at the top of a module that is imported",
            argument=where,
            type_name=_name(cls),
        )
    return f"{cls.__module__}:{cls.__qualname__}"


def _lookup(module: str, qualname: str) -> object:
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        # Through vars(), not getattr(): no property or __getattr__ of a stranger's choice is run.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found


def _refusal(value: object, where: str, why: str) -> ArgumentTypeError:
    name = _name(type(value))
    return ArgumentTypeError(f"argument {where!r} is of type {name}: {why}", argument=where, type_name=name)


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _itself(value: Any, where: str) -> Json:
    return value


_ENCODERS: dict[type, Callable[[Any, str], Json]] = {
    type(None): _itself,
    bool: _itself,
    int: _encode_int,
    float: _encode_float,
    str: _text,
    bytes: lambda value, where: {"$bytes": base64.b64encode(value).decode()},
    datetime: _encode_datetime,
    date: lambda value, where: {"$date": value.isoformat()},
    time: _encode_time,
    timedelta: _encode_timedelta,
    Decimal: lambda value, where: {"$decimal": str(value)},
    UUID: lambda value, where: {"$uuid": value.hex},
}

_HINTS: dict[type, str] = {
    bytearray: "send bytes(value)",
    memoryview: "send bytes(value)",
    range: "send list(value)",
    GeneratorType: "send list(value)",
    BuiltinFunctionType: "a function cannot cross: send its name",
    FunctionType: "a function cannot cross: send its name",
}

# -- and back ------------------------------------------------------------------------------------------------------


def _guarded(read: Callable[[], T]) -> T:
    try:
        return read()
    except DecodeError:
        raise
    except Exception as error:  # of a registered type's decode(), anything
        raise DecodeError(f"the data cannot be read: {type(error).__name__}: {error}"[:500]) from error


def _parse(data: bytes) -> Json:
    return json.loads(data.decode(), parse_constant=_no_constant)


def _no_constant(text: str) -> Json:
    raise DecodeError(f"{text} is no JSON")


def _decode(tree: Json, depth: int) -> Any:
    if depth > 2 * MAX_DEPTH + 2:
        raise DecodeError("the data nests too deeply")
    if type(tree) is list:
        return [_decode(member, depth + 1) for member in tree]
    if type(tree) is not dict:
        return _text(tree, "value") if type(tree) is str else tree
    tag = next(iter(tree), "")
    if not any(key.startswith("$") for key in tree):
        return {key: _decode(member, depth + 1) for key, member in tree.items()}
    if len(tree) != 1:
        raise DecodeError(f"a tag stands beside other keys: {sorted(tree)[:5]}")
    return _decode_tagged(tag, tree[tag], depth + 1)


def _decode_tagged(tag: str, tree: Json, depth: int) -> Any:
    if tag in _DECODERS:
        return _DECODERS[tag](tree)
    if tag in _CONTAINERS and type(tree) is list:
        return _CONTAINERS[tag](_decode(member, depth) for member in tree)
    if tag == "$dict" and type(tree) is dict:
        return {key: _decode(member, depth) for key, member in tree.items()}
    if tag == "$dataclass":
        reference, state = tree
        return _decode_dataclass(reference, {name: _decode(member, depth) for name, member in state.items()})
    if registered := _by_tag.get(tag[1:-1]) if tag.endswith(":") else None:
        return registered.decode(_decode(tree, depth))
    raise DecodeError(f"the tag {tag[:80]!r} is not known in this process: register its type in spool_args.py")


def _decode_datetime(tree: Json) -> datetime:
    text, fold, zone = tree
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_decode_zone(zone))


def _decode_time(tree: Json) -> time:
    text, fold, zone = tree
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_decode_zone(zone))


def _decode_zone(tree: Json) -> tzinfo | None:
    match tree:
        case None:
            return None
        case ["key", str(key)]:
            return ZoneInfo(key)
        case ["offset", days, seconds, microseconds, *name]:
            return timezone(timedelta(days, seconds, microseconds), *name)
    raise DecodeError(f"{tree!r:.80} is no time zone")


def _decode_enum(tree: Json) -> Enum:
    reference, member = tree
    cls = _class(reference)
    if not issubclass(cls, Enum):
        raise DecodeError(f"{reference!r} is no Enum")
    return cls(_decode(member, 0)) if issubclass(cls, Flag) else cls.__members__[member]


def _decode_dataclass(reference: str, state: dict[str, object]) -> object:
    cls = _class(reference)
    if not dataclasses.is_dataclass(cls):
        raise DecodeError(f"{reference!r} is no dataclass")
    # Not by calling it: __init__ and __post_init__ ran where the value was made, and may change it again.
    value: object = cls.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in state:
            member = state.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            member = field.default
        elif field.default_factory is not dataclasses.MISSING:
            member = field.default_factory()
        else:
            raise DecodeError(f"{reference!r} has a field {field.name!r}, for which the data has no value")
        object.__setattr__(value, field.name, member)
    if state:
        raise DecodeError(f"{reference!r} has no field {next(iter(state))!r}")
    return value


def _class(reference: str) -> type:
    module, _, qualname = reference.partition(":")
    found = _lookup(module, qualname)
    if not isinstance(found, type):
        raise DecodeError(
            f"the class {reference[:200]!r} is not to be found in this process: import it where the tasks are imported"
        )
    return found


_CONTAINERS: dict[str, Callable[[Any], object]] = {"$tuple": tuple, "$set": set, "$frozenset": frozenset}

_DECODERS: dict[str, Callable[[Json], object]] = {
    "$int": lambda tree: int(tree, 16),
    "$float": lambda tree: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[tree],
    "$bytes": lambda tree: base64.b64decode(tree, validate=True),
    "$date": lambda tree: date.fromisoformat(tree),
    "$datetime": _decode_datetime,
    "$time": _decode_time,
    "$timedelta": lambda tree: timedelta(*tree),
    "$decimal": lambda tree: Decimal(str(tree)),
    "$uuid": lambda tree: UUID(hex=tree),
    "$path": lambda tree: _PATHS[tree[0]](tree[1]),
    "$enum": _decode_enum,
}
