"""A condition that is dear to look at is believed for a while."""

from __future__ import annotations

import time

import pytest

from spoolkit.system import clock


def test_a_condition_is_looked_at_again_once_its_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    looks: list[float] = []

    def look() -> bool:
        looks.append(now[0])
        return len(looks) > 1

    sampled = clock.Sampled(look)
    assert not sampled()
    now[0] += clock.SAMPLE_TIME / 2
    assert not sampled()
    now[0] += clock.SAMPLE_TIME / 2
    assert sampled()
    assert sampled(), "a master that stops is still stopping for whoever asks again"
    assert looks == [1000.0, 1000.0 + clock.SAMPLE_TIME]
