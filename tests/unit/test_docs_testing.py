"""The tests on docs/testing.md, put together as a suite of a site, pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)

SHOP = """
from flask import Flask, request
from spoolkit import SpoolKit

def create_app():
    from shop import tasks
    app = Flask(__name__)
    SpoolKit(app)

    @app.post("/sign-up")
    def sign_up():
        tasks.send_mail(request.form["email"], "welcome")
        return "welcome"

    return app
"""

TASKS = """
from spoolkit import spool, thread

sent = []

@spool
def send_mail(address, template):
    sent.append(address)

@spool(retries=3)
def fails():
    raise OSError("not today")

@thread
def record_visit(path): ...
"""

MAILBOX = """
@pytest.fixture
def mailbox(monkeypatch):
    from shop import tasks
    monkeypatch.setattr(tasks, "sent", [])
    return tasks.sent
"""


def test_the_page_is_a_suite_that_passes(tmp_path: Path) -> None:
    first, second, alternatives, visit = BLOCKS
    shop = tmp_path / "shop"
    shop.mkdir()
    (shop / "__init__.py").write_text(SHOP)
    (shop / "tasks.py").write_text(TASKS)
    delayed, unchecked, retrying = alternatives.splitlines()
    suite = [
        first,
        MAILBOX,
        second,
        "def test_what_waits_for_its_time(app, mailbox):",
        "    from shop.tasks import send_mail",
        "    send_mail.using(delay=600)('bob@example.org', 'welcome')",
        "    run_jobs()",
        "    assert mailbox == []",
        textwrap.indent(delayed, "    "),
        "    assert mailbox == ['bob@example.org']",
        "def test_a_failure(app):",
        "    from shop.tasks import fails",
        "    job = fails()",
        textwrap.indent(f"{unchecked}\n{retrying}", "    "),
        "def test_a_thread(app):",
        "    from shop.tasks import record_visit",
        textwrap.indent(visit, "    "),
    ]
    (tmp_path / "test_shop.py").write_text("\n".join(suite))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SPOOLKIT"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "test_shop.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "5 passed" in done.stdout, done.stdout + done.stderr
