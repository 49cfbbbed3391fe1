"""The site with scans so rare that only signals have spoolers look; OLD_SPOOLERS=1: of a version without slots."""

from __future__ import annotations

import os

from site_app import app

from spoolkit.spooldir import slots
from spoolkit.spooling import standalone

standalone.FREQUENCY = 600.0

if "OLD_SPOOLERS" in os.environ:

    def without(self: slots.Slot, states: bytes) -> bytes:
        raise OSError("this version has no slots")

    slots.Slot._change = without  # type: ignore[method-assign]

__all__ = ["app"]
