"""The tasks of the site that docs/cli.md shows."""

from __future__ import annotations

import docs_clock

from spoolkit import current_job, spool


@spool
def send_mail(to: str, template: str = "welcome") -> str:
    docs_clock.pass_by(0.4)
    print(f"sent {template} to {to}")
    return "250 OK"


@spool(retries=1, backoff=30)
def resize(image: str, width: int) -> None:
    docs_clock.pass_by(1.2)
    print(f"reading {image}")
    raise OSError(f"{image} is no image")


@spool
def monthly_report(month: str) -> None:
    docs_clock.pass_by(2.0)
    current_job().progress(340, 1000, "customers")
    docs_clock.pass_by(3.0)
    docs_clock.hold()
