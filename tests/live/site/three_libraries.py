"""An application whose tasks are declared with three libraries, imported in the order that ORDER gives."""

from __future__ import annotations

import importlib
import os

from flask import Flask, Response, jsonify

app = Flask(__name__)

for _module in os.environ["ORDER"].split(","):
    importlib.import_module(_module)


@app.post("/import")
def import_in_a_job() -> Response:
    import with_uwsgidecorators

    with_uwsgidecorators.importing.spool({})
    return jsonify(ok=True)


@app.post("/stock/<name>")
def stock(name: str) -> Response:
    import with_uwsgidecorators

    getattr(with_uwsgidecorators, name).spool({"word": name})
    return jsonify(ok=True)


@app.post("/own")
def own() -> Response:
    import with_spoolkit

    with_spoolkit.own.using(delay=2)(word="own")
    return jsonify(ok=True)


@app.post("/all")
def everything() -> Response:
    import with_spoolkit
    import with_uwsgi_tasks
    import with_uwsgidecorators

    with_spoolkit.own.spool(word="own")
    with_uwsgidecorators.decorated.spool({"word": "decorated"})
    with_uwsgidecorators.with_arguments(["with", "arguments"], word="arguments")
    with_uwsgidecorators.raw.spool({b"word": b"raw", b"body": b"its body"})
    with_uwsgidecorators.forever.spool({"word": "forever"})
    with_uwsgidecorators.failing.spool({"word": "failing"})
    with_uwsgi_tasks.library_task("library")
    with_uwsgi_tasks.retried("retried")
    return jsonify(ok=True)
