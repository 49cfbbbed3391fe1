"""What must spoolkit reach? A bar is a limit of one figure, or of its ratio to a rival's in the same round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import figures
from benchmarks.contenders import CELERY, HUEY, STOCK
from benchmarks.figures import Figure, Rounds, Spread


@dataclass(frozen=True)
class Bar:
    """One limit: the least value if more is better, else the greatest."""

    #: The name of the figure.
    figure: str
    limit: float
    #: The rival whose value divides it; empty: the value itself counts.
    rival: str = ""
    #: The figure that divides it, if it is another one of spoolkit's own.
    beside: str = ""


BARS = (
    Bar("cpu", 250),
    Bar("drain", 1.3, HUEY),
    Bar("drain", 10, CELERY),
    Bar("steady", 1.1, HUEY),
    Bar("steady", 6, CELERY),
    Bar("enqueue", 3.0, STOCK),
    Bar("enqueue", 0.45, HUEY),
    Bar("idle_p50", 2.0, STOCK),
    Bar("idle_p99", 4.0, STOCK),
    Bar("late_p50", 5),
    Bar("late_p99", 50),
    Bar("early", 0),
    Bar("http_share", 70),
    Bar("memory", 50),
    Bar("enqueue_pending", 1.2, beside="enqueue"),
    Bar("idle_p50_pending", 1.2, beside="idle_p50"),
    Bar("late_p50_pending", 5),
    Bar("late_p99_pending", 50),
    Bar("early_pending", 0),
)


def reached(bar: Bar, results: Mapping[str, Rounds], base: str) -> Spread | None:
    """What ``base`` reached of what the bar limits; ``None``: it was not measured."""
    ours = results.get(base, ())
    if bar.beside:
        return figures.ratios(ours, ours, bar.figure, bar.beside)
    if bar.rival:
        return figures.ratios(ours, results.get(bar.rival, ()), bar.figure)
    return figures.of(ours, bar.figure)


def table(measured: Sequence[Figure], results: Mapping[str, Rounds], base: str) -> str:
    """Each bar that was measured, what was reached, and whether that is enough; empty if there is none."""
    known = {figure.name: figure for figure in measured}
    rows = []
    for bar in BARS:
        found, figure = reached(bar, results, base), known.get(bar.figure)
        if found is None or figure is None:
            continue
        beside = bar.rival or (bar.beside and known[bar.beside].title)
        enough = found.median >= bar.limit if figure.more_is_better else found.median <= bar.limit
        limit = f"{'at least' if figure.more_is_better else 'at most'} {bar.limit:g}"
        what = f"{figure.title} ÷ {beside}" if beside else f"{figure.title}, {figure.unit}"
        rows.append([what, figures.shown(found), limit, "yes" if enough else "**no**"])
    return figures.markdown([["bar", "reached", "limit", "met"], *rows]) if rows else ""
