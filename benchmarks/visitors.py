"""Visitors of a site: ``python -m benchmarks.visitors PORT PATH SECONDS``; prints how many requests were answered.

A program of its own, so that it does not share the interpreter's lock with what waits for it.
"""

from __future__ import annotations

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

VISITORS = 8


def visit(port: int, path: str, until: float) -> int:
    """Send one request after the other until then.

    Returns:
        How many were answered with status 200.

    Raises:
        RuntimeError: A request was answered otherwise.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()
    answered = 0
    while time.monotonic() < until:
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(request)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        if not answer.split(b"\r\n", 1)[0].endswith(b"200 OK"):
            raise RuntimeError(answer[:500].decode(errors="replace"))
        answered += 1
    return answered


def main(port: int, path: str, seconds: float) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(VISITORS) as visitors:
        answered = sum(visitors.map(lambda _: visit(port, path, began + seconds), range(VISITORS)))
    print(answered, answered / (time.monotonic() - began))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
