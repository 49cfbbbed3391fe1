"""How does a session of SQLAlchemy tell that its transaction is committed? Imported only by those who use SQLAlchemy.

The events are those of ``sqlalchemy/orm/session.py`` of 2.0.58 and 2.1.9. ``after_commit`` comes after the commit of
the root transaction, and also after the release of a savepoint, which commits nothing. ``close()`` sends no
``after_rollback``, but ``after_transaction_end``. A session that is collected sends nothing. While the listeners of
``after_commit`` are called, the session still shows the transaction, or the savepoint, that is committed.
"""

from __future__ import annotations

import functools
import re
import weakref
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy.orm
from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.orm.session import SessionTransactionState

from spoolkit.coordination.commits import Bundle, Held
from spoolkit.coordination.outbox import Outbox


def session_of(asked: object) -> Session | None:
    """The session that is meant by the option ``after_commit``; ``None`` if that is no session."""
    if isinstance(asked, (scoped_session, async_scoped_session)):
        asked = asked()
    if isinstance(asked, AsyncSession):
        asked = asked.sync_session
    return asked if isinstance(asked, Session) else None


def has_just_committed(session: Session) -> bool:
    """Whether a listener of the session's commit asks: the transaction is committed, and only its end is left."""
    root = session.get_transaction()
    return root is not None and _is_committed(root)


class SessionTransaction:
    """The transaction in progress of a session. Where there is none, one begins, as with any use of the session."""

    def __init__(self, session: Session, outbox: Outbox | None, *, is_automatic: bool) -> None:
        self._session = session
        self._outbox = outbox
        self._is_automatic = is_automatic
        self.has_rows = outbox is not None

    def has_changes(self) -> bool:
        """Whether something was written in the transaction, or will be once the session is flushed."""
        listen_for_writes()
        session = self._session
        # Dirty is also an object that got the value which it had: nothing is written then, and no commit follows.
        if session.new or session.deleted or any(map(session.is_modified, session.dirty)):
            return True
        innermost = _innermost(session)
        return innermost is not None and any(one in _written for one in _and_parents(innermost))

    def hold(self, held: Held) -> None:
        """As for :class:`~spoolkit.coordination.commits.Transaction`; what the database raises is raised."""
        try:
            listen()
            if self._outbox is not None and held.names:
                self._outbox.add(self._session, held.spool, held.names)
            session = self._session
            transaction = _innermost(session) or session.begin()
            while _is_committed(transaction):  # a listener of its release makes the call
                transaction = _around(transaction)
        except BaseException:
            held.discard()
            raise
        _bundle_of(transaction).calls.append((held, self._is_automatic))


class _Root:
    """What is known of a root transaction."""

    #: Whether a commit was begun: if that fails, the database may have committed all the same.
    is_committing = False


_bundles: WeakKeyDictionary[sqlalchemy.orm.SessionTransaction, Bundle] = WeakKeyDictionary()
"""The calls that wait, by the innermost transaction around each."""

_written: WeakSet[sqlalchemy.orm.SessionTransaction] = WeakSet()
"""The transactions and savepoints in which something was written."""

_sessions: WeakKeyDictionary[Connection, weakref.ref[Session]] = WeakKeyDictionary()
"""Which session uses a connection."""

_roots: WeakKeyDictionary[sqlalchemy.orm.SessionTransaction, _Root] = WeakKeyDictionary()


def _bundle_of(transaction: sqlalchemy.orm.SessionTransaction) -> Bundle:
    bundle = _bundles.get(transaction)
    if bundle is None:
        root = _roots.setdefault(list(_and_parents(transaction))[-1], _Root())
        bundle = _bundles[transaction] = Bundle(lambda: root.is_committing)
        bundle.drop_with(transaction)
    return bundle


def _and_parents(transaction: sqlalchemy.orm.SessionTransaction) -> Iterator[sqlalchemy.orm.SessionTransaction]:
    while True:
        yield transaction
        if transaction.parent is None:
            return
        transaction = transaction.parent


def _around(savepoint: sqlalchemy.orm.SessionTransaction) -> sqlalchemy.orm.SessionTransaction:
    """The savepoint or the root transaction around a savepoint."""
    _, *parents = _and_parents(savepoint)
    return next(parent for parent in parents if parent.nested or parent.parent is None)


def _is_committed(transaction: sqlalchemy.orm.SessionTransaction) -> bool:
    # Its is_active is False as well after a failed flush, which a rollback follows.
    return transaction._state is SessionTransactionState.COMMITTED


def _innermost(session: Session) -> sqlalchemy.orm.SessionTransaction | None:
    """The savepoint or the root transaction that the session is in: never the one of a flush."""
    return session.get_nested_transaction() or session.get_transaction()


@functools.cache
def listen() -> None:
    """Hear of the transactions of all sessions of this process."""
    event.listen(Session, "before_commit", _before_commit)
    # First: if another listener raises, the transaction is committed all the same.
    event.listen(Session, "after_commit", _after_commit, insert=True)
    event.listen(Session, "after_transaction_end", _after_end)


@functools.cache
def listen_for_writes() -> None:
    """Hear of the statements of all sessions of this process, however they are executed."""
    listen()
    event.listen(Session, "after_begin", _after_begin)
    event.listen(Engine, "after_cursor_execute", _after_execute)


def _before_commit(session: Session) -> None:
    if (root := session.get_transaction()) is not None:
        _roots.setdefault(root, _Root()).is_committing = True


def _after_commit(session: Session) -> None:
    if (transaction := _innermost(session)) is None:
        return
    bundle = _bundles.pop(transaction, None)
    if transaction.nested:
        outer = _around(transaction)
        if transaction in _written:
            _written.add(outer)
        if bundle is not None:
            calls, bundle.calls = bundle.calls, []
            _bundle_of(outer).calls.extend(calls)
    elif bundle is not None:
        try:
            bundle.publish()
        finally:
            bundle.calls = []


def _after_end(session: Session, transaction: sqlalchemy.orm.SessionTransaction) -> None:
    if (bundle := _bundles.pop(transaction, None)) is not None:
        bundle.drop()
        bundle.calls = []


def _after_begin(session: Session, transaction: object, connection: Connection) -> None:
    _sessions[connection] = weakref.ref(session)


_WRITE = re.compile(r"\s*(insert|update|delete|merge|replace)\b", re.ASCII | re.IGNORECASE)
"""A statement in SQL that changes rows; of one that begins in another way it is not known."""


def _after_execute(
    connection: Connection, cursor: object, statement: str, parameters: object, context: Any, executemany: object
) -> None:
    session = _sessions.get(connection, lambda: None)()
    if session is None or not (context.isinsert or context.isupdate or context.isdelete or _WRITE.match(statement)):
        return
    if (transaction := _innermost(session)) is not None:
        _written.add(transaction)
