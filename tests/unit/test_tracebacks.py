"""Which frames of a traceback are the application's own, whatever the text of the traceback is."""

from __future__ import annotations

import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.admin import tracebacks
from spoolkit.admin.tracebacks import Frame, last_own_frame, parts, without_libraries


def fail(depth: int) -> None:
    if depth:
        fail(depth - 1)
    json.loads("{")


def grouped() -> None:
    try:
        fail(0)
    except ValueError as error:
        raise ExceptionGroup("several", [error, KeyError("x")]) from error


def text_of(depth: int = 0) -> str:
    try:
        fail(depth)
    except ValueError:
        return traceback.format_exc()
    raise AssertionError


def test_frames_of_libraries_are_counted_instead_of_shown() -> None:
    short = without_libraries(text_of())
    assert "… 3 frames of libraries" in short
    assert "decoder.py" not in short
    assert 'json.loads("{")' in short
    assert short.startswith("Traceback (most recent call last):")
    assert short.endswith("(char 1)")


def test_the_last_own_frame_is_where_the_application_was() -> None:
    frame = last_own_frame(text_of(3))
    assert frame is not None
    assert (frame.file, frame.function, frame.code) == (__file__, "fail", 'json.loads("{")')
    assert frame.where.startswith("unit/test_tracebacks.py:")


def test_the_frames_of_a_group_of_exceptions_are_found() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        grouped()
    frame = last_own_frame("".join(traceback.format_exception(raised.value)))
    assert frame is not None
    assert frame.code == 'json.loads("{")'


def test_repeated_lines_belong_to_their_frame() -> None:
    with pytest.raises(RecursionError) as raised:
        fail(100_000)
    text = "".join(traceback.format_exception(raised.value))
    assert "Previous line repeated" in text
    frame = last_own_frame(text)
    assert frame is not None
    assert frame.function == "fail"
    assert all("Previous" not in part.text or "File" in part.text for part in parts(text))


def test_a_traceback_of_libraries_alone_stays_as_it_is() -> None:
    text = 'Traceback (most recent call last):\n  File "/x/site-packages/a.py", line 1, in f\n    g()\nValueError: no'
    assert last_own_frame(text) is None
    assert without_libraries(text) == text


def test_an_own_frame_far_above_many_of_libraries_is_found() -> None:
    library = '  File "/x/site-packages/a.py", line 1, in f\n    g()\n' * 1000
    own = '  File "/app/tasks.py", line 7, in send\n    post()\n'
    text = f"Traceback (most recent call last):\n{own}{library}ValueError"
    assert len(text) > tracebacks.TAIL
    assert last_own_frame(text) == Frame("/app/tasks.py", 7, "send", "post()")


@given(st.lists(st.sampled_from([
    '  File "/app/a.py", line 3, in f', '  File "/x/site-packages/b.py", line 3, in g', "    code()", "    ~~~~^^",
    "ValueError: x", "", "  [Previous line repeated 9 more times]", '  | File "/app/a.py", line 1, in f',
    "During handling of the above exception, another exception occurred:",
])))  # fmt: skip
def test_no_line_is_lost(lines: list[str]) -> None:
    text = "\n".join(lines).rstrip("\n")
    assert "\n".join(part.text for part in parts(text)) == text


@given(st.text())
def test_any_text_is_a_traceback(text: str) -> None:
    without_libraries(text)
    last_own_frame(text)
