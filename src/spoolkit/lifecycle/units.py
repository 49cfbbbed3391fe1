"""What are the systemd units of a site without uWSGI: the one of its jobs, and the one of its HTTP server?"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from spoolkit.errors import ConfigurationError

SERVERS = ("gunicorn", "granian", "waitress")
"""HTTP servers whose units are known."""

REQUESTS = 30
"""Seconds that a stop gives to requests, before the grace period of thread jobs. gunicorn's own default."""

MARGIN = 15
"""Seconds after the grace period at which systemd kills what is left."""

_UNIT = """\
# /etc/systemd/system/{name}.service
[Unit]
Description={description}
After=network.target{unit}

[Service]
{kind}
User={user}
WorkingDirectory={folder}
{environment}# What others must not read, one NAME=value a line. The file may be missing.
EnvironmentFile=-/etc/{site}.env
ExecStart={command}
{reload}# Send the signal to the main process only: it stops the others.
KillMode=mixed
KillSignal=SIGTERM
{stop}
TimeoutStopSec={timeout}
Restart={restart}
# Not PrivateTmp: a job may read what a request has left in /tmp. Not PrivatePIDs: each process must see the others.
# Remove these lines if the site runs sendmail, sudo or another program with more rights than its user.
{hardening}

[Install]
WantedBy=multi-user.target
"""

HARDENING = (
    ("NoNewPrivileges", "true"),
    ("ProtectSystem", "full"),
    ("ProtectKernelTunables", "true"),
    ("ProtectControlGroups", "true"),
    ("RestrictSUIDSGID", "true"),
    ("LockPersonality", "true"),
)
"""Lines of a unit that take rights away which neither spoolkit nor an HTTP server needs."""

_NOTIFY = "# It tells systemd when it is ready.\nType=notify"
_RELOAD = "ExecReload=/bin/kill -HUP $MAINPID\n"


@dataclass(frozen=True)
class Site:
    """What both units of a site have in common."""

    #: The name of the HTTP server's unit, without ``.service``; that of the jobs ends in ``-jobs``.
    name: str
    #: The application: ``module:attribute``, with ``()`` at its end where the attribute is a factory.
    entry_point: str
    #: The user that all processes of the site run as.
    user: str
    #: The absolute path of the folder in which they start.
    folder: str
    #: The absolute path of the Python that has the site's packages.
    python: str
    #: Environment variables.
    environment: Mapping[str, str] = field(default_factory=dict)


def jobs(site: Site, *, grace: float, processes: int | None = None) -> str:
    """Return the unit of ``flask spool run``.

    Args:
        site: The site.
        grace: The grace period, ``SPOOLKIT_GRACE``, in seconds.
        processes: How many jobs of each queue run at once; ``None``: as many as ``SPOOLKIT_QUEUES`` says.

    Raises:
        ConfigurationError: A value cannot stand in a unit.
    """
    number = [] if processes is None else ["--processes", str(processes)]
    return _unit(
        site,
        f"{site.name}-jobs",
        f"The jobs of {site.name}",
        ["flask", "--app", site.entry_point, "spool", "run", *number],
        kind="# It tells systemd when its processes look for jobs, and how they are: systemctl status shows it.\n"
        "Type=notify\n"
        "# If no process of a queue has been alive for so long, all are started again.\n"
        "WatchdogSec=60",
        stop=f"# The grace period of {grace:g} s, and {MARGIN} s more. While jobs finish, it asks for more by itself.",
        timeout=math.ceil(grace) + MARGIN,
        restart="always",
    )


def http(site: Site, server: str, *, address: str, processes: int, threads: int, thread_grace: float) -> str:
    """Return the unit of an HTTP server.

    Args:
        site: The site.
        server: One of :data:`SERVERS`.
        address: ``host:port``, or the path of a Unix socket.
        processes: How many processes serve; for waitress always 1.
        threads: How many threads each of them has.
        thread_grace: The grace period of thread jobs, ``SPOOLKIT_THREAD_GRACE``, in seconds.

    Raises:
        ConfigurationError: A value cannot stand in a unit, or the server cannot do this.
    """
    stop = REQUESTS + math.ceil(thread_grace)
    return _unit(
        site,
        site.name,
        f"{site.name}, served by {server}",
        _command(server, site.entry_point, address, processes, threads, stop),
        kind=_NOTIFY if server == "gunicorn" else "Type=exec",
        unit=f"\nWants={site.name}-jobs.service",
        reload="" if server == "waitress" else _RELOAD,
        stop=f"# {REQUESTS} s for requests, {thread_grace:g} s as the grace period of thread jobs, {MARGIN} s more.",
        timeout=stop + MARGIN,
        restart="on-failure",
    )


def _command(server: str, entry_point: str, address: str, processes: int, threads: int, stop: int) -> list[str]:
    host, colon, port = address.rpartition(":")
    is_socket = "/" in address
    if not is_socket and not (colon and port.isascii() and port.isdigit()):
        raise ConfigurationError(
            f"the address {address!r} is neither host:port nor the path of a socket: give 127.0.0.1:5000, for example"
        )
    target = entry_point.removesuffix("()")
    makes = target != entry_point
    if server == "gunicorn":
        bind = f"unix:{address}" if is_socket else address
        words = ["--bind", bind, "--workers", processes, "--threads", threads, "--graceful-timeout", stop]
        return [server, *map(str, words), entry_point]
    if server == "granian":
        # Without --respawn-failed-workers one process that dies ends all of them.
        where = ["--uds", address] if is_socket else ["--host", host.strip("[]"), "--port", port]
        words = ["--workers", processes, "--blocking-threads", threads, "--respawn-failed-workers"]
        words += ["--workers-kill-timeout", stop, *["--factory"] * makes]
        return [server, "--interface", "wsgi", *where, *map(str, words), target]
    if processes != 1:
        raise ConfigurationError("waitress serves in one process: give more threads instead of more processes")
    where = [f"--unix-socket={address}"] if is_socket else [f"--listen={address}"]
    return [server, *where, f"--threads={threads}", *["--call"] * makes, target]


def _unit(
    site: Site,
    name: str,
    description: str,
    arguments: Sequence[str],
    *,
    kind: str,
    stop: str,
    timeout: int,
    restart: str,
    unit: str = "",
    reload: str = "",
) -> str:
    for value in (site.name, site.entry_point, site.user, site.folder, *site.environment.values(), *arguments):
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise ConfigurationError(f"{value!r} has a control character, and cannot stand in a unit of systemd")
    environment = "".join(f"Environment={_word(f'{key}={value}')}\n" for key, value in site.environment.items())
    # Only a command has variables: elsewhere a dollar sign is itself.
    command = " ".join(_word(word).replace("$", "$$") for word in (site.python, "-m", *arguments))
    return _UNIT.format(
        name=name,
        site=site.name,
        description=_escaped(description),
        unit=unit,
        kind=kind,
        user=_escaped(site.user),
        folder=_escaped(site.folder),
        environment=environment,
        command=command,
        reload=reload,
        stop=stop,
        timeout=timeout,
        restart=restart,
        hardening="\n".join(f"{key}={value}" for key, value in HARDENING),
    )


def _word(text: str) -> str:
    """The text as one word of a line, in the notation of systemd.syntax(7)."""
    if re.fullmatch(r"[\w@+=:,./()\[\]-]+", text, re.ASCII):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escaped(quoted)}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
