"""The code on docs/batches.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flask import Flask

from spoolkit import Batch, Chain, SpoolKit, spool
from spoolkit.spooling.standalone import Spooler
from spoolkit.store import locations

PAGE = Path(__file__).parents[2] / "docs" / "batches.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@spool
def fetch(url: str) -> int:
    return len(url)


@spool
def store_row(row: int) -> int:
    return row * 2


def test_the_code_on_the_page_runs(tmp_path: Path) -> None:
    app = Flask("docs")
    app.config["SPOOLKIT_SPOOL"] = tmp_path / "spool"
    SpoolKit(app)
    calls, batch_block, callback, chain_block = BLOCKS
    names: dict[str, Any] = {"fetch": fetch, "store_row": store_row, "rows": [1, 2, 3], "__name__": __name__}
    with app.app_context():
        for block in (calls, callback, batch_block, chain_block):
            exec(compile(block, str(PAGE), "exec"), names)
        spooler = Spooler(str(tmp_path / "spool"))
        for _ in range(4):
            spooler.run_due()
        batch, line = names["batch"], names["line"]
        assert isinstance(batch, Batch)
        assert batch.callback is not None
        assert batch.callback.result == "12 bytes in 3 files, 0 failed"
        assert isinstance(line, Chain)
        assert line.result == 2 * len("https://example.org/a.csv")
        locations.store().close()
