"""How the application's own argument types are converted for a spooler and back.

The types of ``spool_task(5)`` (numbers, text, bytes, dates, Decimals, UUIDs, Enums, dataclasses, paths) are supported
without this module. ``prepare_spooler_args`` is for uWSGI's own spool functions, whose arguments are bytes.
"""

from fractions import Fraction

from spoolkit import prepare_spooler_args, register, restore_spooler_args

__all__ = ["prepare_spooler_args", "restore_spooler_args"]

# Register a type of your own once, with two functions: one converts it to a supported type, the other one back.
register(
    Fraction,
    tag="fraction",
    encode=lambda value: [value.numerator, value.denominator],
    decode=lambda value: Fraction(*value),
)
