"""What jobs contain is shown as text: cut, on one line where it must be, and without what controls a terminal."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoolkit.admin import words
from spoolkit.job import Event
from spoolkit.system import clock

PIECES = st.sampled_from(
    ["\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\x1b", "\x00", "\r", "\n", "\t", "\u202e", "é", "x"]
)
TEXTS = st.lists(PIECES | st.text(max_size=5), max_size=30).map("".join)
CONTROL = {"Cc", "Cs"}


@given(TEXTS, st.integers(1, 40))
def test_a_cut_text_is_one_line_of_so_many_characters(text: str, limit: int) -> None:
    shown = words.cut(text, limit)
    assert len(shown) <= limit + 1
    assert len(shown) <= limit or shown.endswith("…")
    assert not {unicodedata.category(char) for char in shown} & CONTROL
    assert shown == text or not text.isascii() or not text.isprintable() or len(text) > limit


@given(TEXTS)
def test_a_plain_text_keeps_its_lines_and_nothing_that_controls_a_terminal(text: str) -> None:
    shown = words.plain(text)
    assert not {unicodedata.category(char) for char in shown if char not in "\n\t"} & CONTROL


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07text", "text"),
        ("\x9b31mred", "red"),
        ("50 %\r100 %", "50 %\\r100 %"),
        ("a\r\nb\n\tc\n", "a\nb\n\tc"),
        ("\x1bP1;2qsixel\x1b\\x", "x"),
        ("\u202eevil", "\\u202eevil"),
        ("\x1b(Btext", "text"),
    ],
)
def test_control_sequences_are_removed_and_other_characters_are_escaped(text: str, shown: str) -> None:
    assert words.plain(text) == shown


def test_a_cut_takes_no_time_for_a_long_text() -> None:
    assert words.cut("x" * 10_000_000, 5) == "xxxxx…"
    assert words.cut("\x1b[0m" * 100 + "end", 5) == "…", "what is cut off may be anything"
    assert words.cut(None) == ""


def test_a_moment_names_its_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        assert words.moment(1_795_716_301.25) == "2026-11-26 19:05:01.250 CET"
        assert words.moment(None) == words.ago(None) == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_age_is_told_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: 1000.0)
    assert (words.ago(880), words.ago(1005)) == ("2.0 min ago", "in 5.0 s")


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Event(0, "retried"), "retried"),
        (Event(0, "retried", "anna"), "retried by anna"),
        (Event(0, "cancelled", "anna", "not wanted"), "cancelled by anna: not wanted"),
    ],
)
def test_an_event_tells_who_and_why(event: Event, text: str) -> None:
    assert words.event_text(event) == text
