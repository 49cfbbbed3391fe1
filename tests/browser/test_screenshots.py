"""The pictures of docs/dashboard.md: ``make screenshots`` makes them anew. Otherwise they are made and thrown away."""

from __future__ import annotations

import math
import os
import secrets
import time
from pathlib import Path

import pytest
from flask import Flask
from playwright.sync_api import expect

from spoolkit import SpoolKit
from spoolkit.job import State
from spoolkit.store import locations, rows

from .conftest import Shop

pytestmark = pytest.mark.matrix

MAX_BYTES = 100_000

PHONE = {"viewport": {"width": 360, "height": 740}}
DESKTOP = {"viewport": {"width": 1000, "height": 720}}


@pytest.fixture(scope="module")
def dead(shop: Shop) -> str:
    """The id of the job that is shown; beside it, the site has an hour of others."""
    an_hour_of_mails(shop.server.spool)
    for order in (4711, 4712, 4713):
        shop.call_and_wait("charge", order, "dead")
    shop.call_and_wait("load", '{"order": 4714', "dead")
    shop.call("later", "tomorrow", delay=90000)
    return shop.call_and_wait("charge", 4714, "dead")


def an_hour_of_mails(spool: Path) -> None:
    """Record jobs that were done in the last hour, more and fewer of them in waves."""
    app = Flask("past")
    app.config["SPOOLKIT_SPOOL"] = str(spool)
    SpoolKit(app)
    now = time.time()
    with app.app_context(), locations.store().transaction() as db:
        for minute in range(2, 60):
            for number in range(round(9 + 6 * math.sin(minute / 6) + minute % 3)):
                at = now - 60 * minute + 3 * number
                id = f"{int(at * 1e9):016x}{secrets.token_hex(8)}"
                columns = {"task": "shop.mail", "engine": "spool", "enqueued_at": at, "started_at": at, "attempt": 1}
                rows.insert(db, id, State.DONE, at + 0.2 + number / 50, {**columns, "cpu": 0.01, "memory": 61_000_000})


@pytest.mark.parametrize(
    ("name", "path", "look"),
    [
        ("overview", "/", DESKTOP),
        ("jobs", "/jobs", {"viewport": {"width": 1000, "height": 560}}),
        ("job", "/jobs/{dead}", DESKTOP),
        ("job-dark", "/jobs/{dead}", {**DESKTOP, "color_scheme": "dark"}),
        ("phone", "/jobs?q=state:dead", {**PHONE, "color_scheme": "dark"}),
    ],
)
def test_a_picture(shop: Shop, dead: str, tmp_path: Path, name: str, path: str, look: dict[str, object]) -> None:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    with shop.running(f"of {name}"), shop.window("all", **look) as window:
        page = window.open("/spool" + path.format(dead=dead))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        picture = folder / f"dashboard-{name}.png"
        page.screenshot(path=picture)
    assert picture.stat().st_size < MAX_BYTES
