"""For which transaction does a call wait, if it waits for one, and what becomes of its jobs when that ends?

A call that waits is *held*: everything is checked and written, but it is not accepted yet. SQLAlchemy is imported only
where the application has imported it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from flask import Flask, current_app, has_app_context

from spoolkit import application
from spoolkit.encoding import batch
from spoolkit.errors import ArgumentTypeError, ConfigurationError, JobTimeout, counted, shown
from spoolkit.job import JobSpec
from spoolkit.system import log

if TYPE_CHECKING:
    from spoolkit.coordination.outbox import Outbox
    from spoolkit.coordination.sessions import SessionTransaction

OnCommit = Callable[[Callable[[], None]], object]
"""Gets a function and calls it once its transaction is committed. If it never is, it drops the function."""


class Held(Protocol):
    """The jobs of one call, which are complete but not accepted. Exactly one of its methods is called, and once."""

    #: The jobs.
    jobs: Sequence[JobSpec]
    #: The identity of the spool directory in an outbox; empty if they have no rows there.
    spool: str
    #: The names of their rows in an outbox; empty if they have none.
    names: Sequence[str]

    def publish(self) -> None:
        """Accept the jobs, and send that. It raises nothing but a time limit that has struck, or a request to exit."""
        ...

    def discard(self) -> None:
        """Forget the jobs. It must not raise."""
        ...

    def doubt(self) -> None:
        """Leave it to their rows in the outbox what becomes of the jobs. It must not raise."""
        ...


def described(jobs: Sequence[JobSpec]) -> str:
    """Return the jobs of a call in words. The first one may stand for a batch, and the others are its members then."""
    first, *more = jobs
    if first.task == batch.TASK:
        return f"the batch {first.id} of {counted(len(more), 'job')}"
    return f"job {first.id} of {first.task}" + (f" and {len(more)} more" if more else "")


class Transaction(Protocol):
    """What a call waits for."""

    #: Whether a row in the outbox tells of the commit: then the files lie in a folder that says so.
    has_rows: bool

    def hold(self, held: Held) -> None:
        """Publish ``held`` at the commit, and discard it if there is none. If this raises, it is discarded already."""
        ...


class Bundle:
    """The calls that wait for one transaction.

    Args:
        doubtful: Returns whether the database may have committed the transaction although nobody was told so.
    """

    def __init__(self, doubtful: Callable[[], bool] = lambda: False) -> None:
        #: Each call, and whether it waits without having been asked to.
        self.calls: list[tuple[Held, bool]] = []
        self._doubtful = doubtful
        # A forked child inherits this object, and may collect it: the jobs are those of its parent.
        self._pid = os.getpid()

    def drop_with(self, transaction: object) -> weakref.finalize[..., object]:
        """Drop the calls once nothing refers to ``transaction`` any more, unless what this returns is detached."""
        finalizer = weakref.finalize(transaction, self.drop)
        # While the process exits, another thread may still commit. A sweep finds what is left then.
        finalizer.atexit = False
        return finalizer

    def publish(self) -> None:
        """The transaction is committed. Raises nothing but a time limit that has struck, or a request to exit."""
        if os.getpid() != self._pid:
            return
        struck: BaseException | None = None
        for held, _ in self.calls:
            try:
                held.publish()
            except BaseException as error:  # the transaction is committed, and so are the other calls
                if isinstance(error, JobTimeout) or not isinstance(error, Exception):
                    struck = error
                else:
                    log.exception("held jobs of %s could not be accepted", held.jobs[0].task)
        if struck is not None:
            raise struck

    def drop(self) -> None:
        """The transaction has ended in another way, or nothing refers to it any more."""
        if os.getpid() != self._pid:
            return
        for held, is_automatic in self.calls:
            if held.names and self._doubtful():
                held.doubt()
                continue
            held.discard()
            # Who did not ask for it may not have thought of it.
            say = log.warning if is_automatic else log.info
            say("%s was not accepted: the transaction of its call ended without a commit", described(held.jobs))


class Publication:
    """The function that a hook of :attr:`Options.on_commit` gets. Only the first call of it counts."""

    def __init__(self, held: Held, is_automatic: bool) -> None:
        self._held = held
        self._bundle = Bundle()
        self._bundle.calls.append((held, is_automatic))
        # A layer that rolls back forgets the functions that it was to call at the commit.
        self._finalizer = self._bundle.drop_with(self)

    def __call__(self) -> None:
        """The transaction is committed: accept the jobs."""
        if self._finalizer.detach() is not None:
            self._bundle.publish()

    def discard(self) -> None:
        """Forget the jobs: their call is refused."""
        if self._finalizer.detach() is not None:
            self._held.discard()


class HookTransaction:
    """The transaction of a database layer that calls a function at the commit."""

    has_rows = False

    def __init__(self, on_commit: OnCommit, *, is_automatic: bool) -> None:
        self._on_commit = on_commit
        self._is_automatic = is_automatic

    def hold(self, held: Held) -> None:
        """As for :class:`Transaction`. What the hook raises is raised."""
        publication = Publication(held, self._is_automatic)
        try:
            self._on_commit(publication)
        except BaseException:
            publication.discard()
            raise


@dataclass
class Options:
    """How an application's calls wait for its transactions."""

    #: Tells when the transaction in progress is committed; ``None``: the session of Flask-SQLAlchemy tells.
    on_commit: OnCommit | None = None
    #: The outbox, in the application's database.
    outbox: Outbox | None = None


