"""A site that is scraped while its jobs run, and are deleted."""

from __future__ import annotations

from flask import Flask, Response, jsonify

from spoolkit import SpoolKit, spool
from spoolkit.admin import actions
from spoolkit.dashboard import Access, metrics_blueprint
from spoolkit.job import FINISHED

app = Flask(__name__)
SpoolKit(app)
app.register_blueprint(metrics_blueprint(access=lambda request: Access("prometheus", {"view"})))


@spool(name="works")
def works(number: int) -> int:
    if number % 2:
        print("said")
    return number


@spool(name="fails", retries=0)
def fails(number: int) -> None:
    raise ValueError(number)


@app.post("/call/<int:number>")
def call(number: int) -> Response:
    for one in range(number):
        works(one)
        fails(one)
    return jsonify(started=True)


@app.post("/purge")
def purge() -> Response:
    return jsonify(deleted=actions.purge(FINISHED))
