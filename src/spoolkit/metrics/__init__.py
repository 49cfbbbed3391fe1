"""Which figures does a monitoring system read, and in which format? See docs/metrics.md."""
