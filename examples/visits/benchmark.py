"""How long a visitor waits with the visit written inline, by @thread and by @spool: the same site, one line changed.

    python benchmark.py [REQUESTS] [ROUNDS]

On a real uWSGI, one visitor at a time, the three ways in turn; prints the medians and their ratios.
"""

from __future__ import annotations

import http.client
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from uwsgi_server import UwsgiServer, wait_until  # noqa: E402

LINE = "@spoolkit.thread(concurrency=1, track=False)\n"
WAYS = {"not at all": None, "inline": "", "by @thread": LINE, "by @spool": "@spoolkit.spool\n"}


def copied(folder: Path, way: str) -> Path:
    """The site in ``folder``, with the visit recorded that way."""
    site = folder / "site"
    shutil.copytree(HERE, site, ignore=shutil.ignore_patterns("my_spools", "*.db*", "__pycache__"))
    module = site / "visits.py"
    content = module.read_text()
    assert content.count(LINE) == 1
    line = WAYS[way]
    module.write_text(content.replace(LINE, line or ""))
    if line is None:
        views = site / "app.py"
        views.write_text(views.read_text().replace("visits.record_visit(node_id, time.time())", "pass"))
    return site


def milliseconds(way: str, requests: int) -> list[float]:
    """How long each of so many requests took, sorted."""
    with tempfile.TemporaryDirectory(prefix="visits-") as name:
        folder = Path(name)
        site = copied(folder, way)
        with UwsgiServer(folder, ini=site / "uwsgi.ini", spool=site / "my_spools", cwd=site) as server:
            server.get("/")
            took = []
            for _ in range(requests):
                connection = http.client.HTTPConnection("127.0.0.1", server.port)
                began = time.perf_counter()
                connection.request("GET", "/page/2")
                connection.getresponse().read()
                took.append((time.perf_counter() - began) * 1000)
                connection.close()
            if WAYS[way] is not None:
                wait_until(lambda: f"<td>About<td>{requests}\n" in server.get("/visits").text, timeout=120)
    return sorted(took)


def main() -> None:
    requests, rounds = (int(text) for text in (sys.argv[1:] + ["500", "5"][len(sys.argv) - 1 :]))
    median: dict[str, list[float]] = {way: [] for way in WAYS}
    late: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            took = milliseconds(way, requests)
            median[way].append(statistics.median(took))
            late[way].append(took[len(took) * 99 // 100])
    base = statistics.median(median["inline"])
    base_late = statistics.median(late["inline"])
    print(f"{requests} requests, {rounds} rounds in turn, {os.cpu_count()} cores")
    for way in WAYS:
        middle, slow = statistics.median(median[way]), statistics.median(late[way])
        print(
            f"{way:12} median {middle:6.2f} ms ({middle / base:4.2f})   99 % {slow:6.2f} ms ({slow / base_late:4.2f})"
        )


if __name__ == "__main__":
    main()
