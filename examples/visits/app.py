"""A small site that counts its visits and does not make visitors wait for that."""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, wraps

import visits
from flask import Flask, abort, render_template

from spoolkit import QueueFull, SpoolKit

PAGES = {1: "Home", 2: "About", 3: "Contact"}

app = Flask(__name__)
SpoolKit(app)


def counted(view: Callable[[int], str]) -> Callable[[int], str]:
    """Record each visit of ``view``, also where the page itself comes from a cache."""

    @wraps(view)
    def counting(node_id: int) -> str:
        page = view(node_id)
        # If the queue is full, serve the page and do not count the visit.
        with suppress(QueueFull):
            visits.record_visit(node_id, time.time())
        return page

    return counting


@app.get("/", defaults={"node_id": 1})
@app.get("/page/<int:node_id>")
@counted
@cache
def page(node_id: int) -> str:
    return render_template("page.html", title=PAGES.get(node_id) or abort(404), pages=PAGES)


@app.get("/visits")
def counts() -> str:
    return render_template("visits.html", counts=visits.counts(), pages=PAGES)
