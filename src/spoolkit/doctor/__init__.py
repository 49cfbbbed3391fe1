"""``flask spool doctor``: what keeps jobs from running, or will. Each module checks one subject."""
