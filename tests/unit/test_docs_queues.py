"""The code on docs/queues.md does what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from spoolkit import Job, SpoolKit, registry, spool
from spoolkit.settings import Settings
from spoolkit.uwsgi import recommended

PAGE = (Path(__file__).parents[2] / "docs" / "queues.md").read_text()


def blocks(heading: str, language: str = "python") -> list[str]:
    (section,) = re.findall(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(registry, "this_process", registry.Registry())
    return {"spool": spool, "__name__": "of_the_page"}


def test_jobs_go_to_the_queues_that_the_code_names(namespace: dict[str, Any], tmp_path: Path) -> None:
    configuration, declarations, calls = blocks("Queues")
    exec(configuration, namespace)
    namespace["SPOOLKIT_QUEUES"]["reports"]["path"] = str(tmp_path / "site-reports")
    app = Flask("shop")
    app.config.update(SPOOLKIT_SPOOL=tmp_path / "my_spools", SPOOLKIT_QUEUES=namespace["SPOOLKIT_QUEUES"])
    SpoolKit(app)
    with app.app_context():
        exec(declarations, namespace)
        jobs: list[Job[Any]] = [eval(call, namespace) for call in calls.splitlines()]
        assert [job.queue for job in jobs] == ["mail", "reports", None]


def test_the_lines_for_uwsgi_are_those_that_the_command_prints(namespace: dict[str, Any]) -> None:
    exec(blocks("Queues")[0], namespace)
    queues = [
        (options.get("path", f"%dmy_spools-queues/{name}"), options.get("processes", 1))
        for name, options in namespace["SPOOLKIT_QUEUES"].items()
    ]
    printed = recommended.ini(module="app:app", spool="%dmy_spools", spoolers=2, queues=queues)
    (shown,) = blocks("Their spoolers", "ini")
    assert shown in printed


def test_jobs_run_in_the_order_of_their_priorities(
    namespace: dict[str, Any], directory: str, work: Callable[[], None]
) -> None:
    done: list[str] = []
    declarations, calls = blocks("Priorities")
    exec(re.sub(r"def (\w+)(.*?): \.\.\.", r"def \1\2: done.append('\1')", declarations), namespace | {"done": done})
    namespace |= {name: registry.by_function(name)[0].task for name in ("send_code", "send_mail", "make_statistics")}
    exec(calls, namespace)
    work()
    assert done == ["send_code", "send_mail", "send_mail", "make_statistics"]
    assert blocks("Priorities", "ini")[0] in recommended.ini(module="app:app", priorities=True)


def test_the_limit_of_the_page_is_a_configuration(tmp_path: Path) -> None:
    (code,) = blocks("A limit for waiting jobs")
    namespace: dict[str, Any] = {"SPOOLKIT_SPOOL": str(tmp_path)}
    exec(code, namespace)
    config = Settings.load(namespace, str(tmp_path))
    assert (config.max_waiting, config.queues[0].max_waiting) == (10_000, 500)
