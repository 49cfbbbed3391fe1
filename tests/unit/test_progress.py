"""The progress bar of a visitor: what it shows, to whom, and that a site needs one line for it."""

from __future__ import annotations

import inspect
import os
import re
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from flask import Flask, render_template_string
from flask.testing import FlaskClient
from markupsafe import escape

from spoolkit import ArgumentError, SpoolKit, SpoolUnavailableError, application, current_job, registry, spool
from spoolkit.job import State
from spoolkit.spooldir import signing
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations
from spoolkit.system import clock, files
from spoolkit.visitor import blueprint, links
from spoolkit.visitor.element import job_progress

DOCS = (Path(__file__).parents[2] / "docs" / "progress.md").read_text()
STATE_URL = re.compile(r'data-url="([^"]+)"')
PAGE_URL = re.compile(r'<a href="([^"]+)">')
SCRIPT_URL = re.compile(r'<script src="([^"]+)"')


@spool(retries=0)
def export(user: str) -> str:
    current_job().progress(2, 5, "<b>rows</b>")
    if user == "nobody":
        raise ValueError("a secret of the site")
    return "a secret result"


@spool(retries=0)
def names_a_file() -> None:
    current_job().progress(1, 2, os.fsdecode(b"caf\xe9.txt"))
    raise OSError


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Flask]:
    app = made(tmp_path, SECRET_KEY="a secret of this test")
    with app.app_context():
        yield app
        locations.store().close()


def made(folder: Path, **config: Any) -> Flask:
    app = Flask("the_application", root_path=str(folder))
    app.config.update(SPOOLKIT_SPOOL=folder / "spool", **config)
    SpoolKit(app)
    (folder / "spool").mkdir(mode=0o700, exist_ok=True)
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def html_of(job: Any, app: Flask, **options: Any) -> str:
    with app.test_request_context():
        return render_template_string("{{ job_progress(job, **options) }}", job=job, options=options)


def state_url(job: Any, app: Flask, **options: Any) -> str:
    return STATE_URL.findall(html_of(job, app, **options))[0]


def page_url(job: Any, app: Flask, **options: Any) -> str:
    return PAGE_URL.findall(html_of(job, app, **options))[0]


def template(name: str) -> str:
    return Path(blueprint.__file__).with_name("templates").joinpath("spoolkit", name).read_text()


def run_all() -> None:
    Spooler(application.settings().spool).run_due()


def test_the_line_of_the_page_is_all_that_a_site_needs(app: Flask, client: FlaskClient) -> None:
    [snippet] = re.findall(r"```html\+jinja\n(.*?)```", DOCS, re.DOTALL)
    app.add_url_rule("/download", "download", lambda: "")
    with app.test_request_context():
        html = render_template_string(snippet, job=export("somebody"))
    run_all()
    answer = client.get(STATE_URL.findall(html)[0])
    assert answer.get_json() == {
        "state": "done",
        "progress": {"done": 2, "total": 5, "note": "<b>rows</b>"},
        "result_url": "/download",
    }
    assert "Your export" in html


@pytest.mark.parametrize(("user", "state"), [("somebody", "done"), ("nobody", "dead")])
def test_the_answer_has_the_state_and_the_progress_and_nothing_else(
    app: Flask, client: FlaskClient, user: str, state: str
) -> None:
    job = export(user)
    url, page = state_url(job, app), page_url(job, app)
    assert client.get(url).get_json() == {"state": "queued", "progress": None}
    run_all()
    answer, html = client.get(url), client.get(page)
    assert answer.get_json() == {"state": state, "progress": {"done": 2, "total": 5, "note": "<b>rows</b>"}}
    for text in (answer.text, html.text):
        assert "secret" not in text
        assert "somebody" not in text
        assert "ValueError" not in text


def test_the_result_is_linked_once_the_job_is_done(app: Flask, client: FlaskClient) -> None:
    done, dead = export("somebody"), export("nobody")
    for job in (done, dead):
        assert "result_url" not in client.get(state_url(job, app, result_url="/exports/5?a=1&b=2")).get_json()
        assert "/exports/5" not in client.get(page_url(job, app, result_url="/exports/5?a=1&b=2")).text
    run_all()
    assert (
        client.get(state_url(done, app, result_url="/exports/5?a=1&b=2")).get_json()["result_url"]
        == "/exports/5?a=1&b=2"
    )
    assert 'href="/exports/5?a=1&amp;b=2"' in client.get(page_url(done, app, result_url="/exports/5?a=1&b=2")).text
    assert "result_url" not in client.get(state_url(dead, app, result_url="/exports/5")).get_json()


