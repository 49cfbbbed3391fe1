"""May a job be made or run, beside others, or before a transaction is committed? Derived from living jobs and files."""
