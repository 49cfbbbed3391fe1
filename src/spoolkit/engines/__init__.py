"""The engines: ``spool`` for jobs that must survive, ``thread`` for work that may be lost with the process."""
