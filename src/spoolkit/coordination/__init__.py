"""May a job be made or run beside others? Derived from living jobs: no counter, no lease."""
