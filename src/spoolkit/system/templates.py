"""How is a template of ours rendered, so that what jobs contain is text, whatever the site has set?"""

from __future__ import annotations

from flask import current_app, render_template

_KEY = "spoolkit.environment"


def render_escaped(template: str, **values: object) -> str:
    """Render a template by name, with the values of the site's context processors, and with escaping.

    A site may have switched escaping off for its own templates, or for all names but some.

    Args:
        template: The name of the template. The site may have one of its own under this name.
        **values: What it shows.
    """
    environment = current_app.jinja_env
    chosen = environment.autoescape
    if not (chosen(template) if callable(chosen) else chosen):
        environment = current_app.extensions.setdefault(_KEY, environment.overlay(autoescape=True))
    return render_template(environment.get_template(template), **values)
