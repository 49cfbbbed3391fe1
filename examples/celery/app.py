"""A site whose jobs run on other machines: docs/scaling.md."""

import os
import socket

from flask import Flask, Response, jsonify, request

from spoolkit import SpoolKit, spool
from spoolkit.api import jobs_blueprint
from spoolkit.dashboard import health_blueprint

app = Flask(__name__)
if broker := os.environ.get("BROKER_URL"):
    # All that distinguishes this site from one whose jobs run beside it. Celery's own settings, in lower case.
    app.config.update(SPOOLKIT_ENGINE="celery", CELERY={"broker_url": broker})
app.config["MAX_CONTENT_LENGTH"] = 65536
SpoolKit(app)
app.register_blueprint(jobs_blueprint())
app.register_blueprint(health_blueprint())


@spool(retries=3)
def count_words(text: str) -> dict[str, int | str]:
    return {"words": len(text.split()), "host": socket.gethostname()}


@app.post("/count")
def count() -> Response:
    return jsonify(job=count_words(request.get_data(as_text=True)).id)
