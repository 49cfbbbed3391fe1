"""Values that belong to a request or its database session are refused in the caller, with fitting advice."""

from __future__ import annotations

import io
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, current_app, g, request, session
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage, MultiDict

from spoolkit import ArgumentTypeError, SpoolKit, spool, thread
from spoolkit.encoding import borrowed


class Row:
    """Looks like an instance that SQLAlchemy maps."""

    def __init__(self, session_id: int | None) -> None:
        self._sa_instance_state = SimpleNamespace(session_id=session_id)


@dataclass
class Order:
    customer: object
    lines: list[object] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    customer: object


Pair = namedtuple("Pair", "first second")


class LoadsOnIteration(list[object]):
    """A collection that would read from the database."""

    def __iter__(self) -> Iterator[object]:
        raise AssertionError("it was asked for its members")


@spool
def in_spool(value: object) -> None: ...


@thread
def in_thread(value: object) -> None: ...


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Iterator[Flask]:
    app = Flask("an_application", root_path=str(tmp_path))
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool", SECRET_KEY="x")
    SpoolKit(app)
    form = {"word": "x", "file": (io.BytesIO(b"content"), "name.txt")}
    with app.test_request_context("/page?a=1", method="POST", data=form, headers={"Cookie": "a=b"}):
        yield app


BORROWED: dict[str, tuple[Callable[[], object], str]] = {
    "request": (lambda: request, "a proxy .*pass the values"),
    "session": (lambda: session, "a proxy"),
    "g": (lambda: g, "a proxy"),
    "application": (lambda: current_app, "a proxy"),
    "request itself": (lambda: request._get_current_object(), r"the request, .*request\.path"),  # type: ignore[attr-defined]
    "session itself": (lambda: session._get_current_object(), r"dict\(session\)"),  # type: ignore[attr-defined]
    "g itself": (lambda: g._get_current_object(), "which ends with the request"),
    "file": (lambda: request.files["file"], r"uploaded file.*save it and pass its path, or pass file\.read\(\)"),
    "files": (lambda: request.files, "a part of the request"),
    "args": (lambda: request.args, r"request\.args\.to_dict\(\)"),
    "form": (lambda: request.form, r"request\.args\.to_dict\(\)"),
    "cookies": (lambda: request.cookies, "a part of the request"),
    "values": (lambda: request.values, r"request\.values\.to_dict\(\)"),
    "headers": (lambda: request.headers, r"dict\(request\.headers\)"),
    "instance": (lambda: Row(session_id=1), "commit, (pass|send) its id, and load it in the task"),
}


@pytest.mark.parametrize("task", [in_spool, in_thread], ids=["spool", "thread"])
@pytest.mark.parametrize("what", BORROWED)
def test_a_task_refuses_a_value_of_the_request_with_fitting_advice(task: Any, what: str) -> None:
    make, advice = BORROWED[what]
    with pytest.raises(ArgumentTypeError, match=advice) as refused:
        task(make())
    assert refused.value.argument == "value"
    assert "spool_args" not in str(refused.value)
    assert ("copy_request=True" in str(refused.value)) == (
        task is in_thread and what not in {"file", "g itself", "instance"}
    )


NESTED: dict[str, tuple[Callable[[object], object], str]] = {
    "list": (lambda value: [1, value], "value[1]"),
    "tuple": (lambda value: (value,), "value[0]"),
    "namedtuple": (lambda value: Pair(1, value), "value[1]"),
    "dict": (lambda value: {"key": value}, "value['key']"),
    "dataclass": (lambda value: Order(value), "value.customer"),
    "slots": (lambda value: Slotted(value), "value.customer"),
    "deep": (lambda value: {"orders": [Order(None, [Pair(1, [value])])]}, "value['orders'][0].lines[0][1][0]"),
    "multidict": (lambda value: MultiDict([("file", value)]), "value['file'][0]"),
    "subclass": (lambda value: LoadsOnIteration([value]), "value[0]"),
}


@pytest.mark.parametrize("how", NESTED)
@pytest.mark.parametrize("make", [lambda: request, lambda: Row(1), lambda: request.files["file"]])
def test_a_thread_task_refuses_a_value_of_the_request_within_another_value(
    how: str, make: Callable[[], object]
) -> None:
    nest, where = NESTED[how]
    with pytest.raises(ArgumentTypeError) as refused:
        in_thread(nest(make()))
    assert refused.value.argument == where


def test_a_thread_task_refuses_a_value_of_the_request_in_a_set() -> None:
    with pytest.raises(ArgumentTypeError) as refused:
        in_thread({Row(1)})
    assert refused.value.argument == "value{}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Row(None),
        lambda: dict(request.headers),
        lambda: request.args.to_dict(),
        lambda: MultiDict(request.args),
        lambda: dict(session),
        lambda: request.get_json(silent=True),
        lambda: current_app._get_current_object(),  # type: ignore[attr-defined]
        lambda: io.BytesIO(b""),
        lambda: [FileStorage] * 3,
        lambda: Order(1, [2]),
    ],
)
def test_a_thread_task_accepts_values_that_outlive_the_request(make: Callable[[], object]) -> None:
    assert in_thread(make()).wait(60)


def test_find_reads_only_a_part_of_large_and_cyclic_values() -> None:
    ring: list[object] = []
    ring.append(ring)
    assert borrowed.find("value", ring) is None
    beyond = [*range(borrowed.MAX_VALUES), request]
    assert borrowed.find("value", beyond) is None


def test_other_types_that_are_not_supported_get_advice_too(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ArgumentTypeError, match="its path or its content"):
        in_spool(file)
    with pytest.raises(ArgumentTypeError, match=r"register the type with spoolkit\.register\(\)"):
        in_spool(object())
    with pytest.raises(ArgumentTypeError, match="row of a database"):
        in_spool(Row(None))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_find_gives_none_for_plain_values(value: object) -> None:
    assert borrowed.find("value", value) is None
