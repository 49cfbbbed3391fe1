"""What is put back in a process after a job, and what stays there."""

from __future__ import annotations

import subprocess
import sys

PREAMBLE = """
import os, sys, time
os.environ.update({"KEPT": "1", "CHANGED": "before", "REMOVED": "before"})
os.environ.pop("TZ", None)
time.tzset()
from spoolkit.attempt.process_state import State
path = list(sys.path)
state = State()
"""


def run(code: str) -> None:
    """Run it in a process of its own, whose state is nobody else's."""
    done = subprocess.run([sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_restore_puts_back_changed_and_removed_environment_variables_and_keeps_added_ones() -> None:
    run("""
os.environ.update({"CHANGED": "after", "MPLCONFIGDIR": "/tmp/of-a-library"})
del os.environ["REMOVED"]
os.environb[b"NOT_TEXT"] = b"\\xff"
assert state.restore() == []
assert (os.environ["KEPT"], os.environ["CHANGED"], os.environ["REMOVED"]) == ("1", "before", "before")
assert os.environ["MPLCONFIGDIR"] == "/tmp/of-a-library"
assert os.environb[b"NOT_TEXT"] == b"\\xff"
again = State()
os.environ.clear()
assert again.restore() == []
assert os.environ["MPLCONFIGDIR"] == "/tmp/of-a-library"
""")


def test_a_time_limit_leaves_nothing_to_restore() -> None:
    """To restore takes three times as long as all else that a job needs."""
    run("""
from spoolkit.attempt import process_state, timeouts
with timeouts.soft(60):
    pass
assert process_state._process.get()._is_as_before()
""")


def test_restore_removes_added_variables_that_configure_spoolkit() -> None:
    run("""
os.environ["SPOOLKIT_SPOOL"] = "/elsewhere"
assert state.restore() == []
assert "SPOOLKIT_SPOOL" not in os.environ
""")


def test_restore_removes_an_added_time_zone() -> None:
    run("""
os.environ["TZ"] = "Asia/Tokyo"
time.tzset()
assert state.restore() == []
assert "TZ" not in os.environ
assert time.tzname[0] != "JST"
""")


def test_restore_keeps_added_folders_in_sys_path_where_they_were_added() -> None:
    run("""
sys.path.insert(0, "/first")
sys.path = [*sys.path, "/last"]
assert state.restore() == []
assert sys.path == ["/first", *path, "/last"]
""")


def test_restore_puts_back_a_sys_path_that_was_cleared_or_shuffled() -> None:
    run("""
sys.path[:] = ["/first", *reversed(path)]
assert state.restore() == []
assert sys.path == [*path, "/first"]
sys.path.clear()
assert state.restore() == []
assert sys.path == [*path, "/first"]
""")


def test_a_folder_that_each_job_adds_to_sys_path_is_there_once() -> None:
    run("""
for _ in range(3):
    before = State()
    sys.path.insert(0, "/first")
    assert before.restore() == []
assert sys.path == ["/first", *path]
""")


def test_what_is_changed_between_two_jobs_is_put_back_after_the_next_one() -> None:
    run("""
os.environ["CHANGED"], os.environ["SPOOLKIT_SPOOL"] = "between", "/elsewhere"
again = State()
assert again.restore() == []
assert os.environ["CHANGED"] == "before"
assert "SPOOLKIT_SPOOL" not in os.environ
""")


def test_a_profiler_that_was_started_between_two_jobs_runs_on_and_one_that_a_job_started_is_stopped() -> None:
    run("""
def profile(*_): pass
sys.setprofile(profile)
again = State()
sys.setprofile(None)
assert again.restore() == []
assert sys.getprofile() is profile
sys.setprofile(None)
again = State()
sys.setprofile(profile)
sys.settrace(profile)
assert again.restore() == []
assert (sys.gettrace(), sys.getprofile()) == (None, None)
""")


def test_a_name_that_was_deleted_from_a_module_is_put_back() -> None:
    run("""
argv = sys.argv
del sys.argv, sys.breakpointhook
assert state.restore() == []
assert sys.argv is argv
assert callable(sys.breakpointhook)
""")


def test_each_name_whose_object_is_compared_is_put_back() -> None:
    run("""
from spoolkit.attempt import process_state
assert process_state._objects() == tuple(getattr(module, name) for module, name in process_state._NAMES)
""")


def test_a_crash_is_described_also_after_a_job_that_has_set_a_handler_of_its_own() -> None:
    run("""
import ctypes, signal, tempfile
from spoolkit.attempt import timeouts
log = tempfile.TemporaryFile()
with timeouts.hard(None, log.fileno()):
    signal.signal(signal.SIGSEGV, signal.SIG_IGN)
assert state.restore() == []
assert signal.getsignal(signal.SIGSEGV) == signal.SIG_DFL
if not (pid := os.fork()):
    with timeouts.hard(None, log.fileno()):
        ctypes.string_at(0)
os.waitpid(pid, 0)
log.seek(0)
assert timeouts.CRASH_MARK.encode() in log.read()
""")


def test_threads_that_a_job_has_left_are_named() -> None:
    run("""
import threading
assert state.threads_left() == []
left = threading.Event()
thread = threading.Thread(target=left.wait, args=(60,), name="left")
thread.start()
assert state.threads_left() == ["left"]
left.set()
thread.join()
assert state.threads_left() == []
""")


def test_the_state_is_restored_after_an_unexpected_failure_of_another_librarys_job() -> None:
    run("""
from spoolkit.spooling import execute, other_libraries as foreign
def unforeseen(*args, **kwargs):
    os.umask(0o123)
    raise RuntimeError
foreign.run = unforeseen
os.umask(0o22)
try:
    execute.execute_foreign({}, execute.SpoolFileRef("/nowhere", "/"), None)
except RuntimeError:
    pass
assert os.umask(0) == 0o22
""")


def test_restore_puts_back_a_locale_that_differs_by_category() -> None:
    run("""
import locale
locale.setlocale(locale.LC_ALL, "C")
locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
from spoolkit.attempt import process_state
process_state._process.discard()
state, before = State(), locale.setlocale(locale.LC_ALL)
locale.setlocale(locale.LC_ALL, "C")
assert state.restore() == []
assert locale.setlocale(locale.LC_ALL) == before
""")
