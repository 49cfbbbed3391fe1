"""``flask spool``: effects, exit codes and JSON. test_docs compares the output for people."""

from __future__ import annotations

import importlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from life_process import wait_child
from uwsgi_server import wait_until

from spoolkit import SpoolKit, application, current_job, settings, spool, task
from spoolkit.admin import lookup, words
from spoolkit.cli import commands, format
from spoolkit.job import Progress, State, Status
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations


@spool(retries=0)
def adds(a: int, b: int) -> int:
    print("adding")
    return a + b


@spool(retries=0)
def breaks(word: str) -> None:
    raise ValueError(word)


@spool
def waits_to_be_stopped() -> None:
    while not current_job().cancelled:
        time.sleep(0.01)


Flasks = Callable[..., Result]


@pytest.fixture
def flask_spool(tmp_path: Path) -> Iterator[Flasks]:
    app = Flask("the_application", root_path=str(tmp_path))
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    runner = app.test_cli_runner()
    with app.app_context():
        yield lambda *words: runner.invoke(commands, [str(word) for word in words])
        locations.store().close()


@pytest.fixture
def running(flask_spool: Flasks) -> Iterator[str]:
    """A job that runs, in a process of its own."""
    job = waits_to_be_stopped()
    pid = os.fork()
    if not pid:
        run_all()
        os._exit(0)
    wait_until(lambda: lookup.find(job.id).state is State.RUNNING)
    yield job.id
    wait_child(pid)


def run_all() -> None:
    Spooler(application.settings().spool).run_due()


def read_json(result: Result, code: int = 0) -> Any:
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_ls_filters_by_state_task_time_and_limit(flask_spool: Flasks) -> None:
    adds(1, 2)
    breaks("x")
    run_all()
    waiting = adds.using(delay=60)(3, 4)
    listed = read_json(flask_spool("ls", "--json"))
    assert [one["state"] for one in listed] == ["queued", "dead", "done"]
    assert [one["id"] for one in read_json(flask_spool("ls", "--state", "queued", "--json"))] == [waiting.id]
    assert {one["task"] for one in read_json(flask_spool("ls", "--task", breaks.name, "--json"))} == {breaks.name}
    assert len(read_json(flask_spool("ls", "--limit", 1, "--json"))) == 1
    assert len(read_json(flask_spool("ls", "--limit", 0, "--json"))) == 3
    assert len(read_json(flask_spool("ls", "--since", "1h", "--json"))) == 3
    assert read_json(flask_spool("ls", "--since", "2090-01-01", "--json")) == []
    assert "arguments" not in listed[0]


def test_ls_says_that_there_are_older_jobs(flask_spool: Flasks) -> None:
    for number in range(3):
        adds.using(delay=60)(number, 0)
    assert "older jobs: use --limit 4" in flask_spool("ls", "--limit", 2).output
    assert "older jobs" not in flask_spool("ls", "--limit", 3).output
    assert "no jobs" in flask_spool("ls", "--state", "dead").output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ls", "--state", "finished"], "give some of queued, running"),
        (["ls", "--since", "yesterday"], "give a time span such as 2h"),
        (["purge", "--older-than", "-5"], "is not a time span"),
        (["purge", "--state", "running"], "running jobs are not finished"),
        (["retry"], "give the ids of dead jobs, or --dead"),
        (["retry", "abc", "--dead"], "give the ids of dead jobs, or --dead"),
        (["retry", "abc", "--task", "t"], "--task needs --dead"),
        (["purge", "--state", "done,dead"], "add --yes"),
        (["cancel"], "give the ids of jobs, or --tag"),
        (["watch", "--interval", "0"], "not in the range"),
    ],
)
def test_an_invalid_command_line_exits_with_2(flask_spool: Flasks, words: list[str], says: str) -> None:
    result = flask_spool(*words)
    assert result.exit_code == 2
    assert says in result.output


@pytest.mark.parametrize("words", [["show"], ["retry"], ["cancel"], ["run-now"]])
@pytest.mark.parametrize("id", ["18aa", "../../etc/passwd"])
def test_an_unknown_job_exits_with_1(flask_spool: Flasks, words: list[str], id: str) -> None:
    result = flask_spool(*words, id)
    assert result.exit_code == 1
    assert "Error: " in result.output


