"""How many jobs of one key run at once? The claim counts them; a job that finds no room is parked, and comes back.

Nothing is counted up or down. A claim counts the jobs that run and whose process is alive, in the transaction in which
it would become one of them. Whoever ends a job moves as many parked ones back as there is room for, and each of them
is judged by its own claim. A job is parked first, and then its process looks again: the last job of the key may have
ended between the claim and the move, and have found nobody in the line.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from spoolkit import application, registry
from spoolkit.coordination.unique import named_by
from spoolkit.encoding import codec, redact
from spoolkit.errors import ArgumentError, ConfigurationError, StoreUnavailableError, of_row
from spoolkit.job import JobSpec, TaskOptions
from spoolkit.registry import Declared
from spoolkit.settings import Settings
from spoolkit.spooldir import gate, parked, running, spoolers, spoolfile
from spoolkit.spooldir.parked import Place
from spoolkit.store import Store, holders, locations
from spoolkit.store.holders import Room
from spoolkit.store.rates import Pace
from spoolkit.system import log

Key = Callable[..., object]
"""Returns the key of a job, from the arguments that its parameters name."""

MAX_KEY = 200
"""Characters of a key's value that are kept as they are, for people; of a longer one a digest is."""

WITHOUT_LIMIT = 1_000
"""How many jobs of one key run at once if their task has no limit any more."""


def check(declared: Declared) -> None:
    """Refuse a function of a key that asks for arguments which the task does not have.

    Raises:
        ConfigurationError: It does.
    """
    for setting, bound in (("limit", declared.options.limit), ("rate", declared.options.rate)):
        if bound is not None and bound.key is not None:
            _check_key(declared, bound.key, setting)


