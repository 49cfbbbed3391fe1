"""How is a periodic task run besides its schedule, because somebody wants it now?"""

from __future__ import annotations

from spoolkit import application, registry
from spoolkit.admin import actions
from spoolkit.encoding import codec
from spoolkit.job import JobSpec, new_id
from spoolkit.schedules import control
from spoolkit.spooling.engine import SpoolEngine
from spoolkit.system import clock


def run_now(name: str, *, by: str | None = None) -> JobSpec:
    """Enqueue a job with the task and the arguments of a schedule. Its due times stay as they are.

    Args:
        name: The name of the schedule.
        by: Who does it, for the history of the job; ``None``: not known.

    Raises:
        UnknownScheduleError: There is no such schedule.
        NewerScheduleError: A newer version of spoolkit has declared it, and this process does not.
        UnknownTaskError: This process does not declare its task.
        DecodeError: Its arguments are of a type that this process does not know.
        SpoolkitError: The job is not accepted, as in a call of the task.
    """
    schedule = control.task_of(name)
    declared = registry.find(schedule.task)
    args, kwargs = codec.decode_call(schedule.call.encode())
    job = JobSpec(
        new_id(),
        declared.name,
        args,
        kwargs,
        enqueued_at=clock.now(),
        queue=declared.options.queue,
        priority=declared.options.priority,
        app=application.current_name(),
    )
    accepted = SpoolEngine().submit(job, declared)
    actions.record_new(accepted.id, "run besides its schedule", by=by)
    return accepted
