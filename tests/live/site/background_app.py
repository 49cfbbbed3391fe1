"""A site with background threads, under any server."""

from __future__ import annotations

import os
import sys
import time

from flask import Flask, Response, current_app, jsonify, request
from history import record

from spoolkit import BackgroundThread, QueueFull, QueueThread, SpoolKit, thread

app = Flask(__name__)
kit = SpoolKit()
kit.init_app(app)


class Each(BackgroundThread):
    def startup(self) -> None:
        record("each", "startup", current_app.name)

    def handle(self) -> None:
        self.wait(0.05)

    def shutdown(self) -> None:
        record("each", "shutdown")
        from_shutdown()


class One(BackgroundThread):
    def startup(self) -> None:
        record("one", "startup")

    def handle(self) -> None:
        self.wait(0.05)

    def shutdown(self) -> None:
        record("one", "shutdown")


class Words(QueueThread[str]):
    def handle(self, item: str) -> None:
        if item == "stuck":
            record("stuck")
            time.sleep(60)
        time.sleep(0.02)
        record("handled", item)


@thread
def from_shutdown() -> None:
    record("from shutdown".replace(" ", "_"))


words = Words()
kit.add_thread(Each())
kit.add_thread(One(), where="one process")
kit.add_thread(words)


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.post("/words")
def put() -> Response:
    for word in request.get_json():
        words.put(word)
    return jsonify(pid=os.getpid())


@app.post("/fork")
def fork() -> Response:
    """Fork, and return how many threads the child has once it has had time to start some."""
    read, write = os.pipe()
    if os.fork() == 0:
        time.sleep(0.1)
        os.write(write, str(len(os.listdir("/proc/self/task"))).encode())
        os._exit(0)
    os.wait()
    return jsonify(threads=int(os.read(read, 10)))


@app.errorhandler(QueueFull)
def full(error: QueueFull) -> tuple[Response, int]:
    return jsonify(error=error.to_dict()), 503


if __name__ == "__main__":
    app.run(port=int(sys.argv[1]))
