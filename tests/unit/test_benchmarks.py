"""The pure parts of the benchmark suite: percentiles, ratios, bars, tables, and the count of runs."""

from __future__ import annotations

import json
import math
import re
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import bars, calling, contenders, figures, machine, measures, readme, records, report
from benchmarks.figures import Figure, Spread

VALUES = st.lists(st.floats(min_value=0.001, max_value=1e9), min_size=1, max_size=50)


@given(VALUES, st.floats(min_value=0, max_value=100))
def test_a_percentile_is_a_value_that_enough_of_the_values_do_not_exceed(values: list[float], percent: float) -> None:
    found = figures.percentile(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= math.floor(len(values) * percent / 100)
    assert sum(value < found for value in values) <= math.ceil(len(values) * percent / 100)


def test_known_percentiles() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert [figures.percentile(hundred, percent) for percent in (0, 50, 95, 99, 100)] == [1, 50, 95, 99, 100]
    assert figures.percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 101), ([1.0], -1)])
def test_a_percentile_of_nothing_or_beyond_all_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        figures.percentile(values, percent)


@given(VALUES)
def test_a_spread_has_the_median_between_its_ends(values: list[float]) -> None:
    found = figures.spread(values)
    assert found.least == min(values)
    assert found.most == max(values)
    assert found.least <= found.median <= found.most


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=1, max_size=9))
def test_a_ratio_compares_the_values_of_one_round(pairs: list[tuple[float, float]]) -> None:
    ours = [{"x": a} for a, _ in pairs]
    theirs = [{"x": b} for _, b in pairs]
    found = figures.ratios(ours, theirs, "x")
    assert found is not None
    assert found.least == min(a / b for a, b in pairs)
    assert found.most == max(a / b for a, b in pairs)


def test_a_ratio_needs_the_figure_of_both() -> None:
    assert figures.ratios([{"x": 1.0}], [{"y": 1.0}], "x") is None
    assert figures.ratios([{"x": 1.0}], [], "x") is None
    assert figures.ratios([{"x": 1.0}], [{"x": 0.0}], "x") is None
    assert figures.ratios([{"x": 1.0}], [{"x": -2.0}], "x") is None, "early on average"
    assert figures.ratios([{}, {"x": 6.0}], [{"x": 1.0}, {"x": 2.0}], "x") == Spread(3.0, 3.0, 3.0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1234.5, "1,230"), (0.01234, "0.0123"), (9.999, "10.0"), (123456, "123,000"), (-12.34, "-12.3")],
)
def test_a_number_has_three_significant_digits(value: float, shown: str) -> None:
    assert figures.number(value) == shown


def test_the_tables_hold_each_value_and_each_ratio() -> None:
    rate = Figure("rate", "Rate", "jobs/s", more_is_better=True)
    unmeasured = Figure("other", "Other", "s")
    results = {"ours": [{"rate": 10.0}, {"rate": 30.0}], "theirs": [{"rate": 5.0}, {"rate": 10.0}], "none": [{}, {}]}
    assert figures.tables([rate, unmeasured], results, "ours").splitlines() == [
        "|  | ours | theirs | none |",
        "|---|---|---|---|",
        "| Rate, jobs/s | 20.0 (10.0 to 30.0) | 7.50 (5.00 to 10.0) | - |",
        "",
        "ours ÷ the rival, in the same round:",
        "",
        "|  | theirs | none |",
        "|---|---|---|",
        "| Rate (more is better) | 2.50 (2.00 to 3.00) | - |",
    ]


def test_a_figure_without_a_rival_has_no_line_of_ratios() -> None:
    results = {"ours": [{"a": 1.0, "b": 1.0}], "theirs": [{"a": 2.0}]}
    text = figures.tables([Figure("a", "A", "s"), Figure("b", "B", "s")], results, "ours")
    assert "| A (less is better) | 0.500 |" in text
    assert "B (less" not in text


def test_a_table_of_one_contender_has_no_ratios() -> None:
    rate = Figure("rate", "Rate", "jobs/s")
    assert "÷" not in figures.tables([rate], {"ours": [{"rate": 1.0}]}, "ours")


@pytest.mark.parametrize(
    ("numbers", "wrong"),
    [
        ([2, 0, 1], ""),
        ([0, 2], "1 did not run"),
        ([0, 1, 1, 1, 2], "1 ran more than once"),
        ([0, 1, 1, 9], "1 did not run, 1 ran more than once, 1 ran but were not due"),
    ],
)
def test_each_job_must_run_exactly_once(numbers: list[int], wrong: str) -> None:
    assert records.verdict(numbers, range(3)) == wrong


