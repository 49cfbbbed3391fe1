"""docs/cli.md describes every command and shows its output. ``SPOOLKIT_WRITE_DOCS=1`` updates the outputs."""

from __future__ import annotations

import difflib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import click
import docs_clock
import pytest
import shop
from flask import Flask
from life_process import read_pipe, wait_child
from uwsgi_server import wait_until

from spoolkit import SpoolKit, job
from spoolkit.admin import lookup
from spoolkit.cli import commands
from spoolkit.doctor import examine
from spoolkit.spooldir import spoolfile
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import clock

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
BLOCK = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)
INI = "[uwsgi]\nmaster = true\nhttp-socket = :8080\nmodule = shop:app\nspooler = my_spools\n"

APP = "from flask import Flask\nfrom spoolkit import SpoolKit\napp = Flask(__name__)\nSpoolKit(app)\n"


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    numbers = count(1)
    monkeypatch.setattr(docs_clock, "now", docs_clock.now)
    monkeypatch.setattr(clock, "now", docs_clock.time)
    monkeypatch.setattr(job, "urandom", lambda size: next(numbers).to_bytes(size, "big"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def site(folder: Path) -> Flask:
    app = Flask("shop", root_path=str(folder))
    app.config["SPOOLKIT_SPOOL"] = folder / "my_spools"
    SpoolKit(app)
    return app


@pytest.fixture
def busy(tmp_path: Path, frozen: None) -> Iterator[Flask]:
    """A site with a job in every state, one of them running in a process of its own."""
    app = site(tmp_path / "busy")
    with app.app_context():
        spool = str(tmp_path / "busy" / "my_spools")
        for call in (lambda: shop.send_mail("ann@example.org"), lambda: shop.resize("cat.png", width=300)):
            call()
            run_due(spool)
        docs_clock.pass_by(31)
        run_due(spool)
        shop.send_mail.using(delay=900)("bob@example.org", template="reminder")
        shop.monthly_report("2026-10")
        pid = os.fork()
        if not pid:
            run_due(spool)
            os._exit(0)
        read_pipe(docs_clock.reached[0])
        docs_clock.pass_by(5)
        yield app
        os.write(docs_clock.released[1], b".")
        wait_child(pid)


def run_due(spool: str) -> None:
    for path in spoolfile.pending(spool):
        if os.stat(path).st_mtime > docs_clock.now and lookup.find(lookup.id_of(path)).run_at is None:
            os.utime(path, (docs_clock.now, docs_clock.now))  # files get the time of the machine
    Spooler(spool).run_due()


Shell = Callable[[str], str]


@pytest.fixture
def shell(busy: Flask, tmp_path: Path) -> Iterator[Shell]:
    """Runs a command of the page and returns what it prints."""
    idle = tmp_path / "idle"
    idle.mkdir()
    (idle / "uwsgi.ini").write_text(INI)
    (idle / "app.py").write_text(APP)

    def run(line: str) -> str:
        words = line.split()
        if words[0] == "cat":
            return (idle / words[1]).read_text()
        assert words[:2] == ["flask", "spool"], line
        if words[2] in ("run", "doctor"):
            return plain(output_of(words, idle), tmp_path)
        return plain(busy.test_cli_runner().invoke(commands, words[2:]).output, tmp_path)

    with busy.app_context():
        yield run
        locations.store().close()


def output_of(words: list[str], folder: Path) -> str:
    """The output of the command in its own site, with the machine's clock; Ctrl-C stops ``run``."""
    output = folder / "output"
    with output.open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *words], cwd=folder, stdout=log, stderr=log)
    if words[2] == "run":
        try:
            wait_until(lambda: len(list((folder / "my_spools" / "spoolers").glob("[0-9]*"))) == 2)
        finally:
            process.send_signal(signal.SIGINT)
    process.wait(60)
    return output.read_text()


def plain(text: str, folder: Path) -> str:
    """The output without the parts that differ from run to run."""
    text = re.sub(rf"{re.escape(os.path.realpath(folder))}/\w+", "/srv/shop", text)
    text = text.replace(os.path.dirname(os.path.realpath(__file__)), "/srv/shop")
    text = re.sub(r"\bpid \d+", "pid 4242", text)
    text = re.sub(r"CPU [\d.]+ m?s, [\d.]+ MiB", "CPU 800 ms, 45 MiB", text)
    text = re.sub(r"(?m)^ *[\^~]+\n", "", text)  # from Python 3.11 on, a traceback points at the place
    text = re.sub(r"\bunit/shop\.py:\d+", "shop/shop.py:20", text)
    return re.sub(r'(?m)("/srv/shop/shop.py", line) \d+', r"\1 20", text)


def test_each_output_on_the_page_is_the_output_of_the_command(shell: Shell) -> None:
    page = PAGE.read_text()

    def shown(block: re.Match[str]) -> str:
        lines = [line for line in block[1].splitlines() if line.startswith("$ ")]
        return "".join(f"{line}\n{shell(line[2:])}" for line in lines)

    updated = BLOCK.sub(shown, page)
    if os.environ.get("SPOOLKIT_WRITE_DOCS"):
        PAGE.write_text(updated)
    assert updated == page, "".join(difflib.unified_diff(page.splitlines(True), updated.splitlines(True)))


def test_each_command_and_option_is_on_the_page() -> None:
    page = PAGE.read_text()
    for name, command in commands.commands.items():
        assert f"flask spool {name}" in page, name
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[0] in page, f"{name} {option.opts[0]}"


def test_each_check_of_the_doctor_is_on_the_page() -> None:
    sources = Path(examine.__file__).parent.glob("*.py")
    named = {name for path in sources for name in re.findall(r'Finding\(\s*"([a-z-]+)"', path.read_text())}
    assert len(named) > 20
    assert named <= set(re.findall(r"`([a-z-]+)`", PAGE.read_text()))
