"""What is done on the page, in a real browser, with and without JavaScript; and what is refused there."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from .conftest import Shop, Window

pytestmark = pytest.mark.matrix


@pytest.fixture(params=[True, False], ids=["script", "no script"])
def script(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def state_on(page: Page, state: str) -> None:
    """See that the page of a job says its state; a page without JavaScript is loaded again until it does."""
    expect(page.locator("main > p .state").first).to_have_text(state)


def timeline(page: Page) -> object:
    return page.get_by_role("table", name="What happened to the job")


def test_a_dead_job_is_retried(shop: Shop, script: bool) -> None:
    id = shop.call_and_wait("charge", 11, "dead")
    with shop.window(java_script_enabled=script) as window:
        page = window.open(f"/spool/jobs/{id}")
        window.press("Retry")
        expect(timeline(page)).to_contain_text("retried by all")  # the name of the user
        assert page.url.endswith(f"/spool/jobs/{id}")
    shop.wait(id, "dead")


def test_a_waiting_job_is_made_due_now(shop: Shop, script: bool) -> None:
    id = shop.call("later", "now", delay=90000)
    with shop.window(java_script_enabled=script) as window:
        page = window.open(f"/spool/jobs/{id}")
        state_on(page, "queued")
        window.press("Run now")
        expect(page.get_by_role("heading", level=1)).to_have_text("shop.later")
        shop.wait(id, "done")
        page.reload()
        state_on(page, "done")
        expect(timeline(page)).to_contain_text("by all")


def test_a_waiting_job_is_cancelled_and_deleted(shop: Shop, script: bool) -> None:
    id = shop.call("later", "never", delay=90000)
    with shop.window(java_script_enabled=script) as window:
        page = window.open(f"/spool/jobs/{id}")
        window.press("Cancel")
        expect(page.get_by_role("heading", level=1)).to_have_text(f"Cancel job {id}?")
        assert shop.state(id) == "queued"  # nothing is done before it is confirmed
        window.press("Cancel it")
        state_on(page, "cancelled")
        window.press("Delete")
        window.press("Delete it")
        expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
        assert shop.server.get(f"/jobs/{id}").status == 404


def test_a_running_job_is_asked_where_it_is_and_killed(shop: Shop, script: bool) -> None:
    name = f"killed-{script}"
    with shop.running(name) as id, shop.window(java_script_enabled=script) as window:
        page = window.open(f"/spool/jobs/{id}")
        window.press("Where is it now?")
        expect(page.locator("main pre").first).to_contain_text("_held")
        page.go_back()
        window.press("Kill its process")
        window.press("Kill it")
        shop.wait(id, "cancelled")
        page.goto(f"{shop.base}/spool/jobs/{id}")
        state_on(page, "cancelled")


def test_a_job_is_edited_and_run_again(shop: Shop, script: bool) -> None:
    id = shop.call_and_wait("mail", "nobody@example.com", "done")
    with shop.window(java_script_enabled=script) as window:
        page = window.open(f"/spool/jobs/{id}")
        with page.expect_navigation():
            page.get_by_role("link", name="Edit and run again").click()
        field = page.get_by_label("address")
        expect(field).to_have_value('"nobody@example.com"')
        field.fill("no JSON")
        window.press("Run as a new job")
        expect(page.get_by_role("alert").first).to_be_visible()
        expect(field).to_have_value("no JSON")
        window.complaints.clear()  # the browser says that the status was 400
        field.fill('"somebody@example.com"')
        window.press("Run as a new job")
        expect(page.locator("#call")).to_contain_text("somebody@example.com")
        new = page.url.rpartition("/")[2]
        assert new != id
        shop.wait(new, "done")
        assert shop.state(id) == "done"


def test_a_secret_argument_is_not_in_the_form_and_is_kept(shop: Shop) -> None:
    id = shop.call_and_wait("charge", 21, "dead")
    with shop.window() as window:
        page = window.open(f"/spool/jobs/{id}/edit")
        expect(page.get_by_label("order")).to_have_value("21")
        expect(page.get_by_label("password")).to_have_value("")
        assert "hunter2" not in page.content()


def test_selected_jobs_are_retried(shop: Shop, script: bool) -> None:
    ids = [shop.call_and_wait("charge", number, "dead") for number in (31, 32, 33)]
    with shop.window(java_script_enabled=script) as window:
        page = window.open("/spool/jobs?q=state:dead")
        for id in ids[:2]:
            page.get_by_role("checkbox", name=f"Select job {id}").check()
        window.press("Retry selected…")
        expect(page.get_by_role("heading", level=1)).to_have_text("Retry: 2 jobs?")
        window.press("Retry 2 jobs")
        expect(page.get_by_role("heading", level=1)).to_have_text("2 jobs retried")
        page.goto(f"{shop.base}/spool/jobs/{ids[0]}")
        expect(timeline(page)).to_contain_text("retried by all")
        page.goto(f"{shop.base}/spool/jobs/{ids[2]}")
        expect(timeline(page)).not_to_contain_text("retried by all")


def test_all_jobs_that_match_are_deleted(shop: Shop, script: bool) -> None:
    ids = [shop.call("later", word, delay=90000) for word in ("one", "two")]
    with shop.window(java_script_enabled=script) as window:
        page = window.open("/spool/jobs?q=task:shop.later%20state:queued")
        window.press("Cancel all 2…")
        window.press("Cancel 2 jobs")
        expect(page.get_by_role("heading", level=1)).to_contain_text("2 jobs")
    assert [shop.state(id) for id in ids] == ["cancelled", "cancelled"]


def test_a_group_of_dead_jobs_is_retried(shop: Shop, script: bool) -> None:
    id = shop.call_and_wait("charge", 41, "dead")
    with shop.window(java_script_enabled=script) as window:
        page = window.open("/spool/dead")
        with page.expect_navigation():
            page.locator("tr[data-row] a").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("shop.charge: ValueError")
        with page.expect_navigation():
            page.locator("main .actions button").first.click()
        with page.expect_navigation():
            page.locator("main form button").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("retried")
        page.goto(f"{shop.base}/spool/jobs/{id}")
        expect(timeline(page)).to_contain_text("retried by all")


@pytest.mark.parametrize(
    ("path", "row"),
    [("/spool/queues", "tr[data-row]"), ("/spool/tasks", "tr[data-row]"), ("/spool/periodic", "section[data-row]")],
)
def test_what_runs_is_paused_and_resumed(shop: Shop, script: bool, path: str, row: str) -> None:
    with shop.window(java_script_enabled=script) as window:
        page = window.open(path)
        window.press("Pause")
        expect(page.locator(row).first.locator(".paused")).to_have_text("paused")
        window.press("Resume")
        expect(page.locator(row).first.locator(".paused")).to_have_count(0)


def test_a_schedule_runs_now(shop: Shop, script: bool) -> None:
    with shop.window(java_script_enabled=script) as window:
        page = window.open("/spool/periodic")
        window.press("Run now")
        expect(page.get_by_role("heading", level=1)).to_have_text("shop.nightly")
        shop.wait(page.url.rpartition("/")[2], "done")


def test_what_a_role_may_not_do_is_refused_by_the_action(shop: Shop) -> None:
    id = shop.call_and_wait("charge", 51, "dead")
    with shop.window("logs") as window:
        window.open(f"/spool/jobs/{id}")
        for action in ("retry", "cancel", "run", "purge", "run-again"):
            assert post(window, f"/spool/jobs/{id}/{action}") == 403, action
        for path in ("/jobs/retry", "/jobs/purge", "/queues/pause", "/tasks/pause", "/periodic/run"):
            assert post(window, f"/spool{path}") == 403, path
        window.complaints.clear()  # the browser says what the statuses were
    assert shop.state(id) == "dead"


def post(window: Window, path: str) -> int:
    """The status of what a script of the page sends."""
    status: int = window.page.evaluate("async (path) => (await fetch(path, {method: 'POST'})).status", path)
    return status


def test_a_form_of_another_site_is_refused(shop: Shop, script: bool) -> None:
    id = shop.call_and_wait("charge", 61, "dead")
    with shop.window(java_script_enabled=script) as window:
        # The cookie is sent along: the browser takes two ports or names of this machine for one site.
        window.context.add_cookies([{"name": "role", "value": "all", "url": shop.base, "sameSite": "Lax"}])
        other = shop.base.replace("127.0.0.1", "localhost")
        page = window.page
        page.goto(f"{other}/forger?action={shop.base}/spool/jobs/{id}/retry")
        with page.expect_navigation() as sent:
            page.get_by_role("button", name="Win a prize").click()
        assert sent.value.status in (403, 404)  # without the cookie the page is a 404
        window.complaints.clear()
    assert shop.state(id) == "dead"
