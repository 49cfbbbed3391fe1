"""A real browser that looks at a real site: Debian's chromium, driven by Playwright, and a uWSGI with its own spool.

What the browser complains of fails the test: a violation of the page's security policy, an error of a script, an answer
with an unexpected status.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright
from uwsgi_server import UwsgiServer, wait_until

HERE = Path(__file__).parent
SITE = HERE / "site"
AXE = HERE / "vendor" / "axe-4.14.1.min.js"

PROGRAM = "chromium"

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

WITHIN = 60_000
"""Milliseconds within which the page must show something: on a busy machine a process may stand still for seconds."""

# Runs in each document before its own scripts; the policy of the page does not apply to it.
LISTEN = """addEventListener("securitypolicyviolation",
    (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`));"""

expect.set_options(timeout=WITHIN)


def chromium() -> str:
    """The path of the browser. Without one the tests are skipped, but not where all of them must run."""
    if (path := shutil.which(PROGRAM)) is None:
        message = f"there is no {PROGRAM}: apt-get install {PROGRAM}"
        if os.environ.get("CI") or os.environ.get("BROWSER_TESTS") == "required":
            pytest.fail(message)
        pytest.skip(message)
    return path


# For each file: a fixture of the session would be made in each process of pytest -n.
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    chromium()
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS, headless=True)
    yield started
    started.close()


class Window:
    """A tab of a visitor, and what the browser complained of in it."""

    def __init__(self, context: BrowserContext, base: str, complaints: list[str]) -> None:
        self.context = context
        self.base = base
        self.complaints = complaints
        self.page: Page = context.new_page()

    def open(self, path: str, *, status: int = 200) -> Page:
        """Go to a page of the site; ``status`` is what it must answer."""
        answer = self.page.goto(self.base + path)
        assert answer is not None
        assert answer.status == status, f"{path}: {answer.status}\n{answer.text()[:2000]}"
        if status >= 400:
            self.complaints[:] = [text for text in self.complaints if f"status of {status}" not in text]
        return self.page

    def press(self, label: str, *, inside: str = "main") -> None:
        """Press a button, and see that the browser gets an answer from elsewhere."""
        with self.page.expect_navigation():
            self.page.locator(inside).get_by_role("button", name=label, exact=True).first.click()

    def is_too_wide(self) -> int:
        """The pixels by which the page is wider than the window: it could be scrolled to the side."""
        width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(width))

    def axe(self) -> list[str]:
        """What axe-core finds that is serious or critical, a line each."""
        # By the protocol of the developer tools: the page's policy stays as it is, and does not apply to it.
        tools = self.context.new_cdp_session(self.page)
        tools.send("Runtime.evaluate", {"expression": AXE.read_text()})
        expression = (
            "axe.run(document, {resultTypes: ['violations']}).then((found) => JSON.stringify(found.violations))"
        )
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = tools.send("Runtime.evaluate", asked)
        tools.detach()
        assert "value" in answer["result"], answer
        return [
            f"{found['id']} ({found['impact']}): {node['html'][:200]} {node['failureSummary']}"
            for found in json.loads(answer["result"]["value"])
            if found["impact"] in ("serious", "critical")
            for node in found["nodes"]
        ]


class Shop:
    """The site, its jobs, and windows that look at it."""

    def __init__(self, browser: Browser, server: UwsgiServer, hold: Path) -> None:
        self.browser = browser
        self.server = server
        self.base = f"http://127.0.0.1:{server.port}"
        self._hold = hold

    @contextmanager
    def window(self, role: str = "all", **options: Any) -> Iterator[Window]:
        """A window of a visitor with this role; ``options`` are those of a browser context of Playwright."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        try:
            context.set_default_timeout(WITHIN)
            context.add_init_script(LISTEN)
            context.add_cookies([{"name": "role", "value": role, "url": self.base}])
            complaints: list[str] = []
            context.on(
                "console",
                lambda said: complaints.append(f"{said.text} {said.location['url']}") if said.type == "error" else None,
            )
            context.on("weberror", lambda error: complaints.append(str(error.error)))
            yield Window(context, self.base, complaints)
            assert complaints == [], "the browser complained"
        finally:
            context.close()

    def call(self, task: str, word: object, *, delay: float | None = None) -> str:
        """Enqueue a job; return its id."""
        query = f"word={quote(str(word))}" + (f"&delay={delay}" if delay is not None else "")
        answer = self.server.post(f"/call/{task}?{query}")
        assert answer.status == 200, answer.text
        return str(answer.json["id"])

    def linked(self, path: str, pattern: str) -> str:
        """The first path below /spool that fits ``pattern`` among the links of a page."""
        html = self.server.request("GET", f"/spool{path}", headers={"Cookie": "role=all"}).text
        found = re.search(f'href="/spool({pattern})"', html)
        assert found, html
        return found[1]

    def state(self, id: str) -> str:
        return str(self.server.get(f"/jobs/{id}").json["state"])

    def wait(self, id: str, *states: str) -> str:
        """Wait until a job is in one of these states; return its id."""
        wait_until(lambda: self.state(id) in states, message=lambda: f"{id} is {self.state(id)}: {self.server.log()}")
        return id

    def call_and_wait(self, task: str, word: object, *states: str) -> str:
        return self.wait(self.call(task, word), *states)

    def let_go(self, name: str) -> None:
        """Let the task end that is held under this name."""
        (self._hold / name).touch()

    @contextmanager
    def running(self, name: str) -> Iterator[str]:
        """The id of a job that runs, half done, until the end of the block."""
        try:
            yield self.call_and_wait("report", name, "running")
        finally:
            self.let_go(name)


def site_in(folder: Path, options: Sequence[str] = ()) -> UwsgiServer:
    """The site with its files in ``folder``, on a server that is not started yet."""
    (folder / "hold").mkdir()
    lines = [
        "master = true",
        "enable-threads = true",
        "need-app = true",
        "processes = 1",
        "threads = 4",
        f"pythonpath = {SITE}",
        f"chdir = {SITE}",
        "module = browser_app:app",
        "spooler-processes = 2",
        "spooler-frequency = 1",
        f"spooler = {folder / 'spool'}",
        *options,
    ]
    return UwsgiServer(folder, options=lines, env={"HOLD": str(folder / "hold"), "PYTHONUNBUFFERED": "1"})


@pytest.fixture(scope="module")
def shop(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """One site for all tests of a file."""
    folder = tmp_path_factory.mktemp("shop")
    with site_in(folder) as server:
        yield Shop(browser, server, folder / "hold")
