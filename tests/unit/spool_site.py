"""An application with a spool directory of its own, for tests that make several of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from spoolkit import SpoolKit
from spoolkit.store import locations


@contextlib.contextmanager
def site(module: dict[str, Any], folder: Path, **settings: Any) -> Iterator[str]:
    """Yield its spool directory. ``history`` of the module, the file to which its tasks append, lies beside it."""
    app = Flask("the_application")
    app.config.update(SPOOLKIT_SPOOL=folder / "spool", SPOOLKIT_RETRY_DELAY=0, **settings)
    SpoolKit(app)
    (folder / "spool").mkdir(mode=0o700, parents=True)
    with pytest.MonkeyPatch.context() as patch, app.app_context():
        patch.setitem(module, "history", str(folder / "history"))
        yield str(folder / "spool")
        locations.store().close()
