"""For all tests: which of the long ones run, with which examples, how long each may take, and that shared fixtures are
created once."""

from __future__ import annotations

import atexit
import compileall
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import watchdog
from hypothesis import HealthCheck, settings
from sampling import in_sample

# Nobody else may find what the servers of tests publish for the folders of their code, and no later run either, whose
# process may have the same pid.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="spoolkit-tests-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

# A background job of a shell and nohup ignore these signals; every program of a test would inherit that. Here, because
# spoolkit looks at the signals when it is imported.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _signum in (signal.SIGQUIT, signal.SIGHUP):
    signal.signal(_signum, signal.SIG_DFL)

MADE = pytest.StashKey[Counter[str]]()
HAS_CRASHED = pytest.StashKey[bool]()

LONG = 500
"""Seconds that a test may take that is marked ``matrix``. Others: ``timeout`` in ``pyproject.toml``."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", metavar="K/N", help="of the tests marked matrix, only the K-th of N parts")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MADE] = Counter()
    config.stash[watchdog.STANDARD_ERROR] = os.dup(2)
    if not hasattr(config, "workerinput"):
        # With PYTHONDONTWRITEBYTECODE, as in many containers, each of a thousand programs would compile it anew.
        compileall.compile_dir(Path(__file__).parents[1] / "src", quiet=2)
    # How long an example takes says nothing on a machine that is busy. The examples are always the same ones, also in a
    # sample of the matrix, which lets a change pass or not. Only the whole make matrix looks for new ones. Examples
    # take a fifth of the time of the unit tests: make test tries fewer.
    same = config.getoption("markexpr") == "not matrix" or config.getoption("--sample") is not None
    settings.register_profile(
        "tests",
        max_examples=40 if config.getoption("markexpr") == "not matrix" else 100,
        deadline=None,
        derandomize=same,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    """Fail a test that leaves a signal blocked, or with another handler: a later one may wait for that signal for ever.

    Once a command that ended with blocked signals was tested in the process of the tests, and children that other tests
    forked from it could not be stopped.
    """
    before = _signals()
    yield
    if (after := _signals()) != before:
        mask, handlers = before
        for signum, handler in handlers.items():
            if signal.getsignal(signum) != handler:
                signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        pytest.fail(f"the test has changed signals of the process of the tests: {before} became {after}")


def _signals() -> tuple[set[int], dict[signal.Signals, Any]]:
    handlers = {signum: signal.getsignal(signum) for signum in signal.Signals}
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ())), handlers


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool:
    watchdog.watch(item, settings.timeout)
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that are not in the sample, and give the long ones more time."""
    for item in items:
        if item.get_closest_marker("matrix") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG))
    sample = config.getoption("--sample")
    if sample is not None:
        out = [item for item in items if item.get_closest_marker("matrix") and not in_sample(item.nodeid, sample)]
        items[:] = [item for item in items if item not in set(out)]
        config.hook.pytest_deselected(items=out)


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest) -> None:
    """Count shared fixtures. Those of pytest and its plugins, one per process, have no ``baseid``."""
    if fixturedef.scope != "function" and fixturedef.baseid:
        name = f"{request.node.nodeid or fixturedef.baseid}: {fixturedef.argname}"
        if hasattr(request, "param"):
            name += f"[{request.param!r}]"
        request.config.stash[MADE][name] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Add the fixtures that a finished process of ``pytest -n`` has created."""
    made = getattr(node, "workeroutput", {}).get("made", {})
    node.config.stash[MADE].update(made)  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(sched: Any) -> None:
    """Note that a process of ``pytest -n`` has ended in the middle of a test: others were not run then."""
    sched.config.stash[HAS_CRASHED] = True


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where a shared fixture was created twice: the tests of one file ran in several processes.

    Once every process of ``pytest -n`` started the servers of all modules, and the machine had a load of 100.
    """
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["made"] = dict(session.config.stash[MADE])
        return
    # For tests/failed_few.py.
    is_whole = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    is_whole = is_whole and not session.config.stash.get(HAS_CRASHED, False)
    if (cache := getattr(session.config, "cache", None)) is not None:
        cache.set("spoolkit/is_whole", is_whole)
    if _twice(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, count in _twice(config).items():
        line = f"ERROR {name} was made {count} times; run pytest -n with --dist loadfile"
        terminalreporter.write_line(line, red=True)


def _twice(config: pytest.Config) -> dict[str, int]:
    return {name: count for name, count in config.stash[MADE].items() if count > 1}
