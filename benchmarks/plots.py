"""Draws the figures of a run: ``python -m benchmarks.plots DIRECTORY`` reads results.json there and writes PNGs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

from benchmarks import figures


def draw(directory: Path) -> list[Path]:
    """One plot for each figure: the medians of the contenders, each with the least and the greatest round."""
    report = json.loads((directory / "results.json").read_text())
    written = []
    for given in report["figures"]:
        figure = figures.Figure(**given)
        spreads = {name: figures.of(rounds, figure.name) for name, rounds in report["results"].items()}
        shown = {name: spread for name, spread in spreads.items() if spread}
        if not shown:
            continue
        plot, axes = plt.subplots(figsize=(8, 1 + 0.4 * len(shown)), layout="constrained")
        medians = [spread.median for spread in shown.values()]
        ends = [
            [spread.median - spread.least for spread in shown.values()],
            [spread.most - spread.median for spread in shown.values()],
        ]
        colours = ["tab:orange" if name.startswith("spoolkit") else "tab:blue" for name in shown]
        bars = axes.barh(list(shown), medians, xerr=ends, color=colours, ecolor="0.4", capsize=3)
        axes.bar_label(bars, [figures.number(median) for median in medians], padding=6)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        better = "more" if figure.more_is_better else "less"
        axes.set_title(f"{figure.title}, {figure.unit} ({better} is better)")
        written.append(directory / f"{re.sub(r'[^a-z0-9_]', '-', figure.name)}.png")
        plot.savefig(written[-1], dpi=120)
        plt.close(plot)
    return written


if __name__ == "__main__":
    print(f"{len(draw(Path(sys.argv[1])))} plots")
