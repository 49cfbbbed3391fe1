"""How do Python values become tagged JSON bytes, and values again? Pure: no input or output, no pickle.

The set of supported types is closed; values of other types are refused, and the error names them. JSON's own types are
encoded as themselves. Everything else is an object with one key, its tag: ``{"$tuple": [1, 2]}``; a dict that could be
mistaken for such an object becomes ``{"$dict": {...}}``. Enums and dataclasses are encoded by name, and found again
only in modules that are already imported: a name that came from a file never imports or calls anything.

Both directions of the format are in this one module, so that they can be read side by side.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import BuiltinFunctionType, FunctionType, GeneratorType, MemberDescriptorType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from spoolkit.encoding import borrowed
from spoolkit.errors import ArgumentTypeError, ConfigurationError, DecodeError, shown
from spoolkit.job import ResultBefore
from spoolkit.system import modules

T = TypeVar("T")
Json = Any

MAX_DEPTH = 100
"""The greatest depth of nesting. Deeper values, and values that contain themselves, are refused by name; otherwise they
would raise a RecursionError."""

MAX_COLLIDING = 64
"""How many members of one set may have the same hash."""

_TAG = re.compile(r"[A-Za-z0-9_.:-]+")
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_PATHS: dict[str, type[PurePath]] = {c.__name__: c for c in (PosixPath, PurePosixPath, PureWindowsPath, WindowsPath)}


class _Registered(NamedTuple):
    cls: type
    tag: str
    encode: Callable[[Any], object]
    decode: Callable[[Any], object]


_by_type: dict[type, _Registered] = {}
_by_tag: dict[str, _Registered] = {}


def register(cls: type[T], *, tag: str, encode: Callable[[T], object], decode: Callable[[Any], T]) -> None:
    """Add a type to those that a job's arguments may have.

    Args:
        cls: The class. Values of its subclasses are not included.
        tag: The name of the type in the bytes. It must stay the same for as long as jobs wait.
        encode: Converts a value to one of a supported type.
        decode: Converts the result of ``encode`` back to the value.

    Raises:
        ConfigurationError: The class is supported already, the tag belongs to another class, or one of the two is not
            valid. The same class from a module that is executed again replaces itself.
    """
    if not isinstance(cls, type):
        raise ConfigurationError(f"{shown(cls)} is not a class: give the class of the values", setting=shown(tag))
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        raise ConfigurationError(
            f"the tag {shown(tag)} of {_name(cls)}: give letters, digits and _.:-", setting=str(tag)
        )
    if cls in _ENCODERS or issubclass(cls, Enum):
        raise ConfigurationError(f"{_name(cls)} is a supported type already: there is nothing to register", setting=tag)
    known, earlier = _by_tag.get(tag), _by_type.get(cls)
    if known is not None and _name(known.cls) != _name(cls):
        raise ConfigurationError(f"the tag {tag!r} belongs to {_name(known.cls)}: choose another", setting=tag)
    if earlier is not None and earlier.tag != tag:
        raise ConfigurationError(f"{_name(cls)} is registered as {earlier.tag!r} already", setting=tag)
    # The class of the module's first execution stays as well: there may still be values of it.
    _by_type[cls] = _by_tag[tag] = _Registered(cls, tag, encode, decode)


def encode(value: object, *, argument: str = "value") -> bytes:
    """Encode one value.

    Args:
        value: The value.
        argument: What the error calls it.

    Returns:
        Tagged JSON, in UTF-8.

    Raises:
        ArgumentTypeError: The value, or a value within it, has no supported type. The error says where it is.
    """
    data = _plain(value, (value,))
    return _dump(_encode(value, argument, 0)) if data is None else data


def encode_call(args: tuple[object, ...], kwargs: dict[str, object], names: Sequence[str] = ()) -> bytes:
    """Encode the arguments of a call.

    Args:
        args: The positional arguments.
        kwargs: The keyword arguments.
        names: The names of the positional arguments, for messages.

    Returns:
        Tagged JSON, in UTF-8: a pair of a list and an object.

    Raises:
        ArgumentTypeError: A value has no supported type. The error says in which argument it is, and where.
    """
    if (data := _plain((args, kwargs), (*args, *kwargs.values()))) is not None:
        return data
    positional = [_encode(v, names[i] if i < len(names) else f"args[{i}]", 0) for i, v in enumerate(args)]
    return _dump([positional, {_text(name, name): _encode(value, name, 0) for name, value in kwargs.items()}])


def decode(data: bytes) -> object:
    """Decode one value from what :func:`encode` returned. Raises :class:`DecodeError` alone, for any other bytes."""
    try:
        return _decode(_parse(data), 0)
    except DecodeError:
        raise
    except Exception as error:
        raise _unreadable("the data", error) from error


def decode_call(data: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
    """Decode the arguments of a call: the positional ones, and those by name.

    Args:
        data: What :func:`encode_call` returned.

    Raises:
        DecodeError: The bytes are something else. Nothing else is raised.
    """
    try:
        tree = _parse(data)
        if type(tree) is list and len(tree) == 2 and type(tree[0]) is list and type(tree[1]) is dict:
            args, kwargs = tree
            if {*map(type, args), *map(type, kwargs.values())}.isdisjoint(_CONTAINERS):
                return tuple(args), kwargs
            return tuple([_decode(v, 0) for v in args]), {name: _decode(v, 0) for name, v in kwargs.items()}
    except DecodeError:
        raise
    except Exception as error:
        raise _unreadable("the data", error) from error
    raise DecodeError("the arguments are not a pair of a list and an object")


def fill(call: bytes, places: Sequence[int | str], value: bytes) -> bytes:
    """Put an encoded value into encoded arguments.

    Args:
        call: What :func:`encode_call` returned.
        places: Where it goes, by position or by name, in place of what is there.
        value: What :func:`encode` returned.

    Raises:
        DecodeError: ``call`` or ``value`` is something else, or there is no such place.
    """
    try:
        tree, found = _parse(call), _parse(value)
        for place in places:
            part = tree[0] if type(place) is int else tree[1]
            part[place]  # it must be there: a dict would take any name
            part[place] = found
        return _dump(tree)
    except DecodeError:
        raise
    except Exception as error:
        raise _unreadable("the arguments", error) from error


# -- encode ------------------------------------------------------------------------------------------------------------


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _make_to_text() -> Callable[[Json], str]:
    # The encoder in C that encode() makes anew at each call, which takes longer than to encode a few arguments. Without
    # its check for values that contain themselves, since MAX_DEPTH is checked here.
    text = json.encoder.encode_basestring
    try:
        parts = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, _ENCODER.default, text, None, ":", ",", False, False, False
        )
    except (AttributeError, TypeError):  # another Python than CPython 3.6 to 3.13
        return _ENCODER.encode
    return lambda tree: "".join(parts(tree, 0))


_to_text = _make_to_text()

_ATOMS = {type(None), bool, float, str}

_CONTAINERS = {list, dict}


def _plain(tree: Json, values: Collection[Any]) -> bytes | None:
    """Encode a tree of ``values`` by one call of ``json``; ``None`` if one of them may need a tag or a refusal."""
    if not _are_json(values, 0):
        return None
    try:
        text = _to_text(tree)
        # A key that may look like a tag. A text that begins so costs only time.
        return None if '"$' in text else text.encode()
    except ValueError:  # a float that is not finite, or a lone surrogate
        return None


def _are_json(values: Collection[Any], depth: int) -> bool:
    """Whether all values, and those within them, are of JSON's own types, and no integer needs a tag."""
    for value in values:
        cls = type(value)
        if cls is int:
            if value.bit_length() > 64:
                return False
        elif cls is list:
            if depth == MAX_DEPTH or not _are_json(value, depth + 1):
                return False
        elif cls is dict:
            if depth == MAX_DEPTH or not ({*map(type, value)} <= {str} and _are_json(value.values(), depth + 1)):
                return False
        elif cls not in _ATOMS:
            return False
    return True


