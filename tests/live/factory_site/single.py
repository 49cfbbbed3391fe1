"""All in one file: the application, its task, and a class of its arguments."""

from __future__ import annotations

from enum import Enum

from flask import Flask, current_app, jsonify
from flask.typing import ResponseReturnValue
from history import record

from spoolkit import SpoolKit, spool

VERSION = "old"

record("made", "single")
app = Flask(__name__)
app.config["GREETING"] = "hi"
SpoolKit(app)


class Colour(Enum):
    RED = "red"


@spool(retries=0)
def greet(name: str, colour: Colour) -> None:
    assert colour is Colour.RED
    record("greeted", name, current_app.config["GREETING"], current_app.name, VERSION)


@app.get("/greet/<name>")
def greeting(name: str) -> ResponseReturnValue:
    return jsonify(job=greet(name, Colour.RED).id)


@app.get("/version")
def version() -> str:
    return VERSION
