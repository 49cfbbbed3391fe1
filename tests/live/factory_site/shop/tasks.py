from __future__ import annotations

from enum import Enum

from flask import current_app
from history import record

import shop
from spoolkit import spool


class Colour(Enum):
    RED = "red"


@spool(retries=0)
def greet(name: str, colour: Colour) -> None:
    assert colour is Colour.RED
    record("greeted", name, current_app.config["GREETING"], current_app.name, shop.VERSION)