def _dump(tree: Json) -> bytes:
    return _to_text(tree).encode()


def _encode(value: Any, where: str, depth: int) -> Json:
    # By type(), never isinstance(): a LocalProxy answers isinstance() for its target, and raises outside a request.
    cls = type(value)
    if depth > MAX_DEPTH:
        raise _refusal(cls, where, f"nests deeper than {MAX_DEPTH} levels, or contains itself")
    if encoder := _ENCODERS.get(cls):
        return encoder(value, where, depth)
    if registered := _by_type.get(cls):
        return {f"${registered.tag}:": _encode(registered.encode(value), where, depth + 1)}
    if issubclass(cls, Enum):
        return _encode_enum(value, where, depth)
    if advice := borrowed.advice(value):
        raise _refusal(cls, where, advice.text)
    if borrowed.is_mapped(value):
        raise _refusal(cls, where, "it is a row of a database: commit, pass its id, and load it in the task")
    if dataclasses.is_dataclass(cls):
        return _encode_dataclass(value, where, depth)
    plain = next((f"{base.__name__}(value)" for base in cls.__mro__ if base in _BUILTINS), "its id or a plain value")
    hint = next((_HINTS[base] for base in cls.__mro__ if base in _HINTS), None)
    raise _refusal(cls, where, hint or f"send {plain}, or register the type with spoolkit.register()")


