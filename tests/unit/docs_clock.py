"""A clock that stands still unless it is told to go, and a task that waits for a word."""

from __future__ import annotations

import os

now = 1_795_248_000.0  # 2026-11-21 08:00:00 UTC
reached, released = os.pipe(), os.pipe()


def time() -> float:
    return now


def pass_by(seconds: float) -> None:
    global now
    now += seconds


def hold() -> None:
    """Say that the task is here, and wait until it may go on."""
    os.write(reached[1], b".")
    os.read(released[0], 1)