def test_each_run_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(records.VARIABLE, str(tmp_path / "records"))
    assert records.count(tmp_path / "records") == 0
    for number in range(3):
        records.ran(number, number + 0.5)
    assert records.count(tmp_path / "records") == 3
    assert [(run.number, run.stamp) for run in records.read(tmp_path / "records", 1)] == [(1, 1.5), (2, 2.5)]


def test_an_order_is_carried_out_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(records.VARIABLE, str(tmp_path / "records"))
    monkeypatch.setattr(calling, "time", SimpleNamespace(**{**vars(time), "time": lambda: 1000.0}))
    given: list[tuple[int, float, float | None]] = []
    answer = calling.carry_out(lambda *call: given.append(call), {"first": 5, "count": 3, "delay": [10, 40]})
    assert [number for number, _, _ in given] == [5, 6, 7]
    assert all(due == stamp for _, stamp, due in given)
    assert [stamp - answer["began"] for _, stamp, _ in given] == [10, 20, 30]
    assert answer["number"] == len(answer["took"]) == 3
    json.dumps(answer)


def test_a_caller_that_waits_goes_on_when_the_job_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(records.VARIABLE, str(tmp_path / "records"))
    order = {"first": 0, "count": 3, "wait": 60, "ran": 0}
    answer = calling.carry_out(lambda number, stamp, due: records.ran(number, stamp), order)
    assert answer["number"] == 3


def test_a_report_names_what_went_wrong(tmp_path: Path) -> None:
    made = report.Report(report.measured(["drain"], 0), jobs=10, rounds=2)
    made.add("spoolkit", {"drain": 5.0}, "")
    assert "Each job ran exactly once." in made.markdown()
    made.add("spoolkit", {"drain": 5.0}, "1 did not run")
    assert "Not every job ran exactly once. spoolkit: 1 did not run." in made.markdown()
    made.write(tmp_path / "new")
    written = json.loads((tmp_path / "new" / "results.json").read_text())
    assert written["results"] == {"spoolkit": [{"drain": 5.0}, {"drain": 5.0}]}
    assert (tmp_path / "new" / "results.md").read_text() == made.markdown()


def test_figures_with_delayed_jobs_pending_are_lines_of_their_own() -> None:
    lines = report.measured(["drain"], 50000)
    assert [line.title for line in lines if line.name.startswith("drain")] == ["Drain", "Drain [50,000 pending]"]
    assert len({line.name for line in lines}) == len(lines) == 2 * len(report.measured(["drain"], 0))


def test_every_figure_has_a_name_of_its_own() -> None:
    names = [figure.name for measure in measures.MEASURES.values() for figure in measure.figures]
    assert len(names) == len(set(names))


def test_the_sites_lie_where_it_is_said_else_in_memory_if_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_DIR", str(tmp_path))
    assert machine.directory() == tmp_path
    monkeypatch.delenv("BENCH_DIR")
    monkeypatch.setattr(machine.os, "access", lambda path, mode: True)
    for free, where in ((machine.ROOM, "/dev/shm"), (machine.ROOM - 1, tempfile.gettempdir())):
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        assert machine.directory() == Path(where)


def test_a_report_names_the_file_system() -> None:
    mounts = "vda / ext4 rw\ntmpfs /dev/shm tmpfs rw\nold /mnt/a\\040b xfs rw\nnew /mnt/a\\040b btrfs rw\n"
    assert machine.file_system(Path("/dev/shm/bench"), mounts) == "tmpfs"
    assert machine.file_system(Path("/dev/shmx"), mounts) == "ext4"
    assert machine.file_system(Path("/mnt/a b/c"), mounts) == "btrfs"
    assert machine.description(Path("/proc"))["files"] == "proc (/proc)"


@pytest.mark.parametrize("bar", bars.BARS, ids=lambda bar: f"{bar.figure}-{bar.rival or bar.beside}")
def test_each_bar_is_of_a_figure_and_a_rival_that_exist(bar: bars.Bar) -> None:
    names = {figure.name for figure in report.measured(list(measures.MEASURES), 1)}
    assert bar.figure in names
    assert not bar.beside or bar.beside in names
    assert not bar.rival or bar.rival in {one.name for one in contenders.contenders(rivals="anywhere")}


