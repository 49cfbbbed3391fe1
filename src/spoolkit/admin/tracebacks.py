"""Which frames of a traceback are the application's own? Pure: it reads the text that an attempt has left.

A record keeps the text alone: the process that raised the error is gone, and its code may have changed since.
"""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

TAIL = 16 * 1024
"""Characters at the end of a traceback in which its last own frame is looked for first."""

# In a group of exceptions, each line has bars before it, one for each level.
_FRAME = re.compile(r'(?P<margin>[ |+]*)  File "(?P<file>[^\n]+)", line (?P<line>\d+), in (?P<function>[^\n]+)')

_STANDARD = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))

_OTHERS = (
    "<",
    *(os.path.join(folder, "") for path in _STANDARD for folder in (path, os.path.realpath(path))),
    os.path.join(os.path.dirname(os.path.dirname(__file__)), ""),
)
"""How the paths of files begin that are not the application's: those of Python and of spoolkit."""


@dataclass(frozen=True)
class Frame:
    """One frame of a traceback."""

    #: The path of its file.
    file: str
    #: The number of the line, from 1.
    line: int
    #: The name of the function.
    function: str
    #: The code of the line; empty if the file could not be read then.
    code: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it belongs to the application: not to Python, nor to an installed package."""
        return is_own(self.file)

    @property
    def where(self) -> str:
        """The file, the line and the function, as people say it: ``tasks.py:12, in send_mail``."""
        return f"{os.path.join(*self.file.split('/')[-2:])}:{self.line}, in {self.function}"


@dataclass(frozen=True)
class Part:
    """Some lines of a traceback that stand together."""

    #: The lines.
    text: str
    #: How many frames of libraries they are; 0: own frames, or text between the frames.
    of_libraries: int = 0


@lru_cache(maxsize=4096)
def is_own(file: str) -> bool:
    """Whether the file belongs to the application: not to Python, nor to an installed package."""
    return not file.startswith(_OTHERS) and "-packages/" not in file


def parts(text: str) -> list[Part]:
    """Split a traceback into own frames, with what stands between them, and runs of frames of libraries."""
    found = []
    for is_library, blocks in groupby(_blocks(text), lambda block: block[0] is not None and not block[0].is_own):
        several = list(blocks)
        lines = "\n".join(line for _, block in several for line in block)
        found.append(Part(lines, len(several) if is_library else 0))
    return found


def without_libraries(text: str) -> str:
    """Return a traceback with a line in place of each run of frames of libraries.

    A traceback in which no frame is the application's own stays as it is.
    """
    found = parts(text)
    if last_own_frame(text) is None:
        return text
    return "\n".join(f"  … {_frames(part.of_libraries)}" if part.of_libraries else part.text for part in found)


def _frames(count: int) -> str:
    return "1 frame of a library" if count == 1 else f"{count} frames of libraries"


def last_own_frame(text: str) -> Frame | None:
    """Return the last frame that is the application's own: where its code was when it failed.

    Returns:
        ``None`` if there is none.
    """
    for tail in dict.fromkeys((text[-TAIL:], text)):
        for frame, _ in reversed(list(_blocks(tail))):
            if frame is not None and frame.is_own:
                return frame
    return None


def _blocks(text: str) -> Iterator[tuple[Frame | None, list[str]]]:
    """Each frame with its lines, and each line that belongs to none."""
    frame: Frame | None = None
    lines: list[str] = []
    margin = ""
    for line in text.rstrip("\n").split("\n"):
        if found := _FRAME.fullmatch(line):
            if frame is not None:
                yield frame, lines
            margin = found["margin"]
            frame, lines = Frame(found["file"], int(found["line"]), found["function"]), [line]
        elif frame is not None and line.startswith((f"{margin}    ", f"{margin}  [Previous line repeated")):
            if len(lines) == 1 and not line.startswith(f"{margin}  ["):
                frame = Frame(frame.file, frame.line, frame.function, line.removeprefix(margin).strip())
            lines.append(line)
        else:
            if frame is not None:
                yield frame, lines
                frame = None
            yield None, [line]
    if frame is not None:
        yield frame, lines
