"""The time at which the clock of a test stands that puts it forward itself: see ``time_passes`` in ``conftest.py``."""

NOW = 2_500_000_000.0
"""Unix time in seconds, after the machine's own time, which files get."""
