"""How does a Flask application get spoolkit? The extension, with the application's settings and commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from flask import Flask, current_app, jsonify
from flask.typing import ResponseReturnValue

from spoolkit import application, callbacks, registry, selection, task
from spoolkit.admin import pausing
from spoolkit.callbacks import AroundFunction, Callbacks, HeadersFunction
from spoolkit.cli import commands
from spoolkit.coordination import commits
from spoolkit.encoding import redact
from spoolkit.encoding.redact import Named
from spoolkit.errors import ConfigurationError, QueueFull, SpoolkitError, shown
from spoolkit.handle import Job
from spoolkit.lifecycle import flask_run, hooks, sweeping, waitress
from spoolkit.selection import Jobs, States
from spoolkit.spooling import engine, leftovers, returns
from spoolkit.store import locations
from spoolkit.system import log
from spoolkit.task import Task
from spoolkit.threads.background import BackgroundThread, BackgroundThreads, Where
from spoolkit.uwsgi import bridge, served
from spoolkit.visitor import element as visitor

if TYPE_CHECKING:
    import sqlalchemy

H = TypeVar("H", bound=HeadersFunction)
A = TypeVar("A", bound=AroundFunction)
F = TypeVar("F", bound=Callable[[], object])


def _answer_full(error: QueueFull) -> ResponseReturnValue:
    """What a visitor gets where the site itself handles neither this error nor all of spoolkit's."""
    own = current_app.error_handler_spec[None][None].get(SpoolkitError)
    if own is not None:
        return current_app.ensure_sync(own)(error)  # type: ignore[no-any-return]
    return jsonify(error=error.to_dict()), 503, {"Retry-After": str(error.RETRY_AFTER)}


