"""When do the jobs of periodic tasks run, and who makes the next one? See docs/periodic.md."""