def _text(value: Any, where: str, depth: int = 0) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        why = f"contains a lone surrogate and is not valid Unicode text ({error})"
        raise _refusal(type(value), where, why) from error
    return str(value)


def _items(values: Any, where: str, depth: int) -> list[Json]:
    return [_encode(value, f"{where}[{i}]", depth + 1) for i, value in enumerate(values)]


def _distinct(members: Collection[Any]) -> Collection[Any]:
    """Return ``members``. Raises ``ValueError`` if to make a set of them would be slow.

    A member is compared with all others of the same hash, and only the hashes of text are random. Numbers that are
    equal modulo 2**61 - 1 have the same hash: a set of 20,000 of them took 7 seconds.
    """
    if len(members) > MAX_COLLIDING and max(Counter(map(hash, members)).values()) > MAX_COLLIDING:
        raise ValueError(f"more than {MAX_COLLIDING} members have the same hash")
    return members


def _encode_set(values: Any, where: str, depth: int) -> Json:
    try:
        _distinct(values)
    except ValueError as error:
        raise _refusal(type(values), where, f"would be slow to decode ({error}): send a list") from error
    # Sorted by their bytes, so that equal sets have equal bytes.
    return {f"${type(values).__name__}": sorted((_encode(v, f"{where}{{}}", depth + 1) for v in values), key=_dump)}


def _encode_dict(value: Any, where: str, depth: int) -> Json:
    tree: dict[str, Json] = {}
    for key, member in value.items():
        if type(key) is not str:
            raise _refusal(type(key), where, "is the key of a dict, whose keys must be str", what="a key of")
        tree[_text(key, where)] = _encode(member, f"{where}[{key!r:.80}]", depth + 1)
    return {"$dict": tree} if any(key.startswith("$") for key in tree) else tree


def _encode_moment(value: Any, where: str, depth: int) -> Json:
    text = value.replace(tzinfo=None, fold=0).isoformat()
    return {f"${type(value).__name__}": [text, value.fold, _encode_zone(value.tzinfo, where)]}


def _encode_zone(zone: tzinfo | None, where: str) -> Json:
    if zone is None:
        return None
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return ["offset", offset.days, offset.seconds, offset.microseconds, *(_text(part, where) for part in name)]
    if type(zone) is ZoneInfo:
        try:
            # Refuses a zone made by from_file(), even with a key: that may belong to no zone, or to another one.
            zone.__reduce__()
            return ["key", zone.key]
        except Exception as error:
            raise _refusal(ZoneInfo, where, "was read from a file and has no key: use ZoneInfo(key)") from error
    raise _refusal(
        type(zone), where, "is not a supported time zone: use datetime.timezone, or zoneinfo.ZoneInfo by its key"
    )


def _encode_path(value: Any, where: str, depth: int) -> Json:
    cls, text = type(value), _text(str(value), where)
    if (
        cls(text).parts != value.parts
    ):  # Before Python 3.12, the text of PureWindowsPath("./c:x") is that of another path.
        raise _refusal(cls, where, f"would become another path when it is written as {text!r:.80}: send its parts")
    return {"$path": [cls.__name__, text]}


def _encode_enum(value: Enum, where: str, depth: int) -> Json:
    cls = type(value)
    reference = _reference(cls, where)
    # A combination of flags has no name of its own. Underscored, since an Enum may define `name` and `value` anew.
    member = value._value_ if issubclass(cls, Flag) else value._name_
    found = _member(cls, member)
    # Python 3.11.2 makes a new object for a flag of unnamed bits at each call: equal, but never identical.
    if found is not value and not (issubclass(cls, Flag) and found == value):
        raise _refusal(cls, where, "is a member that its Enum does not list: send its value")
    return {"$enum": [reference, _encode(member, where, depth + 1)]}


def _encode_dataclass(value: Any, where: str, depth: int) -> Json:
    cls = type(value)
    names = [field.name for field in dataclasses.fields(cls)]
    # The content of a dict, an exception or another type written in C is in no field, and would be lost silently.
    for base in cls.__mro__[:-1]:
        if type(vars(base).get("__new__")) is BuiltinFunctionType:
            raise _refusal(
                cls, where, f"derives from {base.__name__}, whose content is not in a field: register the type"
            )
    slots = [name for base in cls.__mro__ for name, slot in vars(base).items() if type(slot) is MemberDescriptorType]
    for name in [*(name for name in slots if hasattr(value, name)), *getattr(value, "__dict__", ())]:
        known = name in names or isinstance(getattr(cls, name, None), functools.cached_property)
        if not known and name != "__orig_class__":  # which typing sets on the result of Box[int](1)
            raise _refusal(cls, where, f"has the attribute {name!r}, which is not a field: register the type")
    for name in names:
        if not hasattr(value, name):
            raise _refusal(cls, where, f"has no value for its field {name!r}")
    state = {name: _encode(getattr(value, name), f"{where}.{name}", depth + 1) for name in names}
    return {"$dataclass": [_reference(cls, where), state]}


