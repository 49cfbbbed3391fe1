"""What is a progress bar in the HTML of the site? The template global ``job_progress``."""

from __future__ import annotations

from datetime import datetime, timedelta

from flask import Flask, current_app, url_for
from jinja2 import Environment
from jinja2.ext import Extension
from markupsafe import Markup

from spoolkit import times
from spoolkit.admin import lookup
from spoolkit.job import JobSpec
from spoolkit.system import clock
from spoolkit.system.templates import render_escaped
from spoolkit.visitor import blueprint, links
from spoolkit.visitor.links import Link

DAY = 24 * 3600


def add_to(app: Flask) -> None:
    """Give an application the template global ``job_progress``, and the addresses that the progress bars ask."""
    if blueprint.NAME in app.blueprints:
        return
    app.register_blueprint(blueprint.progress_blueprint())
    if "jinja_env" in vars(app):
        app.jinja_env.add_extension(_TemplateGlobal)
    else:
        # Not app.add_template_global(): it makes the environment now, and options that the site sets later are ignored.
        extensions = [*app.jinja_options.get("extensions", ()), _TemplateGlobal]
        app.jinja_options = {**app.jinja_options, "extensions": extensions}


class _TemplateGlobal(Extension):
    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals[job_progress.__name__] = job_progress


def job_progress(
    job: JobSpec | str,
    *,
    label: str = "Progress",
    result_url: str | None = None,
    expires: float | timedelta | datetime = DAY,
    nonce: str | None = None,
) -> Markup:
    """A progress bar of a job, as HTML: ``{{ job_progress(job) }}`` in a template.

    Args:
        job: The job that a call returned, or its id.
        label: What the job is for the visitor.
        result_url: Where the visitor finds the result, which the bar links to once the job is done.
        expires: When the bar stops to be available: seconds or a timedelta from now on, or an aware datetime.
        nonce: The nonce of the page's ``Content-Security-Policy``.

    Raises:
        ArgumentError: ``label``, ``result_url`` or ``expires`` cannot be used.
        UnknownJobError: ``job`` cannot be the id of a job.
        SpoolUnavailableError: The site has no ``SECRET_KEY``, and no key can be made in its spool directory.
    """
    link = Link(
        job.id if isinstance(job, JobSpec) else lookup.check_id(job),
        times.expires_at(expires, now=clock.now()),
        links.check_label(label),
        links.check_url(result_url),
    )
    token = links.sign(link, current_app)
    html = render_escaped(
        "spoolkit/progress.html",
        label=link.label,
        state_url=url_for(f"{blueprint.NAME}.state", token=token),
        page_url=url_for(f"{blueprint.NAME}.page", token=token),
        script_url=url_for(f"{blueprint.NAME}.script", version=blueprint.VERSION),
        has_result=link.result_url is not None,
        nonce=nonce,
    )
    return Markup(html)  # noqa: S704 - the template has escaped it
