"""Types that the codec's tests send: at the top of a module, where a spooler would find them too."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from functools import cached_property


class Colour(enum.Enum):
    RED = "r"
    GREEN = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 9


class Word(str, enum.Enum):  # noqa: UP042 - such enums cross as well
    YES = "yes"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclass
class Point:
    x: object
    y: object = None

    @cached_property
    def seen(self) -> str:
        return "cached"


@dataclass(frozen=True)
class Fixed:
    name: str
    inner: Point
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError("run by the decoder")
        object.__setattr__(self, "name", self.name + "!")


@dataclass
class Slotted:
    __slots__ = ("a", "b")
    a: int
    b: str


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees
