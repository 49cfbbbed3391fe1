"""A spooler of a real uWSGI ends after so many jobs, and bounds the memory of a task."""

from __future__ import annotations

from collections import Counter

import pytest

from .conftest import StartSite

MIB = 1 << 20


def test_a_spooler_is_replaced_after_so_many_jobs_and_an_attempt_has_so_much_memory(start_site: StartSite) -> None:
    site = start_site(env={"SPOOLKIT_SPOOLER_MAX_JOBS": "2"})
    too_much, bit_by_bit = (site.call("takes", size)["job"] for size in (300 * MIB, None))
    site.call("takes", 30 * MIB)
    for word in range(3):
        site.call("note", str(word))
    site.wait_empty(120)
    jobs_of = Counter(event.pid for event in site.history.events("note"))
    assert max(jobs_of.values()) <= 2
    dead = site.dead()
    assert {name.removeprefix("uwsgi_spoolfile_on_")[:32] for name in dead} == {too_much, bit_by_bit}
    text = "JobMemoryError: the task needs more than 67108864 bytes of memory"
    assert all(text in report["reason"] for report in dead.values())


@pytest.mark.matrix
def test_a_spooler_beyond_its_memory_is_replaced_after_its_job(start_site: StartSite) -> None:
    site = start_site(env={"SPOOLKIT_SPOOLER_MAX_MEMORY": "1"})
    for word in range(3):
        site.call("note", str(word))
    site.wait_empty(120)
    assert len({event.pid for event in site.history.events("note")}) == 3
    assert "(SPOOLKIT_SPOOLER_MAX_MEMORY)" in site.server.log()
