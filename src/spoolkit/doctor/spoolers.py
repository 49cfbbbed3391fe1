"""Does a spooler run the jobs of the spool directory, with the current code, and is no job stuck?"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence

from spoolkit.coordination import pauses
from spoolkit.doctor import machine
from spoolkit.doctor.findings import START_COMMAND, Check, Finding, Site, limit_findings, printable, quoted
from spoolkit.errors import counted
from spoolkit.settings import DEFAULT_QUEUE, Queue
from spoolkit.spooldir import gate, later, spoolers, spoolfile
from spoolkit.store import locations
from spoolkit.uwsgi.recommended import escaped

MIN_LOCKED = 5.0
"""Seconds that a job must have been due: the lock on a newer file is its writer's."""


def _spooler_alive(site: Site) -> Iterator[Finding]:
    if not site.spoolers:
        unknown = "" if site.uwsgi else "; no uWSGI is known, so its options were not examined"
        of = "" if site.queue in (None, DEFAULT_QUEUE) else f"the queue {site.queue} has no spooler: "
        problem = f"{of}no spooler of {printable(site.spool_dir)} is alive{unknown}"
        declared = () if site.uwsgi is None else map(os.path.realpath, site.uwsgi.of("spooler"))
        has_line = not of or site.spool_dir in declared
        yield Finding("spooler-alive", problem, START_COMMAND if has_line else f"spooler = {printable(site.spool_dir)}")
    for pid in filter(machine.is_stopped, site.spoolers):
        yield Finding("spooler-alive", f"the spooler with pid {pid} is stopped", f"kill -CONT {pid}")


def _old_code(site: Site) -> Iterator[Finding]:
    busy = spoolers.busy([site.spool_dir])
    for pid in spoolers.outdated_pids(site.spool_dir):
        next_step = "finishes its job and exits" if pid in busy else "exits before its next job"
        problem = f"the spooler with pid {pid} runs the code from before the last reload; it {next_step}"
        yield Finding("old-code", problem, f"kill -TERM {pid}  # not necessary: it exits by itself", "warning")


def _broken_code(site: Site) -> Iterator[Finding]:
    if broken := spoolers.load_error(site.spool_dir):
        problem = f"no new spooler starts: {broken}"
        yield Finding("broken-code", problem, "fix the code; the spoolers then start by themselves")


def _start_hook(site: Site) -> Iterator[Finding]:
    if problem := spoolers.start_error(site.spool_dir):
        remedy = "see the traceback in the log of the spoolers; the hook is tried again by itself"
        yield Finding("start-hook", f"a spooler runs no job: {problem}", remedy)


def _lock(site: Site) -> Iterator[Finding]:
    due = [job for job in site.due(MIN_LOCKED) if site.may_read(job)]

    def suspicious() -> dict[str, int]:
        held = {job.path: pid for job, pid in machine.lock_holders(due) if pid is not None}
        alive = spoolers.pids(site.spool_dir)  # asked again: a spooler that died may have a successor by now
        return {path: pid for path, pid in held.items() if pid not in alive or machine.is_stopped(pid)}

    if first := suspicious():
        time.sleep(0.05)  # a process that locks a job only for a moment, to cancel it for example, has finished by then
        again = suspicious().items()
        yield from limit_findings([_stuck(path, pid) for path, pid in again if first.get(path) == pid])


def _stuck(path: str, pid: int) -> Finding:
    if machine.is_stopped(pid):
        problem = f"{printable(path)} is locked by the process {pid}, which is stopped"
        return Finding("lock", problem, f"kill -CONT {pid}")
    if pid <= 0:
        problem = f"{printable(path)} is locked by a process in another container or on another host"
        return Finding("lock", problem, "run all spoolers of a directory in one container")
    name = machine.process_status(pid).get("Name")
    problem = f"{printable(path)} is locked by pid {pid} ({name}), which is not a spooler of this directory"
    return Finding("lock", problem, f"ps -fp {pid}; kill {pid}  # if it hangs")


