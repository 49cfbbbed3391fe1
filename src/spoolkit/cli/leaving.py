"""``unit``, ``moveout``: commands for a site that another server than uWSGI serves."""

from __future__ import annotations

import os
import pwd
import re
import sys
from dataclasses import asdict

import click
from flask import current_app

from spoolkit import application, settings
from spoolkit.cli import entry_point
from spoolkit.cli.group import command, print_json
from spoolkit.lifecycle import units
from spoolkit.store import locations
from spoolkit.system import log
from spoolkit.uwsgi import moveout as moving


@command("unit", needs_spool_dir=False)
@click.option("--server", type=click.Choice(units.SERVERS), help="The unit of this HTTP server, not that of the jobs.")
@click.option("--name", help="The name of the site, from which the names of the units are made.  [default: this one's]")
@click.option("--user", help="The user that the site runs as.  [default: the owner of the spool directory]")
@click.option("--module", help="The application, such as shop:create_app().  [default: this one]")
@click.option("--address", help="Where the HTTP server listens.  [default: $HOST:$PORT, else 127.0.0.1:5000]")
@click.option(
    "--processes",
    type=click.IntRange(1, settings.MAX_PROCESSES),
    help="Jobs of each queue that run at once, or HTTP processes.  [default: SPOOLKIT_QUEUES, or 2; waitress has 1]",
)
@click.option("--threads", type=click.IntRange(1, 512), default=4, help="Threads of each HTTP process.  [default: 4]")
def unit(
    server: str | None,
    name: str | None,
    user: str | None,
    module: str | None,
    address: str | None,
    processes: int | None,
    threads: int,
    as_json: bool,
) -> None:
    """Print the systemd unit of this site's jobs, for a site without uWSGI.

    With --server, print the one of its HTTP server. Run it in the folder in which the site starts, with the
    environment that it starts in: the settings of spoolkit in it are written into the unit.
    """
    config = application.settings()
    site = _site(name, user, module)
    if server is None:
        text = units.jobs(site, grace=config.grace, processes=processes)
        title = f"{site.name}-jobs.service"
    else:
        here = f"{os.environ.get('HOST') or '127.0.0.1'}:{os.environ.get('PORT') or '5000'}"
        text = units.http(
            site,
            server,
            address=address or here,
            processes=processes or (1 if server == "waitress" else 2),
            threads=threads,
            thread_grace=config.thread_grace,
        )
        title = f"{site.name}.service"
    if as_json:
        print_json({"name": title, "unit": text})
    else:
        click.echo(text, nl=False)


def _site(name: str | None, user: str | None, module: str | None) -> units.Site:
    """What both units have in common."""
    made_by = entry_point.of_option(module) if module else entry_point.of_command()
    name = name or re.sub(r"[^\w.-]", "-", current_app.name, flags=re.ASCII).strip("-.") or "site"
    if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII):
        raise click.BadParameter("give letters, digits, '-', '_' and '.'", param_hint="--name")
    environment = {key: os.environ[key] for key in sorted(settings.NAMES) if os.environ.get(key)}
    if not current_app.config.get("SPOOLKIT_SPOOL"):  # which takes precedence over the environment
        environment["SPOOLKIT_SPOOL"] = locations.spool_dir()
    if folder := entry_point.folder(made_by):
        environment["PYTHONPATH"] = folder
    return units.Site(
        name=name,
        entry_point=made_by,
        user=user or _owner(),
        folder=os.path.realpath(os.curdir),
        python=sys.executable,
        environment=environment,
    )


def _owner() -> str:
    """The user that owns the spool directory, or else the one that runs this command."""
    try:
        uid = os.stat(locations.spool_dir()).st_uid
    except FileNotFoundError:
        uid = os.geteuid()
    if uid == 0:
        raise click.BadParameter("a site should not run as root: give the user that it runs as", param_hint="--user")
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@command("moveout", needs_spool_dir=False)
@click.argument("ini")
def moveout(ini: str, as_json: bool) -> None:
    """Print what stands in the place of each line of a uwsgi.ini under another server.

    INI is the file, or FILE:SECTION. Included files are read, conditions and placeholders are resolved as uWSGI would
    do in this environment. Lines for which nothing stands, and unknown ones, are named as such.
    """
    try:
        found = moving.answers(ini)
    except OSError as error:
        raise click.ClickException(f"{error.filename or ini} cannot be read: {error.strerror}") from error
    if as_json:
        print_json([asdict(answer) for answer in found])
        return
    for answer in found:
        click.echo(log.one_line(f"{answer.option} = {answer.value}"))
        for kind, text in answer.places.items():
            click.echo(log.one_line(f"    {kind}: {text}"))
        if answer.verdict is not moving.Verdict.REPLACED:
            click.echo(log.one_line(f"    {_VERDICTS[answer.verdict]}: {answer.note}"))
        elif answer.note:
            click.echo(log.one_line(f"    note: {answer.note}"))


_VERDICTS = {
    moving.Verdict.NEEDLESS: "not needed",
    moving.Verdict.NOTHING: "no option",
    moving.Verdict.UNKNOWN: "unknown",
}
