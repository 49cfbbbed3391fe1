"""How does an application enqueue jobs that belong together, and have a job run once all of them have ended?"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_args

from spoolkit import application, registry
from spoolkit.admin import batches
from spoolkit.coordination import commits
from spoolkit.encoding import codec
from spoolkit.errors import (
    ArgumentError,
    ArgumentTypeError,
    BatchStateError,
    ConfigurationError,
    ResultUnavailableError,
    UnknownBatchError,
    UnknownJobError,
    shown,
)
from spoolkit.handle import Job
from spoolkit.job import FINISHED, BatchStatus, OnDeath, State, new_id, replaced
from spoolkit.spooldir import held, waiting
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.store import locations
from spoolkit.store.transitions import Result
from spoolkit.system import clock
from spoolkit.task import AfterCommit, P, PlannedCall, R, SpoolTask

MAX_NAME = 200
"""Characters of a batch's name, at most."""

B = TypeVar("B", bound="Batch")


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is."""

    #: How many members are in each state; states without members are left out.
    states: Mapping[State, int]
    #: How many members it has.
    total: int
    #: How many of them have ended: done, dead, cancelled or lost.
    ended: int


class Batch:
    """Jobs that belong together. Once all have ended, in whatever way, the job of ``then`` is enqueued.

    The members are enqueued at the end of the ``with`` block, all of them or, after an exception, none::

        with Batch("import", then=report.call(42)) as batch:
            for row in rows:
                batch.add(store_row, row)

    Args:
        name: A name for people.
        then: The call that is made once all members have ended, ``task.call(...)``; its job finds the batch by
            ``Batch.get(current_job().batch)``. ``None``: none.
        on_death: ``"wait"``: the other members go on after one is dead. ``"cancel"``: those that have not started are
            cancelled, and those that run are asked to stop.
        after_commit: As for :meth:`SpoolTask.using`, for the whole batch: it waits for the commit of the transaction in
            which the ``with`` block ends. ``None``: ``SPOOLKIT_AFTER_COMMIT`` decides then.

    Raises:
        ArgumentError: ``then`` cannot be called later, or ``name`` is not a name.
        ConfigurationError: ``on_death`` has another value, or it is not known for which transaction to wait.
        ArgumentTypeError: ``after_commit`` is none of these values.
    """

    def __init__(
        self,
        name: str,
        *,
        then: PlannedCall[Any] | None = None,
        on_death: OnDeath = "wait",
        after_commit: AfterCommit | None = None,
    ) -> None:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
            problem = f"name is {shown(name)}: give a text of 1 to {MAX_NAME} characters"
            raise ArgumentError(problem, argument="name")
        if on_death not in get_args(OnDeath):
            problem = f"on_death is {shown(on_death)}: give one of {get_args(OnDeath)}"
            raise ConfigurationError(problem, setting="on_death")
        #: 32 hex digits, which sort by time.
        self.id = new_id()
        #: The name that the application gave it.
        self.name = name
        self._on_death = on_death
        self._after_commit = after_commit
        if after_commit is not None:
            self._transaction()  # what is wrong with it is for this line, and not for the end of the block
        self._callback = None if then is None else self._dump_callback(then)
        #: The members with their files, while the ``with`` block is open.
        self._added: list[tuple[Job[Any], bytes]] | None = None

    def _transaction(self) -> commits.Transaction | None:
        config = application.settings(registry.code_folder())
        return commits.current(self._after_commit, is_automatic=config.after_commit)

    def _dump_callback(self, then: PlannedCall[Any]) -> bytes:
        if not isinstance(then, PlannedCall):
            raise ArgumentTypeError(
                f"then is {shown(then)}: give a call, task.call(...). Chains and batches are not supported there: let "
                "the task of the callback start them",
                argument="then",
                type_name=type(then).__qualname__,
            )
        job = _member(then.job_for_later("the callback"), self.id)
        if then.task.declared.options.engine is None:
            job = replaced(job, engine="spool")  # it reads the batch, which is recorded on this machine alone
        return then.dump(job)

    @classmethod
    def get(cls: type[B], id: str) -> B:
        """Find a batch by its id, also in another process than the one that made it.

        Raises:
            UnknownBatchError: There is no record of the batch.
            BatchStateError: It waits for a commit in this process.
            StoreUnavailableError: The store cannot be read.
        """
        found = _recorded(id)
        batch = cls(found.name, on_death=found.on_death, after_commit=False)
        batch.id = found.id
        return batch

    def __eq__(self, other: object) -> bool:
        return self.id == other.id if isinstance(other, Batch) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Batch {self.name!r} {self.id}>"

    def __enter__(self: B) -> B:
        if self._added is not None or self.held or batches.find(self.id) is not None:
            raise BatchStateError(f"the batch {self.name!r} was entered before: make another one", batch=self.id)
        self._added = []
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        added, self._added = self._added or [], None
        if error is None:
            self._accept(added)

    def add(self, task: SpoolTask[P, R] | PlannedCall[R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Add a job, which is accepted at the end of the ``with`` block, and is unknown until then.

        Args:
            task: A task, called with the arguments that follow; or ``task.call(...)`` with its own arguments and
                options.

        Returns:
            The job.

        Raises:
            ArgumentError: The arguments do not fit the task, or have an unsupported type or size.
            BatchStateError: The ``with`` block is not open.
        """
        if self._added is None:
            raise BatchStateError(f"the batch {self.name!r} takes members in its with block only", batch=self.id)
        call = self._call_of(task, args, kwargs)
        if call.options.get("after_commit"):
            problem = (
                f"after_commit is given for {call.task.name}, but the members of a batch are accepted together: say "
                "Batch(..., after_commit=...)"
            )
            raise ArgumentError(problem, argument="after_commit")
        job = _member(call.job(), self.id)
        self._added.append((job, call.dump(job)))
        return cast("Job[R]", job)

    def _call_of(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PlannedCall[Any]:
        if isinstance(task, PlannedCall):
            if args or kwargs:
                raise ArgumentError(f"{task.task.name}.call(...) has its arguments already: add it alone")
            return task
        if hasattr(task, "call"):
            return cast("PlannedCall[Any]", task.call(*args, **kwargs))
        raise ArgumentTypeError(
            f"{shown(task)} is not a task: give a task and its arguments, or task.call(...). Chains and batches within "
            "a batch are not supported",
            argument="task",
            type_name=type(task).__qualname__,
        )

    def _accept(self, added: list[tuple[Job[Any], bytes]]) -> None:
        status = BatchStatus(self.id, self.name, clock.now(), None, 0, self._on_death, None, {})
        SpoolEngine().submit_batch(status, added, self._callback, self._transaction())

    @property
    def held(self) -> bool:
        """Whether the batch waits for the commit of a transaction of this process, and is not accepted before.

        If the transaction is not committed, the batch is unknown afterwards.
        """
        return held.find(self.id) is not None

    @property
    def status(self) -> BatchStatus:
        """All that is known of the batch, read at once.

        Raises:
            UnknownBatchError: It is not accepted yet, or its record was deleted with those of its members.
            BatchStateError: It waits for a commit.
            StoreUnavailableError: The store cannot be read.
        """
        return _recorded(self.id)

    @property
    def complete(self) -> bool:
        """Whether all members have ended."""
        return self.status.completed_at is not None

    @property
    def progress(self) -> BatchProgress:
        """How many members are in which state."""
        states = self.status.members
        ended = sum(number for state, number in states.items() if state in FINISHED)
        return BatchProgress(states, sum(states.values()), ended)

    @property
    def jobs(self) -> list[Job[Any]]:
        """The members whose jobs are still known, in the order in which they were added."""
        found: list[Job[Any]] = []
        for id, _ in locations.store().batch_members(self.status.id):
            with contextlib.suppress(UnknownJobError):  # it was deleted, or has no file yet
                found.append(Job.get(id))
        return found

    @property
    def results(self) -> list[Any]:
        """What the members returned that are done, in the order in which they were added.

        Raises:
            ResultUnavailableError: A result could not be kept.
        """
        return [_value(job, result) for job, result in locations.store().batch_results(self.status.id)]

    @property
    def callback(self) -> Job[Any] | None:
        """The job of the latest callback; ``None`` where there is none."""
        id = self.status.callback
        return None if id is None else Job.get(id)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all members have ended.

        Args:
            timeout: The longest time to wait, in seconds. ``None``: no limit.

        Returns:
            Whether they have.

        Raises:
            BatchStateError: The batch waits for a commit: the wait could be for ever.
        """
        return waiting.wait(lambda: self.complete, locations.spool_dir_of(None), self.id, timeout)


def _member(job: Job[R], batch: str) -> Job[R]:
    return replaced(job, batch=batch)


def _value(job: str, result: Result) -> Any:
    if result.error is not None:
        raise ResultUnavailableError(f"job {job}: {result.error}", job=job)
    return None if result.data is None else codec.decode(result.data)


def _recorded(id: str) -> BatchStatus:
    found = batches.find(id) if isinstance(id, str) else None
    if found is None:
        raise UnknownBatchError(
            f"the batch {shown(id)} is unknown: it was never accepted, or its record was deleted", batch=str(id)
        )
    return found
