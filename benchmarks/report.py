"""What came out of a run, as JSON and as Markdown?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks import bars, figures
from benchmarks.contenders import SPOOLKIT
from benchmarks.figures import Figure
from benchmarks.measures import MEASURES

PENDING = "_pending"
"""The names of figures that were measured with many delayed jobs pending end so."""


def measured(chosen: list[str], pending: int) -> list[Figure]:
    """The figures in the order of the report."""
    found = [figure for name in chosen for figure in MEASURES[name].figures]
    if pending:
        title = f" [{pending:,} pending]"
        again = [figure for name in chosen if MEASURES[name].pending for figure in MEASURES[name].figures]
        found += [replace(figure, name=figure.name + PENDING, title=figure.title + title) for figure in again]
    return found


@dataclass
class Report:
    """The values of all rounds until now."""

    figures: list[Figure]
    #: Jobs of one figure in one round.
    jobs: int
    #: How many rounds are planned.
    rounds: int
    #: The values of each contender, one mapping for each round.
    results: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    #: What went wrong, by contender: jobs that did not run exactly once, a caller that failed.
    wrong: dict[str, list[str]] = field(default_factory=dict)
    #: The machine, for people.
    about: dict[str, str] = field(default_factory=dict)

    def add(self, contender: str, values: dict[str, float], wrong: str) -> None:
        """Add one round of one contender."""
        self.results.setdefault(contender, []).append(values)
        if wrong:
            self.wrong.setdefault(contender, []).append(wrong)

    def markdown(self) -> str:
        """The tables, and what a reader must know about them."""
        counts = [f"{name}: {'; '.join(rounds)}" for name, rounds in self.wrong.items()]
        lines = [
            bars.table(self.figures, self.results, SPOOLKIT),
            figures.tables(self.figures, self.results, SPOOLKIT),
            f"{self.jobs} jobs, rounds in turn: {self.rounds}; median (least to most).",
            f"Not every job ran exactly once. {'. '.join(counts)}." if counts else "Each job ran exactly once.",
            *(f"{key}: {value}" for key, value in self.about.items()),
        ]
        return "\n".join(lines) + "\n"

    def write(self, directory: Path) -> None:
        """Write results.json and results.md."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "results.json").write_text(json.dumps(asdict(self), indent=1))
        (directory / "results.md").write_text(self.markdown())
