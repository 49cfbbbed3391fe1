"""The benchmark suite, ``python -m benchmarks``, and some programs that measure one thing each."""