_options: WeakKeyDictionary[Flask, Options] = WeakKeyDictionary()


def register(app: Flask, options: Options) -> None:
    """Use these options for the calls of ``app``."""
    _options[app] = options


def outboxes() -> list[Outbox]:
    """The outboxes of the applications of this process."""
    found = (options.outbox for options in list(_options.values()))
    return list(dict.fromkeys(outbox for outbox in found if outbox is not None))


def current(asked: object, *, is_automatic: bool) -> Transaction | None:
    """The transaction for which a call waits.

    Args:
        asked: The option ``after_commit`` of the call: ``True``, a session of SQLAlchemy, or ``False``. ``None``: the
            setting decides.
        is_automatic: Whether a call that does not say so waits if something was written, or is about to be written, in
            the transaction in progress: only then can a commit be expected.

    Returns:
        The transaction; ``None``: the call is accepted at once.

    Raises:
        ConfigurationError: It is not known which transaction is meant.
        ArgumentTypeError: ``asked`` is none of these.
    """
    if asked is False or (asked is None and not is_automatic):
        return None
    app = application.current()
    options = Options() if app is None else _options.get(app) or Options()
    if asked is not None and asked is not True:
        return _session_transaction(asked, options)
    if options.on_commit is not None:
        return HookTransaction(options.on_commit, is_automatic=asked is None)
    session = _session_of_app(create=asked is True)
    if asked is True and session is None:
        raise ConfigurationError(
            "after_commit=True needs an application context with Flask-SQLAlchemy or Flask-SQLAlchemy-Lite: give the "
            "session, after_commit=session, or set on_commit of the SpoolKit object",
            setting="after_commit",
        )
    if session is None:
        return None
    transaction = _session_transaction(session, options, is_automatic=asked is None)
    return transaction if transaction is None or asked is True or transaction.has_changes() else None


def _session_of_app(*, create: bool) -> Any:
    """The session of the request, or of another application context; ``None`` if there is none."""
    if not has_app_context() or (extension := current_app.extensions.get("sqlalchemy")) is None:
        return None
    session = getattr(extension, "session", None)
    # Flask-SQLAlchemy has a registry of sessions, and Flask-SQLAlchemy-Lite the session itself.
    if (registry := getattr(session, "registry", None)) is None:
        return session
    return registry() if create or registry.has() else None


def listen_for_writes() -> None:
    """Learn from now on in which transactions of SQLAlchemy something is written, if it is installed."""
    with contextlib.suppress(ImportError):
        from spoolkit.coordination import sessions

        sessions.listen_for_writes()


def _session_transaction(asked: object, options: Options, *, is_automatic: bool = False) -> SessionTransaction | None:
    if "sqlalchemy.orm" in sys.modules:
        from spoolkit.coordination import sessions

        if (session := sessions.session_of(asked)) is not None:
            if sessions.has_just_committed(session):
                return None
            return sessions.SessionTransaction(session, options.outbox, is_automatic=is_automatic)
    raise ArgumentTypeError(
        f"after_commit is {shown(asked)}: give True, False, or a session of SQLAlchemy",
        argument="after_commit",
        type_name=type(asked).__qualname__,
    )
