"""The site of at_once.py: a request that waits, and one that computes. Each answers with its start and its end."""

from __future__ import annotations

import os
import time

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/wait")
def wait() -> Response:
    began = time.monotonic()
    time.sleep(0.3)
    return jsonify(began, time.monotonic())


@app.get("/compute")
def compute() -> Response:
    began = time.monotonic()
    total = 0
    for number in range(400_000):
        total += number
    return jsonify(began, time.monotonic())
