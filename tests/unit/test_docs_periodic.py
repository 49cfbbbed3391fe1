"""The code of docs/periodic.md runs, and its outputs are those of the commands.

``SPOOLKIT_WRITE_DOCS=1`` updates the outputs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from spoolkit import SpoolKit, periodic, registry, spool
from spoolkit.cli import commands
from spoolkit.lifecycle import sweeping
from spoolkit.schedules import declared, ticks
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import clock

PAGE = Path(__file__).parents[2] / "docs" / "periodic.md"
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)
NOW = 1_805_630_400.0  # 2027-03-21 12:00:00 UTC: a week before the clocks change


class Clock:
    now = NOW


@spool(name="shop.report")
def report(kind: str) -> str:
    Clock.now += 2
    if kind == "broken":
        raise ValueError("no prices")
    return kind


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    monkeypatch.setattr(clock, "now", lambda: Clock.now)
    monkeypatch.setattr(registry.this_process, "schedules", {})
    monkeypatch.setattr(sweeping, "_sweeps", [])
    Clock.now = NOW
    (tmp_path / "spool").mkdir(mode=0o700)
    app = Flask("shop")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    SpoolKit(app)
    with app.app_context():
        yield app


def test_the_code_on_the_page_declares_periodic_tasks(app: Flask) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    exec(code, {"__name__": "of_the_page"})
    assert [one.explain() for one in declared.here().values()] == ["At 03:00 every day", "Every 15 minutes"]


def test_the_output_on_the_page_is_that_of_the_command(app: Flask) -> None:
    periodic(cron="30 2 * * *", tz="Europe/Berlin", name="nightly report", args=("all",), max_late=3600)(report)
    spool_dir = str(app.config["SPOOLKIT_SPOOL"])
    spooler = Spooler(spool_dir)
    ticks.reconcile(spool_dir)
    for late in (0, 0, 2 * 3600, 0, 0):
        Clock.now = (ticks.schedules.read_all(spool_dir)[0].next or 0) / 1e9 + late + 0.2
        spooler.run_due()
        spooler.run_due()
    Clock.now += 3600
    page = PAGE.read_text()

    def shown(block: re.Match[str]) -> str:
        lines = [line for line in block[1].splitlines() if line.startswith("$ ")]
        outputs = [app.test_cli_runner().invoke(commands, line.split()[3:]).output for line in lines]
        return "".join(f"{line}\n{output}" for line, output in zip(lines, outputs, strict=True))

    updated = BLOCK.sub(shown, page)
    if os.environ.get("SPOOLKIT_WRITE_DOCS"):
        PAGE.write_text(updated)
    assert updated == page
