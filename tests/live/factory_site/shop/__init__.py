"""A site as Flask's own documentation builds it: a factory, blueprints, extensions in a module of their own."""

from __future__ import annotations

from flask import Flask
from history import record

VERSION = "old"


def create_app() -> Flask:
    record("made", __name__)
    app = Flask(__name__)
    app.config["GREETING"] = "hello"
    # Within the factory, so that these modules may import what stands above.
    from shop.extensions import background_tasks
    from shop.views import pages

    background_tasks.init_app(app)
    app.register_blueprint(pages)
    return app
