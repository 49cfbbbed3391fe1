"""The code on docs/unique-and-limits.md about limits works as the page says."""

from __future__ import annotations

from typing import Any

from test_docs_unique import blocks

from spoolkit.coordination import limits


def test_the_tasks_of_the_page_have_the_limits_that_it_describes() -> None:
    (block,) = blocks("Limits")
    names: dict[str, Any] = {"__name__": "page_of_limits"}
    exec(block, names)
    render, export = names["render"], names["export"]
    assert {limits.key_of(render.declared, (video,), {}) for video in (1, 2)} == {"page_of_limits.render"}
    calls = ((1, "csv"), (1, "pdf"), (2, "csv"))
    keys = [limits.key_of(export.declared, (user,), {"kind": kind}) for user, kind in calls]
    assert keys == [f"page_of_limits.export {user}" for user, _ in calls]
    assert (render.declared.options.limit.number, export.declared.options.limit.number) == (3, 1)
