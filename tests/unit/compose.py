"""A compose file as Compose reads it: variables replaced, anchors resolved, and checked against the specification."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def read(path: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """The content of the file. Raises ``KeyError`` with the message of the file where a variable is missing."""

    def value(found: re.Match[str]) -> str:
        name, kind, text = found.groups()
        if given := variables.get(name):
            return given
        if kind != "-":
            raise KeyError(f"{name}: {text}")
        return str(text)

    parts = path.read_text().split("$$")  # a dollar that is not for Compose
    content: dict[str, Any] = yaml.safe_load("$".join(_VARIABLE.sub(value, part) for part in parts))
    return content


def check(content: Mapping[str, Any]) -> None:
    """Check it against the specification of compose files, where the library for that is installed."""
    if not os.environ.get("CI"):
        pytest.importorskip("compose_spec")
    from compose_spec import PyCompose

    read = PyCompose.from_yaml(yaml.dump(content, Dumper=_Plain))
    assert sorted(read.service_names()) == sorted(content["services"])
