"""What do all commands share? The application context, exit codes for errors, ``--json``, types of options."""

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
    """The group of commands. It exits with 0 on success, 1 on an error, 2 where the command line is invalid."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpoolkitError as error:
            raise click.ClickException(log.one_line(str(error))) from error


def command(name: str, *, needs_spool_dir: bool = True) -> Callable[[F], click.Command]:
    """Make a command that runs in the application context and has ``--json``, passed as ``as_json``.

    Args:
        name: The name of the command.
        needs_spool_dir: Whether the command fails where a spool directory is missing or cannot be read.

    Returns:
        A decorator for the function.
    """

    def decorate(function: F) -> click.Command:
        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for spool_dir in locations.spool_dirs() if needs_spool_dir else ():
                files.check_readable(spool_dir)
            return function(*args, **kwargs)

        flag = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
        return click.command(name)(with_appcontext(flag(checked)))

    return decorate


def print_json(value: object, *, indent: int | None = 2) -> None:
    """Print ``value`` as JSON, on one line with ``indent=None``. Other types are printed as text."""
    click.echo(json.dumps(value, indent=indent, default=str))


def seconds(text: str) -> float:
    """The type of an option: a time span such as ``90``, ``15m``, ``2h``, ``7d`` or ``1w``, in seconds."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhdw]?)", text, re.ASCII)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a time span: give seconds, or a time span such as 15m, 2h, 7d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def moment(text: str) -> float:
    """The type of an option: a time span ago, or a date and time (local without a zone), as unix time in seconds."""
    try:
        # A time span first: to Python 3.11 and later, some digits alone are dates.
        return clock.now() - seconds(text)
    except click.BadParameter:
        pass
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.BadParameter(
            f"{text!r} is not a time: give a time span such as 2h, or a time such as 2026-11-21T08:00"
        ) from None


def states(text: str) -> frozenset[State]:
    """The type of an option: states, separated by commas."""
    known = {str(state): state for state in State}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is not a state: give some of {', '.join(known)}")
    return frozenset(known[name] for name in names)
