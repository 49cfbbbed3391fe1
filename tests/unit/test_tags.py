"""Jobs are found by their tags, whether they wait or have run, and many of them are changed at once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import (
    ArgumentError,
    ArgumentTypeError,
    Job,
    JobStateError,
    SpoolKit,
    State,
    StoreUnavailableError,
    UnknownJobError,
    spool,
    thread,
)
from spoolkit.admin import actions, bulk, lookup
from spoolkit.cli import commands
from spoolkit.encoding import packet, tags
from spoolkit.errors import DecodeError
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import database, locations

kit = SpoolKit()


@spool(retries=0)
def export(good: bool = True) -> None:
    if not good:
        raise ValueError("trouble")


@spool
def other() -> None: ...


@spool(unique=True, on_duplicate="replace")
def latest(good: bool = True) -> None:
    export.run(good)


@thread
def in_thread() -> None: ...


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
    kit.init_app(app)
    (tmp_path / "spool").mkdir(mode=0o700)
    with app.app_context():
        yield app


@pytest.fixture
def flask_spool(app: Flask) -> Callable[..., Result]:
    return lambda *words: app.test_cli_runner().invoke(commands, [*map(str, words)])


def work() -> None:
    Spooler(locations.spool_dir()).run_due()


def rows_of_tags() -> list[tuple[str, str]]:
    return [tuple(row) for row in locations.store().read("SELECT tag, job FROM job_tags ORDER BY job, tag")]


def test_a_job_is_found_by_each_of_its_tags_before_and_after_it_has_run() -> None:
    mine, both = export.using(tags=["user:42"])(), export.using(tags=("user:42", "csv", "csv"))()
    export.using(tags={"user:4"})()
    export()
    for state in (State.QUEUED, State.DONE):
        found = kit.jobs(tag="user:42")
        assert [*found] == [both, mine]
        assert [job.tags for job in found] == [("user:42", "csv"), ("user:42",)]
        assert {job.state for job in found} == {state}
        assert [*kit.jobs(tag="csv")] == [both]
        assert not kit.jobs(tag="user:")
        work()
    assert Job.get(both.id).tags == both.tags == ("user:42", "csv")


def test_jobs_are_selected_by_task_and_state_and_given_in_pages() -> None:
    first, bad, *rest = export(), export(False), *(export() for _ in range(3))
    unlike = other()
    assert [*kit.jobs(task=export)] == [*reversed(rest), bad, first]
    assert [*kit.jobs(task=other.name)] == [unlike]
    for _ in range(2):
        page = kit.jobs(task=export, limit=2)
        seen = [*page]
        while page:
            page = kit.jobs(task=export, limit=2, before=page[-1])
            assert len(page) <= 2
            seen += page
        assert seen == [*reversed(rest), bad, first]
        work()
    assert [*kit.jobs(state="dead")] == [bad]
    assert {*kit.jobs(state=[State.DONE, "dead"], before=unlike.id)} == {first, bad, *rest}
    assert kit.jobs(state=State.DONE)[:2] == [unlike, rest[-1]]


@spool(name="tags.renamed", aliases=["tags.earlier", "tags.first"])
def renamed() -> None: ...


def test_jobs_by_earlier_names_of_a_task_are_among_its_jobs(
    monkeypatch: pytest.MonkeyPatch, flask_spool: Callable[..., Result]
) -> None:
    jobs = []
    for name in ("tags.first", "tags.earlier", renamed.name):
        with monkeypatch.context() as patch:
            patch.setattr(renamed, "name", name)
            jobs.append(renamed())
    locations.store().cancel(jobs[0].status, "by its old name", file=None)
    export()
    for task in (renamed, renamed.name, "tags.earlier"):
        assert [*kit.jobs(task=task)] == jobs[::-1]
    assert [job.status.task for job in jobs] == ["tags.first", "tags.earlier", "tags.renamed"]
    assert [*kit.jobs(task="tags.unknown")] == []
    assert len(json.loads(flask_spool("ls", "--task", "tags.renamed", "--json").output)) == 3


def test_jobs_of_a_map_and_of_threads_have_tags() -> None:
    many = export.map([(), ()], tags=["night"])
    assert {*kit.jobs(tag="night")} == {*many}
    job = in_thread.using(tags=["night"])()
    assert job.wait(60)
    work()
    assert {*kit.jobs(tag="night", state="done")} == {*many, job}


def test_all_jobs_of_a_tag_are_cancelled_but_those_that_are_over() -> None:
    done = export.using(tags=["user:42"])()
    work()
    waiting, unlike = [export.using(tags=["user:42"], delay=60)() for _ in range(3)], export()
    result = kit.jobs(tag="user:42").cancel()
    assert result == bulk.BulkResult(3, {}, True)
    assert [job.state for job in (done, *waiting, unlike)] == [State.DONE, *[State.CANCELLED] * 3, State.QUEUED]
    assert kit.jobs(tag="user:42").cancel().done == 0


def test_dead_jobs_of_a_tag_run_again_and_finished_ones_are_purged() -> None:
    bad = [export.using(tags=["user:42"])(False) for _ in range(2)]
    good, waiting = export.using(tags=["user:42"])(), export.using(tags=["user:42"], delay=60)()
    work()
    assert kit.jobs(tag="user:42").retry() == bulk.BulkResult(2)
    assert {job.state for job in bad} == {State.QUEUED}
    work()
    assert kit.jobs(tag="user:42").purge() == bulk.BulkResult(3)
    assert [*kit.jobs()] == [waiting]
    assert rows_of_tags() == []
    for job in (*bad, good):
        with pytest.raises(UnknownJobError):
            _ = job.state


def test_what_is_refused_is_named_and_the_others_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (export.using(tags=["x"])() for _ in range(3))
    cancel, refusal = actions.cancel, JobStateError("locked", job=second.id, state="queued")

    def refuse_one(id: str, **given: Any) -> State:
        if id == second.id:
            raise refusal
        if id == third.id:
            cancel(id)  # another one is faster
        return cancel(id, **given)

    monkeypatch.setattr(actions, "cancel", refuse_one)
    assert kit.jobs(tag="x").cancel(force=True) == bulk.BulkResult(1, {second.id: refusal})
    assert [job.state for job in (first, second, third)] == [State.CANCELLED, State.QUEUED, State.CANCELLED]


def test_a_job_that_is_not_finished_is_not_purged() -> None:
    job = export()
    with pytest.raises(JobStateError, match="cancel it first"):
        actions.purge_job(job.id)
    assert job.state is State.QUEUED


def test_a_finished_job_whose_file_is_left_keeps_its_record() -> None:
    job = export()
    (path,) = spoolfile.pending(locations.spool_dir())
    content = Path(path).read_bytes()
    work()
    Path(path).write_bytes(content)  # as after a kill between the record and the removal
    with pytest.raises(JobStateError, match="still has a file"):
        actions.purge_job(job.id)
    assert job.state is State.DONE


def test_a_job_without_tags_writes_none_and_a_search_reads_the_index() -> None:
    export()
    export.using(retries=3)()
    tagged = export.using(tags=["b", "a"])()
    work()
    assert rows_of_tags() == [("a", tagged.id), ("b", tagged.id)]
    sql = "SELECT rowid FROM jobs WHERE +state IN ('done') AND id IN (SELECT job FROM job_tags WHERE tag = ?)"
    plan = " ".join(row["detail"] for row in locations.store().read(f"EXPLAIN QUERY PLAN {sql}", ("a",)))
    assert "SCAN" not in plan
    assert "SEARCH job_tags USING PRIMARY KEY (tag=?)" in plan


def test_records_that_become_too_old_lose_their_tags() -> None:
    export.using(tags=["a"])()
    work()
    actions.purge()
    assert rows_of_tags() == []


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("user:42", ArgumentTypeError),
        ([42], ArgumentTypeError),
        ({"user": 42}, ArgumentTypeError),
        ([""], ArgumentError),
        (["x" * 101], ArgumentError),
        (["a\nb"], ArgumentError),
        ([*map(str, range(17))], ArgumentError),
    ],
)
def test_tags_that_cannot_be_used_are_refused(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^tags (is|has) ") as refused:
        export.using(tags=given)
    assert refused.value.argument == "tags"  # type: ignore[attr-defined]


def test_a_replaced_job_has_the_options_of_the_latest_call() -> None:
    job = latest.using(tags=["earlier"], retries=0)(False)
    work()
    actions.retry(job.id)
    again = latest.using(tags=["later"], retries=3)(False)
    assert (again, again.tags) == (job, ("later",))
    for state in (State.QUEUED, State.RETRYING):
        assert (again.state, [*kit.jobs(tag="later")], [*kit.jobs(tag="earlier")]) == (state, [job], [])
        assert (again.status.tags, again.status.retries) == (("later",), 3)
        work()
    assert rows_of_tags() == [("later", job.id)]


def test_an_action_stops_where_the_store_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, flask_spool: Callable[..., Result]
) -> None:
    jobs = [export.using(tags=["x"])() for _ in range(3)]
    refusal, asked = StoreUnavailableError("locked", path="x"), list[str]()

    def refuse(id: str, **_: Any) -> State:
        asked.append(id)
        raise refusal

    monkeypatch.setattr(actions, "cancel", refuse)
    rest = (jobs[1].id, jobs[2].id)
    assert kit.jobs(tag="x").cancel() == bulk.BulkResult(0, {jobs[0].id: refusal}, complete=False, not_tried=rest)
    result = flask_spool("cancel", "--tag", "x")
    assert (result.exit_code, asked) == (1, [jobs[0].id] * 2)
    assert "0 jobs cancelled, 1 failed, 2 not tried\n" in result.output
    assert "there are more jobs" in result.output


class Clock:
    """A clock that only sleeping moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("by", ["command", "call"])
