"""Numbers of more than 4,300 digits, which Python neither prints nor reads, and other values that cannot be shown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from flask import current_app
from hypothesis import given
from hypothesis import strategies as st

from spoolkit import (
    ArgumentError,
    ArgumentTypeError,
    ConfigurationError,
    DecodeError,
    Job,
    Retry,
    UnknownJobError,
    current_job,
    prepare_spooler_args,
    spool,
    thread,
)
from spoolkit.admin import lookup
from spoolkit.cli import commands
from spoolkit.encoding import codec
from spoolkit.errors import shown
from spoolkit.job import State
from spoolkit.settings import Settings

HUGE = 10**5000
PRIME = 2**61 - 1
"""Python's hash of a number is the number modulo this."""


class Silent:
    def __repr__(self) -> str:
        raise RuntimeError


@spool(retries=0)
def gives_back(value: Any = None) -> Any:
    return value


@spool(retries=0)
def reports(what: str) -> None:
    if what == "raises":
        raise ValueError(HUGE)
    if what == "note":
        current_job().progress(1, 2, HUGE)  # type: ignore[arg-type]
    for arguments in ((HUGE,), (1, HUGE), (-HUGE,)):
        with pytest.raises(ArgumentTypeError, match="give a finite number"):
            current_job().progress(*arguments)


@given(st.integers() | st.text() | st.lists(st.integers(), max_size=3))
def test_shown_is_the_repr_of_an_ordinary_value(value: object) -> None:
    assert shown(value, limit=10_000) == (
        repr(value) if abs(value if isinstance(value, int) else 0) < 2**256 else hex(value)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [HUGE, -HUGE, [HUGE], {"a": HUGE}, Fraction(HUGE), Silent(), "x" * 10**6], ids=type)
def test_shown_gives_one_short_line_for_any_value(value: object) -> None:
    assert 0 < len(shown(value)) <= 81


@pytest.mark.parametrize("value", [HUGE, -HUGE, [HUGE], Silent()], ids=type)
@pytest.mark.parametrize(
    "call",
    [
        lambda value: gives_back.using(at=value)(1),
        lambda value: gives_back.using(delay=value)(1),
        lambda value: gives_back.using(priority=value),
        lambda value: gives_back.using(queue=value),
        lambda value: gives_back.spool(at=value),
        lambda value: gives_back.spool(delay=value),
        lambda value: gives_back.spool(priority=value),
        lambda value: gives_back.spool(spooler=value),
        lambda value: gives_back.spool({b"value": value}),
        lambda value: prepare_spooler_args(at=value),
        lambda value: prepare_spooler_args(priority=value),
        lambda value: prepare_spooler_args(spooler=value),
    ],
)
def test_a_huge_number_as_an_option_of_a_call_is_refused_by_its_name(
    directory: str, value: object, call: Callable[[object], Any]
) -> None:
    with pytest.raises(ArgumentError) as refused:
        call(value)
    assert refused.value.argument in ("at", "delay", "priority", "queue", "spooler", "value")


@pytest.mark.parametrize("decorator", [spool, thread])
@pytest.mark.parametrize("option", ["retries", "backoff", "timeout", "retry_on", "discard_on"])
def test_a_huge_number_as_an_option_of_a_task_is_refused_by_its_name(decorator: Any, option: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        decorator(**{option: HUGE})(lambda: None)
    assert refused.value.setting == option


def test_a_huge_number_as_a_setting_is_refused_by_its_name(tmp_path: Any) -> None:
    for name in ("SPOOLKIT_GRACE", "SPOOLKIT_SPOOL", "SPOOLKIT_FSYNC", "SPOOLKIT_THREADS"):
        with pytest.raises(ConfigurationError, match=name):
            Settings.load({name: HUGE}, str(tmp_path))
    with pytest.raises(ConfigurationError):
        thread(concurrency=-HUGE)
    with pytest.raises(ArgumentError):
        Retry(delay=-HUGE)
    assert Retry(delay=HUGE).delay == HUGE


@pytest.mark.parametrize("id", [HUGE, 5, None, b"0" * 32], ids=type)
def test_get_refuses_an_id_that_is_not_a_text(directory: str, id: Any) -> None:
    with pytest.raises(UnknownJobError, match="is not the id of a job"):
        Job.get(id)


def test_a_huge_number_as_an_argument_is_run_shown_and_returned(directory: str, work: Callable[[], None]) -> None:
    large = 10**4500  # in less than the 4 KiB of arguments that are kept
    job = gives_back([large])
    run = current_app.test_cli_runner().invoke
    for _ in range(2):
        shown = run(commands, ["show", job.id])
        assert shown.exit_code == 0, shown.output
        assert hex(large)[2:] in "".join(shown.output.split()), "however many lines it takes"
        as_json = json.loads(run(commands, ["show", job.id, "--json"]).stdout)
        assert as_json["arguments"]["args"][0][0] == {"$int": hex(large)}
        work()
    assert job.result == [large]


def test_a_job_that_raises_or_reports_a_huge_number_is_recorded(directory: str, work: Callable[[], None]) -> None:
    jobs = [reports(what) for what in ("raises", "note", "nothing")]
    work()
    assert [job.state for job in jobs] == [State.DEAD, State.DONE, State.DONE]
    assert lookup.find(jobs[0].id).error_type == "ValueError"


def test_wait_takes_a_timeout_of_any_size(directory: str, work: Callable[[], None]) -> None:
    job = gives_back(1)
    work()
    assert job.wait(timeout=HUGE)


def colliding(number: int) -> list[int]:
    return [PRIME * i for i in range(number)]


@pytest.mark.parametrize("kind", ["$set", "$frozenset"])
@pytest.mark.parametrize(
    "members",
    [
        [{"$int": hex(value)} for value in colliding(20_000)],
        [{"$uuid": UUID(int=value).hex} for value in colliding(60)] * 2,
        [{"$tuple": [{"$int": hex(value)}]} for value in colliding(5_000)],
    ],
)
def test_decoding_refuses_a_set_whose_members_have_one_hash(kind: str, members: list[object]) -> None:
    data = json.dumps({kind: members}).encode()
    started = time.process_time()
    with pytest.raises(DecodeError, match="the same hash"):
        codec.decode(data)
    assert time.process_time() - started < 2, "it took 7 seconds"


def test_encoding_refuses_a_set_whose_members_have_one_hash() -> None:
    with pytest.raises(ArgumentTypeError, match=r"'numbers\[0\]' is of type set: would be slow to decode"):
        codec.encode([set(colliding(100))], argument="numbers")


def test_sets_of_ordinary_values_are_accepted(directory: str) -> None:
    for members in (set(range(-50_000, 50_000)), set(colliding(60)), {UUID(int=i) for i in range(1000)}):
        assert codec.decode(codec.encode(members)) == members