def test_show_prints_arguments_timeline_traceback_and_log(flask_spool: Flasks) -> None:
    broken, added = breaks("such a word"), adds(1, b=2)
    run_all()
    shown = flask_spool("show", broken.id).output
    for part in ("('such a word')", "1 of 1", "attempt 1 started, pid", "attempt 1 failed", "ValueError: such a word"):
        assert part in shown
    assert "in breaks" in shown
    assert "adding" in flask_spool("show", added.id).output
    details = read_json(flask_spool("show", added.id, "--json"))
    assert details["arguments"] == {"args": [1], "kwargs": {"b": 2}}
    assert details["result"] == 3
    assert [attempt["outcome"] for attempt in details["attempts"]] == ["done"]


def test_retry_retries_given_jobs_or_all_dead_jobs_of_a_task(flask_spool: Flasks) -> None:
    first, second = breaks("one"), breaks("two")
    run_all()
    assert read_json(flask_spool("retry", first.id, "--json")) == [{"id": first.id, "state": "queued"}]
    again = read_json(flask_spool("retry", first.id, "nobody", second.id, "--json"), code=1)
    assert [one.get("state") for one in again] == [None, None, "queued"]
    assert again[0]["error"]["type"] == "JobStateError"
    run_all()
    assert read_json(flask_spool("retry", "--dead", "--task", adds.name, "--json")) == []
    assert len(read_json(flask_spool("retry", "--dead", "--json"))) == 2
    run_all()
    assert (first.state, first.attempt) == (State.DEAD, 3)
    dead_file = lookup.details(second.id).status.file
    Path(application.settings().spool, "dead", str(dead_file)).write_bytes(b"damaged")
    output = flask_spool("retry", "--dead")
    assert output.exit_code == 1
    assert "1 job retried, 1 failed" in output.stdout
    assert f"job {second.id} is damaged" in output.stderr


def test_cancel_and_run_now_change_waiting_jobs(flask_spool: Flasks) -> None:
    one, other = adds.using(delay=60)(1, 1), adds.using(delay=60)(2, 2)
    assert flask_spool("cancel", one.id).output == f"{one.id} cancelled\n"
    assert flask_spool("cancel", one.id).exit_code == 1
    assert flask_spool("run-now", other.id).exit_code == 0
    run_all()
    assert (one.state, other.result) == (State.CANCELLED, 4)


def test_cancel_asks_a_running_job_to_stop(flask_spool: Flasks, running: str) -> None:
    output = flask_spool("cancel", running).output
    assert output in (f"{running} running (asked to stop)\n", f"{running} cancelled\n")  # it may be that quick
    wait_until(lambda: lookup.find(running).state is State.CANCELLED)


def test_cancel_with_force_kills_a_running_job(flask_spool: Flasks, running: str) -> None:
    assert read_json(flask_spool("cancel", "--force", running, "--json")) == [{"id": running, "state": "cancelled"}]


def test_purge_deletes_finished_jobs(flask_spool: Flasks) -> None:
    adds(1, 2)
    dead = breaks("x")
    run_all()
    assert read_json(flask_spool("purge", "--older-than", "1h", "--json")) == {"purged": 0}
    assert flask_spool("purge").output == "1 job deleted\n"
    assert dead.state is State.DEAD
    assert read_json(flask_spool("purge", "--state", "dead", "--yes", "--json")) == {"purged": 1}
    assert read_json(flask_spool("ls", "--json")) == []


def test_stats_and_watch_count_jobs(flask_spool: Flasks, running: str) -> None:
    breaks("x")
    figures = read_json(flask_spool("stats", "--json"))
    assert {(one["task"], one["state"]): one["count"] for one in figures["counts"]} == {
        (breaks.name, "queued"): 1,
        (waits_to_be_stopped.name, "running"): 1,
    }
    assert figures["oldest_due"] >= 0
    seen = read_json(flask_spool("watch", "--times", 1, "--json"))
    assert [one["id"] for one in seen["running"]] == [running]
    lines = flask_spool("watch", "--times", 2, "--interval", 0.1, "--json").stdout.splitlines()
    assert [json.loads(line)["running"][0]["id"] for line in lines] == [running, running]
    assert flask_spool("watch", "--times", 2, "--interval", 0.1).output.count(running) == 2
    flask_spool("cancel", running)


def test_an_unusable_store_is_an_error_message_without_traceback(flask_spool: Flasks) -> None:
    waiting = adds.using(delay=60)(1, 2)
    Path(locations.store().path).write_bytes(b"garbage " * 1000)
    result = flask_spool("cancel", waiting.id)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert "Traceback" not in result.output
    assert [one["id"] for one in read_json(flask_spool("ls", "--json"))] == [waiting.id], (
        "the spool directory alone is enough"
    )


