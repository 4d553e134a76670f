"""Whole runs of the study flood, tiny: the five tasks in turn, what they report, and how a training ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flood_tiny import SETS, TINY, Sets, few, run
from torch import Tensor, nn

from roundhouse.training import read_weights
from roundhouse.training.keep import encoded
from roundhouse.training.session import RESERVED
from studies.flood import floods, samples
from studies.flood.coarse_solver import coarse_changes
from studies.flood.metrics import ARRAYS, METRICS
from studies.flood.options import Options
from studies.flood.predictions import Autocast, predict, relative_metrics, rollout
from studies.flood.samples import SampleSet
from studies.flood.surrogates import NETWORK, new_surrogate, read_surrogate
from studies.flood.tasks import training

SPLITS = ("train", "validation", "test")
PARTS = ("", "_lower", "_upper", "_below", "_dropped")
DEPTHS = {
    "test_loss", "dummy_loss", "test_rmse", "test_csi_5cm", "test_csi_30cm", "test_mass_error",
    "test_absolute_mass_error", "test_front_error", "test_front_states",
}  # fmt: skip
TIMED = {"predict_seconds", "solver_seconds", "time_ratio"}
MAPS = {"terrain", "depth", "truth", "prediction"}


def metrics_of(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "metrics.json").read_text())
    return found


def final_of(place: Path) -> dict[str, float]:
    found: dict[str, float] = metrics_of(place)["final"]
    return found


def arrays_of(place: Path) -> dict[str, np.ndarray]:
    with np.load(place / "outputs.npz") as arrays:
        return dict(arrays)


def relative(*names: str) -> set[str]:
    return {f"{name}_rae{part}" for name in names for part in PARTS}


@pytest.fixture(scope="module")
def evaluated(flood_sets: Sets, flood_trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("evaluated")
    assert run(place, "evaluation", flood_sets.of_evaluation(flood_trained), set="big").finished
    return place


@pytest.fixture(scope="module")
def coarse(flood_sets: Sets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("coarse")
    assert run(place, "coarse", flood_sets.of_coarse, set="big", factor=2).finished
    return place


# What runs report


def check_report(place: Path, finals: set[str], arrays: set[str], recorded: set[str]) -> None:
    found = metrics_of(place)
    assert set(found["final"]) == finals and finals <= set(METRICS)
    assert {name for row in found["epochs"] for name in row} - set(RESERVED) == recorded and recorded <= set(METRICS)
    outputs = arrays_of(place) if (place / "outputs.npz").exists() else {}
    assert set(outputs) == arrays and arrays <= set(ARRAYS)
    assert all(np.isfinite(values).all() for values in outputs.values())


def test_a_simulation_reports_its_balance_at_each_snapshot(flood_sets: Sets) -> None:
    for name in SETS:
        for number, place in enumerate(flood_sets.simulations(name)):
            finals = {"mass_error", "smallest_depth", "deepest", "wet_share", "solver_steps"}
            check_report(place, finals, {"depth", "bed"}, {"simulated_hours", "volume", "mass_error"})
            found = floods.read(place / "kept/simulation.pth")
            assert (found.set, found.number, found.depths.shape) == (name, number, (7, 40, 40))
            assert [row["simulated_hours"] for row in metrics_of(place)["epochs"]] == pytest.approx(
                [n / 30 for n in range(1, 7)]
            )
            final = final_of(place)
            assert final["mass_error"] < 1e-6 and final["smallest_depth"] >= 0
            assert final["solver_steps"] == found.steps[-1] > 100
            volumes = 100 * found.depths.double().sum((1, 2))
            torch.testing.assert_close(volumes, found.balance, rtol=1e-6, atol=1e-3)


def test_samples_report_counts_and_the_loss_of_persistence(flood_sets: Sets, flood_trained: Path) -> None:
    finals = {f"{split}_{name}" for split in SPLITS for name in ("samples", "dropped", "dummy_loss", "ring_rae")}
    for name, number in SETS.items():
        check_report(flood_sets.samples(name), finals, set(), set())
        final = final_of(flood_sets.samples(name))
        assert [final[f"{split}_samples"] + final[f"{split}_dropped"] for split in SPLITS] == [160 * number, 20, 20]
    final, found = final_of(flood_sets.samples("small")), final_of(flood_trained)
    assert [final[f"{split}_dummy_loss"] for split in SPLITS] == pytest.approx(
        [found[name] for name in ("dummy_train_loss", "dummy_val_loss", "dummy_loss")], rel=1e-6
    )


def test_a_training_reports_losses_and_relative_errors_of_each_split(flood_trained: Path) -> None:
    losses = {"train_loss", "validation_loss", "test_loss", "dummy_loss", "dummy_train_loss", "dummy_val_loss"}
    finals = losses | relative(*SPLITS) | {"network_parameters"}
    check_report(
        flood_trained,
        finals,
        {f"{split}_rae" for split in SPLITS} | MAPS,
        {"loss", "val_loss", "val_rae", "learning_rate"},
    )
    found, final = arrays_of(flood_trained), final_of(flood_trained)
    assert {name: found[name].shape for name in MAPS} == dict.fromkeys(MAPS, (3, 32, 32))
    assert {split: found[f"{split}_rae"].shape for split in SPLITS} == {
        "train": (40,),
        "validation": (20,),
        "test": (20,),
    }
    for split in SPLITS:
        errors = found[f"{split}_rae"]
        assert [final[f"{split}_rae{part}"] for part in PARTS] == pytest.approx(
            [np.median(errors), *np.quantile(errors, (0.25, 0.75)), (errors < 1).mean(), 0]
        )
    shown = np.abs(found["truth"] - found["prediction"]).sum((1, 2)) / np.abs(found["truth"]).sum((1, 2))
    ordered = np.sort(found["test_rae"])
    assert shown == pytest.approx([ordered[0], ordered[10], ordered[-1]], rel=1e-5)  # best, median, worst


def test_an_evaluation_reports_all_sets_and_that_of_its_config_in_detail(evaluated: Path) -> None:
    every = {f"{name}_{split}" for name in SETS for split in SPLITS}
    rollouts = {f"rollout{lead}_{name}" for lead in (1, 2) for name in ("rae", "rmse")}
    finals = relative("test", *every) | DEPTHS | rollouts | TIMED | {"network_parameters"}
    check_report(evaluated, finals, {f"{name}_rae" for name in every} | MAPS, set())
    final = final_of(evaluated)
    assert all(final[f"test_rae{part}"] == final[f"big_test_rae{part}"] for part in PARTS)
    assert final["time_ratio"] == pytest.approx(final["predict_seconds"] / final["solver_seconds"])
    assert min(final[name] for name in TIMED) > 0


def test_the_coarse_solver_reports_what_an_evaluation_does(coarse: Path) -> None:
    check_report(coarse, relative("test") | DEPTHS | TIMED, {"big_test_rae"}, set())


def test_rollouts_of_the_round_are_declared() -> None:
    leads = Options().leads
    assert {f"rollout{lead}_{name}" for lead in range(1, leads + 1) for name in ("rae", "rmse")} <= set(METRICS)


# What the numbers are


def test_an_evaluation_gives_the_errors_that_the_training_gave(flood_trained: Path, evaluated: Path) -> None:
    before, after = final_of(flood_trained), final_of(evaluated)
    for split in SPLITS:
        assert all(after[f"small_{split}_rae{part}"] == before[f"{split}_rae{part}"] for part in PARTS)
        assert (arrays_of(evaluated)[f"small_{split}_rae"] == arrays_of(flood_trained)[f"{split}_rae"]).all()
    assert after["network_parameters"] == before["network_parameters"]


def silent(options: Options) -> nn.Module:
    """A surrogate that predicts no change."""
    network = new_surrogate(options)
    for weights in network.parameters():
        nn.init.zeros_(weights)
    return network


def test_persistence_has_a_relative_error_of_exactly_1(
    tmp_path: Path, flood_sets: Sets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "new_surrogate", silent)
    run(tmp_path / "t", "training", flood_sets.small, lr=1e-30, epochs=1)  # which moves no weight by more than that
    final = final_of(tmp_path / "t")
    assert [final[f"{split}_rae{part}"] for split in SPLITS for part in PARTS[:3]] == [1.0] * 9
    assert metrics_of(tmp_path / "t")["epochs"][0]["val_rae"] == 1.0
    assert (final["test_loss"], final["train_loss"]) == (final["dummy_loss"], final["dummy_train_loss"])
    run(tmp_path / "e", "evaluation", flood_sets.of_evaluation(tmp_path / "t"), set="big")
    final = final_of(tmp_path / "e")
    assert {name: final[name] for name in final if name.endswith("_rae")} == {
        name: 1.0 for name in final if name.endswith("_rae")
    }
    assert {"rollout1_rae", "rollout2_rae", "small_train_rae"} <= set(final)


class Rising(nn.Module):
    """A surrogate whose predictions need no limit at a depth of 0: they only rise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.network(*inputs).relu()
        return found


