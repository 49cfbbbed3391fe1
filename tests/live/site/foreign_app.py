"""Spool functions of others, whose answers uWSGI would take for another run: each writes down that it ran."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import uwsgi
import uwsgidecorators
from flask import Flask, Response, jsonify
from history import record, runs_so_far

from spoolkit import SPOOL_IGNORE, SPOOL_OK, SPOOL_RETRY, SpoolKit, current_job, spool, thread
from spoolkit.api import jobs_blueprint


class Answer(IntEnum):
    OK = -2


class Index:
    """As numpy's integers are: no int, but usable as one."""

    def __index__(self) -> int:
        return -2


def later(first: object, then: object) -> Callable[[str], object]:
    """Answer ``first`` once, ``then`` from then on."""
    return lambda name: first if runs_so_far(f"ran {name}") == 1 else then


def exits(name: str) -> object:
    if runs_so_far(f"ran {name}") == 1:
        sys.exit(f"from {name}")
    return -2


async def nothing() -> None:
    """Nobody awaits it."""


ANSWERS: dict[str, Callable[[str], object]] = {
    "ours": lambda name: SPOOL_OK,
    "enum": lambda name: Answer.OK,
    "index": lambda name: Index(),
    "plain": lambda name: -2,
    "retry": later(SPOOL_RETRY, SPOOL_OK),
    "ignore": later(SPOOL_IGNORE, SPOOL_OK),
    "none": later(None, -2),
    "true": later(True, -2),
    "false": later(False, -2),
    "text": later("ok", -2),
    "float": later(-2.0, -2),
    "huge": later(10**5000, -2),
    "exits": exits,
    "coroutine": lambda name: nothing(),
}


def handler(env: Any) -> object:
    name = env[b"name"].decode()
    record("ran", name)
    return ANSWERS[name](name)


uwsgi.spooler = handler
app = Flask(__name__)
SpoolKit(app)
app.register_blueprint(jobs_blueprint())


@uwsgidecorators.spoolraw
def raw_none(env: Any) -> None:
    record("ran", "raw_none")


@uwsgidecorators.spoolraw
def raw_ours(env: Any) -> object:
    record("ran", "raw_ours")
    return SPOOL_OK


@uwsgidecorators.spool
async def raw_async(env: Any) -> None:
    record("ran", "raw_async")


@uwsgidecorators.spool
def unreadable(env: Any) -> None:
    record("ran", "unreadable")


@spool(retries=0)
async def in_spool(word: str) -> str:
    await asyncio.sleep(0.01)
    record("async", "spool", word, current_job().id)
    return word


@thread
async def in_thread(word: str) -> str:
    await asyncio.sleep(0.01)
    record("async", "thread", word, current_job().id)
    return word


@spool(retries=0, timeout=1.0)
async def hangs() -> None:
    try:
        await asyncio.sleep(600)
    finally:
        record("async", "cancelled")


@spool(retries=0, timeout=1.0)
async def blocks() -> None:
    import time

    time.sleep(600)


@app.post("/handler/<name>")
def to_handler(name: str) -> Response:
    uwsgi.spool({b"name": name.encode()})
    return jsonify(ok=True)


@app.post("/decorated/<name>")
def to_decorated(name: str) -> Response:
    if name == "unreadable":
        uwsgi.spool({b"ud_spool_func": name.encode(), b"args": b"no pickle", b"kwargs": b"none either"})
    elif name == "in_spool":
        uwsgi.spool({b"ud_spool_func": name.encode()})
    else:
        globals()[name].spool(word="x")
    return jsonify(ok=True)


@app.post("/job/<name>")
def to_job(name: str) -> Response:
    words = () if name in ("hangs", "blocks") else ("hello",)
    return jsonify(job=globals()[name](*words).id)
