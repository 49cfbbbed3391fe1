"""A site whose pages start jobs and do not wait for them."""

import math
import time

from flask import Flask, jsonify, request

import tasks
from spool_args import prepare_spooler_args

app = Flask(__name__)


@app.get("/uwsgi_thread/<int:seconds>")
def uwsgi_thread(seconds):
    tasks.uwsgi_thread(seconds)
    return jsonify(started=True)


@app.get("/uwsgi_spool/<int:seconds>")
def uwsgi_spool(seconds):
    options = {}
    if delay := request.args.get("delay", type=int):
        options["at"] = str(math.ceil(time.time() + delay))
    tasks.uwsgi_spool.spool(prepare_spooler_args(seconds=seconds), **options)
    return jsonify(started=True)


@app.get("/deliver/<order>")
def deliver(order):
    tasks.deliver.spool(prepare_spooler_args(order=order))
    return jsonify(started=True)


@app.get("/uwsgi_tasks/<order>")
def uwsgi_tasks(order):
    tasks.announce(order)
    return jsonify(started=True)
