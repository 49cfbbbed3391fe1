"""The code on docs/scaling.md does what the page says. tests/live/test_several_hosts.py tries the rest of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from spoolkit import SpoolKit, periodic, registry, spool
from spoolkit.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()


def blocks(heading: str, language: str = "python") -> list[str]:
    (section,) = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize(("value", "schedules"), [("yes", 1), ("", 0)])
def test_the_schedule_exists_on_the_host_with_the_variable(
    value: str, schedules: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    monkeypatch.setenv("SITE_RUNS_SCHEDULES", value)
    (code,) = blocks("Periodic tasks on one host")
    exec(code, {"os": os, "spool": spool, "periodic": periodic, "__name__": "of_the_page"})
    assert len(registry.this_process.schedules) == schedules
    assert list(registry.this_process.tasks) == ["of_the_page.nightly_report"]


def test_the_settings_for_celery_are_a_configuration(tmp_path: Path) -> None:
    (code,) = blocks("When Celery")
    namespace: dict[str, Any] = {"SPOOLKIT_SPOOL": str(tmp_path)}
    exec(code, namespace)
    assert Settings.load(namespace, str(tmp_path)).engine == "celery"
    app = Flask("shop")
    app.config.update((name, value) for name, value in namespace.items() if name.isupper())
    SpoolKit(app)  # refuses settings that contradict the promises


def test_the_table_of_jobs_a_day_is_computed() -> None:
    seconds = {"10 ms": 0.0105, "100 ms": 0.1005, "1 s": 1.0, "1 minute": 60.0}  # with half a millisecond of a spooler
    rows = re.findall(r"^\| (\d+ \w+) \| ([\d.,]+)( million)? \| ([\d.,]+)( million)? \|$", PAGE, re.MULTILINE)
    assert [row[0] for row in rows] == list(seconds)
    for takes, four, four_unit, sixteen, sixteen_unit in rows:
        for spoolers, number, unit in ((4, four, four_unit), (16, sixteen, sixteen_unit)):
            shown = float(number.replace(",", "")) * (1e6 if unit else 1)
            assert shown == pytest.approx(86400 * spoolers / seconds[takes], rel=0.02)
