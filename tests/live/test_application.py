"""The application at the top of the repository, by its own ``uwsgi.ini``."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from sampling import sampled
from uwsgi_server import UwsgiServer, wait_until

from .conftest import PROJECT

INI = PROJECT / "uwsgi.ini"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UwsgiServer]:
    env = {"SPOOLKIT_DASHBOARD_PASSWORD": "xyzzy"}
    with UwsgiServer(tmp_path_factory.mktemp("application"), ini=INI, env=env) as server:
        yield server


@pytest.fixture(scope="module")
def unused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UwsgiServer]:
    """A site that accepts no work from any test: that of an earlier test would be taken for work of this one."""
    with UwsgiServer(tmp_path_factory.mktemp("unused"), ini=INI) as server:
        yield server


@pytest.mark.parametrize("verb", ["get", "post"])
@pytest.mark.parametrize(
    ("path", "keys", "printed"),
    [
        ("/1", {"thread_name", "started"}, r"Working\.\.\. 1/1"),
        ("/uwsgi_thread/1", {"started", "job"}, r"Working in uwsgi thread\.\.\. 1/1"),
        ("/uwsgi_spool/1", {"started", "job", "run_at"}, r"Working in uwsgi spool\.\.\. 1/1"),
        ("/uwsgi_tasks/1", {"started"}, r"Working in uwsgi tasks\.\.\. 1/1"),
    ],
)
def test_each_route_starts_its_work(site: UwsgiServer, verb: str, path: str, keys: set[str], printed: str) -> None:
    before = site.log().count(printed.replace("\\", ""))
    answer = getattr(site, verb)(path)
    assert answer.status == 200
    assert set(answer.json) == keys
    assert answer.json["started"] is True
    wait_until(lambda: site.log().count(printed.replace("\\", "")) > before, message=lambda: site.log()[-2000:])


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accepted", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("text/html, application/json", "application/json"),
        ("text/*, application/json;q=0.9", "text/html; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        (BROWSER, "text/html; charset=utf-8"),
    ],
)
def test_the_spool_route_answers_html_to_those_who_prefer_it(
    site: UwsgiServer, accepted: str | None, kind: str
) -> None:
    answer = site.request("GET", "/uwsgi_spool/0", headers={"Accept": accepted} if accepted else {})
    assert (answer.status, answer.headers["Content-Type"]) == (200, kind)
    assert ("<progress" in answer.text) == (kind != "application/json")


def test_a_browser_sees_the_progress_of_the_job_until_it_is_done(site: UwsgiServer) -> None:
    html = site.request("GET", "/uwsgi_spool/1", headers={"Accept": BROWSER}).text
    [state] = re.findall(r'data-url="([^"]+)"', html)
    [page] = re.findall(r'<a href="([^"]+)">', html)
    [script] = re.findall(r'<script src="([^"]+)"', html)
    assert "customElements" in site.get(script).text
    wait_until(lambda: site.get(state).json["state"] == "done", timeout=60)
    assert site.get(state).json["progress"] == {"done": 1, "total": 1, "note": "seconds"}
    assert "Counting seconds: done" in site.get(page).text


@pytest.mark.parametrize("path", ["/", "/uwsgi_thread/", "/uwsgi_spool/", "/uwsgi_tasks/"])
def test_a_duration_equal_to_the_default_is_accepted(site: UwsgiServer, path: str) -> None:
    answer = site.get(f"{path}5")
    assert answer.status == 200, "Flask redirects from there, where the value stands in defaults="
    assert answer.json["started"] is True


@pytest.mark.parametrize("path", ["/", "/uwsgi_thread", "/uwsgi_spool", "/uwsgi_tasks"])
def test_the_default_duration_is_five_seconds(site: UwsgiServer, path: str) -> None:
    counts = {"/": "Working", "/uwsgi_thread": "Working in uwsgi thread"}
    printed = f"{counts.get(path, 'Working in uwsgi ' + path.removeprefix('/uwsgi_'))}... 1/5"
    before = site.log().count(printed)
    assert site.get(path).status == 200
    wait_until(lambda: site.log().count(printed) > before, message=lambda: site.log()[-2000:], timeout=60)


def test_the_answer_contains_job_and_run_at(site: UwsgiServer) -> None:
    now = time.time()
    assert site.get("/uwsgi_spool/1").json["run_at"] is None
    delayed = site.get("/uwsgi_spool/1?delay=2").json
    assert now + 2 <= delayed["run_at"] <= time.time() + 2
    at = site.get(f"/uwsgi_spool/1?at={now + 100:.3f}").json
    assert at["run_at"] == pytest.approx(now + 100, abs=0.001)
    assert len(at["job"]) == 32
    assert at["job"] > delayed["job"], "ids sort by time"


def jobs_of(site: UwsgiServer) -> set[str]:
    """The names of the spool files, those of delayed jobs among them."""
    folders = (site.spool, site.spool / "later")
    names = [name for folder in folders if folder.exists() for name in os.listdir(folder)]
    return {name for name in names if name.startswith("uwsgi_")}


BAD = [
    ("/3601", "duration"),
    ("/uwsgi_thread/3601", "duration"),
    ("/uwsgi_spool/3601", "duration"),
    ("/uwsgi_tasks/99999999999999999999", "duration"),
    ("/uwsgi_spool/1?at=tomorrow", "at"),
    ("/uwsgi_spool/1?at=", "at"),
    ("/uwsgi_spool/1?at=-5", "at"),
    ("/uwsgi_spool/1?at=nan", "at"),
    ("/uwsgi_spool/1?at=1e9", "at"),
    ("/uwsgi_spool/1?at=1790000000000", "at"),
    ("/uwsgi_spool/1?delay=soon", "delay"),
    ("/uwsgi_spool/1?delay=-1", "delay"),
    ("/uwsgi_spool/1?delay=inf", "delay"),
    ("/uwsgi_spool/1?delay=999999999", "delay"),
    ("/uwsgi_spool/1?delay=1&at=1790000000", "delay"),
    ("/uwsgi_spool/1?delay=1&delay=600", "delay"),
    ("/uwsgi_spool/1?dely=1", "dely"),
]


@pytest.mark.parametrize(("path", "argument"), BAD)
def test_bad_input_is_a_400_that_names_the_argument(unused: UwsgiServer, path: str, argument: str) -> None:
    answer = unused.get(path)
    assert answer.status == 400
    error = answer.json["error"]
    assert set(error) == {"type", "message", "argument"}
    assert error["argument"] == argument
    assert argument in error["message"]
    assert jobs_of(unused) == set()


def test_the_example_of_an_error_in_the_readme_is_the_answer(site: UwsgiServer) -> None:
    readme = (PROJECT / "README.md").read_text()
    asked, answered = re.search(r"\$ curl 'http://127.0.0.1:5000(.*)'\n(.*)\n", readme).groups()  # type: ignore[union-attr]
    assert site.get(asked).text.strip() == answered


@pytest.mark.parametrize("path", ["/", "/1", "/uwsgi_thread/1", "/uwsgi_spool", "/uwsgi_spool/1", "/uwsgi_tasks/1"])
def test_head_answers_as_get_and_starts_nothing(unused: UwsgiServer, path: str) -> None:
    answer = unused.request("HEAD", path)
    assert (answer.status, answer.text, answer.headers["Content-Type"]) == (200, "", "application/json")
    assert unused.get("/nowhere").status == 404  # answered later, so any work that HEAD started has begun
    assert (jobs_of(unused), unused.log().count("... 1/")) == (set(), 0)


@pytest.mark.parametrize(
    ("path", "status"),
    [("/3601", 400), ("/uwsgi_spool/1?at=x", 400), ("/nowhere", 404), ("/jobs/" + "0" * 32, 404), ("/jobs", 404)],
)
def test_head_is_refused_in_the_same_cases_as_get(site: UwsgiServer, path: str, status: int) -> None:
    assert site.request("HEAD", path).status == site.get(path).status == status


def test_a_405_names_the_allowed_methods(site: UwsgiServer) -> None:
    for path in ("/1", "/uwsgi_spool", f"/jobs/{'0' * 32}"):
        answer = site.request("DELETE", path)
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]
        assert answer.json["error"]["type"] == "MethodNotAllowed"


JSON, FORM = "application/json", "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("body", "kind"),
    [('{"delay": 600}', JSON), ('{"delay": "600"}', JSON), ('{"delay": 6e2, "at": null}', JSON), ("delay=600", FORM)],
)
def test_options_may_come_in_the_body(site: UwsgiServer, body: str, kind: str) -> None:
    answer = site.request("POST", "/uwsgi_spool/1", body, {"Content-Type": kind})
    assert answer.status == 200
    assert answer.json["run_at"] == pytest.approx(time.time() + 600, abs=60)


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "names"),
    [
        ("/uwsgi_spool/1", '{"dely": 600}', JSON, 400, "dely"),
        ("/uwsgi_spool/1", '{"delay": 1, "delay": 600}', JSON, 400, "delay"),
        ("/uwsgi_spool/1", '{"delay": true}', JSON, 400, "delay"),
        ("/uwsgi_spool/1", '{"delay": {"s": 1}}', JSON, 400, "delay"),
        ("/uwsgi_spool/1", '{"delay": NaN}', JSON, 400, "delay"),
        ("/uwsgi_spool/1", '{"delay": 1' + "0" * 4000 + "}", JSON, 400, "delay"),
        ("/uwsgi_spool/1", '{"delay": 1' + "0" * 5000 + "}", JSON, 400, None),
        ("/uwsgi_spool/1", '{"delay": ', JSON, 400, None),
        ("/uwsgi_spool/1", "[" * 50000, JSON, 400, None),
        ("/uwsgi_spool/1", "[600]", JSON, 400, None),
        ("/uwsgi_spool/1", "x" * 70000, JSON, 413, None),
        ("/uwsgi_spool/1", "delay=600", "text/plain", 415, None),
        ("/uwsgi_spool/1?at=1790000000", "delay=600", "text/plain", 415, None),
        ("/uwsgi_spool/1?delay=600", "delay=600", FORM, 400, "delay"),
        ("/uwsgi_spool/1?delay=600", '{"delay": 600}', JSON, 400, "delay"),
        ("/uwsgi_thread/1", '{"delay": 600}', JSON, 400, "delay"),
        ("/uwsgi_tasks/1?delay=600", "", FORM, 400, "delay"),
        ("/1", "delay=600", FORM, 400, "delay"),
    ],
)
def test_an_unknown_option_is_refused(
    unused: UwsgiServer, path: str, body: str, kind: str, status: int, names: str | None
) -> None:
    answer = unused.request("POST", path, body, {"Content-Type": kind})
    assert (answer.status, answer.json["error"]["argument"]) == (status, names), answer.text
    assert jobs_of(unused) == set()


def test_the_error_for_a_time_in_milliseconds_says_so(site: UwsgiServer) -> None:
    assert "not milliseconds" in site.get("/uwsgi_spool/1?at=1790000000000").json["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/-1", "/uwsgi_spool/x", "/uwsgi_spool/1.5", "/uwsgi_spool/%D9%A3", "/" + "9" * 500]
)
def test_a_404_is_json(site: UwsgiServer, path: str) -> None:
    answer = site.get(path)
    assert answer.status == 404
    assert answer.json["error"]["type"] == "NotFound"


def test_the_page_is_closed_until_there_is_a_password(site: UwsgiServer, unused: UwsgiServer) -> None:
    assert unused.get("/spool").json["error"]["type"] == "NotFound"
    unused.wait_for_log("set the password SPOOLKIT_DASHBOARD_PASSWORD")
    assert site.get("/spool").status == 401
    job = site.get("/uwsgi_spool/0").json["job"]
    password = {"Authorization": f"Basic {b64encode(b'anna:xyzzy').decode()}"}

    def page_shows_the_end() -> bool:
        answer = site.request("GET", f"/spool/jobs?q=id:{job}", headers=password)
        assert answer.status == 200
        return f'id="job-{job}"' in answer.text and '<span class="state done">' in answer.text

    wait_until(page_shows_the_end, message=site.log)


def test_a_missing_spool_directory_is_a_503(tmp_path: Path) -> None:
    with UwsgiServer(tmp_path, ini=INI) as server:
        server.wait_for_spoolers()
        # In one step: whoever moves delayed jobs makes their folder again as long as the directory is there.
        shutil.rmtree(server.spool.rename(tmp_path / "removed"))
        for path in ("/uwsgi_spool/1", "/uwsgi_spool/1?delay=5", "/uwsgi_tasks/1"):
            answer = server.get(path)
            assert answer.status == 503
            assert answer.json["error"]["type"] == "SpoolUnavailableError"
            assert answer.json["error"]["argument"] is None
            assert not server.spool.exists(), "a directory that nobody serves came back"


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_spool_directory_that_accepts_no_file_is_a_503(tmp_path: Path, trouble: str) -> None:
    """On a small file system of its own, because root may write into any directory."""
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    with ExitStack() as mounted:
        mount(mounted, "-t", "tmpfs", "-o", "size=64k,mode=0700", "none", spool)
        server = mounted.enter_context(UwsgiServer(tmp_path, ini=INI)).wait_for_spoolers()
        wait_until((spool / "later").exists)
        if trouble == "full":
            fill(spool / "filler")
        else:
            # A second mount on top: the first one must stay as it is, because the spoolers write their flags into it.
            mount(mounted, "--bind", spool, spool)
            subprocess.run(["mount", "-o", "remount,bind,ro", spool], check=True, timeout=100)
        before = sorted(os.listdir(spool))
        for path in ("/uwsgi_spool/1", "/uwsgi_spool/1?delay=9", "/uwsgi_tasks/1"):
            answer = server.get(path)
            assert answer.status == 503, answer.text
            assert answer.json["error"]["type"] == "SpoolUnavailableError"
        assert sorted(os.listdir(spool)) == before


def mount(mounted: ExitStack, *arguments: str | Path) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, timeout=100)
    if done.returncode and not os.environ.get("CI"):
        pytest.skip(f"only root may mount: {done.stderr}")
    assert done.returncode == 0, done.stderr
    mounted.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_the_ini_starts_from_any_directory_and_with_strict(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in ("app.py", "tasks.py", "spool_args.py"):
        shutil.copy(PROJECT / name, site)
    (site / "uwsgi.ini").write_text(INI.read_text() + "strict = true\n")
    with UwsgiServer(tmp_path, ini=site / "uwsgi.ini", cwd=Path("/")) as server:
        server.wait_for_log(rf"(?m)^the site is on http://127\.0\.0\.1:{server.port}$")
        assert server.get("/0").status == 200
        assert server.get("/uwsgi_spool/0").json["started"] is True


def test_a_request_with_a_full_session_cookie_is_answered(site: UwsgiServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/jobs/none", headers={"Cookie": f"session={'x' * 4093}; other={'y' * 4000}"})
        assert connection.getresponse().status == 404


def test_the_containers_healthcheck_passes(site: UwsgiServer) -> None:
    check = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())["services"]["web"]["healthcheck"]["test"]
    command = [sys.executable, *check[2:-1], check[-1].replace("5000", str(site.port))]
    # Until the spoolers have started.
    wait_until(lambda: subprocess.run(command, timeout=60).returncode == 0, timeout=60, message=site.log)
    site.wait_for_log(r"GET /health/ready .*HTTP/1.1 200")


def test_sigterm_stops_the_site(tmp_path: Path) -> None:
    with UwsgiServer(tmp_path, ini=INI) as server:
        os.kill(server.master_pid, 15)
        wait_until(lambda: server.exited, timeout=60, message=server.log)


@pytest.mark.parametrize("signum", sampled([signal.SIGTERM, signal.SIGINT], signal.SIGTERM))
def test_a_stop_lets_the_jobs_of_threads_and_of_spoolers_finish(tmp_path: Path, signum: int) -> None:
    with UwsgiServer(tmp_path, ini=INI) as server:
        for path in ("/uwsgi_thread/2", "/uwsgi_thread/2", "/uwsgi_spool/3"):
            server.get(path)
        wait_until(lambda: server.log().count("... 1/") == 3)
        os.kill(server.master_pid, signum)
        wait_until(lambda: server.exited, timeout=60, message=server.log)
        log = server.log()
    assert log.count("Working in uwsgi thread... 2/2") == 2
    assert log.count("Working in uwsgi spool... 3/3") == 1
    assert "lost" not in log
