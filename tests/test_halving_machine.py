"""The invariants of the record hold while a group pauses and is pruned, whatever runners, jobs and files do."""

from __future__ import annotations

from hypothesis.stateful import invariant
from test_state_machine import Rounds, run

from roundhouse import record
from roundhouse.attempt import Record
from roundhouse.causes import Cause
from roundhouse.experiment import Experiment, Halving

HALVING = Halving("loss", "min", 1, 0.5)
BETTER, WORSE = (Experiment("r", "g", f"g/{loss}", "s", {"loss": loss}, halving=HALVING) for loss in (0, 1))


class Halved(Rounds):
    """Two experiments that train three epochs, pause after each, and of which one goes on; its loss is its name."""

    experiments = [BETTER, WORSE]

    def known(self, experiment: Experiment) -> Record:
        return record.read(self.place.directory(experiment))

    @invariant()
    def the_better_one_is_never_pruned(self) -> None:
        assert Cause.PRUNED not in {one.cause for one in self.known(BETTER).attempts}

    @invariant()
    def the_worse_one_is_pruned_only_at_a_rung_that_the_better_one_has_reached(self) -> None:
        attempts = self.known(WORSE).attempts
        if Cause.PRUNED in {one.cause for one in attempts}:
            paused = max(one.opened.pause_at or 0 for one in attempts if one.cause is Cause.RUNG)
            better = self.known(BETTER).attempts
            assert any(one.cause is Cause.RUNG and (one.opened.pause_at or 0) >= paused for one in better) or any(
                one.cause is Cause.COMPLETED for one in better
            )

    @invariant()
    def a_run_goes_on_from_a_rung_once(self) -> None:
        for experiment in self.experiments:
            paused = [one.opened.pause_at for one in self.known(experiment).attempts if one.cause is Cause.RUNG]
            assert len(paused) == len(set(paused)), f"{experiment.path} paused at {paused}"


def test_the_invariants_hold_while_a_group_is_pruned() -> None:
    run(Halved, examples=120)