def test_a_rollout_of_one_lead_has_the_errors_of_the_test(flood_sets: Sets, flood_trained: Path) -> None:
    network = Rising(read_surrogate(flood_trained / "best.pth"))
    found = samples.read(flood_sets.samples("big") / "kept/samples.pth").splits["test"]
    autocast: Autocast = torch.no_grad
    after = rollout(network, found, 1, autocast)
    predicted = predict(network, found, autocast)
    assert after["rollout1_rae"] == pytest.approx(relative_metrics(predicted, "test")["test_rae"], rel=1e-4)
    difference = predicted.change.double() - predicted.true.double()
    assert after["rollout1_rmse"] == pytest.approx(float(difference.square().mean().sqrt()), rel=1e-4)
    assert after["rollout1_rae"] != 1.0


def test_the_coarse_solver_is_better_than_persistence_and_better_on_finer_cells(
    tmp_path: Path, flood_sets: Sets, coarse: Path
) -> None:
    fine = final_of(coarse)
    assert fine["test_rae"] < 0.8 and fine["test_loss"] < 0.8 * fine["dummy_loss"]
    assert run(tmp_path, "coarse", flood_sets.of_coarse, set="big", factor=4).metrics["test_rae"] > fine["test_rae"]


def test_windows_on_the_cells_of_the_simulation_give_its_own_changes_but_for_what_begins_at_rest(
    flood_sets: Sets,
) -> None:
    """The first window begins dry and at rest, as the simulation does. The later ones have to gather speed first."""
    flood = floods.read(flood_sets.simulations("big")[0] / "kept/simulation.pth")
    errors = {}
    for lead in (1, 2, 4):
        true = flood.depths[lead:] - flood.depths[:-lead]
        difference = (coarse_changes(flood, lead, 1) - true).abs().sum((1, 2))
        errors[lead] = (difference / true.abs().sum((1, 2))).tolist()
    assert errors[1][0] == 0 and max(errors[lead][0] for lead in errors) < 0.005  # its steps end at each snapshot
    for from_rest in zip(errors[1][1:3], errors[2][1:3], errors[4][1:3], strict=True):
        assert from_rest[0] > from_rest[1] > from_rest[2], "the longer the lead, the less the start matters"
        assert from_rest[0] > 0.02 and from_rest[2] < 0.005


