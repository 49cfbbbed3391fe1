"""Makes this uWSGI look like one before 2.0.27 without enable-threads; later ones cannot be without."""

import uwsgi

uwsgi.has_threads = 0
