"""What all commands share: the application's context, errors as exit codes, ``--json``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any, TypeVar

import click
from flask.cli import AppGroup, with_appcontext

from spoolkit.errors import SpoolkitError
from spoolkit.job import State
from spoolkit.store import locations
from spoolkit.system import clock, files, log

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class SpoolGroup(AppGroup):
    """Exit codes: 0 where all is well, 1 where it is not, 2 where the command was not understood."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpoolkitError as error:
            raise click.ClickException(log.one_line(str(error))) from error


def command(name: str, *, sees: bool = True) -> Callable[[F], click.Command]:
    """A command in the application's context, with ``--json``, which reaches it as ``as_json``.

    One that ``sees`` jobs ends with an error where the spool directory is not there, or is another user's.
    """

    def made(function: F) -> click.Command:
        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for directory in locations.directories() if sees else ():
                files.check_readable(directory)
            return function(*args, **kwargs)

        flag = click.option("--json", "as_json", is_flag=True, help="For scripts: JSON on standard output.")
        return click.command(name)(with_appcontext(flag(checked)))

    return made


def say_json(value: object, *, indent: int | None = 2) -> None:
    """Print ``value`` for a script; without ``indent`` on one line. What JSON has no form for appears as its text."""
    click.echo(json.dumps(value, indent=indent, default=str))


def seconds(text: str) -> float:
    """A time span such as ``90``, ``15m``, ``2h``, ``7d`` or ``1w``, in seconds; an option's type."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw]?)", text, re.ASCII)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time span: give seconds, or such as 15m, 2h, 7d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def moment(text: str) -> float:
    """Unix time of a time span ago, or of a date and time (local, unless it names its zone); an option's type."""
    try:
        # A time span first: to Python 3.11 and later, some digits alone are dates.
        return clock.now() - seconds(text)
    except click.BadParameter:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(f"{text!r} is no moment: give such as 2h (ago), or 2026-11-21T08:00") from None


def states(text: str) -> frozenset[State]:
    """States, separated by commas; an option's type."""
    known = {str(state): state for state in State}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is no state: give some of {', '.join(known)}")
    return frozenset(known[name] for name in names)
