"""retry, cancel, run_now and purge, with a spooler process where one is needed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from life_process import read_pipe, start_child, wait_child
from uwsgi_server import wait_until

from spoolkit import Abort, Job, JobCancelled, JobStateError, UnknownJobError, current_job, spool
from spoolkit import job as plain_job
from spoolkit.admin import actions, lookup
from spoolkit.encoding import packet
from spoolkit.errors import StoreUnavailableError
from spoolkit.job import FINISHED, Progress, State
from spoolkit.spooldir import dead, running, spoolfile, waiting
from spoolkit.spooling import standalone as engine
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import clock

NO_JOB = "0" * 32


@spool(retries=2, backoff=1000)
def note(path: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{current_job().attempt}\n")


@spool(retries=1, backoff=1000)
def fails() -> None:
    raise ValueError("as ever")


@spool
def gives_up() -> None:
    raise Abort("no use")


@spool(retries=3, backoff=0)
def hangs(path: str) -> None:
    """Runs until it is killed; ignores a request to stop."""
    print("words of the attempt")
    current_job().progress(1, 3, "parts")
    with Path(path).open("a") as file:
        file.write("started\n")
    while True:
        time.sleep(10)


@spool(retries=3, backoff=0)
def listens(path: str) -> None:
    """Runs until it is asked to stop."""
    Path(path).write_text("started\n")
    while True:
        current_job().progress(1)
        time.sleep(0.005)


@pytest.fixture
def spooler(directory: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A spooler process that scans only when it is woken; a test may kill it."""
    monkeypatch.setattr(engine, "FREQUENCY", 1000)
    pid = start_child(lambda: Spooler(directory).run())
    wait_until(lambda: os.path.exists(f"{directory}/spoolers/{pid}"))
    yield pid
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # the test may have buried it
        wait_child(pid)


@pytest.fixture
def started(tmp_path: Path) -> Callable[[], str]:
    """Returns what a task wrote when it started."""
    path = tmp_path / "started"
    return lambda: path.read_text() if path.exists() else ""


def events(id: str) -> list[str]:
    return [event.kind for event in lookup.details(id).events]


# Retry


def test_retry_gives_a_dead_job_a_new_count_of_attempts(directory: str, work: Callable[[], None]) -> None:
    job = fails()
    work()
    actions.run_now(job.id)
    work()
    assert (job.state, job.attempt, job.status.max_attempts) == (State.DEAD, 2, 2)
    before = clock.now()
    actions.retry(job.id)
    assert job.state is State.QUEUED
    (path,) = spoolfile.pending(directory)
    assert before - 1 <= os.stat(path).st_mtime <= clock.now()
    assert os.listdir(f"{directory}/dead") == []
    work()
    assert (job.state, job.attempt, job.status.max_attempts) == (State.RETRYING, 3, 4)
    actions.run_now(job.id)
    work()
    assert (job.state, job.attempt) == (State.DEAD, 4)
    assert events(job.id) == ["run now", "retried", "run now"]


def test_retry_moves_a_dead_job_back_to_its_priority(directory: str, work: Callable[[], None]) -> None:
    job = gives_up.using(priority=7)()
    work()
    assert job.state is State.DEAD
    os.rmdir(f"{directory}/7")
    actions.retry(job.id)
    (path,) = spoolfile.pending(directory)
    assert os.path.dirname(path) == f"{directory}/7"


def test_retry_takes_a_dead_job_without_a_record(directory: str, work: Callable[[], None]) -> None:
    job = note(f"{directory}.notes")
    dead.quarantine(spoolfile.pending(directory)[0], directory, reason="nobody knows")
    assert job.state is State.DEAD
    actions.retry(job.id)
    work()
    assert job.state is State.DONE


def test_retry_works_while_the_store_is_broken(directory: str, work: Callable[[], None]) -> None:
    job = gives_up()
    work()
    locations.store().close()
    Path(directory, "spoolkit.db").write_bytes(b"no database" * 100)
    actions.retry(job.id)
    assert len(spoolfile.pending(directory)) == 1


def test_retry_refuses_a_damaged_file_and_leaves_it_in_dead(directory: str, work: Callable[[], None]) -> None:
    job = gives_up()
    work()
    Path(dead.paths(directory)[0]).write_bytes(b"damaged")
    with pytest.raises(JobStateError, match="damaged") as caught:
        actions.retry(job.id)
    assert caught.value.state == "dead"
    assert len(dead.paths(directory)) == 1
    assert spoolfile.pending(directory) == []


def test_retry_moves_back_a_dead_file_of_another_library(directory: str) -> None:
    data = packet.dump(packet.Packet({b"ud_spool_func": b"f"}))
    path = dead.quarantine(spoolfile.write(directory, "host_1_2_3_4", data), directory, reason="x")
    actions.retry(os.path.basename(path))
    assert spoolfile.pending(directory) == [f"{directory}/{os.path.basename(path)}"]


