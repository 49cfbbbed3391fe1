"""The application of ``celery_tasks``."""

from __future__ import annotations

from celery_tasks import create_app

app = create_app()
