"""One line per event, appended to the file that HISTORY names."""

from __future__ import annotations

import os
import time
from pathlib import Path


def record(*words: object) -> None:
    fd = os.open(os.environ["HISTORY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, (" ".join(map(str, (f"{time.time():.6f}", os.getpid(), *words))) + "\n").encode())
    finally:
        os.close(fd)


def runs_so_far(what: str) -> int:
    history = Path(os.environ["HISTORY"])
    return history.read_text().count(f" {what}\n") if history.exists() else 0
