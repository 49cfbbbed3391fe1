"""The state of jobs from their files and records, from one of them alone, and lists with their order."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from life_process import start_child, wait_child
from uwsgi_server import wait_until

from spoolkit import Abort, Retry, UnknownJobError, current_job, job, spool, thread
from spoolkit.admin import lookup
from spoolkit.encoding import packet
from spoolkit.job import Dead, Done, Failure, Progress, RetryAt, State, Status, new_id
from spoolkit.spooldir import dead, running, spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations, retention
from spoolkit.store.transitions import Result
from spoolkit.system import clock
from spoolkit.uwsgi import bridge

NO_JOB = "0" * 32


@spool(backoff=1000)
def ends(how: str) -> str:
    print(f"it {how}")
    if how == "fails":
        raise ValueError("as ever")
    if how == "dies":
        raise Abort("no use")
    if how == "waits":
        raise Retry(delay=500, reason="busy")
    return how


@spool(backoff=1000)
def hangs() -> None:
    print("begun")
    current_job().progress(1, 3, "parts")
    while True:
        time.sleep(10)


@thread
def ends_in_a_thread() -> None: ...


@pytest.fixture
def spooler(directory: str) -> Iterator[int]:
    """A spooler process."""
    pid = start_child(lambda: Spooler(directory).run())
    wait_until(lambda: os.path.exists(f"{directory}/spoolers/{pid}"))
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        wait_child(pid)


def state(id: str) -> State:
    """The state of the job, the same from find() and from jobs()."""
    alone = lookup.find(id)
    among = [status for status in lookup.jobs() if status.id == id]
    if alone.state is not State.LOST:
        assert [status.state for status in among] == [alone.state]
        assert [status.id for status in lookup.jobs(states=(alone.state,))].count(id) == 1
    return alone.state


def file_of(directory: str) -> str:
    (path,) = spoolfile.pending(directory)
    return path


def break_store(directory: str) -> None:
    locations.store().close()
    for name in ("spoolkit.db-wal", "spoolkit.db-shm"):
        Path(directory, name).unlink(missing_ok=True)
    Path(directory, "spoolkit.db").write_bytes(b"no database" * 100)


# Each state


@pytest.mark.parametrize("priority", [None, 7])
def test_find_reads_a_queued_job_from_its_file(directory: str, priority: int | None) -> None:
    made = ends.using(delay=1000, priority=priority)("x")
    assert state(made.id) is State.QUEUED
    found = lookup.find(made.id)
    assert (found.task, found.attempt, found.max_attempts, found.started_at) == (ends.name, 0, None, None)
    assert found.enqueued_at == made.enqueued_at
    assert found.run_at == pytest.approx(made.run_at, abs=1e-5)
    assert not os.path.exists(f"{directory}/spoolkit.db"), "to look makes no store"


def test_find_returns_no_run_at_for_a_job_without_a_time(directory: str) -> None:
    assert lookup.find(ends("x").id).run_at is None


def test_find_returns_the_time_of_the_file(directory: str) -> None:
    made = ends.using(delay=1000)("x")
    os.utime(file_of(directory), (2e9, 2e9))
    assert lookup.find(made.id).run_at == 2e9


def test_a_running_job_has_its_pid_and_progress(directory: str, spooler: int) -> None:
    made = hangs()
    wait_until(lambda: lookup.from_store(lambda: locations.store().status(made.id)))
    wait_until(lambda: lookup.find(made.id).progress)
    assert state(made.id) is State.RUNNING
    found = lookup.find(made.id)
    assert (found.pid, found.attempt, found.max_attempts) == (spooler, 1, 6)
    assert found.progress == Progress(1, 3, "parts")
    assert [status.progress for status in lookup.jobs()] == [found.progress]
    details = lookup.details(made.id)
    ((outcome, log),) = [(attempt.outcome, attempt.log) for attempt in details.attempts]
    assert (outcome, log) == ("running", "begun\n")


def test_a_job_whose_process_died_is_retrying(directory: str, spooler: int) -> None:
    made = hangs()
    wait_until(lambda: lookup.find(made.id).state is State.RUNNING and lookup.find(made.id).progress)
    os.kill(spooler, signal.SIGKILL)
    wait_until(lambda: lookup.find(made.id).state is State.RETRYING)
    assert state(made.id) is State.RETRYING
    assert (lookup.find(made.id).pid, lookup.find(made.id).attempt) == (None, 1)
    assert lookup.jobs(states=(State.RUNNING,)) == []
    assert lookup.details(made.id).attempts[0].log == "begun\n"


def test_a_job_that_waits_for_its_next_attempt_is_retrying(directory: str, work: Callable[[], None]) -> None:
    failed, asked = ends("fails"), ends("waits")
    before = clock.now()
    work()
    for made, seconds in ((failed, 1000), (asked, 500)):
        assert state(made.id) is State.RETRYING
        found = lookup.find(made.id)
        assert found.run_at is not None
        assert before + seconds <= found.run_at <= clock.now() + seconds * 1.3
    assert (lookup.find(failed.id).error_type, lookup.find(failed.id).error_message) == ("ValueError", "as ever")


def test_a_job_that_succeeded_is_done_with_its_result_and_times(directory: str, work: Callable[[], None]) -> None:
    made = ends("well")
    work()
    assert state(made.id) is State.DONE
    found = lookup.find(made.id)
    assert (found.result, found.result_error, found.error_type) == (b'"well"', None, None)
    assert found.started_at is not None
    assert found.finished_at is not None
    assert found.enqueued_at is not None
    assert found.enqueued_at <= found.started_at <= found.finished_at <= clock.now()


def test_a_job_recorded_as_done_is_done_although_its_file_still_exists(
    directory: str, work: Callable[[], None]
) -> None:
    made = ends("well")
    data = Path(file_of(directory)).read_bytes()
    work()
    spoolfile.write(directory, made.id, data)  # as after a kill between the record and the file
    assert state(made.id) is State.DONE


def test_a_job_that_aborted_is_dead_with_its_reason(directory: str, work: Callable[[], None]) -> None:
    made = ends("dies")
    work()
    assert state(made.id) is State.DEAD
    assert lookup.find(made.id).error_message == "no use"


def test_a_dead_job_without_a_record_is_read_from_its_file_and_report(directory: str) -> None:
    made = ends("x")
    dead.quarantine(file_of(directory), directory, reason="nobody knows", task="other.name")
    assert state(made.id) is State.DEAD
    found = lookup.find(made.id)
    assert (found.task, found.error_message) == (ends.name, "nobody knows")
    assert found.finished_at == pytest.approx(clock.now(), abs=60)


def test_a_dead_file_of_another_library_has_its_name_as_id(directory: str) -> None:
    path = spoolfile.write(directory, "host_1_2_3_4", packet.dump(packet.Packet({b"ud_spool_func": b"f"})))
    dead.quarantine(path, directory, reason="nobody runs it", task="f")
    name = os.path.basename(path)
    assert state(name) is State.DEAD
    assert (lookup.find(name).task, lookup.find(name).error_message) == ("f", "nobody runs it")


def test_a_dead_file_whose_name_is_not_utf_8_is_listed_with_the_others(
    directory: str, work: Callable[[], None]
) -> None:
    aborted = ends("dies")
    work()
    name = f"{spoolfile.PREFIX}\udcff"
    Path(directory, dead.FOLDER, name).write_bytes(packet.dump(packet.Packet({b"ud_spool_func": b"f"})))
    assert {status.id for status in lookup.jobs(states=[State.DEAD])} == {aborted.id, name}


def test_a_dead_file_without_a_report_is_dead(directory: str) -> None:
    made = ends("x")
    path = dead.quarantine(file_of(directory), directory, reason="x")
    os.unlink(f"{path}.json")
    assert state(made.id) is State.DEAD
    assert lookup.find(made.id).finished_at is None


def test_a_dead_job_that_was_moved_back_by_hand_is_queued(directory: str, work: Callable[[], None]) -> None:
    made = ends("dies")
    work()
    (path,) = dead.paths(directory)
    os.rename(path, f"{directory}/{os.path.basename(path)}")
    assert lookup.find(made.id).state is State.QUEUED
    assert lookup.find(made.id).finished_at is None


def test_a_job_that_dies_and_is_deleted_after_the_files_were_listed_is_not_listed(
    directory: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ends("dies")
    files = lookup.list_files()
    work()
    find = lookup.find

    def is_deleted_first(id: str) -> Status:
        dead.delete_older(directory, clock.now() + 60, 1)
        retention.delete_one(locations.store(), [directory], id)
        return find(id)

    monkeypatch.setattr(lookup, "find", is_deleted_first)
    assert lookup.jobs(states=[State.QUEUED], files=files) == []
    with pytest.raises(UnknownJobError):
        find(made.id)


def test_a_job_that_was_set_aside_but_not_recorded_is_dead(directory: str, spooler: int) -> None:
    made = hangs()
    wait_until(lambda: lookup.find(made.id).state is State.RUNNING)
    os.kill(spooler, signal.SIGKILL)
    wait_child(spooler)
    dead.quarantine(file_of(directory), directory, reason="out of attempts")
    found = lookup.find(made.id)
    assert (found.state, found.error_message, found.attempt) == (State.DEAD, "out of attempts", 1)


def test_a_job_that_was_cancelled_is_cancelled(directory: str) -> None:
    made = ends.using(delay=1000)("x")
    made.cancel()
    assert state(made.id) is State.CANCELLED


def test_a_retrying_job_without_a_file_is_lost(directory: str, work: Callable[[], None]) -> None:
    made = ends("fails")
    work()
    os.unlink(file_of(directory))
    assert lookup.find(made.id).state is State.LOST


def test_a_job_that_finished_while_the_store_was_broken_is_done(directory: str) -> None:
    plain = job.JobSpec(id=new_id(), task=ends.name)
    locations.store().claim(plain, file="uwsgi_spoolfile_on_x", still_there=lambda: True, max_attempts=3)
    found = lookup.find(plain.id)
    assert (found.state, found.result) == (State.DONE, None)
    assert found.result_error


def test_a_file_that_was_rescheduled_while_the_store_was_broken_is_retrying(directory: str, spooler: int) -> None:
    made = hangs()
    wait_until(lambda: lookup.find(made.id).state is State.RUNNING)
    spoolfile.reschedule(file_of(directory), 2e9)
    found = lookup.find(made.id)
    assert (found.state, found.run_at) == (State.RETRYING, 2e9)


def test_a_thread_job_is_found_without_a_file(directory: str) -> None:
    plain = job.JobSpec(id=new_id(), task="tasks.some", engine="thread")
    store = locations.store()
    store.claim(plain, file=None, still_there=lambda: True, max_attempts=1)
    assert lookup.find(plain.id).state is State.RUNNING
    store.finish(plain, 1, Done(), result=Result(b"1"))
    assert lookup.find(plain.id).state is State.DONE


def test_find_and_details_raise_for_an_unknown_job(directory: str, work: Callable[[], None]) -> None:
    ends("x")
    for look in (lookup.find, lookup.details):
        with pytest.raises(UnknownJobError, match="never accepted, or its record was deleted") as caught:
            look(NO_JOB)
        assert caught.value.job == NO_JOB


@pytest.mark.parametrize("id", ["", ".", "..", "../dead/x", "/", "a/", "a\0", "x" * 201])
def test_find_refuses_a_path_as_an_id(directory: str, id: str) -> None:
    with pytest.raises(UnknownJobError, match="is not the id of a job"):
        lookup.find(id)


def test_the_longest_id_is_one_that_a_file_can_have(directory: str) -> None:
    os.makedirs(os.path.join(directory, "later"), exist_ok=True)
    with pytest.raises(UnknownJobError, match="never accepted"):
        lookup.find("x" * 200)


# A broken store


def test_find_and_jobs_read_the_files_while_the_store_is_broken(directory: str, work: Callable[[], None]) -> None:
    dead, done, retrying = ends("dies"), ends("well"), ends("fails")
    work()
    queued = ends.using(delay=1000)("x")
    break_store(directory)
    assert [state(made.id) for made in (dead, queued)] == [State.DEAD, State.QUEUED]
    assert state(retrying.id) is State.QUEUED, "the store alone knew of the attempt"
    with pytest.raises(UnknownJobError):
        lookup.find(done.id)
    assert [status.id for status in lookup.jobs()] == [queued.id, retrying.id, dead.id]
    details = lookup.details(queued.id)
    assert (details.arguments, details.attempts, details.events) == ((("x",), {}), [], [])


# The race of file and record


def test_find_sees_a_job_that_finishes_during_the_search(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ends("well")
    asked = lookup.recorded
    looks: list[str] = []

    def recorded(id: str) -> object:
        found = asked(id)
        if not looks:
            looks.append(id)
            Spooler(directory).run_due()
        return found

    monkeypatch.setattr(lookup, "recorded", recorded)
    assert lookup.find(made.id).state is State.DONE


def test_find_sees_a_file_that_is_renamed_during_the_search(
    directory: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ends("fails")
    work()
    asked = spoolfile.locate
    looks: list[str] = []

    def locate(folder: str, id: str, known: str | None = None, *, max_entries: int | None = None) -> str | None:
        found = asked(folder, id, known, max_entries=max_entries)
        if found is not None and not looks:
            looks.append(found)
            spoolfile.reschedule(found, 2e9)
        return found

    monkeypatch.setattr(spoolfile, "locate", locate)
    found = lookup.find(made.id)
    assert (found.state, found.run_at) == (State.RETRYING, 2e9)


# Lists


def test_jobs_lists_files_and_records_newest_first(directory: str, work: Callable[[], None]) -> None:
    first, second, third = ends("well"), ends.using(delay=1000)("x"), ends("fails")
    fourth = ends("dies")
    work()
    fifth = ends.using(priority=3, delay=1000)("x")
    expected = [(fifth, "queued"), (fourth, "dead"), (third, "retrying"), (second, "queued"), (first, "done")]
    assert [(s.id, s.state.value) for s in lookup.jobs()] == [(made.id, state) for made, state in expected]
    for limit in range(6):
        assert [s.id for s in lookup.jobs(limit=limit)] == [made.id for made, _ in expected[:limit]]
    assert [s.id for s in lookup.jobs(states=(State.DEAD, State.QUEUED))] == [fifth.id, fourth.id, second.id]


def test_jobs_filters_by_task_and_time(directory: str, work: Callable[[], None]) -> None:
    old, queued = ends("well"), ends.using(delay=1000)("x")
    work()
    between = clock.now()
    new, other = ends("well"), hangs.using(delay=1000)()
    work()
    aborted = ends("dies")
    dead.quarantine(spoolfile.scanned(directory)[-1], directory, reason="x")
    assert [s.id for s in lookup.jobs(task=ends.name)] == [aborted.id, new.id, queued.id, old.id]
    assert [s.id for s in lookup.jobs(task=hangs.name)] == [other.id]
    assert [s.id for s in lookup.jobs(since=between)] == [aborted.id, other.id, new.id]
    assert [s.id for s in lookup.jobs(since=between, task=ends.name, states=(State.DEAD,))] == [aborted.id]
    assert lookup.jobs(task="tasks.none") == []


def test_jobs_applies_the_limit_after_the_filters(directory: str, work: Callable[[], None]) -> None:
    wanted = [ends.using(delay=1000)("x") for _ in range(3)]
    for _ in range(3):
        hangs.using(delay=1000)()
    assert [s.id for s in lookup.jobs(task=ends.name, limit=2)] == [wanted[2].id, wanted[1].id]


def test_jobs_lists_a_crashed_job_as_retrying(directory: str) -> None:
    pid = os.fork()
    plain = job.JobSpec(id="1" * 32, task=ends.name)
    if not pid:
        path = spoolfile.write(directory, plain.id, packet.dump(packet.pack(plain, max_body=100)))
        locations.store().claim(plain, file=os.path.basename(path), still_there=lambda: True, max_attempts=3)
        os._exit(0)
    wait_child(pid)
    assert [s.id for s in lookup.jobs(states=(State.RETRYING,))] == [plain.id]
    assert lookup.jobs(states=(State.RUNNING,)) == []


def test_jobs_leaves_out_files_of_other_libraries(directory: str) -> None:
    spoolfile.write(directory, "host_1_2_3_4", packet.dump(packet.Packet({b"ud_spool_func": b"f"})))
    spoolfile.write(directory, new_id(), b"damaged")
    assert lookup.jobs() == []


def test_jobs_lists_a_recorded_job_with_a_file_once(directory: str) -> None:
    store = locations.store()
    plain = [job.JobSpec(id=f"{number:032x}", task="tasks.some") for number in range(1, 603)]
    for made in plain:
        spoolfile.write(directory, made.id, packet.dump(packet.pack(made, max_body=100)))
    for made in plain[:600:2]:
        store.claim(made, file=f"{spoolfile.PREFIX}{made.id}", still_there=lambda: True, max_attempts=2)
        store.finish(made, 1, RetryAt(2e9, Failure("x")))
    found = lookup.jobs()
    assert [status.id for status in found] == [made.id for made in reversed(plain)]
    assert [status.state for status in found].count(State.RETRYING) == 300


def test_jobs_and_find_read_all_spool_directories(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ends.using(delay=1000)("x")
    other = tmp_path / "other"
    other.mkdir()
    there = job.JobSpec(id=new_id(), task="tasks.some")
    spoolfile.write(str(other), there.id, packet.dump(packet.pack(there, max_body=100)))
    monkeypatch.setattr(bridge, "directories", lambda: [str(other)])
    assert [status.id for status in lookup.jobs()] == [there.id, here.id]
    assert lookup.find(there.id).state is State.QUEUED


# Details


def test_details_have_the_arguments_as_the_task_receives_them(directory: str, work: Callable[[], None]) -> None:
    made = ends.using(delay=1000)(how="well")
    assert lookup.details(made.id).arguments == ((), {"how": "well"})
    done, large, dead = ends("well"), ends("x" * 5000), ends("dies")
    work()
    assert lookup.details(done.id).arguments == (("well",), {})
    assert lookup.details(large.id).arguments is None, "too large to be kept beyond the file"
    assert lookup.details(dead.id).arguments == (("dies",), {})


def test_details_read_large_arguments_while_the_file_exists(directory: str) -> None:
    made = ends.using(delay=1000)("x" * 100_000)
    assert lookup.details(made.id).arguments == (("x" * 100_000,), {})


def test_details_leave_out_arguments_that_cannot_be_decoded(directory: str) -> None:
    plain = job.JobSpec(id=new_id(), task="tasks.some")
    whole = packet.pack(plain, max_body=100)
    fields = {**whole.fields, packet.CALL: b'{"$of": "a later version"}'}
    spoolfile.write(directory, plain.id, packet.dump(packet.Packet(fields)))
    details = lookup.details(plain.id)
    assert (details.status.state, details.arguments) == (State.QUEUED, None)


def test_details_have_attempts_and_events_in_order(directory: str, work: Callable[[], None]) -> None:
    made = ends("fails")
    work()
    store = locations.store()
    store.record_event(made.id, "run now")
    details = lookup.details(made.id)
    ((number, outcome, error, message, log),) = [
        (a.number, a.outcome, a.error_type, a.message, a.log) for a in details.attempts
    ]
    assert (number, outcome, error, message, log) == (1, "failed", "ValueError", "as ever", "it fails\n")
    assert [event.kind for event in details.events] == ["run now"]


def test_the_state_of_a_dead_record_without_a_file_is_dead(directory: str) -> None:
    plain = job.JobSpec(id=new_id(), task="tasks.some")
    store = locations.store()
    store.claim(plain, file="x", still_there=lambda: True, max_attempts=1)
    store.finish(plain, 1, Dead(Failure("x")))
    assert state(plain.id) is State.DEAD


def test_only_a_running_job_shows_the_progress_of_its_file(directory: str, work: Callable[[], None]) -> None:
    made = ends("well")
    work()
    shown = running.AttemptFile(directory, made.id)
    shown.progress(Progress(1))
    assert lookup.find(made.id).progress is None
    shown.close()
    running.delete(directory, made.id)


# At 100,000 jobs


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the spool files that lookup opens."""
    paths: list[str] = []
    peek = spoolfile.peek

    def counting(path: str, size: int = -1) -> bytes | None:
        paths.append(path)
        return peek(path, size)

    monkeypatch.setattr(spoolfile, "peek", counting)
    return paths


