"""The settings, read from ``SPOOLKIT_*`` in the application's configuration and in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spoolkit.errors import ConfigurationError

SPOOL_FOLDER = "my_spools"

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


@dataclass(frozen=True)
class Settings:
    """Where and how jobs are kept.

    ``spool``        the spool directory, absolute; under uWSGI the directory that uWSGI serves comes first
    ``fsync``        write each job through to the disk before the call returns
    ``max_body``     bytes that a job's arguments may take
    ``retry_delay``  seconds before a failed job runs again
    ``dev_runner``   run jobs beside ``flask run``
    """

    spool: str
    fsync: bool = False
    max_body: int = 64 * 1024 * 1024
    retry_delay: float = 5.0
    dev_runner: bool = True

    @classmethod
    def load(cls, config: Mapping[str, object], root: str) -> Settings:
        """The settings of an application.

        ``config`` (``app.config``) comes before the environment, the environment before the start values. ``root`` is
        the application's directory, to which a relative ``SPOOLKIT_SPOOL`` refers. Raises :class:`ConfigurationError`.
        """

        def given(name: str) -> object:
            # Set to nothing, as compose files and shells do with what they do not know, is not set.
            return config[name] if config.get(name) is not None else os.environ.get(name) or None

        spool = given("SPOOLKIT_SPOOL") or SPOOL_FOLDER
        if not isinstance(spool, (str, os.PathLike)):
            raise ConfigurationError(f"SPOOLKIT_SPOOL is {spool!r}: give a directory", setting="SPOOLKIT_SPOOL")
        return cls(
            spool=os.path.realpath(os.path.join(root, os.fspath(spool))),
            fsync=_flag("SPOOLKIT_FSYNC", given("SPOOLKIT_FSYNC"), cls.fsync),
            max_body=int(_number("SPOOLKIT_MAX_BODY", given("SPOOLKIT_MAX_BODY"), cls.max_body)),
            retry_delay=_number("SPOOLKIT_RETRY_DELAY", given("SPOOLKIT_RETRY_DELAY"), cls.retry_delay),
            dev_runner=_flag("SPOOLKIT_DEV_RUNNER", given("SPOOLKIT_DEV_RUNNER"), cls.dev_runner),
        )


def _flag(name: str, value: object, start: bool) -> bool:
    if value is None:
        return start
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ConfigurationError(f"{name} is {value!r}: give true or false", setting=name)


def _number(name: str, value: object, start: float) -> float:
    if value is None:
        return start
    try:
        number = float(str(value))
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ConfigurationError(f"{name} is {value!r}: give a number, zero or more", setting=name)
    return number


_source: Callable[[], Settings | None] = lambda: None  # noqa: E731


def use(source: Callable[[], Settings | None]) -> None:
    """Take the settings from ``source`` (the Flask extension) as long as it has some."""
    global _source
    _source = source


def current(beside: str | None = None) -> Settings:
    """The settings in force: the application's, else the environment's.

    ``beside`` is the directory of the module that asks; where there is no application, a relative spool directory
    lies there (a cron script's own current directory is seldom the site's).
    """
    return _source() or Settings.load({}, beside or os.getcwd())
