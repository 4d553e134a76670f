"""Made-up results of the study flood: rounds that were never simulated or trained, with arrays and maps.

    python tests/flood_rounds.py FOLDER

writes FOLDER/experiments/made_up and FOLDER/rounds/made_up.yaml; then `python analysis/suite.py --round made_up
--experiments FOLDER/experiments --rounds FOLDER/rounds --analysis FOLDER/analysis`.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from recorded_runs import folders_in  # noqa: E402

from analysis.rounds import Folders, read_round  # noqa: E402
from roundhouse import files  # noqa: E402
from roundhouse.model.attempt import Opened  # noqa: E402
from roundhouse.model.causes import Cause  # noqa: E402
from roundhouse.model.experiment import Experiment  # noqa: E402
from roundhouse.store import record  # noqa: E402

ARCHITECTURES = ("02", "03", "04", "05", "07", "08", "09")
STAGES = """
round: NAME
study: flood
experiments:
  simulations_small: {path: "simulations/small/{seed}", grid: {seed: [0, 1, 2]}, config: {task: simulation, set: small}}
  simulations_big: {path: "simulations/big/{seed}", grid: {seed: [0, 1, 2, 3]}, config: {task: simulation, set: big}}
  samples_small: {path: "samples/small", config: {task: samples, set: small}, after: {simulations_small: {}}}
  samples_big: {path: "samples/big", config: {task: samples, set: big}, after: {simulations_big: {}}}
  A:
    path: "A/{architecture}/{seed}"
    grid: {architecture: ["02", "03", "04", "05", "07", "08", "09"], seed: &seeds SEEDS}
    config: {task: training, set: small, epochs: 40}
    after: {samples_small: {}}
  B_best:
    path: "B/best/{focus}/lr_{lr}_width_{width}_{downsampler}/{seed}"
    select: {from: A, metric: val_loss, mode: min, top: 1, where: "architecture != '04'", inputs: false}
    config: {lr: 1e-4, width: 1, downsampler: k11s10}
    grid: {seed: *seeds}
    focus:
      lr: {grid: {lr: [3e-4, 1e-3]}}
      width: {grid: {width: [0.5, 2]}}
      downsampler: {grid: {downsampler: [alternating, bicubic]}}
  B_04:
    path: "B/04/{focus}/lr_{lr}_width_{width}_{attention}_{last}/{seed}"
    config: {task: training, set: small, architecture: "04", epochs: 40, lr: 1e-4, width: 1, attention: self,
             last: linear}
    grid: {seed: *seeds}
    focus:
      lr: {grid: {lr: [3e-4, 1e-3]}}
      width: {grid: {width: [0.5, 2]}}
      attention: {grid: {attention: [projection]}}
      last: {grid: {last: [leaky_relu, tanh]}}
  C:
    path: "C/{architecture}/{seed}"
    select: {from: [A, B_04], metric: val_loss, mode: min, per: architecture, inputs: false}
    config: {set: big}
    grid: {seed: *seeds}
    after: {samples_big: {}}
  D:
    path: "D/{architecture}/{seed}"
    grid: {architecture: ["02", "03", "04", "05", "07", "08", "09"], seed: *seeds}
    config: {task: evaluation, set: big, lead_minutes: 60}
    after: {C: {architecture: "{architecture}", seed: "{seed}"}}
  coarse: {path: "D/coarse_{factor}", grid: {factor: [2, 4, 8]}, config: {task: coarse, set: big}}
