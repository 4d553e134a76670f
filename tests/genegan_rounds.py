"""Made-up results of the study genegan: rounds that were never trained, with pictures and checkpoints.

    python tests/genegan_rounds.py FOLDER

writes FOLDER/experiments/queue and FOLDER/rounds/queue.yaml; then `python analysis/suite.py --round queue --experiments
FOLDER/experiments --rounds FOLDER/rounds --analysis FOLDER/analysis`.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from recorded_runs import folders_in, record_runs  # noqa: E402

from analysis.rounds import Folders  # noqa: E402
from roundhouse.config.round import load_round  # noqa: E402
from roundhouse.model.causes import Cause  # noqa: E402
from roundhouse.model.experiment import Experiment  # noqa: E402
from roundhouse.store import record  # noqa: E402

SIDE = 16  # pixels of a made-up face
QUEUE = """
round: NAME
study: genegan
defaults: {dataset: DATASET, sizes: [32, 48, 64], time_limit: 600, evaluation_images: 500, save_every: 100,
           extractor: EXTRACTOR}
experiments:
  EXP00: {path: "EXP00/{seed}", grid: {seed: &seeds SEEDS}}
  EXP01_object: {path: "EXP01_object/{seed}", grid: {seed: *seeds}, config: {block_conv: object}, baseline: EXP00}
  EXP01_both: {path: "EXP01_both/{seed}", grid: {seed: *seeds}, config: {block_conv: both}, baseline: EXP00}
  EXP02_largest: {path: "EXP02_largest/{seed}", grid: {seed: *seeds}, config: {outputs: multiscale}, baseline: EXP00}
  EXP02_all:
    path: "EXP02_all/{seed}"
    grid: {seed: *seeds}
    config: {outputs: multiscale, adversarial: all}
    baseline: EXP00
  EXP03_random: {path: "EXP03_random/{seed}", grid: {seed: *seeds}, config: {resolution_mode: random}, baseline: EXP00}
  EXP04_group: {path: "EXP04_group/{seed}", grid: {seed: *seeds}, config: {norm: group}, baseline: EXP00}
  EXP05_square: {path: "EXP05_square/{seed}", grid: {seed: *seeds}, config: {scale_weights: square}, baseline: EXP00}
  EXP05_inverse: {path: "EXP05_inverse/{seed}", grid: {seed: *seeds}, config: {scale_weights: inverse}, baseline: EXP00}
  vqvae: {path: "vqvae/{seed}", grid: {seed: *seeds}, config: {method: vqvae}}
  EXP06b:
    path: "EXP06b/{seed}"
    grid: {seed: *seeds}
    config: {init: vqvae}
    after: {vqvae: {seed: "{seed}"}}
    baseline: EXP00
  EXP07_r1:
    path: "EXP07_r1/{seed}"
    grid: {seed: *seeds}
    config: {objective: r1, norm: group}
    baseline: EXP04_group
"""
FACES = """
round: NAME
study: genegan
defaults: {dataset: faces, sizes: [32], evaluation_images: 500, extractor: small, norm: group}
experiments:
  r1: {path: "r1/{seed}", grid: {seed: &seeds SEEDS}, config: {objective: r1}}
  wgan: {path: "wgan/{seed}", grid: {seed: *seeds}, config: {objective: wgan}}
  wgan_ten: {path: "wgan_ten/{seed}", grid: {seed: *seeds}, config: {objective: wgan, iterations: 3000000}}
