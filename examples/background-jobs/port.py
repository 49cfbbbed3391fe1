"""Make the site as it is after some of the README's steps, to run it or to look at it.

    python port.py STEP FOLDER

STEP 0 is the folder ``before``, the last one the folder ``after``. FOLDER is created.
"""

from __future__ import annotations

import re
import shutil
import sys
from difflib import unified_diff
from pathlib import Path

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"(?<=^```diff\n)(.*?)(?=^```$)", re.DOTALL | re.MULTILINE)


def steps() -> list[str]:
    """Return the diffs of the README, in order."""
    return BLOCK.findall((HERE / "README.md").read_text())


def ported(step: int, folder: Path) -> Path:
    """Create the site in ``folder`` as it is after so many steps, and return the folder."""
    leftovers = shutil.ignore_patterns("__pycache__", "my_spools", "done.log", "partner")
    shutil.copytree(HERE / "before", folder, ignore=leftovers)
    for diff in steps()[:step]:
        apply(diff, folder)
    return folder


def apply(diff: str, folder: Path) -> None:
    """Change the files of ``folder`` as ``patch -p1`` does, but only where each line is exactly that of the diff."""
    for part in re.split(r"^(?=--- )", diff, flags=re.MULTILINE)[1:]:
        old, new, *hunks = re.split(r"^(?:--- |\+\+\+ |@@ .* @@$)", part, flags=re.MULTILINE)[1:]
        path = folder / (new if new.strip() != "/dev/null" else old).strip().partition("/")[2]
        content = path.read_text() if old.strip() != "/dev/null" else ""
        for hunk in hunks:
            lines = hunk.splitlines(keepends=True)[1:]
            before = "".join(line[1:] for line in lines if line[0] != "+")
            after = "".join(line[1:] for line in lines if line[0] != "-")
            if content.count(before) != 1 and content:
                raise ValueError(f"{path.name} does not have these lines once:\n{before}")
            content = content.replace(before, after) if content else after
        if new.strip() == "/dev/null":
            path.unlink()
        else:
            path.write_text(content)


def difference(old: Path, new: Path) -> str:
    """Return what turns the files of one folder into those of another, as ``diff -u`` shows it."""
    names = sorted({path.name for folder in (old, new) for path in folder.iterdir() if path.is_file()})
    return "".join(_difference(old / name, new / name) for name in names)


def _difference(old: Path, new: Path) -> str:
    lines = [path.read_text().splitlines(keepends=True) if path.exists() else [] for path in (old, new)]
    names = [f"{side}/{path.name}" if path.exists() else "/dev/null" for side, path in (("a", old), ("b", new))]
    return "".join(unified_diff(*lines, *names))


if __name__ == "__main__":
    ported(int(sys.argv[1]), Path(sys.argv[2]))