def test_without_javascript_a_page_is_loaded_again_until_the_job_is_finished(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = export("somebody")
    url = page_url(job, app, label="Your <export>")
    assert client.get(url).headers["Refresh"] == "2"
    assert "Your &lt;export&gt;: waiting" in client.get(url).text
    now = clock.now()
    for age, seconds in ((100, "10"), (3000, "30")):
        monkeypatch.setattr(clock, "now", lambda age=age: now + age)
        assert client.get(url).headers["Refresh"] == seconds
    monkeypatch.undo()
    run_all()
    answer = client.get(url)
    assert "Refresh" not in answer.headers
    assert "Your &lt;export&gt;: done" in answer.text
    assert "&lt;b&gt;rows&lt;/b&gt;" in answer.text


def test_the_page_shows_how_far_a_running_job_is(app: Flask, client: FlaskClient) -> None:
    seen: list[Any] = []
    urls: list[str] = []

    @spool(name="shop.looks")
    def looks() -> None:
        current_job().progress(2, 5, "rows")
        seen.extend((client.get(urls[0]).text, client.get(urls[1]).get_json()))

    try:
        job = looks()
        urls += page_url(job, app), state_url(job, app)
        run_all()
    finally:
        registry.this_process.tasks.pop("shop.looks")
    assert '<progress aria-label="Progress" max="5" value="2"></progress>\n2 of 5' in seen[0]
    assert seen[1] == {"state": "running", "progress": {"done": 2, "total": 5, "note": "rows"}}


def bodies(client: FlaskClient, *urls: str) -> set[tuple[int, str]]:
    answers = [client.get(url) for url in urls]
    return {(answer.status_code, answer.text) for answer in answers}


def test_a_note_that_is_not_utf8_is_shown(app: Flask, client: FlaskClient) -> None:
    job = names_a_file()
    run_all()
    assert client.get(state_url(job, app)).get_json()["progress"]["note"] == "caf\udce9.txt"
    assert "caf\\udce9.txt" in client.get(page_url(job, app)).text


def test_a_link_that_is_not_valid_does_not_tell_whether_there_is_such_a_job(app: Flask, client: FlaskClient) -> None:
    job, unknown = export("somebody"), "0" * 32
    for make in (state_url, page_url):
        valid = make(job, app)
        token = valid.split("/")[3]
        middle = len(token) // 2
        other = "A" if token[middle] != "A" else "B"
        forged = [
            valid.replace(token, wrong) for wrong in (token[:-1], f"{token[:middle]}{other}{token[middle + 1 :]}", "x")
        ]
        [(code, _)] = bodies(client, *forged, make(unknown, app))
        assert code == 404
        [(code, _)] = bodies(client, make(job, app, expires=0), make(unknown, app, expires=0))
        assert code == 410
        assert client.get(valid).status_code == 200


@pytest.mark.parametrize("expires", [3600, timedelta(hours=1), "aware"])
def test_a_link_expires(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch, expires: Any) -> None:
    now = clock.now()
    if expires == "aware":
        expires = datetime.fromtimestamp(now + 3600).astimezone()
    url = state_url(export("somebody"), app, expires=expires)
    for age, code in ((3500, 200), (3700, 410)):
        monkeypatch.setattr(clock, "now", lambda age=age: now + age)
        assert client.get(url).status_code == code


def test_no_answer_is_kept_or_handed_on(app: Flask, client: FlaskClient) -> None:
    job = export("somebody")
    for url in (state_url(job, app), page_url(job, app), page_url(job, app, expires=0), "/_spoolkit/progress/x/state"):
        headers = client.get(url).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert client.post(url).status_code == 405


def test_a_broken_store_is_no_missing_job(app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(id: str) -> None:
        raise SpoolUnavailableError("gone")

    url = state_url(export("somebody"), app)
    monkeypatch.setattr(blueprint.lookup, "find", unavailable)
    assert client.get(url).status_code == 503


def test_the_html_works_under_a_strict_policy(app: Flask, client: FlaskClient) -> None:
    job = export("somebody")
    html = html_of(job, app, label='"><script>alert(1)</script>', nonce='n"1') + html_of(job, app)
    assert len(STATE_URL.findall(html)) == 2
    assert "alert(1)</script>" not in html
    assert "style" not in html
    assert not re.search(r"\son\w+=", html)
    assert html.count("<script ") == html.count("</script>") == html.count("defer") == 2
    assert html.count('nonce="n&#34;1"') == 1
    for page in (html, client.get(page_url(job, app)).text):
        assert re.findall(r"<script(?![^>]* src=)", page) == []
    assert html.count('role="status"') == 2
    assert f'aria-label="{escape(chr(34))}&gt;' in html


def test_browsers_keep_the_script_of_this_version_only(app: Flask, client: FlaskClient) -> None:
    [url] = SCRIPT_URL.findall(html_of(export("somebody"), app))
    answer = client.get(url)
    assert (answer.mimetype, answer.data) == ("text/javascript", blueprint.SCRIPT)
    assert "immutable" in answer.headers["Cache-Control"]
    other = client.get(url.replace(blueprint.VERSION, "0" * 12))
    assert (other.data, other.headers["Cache-Control"]) == (blueprint.SCRIPT, "no-store")


def test_it_works_behind_a_prefix(app: Flask) -> None:
    job = export("somebody")
    with app.test_request_context(base_url="http://shop.example/under/it"):
        html = str(job_progress(job.id))
    for url in (*STATE_URL.findall(html), *PAGE_URL.findall(html), *SCRIPT_URL.findall(html)):
        assert url.startswith("/under/it/_spoolkit/progress")


@pytest.mark.parametrize(
    "options",
    [
        {"result_url": "javascript:alert(1)"},
        {"result_url": "java\nscript:alert(1)"},
        {"result_url": " javascript:alert(1)"},
        {"result_url": "data:text/html,x"},
        {"result_url": "http://[x"},
        {"result_url": "/" * 3000},
        {"result_url": ""},
        {"result_url": 5},
        {"label": ""},
        {"label": "x" * 300},
        {"expires": -1},
        {"expires": "1h"},
    ],
)
def test_what_cannot_be_used_is_refused(app: Flask, options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        html_of("0" * 32, app, **options)


@pytest.mark.parametrize(
    "url", ["/a", "a/b?c=d:e", "https://example.org/a", "HTTP://example.org", "//example.org/x", "?a"]
)
def test_a_path_and_a_url_of_the_web_are_accepted(url: str) -> None:
    assert links.check_url(url) == url


def test_keys_of_earlier_days_are_read(app: Flask, client: FlaskClient) -> None:
    url = state_url(export("somebody"), app)
    app.config.update(SECRET_KEY="another one")
    assert client.get(url).status_code == 404
    app.config.update(SECRET_KEY_FALLBACKS=["the oldest one", "a secret of this test"])
    assert client.get(url).status_code == 200
    newer = state_url("0" * 32, app).split("/")[3]
    app.config.update(SECRET_KEY_FALLBACKS=None)
    assert links.read(newer, app) is not None


def test_a_key_that_is_a_number_is_not_taken_for_zeros(tmp_path: Path) -> None:
    app = made(tmp_path, SECRET_KEY=42)
    with app.app_context():
        forged = links._serializer([bytes(42)]).dumps(["0" * 32, 2e9, "Progress", None])
        assert links.read(str(forged), app) is None
        link = links.Link("0" * 32, 2e9, "Progress")
        known = links.read(links.sign(link, app), app)
    assert known is not None
    assert known[0] == link


def test_a_site_without_a_secret_key_has_one_in_its_spool_directory(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path)
    with second.app_context():
        assert second.test_client().get("/_spoolkit/progress/x.y.z").status_code == 404
        assert not (tmp_path / "spool" / "signing").exists(), "a stranger had it made"
    with first.app_context():
        job = export("somebody")
        url = state_url(job, first)
        assert first.test_client().get(url).status_code == 200
    with second.app_context():
        assert second.test_client().get(url).status_code == 200
        key = tmp_path / "spool" / "signing" / "key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700
        assert os.listdir(key.parent) == ["key"]
        key.unlink()
        assert second.test_client().get(url).status_code == 404
        locations.store().close()


def test_of_several_that_make_the_key_at_once_one_counts(tmp_path: Path) -> None:
    barrier = Barrier(8, timeout=60)

    def make(number: int) -> bytes:
        barrier.wait(60)
        return files.write_once(str(tmp_path / "key"), f"{number}".encode())

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(make, range(8)))
    assert found == {(tmp_path / "key").read_bytes()}
    assert os.listdir(tmp_path) == ["key"]


def test_a_key_counts_whose_maker_was_killed_before_it_removed_the_other_name(tmp_path: Path) -> None:
    app = made(tmp_path)
    folder = tmp_path / "spool" / "signing"
    with app.app_context():
        url = state_url(export("somebody"), app)
        other = folder / "key.123-456.new"
        other.hardlink_to(folder / "key")
        assert app.test_client().get(url).status_code == 200
        assert links.read(state_url("0" * 32, app).split("/")[3], app) is not None
        os.utime(other)
        files.sweep(str(folder))
        assert other.exists(), "its maker may be alive"
        locations.store().close()


@pytest.mark.parametrize("in_the_way", ["signing", "signing/key"])
def test_a_key_that_cannot_be_made_says_what_to_do(tmp_path: Path, in_the_way: str) -> None:
    app, place = made(tmp_path), tmp_path / "spool" / in_the_way
    if in_the_way == "signing":
        place.write_text("")
    else:
        place.parent.mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").write_text("x" * 64)
    with app.app_context(), pytest.raises(SpoolUnavailableError, match="Give the site a SECRET_KEY"):
        html_of("0" * 32, app)
    assert signing.read(str(tmp_path / "spool")) is None


def test_a_site_may_have_its_own_words(tmp_path: Path) -> None:
    own = tmp_path / "templates" / "spoolkit"
    own.mkdir(parents=True)
    (own / "progress_page.html").write_text("{{ label }} ist {{ {'queued': 'noch nicht dran'}[state] }}")
    app = made(tmp_path, SECRET_KEY="x")
    with app.app_context():
        url = page_url(export("somebody"), app, label="Der Export")
        assert app.test_client().get(url).text == "Der Export ist noch nicht dran"


def test_the_options_of_the_sites_templates_stay_its_own(tmp_path: Path) -> None:
    before, after = Flask("one", root_path=str(tmp_path)), Flask("two", root_path=str(tmp_path))
    before.jinja_env.globals["x"] = 5
    for app in (before, after):
        app.config.update(SPOOLKIT_SPOOL=tmp_path / "spool")
        SpoolKit(app)
    after.jinja_options["trim_blocks"] = True
    assert before.jinja_env.globals["job_progress"] is after.jinja_env.globals["job_progress"] is job_progress
    assert (before.jinja_env.globals["x"], after.jinja_env.trim_blocks) == (5, True)
    assert Flask.jinja_options == {}


def test_a_macro_of_another_file_has_the_bar(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "macros.html").write_text("{% macro bar(job) %}{{ job_progress(job) }}{% endmacro %}")
    app = made(tmp_path, SECRET_KEY="x")
    with app.test_request_context():
        html = render_template_string("{% import 'macros.html' as macros %}{{ macros.bar('0' * 32) }}")
    assert html.count("<progress") == 1


def test_an_application_may_be_initialised_twice(app: Flask) -> None:
    SpoolKit(app)
    assert [rule.rule for rule in app.url_map.iter_rules() if "_spoolkit" in rule.rule] == [
        "/_spoolkit/progress/<token>/state",
        "/_spoolkit/progress/<token>",
        "/_spoolkit/progress-<version>.js",
    ]


@pytest.mark.parametrize("state", list(State))
def test_the_element_and_the_page_have_words_for_each_state(app: Flask, state: State) -> None:
    assert f'data-{state}="' in html_of("0" * 32, app)
    assert f'"{state}": "' in template("progress_page.html")


def test_the_words_of_the_page_are_those_of_the_element() -> None:
    in_element = dict(re.findall(r'data-([a-z]+)="([^"{]+)"', template("progress.html")))
    in_page = dict(re.findall(r'"([a-z]+)":\s+"([^"]+)"', template("progress_page.html")))
    del in_element["gone"]
    assert in_page == in_element


def test_the_page_of_the_docs_says_how_the_function_is_called() -> None:
    [call] = re.findall(r"^`job_progress(\(.*\))`$", DOCS, re.MULTILINE)
    parameters = inspect.signature(job_progress).parameters.values()
    assert (
        call
        == "("
        + ", ".join(
            ["job", "*", *(f"{one.name}={one.default!r}".replace("'", '"') for one in parameters if one.name != "job")]
        )
        + ")"
    )