"""
LEVEL = {"02": 1.1, "03": 0.9, "04": 0.8, "05": 0.5, "07": 0.7, "08": 0.65, "09": 1.3}
"""Planted: the median RAE of each architecture on test data."""

GAIN = {("lr", 1e-3): 0.8, ("width", 0.5): 1.25, ("last", "tanh"): 1.4}
"""Planted: by what a tuned value multiplies errors."""

TIME = {"02": 0.004, "03": 0.002, "04": 0.03, "05": 0.01, "07": 0.2, "08": 0.4, "09": 0.5}
COARSE = {2: (0.14, 0.2), 4: (0.02, 0.45), 8: (0.005, 0.85)}
"""Planted: the time ratio of each architecture; time ratio and RAE of the solver for each factor."""

RING = 0.75
"""Planted: the median RAE of the ring alone."""

DUMMY = {"train": 0.05, "validation": 0.06, "test": 0.055}  # m
STILL_FALLING, OVERFITS = "09", "07"
NOTHING: Callable[[str], bool] = lambda path: False  # noqa: E731


def round_text(name: str = "made_up", seeds: Sequence[int] = (0, 1, 2), only: Sequence[str] = ()) -> str:
    """A round file with the stages of the study, or with these groups alone, which then depend on none by `after`."""
    text = STAGES.replace("NAME", name).replace("SEEDS", str(list(seeds)))
    if not only:
        return text
    head, *groups = text.split("\n  ")
    blocks: list[str] = []
    for line in groups:
        if not line.startswith(" "):
            blocks.append("")
        if not line.startswith("  after"):
            blocks[-1] += f"\n  {line.rstrip()}"
    return head + "".join(one for one in blocks if one.strip().partition(":")[0] in only) + "\n"


def random_of(one: Experiment, *more: int) -> np.random.Generator:
    """Noise of a run, the same each time."""
    return np.random.default_rng([zlib.crc32(one.path.encode()), *more])


def level_of(one: Experiment) -> float:
    """The planted median RAE of a run on test data; seeds have a part of their noise in common."""
    level = LEVEL[str(one.config["architecture"])]
    for (key, value), gain in GAIN.items():
        level *= gain if one.config.get(key) == value else 1.0
    shared = np.random.default_rng(int(one.config["seed"])).standard_normal()
    return float(level * np.exp(0.02 * shared + 0.01 * random_of(one).standard_normal()))


# ----------------------------------------------------------------------------------------------------- metrics.json


def metrics_of(one: Experiment, completed: bool = True) -> dict[str, Any]:
    """metrics.json of a run; one that is not completed has a third of its epochs."""
    task = one.config["task"]
    content: dict[str, Any] = {"version": 1, "metric": None, "mode": None, "epochs": [], "final": {},
                               "used": {"seconds": 60.0, "train_seconds": 50.0}}  # fmt: skip
    if task == "training":
        rows = _epochs(one)
        rows = rows if completed else rows[: len(rows) // 3]
        best = min(rows, key=lambda row: float(row["val_loss"]))
        content |= {"metric": "val_loss", "mode": "min", "epochs": rows,
                    "best": {"epoch": best["epoch"], "val_loss": best["val_loss"]}}  # fmt: skip
        if str(one.config["architecture"]) == OVERFITS:
            content["ended"] = "early stopping"
    finals = {"simulation": _simulation, "samples": _samples, "training": _training, "evaluation": _evaluation,
              "coarse": _coarse}  # fmt: skip
    return {**content, "final": finals[task](one) if completed else None}


def _epochs(one: Experiment) -> list[dict[str, Any]]:
    architecture, random, level = str(one.config["architecture"]), random_of(one, 1), level_of(one)
    rate = 60.0 if architecture == STILL_FALLING else 6.0
    rows = []
    for epoch in range(1, 41):
        falling = np.exp(-epoch / rate)
        train = DUMMY["train"] * (0.6 * level + 0.8 * falling)
        valid = DUMMY["validation"] * (0.8 * level + 0.8 * falling)
        if architecture == OVERFITS:
            train *= 1 - 0.01 * epoch
            valid *= 1 + 0.02 * max(0, epoch - 12)
        noise = np.exp(0.004 * random.standard_normal(2))
        row = {"stage": "train", "epoch": epoch, "seconds": 1.0, "peak_memory_mb": 100, "val_rae": 0.9 * level}
        rows.append(
            {**row, "loss": train * noise[0], "val_loss": valid * noise[1], "learning_rate": one.config.get("lr", 1e-4)}
        )
    return rows


def _simulation(one: Experiment) -> dict[str, float]:
    seed = int(one.config["seed"])
    return {"mass_error": (-1) ** seed * 1e-15 * (seed + 1), "smallest_depth": -1e-17 * seed,
            "solver_steps": 3600 + seed, "wet_share": 0.3, "deepest": 4.0, "cell_steps_per_second": 1e6}  # fmt: skip


def _samples(one: Experiment) -> dict[str, float]:
    # fmt: off
    return {f"{split}_{name}": value for split, dummy in DUMMY.items()
            for name, value in (("samples", 120.0), ("dropped", 7.0), ("dummy_loss", dummy), ("ring_rae", RING))}
    # fmt: on


def _quartiles(prefix: str, level: float, dropped: int = 2) -> dict[str, float]:
    return {prefix: level, f"{prefix}_lower": 0.6 * level, f"{prefix}_upper": 1.6 * level,
            f"{prefix}_below": float(np.clip(1.2 - 0.6 * level, 0, 1)), f"{prefix}_dropped": dropped}  # fmt: skip


def _training(one: Experiment) -> dict[str, float]:
    level = level_of(one)
    made = {"dummy_loss": DUMMY["test"], "dummy_train_loss": DUMMY["train"], "dummy_val_loss": DUMMY["validation"],
            "network_parameters": 1000.0 * int(str(one.config["architecture"]))}  # fmt: skip
    for split, share in (("train", 0.7), ("validation", 0.95), ("test", 1.0)):
        made |= {f"{split}_loss": share * level * DUMMY[split], **_quartiles(f"{split}_rae", share * level)}
    return made


def _evaluation(one: Experiment) -> dict[str, float]:
    architecture, level = str(one.config["architecture"]), level_of(one)
    made: dict[str, float] = {}
    for name in ("small", "big"):
        for split, share in (("train", 0.8), ("validation", 1.0), ("test", 1.0)):
            made |= _quartiles(f"{name}_{split}_rae", share * level)
    made |= {key.removeprefix("big_"): value for key, value in made.items() if key.startswith("big_test")}
    for lead in (1, 2, 3):
        made |= {f"rollout{lead}_rae": level * lead**0.5, f"rollout{lead}_rmse": 0.03 * level * lead}
    ratio = TIME[architecture] * float(np.exp(0.1 * random_of(one, 2).standard_normal()))
    return {**made, **_depth_errors(level), "network_parameters": 1000.0 * int(architecture),
            "predict_seconds": 0.01 * ratio, "solver_seconds": 0.01, "time_ratio": ratio}  # fmt: skip


def _depth_errors(level: float) -> dict[str, float]:
    return {"test_rmse": 0.03 * level, "test_csi_5cm": 0.9, "test_csi_30cm": 0.85, "test_csi_100cm": 0.8,
            "test_mass_error": 0.01, "test_absolute_mass_error": 0.03, "test_front_error": 8.0,
            "test_front_states": 0.1, "test_loss": level * DUMMY["test"], "dummy_loss": DUMMY["test"]}  # fmt: skip


def _coarse(one: Experiment) -> dict[str, float]:
    ratio, level = COARSE[int(one.config["factor"])]
    return {**_quartiles("test_rae", level), **_depth_errors(level), "predict_seconds": 0.01 * ratio,
            "solver_seconds": 0.01, "time_ratio": ratio}  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- arrays


def arrays_of(one: Experiment) -> dict[str, np.ndarray]:
    """outputs.npz of a run: errors of samples around its median, with a NaN for one in which nothing changes; maps."""
    task = one.config["task"]
    if task == "coarse":
        return {"big_test_rae": _errors(one, COARSE[int(one.config["factor"])][1])}
    names = ["train", "validation", "test"]
    if task == "evaluation":
        names = [f"{name}_{split}" for name in ("small", "big") for split in names]
    made = {f"{name}_rae": _errors(one, level_of(one) * (0.7 if "train" in name else 1.0)) for name in names}
    return {**made, **_maps()}


def _errors(one: Experiment, level: float) -> np.ndarray:
    spread = np.exp(np.linspace(-2, 2, 41))
    return np.append(level * spread * np.exp(0.02 * random_of(one, 3).standard_normal(41)), np.nan)


def _maps() -> dict[str, np.ndarray]:
    y, x = np.mgrid[:32, :32] / 31
    truth = np.stack([np.exp(-(((x - 0.5) ** 2 + (y - centre) ** 2) / 0.05)) - 0.3 * x for centre in (0.2, 0.5, 0.8)])
    prediction = truth * np.array([0.95, 0.6, -0.5])[:, None, None]
    terrain = np.stack([20 + 5 * np.sin(6 * x + case) + 4 * y for case in range(3)])
    return {"terrain": terrain, "depth": np.maximum(0, 25 - terrain), "truth": truth, "prediction": prediction}


# --------------------------------------------------------------------------------------------------------- records


def write_round(
    place: Folders, text: str, missing: Callable[[str], bool] = NOTHING, running: Callable[[str], bool] = NOTHING,
    diverged: Callable[[str], bool] = NOTHING,
    changed: Callable[[Experiment, dict[str, Any]], dict[str, Any]] = lambda one, metrics: metrics,
) -> None:  # fmt: skip
    """The records of a made-up round, a group after the other, so that selections are made from those before.

    Runs whose selection cannot be made have no record. `missing`: paths that have not run either; `changed`:
    metrics.json of a run, from the made-up one.
    """
    place.rounds.mkdir(parents=True, exist_ok=True)
    name = text.partition("round:")[2].split()[0]
    (place.rounds / f"{name}.yaml").write_text(text)
    (place.experiments / name).mkdir(parents=True, exist_ok=True)
    with patch("os.fsync"):  # nothing here must survive a crash
        for group in read_round(name, place).groups:
            for entry in read_round(name, place).groups[group]:
                if not missing(entry.path) and "task" in entry.config:
                    partial = running(entry.path) or diverged(entry.path)
                    cause = Cause.DIVERGED if diverged(entry.path) else Cause.COMPLETED
                    _record(entry.directory, entry.experiment, None if running(entry.path) else cause,
                            changed(entry.experiment, metrics_of(entry.experiment, not partial)))  # fmt: skip


def _record(directory: Path, one: Experiment, cause: Cause | None, metrics: Mapping[str, Any]) -> None:
    """A run with one attempt; without a `cause`, it goes on."""
    opened = Opened(record.new_token(), {"kind": "local"}, one.config_hash(), {})
    assert record.open_attempt(directory, 1, opened)
    record.write_config(directory, one)
    own = record.attempt_directory(directory, 1)
    assert files.create_exclusive(own / "claim.json", {"version": 1, "nonce": "n", "at": 1.0})
    (own / "environment.json").write_text(json.dumps({"version": 1, "device": "cpu"}))
    if cause:
        record.close(directory, 1, cause, "")
    if cause is Cause.DIVERGED:
        metrics = {**metrics, "diverged": {"epoch": 13, "why": "the loss is not finite"}}
    (own / "metrics.json").write_text(json.dumps(metrics))
    if cause is Cause.COMPLETED and one.config["task"] in ("training", "evaluation", "coarse"):
        np.savez(own / "outputs.npz", **arrays_of(one))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    place = folders_in(parser.parse_args().folder)
    write_round(place, round_text())
    print(place.experiments)


if __name__ == "__main__":
    main()