"""
SPEED = {"EXP03_random": 2.9, "EXP01_both": 0.9, "EXP02_largest": 1.3}  # iterations per second beside the baseline's
BETTER = {"EXP01_object": 0.8, "EXP02_all": 1.3, "EXP06b": 0.7, "EXP07_r1": 0.5, "r1": 0.3}  # distance beside it
NOISE = {"EXP03_random": 2.0, "EXP06b": 0.5}  # of the losses
ALL: Callable[[str], bool] = lambda path: False  # noqa: E731


def queue_text(
    name: str = "queue", seeds: Sequence[int] = (0, 1, 2), dataset: str = "faces", extractor: str = "small"
) -> str:
    """A round file with the groups of the document."""
    text = QUEUE.replace("NAME", name).replace("SEEDS", str(list(seeds)))
    return text.replace("DATASET", dataset).replace("EXTRACTOR", extractor)


def faces_text(name: str = "faces_round", seeds: Sequence[int] = (0, 1, 2)) -> str:
    """A round file with the modern objective beside the document's."""
    return FACES.replace("NAME", name).replace("SEEDS", str(list(seeds)))


def metrics_of(one: Experiment, completed: bool = True) -> dict[str, Any]:
    """metrics.json of a run; of one that is not completed, after a third of its box."""
    random = np.random.default_rng([zlib.crc32(one.group.encode()), int(one.config["seed"])])
    shared = np.random.default_rng(int(one.config["seed"]))  # what runs of one seed have in common
    seconds = 600.0 if completed else 200.0
    speed = SPEED.get(one.group, 1.0) * (1 + 0.01 * random.standard_normal())
    last = int(seconds * speed) + (2000 if one.group == "wgan_ten" else 0)
    level = BETTER.get(one.group, 1.0) * np.exp(0.04 * random.standard_normal() + 0.04 * shared.standard_normal())
    rows = list(_rows(one, last, level, random))
    content: dict[str, Any] = {"version": 1, "metric": "distance", "mode": "min", "epochs": rows, "final": None,
                               "used": {"seconds": seconds + 30, "train_seconds": seconds}}  # fmt: skip
    if one.config.get("method") == "vqvae":
        return {**content, "metric": None, "mode": None, "final": {} if completed else None}
    content["best"] = {"step": last, "distance": rows[-1]["distance"]}
    return {**content, "final": _final(one, rows[-1], random)} if completed else content