def test_a_bar_is_met_or_not_by_the_median_of_the_rounds() -> None:
    measured = [Figure("cpu", "CPU", "µs"), Figure("drain", "Drain", "jobs/s", more_is_better=True)]
    measured += [Figure("enqueue", "Enqueue", "µs"), Figure("enqueue_pending", "Enqueue, pending", "µs")]
    results = {
        "spoolkit": [{"cpu": 250.0, "drain": 12.0, "enqueue": 10.0, "enqueue_pending": 12.1}],
        contenders.HUEY: [{"drain": 10.0}],
        contenders.CELERY: [{"drain": 1.0}],
    }
    assert bars.table(measured, results, "spoolkit").splitlines() == [
        "| bar | reached | limit | met |",
        "|---|---|---|---|",
        "| CPU, µs | 250 | at most 250 | yes |",
        "| Drain ÷ Huey, Redis | 1.20 | at least 1.3 | **no** |",
        "| Drain ÷ Celery, Redis | 12.0 | at least 10 | yes |",
        "| Enqueue, pending ÷ Enqueue | 1.21 | at most 1.2 | **no** |",
    ]
    assert bars.table(measured, {"other": [{"cpu": 1.0}]}, "spoolkit") == ""


def test_the_page_gets_a_table_between_its_markers(tmp_path: Path) -> None:
    made = report.Report(report.measured(["drain", "memory"], 0), jobs=2000, rounds=3)
    made.about = {**machine.description(tmp_path), "load": "0.9 3.0 3.0"}
    for contender in ("spoolkit", readme.LEFT_OUT[0], "Huey, Redis"):
        made.add(contender, {"drain": 5.0, "memory": 3.0}, "")
    made.write(tmp_path)
    with_pending = report.Report(report.measured(["idle"], 50000), jobs=2000, rounds=3, about=made.about)
    with_pending.add("spoolkit", {"idle_p50": 9.0, "idle_p50_pending": 1.0}, "")
    with_pending.write(tmp_path / "pending")
    files = (tmp_path / "results.json", tmp_path / "pending" / "results.json")
    section = readme.section(*(json.loads(file.read_text()) for file in files))
    assert section.splitlines()[:5] == [
        "|  | spoolkit | Huey, Redis |",
        "|---|---|---|",
        "| Drain, jobs/s | 5.00 | 5.00 |",
        "| Memory of idle consumers and broker, MB PSS | 3.00 | 3.00 |",
        "| Latency, idle, p50 [50,000 pending], ms | 1.00 | - |",
    ]
    assert "Other programs" not in section
    assert "Medians of 3 rounds in turn, 2,000 jobs each.\n" in section
    fewer = readme.section(asdict(made), {**asdict(with_pending), "rounds": 1})
    assert "Medians of 3 rounds in turn, 2,000 jobs each. With jobs pending: rounds 1.\n" in fewer
    with_pending.about["load"] = "1.1 0.0 0.0"
    assert "Other programs ran as well (load 1.1 0.0 0.0)" in readme.section(asdict(with_pending))
    page = f"before {readme.BEGIN}old{readme.END} after"
    written = readme.replaced(page, section)
    assert written == readme.replaced(written, section)
    assert written.startswith("before ")
    assert written.endswith(" after")
    assert "old" not in written
    for broken in ("", readme.BEGIN, readme.END + readme.BEGIN, page + page):
        with pytest.raises(ValueError, match="once"):
            readme.replaced(broken, section)


def test_the_table_of_the_readme_is_well_formed() -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text()
    assert readme.replaced(page, "") != page  # raises if a marker is missing
    written = page.partition(readme.BEGIN)[2].partition(readme.END)[0]
    rows = [line for line in written.splitlines() if line.startswith("|")]
    columns = {len(row.split("|")) for row in rows}
    assert len(columns) == 1
    titles = {f"{figure.title}, {figure.unit}" for figure in report.measured(list(measures.MEASURES), 50000)}
    assert {row.split("|")[1].strip() for row in rows[2:]} <= titles
    names = {one.name for one in contenders.contenders(rivals="anywhere")}
    assert {cell.strip() for cell in rows[0].split("|")[2:-1]} <= names
    assert re.search(r"^Medians of \d+ rounds .*\n\d{4}-\d\d-\d\d .* Python ", written, re.MULTILINE)