def test_jobs_beside_a_locked_store_wait_for_it_once_and_not_each(
    by: str, monkeypatch: pytest.MonkeyPatch, flask_spool: Callable[..., Result]
) -> None:
    jobs = [export.using(tags=["x"])(False) for _ in range(5)]
    work()
    slept = Clock()
    monkeypatch.setattr(database, "time", slept)
    with contextlib.closing(sqlite3.connect(locations.store().path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        if by == "command":
            assert "5 jobs retried\n" in flask_spool("retry", "--dead").output
        else:
            assert kit.jobs(tag="x").retry() == bulk.BulkResult(5)
        other.execute("ROLLBACK")
    assert slept.now == pytest.approx(database.LOCK_TIMEOUT, abs=0.1)
    work()
    assert {job.state for job in jobs} == {State.DEAD}
    assert {job.status.attempt for job in jobs} == {2}


def test_a_job_whose_record_is_deleted_meanwhile_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [export.using(tags=["x"])() for _ in range(2)]
    work()
    found = kit.jobs(tag="x")
    actions.purge_job(jobs[0].id)
    assert found.purge() == bulk.BulkResult(1)


@pytest.mark.parametrize(
    "given",
    [{"limit": 0}, {"limit": True}, {"state": 5}, {"state": "finished"}, {"tag": 42}, {"task": 1}, {"before": 3}],
    ids=str,
)
def test_a_selection_that_cannot_be_made_is_refused(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ArgumentError) as refused:
        kit.jobs(**given)
    assert refused.value.argument == name


def test_no_tags_are_no_field() -> None:
    assert export.using(tags=[])().tags is None


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=100), max_size=16
    )
)
def test_tags_are_read_as_they_were_written(given: list[str]) -> None:
    checked = tags.check(given)
    assert tags.read(tags.write(checked or ())) == tuple(dict.fromkeys(given))