def test_jobs_reads_a_bounded_number_of_files_and_says_so(directory: str, opened: list[str]) -> None:
    made = [ends.using(delay=1000)("x") for _ in range(8)]
    found = lookup.jobs(task="tasks.none", max_examined=5)
    assert (list(found), found.complete, len(opened)) == ([], False, 5)
    found = lookup.jobs(max_examined=5)
    assert [status.id for status in found] == [job.id for job in made[:2:-1]], "the newest ones"
    assert not found.complete
    assert lookup.jobs(limit=5, max_examined=5).complete, "the five newest are what was asked for"
    assert lookup.jobs(max_examined=8).complete
    opened.clear()
    assert lookup.jobs(limit=2, max_examined=5).complete
    assert len(opened) == 2, "no more than are shown"


def test_jobs_reads_a_bounded_number_of_records_and_says_so(directory: str, work: Callable[[], None]) -> None:
    for how in ("fails", "well"):
        made = [ends(how) for _ in range(4)]
        work()
        state = lookup.find(made[0].id).state
        for most, complete in ((3, False), (4, True)):
            found = lookup.jobs(states=(state,), task=ends.name, max_examined=most)
            assert ([s.id for s in found], found.complete) == ([job.id for job in made[::-1]][:most], complete)


def test_jobs_reads_a_bounded_number_of_dead_files(directory: str, opened: list[str]) -> None:
    for _ in range(6):
        ends.using(delay=1000)("x")
    for path in spoolfile.pending(directory):
        dead.quarantine(path, directory, reason="x")
    found = lookup.jobs(states=(State.DEAD,), max_examined=4)
    assert (len(found), found.complete, len(opened)) == (4, False, 4)


