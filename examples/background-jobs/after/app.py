"""A site whose pages start jobs and do not wait for them."""

from flask import Flask, jsonify, request

import tasks
from spoolkit import SpoolKit

app = Flask(__name__)
SpoolKit(app)


@app.get("/uwsgi_thread/<int:seconds>")
def uwsgi_thread(seconds):
    tasks.count_in_thread(seconds)
    return jsonify(started=True)


@app.get("/uwsgi_spool/<int:seconds>")
def uwsgi_spool(seconds):
    tasks.count_in_spooler.using(delay=request.args.get("delay", 0, type=int))(seconds)
    return jsonify(started=True)


@app.get("/deliver/<order>")
def deliver(order):
    tasks.deliver_order(order)
    return jsonify(started=True)


@app.get("/uwsgi_tasks/<order>")
def uwsgi_tasks(order):
    tasks.announce_order(order)
    return jsonify(started=True)