# How a training ends


def test_the_best_weights_are_those_of_the_best_epoch_also_when_the_loss_rises_again(
    tmp_path: Path, flood_sets: Sets
) -> None:
    run(tmp_path, "training", flood_sets.small, lr=0.02, epochs=2)
    losses = [row["val_loss"] for row in metrics_of(tmp_path)["epochs"]]
    best = min(losses)
    assert losses.index(best) == 0 and losses[-1] > 1.01 * best, "else this test shows nothing"
    assert final_of(tmp_path)["validation_loss"] == best
    validation = samples.read(flood_sets.samples("small") / "kept/samples.pth").splits["validation"]
    assert predict(read_surrogate(tmp_path / "best.pth"), validation, torch.no_grad).loss == best


SLOW = {"lr": 1e-7, "epochs": 6}  # no loss falls by a share that would count


def rates(place: Path) -> list[float]:
    return [row["learning_rate"] for row in metrics_of(place)["epochs"]]


def test_the_rate_falls_on_a_plateau_only_if_the_schedule_says_so(tmp_path: Path, flood_sets: Sets) -> None:
    plateau = {"plateau_patience": 1, "plateau_factor": 0.5}
    run(tmp_path / "p", "training", flood_sets.small, schedule="plateau", **plateau, **SLOW)
    assert rates(tmp_path / "p") == pytest.approx([1e-7] * 3 + [0.5e-7] * 2 + [0.25e-7])
    run(tmp_path / "c", "training", flood_sets.small, **plateau, **{**SLOW, "epochs": 4})
    assert rates(tmp_path / "c") == [1e-7] * 4


