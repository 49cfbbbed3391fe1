"""When does a cron of uWSGI fire? Pure: no input or output.

The rule is that of ``uwsgi_cron_task_needs_execution()`` in core/master_utils.c of uWSGI 2.0.31: a number is a value, a
negative one is a step, and the day of the month and that of the week are joined by "or" if both are values.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from spoolkit.errors import ConfigurationError

RANGES = {
    "minute": range(60),
    "hour": range(24),
    "day": range(1, 32),
    "month": range(1, 13),
    "dayweek": range(7),
}
"""The values of each field, in the order of a crontab; Sunday is 0."""


@dataclass(frozen=True)
class Cron:
    """The five numbers of a cron of uWSGI. Each may be a value; -1: any value; -5: each value that 5 divides.

    Raises:
        ConfigurationError: A field is no number, or the cron would never fire.
    """

    minute: int
    hour: int
    day: int
    month: int
    #: 0 to 6, from Sunday on; 7 is Sunday as well.
    dayweek: int

    def __post_init__(self) -> None:
        for name in RANGES:
            number = getattr(self, name)
            if type(number) is not int:
                raise ConfigurationError(f"{name} is {number!r:.80}: give a number, -1 for any", setting=name)
            is_either = name in ("day", "dayweek") and self._has_two_days
            if not self._values(name) and not (is_either and (self._values("day") or self._values("dayweek"))):
                raise ConfigurationError(
                    f"{name} is {number}, which uWSGI never finds: give -1 for any value, a value from "
                    f"{RANGES[name][0]} to {RANGES[name][-1]}, or a step such as -2",
                    setting=name,
                )

    def _values(self, name: str) -> AbstractSet[int]:
        number = getattr(self, name)
        if name == "dayweek" and number == 7:
            number = 0
        return {value for value in RANGES[name] if (value == number if number >= 0 else value % -number == 0)}

    @property
    def _has_two_days(self) -> bool:
        """Whether it fires on a day of the month, and on one of the week as well."""
        return self.day >= 0 and self.dayweek >= 0

    def matches(self, local: datetime) -> bool:
        """Return whether it fires in this minute.

        Args:
            local: The local time.
        """
        if not all(getattr(local, name) in self._values(name) for name in ("minute", "hour", "month")):
            return False
        days = local.day in self._values("day"), local.isoweekday() % 7 in self._values("dayweek")
        return any(days) if self._has_two_days else all(days)

    def crontab(self) -> str:
        """Return five fields of a crontab that is due whenever this fires.

        It is due more often if both days are steps or one of them is: a crontab can only join them by "or". Then
        :meth:`matches` tells.
        """
        fields = {name: _field(name, self._values(name)) for name in RANGES}
        if not self._has_two_days and "*" not in (fields["day"], fields["dayweek"]):
            fields["dayweek"] = "*"
        return " ".join(fields.values())


def _field(name: str, values: AbstractSet[int]) -> str:
    # Of two days, one that never comes leaves the other one alone.
    is_any = not values or len(values) == len(RANGES[name])
    return "*" if is_any else ",".join(map(str, sorted(values)))
