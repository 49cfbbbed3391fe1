"""Which commands work where the application cannot be imported? ``python -m spoolkit doctor DIRECTORY``."""

from __future__ import annotations

import os

import click

from spoolkit.cli.running import doctor_options, report
from spoolkit.doctor.examine import examine
from spoolkit.store.locations import STORE_FILE


@click.group()
def main() -> None:
    """Commands that do not import the application."""


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@doctor_options
@click.option("--store", type=click.Path(), help="The path of the store, if it is not in the spool directory.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(directory: str, ini: str | None, store: str | None, max_due_age: float, as_json: bool) -> None:
    """Report what keeps the jobs of the spool directory DIRECTORY from running, each with its remedy."""
    store = store or os.path.join(directory, STORE_FILE)
    report(examine(directory, store=store, ini=ini, max_due_age=max_due_age), [directory], as_json=as_json)


if __name__ == "__main__":
    main(prog_name="python -m spoolkit")
