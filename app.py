"""A Flask site whose routes start background work on the uWSGI server that runs it."""

import threading

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

import tasks
from spoolkit import ArgumentError, QueueFull, SpoolKit, SpoolUnavailableError
from spoolkit.api import jobs_blueprint
from spoolkit.schedule import from_text

DURATION, MAX_DURATION = 5, 3600

app = Flask(__name__)
SpoolKit(app)
app.register_blueprint(jobs_blueprint())


@app.route("/", methods=["GET", "POST"])
@app.route("/<int:duration>", methods=["GET", "POST"])
def plain_thread(duration: int = DURATION) -> Response:
    thread = threading.Thread(target=tasks.threaded_task, args=(checked(duration),), daemon=True)
    thread.start()
    return jsonify(thread_name=thread.name, started=True)


@app.route("/uwsgi_thread", methods=["GET", "POST"])
@app.route("/uwsgi_thread/<int:duration>", methods=["GET", "POST"])
def uwsgi_thread(duration: int = DURATION) -> Response:
    job = tasks.uwsgi_task(checked(duration))
    return jsonify(started=True, job=job.id)


@app.route("/uwsgi_spool", methods=["GET", "POST"])
@app.route("/uwsgi_spool/<int:duration>", methods=["GET", "POST"])
def uwsgi_spool(duration: int = DURATION) -> Response:
    job = tasks.spool_task.using(at=seconds("at"), delay=seconds("delay"))(checked(duration))
    return jsonify(started=True, job=job.id, run_at=job.run_at)


@app.route("/uwsgi_tasks", methods=["GET", "POST"])
@app.route("/uwsgi_tasks/<int:duration>", methods=["GET", "POST"])
def uwsgi_tasks(duration: int = DURATION) -> Response:
    duration = checked(duration)
    try:
        tasks.uwsgi_tasks_task(duration)
    except ValueError as error:  # all that uwsgi.spool says of a directory that is full, read-only or gone
        raise SpoolUnavailableError(f"uWSGI took no job: {error}. Nothing was accepted") from error
    return jsonify(started=True)


def checked(duration: int) -> int:
    if duration > MAX_DURATION:
        raise ArgumentError(f"duration is {duration}: give at most {MAX_DURATION} seconds", argument="duration")
    return duration


def seconds(name: str) -> float | None:
    text = request.values.get(name)
    return None if text is None else from_text(text, argument=name)


@app.errorhandler(ArgumentError)
def refused(error: ArgumentError) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 400


@app.errorhandler(SpoolUnavailableError)
@app.errorhandler(QueueFull)
def unavailable(error: SpoolUnavailableError | QueueFull) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 503


@app.errorhandler(HTTPException)
def http_error(error: HTTPException) -> tuple[Response, int]:
    code = error.code or 500
    return jsonify(error={"type": type(error).__name__, "message": error.description, "argument": None}), code
