"""May a job be made or run, beside others, or before a commit? What follows from its end? From living jobs, files."""
