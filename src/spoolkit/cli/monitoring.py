"""``metrics`` and ``check``: what a monitoring system asks."""

from __future__ import annotations

import click

from spoolkit.admin import health
from spoolkit.cli.group import command, print_json, seconds
from spoolkit.system import log


@command("metrics")
def metrics(as_json: bool) -> None:
    """Print the figures for Prometheus.

    The same as GET /metrics, for the textfile collector of node_exporter.
    """
    try:
        from spoolkit.metrics import text
    except ImportError as error:
        raise click.ClickException("prometheus-client is missing: pip install 'spoolkit[metrics]'") from error
    if as_json:
        print_json(text.samples())
    else:
        click.echo(text.render(), nl=False)


@command("check", needs_spool_dir=False)
@click.option(
    "--max-due-age",
    type=seconds,
    metavar="SPAN",
    help="How long a job may wait after it is due.  [default: SPOOLKIT_MAX_DUE_AGE]",
)
def check(max_due_age: float | None, as_json: bool) -> None:
    """Find out whether the site is ready for jobs, as GET /health/ready does.

    Exits with 1 if it is not, and prints the reasons.
    """
    reasons = health.reasons(max_due_age)
    if as_json:
        print_json({"ready": not reasons, "reasons": [reason._asdict() for reason in reasons]})
    for reason in () if as_json else reasons:
        click.echo(f"not ready [{reason.check}] {log.one_line(reason.text)}")
    if reasons:
        raise click.exceptions.Exit(1)
    if not as_json:
        click.echo("ready")
