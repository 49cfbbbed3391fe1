"""The machine: time, processes, signals, the logger, small files. No module here knows a job."""
