"""What is measured, and how rounds become figures: percentiles, medians, ratios, tables. No input or output."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of the report."""

    #: The name in the JSON file.
    name: str
    #: What it is, for people.
    title: str
    #: The unit of its values.
    unit: str
    #: Whether a greater value is better.
    more_is_better: bool = False


@dataclass(frozen=True)
class Spread:
    """Several values of one figure."""

    median: float
    least: float
    most: float


Rounds = Sequence[Mapping[str, float]]
"""The values of one contender by the names of figures, one mapping for each round."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: the least of the values that ``percent`` of them do not exceed.

    Raises:
        ValueError: There are no values, or ``percent`` is not from 0 to 100.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(values)} values")
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def spread(values: Sequence[float]) -> Spread:
    """The median of the values, and the two ends."""
    return Spread(statistics.median(values), min(values), max(values))


def of(rounds: Rounds, figure: str) -> Spread | None:
    """The spread of one figure over the rounds that have it; ``None``: no round has."""
    values = [values[figure] for values in rounds if figure in values]
    return spread(values) if values else None


def ratios(rounds: Rounds, rival: Rounds, figure: str, beside: str = "") -> Spread | None:
    """The figure relative to the rival's, or to the figure ``beside`` of the rival; ``None``: no round has both.

    A ratio of the two in one round, because the load of the machine differs between rounds.
    """
    other = beside or figure
    pairs = [(a[figure], b[other]) for a, b in zip(rounds, rival, strict=False) if figure in a and other in b]
    values = [ours / theirs for ours, theirs in pairs if ours >= 0 and theirs > 0]
    return spread(values) if values else None


def number(value: float) -> str:
    """A value with three significant digits, and without an exponent."""
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    rounded = float(f"{value:.2e}")
    return f"{rounded:,.{max(2 - math.floor(math.log10(abs(rounded))), 0)}f}"


def shown(values: Spread | None) -> str:
    """The median, with the two ends if they differ from it."""
    if values is None:
        return "-"
    median, least, most = number(values.median), number(values.least), number(values.most)
    return median if least == median == most else f"{median} ({least} to {most})"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def tables(figures: Sequence[Figure], results: Mapping[str, Rounds], base: str) -> str:
    """Two tables: the values of each contender, and the ratio of ``base`` to each other one."""
    measured = [figure for figure in figures if any(of(rounds, figure.name) for rounds in results.values())]
    head = ["", *results]
    values = [
        [f"{figure.title}, {figure.unit}", *(shown(of(rounds, figure.name)) for rounds in results.values())]
        for figure in measured
    ]
    others = [name for name in results if name != base] if base in results else []
    compared = []
    for figure in measured:
        found = [ratios(results[base], results[other], figure.name) for other in others]
        if any(found):
            better = "more" if figure.more_is_better else "less"
            compared.append([f"{figure.title} ({better} is better)", *map(shown, found)])
    parts = [markdown([head, *values])]
    if compared:
        parts += [f"{base} ÷ the rival, in the same round:\n", markdown([["", *others], *compared])]
    return "\n".join(parts)
