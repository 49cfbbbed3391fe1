"""How is a job run again with other arguments? As a new job of the same task: the old one, and its history, stay.

Each parameter of the task's function is a text field with the JSON of :mod:`spoolkit.encoding.codec`, so that a
``Decimal`` or a dataclass stays one: ``{"$decimal": "1.50"}``. A secret value is never shown; a field that is left
blank keeps it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spoolkit import registry
from spoolkit.admin import actions, lookup
from spoolkit.admin.lookup import Details
from spoolkit.encoding import codec, redact
from spoolkit.errors import ArgumentError, DecodeError, DuplicateJobError, UnknownTaskError, shown
from spoolkit.registry import Declared
from spoolkit.store import locations

MAX_TEXT = 64 * 1024
"""Characters of a value that a field shows; a larger one can be kept or replaced."""

MAX_DEFAULT = 200
"""Characters of a default that are shown."""

KEPT = ("retries", "backoff", "timeout", "headers", "tags")
"""The options of the old job's call that the new one has as well; and its queue."""

_NOTHING = object()


@dataclass(frozen=True)
class Field:
    """A parameter of a task, as a text to edit."""

    #: The name of the parameter.
    name: str
    #: Its JSON without secret values; empty: the call has not given it, or it is not shown.
    text: str = ""
    #: Why the value is not shown, so that a blank field keeps it: ``secret`` or ``large``; empty: it is shown.
    hidden: str = ""
    #: What it is: ``value``, ``list`` for ``*args``, ``object`` for ``**kwargs``.
    kind: str = "value"
    #: The default in Python; ``None``: there is none, a value must be given.
    default: str | None = None
    #: The tagged JSON of the old value.
    original: Any = field(default=_NOTHING, repr=False)


@dataclass(frozen=True)
class Form:
    """The parameters of a task, with the arguments of one of its jobs."""

    #: The task.
    declared: Declared
    #: One for each parameter.
    fields: list[Field]
    #: Whether all arguments of the job are in the fields: they were kept, and fit the task as it is now.
    is_filled: bool


def form_of(found: Details) -> Form:
    """Return the form for the arguments of a job.

    Args:
        found: The job, as :func:`lookup.details` returns it.

    Raises:
        UnknownTaskError: Its task is not declared in this process.
    """
    declared = registry.find(found.status.task or "?")
    if declared.task is None:
        message = f"the task {declared.name} cannot be called in this process: declare it with @spool or @thread"
        raise UnknownTaskError(message, task=declared.name)
    known, is_filled = _arguments(found, declared.signature)
    return Form(declared, [_field(one, known) for one in declared.signature.parameters.values()], is_filled)


def _arguments(found: Details, signature: inspect.Signature) -> tuple[dict[str, Any], bool]:
    """The tagged JSON of the job's arguments by parameter, as far as they fit, and whether all of them do."""
    if found.arguments is None:
        return {}, False
    args, kwargs = json.loads(codec.encode_call(*found.arguments))
    try:
        return dict(signature.bind(*args, **kwargs).arguments), True
    except TypeError:  # those of another version: what was given by name has kept its meaning
        any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = {one.name for one in signature.parameters.values() if one.kind not in any_number}
        return {name: tree for name, tree in kwargs.items() if name in names}, False


def _field(parameter: inspect.Parameter, known: Mapping[str, Any]) -> Field:
    name, kind, default = parameter.name, "value", None
    if parameter.kind is parameter.VAR_POSITIONAL:
        kind, default = "list", "()"
    elif parameter.kind is parameter.VAR_KEYWORD:
        kind, default = "object", "{}"
    elif parameter.default is not parameter.empty:
        default = redact.REDACTED if redact.is_secret(name) else _default(parameter.default)
    if name not in known:
        return Field(name, kind=kind, default=default, hidden="secret" if redact.is_secret(name) else "")
    original = list(known[name]) if kind == "list" else known[name]
    redacted = redact.mapping(original) if isinstance(original, dict) and kind == "object" else redact.value(original)
    text = json.dumps(redacted, ensure_ascii=False, indent=1 if isinstance(redacted, (list, dict)) else None)
    hidden = "secret" if redact.is_secret(name) else "large" if len(text) > MAX_TEXT else ""
    return Field(name, "" if hidden else text, hidden, kind, default, original)