def _due_job(site: Site) -> Iterator[Finding]:
    scans_priorities = site.uwsgi is None or site.uwsgi.on("spooler-ordered")
    late = [job for job in site.due(site.max_due_age) if scans_priorities or job.folder in (None, later.FOLDER)]
    late = [job for job in late if job.about.st_size > 3 and site.may_read(job)]
    ages = [site.now - job.about.st_mtime for job, pid in machine.lock_holders(late) if pid is None]
    if ages:
        path = printable(site.spool_dir)
        problem = f"due jobs that still wait in {path}: {len(ages)}, the oldest for {max(ages):.0f} s"
        more = f"spooler-processes = {2 * len(site.spoolers)}"
        if site.uwsgi is not None and len(site.uwsgi.directories) > 1:
            more = f"spooler = {path}  ; one more such line"  # spooler-processes applies to all queues
        remedy = more if site.spoolers else START_COMMAND
        yield Finding("due-job", problem, remedy)


def _delayed_jobs(site: Site) -> Iterator[Finding]:
    delayed = sum(job.is_delayed for job in site.jobs())
    if delayed and not site.spoolers and not later.has_mover(site.spool_dir):
        problem = (
            f"no process moves the delayed jobs of {printable(site.spool_dir)} in when they are due: {delayed} wait"
        )
        yield Finding("delayed-jobs", problem, START_COMMAND)


def _paused(site: Site) -> Iterator[Finding]:
    state = gate.state(site.spool_dir)
    if state is not None:
        problem = f"{printable(site.spool_dir)} is {state}: no job starts"
        yield Finding("paused", problem, f"flask spool resume {quoted(site.spool_dir)}", "warning")
    for task, waiting in pauses.tasks(site.spool_dir).items():
        if not waiting and _is_found_in_default(site, task):
            continue
        jobs = counted(waiting, "of its jobs waits", "of its jobs wait")
        problem = f"{printable(task)} is paused: {jobs} in {printable(site.spool_dir)}"
        yield Finding("paused", problem, f"flask spool resume --task {quoted(task)}", "warning")


def _is_found_in_default(site: Site, task: str) -> bool:
    """Whether the finding of the default queue says it: a task is paused in all queues, unless one is named."""
    return site.queue not in (None, DEFAULT_QUEUE) and pauses.is_paused(locations.spool_dir(), task)


CHECKS: tuple[Check, ...] = (
    _spooler_alive,
    _old_code,
    _broken_code,
    _start_hook,
    _lock,
    _due_job,
    _delayed_jobs,
    _paused,
)


def too_few(queue: Queue, spool_dir: str, lines: Sequence[str] = ()) -> list[Finding]:
    """Find out whether a queue has fewer spoolers than it is declared with.

    Args:
        queue: The queue.
        spool_dir: Its spool directory.
        lines: The real paths of the directories for which the ini file has a spooler.

    Returns:
        A finding if that is so. A directory that exists without any spooler is one of the check ``spooler-alive``.
    """
    alive, path = len(spoolers.pids(spool_dir)), printable(spool_dir)
    if not alive and os.path.isdir(spool_dir):
        return []
    if not alive:
        problem = f"the queue {queue.name} has no spooler: its directory {path} does not exist"
        remedy = "flask spool ini  # prints a spooler = line for each process"
        # The start makes the directory.
        return [Finding("queue", problem, START_COMMAND if os.path.realpath(spool_dir) in lines else remedy)]
    if alive >= queue.processes:
        return []
    problem = f"the queue {queue.name} has {alive} of {queue.processes} spoolers (SPOOLKIT_QUEUES)"
    return [Finding("queue", problem, f"spooler = {escaped(path)}  ; one line for each process", "warning")]


def stranded(candidates: Iterable[str], spool_dirs: Sequence[str]) -> list[Finding]:
    """Find jobs in directories that no spooler serves, where calls with another configuration left them.

    Args:
        candidates: Directories that may contain such jobs.
        spool_dirs: The real paths of the directories that jobs are written to now; the remedy moves jobs to the first.

    Returns:
        One finding for each directory with stranded jobs. A directory that cannot be read is ignored.
    """
    findings = []
    for path in sorted({os.path.realpath(path) for path in candidates} - set(spool_dirs)):
        with contextlib.suppress(OSError):
            if (jobs := spoolfile.pending(path)) and not spoolers.pids(path):
                problem = f"jobs that wait in {printable(path)}, which no spooler serves: {len(jobs)}"
                folders = sorted({os.path.dirname(job) for job in jobs})  # that of delayed jobs among them
                sources = " ".join(f"{quoted(folder)}/{spoolfile.PREFIX}*" for folder in folders)
                remedy = f"mv -n {sources} {quoted(spool_dirs[0])}"
                findings.append(Finding("stranded-job", problem, remedy))
    return findings