def test_retry_wakes_a_spooler(directory: str, spooler: int) -> None:
    job = gives_up()
    assert job.wait(60)
    (attempt,) = job.attempts
    actions.retry(job.id)
    wait_until(lambda: len(job.attempts) == 2 and job.state is State.DEAD)
    assert attempt.pid == spooler


def test_retry_refuses_a_job_that_is_not_dead(directory: str, work: Callable[[], None]) -> None:
    job = note(f"{directory}.notes")
    with pytest.raises(JobStateError, match="queued: only dead jobs") as caught:
        actions.retry(job.id)
    assert (caught.value.job, caught.value.state) == (job.id, "queued")
    work()
    with pytest.raises(JobStateError, match="done: only dead jobs"):
        actions.retry(job.id)
    assert spoolfile.pending(directory) == []


@pytest.mark.parametrize("act", [actions.retry, actions.cancel, actions.run_now])
@pytest.mark.parametrize("id", [NO_JOB, "", ".", "..", "../dead", "a/b", "/etc/passwd", "a\0b", "x" * 300])
def test_actions_refuse_what_is_not_the_id_of_a_job(directory: str, act: Callable[[str], object], id: str) -> None:
    with pytest.raises(UnknownJobError) as caught:
        act(id)
    assert caught.value.job == id


def test_dead_jobs_are_listed_by_task(directory: str, work: Callable[[], None]) -> None:
    first, second, third = gives_up(), gives_up(), fails()
    note(f"{directory}.notes")
    work()
    actions.run_now(third.id)
    work()
    assert [status.id for status in actions.dead_jobs()] == [third.id, second.id, first.id]
    assert [status.id for status in actions.dead_jobs(gives_up.name)] == [second.id, first.id]
    assert actions.dead_jobs("tasks.none") == []


# Cancel


@pytest.mark.parametrize("delay", [None, 1000])
@pytest.mark.parametrize("force", [False, True])
def test_cancel_keeps_a_queued_job_from_running(
    directory: str, work: Callable[[], None], started: Callable[[], str], delay: float | None, force: bool
) -> None:
    job = note.using(delay=delay)(f"{directory}.notes")
    assert actions.cancel(job.id, force=force) is State.CANCELLED
    assert spoolfile.pending(directory) == []
    work()
    assert not os.path.exists(f"{directory}.notes")
    assert (job.state, job.attempts) == (State.CANCELLED, [])
    assert job.status.task == note.name
    assert job.status.error_message
    assert job.status.finished_at is not None


def test_cancel_keeps_the_attempts_of_a_retrying_job(directory: str, work: Callable[[], None]) -> None:
    job = fails()
    work()
    assert actions.cancel(job.id) is State.CANCELLED
    assert (job.state, job.attempt, [a.outcome for a in job.attempts]) == (State.CANCELLED, 1, ["failed"])
    assert events(job.id) == ["cancelled"]
    assert spoolfile.pending(directory) == []


