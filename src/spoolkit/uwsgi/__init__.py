"""What is known of the uWSGI server: its options, its master, its timers. Only ``bridge`` imports ``uwsgi``."""
