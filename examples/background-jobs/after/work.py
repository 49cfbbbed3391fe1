"""The work itself, which does not know how it was started. ``done.log`` has a line for all that was done, and when."""

import os
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def count(where, seconds):
    for second in range(seconds):
        print(f"Working in {where}... {second + 1}/{seconds}", flush=True)
        time.sleep(1)
    note(f"{where} {seconds}")


def send(what, order):
    """Send an order to the partner, whose server is away now and then. Here the folder ``partner`` is that server.

    Returns whether it was sent.
    """
    is_there = os.path.isdir(os.path.join(HERE, "partner"))
    note(f"{what} {order} {'sent' if is_there else 'postponed'}")
    return is_there


def note(text):
    with open(os.path.join(HERE, "done.log"), "a") as log:
        log.write(f"{time.time():.3f} {text}\n")
