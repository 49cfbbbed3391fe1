"""Measure spoolkit and its rivals in turn: ``make bench``, or ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import compileall
import os
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks import machine
from benchmarks.contenders import PROJECT, SPOOLKIT, Contender, contenders
from benchmarks.measures import MEASURES, Size
from benchmarks.report import PENDING, Report, measured


def one_round(
    contender: Contender, files: Path, chosen: list[str], size: Size, pending: int
) -> tuple[dict[str, float], str]:
    """Start the contender with its files in a new directory, measure it, and stop it.

    Returns:
        Its values, and what went wrong: empty if each job ran exactly once.
    """
    values: dict[str, float] = {}
    failed = ""
    chosen = [name for name in chosen if name in (contender.measures or MEASURES)]
    with tempfile.TemporaryDirectory(prefix="bench-", dir=files) as name, contender.start(Path(name)) as running:
        try:
            running.warm_up()
            for measure in chosen:
                values |= MEASURES[measure].run(running, size)
            if pending:
                running.pend(pending)
                for measure in (name for name in chosen if MEASURES[name].pending):
                    with_pending = MEASURES[measure].run(running, size)
                    values |= {name + PENDING: value for name, value in with_pending.items()}
        except (AssertionError, OSError, RuntimeError) as error:  # a wait was too long, the caller or a consumer died
            failed = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            print(f"{contender.name}: {error}", file=sys.stderr)
        return values, ", ".join(filter(None, [failed, running.verdict()]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=f"of {', '.join(MEASURES)}; all if none is given")
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("BENCH_JOBS") or 2000))
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("BENCH_ROUNDS") or 3))
    parser.add_argument(
        "--pending",
        type=int,
        default=int(os.environ.get("BENCH_PENDING") or 0),
        metavar="JOBS",
        help="measure everything a second time, with this many delayed jobs pending",
    )
    parser.add_argument("--only", default="", help="contenders whose names contain one of these words, with commas")
    parser.add_argument("--base", default=os.environ.get("BENCH_BASE", ""), help="another checkout, to compare with")
    parser.add_argument("--rivals", default="", metavar="VENV", help="the environment of the other rivals")
    parser.add_argument("--output", type=Path, help="a directory for results.json and results.md")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    chosen = given.figures or list(MEASURES)
    if unknown := [name for name in chosen if name not in MEASURES]:
        parser.error(f"no such figure: {', '.join(unknown)}")
    for option, needed in ((given.base, "src/spoolkit"), (given.rivals, "bin/python")):
        if option and not (Path(option) / needed).exists():
            parser.error(f"there is no {needed} in {option}")
    words = [word for word in given.only.split(",") if word]
    taking_part = [
        one
        for one in contenders(given.base, given.rivals)
        if (not words or any(word in one.name for word in words))
        and not set(chosen).isdisjoint(one.measures or chosen)
        and (one.pending or not given.pending)
    ]
    for checkout in filter(None, [PROJECT, given.base]):  # as pip does with what it installs, such as the rivals
        compileall.compile_dir(Path(checkout) / "src", quiet=2)
    files = machine.directory()
    report = Report(measured(chosen, given.pending), given.jobs, given.rounds, about=machine.description(files))
    for number in range(given.rounds):
        for contender in taking_part:
            print(f"round {number + 1} of {given.rounds}: {contender.name}", file=sys.stderr, flush=True)
            values, wrong = one_round(contender, files, chosen, Size(given.jobs), given.pending)
            report.add(contender.name, values, wrong)
            if given.output:  # each time: what follows may be interrupted
                report.write(given.output)
    print(report.markdown())
    return SPOOLKIT in report.wrong


if __name__ == "__main__":
    sys.exit(main())
