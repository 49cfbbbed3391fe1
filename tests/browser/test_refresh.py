"""The page refreshes itself, and takes nothing away from whoever uses it; and its keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Request, Response, Route, expect

from .conftest import WITHIN, Shop, Window

pytestmark = pytest.mark.matrix


# Counts what the page asks for.
COUNT = """window.asked = 0;
    const ask = window.fetch;
    window.fetch = (...given) => { window.asked += 1; return ask(...given); };"""


@pytest.fixture
def window(shop: Shop) -> Iterator[Window]:
    with shop.window() as made:
        made.context.add_init_script(COUNT)
        made.page.clock.install()
        yield made


def is_refresh(asked: Request | Route) -> bool:
    request = asked.request if isinstance(asked, Route) else asked
    return "hx-request" in request.headers


def next_refresh(page: Page, status: int | None = None) -> None:
    """Wait for the answer to the next refresh, with this status."""

    def fits(answer: Response) -> bool:
        return is_refresh(answer.request) and status in (None, answer.status)

    with page.expect_response(fits, timeout=WITHIN):
        pass


def hide(page: Page, hidden: bool) -> None:
    """Tell the page that its tab is hidden: a headless browser has no other tabs in front."""
    page.evaluate(
        """(hidden) => {
            Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
            document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def test_a_change_appears_without_a_reload(shop: Shop, window: Window) -> None:
    page = window.open("/spool/jobs?q=task:shop.mail")
    page.evaluate("window.isTheSame = true")
    id = shop.call("mail", "new@example.com")
    row = page.get_by_role("row").filter(has_text=id)
    expect(row.locator(".done")).to_be_visible()
    assert page.evaluate("window.isTheSame")


def test_the_log_and_the_progress_of_a_running_job_are_live(shop: Shop, window: Window) -> None:
    with shop.running("live") as id:
        page = window.open(f"/spool/jobs/{id}")
        expect(page.get_by_role("progressbar").first).to_have_attribute("value", "5")
        expect(page.locator("main")).to_contain_text("report live is half done")
        shop.let_go("live")
        expect(page.locator("main > p .state").first).to_have_text("done")
        expect(page.get_by_role("progressbar")).to_have_count(0)


def test_nothing_is_sent_while_nothing_has_changed(shop: Shop, window: Window) -> None:
    page = window.open("/spool/jobs?q=state:cancelled")
    next_refresh(page, 204)
    next_refresh(page, 204)


def test_what_is_open_stays_open(shop: Shop, window: Window) -> None:
    dead = shop.call_and_wait("load", "no JSON", "dead")
    page = window.open(f"/spool/jobs/{dead}")
    details = page.locator("main details").first
    details.locator("summary").click()
    expect(details).to_have_attribute("open", "")
    page.evaluate("window.isTheSame = true")
    shop.call_and_wait("mail", "other@example.com", "done")
    next_refresh(page, 200)
    next_refresh(page, 204)  # by now the one before has been shown
    expect(details).to_have_attribute("open", "")
    assert page.evaluate("window.isTheSame")


def test_a_refresh_waits_for_a_dialog(shop: Shop, window: Window) -> None:
    page = window.open("/spool/jobs?q=task:shop.mail")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    id = shop.call_and_wait("mail", "during@example.com", "done")
    assert not asks(page)
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("row").filter(has_text=id)).to_be_visible()


def test_a_refresh_waits_for_a_selection(shop: Shop, window: Window) -> None:
    chosen = shop.call_and_wait("mail", "chosen@example.com", "done")
    page = window.open("/spool/jobs?q=task:shop.mail")
    box = page.get_by_role("checkbox", name=f"Select job {chosen}")
    box.check()
    expect(page.get_by_role("status")).to_have_text("Refresh waits while something is selected.")
    id = shop.call_and_wait("mail", "meanwhile@example.com", "done")
    assert not asks(page)
    expect(box).to_be_checked()
    box.uncheck()
    expect(page.get_by_role("row").filter(has_text=id)).to_be_visible()