def _check_key(declared: Declared, key: Key, setting: str) -> None:
    optional = {name for name, one in _parameters(key).items() if one.default is not one.empty}
    known = [
        name
        for name, one in declared.signature.parameters.items()
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if missing := [name for name in named_by(key) if name not in known and name not in optional]:
        raise ConfigurationError(
            f"the key of {setting} asks for {', '.join(missing)}, but {declared.name}{declared.signature} has no such "
            f"argument: name {', '.join(known) or 'none, and leave the key out'}",
            setting=setting,
        )


def _parameters(key: Key) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(key).parameters


def keys_of(declared: Declared, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, str]:
    """Return the fields of a job with the keys of the limit and of the rate of its task; without those that it lacks.

    Raises:
        ArgumentTypeError: What a key function returned has no supported type. What it raises is raised unchanged.
    """
    limit, rate = declared.options.limit, declared.options.rate
    keys: dict[str, str] = {}
    if limit is not None:
        keys["limit_key"] = _text(declared, limit.key, args, kwargs)
    if rate is not None:
        keys["rate_key"] = _text(declared, rate.key, args, kwargs)
    return keys


def _text(declared: Declared, key: Key | None, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """The text for a key of a task: equal arguments give equal texts."""
    if key is None:
        return declared.name
    bound = declared.bound(args, kwargs)
    data = codec.encode(key(**{name: bound[name] for name in named_by(key) if name in bound}), argument="the key")
    if b"{" in data:
        data = json.dumps(json.loads(data), sort_keys=True).encode()
    text = data.decode() if len(data) <= MAX_KEY else hashlib.sha256(data).hexdigest()
    return f"{declared.name} {text}"


def shown_key(key: str) -> str:
    """Return the text of the key of a limit as it may be shown: it is made of arguments, which may be secret."""
    task, _, value = key.partition(" ")
    if not value:
        return key
    declared = registry.this_process.get(task)
    limit = None if declared is None else declared.options.limit
    if limit is None or limit.key is None:
        return f"{task} {redact.UNKNOWN_TASK}"
    if any(map(redact.is_secret, named_by(limit.key))):
        return f"{task} {redact.REDACTED}"
    try:
        return f"{task} {json.dumps(redact.value(json.loads(value)), ensure_ascii=False, separators=(',', ':'))}"
    except (ValueError, RecursionError):  # of a long key, only a digest is kept
        return key


def keys_of_calls(
    declared: Declared, calls: Sequence[tuple[Sequence[object], Mapping[str, object]]]
) -> list[dict[str, str]] | None:
    """Return :func:`keys_of` each call; ``None`` if the task has neither. An error names the row."""
    if not declared.has_keys:
        return None
    keys: list[dict[str, str]] = []
    try:
        for args, kwargs in calls:
            keys.append(keys_of(declared, args, kwargs))
    except ArgumentError as error:
        raise of_row(error, len(keys)) from None
    return keys


def room(job: JobSpec, options: TaskOptions, config: Settings) -> Room | None:
    """Return what the limit and the rate of its task allow for a job; ``None``: it has neither.

    The keys are those of the call. The numbers are those of the code that runs: a deploy changes them at once.
    """
    pace = None
    if options.rate is not None and job.rate_key is not None:
        pace = Pace(job.rate_key, options.rate.interval, options.rate.burst)
    if options.limit is None or job.limit_key is None:
        return None if pace is None else Room(None, 0, pace=pace)
    return Room(job.limit_key, options.limit.number, _has_left(config), pace)


def behind_others(room: Room, path: str, spool_dir: str) -> Room:
    """Return ``room``; but with no place at all if others wait in the line that were due before the job of a file.

    Otherwise one that comes when a place is free would pass all of them. Parked behind them, it has the next one moved
    back. Jobs of other queues do not count: they may be paused.

    Args:
        room: What the limit of the job allows.
        path: The file of the job.
        spool_dir: The spool directory.
    """
    if room.key is None:
        return room
    with contextlib.suppress(OSError):
        first = parked.next_place(spool_dir, group(room.key))
        if first is not None and first < Place(os.lstat(path).st_mtime_ns, os.path.basename(path), spool_dir):
            return room._replace(number=0)
    return room


def _has_left(config: Settings) -> holders.HasLeft:
    return lambda pid, identity, id, queue: running.has_left(locations.spool_dir_of(queue, config), pid, identity, id)


def group(key: str) -> str:
    """Return the name of the group in which jobs with this key are parked."""
    return "k" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:31]


def parked_for(path: str) -> str | None:
    """Return the key for which the job in the file ``path`` is parked; ``None`` if it does not wait for room."""
    if (of_file := parked.group_of(path)) is None or (job := parked.head(path)) is None:
        return None
    return job.limit_key if job.limit_key is not None and group(job.limit_key) == of_file else None


def find_parked(spool_dir: str, key: str | None, id: str, known: str | None) -> str | None:
    """Return the path of the file of a job that is parked for ``key``: see :func:`parked.find`."""
    return None if key is None else parked.find(spool_dir, group(key), id, known)


def counts(spool_dir: str, max_keys: int) -> dict[str, int]:
    """Return how many jobs wait for room, by key, for the ``max_keys`` longest lines. Never raises ``OSError``."""
    found: dict[str, int] = {}
    for size, name in parked.largest(spool_dir, max_keys):
        job = parked.any_job(spool_dir, name)
        if job is not None and job.limit_key is not None and group(job.limit_key) == name:
            found[job.limit_key] = size
    return found


def park(path: str, spool_dir: str, room: Room, store: Store, config: Settings) -> None:
    """Put a job, which the caller has locked and claimed in vain, into the line of its key.

    Args:
        path: The file of the job.
        spool_dir: The spool directory.
        room: What its limit allows.
        store: Where jobs are recorded.
        config: The settings in force.
    """
    assert room.key is not None
    try:
        new = parked.park(path, spool_dir, group(room.key))
    except FileNotFoundError:
        return  # another process was here, with the lock that a task has dropped
    move_back(room.key, room.number, store, config)
    if not os.path.lexists(new):
        # Another process has moved it back, and perhaps called a spooler while this one had the lock.
        spoolers.wake(spool_dir, spoolfile.id_of(os.path.basename(path)))


def ended(key: str | None, task: str | None, store: Store, config: Settings) -> None:
    """Let the next jobs follow one that has left its place, or does not need one now. Never raises ``OSError``.

    Args:
        key: The key of its limit; ``None``: it has none.
        task: The name of its task.
        store: Where jobs are recorded.
        config: The settings in force.
    """
    if key is not None:
        move_back(key, _number(task), store, config)


def _number(task: str | None) -> int:
    declared = registry.this_process.get(task or "")
    if declared is None:
        return 1  # this process imports other tasks
    return WITHOUT_LIMIT if declared.options.limit is None else declared.options.limit.number


def move_back(key: str, number: int, store: Store, config: Settings) -> None:
    """Move back the next jobs in the line of a key, as many as there is room for. Never raises ``OSError``.

    Args:
        key: The key.
        number: How many jobs with this key run at once.
        store: Where jobs are recorded.
        config: The settings in force.
    """
    spool_dirs, line = locations.spool_dirs(config), group(key)
    try:
        if _next(spool_dirs, line) is None:
            return
        try:
            free = holders.is_free(store, Room(key, number, _has_left(config)))
        except StoreUnavailableError as error:
            # One is moved back all the same: its claim decides, and tries again until the store can be used.
            log.unrecorded(error)
            free = 1
        while free > 0 and (place := _next(spool_dirs, line)) is not None:
            path = os.path.join(parked.folder(place.spool_dir, line), place.name)
            if parked.move_back(path, place.spool_dir) is not None:
                free -= 1
                spoolers.wake(place.spool_dir, spoolfile.id_of(place.name))
    except OSError as error:
        log.complain("the jobs that are parked for %s cannot be moved back: %s", shown_key(key), error)


def _next(spool_dirs: Iterable[str], line: str) -> Place | None:
    places = (parked.next_place(spool_dir, line) for spool_dir in spool_dirs)
    # Jobs of a queue that is paused come last: one that is moved back there would hold the place up.
    return min(filter(None, places), key=lambda place: (gate.is_paused(place.spool_dir), place), default=None)


def sweep(spool_dir: str) -> None:
    """Move jobs back that have room: the process that was to do so was killed.

    Raises:
        StoreUnavailableError: Nobody knows how many jobs run.
    """
    lines = [name for name in parked.groups(spool_dir) if name.startswith("k")]
    if not lines:
        return
    config = application.settings()
    store = locations.store(config)
    living = {group(key): count for key, count in holders.living(store, _has_left(config)).items()}
    for line in lines:
        if parked.remove_if_empty(spool_dir, line):
            continue
        job = parked.any_job(spool_dir, line)
        if job is None or job.limit_key is None or group(job.limit_key) != line:
            _move_back_damaged(spool_dir, line)
        elif living.get(line, 0) < _number(job.task):
            ended(job.limit_key, job.task, store, config)


def _move_back_damaged(spool_dir: str, line: str) -> None:
    """Let spoolers find files that are no jobs, and so say what is wrong with them."""
    while (place := parked.next_place(spool_dir, line)) is not None:
        path = os.path.join(parked.folder(spool_dir, line), place.name)
        if parked.head(path) is not None:
            return
        parked.move_back(path, spool_dir)
