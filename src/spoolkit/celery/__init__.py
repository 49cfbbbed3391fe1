"""Jobs that run in Celery's workers, perhaps on other machines: ``celery -A spoolkit.celery worker`` is such a worker.

Only a worker loads the application that ``FLASK_APP`` names; see :mod:`spoolkit.celery.worker`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    celery: Celery


def __getattr__(name: str) -> Any:
    # Celery's command line looks for the first of these two names.
    if name not in ("app", "celery"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spoolkit.celery import worker

    return worker.load()