def _reference(cls: type, where: str) -> str:
    # The __main__ of this process is not that of a spooler.
    if cls.__module__ == "__main__" or _lookup(cls.__module__, cls.__qualname__) is not cls:
        raise _refusal(
            cls, where, "a spooler cannot find it by that name: define the class at the top of an imported module"
        )
    return _text(f"{modules.dotted_name(cls.__module__)}:{cls.__qualname__}", where)


def _refusal(cls: type, where: str, why: str, *, what: str = "") -> ArgumentTypeError:
    subject = f"{what} argument {where!r}".strip()
    return ArgumentTypeError(f"{subject} is of type {_name(cls)}: {why}", argument=where, type_name=_name(cls))


def _name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


_BUILTINS = (int, float, str, bytes, list, tuple, dict, set, frozenset)

_ENCODERS: dict[type, Callable[[Any, str, int], Json]] = {
    **dict.fromkeys((type(None), bool), lambda value, *_: value),
    # Python neither reads nor writes a decimal of more than 4,300 digits.
    int: lambda value, *_: value if value.bit_length() <= 64 else {"$int": hex(value)},
    float: lambda value, *_: value if math.isfinite(value) else {"$float": repr(value)},
    str: _text,
    bytes: lambda value, *_: {"$bytes": base64.b64encode(value).decode()},
    list: _items,
    tuple: lambda value, where, depth: {"$tuple": _items(value, where, depth)},
    dict: _encode_dict,
    **dict.fromkeys((set, frozenset), _encode_set),
    **dict.fromkeys((datetime, time), _encode_moment),
    date: lambda value, *_: {"$date": value.isoformat()},
    timedelta: lambda value, *_: {"$timedelta": [value.days, value.seconds, value.microseconds]},
    Decimal: lambda value, *_: {"$decimal": str(value)},
    UUID: lambda value, *_: {"$uuid": value.hex},
    **dict.fromkeys(_PATHS.values(), _encode_path),
}

_HINTS: dict[type, str] = {
    **dict.fromkeys((bytearray, memoryview), "send bytes(value)"),
    ResultBefore: "it stands for the result of the job before: only among the arguments of a later call in chain(), "
    "not within another value",
    **dict.fromkeys(
        (io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, io.BufferedRandom, io.FileIO, io.BytesIO, io.StringIO),
        "an open file cannot be stored: send its path or its content",
    ),
    **dict.fromkeys((range, GeneratorType, map, filter, zip), "send list(value)"),
    **dict.fromkeys(
        (FunctionType, BuiltinFunctionType, MethodType, functools.partial, type), "code cannot be stored: send its name"
    ),
}

# -- decode ------------------------------------------------------------------------------------------------------------


def _unreadable(what: str, error: Exception) -> DecodeError:
    """Make a :class:`DecodeError` of ``error``: the ``decode()`` of a registered type may raise anything."""
    return DecodeError(f"{what} cannot be read: {type(error).__name__}: {error}"[:500])


def _parse(data: bytes) -> Json:
    text = data.decode().strip(" \t\n\r")
    tree, end = _DECODER.raw_decode(text)
    if end < len(text):
        _DECODER.decode(text)  # raises, and says where
    if "\\u" in text and b"\\ud" in data.lower():
        _dump(tree)  # UTF-8 cannot contain lone surrogates, but the escapes of JSON can
    return tree


