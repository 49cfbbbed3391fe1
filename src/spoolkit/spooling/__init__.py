"""The two sides of ``@spool``: how a call becomes a file, and how a spooler runs the job of a file."""
