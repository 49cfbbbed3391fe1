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
    assert {limits.keys_of(render.declared, (video,), {})["limit_key"] for video in (1, 2)} == {"page_of_limits.render"}
    calls = ((1, "csv"), (1, "pdf"), (2, "csv"))
    keys = [limits.keys_of(export.declared, (user,), {"kind": kind})["limit_key"] for user, kind in calls]
    assert keys == [f"page_of_limits.export {user}" for user, _ in calls]
    assert (render.declared.options.limit.number, export.declared.options.limit.number) == (3, 1)


def test_the_thread_task_of_the_page_has_the_limit_and_the_rate_that_it_describes() -> None:
    (block,) = blocks("Thread tasks")
    names: dict[str, Any] = {"__name__": "page_of_thread_limits"}
    exec(block, names)
    ask = names["ask_price"].declared
    assert limits.keys_of(ask, ("x", 1), {}) == dict.fromkeys(
        ("limit_key", "rate_key"), 'page_of_thread_limits.ask_price "x"'
    )
    assert (ask.options.limit.number, ask.options.rate.interval) == (2, 0.2)


def test_the_tasks_of_the_page_have_the_rates_that_it_describes() -> None:
    (block,) = blocks("Rates")
    names: dict[str, Any] = {"__name__": "page_of_rates"}
    exec(block, names)
    call_api, send_mail = names["call_api"].declared, names["send_mail"].declared
    assert (call_api.options.rate.interval, call_api.options.rate.burst) == (6, 1)
    assert (send_mail.options.rate.interval, send_mail.options.rate.burst) == (36, 20)
    assert limits.keys_of(call_api, (1,), {}) == {"rate_key": "page_of_rates.call_api"}
    assert limits.keys_of(send_mail, (1, "x"), {}) == {"rate_key": "page_of_rates.send_mail 1"}
