"""Measure spoolkit and its rivals in turn: ``make bench``, or ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks import figures, machine, records
from benchmarks.contenders import SPOOLKIT, Contender, contenders
from benchmarks.measures import MEASURES, Size


def one_round(contender: Contender, chosen: list[str], size: Size) -> tuple[dict[str, float], str]:
    """Start the contender, measure it, and stop it.

    Returns:
        Its values, and what is wrong with the number of its runs: empty if each job ran exactly once.
    """
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, contender.start(Path(name)) as running:
        # The first jobs load what a process loads once.
        running.call(20 * len(running.consumers))
        running.wait()
        for measure in chosen:
            values |= MEASURES[measure].run(running, size)
        runs = records.read(running.file)
    return values, records.verdict((run.number for run in runs), range(running.enqueued))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(MEASURES)}; all if none is given")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("BENCH_JOBS") or 2000))
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS") or 3))
    parser.add_argument("--only", default="", help="contenders whose names contain one of these words, with commas")
    parser.add_argument("--base", default=os.environ.get("BENCH_BASE", ""), help="another checkout, to compare with")
    parser.add_argument("--output", type=Path, help="a directory for results.json and results.md")
    given = parser.parse_args()
    chosen = given.figures or list(MEASURES)
    if unknown := [name for name in chosen if name not in MEASURES]:
        parser.error(f"no such figure: {', '.join(unknown)}")
    words = [word for word in given.only.split(",") if word]
    taking_part = [c for c in contenders(given.base) if not words or any(word in c.name for word in words)]
    results: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in taking_part}
    wrong: dict[str, list[str]] = {}
    about = machine.description()
    for number in range(given.rounds):
        for contender in taking_part:
            print(f"round {number + 1} of {given.rounds}: {contender.name}", file=sys.stderr, flush=True)
            values, verdict = one_round(contender, chosen, Size(given.jobs))
            results[contender.name].append(values)
            if verdict:
                wrong.setdefault(contender.name, []).append(verdict)
    counts = "Each job ran exactly once." if not wrong else f"Not every job ran exactly once: {wrong}"
    measured = [figure for name in chosen for figure in MEASURES[name].figures]
    text = figures.tables(measured, results, SPOOLKIT)
    text += f"\n{given.jobs} jobs, {given.rounds} rounds in turn; median (least to most). {counts}\n"
    text += "".join(f"{key}: {value}\n" for key, value in about.items())
    print(text)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "results.md").write_text(text)
        summary = {"about": about, "jobs": given.jobs, "results": results, "wrong": wrong}
        summary["figures"] = [asdict(figure) for figure in measured]
        (given.output / "results.json").write_text(json.dumps(summary, indent=1))
    return SPOOLKIT in wrong


if __name__ == "__main__":
    sys.exit(main())
