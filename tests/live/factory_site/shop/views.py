from __future__ import annotations

from flask import Blueprint, jsonify
from flask.typing import ResponseReturnValue

import shop
from shop import tasks

pages = Blueprint("pages", __name__)


@pages.get("/greet/<name>")
def greet(name: str) -> ResponseReturnValue:
    return jsonify(job=tasks.greet(name, tasks.Colour.RED).id)


@pages.get("/greet/<name>/later")
def greet_later(name: str) -> ResponseReturnValue:
    return jsonify(job=tasks.greet.using(delay=1)(name, tasks.Colour.RED).id)


@pages.get("/version")
def version() -> str:
    return shop.VERSION
