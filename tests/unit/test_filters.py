"""The filter that people type: what it means, what it refuses, and that it is written as it is read."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.admin.filters import JobFilter, parse
from spoolkit.encoding import redact
from spoolkit.errors import ArgumentError
from spoolkit.job import State, Status

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True).filter(lambda name: not redact.is_secret(name))
FILTERS = st.builds(
    JobFilter,
    task=TEXTS | st.just(""),
    states=st.frozensets(st.sampled_from(State)),
    queue=TEXTS | st.just(""),
    tag=TEXTS | st.just(""),
    id=st.from_regex("[0-9a-f]{0,32}", fullmatch=True),
    error=TEXTS | st.just(""),
    arguments=st.dictionaries(NAMES, TEXTS, max_size=3).map(lambda found: tuple(found.items())),
)


@given(FILTERS)
def test_a_filter_is_read_as_it_is_written(made: JobFilter) -> None:
    assert parse(str(made)) == made


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_an_error_that_says_what_to_do(text: str) -> None:
    problem, made = None, JobFilter()
    try:
        made = parse(text)
    except ArgumentError as error:
        problem = error
    assert parse(str(made)) == made
    advice = "give ", "write ", "put ", "cannot be found"
    assert problem is None or (problem.argument == "q" and any(word in str(problem) for word in advice))


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", JobFilter()),
        ("  task:shop.mail  ", JobFilter(task="shop.mail")),
        ("state:dead,lost", JobFilter(states=frozenset({State.DEAD, State.LOST}))),
        ('error:"not found: \\"x\\""', JobFilter(error='not found: "x"')),
        ("id:18AF", JobFilter(id="18af")),
        ("arg.user_id:5 arg.word:a:b", JobFilter(arguments=(("user_id", "5"), ("word", "a:b")))),
        ("queue:default tag:x", JobFilter(queue="default", tag="x")),
    ],
)
def test_what_a_filter_means(text: str, made: JobFilter) -> None:
    assert parse(text) == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dead", "'dead' has no name before it: write one of state:dead or task:dead"),
        ("mail", "write one of task:mail or error:mail"),
        ("stat:dead", "'stat' is no name here: give one of task, state,"),
        ("state:died", "state is 'died': give one of queued, running"),
        ("task:a task:b", "task: was given twice"),
        ("task:", "task: has no value"),
        ("arg.:5", "'arg.' is no name here"),
        ("id:xyz", "id is 'xyz': give the beginning of an id"),
        ('error:"open', "put the value in quotes"),
        ('error:"a"b', "put the value in quotes"),
        ("arg.password:x", "password is secret by its name"),
        ("x" * 1001, "the filter has 1001 characters: give at most 1000"),
    ],
)
def test_what_is_wrong_with_a_filter_is_said(text: str, says: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse(text)
    assert says in str(caught.value)


def signed(user_id: int, word: str = "", *rest: object, **others: object) -> None: ...


@pytest.mark.parametrize(
    ("text", "args", "kwargs", "fits"),
    [
        ("arg.user_id:5", [5], {}, True),
        ("arg.user_id:5", ["5"], {}, True),
        ("arg.user_id:5", [], {"user_id": 5}, True),
        ("arg.user_id:5", [55], {}, False),
        ("arg.word:true", [1, True], {}, True),
        ("arg.word:None", [1, None], {}, True),
        ("arg.word:2026-11-21", [1, {"$date": "2026-11-21"}], {}, True),
        ("arg.word:x", [1, ["x"]], {}, False),
        ("arg.word:x arg.user_id:2", [1, "x"], {}, False),
        ("arg.other:1", [1], {}, False),
        ("arg.user_id:5", [], {}, False),
    ],
)
def test_a_job_is_found_by_an_argument_by_position_and_by_name(
    text: str, args: list[object], kwargs: dict[str, object], fits: bool
) -> None:
    assert parse(text).fits_arguments(args, kwargs, inspect.signature(signed)) is fits


def secretive(user: str, password: str, **secrets: str) -> None: ...


@pytest.mark.parametrize("text", ["arg.word:x", "arg.user:x arg.word:x"])
def test_a_job_is_not_found_by_a_value_that_is_not_shown(text: str) -> None:
    signature = inspect.signature(secretive)
    assert parse("arg.user:x").fits_arguments(["x", "x"], {"word": "x"}, signature)
    assert not parse(text).fits_arguments(["x", "x"], {"word": "x"}, signature)


def test_without_its_task_a_job_is_found_by_arguments_by_name_alone() -> None:
    assert parse("arg.word:x").fits_arguments([], {"word": "x"}, None)
    assert not parse("arg.word:x").fits_arguments([1, "x"], {}, None)


def test_a_job_fits_by_what_is_known_of_it() -> None:
    status = Status("18af", "shop.mail", State.DEAD, error_type="Timeout", error_message="no Answer", tags=("big",))
    fitting = "task:shop.mail state:dead,done queue:default tag:big id:18 error:timeout:", 'error:"no answer"'
    assert all(parse(text).fits(status) for text in fitting)
    others = "task:shop", "state:done", "queue:slow", "tag:bi", "id:8a", "error:timeouts"
    assert not any(parse(text).fits(status) for text in others)
