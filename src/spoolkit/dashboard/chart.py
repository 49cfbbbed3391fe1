"""The geometry of a bar chart, as whole numbers for an SVG: bars need no style, and so no inline one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

HEIGHT = 100
"""Of the chart, in its own units."""

STEP = 10
"""From one column to the next; a bar is two units narrower."""


class Bar(NamedTuple):
    """A part of a column, as a rectangle."""

    #: ``good`` or ``bad``.
    kind: str
    x: int
    y: int
    width: int
    height: int


def bars(columns: Sequence[tuple[int, int]]) -> list[Bar]:
    """Return the bars of columns, each of a number of good things with a number of bad ones on top.

    The highest column has the whole height. What is not zero can be seen: it is at least two units high.
    """
    most = max((good + bad for good, bad in columns), default=0)
    found = []
    for at, (good, bad) in enumerate(columns):
        top = HEIGHT
        for kind, number in (("good", good), ("bad", bad)):
            if number:
                height = min(top, max(2, number * HEIGHT // most))
                top -= height
                found.append(Bar(kind, at * STEP + 1, top, STEP - 2, height))
    return found
