"""A site that accepts notifications over HTTP and sends them in a thread of its process, one after the other."""

import os
import time
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import BadRequest

from spoolkit import QueueFull, QueueThread, SpoolKit

SENT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sent.log")


def is_text(value: object) -> bool:
    # Half a surrogate pair is valid JSON, but cannot be encoded as text.
    return isinstance(value, str) and bool(value.strip()) and value == value.encode("utf-8", "ignore").decode()


@dataclass(frozen=True)
class Notification:
    to: str
    text: str

    @classmethod
    def of(cls, given: Any) -> "Notification":
        """Return the notification that was posted as JSON. Raises ``BadRequest`` if it is not valid."""
        if not isinstance(given, dict):
            raise BadRequest('give a JSON object: {"to": "...", "text": "..."}')
        for name in ("to", "text"):
            if not is_text(given.get(name)):
                raise BadRequest(f"{name!r} is missing, empty or not text")
        if unknown := sorted(given.keys() - {"to", "text"}):
            raise BadRequest(f"unknown names: {', '.join(unknown)}")
        return cls(given["to"], given["text"])


class NotificationThread(QueueThread[Notification]):
    """Sends the notifications in its queue. In this example, it writes each of them to a file after 0.2 s."""

    def startup(self) -> None:
        self.connection = open(SENT, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - shutdown() closes it

    def handle(self, item: Notification) -> None:
        time.sleep(0.2)
        print(f"{item.to}: {item.text}", file=self.connection)

    def shutdown(self) -> None:
        self.connection.close()


app = Flask(__name__)
kit = SpoolKit(app)
notifications = NotificationThread()


@app.post("/task")
def task() -> tuple[Response, int]:
    try:
        given = request.get_json()
    except BadRequest as error:
        raise BadRequest("the body is not JSON") from error
    notifications.put(Notification.of(given))
    return jsonify(accepted=True, waiting=len(notifications)), 202


@app.get("/task")
def waiting() -> Response:
    return jsonify(pid=os.getpid(), waiting=len(notifications), failures=notifications.failures)


@app.errorhandler(BadRequest)
def refused(error: BadRequest) -> tuple[Response, int]:
    return jsonify(error=error.description), 400


@app.errorhandler(QueueFull)
def full(error: QueueFull) -> tuple[Response, int]:
    return jsonify(error=str(error)), 503


# At the end of the module, because the thread may start here.
kit.add_thread(notifications, where="each process")
