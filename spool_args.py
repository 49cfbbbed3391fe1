"""The application's customs office: how arguments cross into uWSGI's spooler and come back.

spoolkit's own tasks need nothing from here: ``spool_task(5)`` carries numbers, text, bytes, dates, Decimals, UUIDs,
Enums, dataclasses and paths exactly. ``prepare_spooler_args`` is for plain uWSGI spool functions, which take bytes
and give bytes.
"""

from fractions import Fraction

from spoolkit import prepare_spooler_args, register, restore_spooler_args

__all__ = ["prepare_spooler_args", "restore_spooler_args"]

# A type of your own is let through here, once, by two functions: to a value that crosses already, and back.
register(
    Fraction,
    tag="fraction",
    encode=lambda value: [value.numerator, value.denominator],
    decode=lambda value: Fraction(*value),
)
