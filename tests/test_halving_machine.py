"""The invariants of the record hold while a group pauses and is pruned, whatever runners, jobs and files do."""

from __future__ import annotations

from test_state_machine import Known, Rounds, run

from roundhouse.model.attempt import Attempt
from roundhouse.model.causes import Cause
from roundhouse.model.experiment import Experiment, Halving

HALVING = Halving("loss", "min", 1, 0.5)
BETTER, WORSE = (Experiment("r", "g", f"g/{loss}", "s", {"loss": loss}, halving=HALVING) for loss in (0, 1))


class Halved(Rounds):
    """Two experiments that train three epochs, pause after each, and of which one continues; its loss is its name."""

    experiments = [BETTER, WORSE]

    def of(self, experiment: Experiment, known: Known) -> tuple[Attempt, ...]:
        return known[self.context.directory(experiment)].attempts

    def the_better_one_is_never_pruned(self, known: Known) -> None:
        assert Cause.PRUNED not in {one.cause for one in self.of(BETTER, known)}

    def the_worse_one_is_pruned_only_at_a_rung_that_the_better_one_has_reached(self, known: Known) -> None:
        attempts = self.of(WORSE, known)
        if Cause.PRUNED in {one.cause for one in attempts}:
            paused = max(one.opened.pause_at or 0 for one in attempts if one.cause is Cause.RUNG)
            better = self.of(BETTER, known)
            assert any(one.cause is Cause.RUNG and (one.opened.pause_at or 0) >= paused for one in better) or any(
                one.cause is Cause.COMPLETED for one in better
            )

    def a_run_goes_on_from_a_rung_once(self, known: Known) -> None:
        """With one config: after a change of the config it starts from the beginning."""
        for experiment in self.experiments:
            rungs = [one.opened for one in self.of(experiment, known) if one.cause is Cause.RUNG]
            paused = [(opened.config_hash, opened.pause_at) for opened in rungs]
            assert len(paused) == len(set(paused)), f"{experiment.path} paused at {paused}"

    held = (
        *Rounds.held,
        the_better_one_is_never_pruned,
        the_worse_one_is_pruned_only_at_a_rung_that_the_better_one_has_reached,
        a_run_goes_on_from_a_rung_once,
    )


def test_the_invariants_hold_while_a_group_is_pruned() -> None:
    run(Halved, examples=120)
