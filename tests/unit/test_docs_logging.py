"""The code of docs/logging.md runs, and does what the page says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "logging.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)

USE = """
from spoolkit.system import log
with log.about("abc", "shop.pay"):
    logging.getLogger("shop").info("of the site")
    log.error("of spoolkit", error=ValueError("boom"))
logging.getLogger("shop").info("outside")
"""


@pytest.mark.parametrize("block", BLOCKS, ids=["basicConfig", "dictConfig", "json"])
def test_each_configuration_gives_lines_with_the_job(block: str) -> None:
    done = subprocess.run([sys.executable, "-c", block + USE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    if "JsonFormatter" in block:
        first, second, third = map(json.loads, lines)
        assert (first["message"], first["job"], first["task"]) == ("of the site", "abc", "shop.pay")
        assert (second["logger"], second["job"], second["error"]) == ("spoolkit", "abc", "ValueError: boom")
        assert third["job"] == "-"
    else:
        assert lines[0].endswith("INFO shop [abc]: of the site")
        assert lines[1].endswith("ERROR spoolkit [abc]: of spoolkit")
        assert lines[2:-1] == ["  ValueError: boom"]
        assert lines[-1].endswith("INFO shop [-]: outside")
