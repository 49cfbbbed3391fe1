"""Three libraries in one application, imported in every order: jobs of each of them run."""

from __future__ import annotations

import os
import pickle
import time
from itertools import permutations
from pathlib import Path

import pytest
from uwsgi_server import wait_until

from spoolkit.encoding import packet
from spoolkit.spooldir import spoolfile

from .conftest import StartSite

MODULES = ("with_spoolkit", "with_uwsgidecorators", "with_uwsgi_tasks")


@pytest.mark.parametrize(
    "order",
    [
        # The first order and its reverse; the others run in make matrix.
        pytest.param(order, id="-".join(order), marks=[pytest.mark.matrix] if 0 < number < 5 else [])
        for number, order in enumerate(permutations(MODULES))
    ],
)
def test_jobs_of_each_library_run_in_every_order_of_imports(start_site: StartSite, order: tuple[str, ...]) -> None:
    site = start_site(module="three_libraries", env={"ORDER": ",".join(order), "SPOOLKIT_RETRY_DELAY": "1.5"})
    assert site.server.post("/all").status == 200
    for word in ("own", "decorated", "arguments", "library"):
        site.history.wait_for("ran", word)
    site.history.wait_for("ran", "raw", "its-body", count=2)  # SPOOL_RETRY first, SPOOL_OK then
    site.history.wait_for("ran", "retried", count=3)
    site.history.wait_for("ran", "forever", count=2)
    first, second = site.history.wait_for("ran", "failing", count=2)[:2]
    assert second.time - first.time >= 1.5, "a function that raises was run at every scan"
    for word in ("own", "decorated", "arguments", "library"):
        assert len(site.history.events("ran", word)) == 1
    assert site.dead() == {}


@pytest.mark.parametrize("order", [("with_spoolkit",), ("with_uwsgidecorators",)], ids=["spoolkit", "uwsgidecorators"])
def test_a_library_imported_in_a_request_changes_nothing(start_site: StartSite, order: tuple[str, ...]) -> None:
    """The spooler was forked before that import and does not know the library: such jobs are dead."""
    site = start_site(module="three_libraries", env={"ORDER": ",".join(order), "SPOOLKIT_UNKNOWN_GRACE": "0"})
    assert site.server.post("/all").status == 200
    if order == ("with_spoolkit",):
        site.history.wait_for("ran", "own")
        # The jobs of the other two libraries, for which the spooler has no function.
        wait_until(lambda: len(site.dead()) >= 7, message=lambda: f"{site.dead()} {site.server.log()[-2000:]}")
    else:
        site.history.wait_for("ran", "decorated")


def test_a_job_that_imports_spoolkit_first_keeps_its_lock(start_site: StartSite) -> None:
    site = start_site(module="three_libraries", env={"ORDER": "with_uwsgidecorators"}, spoolers=3)
    assert site.server.post("/import").status == 200
    site.history.wait_for("importing", "ends")
    site.wait_empty()
    assert len(site.history.events("importing", "starts")) == 1


def test_a_job_that_another_library_enqueues_to_a_busy_spooler_runs_next(start_site: StartSite) -> None:
    site = start_site(module="three_libraries", env={"ORDER": ",".join(MODULES)}, frequency=600)
    for count in range(1, 4):
        site.server.post("/stock/slow")
        site.history.wait_for("slow", "starts", count=count)
        site.server.post("/stock/decorated")
        site.history.wait_for("ran", "decorated", count=count)


def test_a_delayed_job_is_only_a_little_late_without_spooler_frequency(start_site: StartSite) -> None:
    site = start_site(module="three_libraries", env={"ORDER": ",".join(MODULES)}, frequency=None)
    site.server.post("/own")
    site.history.wait_for("ran", "own", timeout=20)


def test_the_applications_own_handler_gets_the_files_that_no_library_knows(start_site: StartSite) -> None:
    site = start_site(module="plain_handler")
    assert site.server.post("/both").status == 200
    site.history.wait_for("ran", "own")
    site.history.wait_for("ran", "plain")
    site.wait_empty()


def test_a_job_that_its_library_cannot_run_is_dead_with_the_reason(start_site: StartSite, tmp_path: Path) -> None:
    env = {"ORDER": ",".join(MODULES), "SPOOLKIT_UNKNOWN_GRACE": "0"}
    site = start_site(module="three_libraries", env=env)
    nobody = pickle.dumps({})
    files = {
        "unknown-function": {b"ud_spool_func": b"nobody"},
        "bad-pickle": {b"ud_spool_func": b"with_arguments", b"args": b"no pickle", b"kwargs": nobody},
        "unknown-task": {b"function_name": b"nobody.at_all", b"setup": nobody, b"args": nobody, b"kwargs": nobody},
        "bad-setup": {b"function_name": b"with_uwsgi_tasks.library_task", b"setup": b"no pickle"},
        "raising-task": {
            b"function_name": b"with_uwsgi_tasks.broken",
            b"setup": nobody,
            b"args": pickle.dumps(("broken",)),
            b"kwargs": nobody,
        },
        "nobodys": {b"some": b"thing"},
    }
    for name, fields in files.items():
        spoolfile.write(str(site.spool), name, packet.dump(packet.Packet(fields)))
    site.wait_empty()
    assert {name.removeprefix(spoolfile.PREFIX) for name in site.dead()} == set(files)
    assert all(report["reason"] for report in site.dead().values())
    assert "of the application's own" in site.dead()[f"{spoolfile.PREFIX}raising-task"]["traceback"]
    assert set(os.listdir(site.spool / "dead")) >= {f"{spoolfile.PREFIX}{name}" for name in files}


def test_a_job_of_a_function_that_only_another_version_knows_waits_for_that_version(start_site: StartSite) -> None:
    site = start_site(module="three_libraries", env={"ORDER": ",".join(MODULES), "SPOOLKIT_UNKNOWN_GRACE": "6"})
    fields = {b"ud_spool_func": b"nobody"}
    written = time.time()
    path = spoolfile.write(str(site.spool), "unknown-function", packet.dump(packet.Packet(fields)))
    site.server.wait_for_log("unknown-function is left for another version of the code")
    seen = site.dead(), site.files()
    assert seen == ({}, [os.path.basename(path)]) or time.time() > written + 6, "its time is over"
    site.wait_empty()
    assert "nobody" in site.dead()[os.path.basename(path)]["reason"]
    assert site.server.log().count("is left for another version") == 1
