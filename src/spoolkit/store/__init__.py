"""The record of jobs: all SQL is in this package, and no other package knows a table.

The file says whether a job will run, the store says what happened to it. So accepting a job writes nothing here, and
while the store is unavailable (:class:`~spoolkit.errors.StoreUnavailableError`) jobs run anyway: their attempts
are counted in the names of their files.
"""

from __future__ import annotations

from spoolkit.store import batches, claims, queries, search, totals, transitions
from spoolkit.store.database import Database


class Store(Database):
    """The record of jobs in one SQLite file: a row for each job, and events that are only ever added.

    Its methods are functions of the modules of this package, where each is explained: one module for each subject.
    """

    # May an attempt start?
    claim = claims.claim

    # Moves from one state to another
    record_queued = transitions.record_queued
    finish = transitions.finish
    refuse = transitions.refuse
    cancel = transitions.cancel
    cancel_running = transitions.cancel_running
    ask_to_stop = transitions.ask_to_stop
    requeue = transitions.requeue
    record_event = transitions.record_event
    record_replaced = transitions.record_replaced

    # Questions
    status = queries.status
    statuses = queries.statuses
    statuses_of = queries.statuses_of
    states = queries.states
    ids = queries.ids
    arguments = queries.arguments
    history = queries.history
    deaths = queries.deaths
    counts = queries.counts
    count_of = queries.count_of
    done_since = queries.done_since
    durations = queries.durations
    ends_by_minute = queries.ends_by_minute
    ends_by_task = queries.ends_by_task
    costs_by_task = queries.costs_by_task
    memory_by_task = queries.memory_by_task
    window = search.window
    count_states = search.count_states
    with_arguments = search.with_arguments
    arguments_of = search.arguments_of
    totals = totals.totals

    # Batches
    accept_batch = batches.accept
    forget_unless_accepted = batches.forget_unless_accepted
    batch = batches.batch
    batch_ids = batches.batch_ids
    batch_members = batches.batch_members
    batch_results = batches.batch_results
    asked_to_stop = batches.asked_to_stop
    to_call_back = batches.to_call_back
    overdue_callbacks = batches.overdue_callbacks
    call_back = batches.call_back
    suspects = batches.suspects
    end_members = batches.end_members
