"""Hooks that run around attempts and calls: in order, with what they see, and what their errors do."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, current_app
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import (
    ConfigurationError,
    Job,
    JobTimeout,
    Retry,
    SpoolKit,
    State,
    TooLargeError,
    callbacks,
    chain,
    current_job,
    spool,
    thread,
)
from spoolkit.admin import lookup
from spoolkit.job import new_id
from spoolkit.spooling.standalone import Spooler
from spoolkit.system import log
from spoolkit.testing.inline import InlineEngine

seen: list[Any] = []


def work_of(how: str = "works") -> str:
    seen.append(how)
    if how == "fails":
        raise ValueError(how)
    if how == "retries":
        raise Retry(0)
    return how


async def later() -> str:
    seen.append(current_job().task)
    return "later"


one = spool(name="around.one", retries=0)(work_of)
threaded = thread(name="around.threaded")(work_of)
coroutine = spool(name="around.coroutine")(later)

Hook = Generator[None, Any, None]


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpoolKit]:
    monkeypatch.setattr(callbacks, "this_process", callbacks.ThisProcess())
    log._complaints.discard()
    app = Flask("with_hooks")
    (tmp_path / "spool").mkdir(mode=0o700)
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", TESTING=True)
    kit = SpoolKit(app)
    seen.clear()
    with app.app_context():
        yield kit


@pytest.fixture
def work(tmp_path: Path) -> Callable[[], None]:
    return Spooler(str(tmp_path / "spool")).run_due


def recorder(name: str) -> Callable[[Any], Hook]:
    def hook(job: Any) -> Hook:
        seen.append(f"{name} begins")
        try:
            seen.append((name, (yield)))
        except BaseException as error:
            seen.append((name, type(error)))
            raise

    return hook


@given(st.lists(st.sampled_from(["passes", "swallows", "before", "after", "instead"]), max_size=4), st.booleans())
def test_a_call_within_hooks_ends_as_within_context_managers_that_swallow_nothing(
    hooks: list[str], fails: bool
) -> None:
    """The reference: the hooks from the innermost to the outermost, each seeing how the one within it ended."""
    order: list[int] = []

    def make(index: int, how: str) -> Callable[[Any], Hook]:
        def hook(job: Any) -> Hook:
            if how == "before":
                raise KeyError(index)
            order.append(index)
            try:
                yield
            except Exception:
                if how == "instead":
                    raise LookupError(index) from None
                if how != "swallows":
                    raise
            if how == "after":
                raise OSError(index)

        return hook

    def call() -> str:
        order.append(-1)
        if fails:
            raise ValueError
        return "done"

    before = next((index for index, how in enumerate(hooks) if how == "before"), None)
    expected: object = KeyError if before is not None else ValueError if fails else "done"
    for how in reversed(hooks[:before]):
        if expected == "done" and how == "after":
            expected = OSError
        elif expected != "done" and how == "instead":
            expected = LookupError
    found: object
    try:
        found = callbacks.around([make(*pair) for pair in enumerate(hooks)], None, call)
    except Exception as error:
        found = type(error)
    assert found == expected
    assert order == [*range(len(hooks) if before is None else before), *([] if before is not None else [-1])]


@pytest.mark.parametrize("error", [StopIteration, GeneratorExit, KeyboardInterrupt, JobTimeout, RuntimeError])
def test_any_exception_passes_hooks_unchanged(error: type[BaseException]) -> None:
    raised = error("of the task")

    def call() -> None:
        raise raised

    with pytest.raises(error) as found:
        callbacks.around([recorder("outer"), recorder("inner")], None, call)
    assert found.value is raised
    names = [entry.name for entry in found.traceback]
    assert "hook" not in names, "the traceback is that of the task"


@pytest.mark.parametrize("fails", [False, True])
def test_a_hook_that_does_not_yield_once_is_an_error(fails: bool) -> None:
    def never(job: Any) -> Hook:
        return
        yield

    def twice(job: Any) -> Hook:
        try:
            yield
        except ValueError:
            pass
        yield

    def call() -> None:
        if fails:
            raise ValueError

    with pytest.raises(RuntimeError, match="has not yielded"):
        callbacks.around([never], None, call)
    with pytest.raises(RuntimeError, match="has yielded twice"):
        callbacks.around([twice], None, call)


def test_what_is_no_generator_function_is_refused(kit: SpoolKit) -> None:
    for decorate in (kit.around_attempt, kit.around_enqueue):
        with pytest.raises(ConfigurationError, match="one yield"):
            decorate(lambda job: None)  # type: ignore[arg-type, return-value]


def test_the_first_hook_is_the_outermost_and_sees_what_the_task_returned(
    kit: SpoolKit, work: Callable[[], None]
) -> None:
    kit.around_attempt(recorder("outer"))
    kit.around_attempt(recorder("inner"))
    job = one()
    work()
    assert seen == ["outer begins", "inner begins", "works", ("inner", "works"), ("outer", "works")]
    assert job.result == "works"


def test_a_hook_sees_what_the_task_raised(kit: SpoolKit, work: Callable[[], None]) -> None:
    kit.around_attempt(recorder("hook"))
    job = one("fails")
    work()
    assert seen == ["hook begins", "fails", ("hook", ValueError)]
    assert job.state is State.DEAD
    (attempt,) = job.attempts
    assert "hook" not in (attempt.traceback or "")


def test_a_hook_that_swallows_makes_no_job_done(kit: SpoolKit, work: Callable[[], None]) -> None:
    @kit.around_attempt
    def swallow(job: Any) -> Hook:
        try:
            yield
        except ValueError:
            pass

    job = one("fails")
    work()
    assert (job.state, job.status.error_type) == (State.DEAD, "ValueError")


def test_an_error_before_the_task_is_that_of_the_attempt(kit: SpoolKit, work: Callable[[], None]) -> None:
    @kit.around_attempt
    def fail(job: Any) -> Hook:
        raise KeyError("before")
        yield

    job = one()
    work()
    assert (seen, job.state, job.status.error_type) == ([], State.DEAD, "KeyError")


def test_an_error_after_the_task_is_that_of_the_attempt(kit: SpoolKit, work: Callable[[], None]) -> None:
    @kit.around_attempt
    def commit(job: Any) -> Hook:
        yield
        raise OSError("cannot commit")

    job = one()
    work()
    assert (seen, job.state, job.status.error_type) == (["works"], State.DEAD, "OSError")


def test_a_hook_runs_in_the_context_of_the_application_and_its_output_is_the_job_s(
    kit: SpoolKit, work: Callable[[], None]
) -> None:
    @kit.around_attempt
    def look(job: Any) -> Hook:
        print("in the log")
        assert current_job() is job
        seen.append((current_app.name, job.attempt, dict(job.headers)))
        yield

    job = one.using(headers={"locale": "de"})()
    work()
    assert seen == [("with_hooks", 1, {"locale": "de"}), "works"]
    assert job.attempts[0].log == "in the log\n"


def test_hooks_run_for_each_engine_and_for_coroutines(kit: SpoolKit, work: Callable[[], None]) -> None:
    kit.around_attempt(recorder("hook"))
    assert threaded().wait(40)
    assert seen == ["hook begins", "works", ("hook", "works")]
    seen.clear()
    InlineEngine().submit(Job(new_id(), one.name), one.declared)
    assert seen == ["hook begins", "works", ("hook", "works")]
    seen.clear()
    coroutine()
    work()
    assert seen == ["hook begins", coroutine.name, ("hook", "later")]


def test_hooks_are_those_of_the_application(kit: SpoolKit, work: Callable[[], None], tmp_path: Path) -> None:
    other = Flask("another")
    other.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", TESTING=True)
    other_kit = SpoolKit(other)
    other_kit.around_attempt(recorder("other"))
    other_kit.around_enqueue(recorder("other call"))
    one()
    work()
    assert seen == ["works"]
    with other.app_context():
        one()
    work()
    assert len(seen) == 6


def test_a_call_is_accepted_at_the_yield(kit: SpoolKit) -> None:
    @kit.around_enqueue
    def look(job: Any) -> Hook:
        seen.append((job.task, job.args, [status.id for status in lookup.jobs()]))
        accepted = yield
        seen.append([status.id for status in lookup.jobs()] == [accepted.id])

    one("works")
    assert seen == [("around.one", ("works",), []), True]


def test_a_hook_fills_headers(kit: SpoolKit, work: Callable[[], None]) -> None:
    @kit.around_enqueue
    def fill(job: Any) -> Hook:
        job.headers["tenant"] = f"acme {len(job.headers)}"
        yield

    job = one.using(headers={"locale": "de"})()
    assert job.headers == {"locale": "de", "tenant": "acme 1"}
    assert lookup.find(job.id).headers == job.headers
    in_thread = threaded()
    assert in_thread.wait(40)
    assert in_thread.headers == {"tenant": "acme 0"}
    assert chain(one.call(), one.call()).jobs[0].headers == {"tenant": "acme 0"}
    assert [one.headers for one in one.map([("a",), ("b",)])] == [{"tenant": "acme 0"}] * 2


def test_headers_of_a_hook_are_checked(kit: SpoolKit) -> None:
    @kit.around_enqueue
    def fill(job: Any) -> Hook:
        job.headers["tenant"] = "x" * 10_000
        yield

    with pytest.raises(TooLargeError):
        one()
    assert list(lookup.jobs()) == []


def test_an_error_before_refuses_the_call(kit: SpoolKit) -> None:
    kit.around_enqueue(recorder("outer"))

    @kit.around_enqueue
    def refuse(job: Any) -> Hook:
        raise PermissionError
        yield

    with pytest.raises(PermissionError):
        one()
    assert seen == ["outer begins", ("outer", PermissionError)]
    assert list(lookup.jobs()) == []


def test_a_hook_sees_what_refused_the_call(kit: SpoolKit) -> None:
    kit.around_enqueue(recorder("hook"))
    with pytest.raises(TypeError):
        one(object())  # type: ignore[arg-type]
    assert seen[0] == "hook begins"
    assert issubclass(seen[1][1], TypeError)


def test_an_error_after_the_job_is_accepted_is_logged(kit: SpoolKit, caplog: pytest.LogCaptureFixture) -> None:
    @kit.around_enqueue
    def fail(job: Any) -> Hook:
        yield
        raise OSError("after")

    job = one()
    assert [status.id for status in lookup.jobs()] == [job.id]
    assert "the job stands" in caplog.text


def test_the_time_limit_of_a_task_that_calls_goes_through(kit: SpoolKit) -> None:
    @kit.around_enqueue
    def strike(job: Any) -> Hook:
        yield
        raise JobTimeout("of the task that makes the call")

    with pytest.raises(JobTimeout):
        one()


def test_run_has_no_hooks(kit: SpoolKit) -> None:
    kit.around_attempt(recorder("hook"))
    kit.around_enqueue(recorder("hook"))
    one.run()
    assert seen == ["works"]
