"""Which functions may be declared as a task."""

from __future__ import annotations

import functools
import inspect
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from spoolkit import ConfigurationError, TaskFunctionError, spool, thread


class Mailer:
    def send(self, address: str) -> None: ...

    @classmethod
    def of_class(cls, address: str) -> None: ...

    @staticmethod
    def static(address: str) -> None: ...

    def as_namespace(address: str) -> None: ...  # type: ignore[misc]

    def __call__(self) -> None: ...


class Generic:
    async def __call__(self) -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


def with_self(self: str) -> None: ...


async def coroutine() -> None: ...


cached = functools.lru_cache(with_self)
nameless = functools.partial(with_self, "x")
mailer = Mailer()


@pytest.mark.parametrize(
    ("function", "name", "advice"),
    [
        (Mailer.send, "Mailer.send", "no object to pass as 'self'.*outside of the class"),
        (vars(Mailer)["of_class"], "Mailer.of_class", "@classmethod above"),
        (vars(Mailer)["static"], "Mailer.static", "@staticmethod above"),
        (str.upper, "str.upper", "function"),
        (nameless, "functools.partial.*", "partial.*with def"),
        (functools.partial(Mailer), "functools.partial.*", "with def"),
        (mailer, ".*Mailer object.*", "without a function's name.*with def"),
        (Generic(), ".*Generic object.*", "without a function's name"),
        (Mailer, "Mailer", "class.*makes the object"),
        (generator, "generator", "without yield"),
        (async_generator, "async_generator", "without yield"),
        (lambda: (yield), ".*<lambda>", "without yield"),
        (max, "max", "signature.*with def"),
        ("".join, "str.join", "with def"),
        (5, "5", "not callable"),
        ("tasks.send", "'tasks.send'", "not callable"),
        (property(with_self), ".*property.*", "not callable"),
    ],
)
@pytest.mark.parametrize("decorator", [spool, thread, spool(retries=0), thread(name="given")])
def test_a_function_that_a_job_cannot_call_is_refused_by_its_name(
    decorator: Callable[[Any], object], function: Any, name: str, advice: str
) -> None:
    with pytest.raises(TaskFunctionError, match=f"^{name} cannot be a task: .*{advice}") as refused:
        decorator(function)
    assert isinstance(refused.value, ConfigurationError)
    assert refused.value.function in str(refused.value)


@pytest.mark.parametrize(
    "function",
    [
        with_self,
        coroutine,
        cached,
        Mailer.static,
        Mailer.as_namespace,
        Mailer.of_class,
        mailer.send,
        math.gcd,
        os.remove,
        functools.wraps(with_self)(lambda *args: None),
    ],
)
def test_a_callable_with_a_name_and_a_signature_is_accepted(function: Any) -> None:
    # A new name each time: the same function may be a task of each kind.
    for number, decorator in enumerate((spool, thread)):
        task = decorator(name=f"taken.{number}.{function.__qualname__}")(function)  # type: ignore[operator]
        assert task.declared.signature == inspect.signature(function)


def test_a_method_is_refused_in_the_body_of_its_class() -> None:
    with pytest.raises(TaskFunctionError, match=r"Report\.make cannot be a task.*'self'"):

        class Report:
            @spool
            def make(self) -> None: ...


@pytest.mark.parametrize("first", [spool, thread])
@pytest.mark.parametrize("second", [spool, thread])
def test_a_task_cannot_be_declared_as_a_task_again(first: Any, second: Any) -> None:
    task = first(name=f"no_function.{first.__name__}.{second.__name__}")(with_self)
    with pytest.raises(TaskFunctionError, match=r"with_self cannot be a task: it is declared as the task .*already"):
        second(task)


@pytest.mark.parametrize("decorator", [spool, thread])
def test_a_decorator_may_have_empty_parentheses(decorator: Any) -> None:
    @decorator()
    def in_parentheses() -> None: ...

    assert in_parentheses.name.endswith("in_parentheses")
