"""The two sides of ``@thread``, and background threads: work in the threads of a serving process."""
