"""Every page in a real browser: by role, with and without JavaScript, light and dark, on a phone, with axe-core."""

from __future__ import annotations

import base64
import hashlib
import re
import tomllib
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from spoolkit.dashboard import ALL_RIGHTS, READ_ONLY
from spoolkit.dashboard import blueprint as assembled

from .conftest import HERE, Shop

PAGES: dict[str, list[str]] = {
    "jobs": ["/jobs", "/jobs?q=state:dead", "/jobs?q=task:shop.mail", "/jobs?q=error:refused", "/jobs?before={dead}"],
    "job": ["/jobs/{dead}", "/jobs/{done}", "/jobs/{running}", "/jobs/{queued}"],
    "edit_job": ["/jobs/{dead}/edit", "/jobs/{done}/edit"],
    "dead_group": ["{group}"],
}
"""The paths of a page that are looked at, by the name of its function. One without variables need not be named."""

NO_PAGES = {"job_log"}
"""What has the right to be seen, but is no HTML."""

GRANTED = {"all": ALL_RIGHTS, "reader": READ_ONLY, "logs": {"view", "logs"}}
"""The roles, and what they may do."""


def paths() -> list[tuple[str, str]]:
    """Each page of the blueprint, and a path of it."""
    found = []
    for route in (route for routes in assembled.PAGES for route in routes):
        if "GET" in route.methods and route.right is not None and route.view.__name__ not in NO_PAGES:
            name = route.view.__name__
            found += [(name, path) for path in PAGES.get(name, [] if "<" in route.rule else [route.rule])]
    return found


@pytest.mark.matrix
def test_every_page_is_looked_at() -> None:
    pages = {
        route.view.__name__
        for routes in assembled.PAGES
        for route in routes
        if "GET" in route.methods and route.right is not None
    }
    assert pages == {name for name, _ in paths()} | NO_PAGES, "name a path of each page in PAGES"


@pytest.fixture(scope="module")
def jobs(shop: Shop) -> Iterator[dict[str, str]]:
    """The ids of jobs by their state, for the paths."""
    shop.call_and_wait("charge", 2, "dead")
    ids = {
        "dead": shop.call_and_wait("charge", 1, "dead"),
        "done": shop.call_and_wait("mail", "anna@example.com", "done"),
        "queued": shop.call("later", "tomorrow", delay=90000),
    }
    with shop.running("pages") as running:
        yield {**ids, "running": running, "group": shop.linked("/dead", "/dead/[^/]+")}


def test_what_is_vendored_is_what_npm_has() -> None:
    vendored = tomllib.loads((HERE / "vendor" / "vendor.toml").read_text())
    files = {name: file for package in vendored.values() for name, file in package["files"].items()}
    assert {path.name for path in (HERE / "vendor").iterdir()} == {"vendor.toml", *files}
    for name, file in files.items():
        digest = base64.b64encode(hashlib.sha512((HERE / "vendor" / name).read_bytes()).digest()).decode()
        assert f"sha512-{digest}" == file["integrity"]


def test_the_page_in_a_browser(shop: Shop) -> None:
    """The short one: the overview, the keys, the jobs, and nothing that the policy of the page forbids."""
    with shop.window() as window:
        page = window.open("/spool/")
        page.get_by_role("button", name="Keys").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_role("button", name="Close").click()
        page.get_by_role("link", name="Jobs", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
        page.keyboard.press("/")
        expect(page.locator("#filter")).to_be_focused()


@pytest.mark.matrix
@pytest.mark.parametrize("look", ["light", "dark", "phone", "no script"])
@pytest.mark.parametrize(("name", "path"), paths())
def test_a_page_looks_right(shop: Shop, jobs: dict[str, str], name: str, path: str, look: str) -> None:
    options = {
        "light": {"color_scheme": "light"},
        "dark": {"color_scheme": "dark"},
        "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
        "no script": {"java_script_enabled": False},
    }[look]
    with shop.window(**options) as window:
        page = window.open("/spool" + path.format(**jobs))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert window.is_too_wide() <= 0, f"{window.is_too_wide()} pixels are outside: {outside(page)}"
        may_pause = look != "no script" and page.locator("main[hx-get]").count() == 1
        expect(page.get_by_role("button", name="Pause refresh")).to_be_visible(visible=may_pause)
        if look != "no script":
            assert window.axe() == []


def outside(page: Page) -> list[str]:
    """The elements that are not within the window."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll("main *, header *")]
            .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth)
            .map((one) => one.outerHTML.slice(0, 120)).slice(0, 5)"""
    )
    return found


@pytest.mark.matrix
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
@pytest.mark.parametrize("role", GRANTED)
def test_a_page_shows_a_role_what_it_may_see_and_do(shop: Shop, jobs: dict[str, str], role: str, script: bool) -> None:
    rights = {route.view.__name__: route.right for routes in assembled.PAGES for route in routes}
    shown = set()
    with shop.window(role, java_script_enabled=script) as window:
        for name, path in paths():
            if ("arguments" if "error:" in path else rights[name]) not in GRANTED[role]:
                page = window.open("/spool" + path.format(**jobs), status=403)
                expect(page.get_by_role("alert")).to_contain_text("needs the right")
                continue
            page = window.open("/spool" + path.format(**jobs))
            shown |= {rights[action] for action in actions_on(page)}
            if name == "job" and "{dead}" in path:
                expect(page.locator("#call")).to_have_count(int("arguments" in GRANTED[role]))
                expect(page.get_by_text("charging order 1")).to_have_count(int("logs" in GRANTED[role]))
    assert shown == GRANTED[role] & {"retry", "cancel", "pause", "run", "purge", "edit", "logs"}


def actions_on(page: Page) -> set[str]:
    """The names of the actions that there are buttons for."""
    found: list[str] = page.evaluate(
        """() => [...document.querySelectorAll('form[method="post"] button')]
            .map((button) => button.hasAttribute("formaction") ? button.formAction : button.form.action)
            .map((action) => new URL(action).pathname)"""
    )
    rules = {
        route.view.__name__: re.compile("/spool" + re.sub("<[^>]*>", "[^/]+", route.rule))
        for routes in assembled.PAGES
        for route in routes
        if route.methods == ("POST",)
    }
    return {next(name for name, rule in rules.items() if rule.fullmatch(path)) for path in found}


@pytest.mark.matrix
@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
def test_what_a_job_contains_is_text(shop: Shop, jobs: dict[str, str], script: bool) -> None:
    with shop.window(java_script_enabled=script) as window:
        page = window.open(f"/spool/jobs/{jobs['dead']}")
        log = page.locator("pre.log")
        expect(log).to_contain_text("red <script>alert(1)</script>")
        assert "\x1b" not in log.inner_text()
        expect(page.locator("main b, main script")).to_have_count(0)
        expect(page.locator("main")).not_to_contain_text("hunter2")


@pytest.mark.matrix
def test_a_stranger_sees_no_page(shop: Shop, jobs: dict[str, str]) -> None:
    with shop.window("nobody") as window:
        for _, path in paths():
            window.open("/spool" + path.format(**jobs), status=404)
