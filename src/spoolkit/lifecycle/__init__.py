"""When a process serves, stops and reloads; one server per module."""