def _rows(one: Experiment, last: int, level: float, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    for step in sorted({*range(10, last + 1, 10), last}):
        row: dict[str, Any] = {"stage": "train", "step": step, "seconds": 10.0, "peak_memory_mb": 100}
        if one.config.get("method") == "vqvae":
            yield {**row, "vqvae_loss": 0.1 + 1 / step}
            continue
        noise = 0.02 * NOISE.get(one.group, 1.0)
        row |= {"critic_loss": -0.01 - 1 / step + noise * random.standard_normal(),
                "generator_loss": 0.1 + 2 / step + noise * random.standard_normal()}  # fmt: skip
        row |= {f"{name}_loss": 0.1 for name in ("object", "reconstruction", "parallelogram", "adversarial", "decay")}
        if step % 100 == 0 or step == last:
            row |= _measured(one, 1 - np.exp(-step / 300), level)
        yield row


def _measured(one: Experiment, progress: float, level: float) -> dict[str, float]:
    added, removed = 15 * level * (2.2 - progress), 13 * level * (2.2 - progress)
    made = {"distance": (added + removed) / 2, "add_fd": added, "remove_fd": removed, "add_kd": added / 1000,
            "add_kd_sd": 0.001, "remove_kd": removed / 1000, "remove_kd_sd": 0.001}  # fmt: skip
    if one.config["dataset"] == "faces":
        rate = min(0.99, progress * (1.2 - 0.25 * level))
        made |= {"add_rate": rate, "remove_rate": min(0.99, rate + 0.05), "add_inside": 10 + 10 * progress,
                 "remove_inside": 11 + 10 * progress, "add_outside": 20 + 5 * progress,
                 "remove_outside": 21 + 5 * progress, "reconstruction_outside": 22 + 5 * progress}  # fmt: skip
    return made


def _final(one: Experiment, row: Mapping[str, Any], random: np.random.Generator) -> dict[str, float]:
    found = {f"test_{name}": float(value) * (1 + 0.01 * random.standard_normal()) for name, value in row.items()
             if name.startswith(("distance", "add_", "remove_", "reconstruction_outside"))}  # fmt: skip
    for direction in ("add", "remove"):
        found |= {f"test_{direction}_fd_floor": 1.5, f"test_{direction}_fd_identity": 45.0,
                  f"test_{direction}_fd_copy": 0.0, f"test_{direction}_kd_identity": 0.05}  # fmt: skip
        if one.config["dataset"] == "faces":
            found |= {f"test_{direction}_inside_{dummy}": value
                      for dummy, value in (("identity", 11.0), ("copy", 9.0), ("paste", 14.0))}  # fmt: skip
            found |= {f"test_{direction}_rate_identity": 0.02, "test_judge_accuracy": 0.98,
                      f"test_{direction}_rate": min(0.99, found[f"test_{direction}_rate"])}  # fmt: skip
    return found


def write_round(place: Folders, text: str, missing: Callable[[str], bool] = ALL,
                running: Callable[[str], bool] = ALL, diverged: Callable[[str], bool] = ALL,
                about: Mapping[str, Any] | None = None) -> None:  # fmt: skip
    """The records of a made-up round. `missing`: the paths that have not run; `about`: kept/evaluation.json."""
    place.rounds.mkdir(parents=True, exist_ok=True)
    name = text.partition("round:")[2].split()[0]
    (place.rounds / f"{name}.yaml").write_text(text)
    for one in load_round(name, place.rounds).experiments:
        if missing(one.path):
            continue
        partial = running(one.path) or diverged(one.path)
        metrics = metrics_of(one, not partial)
        if diverged(one.path):
            metrics["diverged"] = {"step": 200, "why": "the loss is not finite"}
        record_runs(place, text, {one.path: metrics}, cause=Cause.DIVERGED if diverged(one.path) else Cause.COMPLETED)
        attempt = record.attempt_directory(place.experiments / name / one.path, 1)
        if running(one.path):
            (attempt / "result.json").unlink()
        if one.config.get("method") != "vqvae":
            _write_kept(attempt, metrics, about, one)
            if not partial:
                np.savez(attempt / "outputs.npz", samples=faces(1.0, one.group))


def _write_kept(attempt: Path, metrics: Mapping[str, Any], about: Mapping[str, Any] | None, one: Experiment) -> None:
    (attempt / "kept/samples").mkdir(parents=True, exist_ok=True)
    (attempt / "snapshots").mkdir(exist_ok=True)
    steps = [row["step"] for row in metrics["epochs"] if "distance" in row]
    for step in steps:
        grid = faces(step / steps[-1], one.group).transpose(0, 3, 1, 4, 2).reshape(8 * SIDE, 6 * SIDE, 3)
        buffer = io.BytesIO()
        Image.fromarray(grid).save(buffer, "png")
        (attempt / f"kept/samples/iter_{step:06}.png").write_bytes(buffer.getvalue())
    for step in steps[-2:]:
        (attempt / f"snapshots/iter_{step:06}.pth").write_bytes(b"weights")
    if about is not None:
        (attempt / "kept/evaluation.json").write_text(json.dumps(about))


def faces(progress: float, group: str) -> np.ndarray:
    """Made-up samples (8, 6, 3, S, S), uint8: Au, B0, Au', B0', Bu, A0; a mouth goes up or down."""
    tint = zlib.crc32(group.encode()) % 60
    made = np.zeros((8, 6, 3, SIDE, SIDE), dtype=np.uint8)
    for face in range(8):
        for column in range(6):
            smiles = column in (0, 2, 4)
            colour = np.array([120 + 15 * face, 140 - 10 * face, 90 + tint])
            made[face, column] = colour[:, None, None]
            strength = progress if column in (4, 5) else 1.0
            row = int(round(11 + 2 * strength * (1 if smiles else -1)))
            made[face, column, :, row, 4:12] = 20
            made[face, column, :, 11, 7:9] = 20
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    place = folders_in(parser.parse_args().folder)
    write_round(place, queue_text())
    write_round(place, faces_text())
    print(place.experiments)


if __name__ == "__main__":
    main()
