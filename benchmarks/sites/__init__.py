"""The same job in spoolkit and in each rival: ``enqueue(number, stamp, due)``, and a task that calls ``ran()``."""
