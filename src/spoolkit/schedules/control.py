"""What do people see of schedules, and what can they do to them? List, pause, resume; no click here."""

from __future__ import annotations

import difflib
import zoneinfo
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice

from spoolkit import application
from spoolkit.errors import NewerScheduleError, StoreUnavailableError, UnknownScheduleError, shown
from spoolkit.job import FINISHED, Status
from spoolkit.schedules import declared, ticks
from spoolkit.schedules.schedule import SECOND, Schedule, is_zone
from spoolkit.settings import Settings
from spoolkit.spooldir import schedules
from spoolkit.spooldir.schedules import is_tick_of, may_be_tick, tick_id
from spoolkit.store import locations
from spoolkit.system import clock, files, log

RUNS = 5
"""How many of the last and of the next runs are shown."""

MAX_EXAMINED = 5000
"""Records of the newest jobs among which runs are looked for at times that are not due any more."""


@dataclass(frozen=True)
class Run:
    """A run that is to come."""

    #: When, unix time in seconds (UTC).
    time: float
    #: Whether the clocks skip the time of day that was asked for, so that it runs right after the gap.
    is_moved: bool


@dataclass(frozen=True)
class Known:
    """A schedule, as people see it."""

    #: Its name.
    name: str
    #: When it is due and what runs; ``None``: a newer version of spoolkit has declared it, and this one cannot read it.
    schedule: Schedule | None
    #: When it is due, in English; or why that is not known.
    text: str
    #: Whether the code that this process has loaded declares it.
    is_declared: bool
    #: Whether a process that serves has added it.
    is_added: bool
    #: Whether somebody has paused it.
    paused: bool
    #: Its last runs that are over, latest first.
    last: tuple[Status, ...]
    #: Its next runs; empty while it is paused.
    next: tuple[Run, ...]

    def local(self, time: float) -> str:
        """Return unix time in seconds as the date and time in the zone of the schedule."""
        tz = "UTC" if self.schedule is None else self.schedule.tz
        zone = zoneinfo.ZoneInfo(tz) if is_zone(tz) else UTC
        return f"{datetime.fromtimestamp(time, zone):%Y-%m-%d %H:%M:%S %Z}"


def known() -> list[Known]:
    """Return all schedules that the code declares or a process that serves has added, by name.

    Raises:
        SpoolUnavailableError: The spool directory cannot be read.
        StoreUnavailableError: This process may not read the store.
    """
    own, spool_dir = declared.here(), ticks.own_spool_dir(application.settings())
    with _using(spool_dir):
        states = {state.name: state for state in schedules.read_all(spool_dir) if state.definition is not None}
    found = [_known(name, own.get(name), states.get(name)) for name in sorted(own.keys() | states.keys())]
    last = _last([one.schedule for one in found if one.schedule is not None])
    return [replace(one, last=last.get(one.name, ())) for one in found]


def _known(name: str, own: Schedule | None, state: schedules.State | None) -> Known:
    schedule, paused, start = own, False, _now()
    if state is not None and state.definition is not None:
        try:
            schedule, paused = Schedule.from_json(state.definition), state.paused
        except NewerScheduleError as error:
            return Known(name, None, str(error), own is not None, True, state.paused, (), ())
        start = _now() if state.next is None else state.next - 1
    if schedule is None:
        raise LookupError(name)
    # Without its zone, nothing is known of the times.
    runs = islice(schedule.after(start), RUNS) if not paused and is_zone(schedule.tz) else ()
    next = tuple(Run(due / SECOND, schedule.is_moved(due)) for due in runs)
    is_added = state is not None
    return Known(name, schedule, schedule.explain(), own is not None, is_added, paused, (), next)


def _last(known: Iterable[Schedule]) -> dict[str, tuple[Status, ...]]:
    """The last runs of schedules that are over, by name, latest first.

    Their ids follow from the times that were due, so that no search among all jobs is needed.
    """
    now, store = _now(), locations.store()
    ids, last = dict[str, list[str]](), dict[str, tuple[Status, ...]]()
    try:
        for one in known:
            due = one.before(now, 2 * RUNS) if is_zone(one.tz) else []
            ids[one.name] = [tick_id(one.name, time) for time in due]
            last[one.name] = _over(store.statuses_of(ids[one.name]))
        # Of these, other times were due earlier: the code was changed, or they were paused for long.
        lacking = {name: list[str]() for name, runs in last.items() if len(runs) < RUNS}
        for id in filter(may_be_tick, store.ids("", MAX_EXAMINED) if lacking else ()):
            for name, earlier in lacking.items():
                if len(earlier) < 2 * RUNS and is_tick_of(name, id):
                    earlier.append(id)
        for name, earlier in lacking.items():
            last[name] = _over(store.statuses_of([*ids[name], *earlier]))
    except StoreUnavailableError as error:
        log.unrecorded(error)
    return last


def _over(found: Iterable[Status]) -> tuple[Status, ...]:
    return tuple(islice((status for status in found if status.state in FINISHED), RUNS))


def pause(name: str) -> None:
    """Let no job of the schedule start until :func:`resume`. A running one goes on.

    Raises:
        UnknownScheduleError: There is no such schedule, or no process that serves has added it yet.
        SpoolUnavailableError: This process may not change the spool directory.
    """
    with _changing(name) as (spool_dir, state, config):
        schedules.write(spool_dir, replace(state, paused=True), fsync=config.fsync)


def resume(name: str) -> bool:
    """Let the schedule run again, from its next due time on. What a spooler saw due while it was paused does not run.

    Returns:
        Whether it was paused.

    Raises:
        UnknownScheduleError: There is no such schedule.
        NewerScheduleError: A newer version of spoolkit has declared it.
        SpoolUnavailableError: This process may not change the spool directory.
        StoreUnavailableError: The store cannot be read.
    """
    with _changing(name) as (spool_dir, state, config):
        ticks.write_and_make(
            ticks.heal(replace(state, paused=False), _now(), spool_dir, locations.store(config), config),
            spool_dir,
            config,
        )
        return state.paused


def task_of(name: str) -> Schedule:
    """Return the schedule of this name as the code declares it, or else as it was added.

    Raises:
        UnknownScheduleError: There is no such schedule.
        NewerScheduleError: A newer version of spoolkit has declared it, and this process does not.
    """
    if (own := declared.here().get(name)) is not None:
        return own
    spool_dir = ticks.own_spool_dir(application.settings())
    with _using(spool_dir):
        state = schedules.read(spool_dir, name)
    if state is None or state.definition is None:
        raise _unknown(name)
    return Schedule.from_json(state.definition)


@contextmanager
def _changing(name: str) -> Iterator[tuple[str, schedules.State, Settings]]:
    config = application.settings()
    spool_dir = ticks.own_spool_dir(config)
    with _using(spool_dir):
        files.check_user(spool_dir)
        with schedules.locked(spool_dir):
            state = schedules.read(spool_dir, name)
            if state is None or state.definition is None:
                if name not in declared.here():
                    raise _unknown(name)
                raise UnknownScheduleError(
                    f"no spooler knows the schedule {name} yet: a process that serves adds it at its start",
                    schedule=name,
                )
            yield spool_dir, state, config


@contextmanager
def _using(spool_dir: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise files.unavailable(spool_dir, error) from error


def _unknown(name: str) -> UnknownScheduleError:
    names = sorted(one.name for one in known())
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    return UnknownScheduleError(
        f"there is no schedule {shown(name)}; there {'is' if len(near) == 1 else 'are'} {', '.join(near) or 'none'}",
        schedule=name,
    )


def _now() -> int:
    return int(clock.now() * SECOND)