def _no_constant(text: str) -> Json:
    raise DecodeError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _decode(tree: Json, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:  # one more than in a value: for the number of a flag
        raise DecodeError(f"the data nests deeper than {MAX_DEPTH} levels")
    if type(tree) is list:
        return [_decode(member, depth + 1) for member in tree]
    if type(tree) is not dict:
        return tree
    if not any(key.startswith("$") for key in tree):
        return {key: _decode(member, depth + 1) for key, member in tree.items()}
    if len(tree) != 1:
        raise DecodeError(f"there are other keys beside a tag: {sorted(tree)[:5]!r:.200}")
    [(tag, inside)] = tree.items()
    try:
        return _decode_tagged(tag, inside, depth + 1)
    except DecodeError:
        raise
    except Exception as error:
        raise _unreadable(f"the tag {tag!r:.80}", error) from error


def _decode_tagged(tag: str, tree: Json, depth: int) -> Any:
    match tag, tree:
        case "$tuple", list():
            return tuple(_decode(member, depth) for member in tree)
        case "$set", list():
            return set(_distinct([_decode(member, depth) for member in tree]))
        case "$frozenset", list():
            return frozenset(_distinct([_decode(member, depth) for member in tree]))
        case "$dict", dict():
            return {key: _decode(member, depth) for key, member in tree.items()}
        case "$int", str():
            return int(tree, 16)
        case "$float", str():
            return _FLOATS[tree]
        case "$bytes", str():
            return base64.b64decode(tree, validate=True)
        case "$datetime", [str(text), int(fold), zone]:
            return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_decode_zone(zone))
        case "$time", [str(text), int(fold), zone]:
            return time.fromisoformat(text).replace(fold=fold, tzinfo=_decode_zone(zone))
        case "$date", str():
            return date.fromisoformat(tree)
        case "$timedelta", [int(days), int(seconds), int(microseconds)]:
            return timedelta(days, seconds, microseconds)
        case "$decimal", str():
            return Decimal(tree)
        case "$uuid", str():
            return UUID(hex=tree)
        case "$path", [str(name), str(text)]:
            return _PATHS[name](text)
        case "$enum", [str(reference), member]:
            return _decode_enum(reference, _decode(member, depth))
        case "$dataclass", [str(reference), dict(state)]:
            return _decode_dataclass(reference, {name: _decode(member, depth) for name, member in state.items()})
    if registered := _by_tag.get(tag[1:-1]) if tag.endswith(":") else None:
        return registered.decode(_decode(tree, depth))
    raise DecodeError(
        f"the tag {tag!r:.80} with {type(tree).__name__} inside is not known in this process: "
        "a type of the application must be registered in this process too, with spoolkit.register()"
    )


def _decode_zone(tree: Json) -> tzinfo | None:
    match tree:
        case None:
            return None
        case ["key", str(key)]:
            return ZoneInfo(key)
        case ["offset", int(days), int(seconds), int(microseconds), *name]:
            return timezone(timedelta(days, seconds, microseconds), *name)
    raise DecodeError(f"{shown(tree)} is not a time zone")


def _decode_enum(reference: str, member: object) -> Enum:
    cls = _class(reference)
    if not issubclass(cls, Enum):
        raise DecodeError(f"{reference!r:.200} is not an Enum")
    found = _member(cls, member)
    # Python 3.11.2 also drops the bits that a flag does not have, instead of refusing them.
    if type(found) is not cls or (issubclass(cls, Flag) and found._value_ != member):
        raise DecodeError(f"{reference!r:.200} has no member {shown(member)}")
    return found


def _member(cls: type[Enum], member: Any) -> Enum | None:
    """Find a flag by its number, any other member by its name."""
    if issubclass(cls, Flag):
        return cls(member) if isinstance(member, int) else None
    return cls.__members__.get(member)


def _decode_dataclass(reference: str, state: dict[str, object]) -> object:
    cls = _class(reference)
    if not dataclasses.is_dataclass(cls):
        raise DecodeError(f"{reference!r:.200} is not a dataclass")
    # Not by calling the class: __init__ and __post_init__ ran when the value was made, and might change it again.
    value = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in state:
            member = state.pop(field.name)
        elif field.default is not dataclasses.MISSING:
            member = field.default
        elif field.default_factory is not dataclasses.MISSING:
            member = field.default_factory()
        else:
            raise DecodeError(f"{reference!r:.200} has a field {field.name!r}, for which there is no value in the data")
        object.__setattr__(value, field.name, member)  # bypasses the __setattr__ of a frozen dataclass
    if state:
        raise DecodeError(f"{reference!r:.200} has no field {next(iter(state))!r:.80}")
    return value


def _class(reference: str) -> type:
    module, _, qualname = reference.partition(":")
    found = _lookup(module, qualname)
    if isinstance(found, type):
        return found
    if modules.find(module) is not None:
        raise DecodeError(f"the module {module!r:.200} has no class {qualname!r:.200}")
    raise DecodeError(
        f"the module {module!r:.200} is not imported in this process: import it in the module that the spooler imports"
    )


def _lookup(module: str, qualname: str) -> object:
    found: object = modules.find(module)
    for part in qualname.split("."):
        if not issubclass(type(found), (ModuleType, type)):
            return None
        # Not getattr() or vars(): they run the __getattr__ of a module, which imports a module of a LazyLoader.
        found = object.__getattribute__(found, "__dict__").get(part)
    return found
