"""A site with the page under /spool, whose visitors have their role from a cookie, and with progress bars for them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from flask import Flask, Request, Response, jsonify, make_response, render_template_string, request

from spoolkit import Job, SpoolKit, current_job, periodic, spool
from spoolkit.api import jobs_blueprint
from spoolkit.dashboard import ALL_RIGHTS, READ_ONLY, Access, dashboard_blueprint

HOLD = Path(os.environ["HOLD"])
"""A folder: a task that is held continues once its file is here."""

ROLES = {"all": ALL_RIGHTS, "reader": READ_ONLY, "logs": frozenset({"view", "logs"})}

LONGEST = 240.0
"""Seconds for which a task is held at most."""

STRICT = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"

VISITOR = """<!doctype html>
<html lang="en"><head><title>Visitor</title></head><body><h1>Your report</h1>
{{ job_progress(job, label="Report", result_url="/result") }}
</body></html>"""

app = Flask(__name__)
app.config["SECRET_KEY"] = "of a test"
SpoolKit(app)
app.register_blueprint(jobs_blueprint())


@spool(name="shop.charge", retries=0)
def charge(order: int, password: str = "hunter2") -> None:
    print(f"charging order {order}")
    print("\x1b[31mred\x1b[0m <script>alert(1)</script> <b>bold</b>")
    raise ValueError(f"card of order {order} was refused")


@spool(name="shop.mail")
def mail(address: str) -> str:
    print(f"to {address}")
    return f"sent to {address}"


@spool(name="shop.load", retries=0)
def load(text: str) -> None:
    """Fails within a library."""
    json.loads(text)


@spool(name="shop.report")
def report(name: str) -> None:
    """Half done until it may end."""
    current_job().progress(5, 10, "rows")
    print(f"report {name} is half done", flush=True)
    _held(name)
    current_job().progress(10, 10, "rows")


@spool(name="shop.later")
def later(word: str) -> None:
    print(word)


@periodic(cron="0 4 * * *", tz="Europe/Berlin")
@spool(name="shop.nightly")
def nightly() -> None:
    print("good night")


def _held(name: str) -> None:
    until = time.monotonic() + LONGEST
    while not (HOLD / name).exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{name} was not let go")
        time.sleep(0.05)


def access(request: Request) -> Access | None:
    role = request.cookies.get("role", "")
    return Access(role, can=ROLES[role]) if role in ROLES else None


app.register_blueprint(dashboard_blueprint(access=access), url_prefix="/spool")

TASKS = {"charge": charge, "load": load, "mail": mail, "report": report, "later": later}


def call(task: str) -> Job:
    options = {"delay": float(request.args["delay"])} if "delay" in request.args else {}
    word = request.args["word"]
    return TASKS[task].using(**options)(int(word) if task == "charge" else word)


@app.post("/call/<task>")
def new_job(task: str) -> Response:
    return jsonify(id=call(task).id)


@app.get("/visitor/<task>")
def visitor(task: str) -> Response:
    answer = make_response(render_template_string(VISITOR, job=call(task)))
    answer.headers["Content-Security-Policy"] = STRICT
    return answer


@app.get("/favicon.ico")
def icon() -> Response:
    return Response(status=204)  # each browser asks for it


@app.get("/result")
def result() -> str:
    return "<title>The result</title>here it is"


@app.get("/forger")
def forger() -> str:
    """A form of another site, once this page is asked for under another host."""
    form = '<form method="post" action="{{ action }}"><button>Win a prize</button></form>'
    return render_template_string(f"<title>Forger</title>{form}", action=request.args["action"])
