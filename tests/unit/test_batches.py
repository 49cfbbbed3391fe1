"""Batches: the callback is accepted exactly once when all members have ended, wherever a process is killed.

Huey's own tests, as an outside yardstick: the classes for groups, chords and chained tasks in ``tests/test_api.py`` of
its wheel, version 3.5.4, have 42 test methods. They were run unchanged, with an adapter that gives Huey's API in terms
of ours and has a :class:`Spooler` run one job at a time: 36 passed, 6 do not apply, and none failed.

- They do not apply: the six with a chain or a batch as a member, which are refused here (``test_chord_task_cb``, the
  three of ``test_chord_pipeline_member_*`` and the two of ``test_nested_chord*``).
- 23 of the 36 need nothing but other names, and a callback that asks its batch for the results: groups with and
  without a callback, priorities, a chord without members, the handles, the order of the results, delays, members that
  fail, are tried again, are revoked or expired, a callback that fails, results of None, chains with arguments of their
  own, an error that stops a chain.
- 13 of them need a line in a task, which spoolkit leaves to the application: an ``except`` that enqueues a handler of
  errors (9), a callback that starts what follows it (2, one with a handler as well), a result that is spread over the
  arguments (2), and a cancellation of a later job of a chain once it is accepted (1).
- The adapter does as Huey does where the order of jobs or the life of results differs by design: a further attempt goes
  to the end of the queue, and a result is gone once it was read. What ``test_chord_bookkeeping_cleared`` asserts of
  counters is about Huey's storage alone: here the record of a batch is deleted with those of its members.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import spool_site
from flask import current_app
from life_faults import CRASHED, at_every, die_at, no_store_after
from life_process import in_child

from spoolkit import (
    RESULT,
    ArgumentError,
    ArgumentTypeError,
    Batch,
    BatchStateError,
    ConfigurationError,
    Job,
    JobTimeout,
    QueueFull,
    ScheduleError,
    SignatureError,
    State,
    StoreUnavailableError,
    UnknownBatchError,
    UnknownJobError,
    application,
    chain,
    current_job,
    signals,
    spool,
    thread,
)
from spoolkit.admin import actions, lookup
from spoolkit.cli import commands
from spoolkit.coordination import batches as coordination
from spoolkit.coordination import successors
from spoolkit.lifecycle import sweeping
from spoolkit.spooldir import batches, later, spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import Store, locations, retention
from spoolkit.system import clock, sandbox

history = ""
"""The file to which each run is appended."""


def note(*words: object) -> None:
    with open(history, "a", encoding="ascii") as file:
        file.write(" ".join(map(str, words)) + "\n")


def ran() -> list[str]:
    return Path(history).read_text().splitlines() if os.path.exists(history) else []


@spool(retries=0)
def step(number: int) -> int:
    note("step", number)
    if number < 0 and not os.path.exists(f"{history}.mended"):
        raise ValueError(number)
    return number * 10


@spool(retries=1, backoff=0)
def flaky(number: int) -> int:
    note("flaky", current_job().attempt)
    if current_job().attempt == 1:
        raise ValueError(number)
    return number


@spool(retries=1, backoff=1000)
def cancelled_unseen() -> None:
    """Somebody has recorded the wish to stop, but could not tell this process yet."""
    locations.store().ask_to_stop(current_job().id)
    raise ValueError


@spool(retries=0)
def report(owner: int) -> dict[str, Any]:
    batch = Batch.get(current_job().batch or "")
    note("report", owner, *(f"{state}={number}" for state, number in sorted(batch.progress.states.items())))
    return {"owner": owner, "results": batch.results}


@thread
def in_thread() -> None:
    """Its jobs have no file."""


@spool(unique=True)
def only() -> None:
    """A call of it may make no job."""


site = functools.partial(spool_site.site, globals())


@pytest.fixture
def spool_dir(tmp_path: Path) -> Iterator[str]:
    with site(tmp_path) as spool_dir:
        yield spool_dir


def sweep(spool_dir: str) -> None:
    coordination.sweep(spool_dir)


def run(spool_dir: str) -> None:
    spooler = Spooler(spool_dir)
    for _ in range(6):
        spooler.run_due()


def a_batch(*numbers: int, **options: Any) -> Batch:
    with Batch("import", then=report.call(42), **options) as batch:
        for number in numbers:
            batch.add(step, number)
    return batch


def test_the_callback_runs_once_all_members_have_ended_and_finds_their_results(spool_dir: str) -> None:
    batch = a_batch(3, 1, 2)
    assert (batch.complete, batch.callback) == (False, None)
    assert batch.progress.states == {State.QUEUED: 3}
    run(spool_dir)
    assert ran() == ["step 3", "step 1", "step 2", "report 42 done=3"]
    assert batch.complete
    assert batch.wait(0)
    assert batch.callback is not None
    assert batch.callback.result == {"owner": 42, "results": [30, 10, 20]}
    assert (batch.progress.total, batch.progress.ended) == (3, 3)
    assert Batch.get(batch.id) == batch
    assert [job.id for job in batch.jobs] == [f"{job.id}" for job in Batch.get(batch.id).jobs]
    assert batches.staged(spool_dir) == []


def test_an_empty_batch_calls_back_at_once(spool_dir: str) -> None:
    batch = a_batch()
    assert batch.complete
    run(spool_dir)
    assert ran() == ["report 42"]


def test_a_batch_without_a_callback_completes(spool_dir: str) -> None:
    with Batch("plain") as batch:
        batch.add(step.call(1))
    run(spool_dir)
    assert batch.complete
    assert batch.callback is None


def test_members_keep_the_options_of_their_calls(spool_dir: str) -> None:
    with Batch("options", then=report.using(priority=7).call(1)) as batch:
        late = batch.add(step.using(delay=500).call(1))
        soon = batch.add(step.using(priority=3, expires=0).call(2))
    assert os.path.exists(f"{spool_dir}/later/{spoolfile.PREFIX}{late.id}")
    assert os.path.exists(f"{spool_dir}/3/{spoolfile.PREFIX}{soon.id}")
    run(spool_dir)
    assert ran() == []
    assert soon.state is State.CANCELLED
    actions.run_now(late.id)
    run(spool_dir)
    assert ran() == ["step 1", "report 1 cancelled=1 done=1"]
    assert batch.callback is not None
    assert batch.callback.status.state is State.DONE


def test_nothing_is_accepted_after_an_exception_in_the_block(spool_dir: str) -> None:
    batch = Batch("import", then=report.call(1))
    with contextlib.suppress(KeyError), batch:
        job = batch.add(step, 1)
        raise KeyError
    with pytest.raises(UnknownBatchError):
        _ = batch.status
    with pytest.raises(UnknownJobError):
        _ = job.state
    run(spool_dir)
    assert ran() == []


def test_nothing_is_accepted_without_the_store(spool_dir: str) -> None:
    with pytest.raises(StoreUnavailableError), no_store_after(0):
        a_batch(1, 2)
    assert batches.staged(spool_dir) == []
    run(spool_dir)
    assert ran() == []


def test_every_end_counts(spool_dir: str) -> None:
    with Batch("all", then=report.call(1)) as batch:
        jobs = [batch.add(step, number) for number in (1, -1, 2, 3)]
    assert jobs[2].cancel() is State.CANCELLED
    os.unlink(f"{spool_dir}/{spoolfile.PREFIX}{jobs[3].id}")  # by a careless person
    run(spool_dir)
    sweep(spool_dir)
    run(spool_dir)
    assert ran() == ["step 1", "step -1", "report 1 cancelled=1 dead=1 done=1 lost=1"]


def test_the_last_member_that_is_cancelled_by_hand_calls_back(spool_dir: str) -> None:
    with Batch("all", then=report.call(1)) as batch:
        job = batch.add(step.using(delay=1000).call(1))
    job.cancel()
    assert batch.callback is not None
    run(spool_dir)
    assert ran() == ["report 1 cancelled=1"]


def test_a_retry_by_hand_reopens_the_batch_and_its_end_calls_back_again(spool_dir: str) -> None:
    batch = a_batch(1, -1)
    run(spool_dir)
    first = batch.callback
    Path(f"{history}.mended").touch()
    [dead] = actions.dead_jobs()
    actions.retry(dead.id)
    assert not batch.complete
    assert batch.progress.states == {State.DONE: 1, State.QUEUED: 1}
    run(spool_dir)
    assert [line for line in ran() if "report" in line] == ["report 42 dead=1 done=1", "report 42 done=2"]
    assert batch.callback != first
    assert batch.status.generation == 2


def test_the_first_death_cancels_the_rest_if_the_batch_says_so(spool_dir: str) -> None:
    with Batch("import", then=report.call(1), on_death="cancel") as batch:
        for number in (1, -1, 2):
            batch.add(step, number)
        tagged = batch.add(step.using(tags=["a"]).call(2))
        late = batch.add(step.using(delay=1000).call(3))
    run(spool_dir)
    assert ran() == ["step 1", "step -1", "report 1 cancelled=3 dead=1 done=1"]
    assert [status.id for status in lookup.jobs(tag="a")] == [tagged.id]
    assert late.state is State.CANCELLED
    assert "is dead" in (late.status.error_message or "")
    assert late.status.enqueued_at == batch.status.created_at
    assert Job.get(late.id).batch == batch.id
    _, events = locations.store().history(late.id)
    assert [event.kind for event in events] == ["cancelled"]


def test_an_end_that_the_store_missed_is_found_by_the_sweep(spool_dir: str) -> None:
    batch = a_batch(1, -1)
    with no_store_after(0), pytest.MonkeyPatch.context() as patch:
        from spoolkit.store.database import Database

        def broken(store: Database, *_: object) -> bool:
            raise StoreUnavailableError("broken", path=store.path)

        patch.setattr(Database, "write_before_task", broken)
        run(spool_dir)
    assert ran() == ["step 1", "step -1"]
    assert not batch.complete
    sweep(spool_dir)
    assert batch.complete
    run(spool_dir)
    assert ran()[2:] == ["report 42 dead=1 lost=1"]


def test_an_end_that_the_store_missed_is_found_while_the_process_lives_that_recorded_the_begin(spool_dir: str) -> None:
    batch = a_batch(1)
    with no_store_after(0):
        run(spool_dir)
    assert not batch.complete
    sweep(spool_dir)
    assert batch.progress.states == {State.DONE: 1}
    run(spool_dir)
    assert ran() == ["step 1", "report 42 done=1"]


def test_a_member_waits_in_a_directory_that_the_sweeping_process_does_not_know(spool_dir: str, tmp_path: Path) -> None:
    other = sandbox.private_directory(str(tmp_path / "other"))
    os.makedirs(f"{other}/spoolers", mode=0o700)
    with Batch("elsewhere") as batch:
        job = batch.add(step.using(queue=str(tmp_path / "other")).call(1))
    assert os.path.exists(f"{other}/{spoolfile.PREFIX}{job.id}")
    assert other not in locations.spool_dirs()
    sweep(spool_dir)
    assert batch.progress.states == {State.QUEUED: 1}
    run(other)
    assert batch.results == [10]


def test_what_cannot_be_in_a_batch_is_refused(spool_dir: str) -> None:
    with pytest.raises(ArgumentTypeError, match="then is"):
        Batch("x", then=report)  # type: ignore[arg-type]
    with pytest.raises(ScheduleError, match="delay"):
        Batch("x", then=report.using(delay=5).call(1))
    with pytest.raises(ArgumentTypeError, match="stands for the result"):
        Batch("x", then=report.call(RESULT))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="on_death"):
        Batch("x", on_death="stop")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="name"):
        Batch("")
    with Batch("x") as batch:
        with pytest.raises(ArgumentTypeError, match="@thread"):
            batch.add(in_thread)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="is unique"):
            batch.add(only)
        with pytest.raises(ArgumentTypeError, match="not supported"):
            batch.add(chain)  # type: ignore[arg-type]
        with pytest.raises(SignatureError):
            batch.add(step, 1, 2)  # type: ignore[call-arg]
        with pytest.raises(ArgumentError, match="already"):
            batch.add(step.call(1), 2)
    with pytest.raises(BatchStateError):
        batch.add(step, 1)
    with pytest.raises(BatchStateError), batch:
        pass
    with pytest.raises(UnknownBatchError):
        Batch.get("0" * 32)


def test_a_batch_is_deleted_with_the_last_record_of_its_members(spool_dir: str) -> None:
    batch = a_batch(1, -1)
    run(spool_dir)
    actions.purge()
    assert batch.status.members == {State.DONE: 1, State.DEAD: 1}
    actions.purge([State.DEAD])
    with pytest.raises(UnknownBatchError):
        _ = batch.status
    assert locations.store().batch_members(batch.id) == []


def test_a_member_that_a_death_has_cancelled_never_runs_although_its_file_outlives_other_records(
    tmp_path: Path, monkeypatch: Any
) -> None:
    with site(tmp_path, SPOOLKIT_QUEUES={"other": {}}) as spool_dir:
        with Batch("two", on_death="cancel") as batch:
            batch.add(step, -1)
            late = batch.add(step.using(queue="other", delay=20 * 86400.0).call(2))
        run(spool_dir)
        assert late.state is State.CANCELLED
        now = clock.now()
        monkeypatch.setattr(clock, "now", lambda: now + 21 * 86400.0)
        retention.last_deletion.set(-retention.INTERVAL)
        retention.delete_some(locations.store(), spool_dir, application.settings())
        run(locations.queue_dir("other"))
        assert ran() == ["step -1"]


def test_the_results_of_a_batch_are_kept_until_it_is_complete(spool_dir: str, monkeypatch: Any) -> None:
    with Batch("long", then=report.call(1)) as batch:
        batch.add(step, 1)
        late = batch.add(step.using(delay=1000).call(2))
    run(spool_dir)
    now = clock.now()
    with monkeypatch.context() as patch:
        patch.setattr(clock, "now", lambda: now + 500)
        assert actions.purge() == 0
    actions.run_now(late.id)
    run(spool_dir)
    assert batch.callback is not None
    assert batch.callback.result["results"] == [10, 20]
    assert actions.purge(before=clock.now() + 1) == 3


def test_with_fsync_a_batch_is_on_the_disk_before_a_member_has_its_place(tmp_path: Path, monkeypatch: Any) -> None:
    done: list[str] = []
    fsync, place = os.fsync, later.place

    def note_fsync(fd: int) -> None:
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def note_place(*args: Any) -> None:
        done.append("place")
        place(*args)

    with site(tmp_path, SPOOLKIT_FSYNC=True) as spool_dir:
        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(later, "place", note_place)
        batch = a_batch(1, 2)
        wal = done.index("spoolkit.db-wal")
        assert done[:wal].count(batch.id) == 1, "the folder with the files"
        assert done.index("place") > wal
        run(spool_dir)
        assert batch.complete


def test_a_folder_of_a_batch_that_was_never_accepted_is_removed(spool_dir: str, monkeypatch: Any) -> None:
    assert in_child(lambda: die_in_block(10)) == CRASHED
    assert len(batches.staged(spool_dir)) == 1
    sweep(spool_dir)
    assert len(batches.staged(spool_dir)) == 1, "its maker may be alive"
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 4000)
    sweep(spool_dir)
    assert os.listdir(f"{spool_dir}/batches") == []


def die_in_block(step_number: int) -> None:
    die_at(step_number)
    a_batch(1, 2)


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_a_maker_killed_at_any_step_leaves_all_of_a_batch_or_nothing(spool_dir: str, first: int) -> None:
    for number in range(first, first + 10):
        status = in_child(lambda number=number: die_in_block(number))  # type: ignore[misc]
        before = len(ran())
        sweep(spool_dir)
        run(spool_dir)
        lines = sorted(ran()[before:])
        assert lines in ([], ["report 42 done=2", "step 1", "step 2"]), number
        assert status == CRASHED or lines
        assert [path for path in spoolfile.pending(spool_dir) if spoolfile.id_of(os.path.basename(path))] == []


@at_every(13)
@pytest.mark.parametrize("numbers", [(1, 2), (1, -1)])
def test_a_spooler_killed_at_any_step_accepts_the_callback_once(
    tmp_path: Path, numbers: tuple[int, ...], stride: int
) -> None:
    for number in range(0, 500, stride):
        # A directory of its own: what the killed processes leave behind would make each run longer than the last one.
        with site(tmp_path / str(number)) as spool_dir:
            batch = a_batch(*numbers)

            def work(number: int = number, spool_dir: str = spool_dir) -> None:
                die_at(number)
                run(spool_dir)

            status = in_child(work)
            assert status in (0, CRASHED)
            sweep(spool_dir)
            run(spool_dir)
            assert batch.complete
            assert batch.status.generation == 1
            assert batch.callback is not None
            ids = [row["id"] for row in locations.store().read("SELECT id FROM jobs WHERE task = ?", (report.name,))]
            assert ids == [batch.callback.id], number
            assert ran(), number
        if status == 0:
            return
    pytest.fail("it never came to its end")


def test_a_member_that_fails_and_then_succeeds_counts_once_with_its_result(spool_dir: str) -> None:
    with Batch("flaky", then=report.call(1)) as batch:
        batch.add(flaky, 7)
    run(spool_dir)
    assert ran() == ["flaky 1", "flaky 2", "report 1 done=1"]
    assert batch.results == [7]


def test_a_member_that_is_cancelled_between_two_attempts_has_ended_at_once(spool_dir: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(sweeping, "run", lambda spool_dir: None)
    with Batch("x", then=report.call(1)) as batch:
        batch.add(cancelled_unseen)
    run(spool_dir)
    assert ran() == ["report 1 cancelled=1"]
    assert batch.complete


def test_a_callback_that_fails_is_a_dead_job_like_any_other(spool_dir: str) -> None:
    with Batch("x", then=step.call(-5)) as batch:
        batch.add(step, 1)
    run(spool_dir)
    assert batch.callback is not None
    assert batch.callback.state is State.DEAD
    actions.retry(batch.callback.id)
    assert batch.complete, "the callback is no member"


def test_what_people_see_of_a_job_names_its_batch(spool_dir: str) -> None:
    batch = a_batch(1)
    runner = current_app.test_cli_runner()
    for _ in range(2):  # as a file, and as a record
        for job in (*batch.jobs, *filter(None, [batch.callback])):
            assert job.batch == batch.id
            assert batch.id in runner.invoke(commands, ["show", job.id]).output
            assert json.loads(runner.invoke(commands, ["show", job.id, "--json"]).output)["batch"] == batch.id
        run(spool_dir)
    assert batch.callback is not None


def test_the_members_of_two_directories_have_not_ended_while_one_of_these_is_not_moved_yet(
    spool_dir: str, tmp_path: Path, monkeypatch: Any
) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    publish = batches.publish

    def sweep_first(directory: str, batch: str, **options: Any) -> None:
        """The batch is accepted, and not one file of it is moved: another process sweeps its own directory."""
        if directory == str(other):
            sweep(spool_dir)
        publish(directory, batch, **options)

    with site(tmp_path / "two", SPOOLKIT_QUEUES={"other": {"path": str(other)}}) as spool_dir:
        monkeypatch.setattr(batches, "publish", sweep_first)
        with Batch("two") as batch:
            batch.add(step, 1)
            batch.add(step.using(queue="other").call(2))
        assert batch.progress.states == {State.QUEUED: 2}
        run(spool_dir)
        run(str(other))
        assert batch.complete


def test_a_time_limit_that_strikes_when_a_batch_has_just_been_accepted_takes_no_member_away(
    spool_dir: str, monkeypatch: Any
) -> None:
    accept = Store.accept_batch

    def accept_and_raise(*args: Any, **options: Any) -> bool:
        accept(*args, **options)
        raise JobTimeout

    monkeypatch.setattr(Store, "accept_batch", accept_and_raise)
    with pytest.raises(JobTimeout), Batch("late") as batch:
        batch.add(step, 1)
    sweep(spool_dir)
    run(spool_dir)
    assert (batch.complete, ran()) == (True, ["step 1"])


def test_a_callback_that_cannot_be_written_holds_up_no_other(spool_dir: str, monkeypatch: Any, caplog: Any) -> None:
    write = successors.write

    def fail(job: Any, *args: Any) -> None:
        if job.batch == first.id:
            raise OSError("no space left")
        write(job, *args)

    first, second = a_batch(1), a_batch(2)
    with monkeypatch.context() as patch:
        patch.setattr(successors, "write", fail)
        run(spool_dir)
    assert (first.callback, second.callback is None) == (None, False)
    assert "no space left" in caplog.text
    sweep(spool_dir)
    assert first.callback is not None


def test_the_record_of_a_callback_outlives_the_wish_to_call_back(spool_dir: str) -> None:
    """A spooler is killed between the callback's file and the record that it was written; the callback runs, is done,
    and done jobs are deleted at once: it must not be accepted again."""
    batch = a_batch(1)
    run(spool_dir)
    assert batch.callback is not None
    with locations.store().transaction() as db:
        db.execute("UPDATE batches SET called_back = 0, callback_job = NULL")
    retention.delete_rows(locations.store(), [State.DONE], clock.now() + 1000, 100)
    sweep(spool_dir)
    run(spool_dir)
    assert [line for line in ran() if "report" in line] == ["report 42 done=1"]


def test_a_retry_that_a_sweep_overtakes_calls_back_once_the_job_has_ended_again(spool_dir: str) -> None:
    a_batch(-1)
    run(spool_dir)
    Path(f"{history}.mended").touch()
    [job] = actions.dead_jobs()
    locations.store().requeue(job.id, still_there=lambda: True)
    sweep(spool_dir)  # the file still is among the dead
    actions.retry(job.id)
    run(spool_dir)
    assert ran()[-1] == "report 42 done=1"


def test_the_doctor_names_what_nobody_takes_care_of(spool_dir: str, monkeypatch: Any) -> None:
    def problems() -> list[str]:
        output = current_app.test_cli_runner().invoke(commands, ["doctor", "--json"]).stdout
        return [one["problem"] for one in json.loads(output) if one["check"] == "batch"]

    assert in_child(lambda: die_in_block(10)) == CRASHED
    batch = a_batch(1)
    monkeypatch.setattr(coordination, "call_back", lambda *args: None)
    run(spool_dir)
    assert problems() == []
    now = clock.now() + 6000
    monkeypatch.setattr(clock, "now", lambda: now)
    callback, staged = sorted(problems(), key=lambda text: "moved" in text)
    assert batch.id in callback
    assert f"{spool_dir}/batches/" in staged
    monkeypatch.undo()
    monkeypatch.setattr(clock, "now", lambda: now)
    sweep(spool_dir)
    assert problems() == []


def test_a_batch_that_a_queue_has_no_room_for_is_refused_as_a_whole(tmp_path: Path) -> None:
    with site(tmp_path, SPOOLKIT_MAX_WAITING=3) as spool_dir:
        with pytest.raises(QueueFull):
            a_batch(1, 2, 3, 4)
        assert batches.staged(spool_dir) == []
        assert a_batch(1, 2).progress.total == 2


def test_a_signal_tells_of_each_member_and_of_the_callback(spool_dir: str) -> None:
    accepted: list[str] = []

    def told(sender: object, job: Any, **more: Any) -> None:
        accepted.append(job.id)

    with signals.job_accepted.connected_to(told):
        batch = a_batch(1, 2)
        run(spool_dir)
    assert batch.callback is not None
    assert accepted == [*[job.id for job in batch.jobs], batch.callback.id]


def test_the_signal_of_a_job_that_people_cancel_names_its_batch_and_its_tags(spool_dir: str) -> None:
    told: list[Any] = []

    def note_job(sender: object, job: Any, **more: Any) -> None:
        told.append((job.batch, job.tags))

    with Batch("x") as batch:
        job = batch.add(step.using(tags=["a"]).call(1))
    with signals.job_cancelled.connected_to(note_job):
        job.cancel()
    assert told == [(batch.id, ("a",))]


def test_no_member_and_no_callback_waits_for_a_commit_by_itself(spool_dir: str) -> None:
    with Batch("x") as batch, pytest.raises(ArgumentError, match="after_commit"):
        batch.add(step.using(after_commit=True).call(1))
    with pytest.raises(ArgumentError, match="after_commit"):
        Batch("x", then=report.using(after_commit=True).call(1))


def test_the_command_shows_a_batch(spool_dir: str) -> None:
    batch = a_batch(1, -1)
    runner = current_app.test_cli_runner()
    assert "open: some members have not ended" in runner.invoke(commands, ["batch", batch.id]).output
    run(spool_dir)
    output = runner.invoke(commands, ["batch", batch.id]).output
    [dead] = actions.dead_jobs()
    assert batch.callback is not None
    for text in ("import", "complete", "2: 1 done, 1 dead", dead.id, f"{batch.callback.id} done"):
        assert text in output
    shown = json.loads(runner.invoke(commands, ["batch", batch.id, "--json"]).output)
    assert (shown["total"], shown["ended"], shown["generation"], shown["dead"]) == (2, 2, 1, [dead.id])
    assert runner.invoke(commands, ["batch", batch.id[:20]]).output == output
    a_batch()
    several = runner.invoke(commands, ["batch", "1"])
    assert (several.exit_code, "several" in several.output) == (1, True)
    unknown = runner.invoke(commands, ["batch", "0" * 32])
    assert (unknown.exit_code, "unknown" in unknown.output) == (1, True)
