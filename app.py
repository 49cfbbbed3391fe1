"""A Flask site whose routes start background work on the uWSGI server that runs it."""

import json
import threading

from flask import Flask, Response, g, jsonify, render_template_string, request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, HTTPException, UnsupportedMediaType
from werkzeug.routing import IntegerConverter

import tasks
from spoolkit import ArgumentError, QueueFull, SpoolKit, SpoolUnavailableError, seconds_from_text
from spoolkit.api import jobs_blueprint
from spoolkit.dashboard import basic_auth, dashboard_blueprint, health_blueprint

DURATION, MAX_DURATION = 5, 3600

OPTIONS = {"uwsgi_spool": ("at", "delay")}
"""The options that a request may pass, by endpoint. Any other option is refused, not ignored."""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A job in the spooler</title>
<h1>A job in the spooler</h1>
{{ job_progress(job, label="Counting seconds") }}
"""


class Digits(IntegerConverter):
    """Whole numbers in a path. Flask's ``int`` also accepts digits of other scripts, and fails on very long ones."""

    regex = "[0-9]{1,20}"


app = Flask(__name__)
app.url_map.converters["digits"] = Digits
app.config["MAX_CONTENT_LENGTH"] = 65536
SpoolKit(app)
app.register_blueprint(jobs_blueprint())
app.register_blueprint(health_blueprint())
# Closed until there is a password: SPOOLKIT_DASHBOARD_PASSWORD=... make run
app.register_blueprint(dashboard_blueprint(basic_auth("SPOOLKIT_DASHBOARD_PASSWORD")), url_prefix="/spool")


@app.before_request
def check_request() -> Response | None:
    """Refuse invalid requests before any work starts. HEAD gets the same answers as GET, and starts nothing."""
    if request.url_rule is None or request.blueprint is not None:
        return None
    if (duration := (request.view_args or {}).get("duration", DURATION)) > MAX_DURATION:
        raise ArgumentError(f"duration is {duration}: give at most {MAX_DURATION} seconds", argument="duration")
    g.options = options(OPTIONS.get(request.endpoint or "", ()))
    return jsonify(started=False) if request.method == "HEAD" else None


@app.route("/", methods=["GET", "POST"])
@app.route("/<digits:duration>", methods=["GET", "POST"])
def plain_thread(duration: int = DURATION) -> Response:
    thread = threading.Thread(target=tasks.threaded_task, args=(duration,), daemon=True)
    thread.start()
    return jsonify(thread_name=thread.name, started=True)


@app.route("/uwsgi_thread", methods=["GET", "POST"])
@app.route("/uwsgi_thread/<digits:duration>", methods=["GET", "POST"])
def uwsgi_thread(duration: int = DURATION) -> Response:
    job = tasks.uwsgi_task(duration)
    return jsonify(started=True, job=job.id)


@app.route("/uwsgi_spool", methods=["GET", "POST"])
@app.route("/uwsgi_spool/<digits:duration>", methods=["GET", "POST"])
def uwsgi_spool(duration: int = DURATION) -> Response | str:
    job = tasks.spool_task.using(**g.options)(duration)
    if request.accept_mimetypes["text/html"] > request.accept_mimetypes["application/json"]:
        return render_template_string(PAGE, job=job)
    return jsonify(started=True, job=job.id, run_at=job.run_at)


@app.route("/uwsgi_tasks", methods=["GET", "POST"])
@app.route("/uwsgi_tasks/<digits:duration>", methods=["GET", "POST"])
def uwsgi_tasks(duration: int = DURATION) -> Response:
    try:
        tasks.uwsgi_tasks_task(duration)
    except ValueError as error:  # uwsgi.spool raises only this if the directory is full, read-only or gone
        raise SpoolUnavailableError(f"uWSGI did not accept the job: {error}") from error
    return jsonify(started=True)


def options(known: tuple[str, ...]) -> dict[str, object]:
    """The options of this request, each at most once: in the query, in a form, or in a JSON object."""
    given = [*request.args.items(multi=True), *request.form.items(multi=True), *request.files.items(multi=True)]
    if request.is_json:
        given += json_object().items(multi=True)
    elif not request.form and not request.files and request.get_data():
        raise UnsupportedMediaType("give a form, or a JSON object as application/json")
    found: dict[str, object] = {}
    for name, value in given:
        if name not in known:
            message = f"{name[:80]!r} is not known here: give {' or '.join(known) or 'nothing beside the path'}"
            raise ArgumentError(message, argument=name[:80])
        if name in found:
            raise ArgumentError(f"{name} was given twice: give it once", argument=name)
        found[name] = seconds_from_text(value, argument=name) if isinstance(value, str) else value
    return found


def json_object() -> MultiDict[str, object]:
    try:
        # A MultiDict keeps every value of a key that occurs twice.
        body = json.loads(request.get_data(), object_pairs_hook=MultiDict)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not valid JSON") from error
    if not isinstance(body, MultiDict):
        raise BadRequest("the body is not a JSON object")
    return body


@app.errorhandler(ArgumentError)
def refused(error: ArgumentError) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 400


@app.errorhandler(SpoolUnavailableError)
@app.errorhandler(QueueFull)
def unavailable(error: SpoolUnavailableError | QueueFull) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 503


@app.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """The error as JSON, with its own headers: Allow of a 405, Retry-After, WWW-Authenticate."""
    answer = Response(headers=error.get_response().headers, status=error.code)
    answer.data = json.dumps({"error": {"type": type(error).__name__, "message": error.description, "argument": None}})
    answer.mimetype = "application/json"
    return answer
