"""What stands in the place of uWSGI's options where another server serves the site? The table, as data.

In what stands in the place, ``{value}`` is the value in the ini file; of an address, ``{host}`` and ``{port}`` are its
parts. tests/unit/test_moveout.py asks gunicorn, Granian, waitress, systemd and nginx whether they know these options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KINDS = ("gunicorn", "granian", "waitress", "spoolkit", "systemd", "nginx")
"""Where something can stand in the place of an option. What is under ``spoolkit`` is a setting or a command."""


@dataclass(frozen=True)
class Counterpart:
    """What stands in the place of options that mean the same."""

    #: The names of the options. One that ends in ``*`` stands for all that begin so and are not in the table.
    names: tuple[str, ...]
    #: What stands in their place, by its kind. Empty: nothing does.
    places: Mapping[str, str] = field(default_factory=dict)
    #: What the reader must know; why nothing stands there.
    note: str = ""
    #: Whether nothing has to stand there, because it is so without the option.
    needless: bool = False
    #: The places if the value is the path of a Unix socket; empty: the same.
    for_socket: Mapping[str, str] = field(default_factory=dict)


def _same(*names: str, note: str = "", **places: str) -> Counterpart:
    return Counterpart(names, places, note)


def _needless(*names: str, note: str) -> Counterpart:
    return Counterpart(names, note=note, needless=True)


def _nothing(*names: str, note: str) -> Counterpart:
    return Counterpart(names, note=note)


_ADDRESS = {"gunicorn": "--bind {value}", "granian": "--host {host} --port {port}", "waitress": "--listen={value}"}
_SOCKET = {"gunicorn": "--bind unix:{value}", "granian": "--uds {value}", "waitress": "--unix-socket={value}"}
_PASS = {"nginx": "proxy_pass http://{value};"}
_PASS_SOCKET = {"nginx": "proxy_pass http://unix:{value};"}

SECTIONS: Mapping[str, tuple[Counterpart, ...]] = {
    "Addresses": (
        Counterpart(("http-socket", "http"), _ADDRESS, for_socket=_SOCKET),
        Counterpart(
            ("socket", "uwsgi-socket"),
            _ADDRESS | _PASS,
            "HTTP instead of the uwsgi protocol: proxy_pass replaces uwsgi_pass",
            for_socket=_SOCKET | _PASS_SOCKET,
        ),
        _same(
            *("https", "https-socket"),
            gunicorn="--certfile FILE --keyfile FILE",
            granian="--ssl-certificate FILE --ssl-keyfile FILE",
            nginx="ssl_certificate FILE;",
            note="the value has the address and both files",
        ),
        _same(
            "chmod-socket",
            granian="--uds-permissions {value}",
            waitress="--unix-socket-perms={value}",
            note="gunicorn makes the socket with its --umask",
        ),
        _nothing("chown-socket", note="the socket belongs to the user of the unit"),
        _same("listen", gunicorn="--backlog {value}", granian="--backlog {value}", waitress="--backlog={value}"),
        _same("reuse-port", gunicorn="--reuse-port"),
        _needless("http-keepalive", note="connections are kept open by default"),
        _same("http-timeout", "socket-timeout", nginx="proxy_read_timeout {value};"),
        _same(
            "buffer-size",
            granian="--http1-buffer-size {value}",
            waitress="--max-request-header-size={value}",
            note="gunicorn accepts 8190 bytes of each header: --limit-request-field_size",
        ),
        _needless("post-buffering", "post-buffering-bufsize", note="nginx buffers requests by default"),
        _same("limit-post", waitress="--max-request-body-size={value}", nginx="client_max_body_size {value};"),
        _nothing("http-*", "https-*", note="the HTTP router of uWSGI: nginx does this"),
    ),
    "Processes": (
        _same(
            *("processes", "workers"),
            gunicorn="--workers {value}",
            granian="--workers {value}",
            note="waitress has one process: give it processes times threads as threads",
        ),
        _same(
            "threads", gunicorn="--threads {value}", granian="--blocking-threads {value}", waitress="--threads={value}"
        ),
        _needless("enable-threads", "single-interpreter", "thunder-lock", "master", "need-app", note="always so"),
        _needless("lazy-apps", "lazy", note="each process loads the application; gunicorn's --preload is the opposite"),
        _same("gevent", gunicorn="--worker-class gevent --worker-connections {value}"),
        _needless("gevent-monkey-patch", note="--worker-class gevent does this"),
        _nothing("cheaper", "cheaper-*", "cheap", "idle", note="the number of processes is fixed"),
        _same(
            "max-requests", gunicorn="--max-requests {value}", note="Granian counts seconds: --workers-lifetime SECONDS"
        ),
        _same("max-requests-delta", gunicorn="--max-requests-jitter {value}"),
        _same("max-worker-lifetime", granian="--workers-lifetime {value}"),
        _nothing("min-worker-lifetime", note="no minimum is needed"),
        _same(
            *("reload-on-rss", "evil-reload-on-rss"),
            granian="--workers-max-rss {value}",
            systemd="MemoryMax={value}M",
            note="MemoryMax counts all processes of the unit",
        ),
        _same("reload-on-as", "evil-reload-on-as", "limit-as", systemd="LimitAS={value}M"),
        _same(
            "harakiri",
            gunicorn="--timeout {value}",
            nginx="proxy_read_timeout {value};",
            note="with threads gunicorn does not end a single long request; Granian and waitress end none",
        ),
        _nothing("harakiri-*", note="gunicorn logs which process it ends"),
        _same(
            *("worker-reload-mercy", "reload-mercy"),
            gunicorn="--graceful-timeout {value}",
            granian="--workers-kill-timeout {value}",
        ),
    ),
    "Application": (
        _same("module", "wsgi", gunicorn="{value}", granian="--interface wsgi {value}", waitress="{value}"),
        _nothing("callable", note="write it after the module: shop:app"),
        _nothing(
            "wsgi-file",
            "file",
            "mount",
            note="name the module instead: shop:app; werkzeug's DispatcherMiddleware mounts",
        ),
        _same("manage-script-name", granian="--url-path-prefix PATH", waitress="--url-prefix=PATH"),
        _same(
            *("chdir", "chdir2"),
            gunicorn="--chdir {value}",
            granian="--working-dir {value}",
            systemd="WorkingDirectory={value}",
        ),
        _same(
            "pythonpath", "python-path", "pp", gunicorn="--pythonpath {value}", systemd="Environment=PYTHONPATH={value}"
        ),
        _same("virtualenv", "venv", "home", "pyhome", systemd="ExecStart={value}/bin/python -m gunicorn"),
        _same(
            "env",
            gunicorn="--env {value}",
            systemd="Environment={value}",
            note="with spaces in quotation marks, the name as well",
        ),
        _needless("plugin", "plugins", "plugin-dir", "plugins-dir", note="the servers are written for Python"),
        _nothing(
            *("import", "shared-import", "pyimport", "python-import"),
            note="import the module in the application",
        ),
        _same("py-autoreload", "py-auto-reload", "python-autoreload", gunicorn="--reload", granian="--reload"),
        _nothing("pyargv", note="read a variable of the environment instead of sys.argv"),
        _needless("strict", note="the servers refuse options that they do not know"),
        _needless(
            "skip-atexit-teardown", "py-call-osafterfork", "py-call-uwsgi-fork-hooks", note="Python itself forks"
        ),
        _same("py-tracebacker", spoolkit="flask spool show ID --stack", note="of a running job"),
    ),
    "Jobs": (
        _same("spooler", spoolkit="SPOOLKIT_SPOOL={value}", note="several directories are queues: SPOOLKIT_QUEUES"),
        _same("spooler-processes", spoolkit="flask spool run --processes {value}"),
        _same("spooler-external", spoolkit="SPOOLKIT_SPOOL={value}", note="flask spool run is another process anyway"),
        _same("spooler-max-tasks", spoolkit="SPOOLKIT_SPOOLER_MAX_JOBS={value}"),
        _nothing("spooler-harakiri", note="give the task a timeout: @spool(timeout={value})"),
        _needless(
            *("spooler-frequency", "spooler-freq", "spooler-quiet", "spooler-ordered", "spooler-chdir"),
            note="flask spool run is woken by each call, and follows priorities",
        ),
        _needless("spooler-import", "spooler-python-import", note="flask spool run loads the application"),
        _nothing(
            *("mule", "mules", "farm"),
            note='@mule of spoolkit.compat, a @spool task, or a BackgroundThread with where="one process"',
        ),
        _nothing(
            *("cron", "cron2", "unique-cron"),
            note="@periodic for a function; a timer of systemd, OnCalendar=, for a command",
        ),
        _nothing("attach-daemon", "attach-daemon2", "smart-attach-daemon", note="a unit of its own"),
        _nothing(
            *("cache", "cache2", "cache-*", "sharedarea", "queue", "queue-*", "locks", "lock-engine"),
            note="uWSGI's memory for all processes: Redis, a database or a file",
        ),
    ),
    "Starting and stopping": (
        _needless("die-on-term", "no-orphans", "exit-on-reload", "vacuum", note="always so"),
        _nothing("hook-*", "exec-*", note="ExecStartPre= and ExecStopPost= of the unit, or gunicorn's server hooks"),
        _nothing(
            *("touch-reload", "touch-chain-reload", "touch-workers-reload", "fs-reload"),
            note="systemctl reload, or a path unit of systemd: PathChanged={value}",
        ),
        _nothing("master-fifo", note="signals: SIGHUP reloads gunicorn and Granian, SIGTERM stops"),
        _same("pidfile", "pidfile2", "safe-pidfile", gunicorn="--pid {value}", granian="--pid-file {value}"),
        _needless("daemonize", "daemonize2", note="systemd needs a process in the foreground"),
        _nothing(
            "emperor", "emperor-*", "vassal-*", "legion", "legion-*", "zerg", "zerg-*", note="a unit for each site"
        ),
        _nothing(
            *("subscribe-to", "subscribe2", "fastrouter", "fastrouter-*", "subscription-*"),
            note="upstream in nginx names the servers",
        ),
    ),
    "Rights and limits": (
        _same("uid", gunicorn="--user {value}", systemd="User={value}"),
        _same("gid", gunicorn="--group {value}", systemd="Group={value}"),
        _same("add-gid", systemd="SupplementaryGroups={value}"),
        _same("umask", gunicorn="--umask {value}", systemd="UMask={value}"),
        _same("chroot", systemd="RootDirectory={value}"),
        _same("cap", systemd="CapabilityBoundingSet=CAP_NET_BIND_SERVICE", note="name the capabilities"),
        _same("max-fd", systemd="LimitNOFILE={value}"),
        _same("limit-nproc", systemd="LimitNPROC={value}"),
        _same("prio", systemd="Nice={value}"),
        _same("cpu-affinity", systemd="CPUAffinity=0 1", note="name the processors"),
        _same("cgroup", "cgroup-opt", systemd="Slice=site.slice"),
        _needless("allowed-modifiers", "protocol", note="there is no uwsgi protocol"),
    ),
    "Logs and figures": (
        _same(
            *("logto", "logto2", "logger"),
            gunicorn="--error-logfile {value}",
            systemd="StandardError=append:{value}",
            note="a logger has a value of its own form",
        ),
        _same("req-logger", gunicorn="--access-logfile {value}", granian="--access-log"),
        _same("disable-logging", granian="--no-access-log", note="gunicorn and waitress log no requests by default"),
        _same("logformat", "log-format", gunicorn="--access-logformat FORMAT", granian="--access-log-fmt FORMAT"),
        _nothing("log-*", "logdate", "memory-report", note="the logging of Python, of gunicorn, or journald"),
        _same("procname", "auto-procname", gunicorn="--name {value}", granian="--process-name {value}"),
        _nothing("procname-*", note="gunicorn's --name, Granian's --process-name"),
        _same(
            *("stats", "stats-server", "stats-http"),
            gunicorn="--statsd-host HOST:PORT",
            granian="--metrics",
            spoolkit="flask spool metrics",
        ),
        _nothing("carbon", "stats-push", "snmp", "snmp-community", note="flask spool metrics has the figures of jobs"),
    ),
    "Files and routes": (
        _same(
            "static-map",
            granian="--static-path-route ROUTE --static-path-mount FOLDER",
            nginx="alias FOLDER;",
            note="the value is ROUTE=FOLDER",
        ),
        _same("check-static", "static-*", nginx="try_files $uri @site;"),
        _needless("offload-threads", note="nginx serves files"),
        _nothing(
            "route", "route-*", "error-route", "final-route", "response-route", note="rewrite and return of nginx"
        ),
        _needless(
            *("ignore-sigpipe", "ignore-write-errors", "disable-write-exception"),
            note="a client that is gone raises nothing in the application",
        ),
    ),
}
"""The counterparts, by subject."""
