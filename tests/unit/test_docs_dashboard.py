"""The code on docs/dashboard.md works as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Request
from test_dashboard_frame import login
from werkzeug.test import EnvironBuilder

from spoolkit.admin import filters
from spoolkit.dashboard import ALL_RIGHTS

PAGE = (Path(__file__).parents[2] / "docs" / "dashboard.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_site_of_the_page_asks_for_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOOLKIT_SPOOL", str(tmp_path / "spool"))
    names: dict[str, Any] = {"__name__": "shop"}
    exec(BLOCKS[0], names)
    client = names["app"].test_client()
    assert client.get("/spool").status_code == 404
    monkeypatch.setenv("SPOOLKIT_DASHBOARD_PASSWORD", "xyzzy")
    assert client.get("/spool").status_code == 401
    assert client.get("/spool", headers=login("anna", "xyzzy")).status_code == 200


def test_the_function_of_the_page_lets_its_users_in() -> None:
    names: dict[str, Any] = {"dashboard_blueprint": lambda access: access}
    exec(BLOCKS[1], names)

    def answer(user: str | None) -> Any:
        cookie = {} if user is None else {"Cookie": f"user={user}"}
        with Flask("shop").app_context():
            return names["blueprint"](Request(EnvironBuilder(headers=cookie).get_environ()))

    assert answer(None).headers["Location"] == "/login"
    assert answer("mallory") is None
    assert answer("anna").may("purge")
    assert answer("ben").can == {"view"}
    assert answer("cleo").may("view", "logs", "retry")


def test_the_page_has_all_rights_and_all_words_of_a_filter() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| (?!finds)", PAGE, re.MULTILINE)) == ALL_RIGHTS
    words = re.findall(r"^\| `(\w+(?:\.\w+)?:[^`]+)` \|", PAGE, re.MULTILINE)
    assert {word.partition(":")[0] for word in words} == {*filters.NAMES, "arg.user_id"}
    assert str(filters.parse(" ".join(words)))
