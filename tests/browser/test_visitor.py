"""The progress bar of a visitor, in a real browser, on a page with a strict policy and in the application itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from uwsgi_server import UwsgiServer

from .conftest import Shop

pytestmark = pytest.mark.matrix

INI = Path(__file__).parents[2] / "uwsgi.ini"


def test_the_bar_moves_to_done(shop: Shop) -> None:
    try:
        with shop.window(viewport={"width": 360, "height": 740}) as window:
            page = window.open("/visitor/report?word=bar")
            expect(page.get_by_role("status")).to_have_text("Report: running")
            expect(page.get_by_role("progressbar")).to_have_attribute("value", "5")
            expect(page.get_by_text("5 of 10 rows")).to_be_visible()
            assert window.is_too_wide() <= 0
            assert window.axe() == []
            shop.let_go("bar")
            expect(page.get_by_role("status")).to_have_text("Report: done")
            page.get_by_role("link", name="The result").click()
            expect(page).to_have_title("The result")
    finally:
        shop.let_go("bar")


def test_the_bar_says_that_a_job_failed_and_not_why(shop: Shop) -> None:
    with shop.window() as window:
        page = window.open("/visitor/charge?word=91")
        expect(page.get_by_role("status")).to_have_text("Report: failed")
        assert "refused" not in page.content()


def test_without_javascript_a_page_loads_itself_again(shop: Shop) -> None:
    try:
        with shop.window(java_script_enabled=False) as window:
            page = window.open("/visitor/report?word=plain")
            page.get_by_role("link", name="Report").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("Report: running")
            shop.let_go("plain")
            expect(page.get_by_role("heading", level=1)).to_have_text("Report: done")
            page.get_by_role("link", name="The result").click()
            expect(page).to_have_title("The result")
    finally:
        shop.let_go("plain")


@pytest.fixture(scope="module")
def application(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The application at the top of the repository."""
    folder = tmp_path_factory.mktemp("application")
    with UwsgiServer(folder, ini=INI, env={"SPOOLKIT_DASHBOARD_PASSWORD": "xyzzy"}) as server:
        yield Shop(browser, server, folder)


def test_the_application_shows_a_browser_the_bar(application: Shop) -> None:
    with application.window() as window:
        page = window.page
        page.goto(f"{application.base}/uwsgi_spool/2")
        expect(page.get_by_role("status")).to_have_text("Counting seconds: done")
        window.complaints[:] = [text for text in window.complaints if "favicon" not in text]


def test_the_application_asks_for_a_password(application: Shop) -> None:
    with application.window(http_credentials={"username": "anna", "password": "xyzzy"}) as window:
        page = window.open("/spool/")
        expect(page.get_by_role("banner")).to_contain_text("anna")
