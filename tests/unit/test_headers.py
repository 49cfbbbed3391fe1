"""Headers: what a call sends along with a job, for all engines."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping
from operator import mul
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, g, has_request_context
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import (
    ArgumentError,
    ArgumentTypeError,
    Batch,
    DecodeError,
    Job,
    JobLogFilter,
    JobTimeout,
    SpoolKit,
    TooLargeError,
    callbacks,
    chain,
    current_job,
    spool,
    thread,
)
from spoolkit.admin import actions, lookup
from spoolkit.admin.as_json import detailed, public
from spoolkit.cli import commands
from spoolkit.encoding import headers, packet
from spoolkit.job import JobSpec, State, new_id
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import log
from spoolkit.testing.inline import InlineEngine

seen: list[Any] = []
some = st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=4)
sizes = st.integers(1, 1000)


def record(word: str = "", *, fail: bool = False) -> None:
    seen.append(dict(current_job().headers))
    if fail:
        raise ValueError(word)


def nested() -> None:
    spooled.using(headers={"own": "inner"})()


spooled = spool(name="spooled", retries=1, backoff=0)(record)
threaded = thread(name="threaded", retries=1, backoff=0)(record)
calling = spool(name="calling")(nested)


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpoolKit]:
    monkeypatch.setattr(callbacks, "this_process", callbacks.ThisProcess())
    app = Flask("with_headers")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", TESTING=True)
    kit = SpoolKit(app)
    seen.clear()
    with app.app_context():
        yield kit


@pytest.fixture
def work(tmp_path: Path) -> Callable[[], None]:
    return Spooler(str(tmp_path / "spool")).run_due


@given(some)
def test_headers_come_back_from_their_bytes(given: dict[str, str]) -> None:
    checked = headers.check(given)
    assert headers.read(headers.write(checked)) == given
    job = JobSpec(new_id(), "task", enqueued_at=1.0, headers=checked)
    assert packet.unpack(packet.load(packet.dump_job(job, b"[[],{}]"))) == job


@given(st.binary() | st.sampled_from([b"[]", b'{"a": 1}', b'"a"', b"[" * 10_000]))
def test_other_bytes_are_a_decode_error(data: bytes) -> None:
    try:
        found = headers.read(data)
    except DecodeError:
        return
    assert all(isinstance(part, str) for pair in found.items() for part in pair)


@given(st.dictionaries(st.text(max_size=20), st.builds(mul, st.text(min_size=1, max_size=3), sizes), max_size=6))
def test_the_limit_is_one_of_bytes(given: dict[str, str]) -> None:
    fits = len(headers.write(given)) <= headers.LIMIT
    try:
        headers.check(given)
    except TooLargeError as error:
        refused = error.argument, error.limit
        assert (fits, refused) == (False, ("headers", headers.LIMIT))
    else:
        assert fits


@given(some, some)
def test_the_second_of_two_counts(first: dict[str, str], second: dict[str, str]) -> None:
    assert headers.joined(first, second) == {**first, **second}


@pytest.mark.parametrize("wrong", [{"a": 1}, {1: "a"}, ["a"], "a", {"a": None}, 7])
def test_what_is_no_dict_of_texts_is_refused(kit: SpoolKit, wrong: Any) -> None:
    for task in (spooled, threaded):
        with pytest.raises(ArgumentTypeError, match="headers"):
            task.using(headers=wrong)
    with pytest.raises(ArgumentError, match="headers"):
        spooled.map([()], headers=wrong)


def test_the_task_sees_them_in_each_attempt(kit: SpoolKit, work: Callable[[], None]) -> None:
    job = spooled.using(headers={"locale": "de"})(fail=True)
    work()
    work()
    assert seen == [{"locale": "de"}] * 2
    assert job.state is State.DEAD
    actions.retry(job.id)
    work()
    assert seen == [{"locale": "de"}] * 3


def test_a_job_without_headers_has_none(kit: SpoolKit, work: Callable[[], None]) -> None:
    job = spooled()
    work()
    assert (seen, job.headers, Job.get(job.id).headers) == ([{}], None, None)


def test_a_task_cannot_change_them_for_the_next_attempt(kit: SpoolKit) -> None:
    given = {"locale": "de"}
    job = spooled.using(headers=given)()
    given["locale"] = "fr"
    assert job.headers == {"locale": "de"}
    with pytest.raises(TypeError):
        job.headers["locale"] = "fr"  # type: ignore[index]


def test_a_job_of_a_thread_has_them(kit: SpoolKit) -> None:
    job = threaded.using(headers={"locale": "de"})(fail=True)
    assert job.wait(40)
    assert seen == [{"locale": "de"}] * 2
    assert job.status.headers == {"locale": "de"}


def test_an_inline_job_has_them(kit: SpoolKit) -> None:
    InlineEngine().submit(Job(new_id(), "spooled", headers={"locale": "de"}), spooled.declared)
    assert seen == [{"locale": "de"}]


def test_all_jobs_of_a_map_have_them(kit: SpoolKit, work: Callable[[], None]) -> None:
    jobs = spooled.map([("a",), ("b",)], headers={"locale": "de"})
    assert lookup.find(jobs[1].id).headers == {"locale": "de"}
    work()
    assert seen == [{"locale": "de"}] * 2


def test_those_of_the_application_are_provided_in_the_call(kit: SpoolKit, work: Callable[[], None]) -> None:
    app = Flask("another")
    app.config.update(SPOOLKIT_SPOOL=Path("/nowhere"), TESTING=True)
    SpoolKit(app).headers(lambda: {"of": "another application"})

    @kit.headers
    def of_the_request() -> Mapping[str, str] | None:
        return {"request_id": g.request_id, "locale": "en"} if has_request_context() else None

    spooled()
    with kit_app(kit).test_request_context():
        g.request_id = "4f1c"
        spooled.using(headers={"locale": "de"})()
    work()
    assert seen == [{}, {"request_id": "4f1c", "locale": "de"}]


def kit_app(kit: SpoolKit) -> Flask:
    (app,) = kit._apps
    return app


def test_of_several_functions_the_later_one_counts(kit: SpoolKit) -> None:
    kit.headers(lambda: {"a": "1", "b": "1"})
    kit.headers(lambda: {"a": "2"})
    assert spooled().headers == {"a": "2", "b": "1"}


@pytest.mark.parametrize(
    "provide",
    [lambda: {"a": 1}, lambda: {"a": "x" * 9000}, lambda: 7, lambda: {}["a"]],
    ids=["type", "size", "7", "raises"],
)
def test_an_error_of_the_application_refuses_no_job(
    kit: SpoolKit, provide: Any, work: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    log._complaints.discard()
    kit.headers(provide)
    spooled.using(headers={"own": "yes"})()
    work()
    assert seen == [{"own": "yes"}]
    assert "the headers of a job cannot be provided" in caplog.text


def test_the_time_limit_of_a_task_that_calls_is_no_error_of_the_application(kit: SpoolKit) -> None:
    @kit.headers
    def late() -> dict[str, str]:
        raise JobTimeout("of the task that makes the call")

    with pytest.raises(JobTimeout):
        spooled()


def test_what_is_too_large_together_is_left_out(kit: SpoolKit, caplog: pytest.LogCaptureFixture) -> None:
    log._complaints.discard()
    kit.headers(lambda: {"large": "x" * 5000})
    assert spooled.using(headers={"own": "y" * 5000})().headers == {"own": "y" * 5000}
    assert "without some of its headers" in caplog.text


def test_a_job_that_calls_hands_its_headers_on(kit: SpoolKit, work: Callable[[], None]) -> None:
    kit.headers(lambda: {"provided": "inner"} if seen else None)
    calling.using(headers={"request_id": "4f1c", "own": "outer"})()
    work()
    work()
    assert seen == [{"request_id": "4f1c", "own": "inner"}]


def test_jobs_that_follow_have_those_of_the_moment_at_which_they_were_called(
    kit: SpoolKit, work: Callable[[], None]
) -> None:
    given = [{"request_id": "1"}]
    kit.headers(lambda: given[0])
    chain(spooled.call(), spooled.call())
    with Batch("both", then=spooled.call()) as batch:
        batch.add(spooled)
    given[0] = {"request_id": "2"}
    for _ in range(3):
        work()
    assert seen == [{"request_id": "1"}] * 4


@pytest.mark.parametrize("run_it", [False, True])
def test_people_see_them_but_visitors_do_not(kit: SpoolKit, run_it: bool, work: Callable[[], None]) -> None:
    job = spooled.using(headers={"tenant": "acme", "locale": "de"})()
    if run_it:
        work()
    details = lookup.details(job.id)
    assert detailed(details)["headers"] == {"tenant": "acme", "locale": "de"}
    assert "headers" not in public(details.status)
    shown = kit_app(kit).test_cli_runner().invoke(commands, ["show", job.id]).output
    assert "tenant=acme, locale=de" in shown


def test_a_cancelled_job_still_shows_them(kit: SpoolKit) -> None:
    job = spooled.using(headers={"tenant": "acme"}, delay=60)()
    job.cancel()
    assert job.status.headers == {"tenant": "acme"}


def test_each_line_of_a_job_has_those_that_are_chosen(
    kit: SpoolKit, work: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "spoolkit")
    spooled.using(headers={"request_id": "4f\n1c", "tenant": "acme"})()
    work()
    lines = [line for line in caplog.messages if "spooled" in line]
    assert len(lines) == 2
    assert all(line.endswith("[request_id=4f\\n1c]") for line in lines)
    kit_app(kit).config["SPOOLKIT_LOG_HEADERS"] = "tenant, other"
    spooled.using(headers={"request_id": "4f1c", "tenant": "acme"})()
    caplog.clear()
    work()
    assert len(caplog.messages) == 2
    assert all(line.endswith("[tenant=acme]") for line in caplog.messages)


def test_a_line_without_arguments_may_contain_a_percent_sign(caplog: pytest.LogCaptureFixture) -> None:
    with log.about("abc", "shop.pay", "request_id=100%d"):
        log.warning("100% of it")
    assert caplog.messages == ["100% of it [request_id=100%d]"]


def test_the_filter_gives_them_to_each_record() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(JobLogFilter())
    handler.setFormatter(logging.Formatter("%(job_headers)s"))
    logger = logging.getLogger("shop.headers")
    logger.addHandler(handler)
    try:
        with log.about("abc", "shop.pay", "request_id=4f1c"):
            logger.warning("in a job")
        with log.about("abc", "shop.pay"):
            logger.warning("in a job without any")
        logger.warning("outside")
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue().splitlines() == ["request_id=4f1c", "-", "-"]


def test_run_provides_none(kit: SpoolKit) -> None:
    kit.headers(lambda: {"provided": "yes"})
    spooled.run()
    assert seen == [{}]
