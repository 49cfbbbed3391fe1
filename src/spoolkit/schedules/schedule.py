"""When is a periodic task due, and which of its due times run? Pure: no input or output.

All times here are unix time in whole nanoseconds (UTC), as in the ids of jobs: a sum of floats would miss a due time.
"""

from __future__ import annotations

import hashlib
import json
import zoneinfo
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from itertools import islice
from typing import Any, Literal, get_args
from urllib.parse import quote

from cronsim import CronSim, CronSimError

from spoolkit.errors import ConfigurationError, NewerScheduleError, shown

Missed = Literal["once", "skip", "all"]
"""What follows for due times at which nothing ran: one run, none, or all."""

Overlap = Literal["skip", "allow"]
"""Whether a due time is skipped while the run before it goes on."""

SECOND = 10**9

MAX_MISSED = 1000
"""How many missed due times run at most with ``missed="all"``: a task that was due each second stays within reason."""

LATE = 60 * SECOND
"""After this, at the latest, a run is late."""

MAX_EVERY = 366 * 86400 * SECOND
"""The longest interval; a longer one is a mistake, such as one in milliseconds."""

HOUR = 3600 * SECOND

MAX_BEFORE = 20 * 366 * 86400 * SECOND
"""For how long back due times are looked for: a 29 February may be eight years ago."""

MAX_CALL = 16 * 1024
"""Bytes that the encoded arguments may take: they lie in a small file."""

MAX_NAME = 200
"""Bytes of a name that is quoted as in a URL: it is the name of a file as well."""

AROUND_CHANGE = 25 * 3600 * SECOND
"""For how long after a change of the clocks due times are looked at again: until the next day."""

CRON_FIELDS = 5
"""Minute, hour, day of the month, month, day of the week."""


