"""The commands of a contributor: ``make check``, ``make help``, and the hooks of pre-commit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

PROJECT = Path(__file__).parents[2]
MAKEFILE = (PROJECT / "Makefile").read_text()


def words(command: str) -> list[str]:
    """The program and its subcommand, without the path and the options."""
    return [Path(word).name for word in command.split() if not word.startswith("--") or word == "--check"]


def test_pre_commit_runs_the_commands_of_make_check() -> None:
    recipe = MAKEFILE.partition("\ncheck:")[2].partition("\n\n")[0].splitlines()[1:]
    checks = [words(line.replace("$(BIN)", ".venv/bin")) for line in recipe]
    repos = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [words(hook["entry"]) for repo in repos for hook in repo["hooks"]]
    assert len(checks) == 4
    assert hooks == checks


def test_make_help_lists_every_phony_target() -> None:
    [phony] = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    printed = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=100
    ).stdout
    assert sorted(line.split()[0] for line in printed.splitlines()) == sorted(phony.split())


def test_contributing_names_targets_that_exist() -> None:
    named = set(re.findall(r"^make ([a-z-]+)", (PROJECT / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert named >= {"test", "check", "format", "matrix"}
    assert all(re.search(rf"^{name}:", MAKEFILE, re.MULTILINE) for name in named)
