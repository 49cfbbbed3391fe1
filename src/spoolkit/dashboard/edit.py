"""A job is run again with other arguments: the form, and what it does."""

from __future__ import annotations

from collections.abc import Mapping

from flask import request
from flask.typing import ResponseReturnValue

from spoolkit.admin import editing, lookup
from spoolkit.admin.editing import Form
from spoolkit.admin.lookup import Details
from spoolkit.dashboard.access import Access
from spoolkit.dashboard.routes import STATUSES, Routes, back_to, record, render
from spoolkit.errors import ArgumentError, DuplicateJobError, SpoolkitError

routes = Routes()

PREFIX = "arg."
"""Before the name of a parameter in the names of the fields, which have others among them."""


@routes.page("/jobs/<id>/edit", right="edit")
def edit_job(access: Access, id: str) -> ResponseReturnValue:
    """The arguments of a job, to be edited."""
    access.require("view", "arguments")
    found = lookup.details(id, newest=0)
    form = editing.form_of(found)
    return _page(found, form, {one.name: one.text for one in form.fields})


@routes.action("/jobs/<id>/run-again", right="edit")
def run_again(access: Access, id: str) -> ResponseReturnValue:
    """Make a new job with the arguments that were entered; with one that is wrong, nothing is done."""
    access.require("view", "arguments")
    found = lookup.details(id, newest=0)
    form = editing.form_of(found)
    texts = {one.name: request.form.get(f"{PREFIX}{one.name}", "") for one in form.fields}
    arguments, errors = editing.arguments_from(form, texts)
    if errors:
        return _page(found, form, texts, errors)
    try:
        new = editing.run_again(found, arguments, by=access.user)
    except ArgumentError as error:
        return _page(found, form, texts, {error.argument or "": error})
    except DuplicateJobError as error:
        return _page(found, form, texts, {"": error})
    record(access, f"ran job {id} again with other arguments, as job {new}")
    return back_to("job", id=new)


def _page(
    found: Details, form: Form, texts: Mapping[str, str], errors: Mapping[str, SpoolkitError] | None = None
) -> ResponseReturnValue:
    """The form, with what was entered and what is wrong with it; a secret value is entered anew."""
    errors = errors or {}
    names = {one.name for one in form.fields}
    general = [error for name, error in errors.items() if name not in names]
    status = next((code for error in errors.values() for kind, code in STATUSES if isinstance(error, kind)), 200)
    return render(
        "edit.html",
        live=False,
        status=status,
        job=found.status,
        form=form,
        texts={one.name: "" if one.hidden == "secret" else texts.get(one.name, "") for one in form.fields},
        errors=errors,
        general=general,
        prefix=PREFIX,
    )