def _default(value: object) -> str:
    """A default as it may be shown: as code, or as JSON where it contains a secret value."""
    try:
        tree = json.loads(codec.encode(value))
    except ArgumentError:  # of a type that no job can have
        return shown(value, MAX_DEFAULT)
    redacted = redact.value(tree)
    text = json.dumps(redacted, ensure_ascii=False)
    return shown(value, MAX_DEFAULT) if redacted == tree else text[:MAX_DEFAULT]


def arguments_from(form: Form, texts: Mapping[str, str]) -> tuple[inspect.BoundArguments, dict[str, ArgumentError]]:
    """Read the arguments of the new job.

    Args:
        form: The form.
        texts: What was entered, by the names of the parameters. A text that was not changed gives the old value.

    Returns:
        The arguments, and what is wrong with each field.
    """
    values, errors = dict[str, Any](), dict[str, ArgumentError]()
    for one in form.fields:
        try:
            tree = _tree(one, texts.get(one.name, "").replace("\r\n", "\n").strip())
            if tree is not _NOTHING:
                values[one.name] = _value(one, tree)
        except ArgumentError as error:
            errors[one.name] = error
        except RecursionError:
            errors[one.name] = ArgumentError(f"{one.name} nests too deeply", argument=one.name)
    return inspect.BoundArguments(form.declared.signature, values), errors


def _tree(one: Field, text: str) -> Any:
    """The tagged JSON that was entered; :data:`_NOTHING` if the argument is left out."""
    if not text:
        if one.hidden and one.original is not _NOTHING:
            return one.original
        if one.default is None:
            raise ArgumentError(f"{one.name} has no default: give a value", argument=one.name)
        return _NOTHING
    if text == one.text:
        return one.original
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(
            f"{one.name} is not JSON: {error}. A text stands in double quotes", argument=one.name
        ) from error
    if one.original is _NOTHING and isinstance(tree, str) and tree in redact.MARKERS:
        raise ArgumentError(f"{tree} stands for a value that was not there before: give the value", argument=one.name)
    return redact.restored(tree, {} if one.original is _NOTHING else one.original)


def _value(one: Field, tree: Any) -> Any:
    wanted = {"list": list, "object": dict}.get(one.kind)
    if wanted is not None and not isinstance(tree, wanted):
        example = '["a", 1]' if wanted is list else '{"name": 1}'
        raise ArgumentError(
            f"{one.name} is {shown(tree)}: give a JSON {one.kind}, such as {example}", argument=one.name
        )
    try:
        if one.kind == "object":
            return {name: codec.decode(_dumped(member)) for name, member in tree.items()}
        value = codec.decode(_dumped(tree))
        codec.encode(value, argument=one.name)
    except DecodeError as error:
        raise ArgumentError(f"{one.name} cannot be read: {error}", argument=one.name) from error
    return tuple(value) if isinstance(value, list) and one.kind == "list" else value


def _dumped(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def run_again(found: Details, arguments: inspect.BoundArguments, *, by: str | None = None) -> str:
    """Make a new job of the same task, with the old one's queue and options. Both jobs have an event that tells so.

    The new one is in no batch and in no chain, is due now, and does not expire.

    Args:
        found: The old job.
        arguments: Those of the new one.
        by: Who does it; ``None``: not known.

    Returns:
        The id of the new job.

    Raises:
        ArgumentError: The arguments do not fit the task, or are too large. As with each error, nothing was accepted.
        UnknownTaskError: Its task is not declared in this process.
        DuplicateJobError: Its task is unique, and another job has the key.
        SpoolUnavailableError: The spool directory takes no job now.
        QueueFull: The thread pool takes no job now.
    """
    status, declared = found.status, registry.find(found.status.task or "?")
    options: dict[str, Any] = {name: value for name in KEPT if (value := getattr(status, name)) is not None}
    if declared.engine == "spool" and status.queue is not None:
        options["queue"] = status.queue
    # The transaction of this request, if there is one, is none of the job's.
    job = declared.task.using(**options, after_commit=False)(*arguments.args, **arguments.kwargs)
    rule = declared.options.unique
    if job.duplicate and rule is not None and rule.on_duplicate == "return":
        raise DuplicateJobError(
            f"no new job was made: {declared.name} is unique, and job {job.id} has the key of these arguments",
            job=status.id,
            state=str(status.state),
            holder=job.id,
        )
    lookup.from_store(lambda: locations.store().record_event(status.id, "run again as a new job", by=by, job=job.id))
    actions.record_new(job.id, "made from an edited job", by=by, job=status.id)
    return str(job.id)
