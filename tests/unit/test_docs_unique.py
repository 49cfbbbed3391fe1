"""The code on docs/unique-and-limits.md does what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spoolkit import spool
from spoolkit.system import clock

PAGE = (Path(__file__).parents[2] / "docs" / "unique-and-limits.md").read_text()


def blocks(heading: str) -> list[str]:
    (section,) = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def run(code: str, namespace: dict[str, Any], body: str = "") -> None:
    exec(code.replace(" ...\n", f" {body}\n") if body else code, namespace)


def test_the_second_call_returns_the_first_job(work: Callable[[], None]) -> None:
    done: list[Any] = []
    namespace = {"spool": spool, "done": done, "__name__": __name__}
    declaration, calls = blocks("Unique jobs")
    run(declaration, namespace, "done.append((user_id, language))")
    run(calls, namespace)
    work()
    assert done == [(5, "en")]


def test_the_last_call_counts(work: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    namespace = {"spool": spool, "done": done, "__name__": __name__}
    declaration, calls = blocks("Debounce")
    run(declaration, namespace, "done.append(text)")
    run(calls, namespace)
    work()
    assert done == []
    later = clock.now() + 40
    monkeypatch.setattr(clock, "now", lambda: later)
    work()
    assert done == ["a second one"]
