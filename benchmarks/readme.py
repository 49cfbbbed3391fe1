"""Writes the table of README.md: ``python -m benchmarks.readme RESULTS [RESULTS WITH JOBS PENDING]``, JSON files."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.figures import Figure

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: make bench-readme writes what follows -->", "<!-- benchmarks end -->"

FIGURES = ("drain", "steady", "cpu", "enqueue", "idle_p50", "idle_p99", "late_p50", "early", "memory", "http_share")
"""The lines of the table."""

PENDING = ("steady_pending", "cpu_pending", "enqueue_pending", "idle_p50_pending", "late_p50_pending")
"""The lines of a run with many delayed jobs pending."""

QUIET = 1.0
"""The greatest load before a run with which its times and rates are worth printing without a warning."""

LEFT_OUT = ("spoolkit, printed ini",)
"""Contenders that have no column."""


def section(*reports: Mapping[str, Any]) -> str:
    """The table of one or more reports: the median of each figure, with the date and the machine.

    Each line is of one report, and a contender that does not take part in it has a dash there.
    """
    columns = [name for name in reports[0]["results"] if name not in LEFT_OUT]
    rows = [["", *columns]]
    for report, names in zip(reports, (FIGURES, PENDING), strict=False):
        known = {given["name"]: Figure(**given) for given in report["figures"]}
        for figure in (known[name] for name in names if name in known):
            medians = [figures.of(report["results"].get(column, ()), figure.name) for column in columns]
            if any(medians):
                cells = ["-" if found is None else figures.number(found.median) for found in medians]
                rows.append([f"{figure.title}, {figure.unit}", *cells])
    about = reports[0]["about"]
    how = f"Medians of {reports[0]['rounds']} rounds in turn, {reports[0]['jobs']:,} jobs each."
    if len(reports) > 1 and reports[1]["rounds"] != reports[0]["rounds"]:
        how += f" With jobs pending: rounds {reports[1]['rounds']}."
    where = f"{about['date']}; {about['cpu']}; {about['system']}; {about['files']}."
    busy = f" Other programs ran as well (load {about['load']}): CPU and memory hold, times and rates do not."
    return f"{figures.markdown(rows)}\n{how}\n{where}{busy if float(about['load'].split()[0]) > QUIET else ''}"


def replaced(text: str, new: str) -> str:
    """The page with ``new`` between the two markers.

    Raises:
        ValueError: The page does not have each marker once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the page must have {BEGIN} and {END} once")
    return f"{before}{begin}\n\n{new}\n\n{end}{after}"


if __name__ == "__main__":
    found = [json.loads(Path(given).read_text()) for given in sys.argv[1:]]
    README.write_text(replaced(README.read_text(), section(*found)))