def test_jobs_since_a_time_opens_no_older_files(directory: str, opened: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", lambda: 1e9)
        for _ in range(3):
            ends.using(delay=1000)("x")
    new = ends.using(delay=1000)("x")
    assert [status.id for status in lookup.jobs(since=1e9 + 60)] == [new.id]
    assert len(opened) == 1


def test_find_reads_no_directory_for_what_cannot_be_an_id(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.using(delay=1000)("x")

    def no_scan(*_: object) -> None:
        raise AssertionError("the directory was read")

    monkeypatch.setattr(os, "scandir", no_scan)
    monkeypatch.setattr(os, "listdir", no_scan)
    for id in ("00", "x", "uwsgi_spoolfile_on_host", NO_JOB.replace("0", "A")):
        with pytest.raises(UnknownJobError):
            lookup.find(id)


def test_jobs_lists_the_files_once_more_for_many_records_without_files(
    directory: str, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
) -> None:
    made = [ends("fails") for _ in range(5)]
    work()
    for path in spoolfile.pending(directory):
        os.unlink(path)
    listed = 0
    pending = spoolfile.pending

    def counting(directory: str, most: int | None = None) -> list[str]:
        nonlocal listed
        listed += 1
        return pending(directory, most)

    monkeypatch.setattr(spoolfile, "pending", counting)
    found = lookup.jobs(states=(State.LOST,))
    assert {status.id for status in found} == {job.id for job in made}
    assert listed == 2
