"""Will the periodic tasks run when they are due?"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator

from spoolkit import registry
from spoolkit.doctor.findings import START_COMMAND, Check, Finding, Site, printable, quoted
from spoolkit.spooldir import schedules
from spoolkit.spooldir.schedules import State

CLOCK_STEP = 3600.0
"""Seconds by which the latest run of a schedule may be in the future, before the clock must have been put back."""


def _active(site: Site) -> Iterator[State]:
    return (state for state in schedules.read_all(site.spool_dir) if state.definition is not None)


def _time_zones(site: Site) -> Iterator[Finding]:
    for state in _active(site):
        zone = str((state.definition or {}).get("tz", "UTC"))
        try:
            zoneinfo.ZoneInfo(zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            if zone != "UTC":
                problem = f"this machine does not know the time zone {printable(zone)} of {printable(state.name)}"
                yield Finding("time-zones", problem, "pip install tzdata")


def _schedules(site: Site) -> Iterator[Finding]:
    declared = registry.this_process.schedules
    for state in _active(site):
        name = f"the schedule {printable(state.name)}"
        # Without any task, the application was not loaded.
        if registry.this_process.tasks and state.name not in declared:
            problem = f"{name} is not declared by the code, and is removed when its next run is due"
            yield Finding(
                "undeclared-schedule", problem, "flask spool periodic  # if it should be: import it", "warning"
            )
        if state.paused or state.next is None:
            continue
        late = site.now - state.next / 1e9
        if late > site.max_due_age:
            problem = f"{name} is overdue by {late:.0f} s"
            yield Finding("overdue-schedule", problem, "flask spool stats" if site.spoolers else START_COMMAND)
        if state.fired / 1e9 > site.now + CLOCK_STEP:
            problem = f"{name} has run for a time in the future, and waits for it: the clock was put back"
            remedy = f"rm {quoted(schedules.path_of(site.spool_dir, state.name))}"
            yield Finding("schedule-clock", problem, remedy)


CHECKS: tuple[Check, ...] = (_time_zones, _schedules)
