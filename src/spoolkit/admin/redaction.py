"""What of a job may people see? Its values without those that are secret, see :mod:`spoolkit.encoding.redact`.

Whatever shows a job passes it through here: ``flask spool show``, the JSON of the API, the page. What is stored stays
as it is: the task needs it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from spoolkit import registry
from spoolkit.admin import lookup
from spoolkit.admin.lookup import Details
from spoolkit.coordination import limits
from spoolkit.encoding import codec, redact
from spoolkit.job import Attempt, Status
from spoolkit.store import locations

Call = tuple[list[Any], dict[str, Any]]
"""The tagged JSON of each argument by position, and of each by name."""


def status(found: Status) -> Status:
    """Return what is known of a job without its secret headers, the secret values of its result, and secret keys."""
    changed: dict[str, Any] = {}
    if found.headers:
        changed["headers"] = redact.mapping(found.headers)
    if found.parked_for is not None:
        changed["parked_for"] = limits.shown_key(found.parked_for)
    if found.result is not None:
        changed["result"] = _result(found.result)
    return replace(found, **changed) if changed else found


def listed(found: Iterable[Status]) -> list[Status]:
    """Return jobs as they may be shown in a list: :func:`status`, without secret texts in their errors and notes.

    Raises:
        SpoolUnavailableError: This process cannot read a spool directory.
    """
    found = [status(one) for one in found]
    told = [one for one in found if one.error_message or (one.progress is not None and one.progress.note)]
    scrubbed: dict[str, Status] = {}
    for start in range(0, len(told), lookup.BATCH_SIZE):
        batch = told[start : start + lookup.BATCH_SIZE]
        ids = [one.id for one in batch]
        known = lookup.from_store(lambda ids=ids: locations.store().arguments_of(ids)) or {}  # type: ignore[misc]
        for one in batch:
            data = known.get(one.id) or (lookup.arguments_in_file(one) if one.has_file else None)
            if data is not None and (secrets := _secrets_of(one.task, data)):
                scrubbed[one.id] = _scrubbed(one, secrets)
    return [scrubbed.get(one.id, one) for one in found]


def _secrets_of(task: str | None, data: bytes) -> set[str]:
    try:
        args, kwargs = json.loads(data)
        return _secrets(task, (args, kwargs))
    except (ValueError, TypeError, RecursionError):  # damaged: a job with these arguments never ran
        return set()


def _scrubbed(found: Status, secrets: set[str]) -> Status:
    message = found.error_message and redact.scrub(found.error_message, secrets)
    progress = found.progress and replace(found.progress, note=redact.scrub(found.progress.note, secrets))
    return replace(found, error_message=message, progress=progress)


def _result(data: bytes) -> bytes:
    try:
        tree = json.loads(data)
        redacted = redact.value(tree)
    except (ValueError, RecursionError):  # the store is damaged: whoever shows it says so
        return data
    return data if redacted == tree else json.dumps(redacted, ensure_ascii=False).encode()


def details(found: Details) -> Details:
    """Return everything that is known of a job as it may be shown.

    Returns:
        The same without ``arguments``, which :func:`arguments` and :func:`as_code` show, and with secret texts replaced
        where the task itself has written them: in its log, its tracebacks, its errors, the note of its progress.
    """
    secrets = _secret_texts(found)

    def scrub(text: Any) -> Any:
        return redact.scrub(text, secrets) if text else text

    def attempt(one: Attempt) -> Attempt:
        return replace(one, message=scrub(one.message), traceback=scrub(one.traceback), log=scrub(one.log))

    shown = status(found.status)
    if secrets:
        shown = _scrubbed(shown, secrets)
    events = [replace(one, message=scrub(one.message)) for one in found.events]
    return replace(found, status=shown, arguments=None, attempts=[*map(attempt, found.attempts)], events=events)


def text(found: Details, written: str) -> str:
    """Return a text that a job's task has written elsewhere, without its secret texts, as :func:`details` does."""
    return redact.scrub(written, _secret_texts(found))


def arguments(found: Details) -> Call | None:
    """Return the arguments of a job, as tagged JSON, as they may be shown; ``None`` where they were not kept."""
    original = _call(found)
    return None if original is None else redact.call(*original, _signature(found.status.task))


def as_code(found: Details) -> str | None:
    """Return the arguments of a job as in a call in Python, ``(5, password=[redacted])``, as they may be shown.

    Returns:
        ``None`` where they were not kept.
    """
    return None if found.arguments is None else call_as_code(found.status.task, *found.arguments)


def call_as_code(task: str | None, values: tuple[object, ...], names: Mapping[str, object]) -> str:
    """Return the arguments of a call of a task as :func:`as_code` does.

    Args:
        task: The name of the task.
        values: The arguments by position.
        names: Those by name.
    """
    original = _tagged(values, names)
    redacted = redact.call(*original, _signature(task))
    texts = [_text(*one) for one in zip(values, original[0], redacted[0], strict=True)]
    texts += [f"{name}={_text(names[name], original[1][name], shown)}" for name, shown in redacted[1].items()]
    return f"({', '.join(texts)})"


def _text(value: object, original: Any, redacted: Any) -> str:
    if isinstance(redacted, str) and redacted in redact.MARKERS:
        return redacted
    try:
        return repr(value if redacted == original else codec.decode(json.dumps(redacted).encode()))
    except Exception:  # it contains an integer of more than 4,300 digits, or a class that fails, also for a marker
        return json.dumps(redacted, ensure_ascii=False, separators=(",", ":"))


def _call(found: Details) -> Call | None:
    return None if found.arguments is None else _tagged(*found.arguments)


def _tagged(values: tuple[object, ...], names: Mapping[str, object]) -> Call:
    args, kwargs = json.loads(codec.encode_call(values, dict(names)))
    return args, kwargs


def _signature(task: str | None) -> inspect.Signature | None:
    declared = None if task is None else registry.this_process.get(task)
    return None if declared is None else declared.signature


def _secret_texts(found: Details) -> set[str]:
    call = _call(found)
    return set() if call is None else _secrets(found.status.task, call)


def _secrets(task: str | None, call: Call) -> set[str]:
    """The texts of a call that must not be shown."""
    return redact.secret_texts(list(call), list(redact.call(*call, _signature(task))))
