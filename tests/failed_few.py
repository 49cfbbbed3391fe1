"""Exit with 0 if the last run of pytest was a whole one in which only a few tests failed, and name them.

    python tests/failed_few.py CACHE

A test that stood still has ended its run: other tests were not run then, and it is no matter of a few.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FEW = 3
"""How many failed tests may be run again."""


def main(cache: Path) -> str | None:
    """Return why the failed tests are not run again; ``None``: they are."""
    try:
        is_whole = json.loads((cache / "v/spoolkit/is_whole").read_text())
        failed = json.loads((cache / "v/cache/lastfailed").read_text())
    except FileNotFoundError:
        return "no test was run"
    if is_whole is not True:
        return "not all tests were run"
    if not 1 <= len(failed) <= FEW:
        return f"{len(failed)} tests failed"
    print(*failed, sep="\n")
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
