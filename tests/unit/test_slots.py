"""The slots of spoolers: no job waits while a spooler is idle, and one job calls one spooler."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from spoolkit.job import new_id
from spoolkit.spooldir import slots
from spoolkit.system import process


class ModelSpooler:
    """What uWSGI's C code does: each signal that it counts is one more scan of the directory."""

    def __init__(self, slot: slots.Slot) -> None:
        self.slot = slot
        self.signals = 0
        self.scan: list[str] | None = None
        """The names that are left of a scan."""
        self.claimed: str | None = None
        self.running: str | None = None

    @property
    def sleeps(self) -> bool:
        return self.scan is None and not self.signals


class Spoolers(RuleBasedStateMachine):
    """Jobs and spoolers in any order of events."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = tempfile.TemporaryDirectory()
        os.mkdir(f"{self.folder.name}/spoolers")
        self.spoolers: list[ModelSpooler] = []
        self.waiting: list[str] = []
        self.accepted: list[str] = []
        """Jobs that are accepted and for which no spooler has been called yet."""
        self.patch.setattr(slots, "Target", self._target)
        self.patch.setattr(process, "is_alive", lambda pid, identity: True)
        self.patch.setattr(slots, "_may_lose_descriptors", slots._may_lose_descriptors)

    def _target(self, pid: int, identity: bytes, keep: bool) -> Any:
        spooler = self.spoolers[pid - 1000]

        class Signals:
            pid = 0

            def signal(self, signum: int) -> None:
                spooler.signals += 1

            def close(self) -> None: ...

        return Signals()

    @initialize(count=st.integers(1, 4))
    def start(self, count: int) -> None:
        for number in range(count):
            with self.patch.context() as patch:
                patch.setattr(slots, "_own", lambda number=number: (b"%d 5 boot\n" % (1000 + number)).ljust(64, b"\0"))
                self.spoolers.append(ModelSpooler(slots.Slot(self.folder.name)))

    @rule(count=st.integers(1, 3))
    def accept(self, count: int) -> None:
        for _ in range(count):
            self.waiting.append(new_id())
            self.accepted.append(self.waiting[-1])

    @rule()
    def enqueue(self) -> None:
        self.accept(1)
        self.call()

    @precondition(lambda self: self.accepted)
    @rule()
    def call(self) -> None:
        slots.call(self.folder.name, self.accepted.pop(0))

    @rule(number=st.integers(0, 3))
    def step(self, number: int) -> None:
        self._step(self.spoolers[number % len(self.spoolers)])

    @rule(number=st.integers(0, 3))
    def finish(self, number: int) -> None:
        spooler = self.spoolers[number % len(self.spoolers)]
        if spooler.running is not None:
            spooler.running = None
            spooler.signals += spooler.slot.end()

    def _step(self, spooler: ModelSpooler) -> bool:
        """One step of a spooler, but for the end of its job. Returns whether it took one."""
        if spooler.running is not None or spooler.sleeps:
            return False
        if spooler.claimed is not None:
            spooler.running, spooler.claimed = spooler.claimed, None
            if spooler.slot.start(spooler.running):
                slots.call(self.folder.name)
        elif spooler.scan is None:
            spooler.signals -= 1
            spooler.scan = list(self.waiting)
        elif not spooler.scan:
            spooler.scan = None
        elif (name := spooler.scan.pop(0)) in self.waiting:
            self.waiting.remove(name)
            spooler.claimed = name
        return True

    @rule()
    def no_job_waits_while_a_spooler_sleeps(self) -> None:
        while self.accepted:
            self.call()
        for _ in range(1000):
            stepped = [self._step(spooler) for spooler in self.spoolers]
            if not any(stepped):
                break
        else:
            pytest.fail("the spoolers wake each other for ever")
        asleep = [spooler for spooler in self.spoolers if spooler.running is None]
        assert not self.waiting or not asleep

    @invariant()
    def no_more_signals_than_events(self) -> None:
        assert all(spooler.signals >= 0 for spooler in self.spoolers)

    def teardown(self) -> None:
        self.no_job_waits_while_a_spooler_sleeps()
        for spooler in self.spoolers:
            spooler.slot.leave()
        self.patch.undo()
        self.folder.cleanup()


def test_no_job_waits_while_a_spooler_sleeps_whatever_the_order_of_events() -> None:
    run_state_machine_as_test(
        Spoolers,
        settings=settings(
            max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
