"""The site of ``site_app``. With KNOWS=yes it is a newer version, which knows the field ``frobnicate`` of a job."""

from __future__ import annotations

import os

from site_app import app

from spoolkit.encoding import packet

if os.environ.get("KNOWS"):
    packet.FIELDS[b"frobnicate"] = packet.Field("app", str.encode, bytes.decode, must=True)

__all__ = ["app"]