def test_cancel_wakes_a_process_that_waits_for_the_job(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_INTERVAL", 1000)
    job = note.using(delay=1000)("x")
    pid = os.fork()
    if not pid:
        os._exit(0 if job.wait(60) else 1)
    wait_until(lambda: os.path.exists(f"{directory}/waiting/{job.id}"))
    actions.cancel(job.id)
    assert wait_child(pid) == 0


def test_cancel_asks_a_running_job_which_stops_at_its_next_check(
    directory: str, spooler: int, started: Callable[[], str], tmp_path: Path
) -> None:
    job = listens(str(tmp_path / "started"))
    wait_until(started)
    assert actions.cancel(job.id) in (State.RUNNING, State.CANCELLED)  # it may stop before cancel returns
    assert job.wait(60)
    assert job.state is State.CANCELLED
    assert [attempt.outcome for attempt in job.attempts] == ["cancelled"]
    assert events(job.id) == ["cancel asked"]
    wait_until(lambda: spoolfile.pending(directory) == [])  # it goes once the end is recorded
    wait_until(lambda: running.job_ids(directory) == [])
    with pytest.raises(JobCancelled):
        _ = job.result


def test_cancel_asks_the_process_that_runs_the_job_by_now(
    directory: str, spooler: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = listens(str(tmp_path / "started"))
    wait_until((tmp_path / "started").exists)
    earlier, find = replace(job.status, pid=os.getppid()), actions.find
    answers = iter([earlier])
    monkeypatch.setattr(actions, "find", lambda id: next(answers, None) or find(id))
    actions.cancel(job.id)
    assert job.wait(60)
    assert job.state is State.CANCELLED


def test_cancel_is_recorded_while_the_job_does_not_check_for_it(
    directory: str, spooler: int, started: Callable[[], str], tmp_path: Path
) -> None:
    job = hangs(str(tmp_path / "started"))
    wait_until(started)
    assert actions.cancel(job.id) is State.RUNNING
    assert actions.cancel(job.id) is State.RUNNING
    assert (job.state, job.status.pid, job.status.cancel_asked) == (State.RUNNING, spooler, True)


def test_cancel_with_force_kills_a_running_job_for_good(
    directory: str, spooler: int, started: Callable[[], str], tmp_path: Path, work: Callable[[], None]
) -> None:
    job = hangs(str(tmp_path / "started"))
    wait_until(started)
    assert actions.cancel(job.id, force=True) is State.CANCELLED
    assert os.WTERMSIG(os.waitpid(spooler, os.WNOHANG)[1]) == signal.SIGKILL
    work()
    assert started() == "started\n"
    assert job.state is State.CANCELLED
    assert events(job.id) == ["killed"]
    ((outcome, pid, log),) = [(attempt.outcome, attempt.pid, attempt.log) for attempt in job.attempts]
    assert (outcome, pid, log) == ("cancelled", spooler, "words of the attempt\n")
    assert spoolfile.pending(directory) == []
    assert running.job_ids(directory) == []
    assert job.progress == Progress(1, 3, "parts")
    assert job.status.error_message == f"its process {spooler} was killed in attempt 1, to cancel it"


def test_cancel_takes_a_crashed_job_as_a_waiting_one(
    directory: str, spooler: int, started: Callable[[], str], tmp_path: Path
) -> None:
    job = hangs(str(tmp_path / "started"))
    wait_until(started)
    os.kill(spooler, signal.SIGKILL)
    wait_until(lambda: job.state is State.RETRYING)
    assert actions.cancel(job.id) is State.CANCELLED
    assert job.state is State.CANCELLED
    assert job.progress == Progress(1, 3, "parts")
    assert job.status.error_message == "cancelled while it was not running"


@pytest.mark.parametrize("force", [False, True])
def test_cancel_refuses_a_finished_job(directory: str, work: Callable[[], None], force: bool) -> None:
    for job in (note(f"{directory}.notes"), gives_up()):
        work()
        state = job.state
        assert state in FINISHED
        with pytest.raises(JobStateError, match=f"is already {state}") as caught:
            actions.cancel(job.id, force=force)
        assert caught.value.state == state
    cancelled = note.using(delay=1000)("x")
    actions.cancel(cancelled.id)
    with pytest.raises(JobStateError, match="is already cancelled"):
        actions.cancel(cancelled.id, force=force)


def test_cancel_with_force_refuses_to_kill_its_own_process(directory: str, work: Callable[[], None]) -> None:
    done = ends_itself()
    work()
    assert done.state is State.DONE
    assert done.result == f"job {done.id} cannot be killed: its process does other work too"


@spool
def ends_itself() -> str:
    try:
        actions.cancel(current_job().id, force=True)
    except JobStateError as error:
        return str(error)
    return "it did"


def test_cancel_with_force_refuses_to_kill_a_process_with_other_work(directory: str, tmp_path: Path) -> None:
    """A thread job, whose process serves requests."""
    plain = plain_job.JobSpec(id=plain_job.new_id(), task="tasks.some", engine="thread")
    with child(lambda: locations.store().claim(plain, file=None, still_there=lambda: True, max_attempts=1)) as pid:
        assert lookup.find(plain.id).pid == pid
        with pytest.raises(JobStateError, match="its process does other work too"):
            actions.cancel(plain.id, force=True)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        assert actions.cancel(plain.id) is State.RUNNING


@contextlib.contextmanager
def child(work: Callable[[], object]) -> Iterator[int]:
    """A process that calls ``work`` and then waits."""
    ready, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            work()
            os.write(write, b"x")
            signal.pause()
        finally:
            os._exit(1)
    assert read_pipe(ready) == b"x"
    yield pid
    os.kill(pid, signal.SIGKILL)
    wait_child(pid)
    for fd in (ready, write):
        os.close(fd)


def test_cancel_and_run_now_give_up_on_a_locked_file(
    directory: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(actions, "CLAIM_TIME", 0.05)
    job = note.using(delay=1000)("x")
    acts: list[Callable[[str], State]] = [actions.cancel, actions.run_now]
    with held(spoolfile.pending(directory)[0]):
        for act in acts:
            with pytest.raises(JobStateError, match="locked by another process"):
                act(job.id)
    assert job.state is State.QUEUED
    assert actions.cancel(job.id) is State.CANCELLED


def test_cancel_waits_for_a_file_that_is_locked_for_a_moment(directory: str) -> None:
    job = note.using(delay=1000)("x")
    with held(spoolfile.pending(directory)[0], seconds=0.1):
        assert actions.cancel(job.id) is State.CANCELLED


@contextlib.contextmanager
def held(path: str, seconds: float = 60) -> Iterator[None]:
    """Another process holds the lock on the file, for at most ``seconds``."""
    ready, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with spoolfile.claim(path) as fd:
                os.write(write, b"x" if fd is not None else b"-")
                time.sleep(seconds)
        finally:
            os._exit(0)
    assert read_pipe(ready) == b"x"
    yield
    os.kill(pid, signal.SIGKILL)
    wait_child(pid)
    for fd in (ready, write):
        os.close(fd)


def test_cancel_changes_nothing_while_the_store_is_broken(directory: str, work: Callable[[], None]) -> None:
    job = note(f"{directory}.notes")
    Path(directory, "spoolkit.db").write_bytes(b"no database" * 100)
    with pytest.raises(StoreUnavailableError):
        actions.cancel(job.id)
    work()
    assert Path(f"{directory}.notes").read_text() == "1\n"


# Run now


def test_run_now_makes_a_delayed_job_due(directory: str, work: Callable[[], None]) -> None:
    job = note.using(delay=1000)(f"{directory}.notes")
    work()
    assert job.state is State.QUEUED
    assert actions.run_now(job.id) is State.QUEUED
    work()
    assert job.state is State.DONE


def test_run_now_makes_a_retrying_job_due(directory: str, work: Callable[[], None]) -> None:
    job = fails()
    work()
    work()
    assert (job.state, job.attempt) == (State.RETRYING, 1)
    assert actions.run_now(job.id) is State.RETRYING
    work()
    assert (job.state, job.attempt) == (State.DEAD, 2)
    assert events(job.id) == ["run now"]


@pytest.mark.parametrize("priority", [None, 7])
def test_run_now_wakes_a_spooler(directory: str, spooler: int, priority: int | None, tmp_path: Path) -> None:
    job = note.using(delay=1000, priority=priority)(str(tmp_path / "notes"))
    actions.run_now(job.id)
    assert job.wait(60)
    assert job.state is State.DONE


def test_run_now_renames_the_file_for_a_spooler_that_saw_the_old_time(directory: str) -> None:
    job = note.using(delay=1000)("x")
    (before,) = spoolfile.pending(directory)
    actions.run_now(job.id)
    (after,) = spoolfile.pending(directory)
    assert before != after, "a spooler that saw the old time looks only at the name"
    assert spoolfile.is_due(after)


def test_run_now_refuses_a_job_that_is_not_waiting(
    directory: str, spooler: int, started: Callable[[], str], tmp_path: Path
) -> None:
    over = note(str(tmp_path / "notes"))
    assert over.wait(60)
    with pytest.raises(JobStateError, match="is done, not waiting"):
        actions.run_now(over.id)
    runs = hangs(str(tmp_path / "started"))
    wait_until(started)
    with pytest.raises(JobStateError, match="is running, not waiting"):
        actions.run_now(runs.id)


# Purge


def test_purge_deletes_final_jobs_only(directory: str, work: Callable[[], None]) -> None:
    done, dead, cancelled = note(f"{directory}.notes"), gives_up(), note.using(delay=1000)("x")
    work()
    retrying = fails()
    work()
    queued = note.using(delay=1000)("x")
    actions.cancel(cancelled.id)
    assert actions.purge() == 2
    for job in (done, cancelled):
        with pytest.raises(UnknownJobError):
            _ = job.state
    assert [job.state for job in (dead, retrying, queued)] == [State.DEAD, State.RETRYING, State.QUEUED]
    assert actions.purge() == 0


def test_purge_deletes_dead_jobs_with_their_files(directory: str, work: Callable[[], None]) -> None:
    jobs = [gives_up() for _ in range(3)]
    done = note(f"{directory}.notes")
    work()
    assert actions.purge((State.DEAD,)) == 3
    assert os.listdir(f"{directory}/dead") == []
    for job in jobs:
        with pytest.raises(UnknownJobError):
            _ = job.state
    assert done.state is State.DONE


def test_purge_deletes_only_jobs_that_finished_before_a_time(
    directory: str, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = note(f"{directory}.notes")
    work()
    between = clock.now()
    new = note(f"{directory}.notes")
    work()
    assert actions.purge(before=between) == 1
    assert new.state is State.DONE
    with pytest.raises(UnknownJobError):
        Job.get(old.id)
    assert actions.purge((State.DEAD, State.DONE), before=between) == 0


def test_purge_deletes_more_jobs_than_one_transaction_does(directory: str, work: Callable[[], None]) -> None:
    store = locations.store()
    with store.transaction() as db:
        db.executemany(
            "INSERT INTO jobs (id, task, engine, state, attempt, base, finished_at)"
            " VALUES (?, 't', 'spool', 'done', 1, 0, 1)",
            [(f"{number:032x}",) for number in range(2500)],
        )
    assert actions.purge() == 2500