def test_doctor_exits_with_1_where_there_are_findings(flask_spool: Flasks, tmp_path: Path) -> None:
    findings = read_json(flask_spool("doctor", "--json"), code=1)
    assert "spooler-alive" in {finding["check"] for finding in findings}
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nmaster = false\n")
    assert "[master]" in flask_spool("doctor").output, "the ini file beside the application"
    (tmp_path / "other.ini").write_text(f"[uwsgi]\nmaster = true\nspooler = {tmp_path}/spool\nspooler-frequency = 30\n")
    output = flask_spool("doctor", "--ini", tmp_path / "other.ini").output
    assert "[master]" not in output
    assert "[spooler-frequency]" in output


def test_doctor_examines_the_ini_file_beside_the_package_of_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shop_of_the_doctor"
    package.mkdir()
    (package / "__init__.py").touch()
    (tmp_path / "uwsgi.ini").write_text("[uwsgi]\nmaster = false\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Flask(importlib.import_module(package.name).__name__)
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    assert app.root_path == str(package)
    assert "[master]" in app.test_cli_runner().invoke(commands, ["doctor"]).output


def test_doctor_finds_jobs_that_calls_without_the_configuration_left_elsewhere(
    flask_spool: Flasks, tmp_path: Path
) -> None:
    elsewhere = Flask("the_application", root_path=str(tmp_path))
    elsewhere.config["SPOOLKIT_SPOOL"] = tmp_path / settings.SPOOL_FOLDER  # where they lie by default
    SpoolKit(elsewhere)
    with elsewhere.app_context():
        adds(1, 2)
    (finding,) = (one for one in read_json(flask_spool("doctor", "--json"), code=1) if one["check"] == "stranded-job")
    assert str(tmp_path / settings.SPOOL_FOLDER) in finding["problem"]
    assert finding["remedy"].endswith(str(tmp_path / "spool"))


def test_ls_and_show_remove_control_characters(flask_spool: Flasks) -> None:
    job = breaks("\x1b[2Jgone\r\nnew")
    run_all()
    assert "\x1b" not in flask_spool("ls").output + flask_spool("show", job.id).output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0041, "4 ms"),
        (1, "1.0 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7200, "2.0 h"),
        (86400, "24 h"),
        (172800, "2 d"),
    ],
)
def test_duration_uses_a_unit_that_fits(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(5), "5"),
        (Progress(5, 10, "half"), "[##########..........] 5/10  half"),
        (Progress(50, 10), "[####################] 50/10"),
        (Progress(-1, 10), "[....................] -1/10"),
        (Progress(1, 0), "1"),
    ],
)
def test_bar_shows_the_progress(progress: Progress, text: str) -> None:
    assert words.bar(progress) == text


def test_ls_cuts_no_line_for_a_script(flask_spool: Flasks) -> None:
    breaks("x" * 300)
    run_all()
    assert "x" * 300 in flask_spool("ls").output


def test_summary_of_a_status_without_times_is_a_row(flask_spool: Flasks) -> None:
    assert format.summary(Status("id", None, State.LOST))[1:3] == ["?", State.LOST]


def test_serving_an_application_does_not_import_rich() -> None:
    import subprocess
    import sys

    code = "import sys, flask, spoolkit; spoolkit.SpoolKit(flask.Flask('x')); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/tmp", timeout=100)
    assert done.stdout.strip() == "False", done.stderr


def test_the_store_is_spoolkit_db_in_the_spool_directory(flask_spool: Flasks, tmp_path: Path) -> None:
    adds(1, 2)
    run_all()
    with sqlite3.connect(tmp_path / "spool" / "spoolkit.db") as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
    db.close()


def test_ini_takes_the_application_from_module_or_asks_for_it(flask_spool: Flasks) -> None:
    refused = flask_spool("ini")
    assert refused.exit_code == 2
    assert "give --module" in refused.output
    assert "module = site:create_app()\n" in flask_spool("ini", "--module", "site:create_app()").output


SHOP = """from flask import Flask
from spoolkit import SpoolKit
def create_app(kind="shop"):
    app = Flask(__name__); SpoolKit(app)
    return app
def wsgi(environ, start_response): ...
"""


