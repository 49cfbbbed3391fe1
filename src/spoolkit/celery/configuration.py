"""Which Celery application carries the jobs of a Flask application? The one that ``app.config["CELERY"]`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery
from flask import Flask

from spoolkit import application
from spoolkit.errors import ConfigurationError, shown

SETTING = "CELERY"
"""The key in the application's configuration, as in Flask's documentation."""

CONNECT_TIME, SOCKET_TIME = 4.0, 10.0
"""Seconds in which a broker has to accept a connection, and to answer: one that is silent must not hold a spooler."""

VISIBLE = 60
"""Seconds after which Redis delivers a message again that nobody has acknowledged: a worker that was killed had it. Of
a job that runs for longer, the copy asks and is told no."""

_FIXED: Mapping[str, Any] = {
    # Nothing is unpickled: who can write to the broker could run code otherwise.
    "accept_content": ["json"],
    "task_serializer": "json",
    "event_serializer": "json",
    "task_protocol": 2,
    "worker_consumer": "spoolkit.celery.consumer:Consumer",
    # A message is acknowledged once its end is reported. What comes back before that asks, and is not run twice.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_acks_on_failure_or_timeout": True,
}
"""Settings that are not the site's to change: what is promised hangs on them."""

_DEFAULTS: Mapping[str, Any] = {
    "task_ignore_result": True,  # the end comes back to the machine that accepted the job
    "worker_prefetch_multiplier": 1,
    "broker_connection_retry_on_startup": True,
    "broker_connection_timeout": CONNECT_TIME,
}

_made: WeakKeyDictionary[Flask, Celery] = WeakKeyDictionary()


def celery_app(app: Flask) -> Celery:
    """Return the Celery application of a Flask application; made at the first call.

    Raises:
        ConfigurationError: There is no broker, or a setting contradicts what spoolkit promises.
    """
    if (made := _made.get(app)) is None:
        made = Celery(application.name_of(app), set_as_current=False)
        made.config_from_object(settings(app.config.get(SETTING)))
        _made[app] = made
    return made


def settings(given: object) -> dict[str, Any]:
    """Return Celery's settings for what ``app.config["CELERY"]`` holds.

    Raises:
        ConfigurationError: It holds no broker, or what contradicts the promises.
    """
    if not isinstance(given, Mapping) or not given.get("broker_url"):
        raise ConfigurationError(
            f'{SETTING} is {shown(given)}: SPOOLKIT_ENGINE = "celery" needs app.config["{SETTING}"], Celery\'s own '
            'settings in lower case, with a broker: {"broker_url": "redis://localhost"}',
            setting=SETTING,
        )
    for name, fixed in _FIXED.items():
        if name in given and given[name] != fixed and set(_listed(given[name])) != set(_listed(fixed)):
            raise ConfigurationError(
                f"{SETTING}[{name!r}] is {shown(given[name])}, and spoolkit needs {fixed!r}: leave it out",
                setting=SETTING,
            )
    found = {**_DEFAULTS, **given, **_FIXED}
    if not isinstance(url := found["broker_url"], str):
        url = ";".join(url)  # the same for Celery, which then tries one after the other
    options = dict(found.get("broker_transport_options") or {})
    if url.startswith(("amqp", "pyamqp")):
        # Only then does publish() return once the broker has the message.
        options["confirm_publish"] = True
    elif is_redis(url):
        options.setdefault("visibility_timeout", VISIBLE)
        options.setdefault("socket_connect_timeout", CONNECT_TIME)
        options.setdefault("socket_timeout", SOCKET_TIME)
    return {**found, "broker_url": url, "broker_transport_options": options}


def is_redis(url: str) -> bool:
    """Return whether a broker is Redis, or something like it: then the client keeps what is not acknowledged."""
    return url.startswith(("redis", "sentinel", "valkey"))


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple, set)) else [value]