@given(st.binary())
def test_bytes_that_are_no_tags_are_refused_by_a_decode_error(data: bytes) -> None:
    try:
        assert all(isinstance(tag, str) for tag in tags.read(data))
    except DecodeError:
        pass


def test_an_older_version_may_run_a_job_with_tags() -> None:
    export.using(tags=["a"])()
    (path,) = spoolfile.pending(locations.spool_dir())
    assert packet.MUST not in packet.load(Path(path).read_bytes()).fields


def test_the_commands_take_a_tag(flask_spool: Callable[..., Result]) -> None:
    def ids(*words: str) -> set[str]:
        return {one["id"] for one in json.loads(flask_spool("ls", "--json", *words).stdout)}

    bad, good, unlike = export.using(tags=["user:42"])(False), export.using(tags=["user:42"])(), export(False)
    assert ids("--tag", "user:42") == {bad.id, good.id}
    work()
    assert "user:42" in flask_spool("show", bad.id).output
    assert json.loads(flask_spool("show", bad.id, "--json").stdout)["tags"] == ["user:42"]
    assert flask_spool("retry", "--dead", "--tag", "user:42").output == f"{bad.id} queued\n1 job retried\n"
    assert flask_spool("cancel", "--tag", "user:42").output == f"{bad.id} cancelled\n1 job cancelled\n"
    assert flask_spool("purge", "--tag", "user:42", "--older-than", "1h").output == "0 jobs deleted\n"
    assert flask_spool("purge", "--tag", "user:42").output == "2 jobs deleted\n"
    assert ids() == {unlike.id}
    assert flask_spool("purge", "--tag", "other", "--state", "dead", "--yes").output == "0 jobs deleted\n"


@pytest.mark.parametrize("words", [["cancel"], ["cancel", "x", "--tag", "y"], ["retry", "x", "--tag", "y"]], ids=str)
def test_a_tag_and_ids_exclude_each_other(flask_spool: Callable[..., Result], words: list[str]) -> None:
    result = flask_spool(*words)
    assert (result.exit_code, "--tag" in result.output) == (2, True)


def test_a_file_is_read_once_for_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        export.using(tags=["a"])()
    read: list[str] = []
    peek = spoolfile.peek
    monkeypatch.setattr(spoolfile, "peek", lambda path, *more: read.append(path) or peek(path, *more))  # type: ignore[func-returns-value]
    assert len(lookup.jobs(tag="a")) == len(read) == 3