@pytest.mark.parametrize(
    ("app", "module"),
    [
        ("shop_b", "shop_b:create_app()"),
        ("shop_b:create_app", "shop_b:create_app()"),
        ("shop_b:create_app()", "shop_b:create_app()"),
        ("wsgi", "wsgi:app"),
        ("wsgi:app", "wsgi:app"),
        ("wsgi.py", "wsgi:app"),
        (None, "wsgi:app"),
        ("shop_b:create_app('other')", None),
    ],
)
def test_ini_names_the_application_that_flask_was_started_with(
    app: str | None, module: str | None, tmp_path: Path
) -> None:
    (tmp_path / "shop_b.py").write_text(SHOP)
    (tmp_path / "wsgi.py").write_text("from shop_b import create_app\napp = create_app('other')\n")
    command = [sys.executable, "-m", "flask", *(["--app", app] if app else []), "spool", "ini"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    if module is None:
        assert done.returncode == 2
        assert "give --module wsgi:app" in done.stderr
    else:
        assert f"module = {module}\n" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("given", "module"),
    [
        ("wsgi_b", "wsgi_b:app"),
        ("wsgi_b:app", "wsgi_b:app"),
        ("shop_b", "shop_b:create_app()"),
        ("shop_b:create_app", "shop_b:create_app()"),
        ("shop_b:create_app()", "shop_b:create_app()"),
        ("shop_b:wsgi", "shop_b:wsgi"),
        ("not_here:create_app", "not_here:create_app"),
        ("not_here:create_app()", "not_here:create_app()"),
    ],
)
def test_ini_completes_the_option_module(
    given: str, module: str, flask_spool: Flasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_b.py").write_text(SHOP)
    (tmp_path / "wsgi_b.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("shop_b", "wsgi_b"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert f"module = {module}\n" in flask_spool("ini", "--module", given).output
    for name in ("shop_b", "wsgi_b"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_table_cuts_only_tasks_and_the_last_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr(format, "WIDE", width)
    id, task = "18ea00933a5e13000000000000000004", "a_shop.with.long.names.of.tasks.monthly_report"
    rows = [
        Status(id, task, state, attempt=10, max_attempts=12, error_message="x" * 200, finished_at=time.time() - 3600)
        for state in (State.DEAD, State.CANCELLED)
    ]
    format.print_lines(format.table(format.HEADERS, map(format.summary, rows)))
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "ID"
    for line, row in zip(lines, rows, strict=True):
        assert line.startswith(f"{id}  ")
        if width >= 80:
            words = line.split()
            assert words[2:4] == [str(row.state), "10/12"]
            assert words[1].endswith("…") == (width == 80)
            assert words[-1].endswith("…")
            assert "60 min ago" in line
        assert len(line) <= width


def test_ini_imports_from_the_folder_that_flask_imports_from(tmp_path: Path) -> None:
    (tmp_path / "src" / "shop_c").mkdir(parents=True)
    (tmp_path / "src" / "shop_c" / "__init__.py").write_text(SHOP)
    command = [sys.executable, "-m", "flask", "--app", "src/shop_c", "spool", "ini"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=100).stdout
    assert "module = shop_c:create_app()\n" in printed
    assert "pythonpath = %dsrc\n" in printed


def test_commands_take_the_beginning_of_an_id_if_it_is_unique(
    flask_spool: Flasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = iter(["18aa" + "0" * 28, "18ab" + "0" * 28, "18ab" + "1" * 28, "18ac" + "0" * 28])
    monkeypatch.setattr(task, "new_id", lambda: next(ids))
    done = breaks("x")
    run_all()
    one, other, third = (adds.using(delay=60)(1, 2) for _ in range(3))
    assert done.id in flask_spool("show", "18aa").output
    assert read_json(flask_spool("show", "18ac", "--json"))["id"] == third.id
    assert read_json(flask_spool("retry", "18aa", "--json")) == [{"id": done.id, "state": "queued"}]
    assert flask_spool("run-now", "18ac0").output == f"{third.id} queued\n"
    for command in ("show", "cancel"):
        refused = flask_spool(command, "18ab")
        assert refused.exit_code == 1
        assert f"2 job ids begin with '18ab': give more characters of {other.id}, {one.id}" in refused.stderr
    results = read_json(flask_spool("cancel", "18ab", "18ab1", "18ff", "--json"), code=1)
    assert [result.get("state") for result in results] == [None, "cancelled", None]
    assert [result.get("error", {}).get("type") for result in results] == ["AmbiguousJobError", None, "UnknownJobError"]
    assert one.state is State.QUEUED
