"""The invariants of the record hold while an experiment is removed from the round file and written again."""

from __future__ import annotations

import threading

from hypothesis import strategies as st
from hypothesis.stateful import rule
from simulation import HOME, Thread
from test_state_machine import ELSEWHERE, STUDENT, Rounds, run

from roundhouse.engine import one_pass
from roundhouse.engine.report import PassReport
from roundhouse.store import job_group, record


class Removed(Rounds):
    """The student leaves the round file and returns. A pass that does not know it never opens an attempt of it."""

    removed = False

    @rule(removed=st.booleans())
    def the_round_file_is_edited(self, removed: bool) -> None:
        self.removed = removed

    def run_pass(self) -> PassReport:
        job_group._known.clear()
        listed = [one for one in self.experiments if one is not STUDENT or not self.removed]
        directory = self.context.directory(STUDENT)
        before = record.read(directory).next_number
        report = one_pass.run_pass(self.context, listed)
        if STUDENT not in listed and not isinstance(threading.current_thread(), Thread):
            assert record.read(directory).next_number == before, "an attempt of a removed experiment was opened"
        return report

    def everything_ends(self) -> None:
        """First without the student, whose open attempt is closed as well; then with it."""
        world, self.removed = self.world, True
        world.query_fails, world.outcome = False, "accepted"
        for turn in range(80):
            while self.passes:
                self.passes.pop().proceed()
            world.identity = ELSEWHERE if turn % 2 else HOME
            self.run_pass()
            newest = record.read(self.context.directory(STUDENT)).newest
            if newest is None or newest.closed:
                break
            world.advance(700)
            for job in self.queued():
                world.start(job)
            for process in self.living():
                process.stopped = False
                for _ in range(8):
                    world.step(process)
        else:
            raise AssertionError(f"the attempt of the removed experiment stays open: {newest}")
        self.removed = False
        super().everything_ends()


def test_the_invariants_hold_while_an_experiment_is_removed() -> None:
    run(Removed, examples=120)
