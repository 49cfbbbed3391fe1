"""``metrics``: what a monitoring system asks."""

from __future__ import annotations

import click

from spoolkit.cli.group import command, print_json


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