def test_patience_ends_a_training_and_the_record_says_so(tmp_path: Path, flood_sets: Sets) -> None:
    settings = {"patience": 2, "min_delta": 0.1}
    found = run(tmp_path, "training", flood_sets.small, settings=settings, **SLOW)
    assert (found.finished, found.reason, found.position) == (True, "early stopping", "epoch 3/6")
    assert metrics_of(tmp_path)["ended"] == "early stopping"


# What a training reads


def test_parts_of_a_batch_have_its_gradient(tmp_path: Path, flood_sets: Sets) -> None:
    """After GPU memory ran out, a batch is computed in parts, here of unequal sizes."""
    losses = []
    for factor in (1, 3):
        place = tmp_path / str(factor)
        run(place, "training", flood_sets.small, settings={"accumulate": factor}, epochs=1)
        losses.append(metrics_of(place)["epochs"][0])
    whole, parts = losses
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-4)
    assert parts["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-3)


def with_depths(source: Path, target: Path, change: Callable[[Tensor], Tensor], *splits: str) -> dict[str, list[Path]]:
    """Inputs of a training: the samples of an experiment with other depths in some splits."""
    found = samples.read(source / "kept/samples.pth")
    changed = {
        name: samples.Samples(**{**vars(one), "depths": change(one.depths) if name in splits else one.depths})
        for name, one in found.splits.items()
    }
    (target / "kept").mkdir(parents=True)
    file = target / "kept/samples.pth"
    file.write_bytes(encoded(file.name, samples.content(SampleSet(found.name, changed))))
    return {"samples": [target]}


def test_only_the_split_for_training_is_learned_from(tmp_path: Path, flood_sets: Sets) -> None:
    hashes = []
    for name, splits in (("same", ()), ("others", ("validation", "test")), ("train", ("train",))):
        inputs = with_depths(flood_sets.samples("small"), tmp_path / name, lambda depths: 2 * depths, *splits)
        hashes.append(run(tmp_path / name / "run", "training", inputs, epochs=1).final_hash)
    same, others, train = hashes
    assert others == same != train


def test_weights_have_what_builds_their_network_again(tmp_path: Path, flood_sets: Sets) -> None:
    config = {"architecture": "04", "attention": "projection", "downsampler": "bicubic", "last": "tanh"}
    run(tmp_path, "training", few(flood_sets, tmp_path / "few"), epochs=1, **config)
    network = read_surrogate(tmp_path / "best.pth")
    weights = read_weights(tmp_path / "best.pth")[NETWORK]
    assert {name: one.tolist() for name, one in network.state_dict().items()} == {
        name: one.tolist() for name, one in weights.items()
    }
    assert not network.training
    built = new_surrogate(Options(**{**TINY, **config}))
    assert repr(built) == repr(network.train())
