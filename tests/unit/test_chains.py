"""Chains: each job follows when the one before is done, with its result, wherever a process is killed."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import spool_site
from life_faults import CRASHED, at_every, die_at, no_store_after
from life_process import in_child

from spoolkit import (
    RESULT,
    ArgumentError,
    ArgumentTypeError,
    JobFailedError,
    JobStateError,
    Limit,
    NewerJobError,
    ScheduleError,
    State,
    StoreUnavailableError,
    TooLargeError,
    UnknownJobError,
    chain,
    current_job,
    spool,
    thread,
)
from spoolkit.admin import actions, lookup
from spoolkit.coordination import chains
from spoolkit.encoding import codec, packet
from spoolkit.job import JobSpec
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.store.database import Database
from spoolkit.system import clock

history = ""
"""The file to which each run is appended."""


def ran() -> list[str]:
    return Path(history).read_text().splitlines() if os.path.exists(history) else []


@spool(retries=0)
def first(value: Any) -> Any:
    with open(history, "a", encoding="ascii") as file:
        file.write(f"first {value!r}\n")
    if value == "fail" and not os.path.exists(f"{history}.mended"):
        raise ValueError(value)
    return object() if value == "object" else (value, value)


@spool(retries=2, backoff=0)
def second(value: Any, *, more: Any = None) -> Any:
    with open(history, "a", encoding="ascii") as file:
        file.write(f"second {value!r} {more!r}\n")
    return value


@spool(retries=1, backoff=0)
def shaky() -> None:
    if current_job().attempt == 1:
        raise OSError


@spool(limit=Limit(1, key=lambda value: value))
def limited(value: Any) -> Any:
    return value


@thread
def in_thread() -> None:
    """Its jobs have no file."""


@spool(unique=True)
def only(value: Any = None) -> None:
    """A call of it may make no job."""


site = functools.partial(spool_site.site, globals(), SPOOLKIT_MAX_BODY=5000)


@pytest.fixture
def spool_dir(tmp_path: Path) -> Iterator[str]:
    with site(tmp_path) as spool_dir:
        yield spool_dir


def run(spool_dir: str, times: int = 5) -> None:
    spooler = Spooler(spool_dir)
    for _ in range(times):
        spooler.run_due()


def test_each_job_gets_the_result_of_the_one_before(spool_dir: str) -> None:
    line = chain(first.call(1), second.call(RESULT, more=RESULT), second.call("x", more=RESULT), second.call(0))
    assert (line.current, line.finished) == (line.jobs[0], False)
    with pytest.raises(UnknownJobError):
        _ = line.jobs[1].state
    with pytest.raises(JobStateError):
        _ = line.result
    run(spool_dir)
    assert ran() == ["first 1", "second (1, 1) (1, 1)", "second 'x' (1, 1)", "second 0 None"]
    assert line.wait(0)
    assert line.result == 0
    assert [job.state for job in line.jobs] == [State.DONE] * 4


def test_each_job_has_its_own_options(spool_dir: str) -> None:
    line = chain(first.using(delay=1000).call(1), second.using(priority=4, at=clock.now() + 500).call(RESULT))
    assert line.current.run_at is not None
    actions.run_now(line.jobs[0].id)
    run(spool_dir)
    assert os.path.exists(f"{spool_dir}/later/4/{spoolfile.PREFIX}{line.jobs[1].id}")
    assert not line.finished


def test_jobs_that_cannot_be_accepted_yet_are_not_looked_for(spool_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find, asked = lookup.find, []

    def find_and_note(id: str, **options: Any) -> Any:
        asked.append(id)
        return find(id, **options)

    line = chain(second.call(1), second.call(2), second.call(3))
    monkeypatch.setattr(lookup, "find", find_and_note)
    assert not line.finished
    assert asked == [line.jobs[0].id]


def test_a_chain_is_followed_beyond_a_job_of_which_nothing_is_known_any_more(spool_dir: str) -> None:
    line = chain(second.call(1), second.call(2), second.call(3))
    run(spool_dir)
    for job in line.jobs[:2]:
        actions.purge_job(job.id)
    assert line.result == 3
    actions.purge_job(line.jobs[2].id)
    with pytest.raises(UnknownJobError):
        _ = line.finished


def test_a_dead_job_stops_the_chain_and_its_retry_goes_on(spool_dir: str) -> None:
    line = chain(first.call("fail"), second.call(RESULT))
    run(spool_dir)
    assert line.wait(0)
    assert line.current.state is State.DEAD
    with pytest.raises(JobFailedError):
        _ = line.result
    Path(f"{history}.mended").touch()
    actions.retry(line.jobs[0].id)
    run(spool_dir)
    assert line.result == ("fail", "fail")


def test_a_job_that_fails_and_is_tried_again_by_itself_goes_on_with_its_chain_also_with_nothing(spool_dir: str) -> None:
    line = chain(shaky.call(), second.call(RESULT))
    run(spool_dir)
    assert [job.attempt for job in line.jobs] == [2, 1]
    assert ran() == ["second None None"]
    assert line.result is None


def test_the_key_of_a_limit_is_that_of_the_result(spool_dir: str) -> None:
    line = chain(second.call("a"), limited.call(RESULT))
    run(spool_dir)
    assert line.jobs[1].status.limit_key == f'{limited.name} "a"'
    assert line.result == "a"


def test_a_cancelled_job_stops_the_chain(spool_dir: str) -> None:
    line = chain(first.call(1), second.call(RESULT))
    line.current.cancel()
    run(spool_dir)
    assert ran() == []
    assert line.finished


@pytest.mark.parametrize(("value", "reason"), [("object", "cannot be kept"), ("x" * 3000, "its arguments take 6")])
def test_a_result_that_the_next_job_cannot_get_makes_the_job_dead(spool_dir: str, value: str, reason: str) -> None:
    line = chain(first.call(value), second.call(RESULT))
    run(spool_dir)
    assert line.current.state is State.DEAD
    assert reason in (line.current.status.error_message or "")
    assert len(ran()) == 1


def test_a_result_that_nobody_asks_for_may_be_anything(spool_dir: str) -> None:
    line = chain(first.call("object"), second.call(5))
    run(spool_dir)
    assert line.result == 5


def test_a_chain_goes_on_without_the_store(spool_dir: str) -> None:
    chain(first.call(1), second.call(RESULT))
    with no_store_after(0):
        run(spool_dir)
    assert ran() == ["first 1", "second (1, 1) None"]


def test_a_chain_goes_on_and_runs_each_job_once_where_the_store_cannot_even_be_read(spool_dir: str) -> None:
    store = locations.store()
    chain(first.call(1), second.call(RESULT), second.call("last"))
    store.close()
    Path(store.path).write_bytes(b"no database at all " * 500)
    for _ in range(4):
        Spooler(spool_dir).run_due()
    assert ran() == ["first 1", "second (1, 1) None", "second 'last' None"]
    assert spoolfile.pending(spool_dir) == []


def test_the_retry_of_a_job_whose_end_was_not_recorded_makes_no_second_next_job(spool_dir: str) -> None:
    """The store breaks while the job runs, and its process is killed once the next job is written."""
    line = chain(first.call(1), second.call(RESULT))

    def work() -> None:
        def unavailable(store: Database, *args: Any) -> bool:
            raise StoreUnavailableError("no space left on the device", path=store.path)

        with pytest.MonkeyPatch.context() as patch, no_store_after(0):
            patch.setattr(Database, "write_after_task", unavailable)
            patch.setattr(spoolfile, "finish", lambda path: os._exit(CRASHED))
            run(spool_dir)

    assert in_child(work) == CRASHED
    run(spool_dir)
    assert line.jobs[0].state is State.DEAD
    assert line.result == (1, 1)
    actions.retry(line.jobs[0].id)
    run(spool_dir)
    assert ran() == ["first 1", "second (1, 1) None", "first 1"]
    assert line.result == (1, 1)


def test_what_cannot_be_in_a_chain_is_refused_and_nothing_is_written(spool_dir: str) -> None:
    def refused(error: type[Exception], match: str, *calls: Any) -> None:
        with pytest.raises(error, match=match):
            chain(*calls)

    one = first.call(1)
    refused(ArgumentError, "two calls", one)
    refused(ArgumentTypeError, "not a call", one, second)
    refused(ArgumentTypeError, "stands for the result", first.call(RESULT), one)
    refused(ArgumentTypeError, "stands for the result", one, second.call([RESULT]))
    refused(ScheduleError, "delay", one, second.using(delay=5).call(1))
    refused(ScheduleError, "expires", one, second.using(expires=5).call(1))
    refused(TooLargeError, "follow in its chain", one, *[second.call("x" * 4000)] * 20)
    with pytest.raises(ArgumentTypeError, match="@thread"):
        in_thread.call()
    with pytest.raises(ArgumentError, match="is unique"):
        only.call(RESULT)
    with pytest.raises(ArgumentError, match="is unique"):
        only.using(priority=3).call()
    with pytest.raises(ArgumentTypeError, match="stands for the result"):
        first(RESULT)
    assert spoolfile.pending(spool_dir) == []


def test_a_spooler_leaves_a_chain_alone_of_which_it_does_not_know_a_later_call(spool_dir: str) -> None:
    following = packet.load(packet.dump_job(JobSpec("0" * 32, "second", enqueued_at=1.0), b"[[],{}]")).fields
    newer = packet.dump(packet.Packet({**following, b"must": b"frobnicate", b"frobnicate": b"1"}))
    job = JobSpec("0" * 32, "first", enqueued_at=1.0, chain=(newer,))
    with pytest.raises(NewerJobError, match="frobnicate"):
        packet.unpack(packet.load(packet.dump_job(job, b"[[],{}]")))


def test_the_calls_that_follow_survive_the_packet() -> None:
    job = JobSpec("0" * 32, "t", enqueued_at=1.0, batch="b" * 32, result_at=(0, "a,b"))
    data = packet.dump_job(job, b"[[],{}]")
    outer = packet.dump_job(JobSpec("1" * 32, "t", enqueued_at=1.0, chain=(data, data)), b"[[],{}]")
    found = packet.unpack(packet.load(outer))
    assert found.chain == (data, data)
    assert packet.load(outer).fields[b"must"] == b"chain"
    assert packet.unpack(packet.load(data)) == job


def test_a_value_is_put_into_encoded_arguments() -> None:
    call = codec.encode_call((None, 1), {"a": None})
    value = codec.encode({"$x": (1, 2)})
    assert codec.decode_call(codec.fill(call, (0, "a"), value)) == (({"$x": (1, 2)}, 1), {"a": {"$x": (1, 2)}})


@at_every(9)
def test_a_spooler_killed_at_any_step_runs_no_job_twice_that_is_done(tmp_path: Path, stride: int) -> None:
    for number in range(0, 500, stride):
        # A directory of its own: what the killed processes leave behind would make each run longer than the last one.
        with site(tmp_path / str(number)) as spool_dir:
            line = chain(second.call(1), second.call(RESULT), second.call(3))

            def work(number: int = number, spool_dir: str = spool_dir) -> None:
                die_at(number)
                run(spool_dir)

            status = in_child(work)
            assert status in (0, CRASHED)
            run(spool_dir)
            assert line.result == 3, number
            ids = [row["id"] for row in locations.store().read("SELECT id FROM jobs")]
            assert set(ids) == {job.id for job in line.jobs}
            attempts = sum(job.attempt for job in line.jobs)
            assert 3 <= attempts <= 4, "a kill costs one attempt at most"
            assert 3 <= len(ran()) <= attempts
            assert spoolfile.pending(spool_dir) == []
        if status == 0:
            return
    pytest.fail("it never came to its end")


def test_the_id_of_the_next_job_follows_from_that_of_the_one_before() -> None:
    assert chains.next_id("1" * 32) == chains.next_id("1" * 32) != chains.next_id("2" * 32)
    assert spoolfile.is_id(chains.next_id("1" * 32))