def test_an_answer_that_comes_after_a_selection_keeps_it(shop: Shop, window: Window) -> None:
    chosen = shop.call_and_wait("mail", "first@example.com", "done")
    page = window.open("/spool/jobs?q=task:shop.mail")
    # No function to wait for: it would be evaluated within the page, which its policy forbids.
    page.evaluate("addEventListener('htmx:finally:request', () => { document.body.dataset.answered = 'yes'; })")
    held: list[Route] = []
    page.route("**/*", lambda route: held.append(route) if is_refresh(route) else route.continue_())
    with page.expect_request(is_refresh, timeout=WITHIN):
        page.clock.run_for(3000)
    box = page.get_by_role("checkbox", name=f"Select job {chosen}")
    box.check()
    shop.call_and_wait("mail", "second@example.com", "done")
    expect(page.locator("body")).not_to_have_attribute("data-answered", "yes")
    held[0].continue_()
    expect(page.locator("body")).to_have_attribute("data-answered", "yes")
    expect(box).to_be_checked()
    page.unroute_all()


def test_a_refresh_keeps_what_is_typed(shop: Shop, window: Window) -> None:
    page = window.open("/spool/jobs")
    page.keyboard.press("/")
    page.keyboard.type("task:shop.m")
    id = shop.call_and_wait("mail", "typing@example.com", "done")
    expect(page.get_by_role("row").filter(has_text=id)).to_be_visible()
    expect(page.locator("#filter")).to_have_value("task:shop.m")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{shop.base}/spool/jobs?q=task%3Ashop.m")


def test_a_hidden_tab_asks_nothing(shop: Shop, window: Window) -> None:
    page = window.open("/spool/jobs?q=task:shop.mail")
    next_refresh(page)
    hide(page, True)
    id = shop.call_and_wait("mail", "hidden@example.com", "done")
    assert not asks(page)
    hide(page, False)
    expect(page.get_by_role("row").filter(has_text=id)).to_be_visible()


def test_a_paused_page_asks_nothing_and_says_so(shop: Shop, window: Window) -> None:
    page = window.open("/spool/jobs?q=task:shop.mail")
    page.get_by_role("button", name="Pause refresh").click()
    expect(page.get_by_role("status")).to_have_text("Refresh is paused.")
    page.reload()  # it stays paused
    expect(page.get_by_role("button", name="Resume refresh")).to_be_visible()
    id = shop.call_and_wait("mail", "paused@example.com", "done")
    assert not asks(page)
    page.get_by_role("button", name="Resume refresh").click()
    expect(page.get_by_role("row").filter(has_text=id)).to_be_visible()


def asks(page: Page) -> bool:
    """Whether the page asks for anything within a time that is five intervals of the refresh for it."""
    before = page.evaluate("window.asked")
    page.clock.run_for(10_000)
    return bool(page.evaluate("window.asked") != before)


# Keys


def test_keys_go_through_the_rows_select_and_open(shop: Shop, window: Window) -> None:
    for word in ("a", "b", "c"):
        shop.call_and_wait("mail", f"{word}@example.com", "done")
    page = window.open("/spool/jobs?q=task:shop.mail")
    rows = page.locator("tr[data-row]")
    for key, row in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        expect(rows.nth(row).get_by_role("link")).to_be_focused()
    page.keyboard.press("x")
    expect(rows.nth(1).get_by_role("checkbox")).to_be_checked()
    expect(rows.get_by_role("checkbox", checked=True)).to_have_count(1)
    page.keyboard.press("x")
    expect(rows.get_by_role("checkbox", checked=True)).to_have_count(0)


def test_enter_opens_the_row(shop: Shop, window: Window) -> None:
    id = shop.call_and_wait("mail", "enter@example.com", "done")
    page = window.open("/spool/jobs?q=task:shop.mail")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{shop.base}/spool/jobs/{id}")


def test_r_retries(shop: Shop, window: Window) -> None:
    id = shop.call_and_wait("charge", 81, "dead")
    page = window.open(f"/spool/jobs/{id}")
    page.keyboard.press("r")
    expect(page.get_by_role("table", name="What happened to the job")).to_contain_text("retried by all")


def test_keys_are_letters_where_somebody_types(shop: Shop, window: Window) -> None:
    page = window.open("/spool/jobs")
    page.keyboard.press("/")
    page.keyboard.type("?jkx")
    expect(page.locator("#filter")).to_have_value("?jkx")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_list_of_keys_is_closed_by_its_button_and_by_escape(shop: Shop, window: Window) -> None:
    page = window.open("/spool/")
    for close in ("Escape", "Enter"):
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press(close)
        expect(page.get_by_role("dialog")).to_have_count(0)
