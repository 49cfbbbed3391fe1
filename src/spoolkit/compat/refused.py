"""Which names of uwsgidecorators cannot work without uWSGI, and what stands in their place?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from spoolkit.errors import ConfigurationError

JOB = "declare the function with @spool, and call it"

OWN = "uWSGI calls it; spoolkit runs jobs by itself, and nothing needs to be called"

INSTEAD = {
    "erlang": "no other server speaks to Erlang's nodes",
    "farm": JOB,
    "farm_loop": JOB,
    "filemon": "watch the file with a path unit of systemd, or in a BackgroundThread",
    "harakiri": "@spoolkit.spool(timeout=...) bounds a job, and the HTTP server's own timeout a request",
    "manage_spool_request": OWN,
    "mule": "add a BackgroundThread with where='one process'",
    "mule_brain": "add a BackgroundThread with where='one process'",
    "mule_brainloop": "add a BackgroundThread with where='one process'",
    "mule_msg_dispatcher": OWN,
    "mulefunc": JOB,
    "muleloop": "add a BackgroundThread with where='one process'",
    "mulemsg": JOB,
    "mulemsg_loop": JOB,
    "postfork_chain_hook": OWN,
    "rpc": "no other server passes on calls between processes: write a view, or a job whose result is waited for",
    "signal": "only uwsgi.signal() raises it: " + JOB,
}
"""What to do in place of each name."""


def refusing(name: str) -> Callable[..., NoReturn]:
    """Return what stands for ``name``, and raises an error when it is used."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise ConfigurationError(
            f"{name} of uwsgidecorators needs uWSGI: {INSTEAD[name]} (docs/compat.md)", setting=name
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse
