"""Writes the table of README.md: ``python -m benchmarks.readme build/bench/results.json``."""

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

LEFT_OUT = ("spoolkit, printed ini",)
"""Contenders that have no column."""


def section(report: Mapping[str, Any]) -> str:
    """The table of a report: the median of each figure, with the date and the machine."""
    known = {given["name"]: Figure(**given) for given in report["figures"]}
    shown = {name: rounds for name, rounds in report["results"].items() if name not in LEFT_OUT}
    rows = [["", *shown]]
    for figure in (known[name] for name in FIGURES if name in known):
        medians = [figures.of(rounds, figure.name) for rounds in shown.values()]
        if any(medians):
            cells = ["-" if found is None else figures.number(found.median) for found in medians]
            rows.append([f"{figure.title}, {figure.unit}", *cells])
    about = report["about"]
    how = f"Medians of {report['rounds']} rounds in turn, {report['jobs']:,} jobs each."
    return f"{figures.markdown(rows)}\n{how}\n{about['date']}; {about['cpu']}; {about['system']}; {about['files']}."


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
    README.write_text(replaced(README.read_text(), section(json.loads(Path(sys.argv[1]).read_text()))))