class SpoolKit:
    """spoolkit for a Flask application: ``SpoolKit(app)``, or :meth:`init_app` in a factory.

    The tasks of this process are its attributes, by the names of their functions: with ``background_tasks =
    SpoolKit()``, ``background_tasks.record_visit(5)`` calls the task ``record_visit``, whatever module it is in. A view
    finds this object as ``current_app.extensions["spoolkit"]``.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._threads = BackgroundThreads()
        self._commits = commits.Options()
        self._apps: WeakSet[Flask] = WeakSet()
        self._callbacks = Callbacks()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Run tasks in the context of ``app``, with its ``SPOOLKIT_*`` settings, and add the command ``flask spool``.

        Where a process has several applications, a job runs in the one that was current at its call, else in the one
        that was initialised last.

        Args:
            app: The application, with its configuration.

        Raises:
            ConfigurationError: A setting has a value that cannot be used, or uWSGI has spoolers and gives each
                application an interpreter of its own.
        """
        config = application.settings_of(app)
        self._apps.add(app)
        app.extensions["spoolkit"] = self
        app.cli.add_command(commands)
        directories = bridge.directories()
        if directories and served.has_separate_interpreters(served.options()):
            raise ConfigurationError(served.SEPARATE_INTERPRETERS, setting="single-interpreter")
        application.add(app, self._callbacks)
        for declared in registry.this_process.tasks.values():
            engine.check_queue(declared, app)
        commits.register(app, self._commits)
        if config.after_commit:
            commits.listen_for_writes()
        sweeping.add(leftovers.sweep)
        if returns.are_expected(app, config):
            task.check_celery(app)
            returns.start_in_http_processes()
        if directories and config.spool not in directories:
            log.warning(
                "uWSGI serves the spool directory %s, but SPOOLKIT_SPOOL is %s: jobs that processes outside uWSGI "
                "enqueue would not run. Set both to the same directory",
                ", ".join(directories),
                config.spool,
            )
        if QueueFull not in app.error_handler_spec[None][None]:
            app.register_error_handler(QueueFull, _answer_full)
        visitor.add_to(app)
        flask_run.install_signal_handlers()
        hooks.application_made(app)
        waitress.install_signal_handlers()
        if self._threads:
            hooks.at_start(app, self._threads.start)
        if not bridge.is_uwsgi():
            # The answer of this moment is cached: the first job creates the directory if it is missing now.
            for path in locations.queue_dirs(config).values():
                engine.was_missing(path)
            if config.dev_runner:
                flask_run.start_spooler()

    def add_thread(self, thread: BackgroundThread, where: Where = "each process") -> None:
        """Run a thread in the processes that serve the application, for as long as they live.

        It starts after the fork; under a reloader, only in the process that serves; under a server that spoolkit does
        not know, with the first request. A command line, a script or a test does not start it: see
        :meth:`start_threads`. It may start before this method returns, so add it once the application is complete.
        When its process is asked to exit it gets ``SPOOLKIT_THREAD_GRACE`` seconds.

        Args:
            thread: The thread.
            where: ``"each process"``, or ``"one process"``: in one of them; if that one exits, another one takes over.

        Raises:
            ConfigurationError: An argument cannot be used, a thread of this class was added already, or this uWSGI runs
                without ``enable-threads``.
        """
        first = not self._threads
        self._threads.add(thread, where)
        if first:
            for app in list(self._apps):
                hooks.at_start(app, self._threads.start)

    def start_threads(self) -> None:
        """Start the threads of :meth:`add_thread` in this process: for tests, and for programs without a server."""
        self._threads.start()

    def jobs(
        self,
        *,
        task: Task[..., Any] | str | None = None,
        state: States | None = None,
        tag: str | None = None,
        limit: int | None = None,
        before: Job[Any] | str | None = None,
    ) -> Jobs:
        """Find jobs, newest first, in the application that is current.

        At most 10,000 files of waiting jobs, as many of dead ones and as many records are read, the newest of each,
        which takes about a second. Where there are more, the answer is not ``complete``.

        Args:
            task: Only jobs of this task: the task, or its name. Also those by an earlier name that is an alias.
            state: Only jobs in this state, or in one of these, such as ``"dead"``.
            tag: Only jobs that were called with this tag, ``using(tags=[...])``.
            limit: How many jobs at most. ``None``: all that are found.
            before: Only jobs older than this one, or than the one with this id: the last one of the page before.

        Returns:
            Handles of the jobs, without their arguments: a sequence, with actions on all of them.

        Raises:
            ArgumentError: An argument cannot be used.
            SpoolUnavailableError: This process cannot read a spool directory.
            StoreUnavailableError: This process may not read the store.
        """
        return selection.select(task, state, tag, limit, before)

    def pause(self, *, task: Task[..., Any] | str) -> None:
        """Start no job of a task of ``@spool`` until :meth:`resume`, also after a restart. Running jobs continue.

        Its jobs are accepted and wait. Runs of its schedules that come due meanwhile are skipped.

        Args:
            task: The task, or its name.

        Raises:
            UnknownTaskError: No task of this name is declared in this process.
            ConfigurationError: It is a task of ``@thread``.
            SpoolUnavailableError: No spool directory can be changed.
            PartlyPausedError: Some cannot be changed; the error names them, and those that were.
        """
        pausing.pause(task if isinstance(task, str) else task.name)

    def resume(self, *, task: Task[..., Any] | str) -> None:
        """End :meth:`pause`: the jobs that waited are due now, as are those that were enqueued meanwhile.

        Args:
            task: The task, or its name.

        Raises:
            UnknownTaskError: No task of this name is declared in this process, and none is paused.
            SpoolUnavailableError: No spool directory can be changed.
            PartlyPausedError: Some cannot be changed; the error names them, and those that were.
        """
        pausing.resume(task if isinstance(task, str) else task.name)

    def headers(self, function: H) -> H:
        """Have ``function()`` return headers for each job that is called: a decorator.

        It is called in the call of a task, so it sees the request. Where it raises, or returns what cannot be headers,
        the error is logged, and the job is accepted without these headers.

        Args:
            function: Returns a dict of str to str, or ``None``. Of several functions, the later ones win.

        Returns:
            The function.

        Raises:
            ConfigurationError: It is no function, or one with ``yield`` or ``async``.
        """
        callbacks.check_plain(function, "headers")
        self._callbacks.headers.append(function)
        callbacks.this_process.has_any = True
        return function

    def redact(self, *names: Named) -> None:
        """Show no values with these names: of arguments, keys of dicts, fields of dataclasses, headers.

        They are secret in addition to those with a word such as ``password``, ``token`` or ``key`` in their name, in
        whatever shows jobs: commands, JSON, the page, log lines. The task gets them as they are. Call this where the
        application is made, so that each process knows the names.

        Args:
            names: One or more words of a name: ``"card"`` stands for ``card``, ``cards``, ``card_number`` and
                ``creditCard`` as well, not for ``discard``. Or a function that gets a name and says whether it is
                secret; where it raises, it is.

        Raises:
            ConfigurationError: One of them is neither a name nor a function.
        """
        redact.this_process.add(*names)

    def on_spooler_start(self, function: F) -> F:
        """Have ``function()`` called once in each process that runs jobs, before its first job: a decorator.

        It runs in the application's context. If it raises, no job runs in this process until a later try succeeds:
        after five seconds, then ever later, up to a minute.

        Args:
            function: Opens a pool, loads a model, and the like. Of several, the first one runs first.

        Returns:
            The function.

        Raises:
            ConfigurationError: It is no function, or one with ``yield`` or ``async``.
        """
        callbacks.check_plain(function, "on_spooler_start")
        self._callbacks.spooler_start.append(function)
        callbacks.this_process.has_any = True
        return function

    def on_spooler_stop(self, function: F) -> F:
        """Have ``function()`` called once before a process exits that has run jobs: a decorator.

        At a graceful stop or a reload, within ``SPOOLKIT_GRACE``; under uWSGI in a thread if the spooler is idle. A
        process that is killed calls nothing. What it raises is logged.

        Args:
            function: Closes what :meth:`on_spooler_start` has opened. Of several, the last one runs first.

        Returns:
            The function.

        Raises:
            ConfigurationError: It is no function, or one with ``yield`` or ``async``.
        """
        callbacks.check_plain(function, "on_spooler_stop")
        self._callbacks.spooler_stop.append(function)
        callbacks.this_process.has_any = True
        return function

    def around_attempt(self, function: A) -> A:
        """Run code around each attempt of each job: a decorator for a generator function, ``def hook(job)``.

        The task runs at its ``yield``, where the hook gets what the task returned, or the exception that it raised. It
        runs in the application's context and within the time limit of the task. What it raises, the attempt fails with;
        what it swallows, the attempt fails with all the same.

        Args:
            function: A generator function with one ``yield``. It gets what ``current_job()`` returns. Of several, the
                first one is the outermost.

        Returns:
            The function.

        Raises:
            ConfigurationError: It is not a generator function.
        """
        callbacks.check_generator(function, "around_attempt")
        self._callbacks.around_attempt.append(function)
        callbacks.this_process.has_any = True
        return function

    def around_enqueue(self, function: A) -> A:
        """Run code around each call of a task: a decorator for a generator function, ``def hook(job)``.

        The job is accepted at its ``yield``, where the hook gets the accepted job, or the exception that refused it.
        Before, it may change ``job.headers``, a dict. What it raises before is raised by the call, and nothing is
        accepted; an error after the job is accepted is logged.

        Args:
            function: A generator function with one ``yield``. It gets the job. For a ``map()`` it runs once: the job
                stands for all of them, and the yield returns a list. Of several, the first one is the outermost.

        Returns:
            The function.

        Raises:
            ConfigurationError: It is not a generator function.
        """
        callbacks.check_generator(function, "around_enqueue")
        self._callbacks.around_enqueue.append(function)
        callbacks.this_process.has_any = True
        return function

    @property
    def on_commit(self) -> commits.OnCommit | None:
        """How ``after_commit=True`` learns of a commit, for a database layer that spoolkit does not know.

        A function that gets a function without arguments. It is to call that one once the transaction in progress is
        committed, at once if there is none, and to drop it if the transaction is rolled back.
        """
        return self._commits.on_commit

    @on_commit.setter
    def on_commit(self, hook: commits.OnCommit | None) -> None:
        if hook is not None and not callable(hook):
            raise ConfigurationError(f"on_commit is {shown(hook)}: give a function", setting="on_commit")
        self._commits.on_commit = hook

    def outbox(self, engine: sqlalchemy.Engine) -> sqlalchemy.Table:
        """Let the application's database tell, after a crash, which jobs of ``after_commit`` were committed.

        Args:
            engine: A synchronous engine of the database in which the application's sessions commit.

        Returns:
            The table ``spoolkit_outbox``, for the application to create in that database.

        Raises:
            ConfigurationError: It is no such engine.
        """
        from spoolkit.coordination.outbox import TABLE, Outbox
        from spoolkit.coordination.sessions import listen

        self._commits.outbox = Outbox(engine)
        listen()
        return TABLE

    def drain(self, grace: float | None = None) -> None:
        """End the background work of this process, as its server does before the process exits.

        Args:
            grace: Seconds that it gets to finish. ``None``: ``SPOOLKIT_THREAD_GRACE``.
        """
        hooks.run_end_hooks(grace)

    def __getattr__(self, name: str) -> Task[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return task.by_name(name)
