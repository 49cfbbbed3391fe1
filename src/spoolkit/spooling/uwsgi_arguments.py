"""How does a caller of ``uwsgi.spool`` or of uwsgidecorators prepare the arguments of a job?"""

from __future__ import annotations

import os

from spoolkit.encoding import uwsgi_args
from spoolkit.system import clock


def prepare_spooler_args(**kwargs: object) -> dict[bytes, bytes]:
    """Make the bytes-only dict for ``uwsgi.spool`` and for functions of ``uwsgidecorators``.

    Text becomes UTF-8, bytes stay as they are, other values become JSON text.

    Args:
        **kwargs: The arguments by name. ``at`` (unix time in seconds, or an aware datetime), ``priority`` (a whole
            number, zero or more), ``spooler`` (the absolute path of a spool directory) and ``body`` (bytes of any size)
            have the meaning that uWSGI gives them.

    Returns:
        The dict. :func:`spoolkit.restore_spooler_args` is the inverse.

    Raises:
        ArgumentError: uWSGI would cut the argument, misread it, or delete the job without running it. The subclass
            says why, and the error names the argument.
    """
    if "spooler" in kwargs:
        # uWSGI compares the text with the real paths of its own directories.
        kwargs["spooler"] = os.path.realpath(uwsgi_args.spool_dir(kwargs["spooler"]))
    return uwsgi_args.encode(kwargs, now=clock.now())
