"""Which rows of a matrix run in ``make test``; ``make matrix`` runs all of them."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from typing import Any

import pytest


def sampled(rows: Sequence[Any], *kept: Any) -> list[Any]:
    """The rows for ``pytest.mark.parametrize``; all except those in ``kept`` are marked ``matrix``.

    A row of several parameters is a tuple, and so it is in ``kept``.
    """
    missing = [row for row in kept if row not in rows]
    assert not missing, f"no such rows: {missing}"
    return [row if row in kept else _marked(row) for row in rows]


def _marked(row: Any) -> Any:
    values: Collection[Any] = row if isinstance(row, tuple) else (row,)
    return pytest.param(*values, marks=pytest.mark.matrix)


def in_sample(test: str, sample: str) -> bool:
    """Whether the test with this id is in part ``K/N``, the K-th of N. A test is in the same part in every run."""
    part, parts = map(int, sample.split("/"))
    return zlib.crc32(test.encode()) % parts == part % parts
