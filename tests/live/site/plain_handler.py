"""An application that gave ``uwsgi.spooler`` a handler of its own, as uWSGI's manual shows it."""

from __future__ import annotations

import uwsgi
import with_spoolkit
from flask import Flask, Response, jsonify
from history import record

app = Flask(__name__)


def handler(env):
    record("ran", env[b"word"].decode())
    return uwsgi.SPOOL_OK


uwsgi.spooler = handler


@app.post("/both")
def both() -> Response:
    with_spoolkit.own("own")
    uwsgi.spool({b"word": b"plain"})
    return jsonify(ok=True)