@dataclass(frozen=True)
class Schedule:
    """When a task runs by itself, and with which arguments. :func:`checked` makes one of what an application gives."""

    #: The name by which people and files know it.
    name: str
    #: The name of the task.
    task: str
    #: Five fields, as in a crontab of Debian; ``None``: ``every`` is given.
    cron: str | None = None
    #: Nanoseconds between two due times, which are multiples of it; ``None``: ``cron`` is given.
    every: int | None = None
    #: The time zone of ``cron``.
    tz: str = "UTC"
    #: What follows for due times at which nothing ran.
    missed: Missed = "once"
    #: Whether a due time is skipped while the run before it goes on.
    overlap: Overlap = "skip"
    #: Nanoseconds after its due time at which a run may start at the latest; ``None``: no limit.
    max_late: int | None = None
    #: The arguments in the codec's bytes, as text.
    call: str = "[[],{}]"

    @cached_property
    def fingerprint(self) -> str:
        """What differs as soon as anything in the definition does: 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    # When it is due

    def next_after(self, time: int) -> int | None:
        """Return the first due time after ``time``; ``None`` if there is none within fifty years."""
        return next(self.after(time), None)

    def after(self, time: int) -> Iterator[int]:
        """Yield the due times after ``time``, in order."""
        if self.every is not None:
            while True:
                time += self.every - time % self.every
                yield time
        while (due := self._cron_after(time)) is not None:
            yield (time := due)

    def _cron_after(self, time: int) -> int | None:
        due = self._first_after(time)
        if due is None or self.tz == "UTC" or self._has_fixed_times:
            return due
        # cronsim steps over a change of the clocks in hours. Where they change by half an hour, as on Lord Howe Island,
        # it misses what is due on the rest of the day. After the change, the local time is as even as UTC is.
        before = due - AROUND_CHANGE
        if self._offset(before) == self._offset(due):
            return due
        start = max(time, self._change(before, due) - SECOND)
        local = self._local(due) - timedelta(seconds=(due - start) // SECOND)
        return min(due, start + (next(CronSim(self.cron or "", local)) - local) // timedelta(seconds=1) * SECOND)

    @property
    def _has_fixed_times(self) -> bool:
        """Whether Debian's cron, and cronsim, take it for times of day: these run once where the clocks change."""
        minute, hour = (self.cron or "").split()[:2]
        return not minute.startswith("*") and not hour.startswith("*")

    def _first_after(self, time: int) -> int | None:
        for found in CronSim(self.cron or "", datetime.fromtimestamp(time // SECOND, self._zone)):
            # In the hour that comes twice, cronsim begins with the first of both, which may be over.
            if (due := int(found.timestamp()) * SECOND) > time:
                return due
        return None

    def _offset(self, time: int) -> timedelta | None:
        return datetime.fromtimestamp(time // SECOND, self._zone).utcoffset()

    def _local(self, time: int) -> datetime:
        """Return the time of day in the zone, without the zone."""
        return datetime.fromtimestamp(time // SECOND, self._zone).replace(tzinfo=None)

    def _change(self, before: int, after: int) -> int:
        """Return the second, between these two times, at which the clocks change."""
        first, last = before // SECOND, after // SECOND
        while last - first > 1:
            middle = (first + last) // 2
            if self._offset(middle * SECOND) == self._offset(before):
                first = middle
            else:
                last = middle
        return last * SECOND

    def between(self, start: int, end: int) -> Iterator[int]:
        """Yield the due times after ``start`` up to ``end``, in order."""
        for due in self.after(start):
            if due > end:
                return
            yield due

    def before(self, time: int, number: int) -> list[int]:
        """Return the last ``number`` due times up to ``time``, latest first; fewer if there are not so many."""
        if self.every is not None:
            latest = time - time % self.every
            return [latest - n * self.every for n in range(number)]
        # Forwards, as they were found when they were due: backwards, cronsim knows others where the clocks change.
        found, span = list[int](), HOUR
        while len(found) < number and span < MAX_BEFORE:
            found, span = list(self.between(time - span, time)), 2 * span
        return found[: -number - 1 : -1]

    def is_moved(self, due: int) -> bool:
        """Whether the clocks skip the time of day that was asked for, so that it runs at the first one after that."""
        if self.cron is None:
            return False
        local = self._local(due)
        return next(CronSim(self.cron, local - timedelta(seconds=1))) != local

    @property
    def _zone(self) -> zoneinfo.ZoneInfo | Any:
        return UTC if self.tz == "UTC" else zoneinfo.ZoneInfo(self.tz)

    # Which due times run

    def following(self, due: int, now: int) -> int | None:
        """Return the due time whose job is made when that of ``due`` is about to start at ``now``.

        It may lie in the past: that of a run that was missed, which then starts at once.
        """
        earliest = due
        if self.missed == "all":
            earliest = max(due, self._oldest_of_all(now))
            if self.max_late is not None:
                earliest = max(earliest, now - self.max_late - 1)
        elif self.missed == "once" and (limit := self.max_late) is not None and now - due > limit:
            earliest = max(due, now - limit - 1)  # this one does not run, but a later one may be in time
        else:
            earliest = max(due, now)
        return self.next_after(earliest)

    def _oldest_of_all(self, now: int) -> int:
        """A time from which on at most about :data:`MAX_MISSED` due times have passed."""
        if self.every is not None:
            return now - MAX_MISSED * self.every
        start = datetime.fromtimestamp(now // SECOND + 1, self._zone)
        found = islice(CronSim(self.cron or "", start, reverse=True), MAX_MISSED - 1, None)
        return int(next(found).timestamp()) * SECOND - 1

    def why_not(self, due: int, now: int) -> str | None:
        """Return why the run of ``due`` must not start at ``now``, for the record; ``None`` if it may."""
        limit = LATE if self.missed == "skip" and self.max_late is None else self.max_late
        if limit is None or now - due <= limit:
            return None
        rule = f"max_late is {limit / SECOND:g} s" if self.max_late is not None else 'missed is "skip"'
        return f"it was {(now - due) / SECOND:.0f} s late, and {rule}"

    def is_late(self, due: int, now: int) -> bool:
        """Whether a run of ``due`` that starts at ``now`` is late: by a minute, or the next due time has come."""
        return now - due > LATE or (now > due and (self.next_after(due) or now) <= now)

    # For people and files

    def explain(self) -> str:
        """Say in English when it is due."""
        if self.every is not None:
            return f"Every {_duration(self.every)}"
        return CronSim(self.cron or "", datetime(2000, 1, 1)).explain()

    def to_json(self) -> dict[str, object]:
        """Return it as a dict for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Schedule:
        """Read what :meth:`to_json` returned.

        Raises:
            NewerScheduleError: It has fields or words that this version of spoolkit does not know.
        """
        unknown = [f"{field}={shown(fields[field], 20)}" for field in fields.keys() - cls.__dataclass_fields__.keys()]
        for field, words in (("missed", get_args(Missed)), ("overlap", get_args(Overlap))):
            if fields.get(field, words[0]) not in words:
                unknown.append(f"{field}={shown(fields[field], 20)}")
        name = fields.get("name")
        try:
            if not unknown:
                return cls(**fields)
        except TypeError as error:  # without a name, for example
            unknown = [str(error)]
        raise NewerScheduleError(
            f"the schedule {name} was declared by a newer version of spoolkit, and this one cannot read it: "
            f"{', '.join(sorted(unknown))}",
            schedule=str(name),
        )


def checked(
    name: object,
    task: str,
    *,
    cron: object = None,
    every: object = None,
    tz: object = None,
    missed: object = "once",
    overlap: object = "skip",
    max_late: object = None,
    call: bytes = b"[[],{}]",
) -> Schedule:
    """Make a schedule of what an application gives; see :func:`spoolkit.periodic`.

    Raises:
        ConfigurationError: An option has a value that cannot be used; ``setting`` names it.
    """
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(quote(name)) <= MAX_NAME:
        raise _refused("name", name, f"a printable text of 1 to {MAX_NAME} characters, fewer if they are not ASCII")
    if (cron is None) == (every is None):
        raise ConfigurationError(
            f"the schedule {name} has {'both' if cron is not None else 'neither'} cron and every: give one of them, "
            'such as cron="0 3 * * *" or every=60',
            setting="cron",
        )
    if missed not in get_args(Missed):
        raise _refused("missed", missed, f"one of {get_args(Missed)}")
    if overlap not in get_args(Overlap):
        raise _refused("overlap", overlap, f"one of {get_args(Overlap)}")
    if cron is None and tz is not None:
        raise _refused("tz", tz, "it only with cron: the times of every=... are the same in all zones")
    if len(call) > MAX_CALL:
        raise ConfigurationError(
            f"the arguments of the schedule {name} take {len(call)} bytes, the limit is {MAX_CALL}: have the task load "
            "what it needs",
            setting="args",
        )
    made = Schedule(
        name,
        task,
        None if cron is None else _cron(cron),
        None if every is None else _nanoseconds("every", every, SECOND),
        "UTC" if tz is None else _zone_name(tz),
        missed,  # type: ignore[arg-type]
        overlap,  # type: ignore[arg-type]
        None if max_late is None else _nanoseconds("max_late", max_late, 0),
        call.decode(),
    )
    if made.next_after(0) is None:
        raise _refused("cron", cron, "a day that comes: this one never does")
    return made


def _cron(cron: object) -> str:
    if not isinstance(cron, str):
        raise _refused("cron", cron, 'a text of five fields, such as "0 3 * * *"')
    fields = cron.split()
    if len(fields) != CRON_FIELDS:
        raise _refused("cron", cron, "five fields: minute, hour, day of the month, month, day of the week")
    text = " ".join(fields)
    try:
        CronSim(text, datetime(2000, 1, 1))
    # An incomplete field, such as "1-", raises others.
    except (CronSimError, ValueError, AssertionError, KeyError, IndexError) as error:
        raise _refused("cron", cron, f"five fields as in a crontab ({error})") from None
    return text


def _zone_name(tz: object) -> str:
    name = tz.key if isinstance(tz, zoneinfo.ZoneInfo) else tz
    if isinstance(name, str) and (name == "UTC" or is_zone(name)):
        return name
    if not has_zones():
        raise ConfigurationError(
            f"tz is {shown(tz)}, but this machine has no time zones: install the package tzdata", setting="tz"
        )
    raise _refused("tz", tz, "the name of a time zone, such as Europe/Berlin")


@lru_cache
def is_zone(name: str) -> bool:
    """Return whether this machine knows the time zone ``name``."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def has_zones() -> bool:
    """Return whether this machine knows any time zones: slim images have none, without the package tzdata."""
    return is_zone("Europe/Berlin")


def _nanoseconds(setting: str, value: object, least: int) -> int:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    wanted = f"seconds or a timedelta, {'one second or more' if least else 'zero or more'} and at most a year"
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= MAX_EVERY / SECOND:
        raise _refused(setting, value, wanted)
    # To the millisecond, which a float holds for any time of a job.
    nanoseconds = round(seconds * 1000) * (SECOND // 1000)
    if nanoseconds < least:
        raise _refused(setting, value, wanted)
    return nanoseconds


def _refused(setting: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{setting} is {shown(value)}: give {wanted}", setting=setting)


def _duration(nanoseconds: int) -> str:
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if nanoseconds % (size * SECOND) == 0:
            number = nanoseconds // (size * SECOND)
            return unit if number == 1 else f"{number} {unit}s"
    seconds = nanoseconds / SECOND
    return "second" if seconds == 1 else f"{seconds:g} seconds"
