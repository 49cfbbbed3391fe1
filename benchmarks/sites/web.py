"""The HTTP side of a uWSGI site: a route that carries out orders, one that enqueues, and a bare one."""

from __future__ import annotations

import itertools
import logging
import time

from flask import Flask, Response, jsonify, request

from benchmarks.calling import Enqueue, carry_out


def site(enqueue: Enqueue) -> Flask:
    """An application with these three routes."""
    logging.basicConfig(level=logging.WARNING)  # as quiet as the consumers of the others
    app = Flask("bench")
    numbers = itertools.count()

    @app.post("/order")
    def order() -> Response:
        given = request.get_json()
        if given.get("numbers_from") is not None:
            # The number of the first job that GET /dispatch enqueues.
            nonlocal numbers
            numbers = itertools.count(given["numbers_from"])
            return jsonify(None)
        return jsonify(carry_out(enqueue, given))

    @app.get("/dispatch")
    def dispatch() -> Response:
        enqueue(next(numbers), time.time(), None)
        return jsonify(started=True)

    @app.get("/bare")
    def bare() -> Response:
        return jsonify(started=True)

    return app
