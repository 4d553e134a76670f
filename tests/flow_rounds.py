"""Made-up results of the study flow_matching: the document's versions, and rounds that were never trained.

    python tests/flow_rounds.py FOLDER

writes FOLDER/experiments/flow and FOLDER/rounds/flow.yaml; then `python analysis/suite.py --round flow --experiments
FOLDER/experiments --rounds FOLDER/rounds --analysis FOLDER/analysis`.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from recorded_runs import folders_in, record_runs  # noqa: E402

from analysis.rounds import Folders  # noqa: E402
from roundhouse.config.round import load_round  # noqa: E402
from roundhouse.store import record  # noqa: E402
from studies.flow_matching.analysis.results import Run, Setting  # noqa: E402

Techniques = tuple[int, ...]
TEN = tuple(range(1, 11))


def versions() -> dict[int, Techniques]:
    """The document's versions v3 to v102, and v103 with all ten."""
    sets: list[Techniques] = [(one,) for one in TEN]
    sets += combinations(TEN, 2)
    sets += combinations(TEN[:5], 3)
    for first, second, others in (
        (1, 6, (2, 3, 4, 5, 7, 8, 9, 10)),
        (1, 7, (2, 3, 4, 5, 8, 9, 10)),
        (2, 6, (3, 4, 5, 7, 8, 9, 10)),
        (2, 7, (3, 4, 5)),
    ):
        sets += [tuple(sorted((first, second, other))) for other in others]
    sets += combinations(TEN[:5], 4)
    sets += [TEN[:5], (1, 2, 3, 4, 5, 7), TEN[:9], (*TEN[:8], 10), (*TEN[:7], 9, 10), TEN]
    return dict(enumerate(sets, 3))


@dataclass(frozen=True)
class Truth:
    """What is planted: dB of each technique and pair, and the noise between seeds."""

    base: float = 14.0
    single: Mapping[int, float] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], float] = field(default_factory=dict)
    noise: float = 0.15

    def psnr(self, techniques: Techniques) -> float:
        pairs = sum(gain for pair, gain in self.pairs.items() if {*pair} <= {*techniques})
        return self.base + sum(self.single.get(one, 0.0) for one in techniques) + pairs


def settings(
    truth: Truth, random: np.random.Generator, *, base_seeds: int = 5, seeds: int = 1, shared: float = 0.0,
    only: Sequence[int] | None = None,
) -> list[Setting]:  # fmt: skip
    """The base and the versions. `shared`: standard deviation of a shift that all runs of one seed have in common."""
    shift = shared * random.standard_normal(max(base_seeds, seeds))
    made = []
    for version, techniques in {2: (), **versions()}.items():
        if only is None or version == 2 or version in only:
            count = seeds if techniques else base_seeds
            values = truth.psnr(techniques) + truth.noise * random.standard_normal(count) + shift[:count]
            runs = tuple(Run(f"v{version}/{n}", n, {"test_psnr": float(one)}, 100.0, 90.0, (), ())
                         for n, one in enumerate(values))  # fmt: skip
            made.append(Setting("versions" if techniques else "base", version, techniques, {}, runs, ()))
    return made


# ------------------------------------------------------------------------------------------------- a recorded round

ROUND = """
round: NAME
study: flow_matching
resources: {ncpus: 16, ngpus: 4, mem: 64gb, walltime: "24:00:00", pack: {slots: 8, per_gpu: 2}, max_running: 1}
defaults: {complexity: simple, epochs: 100, locality: distance}
experiments:
  base: {path: "v{version}/{seed}", grid: {seed: [0, 1, 2, 3, 4]}, config: {version: 2, techniques: ""}}
  versions:
    path: "v{version}/{seed}"
    grid: {seed: SEEDS}
    zip:
      version: [VERSIONS]
      techniques: [TECHNIQUES]
    baseline: base
  regression: {path: "regression/{seed}", grid: {seed: [0, 1, 2, 3, 4]}, config: {method: regression}}
  control_steps: {path: "control_steps/{seed}", grid: {seed: [0, 1, 2]}, config: {epochs: 150}, baseline: base}
  control_patch: {path: "control_patch/{seed}", grid: {seed: [0]}, config: {query_pattern: patch}, baseline: base}
  control_schedule:
    path: "control_schedule/{seed}"
    grid: {seed: [0, 1, 2]}
    config: {schedule: warmup_cosine}
    baseline: base
  logit_normal:
    path: "logit_normal/{seed}"
    grid: {seed: [0, 1, 2]}
    config: {version: 10, techniques: "8", noise_schedule: logit_normal}
    baseline: base
  document_base:
    path: "document_base/v{version}/{seed}"
    grid: {seed: [0]}
    zip:
      version: [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
      techniques: ["", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]
    config: {locality: none}
    baseline: base
  longer:
    path: "longer/{rank}/{seed}"
    select: {from: [versions], metric: val_psnr, mode: max, top: 10, inputs: false}
    grid: {seed: [5]}
    config: {epochs: 500}
    baseline: base
  generalisation_document:
    path: "generalisation/document/{complexity}/{seed}"
    grid: {complexity: &six [simple, multi_frequency, radial, interference, modulated, composite], seed: &new [5, 6, 7]}
    config: {version: 98, techniques: "1+2+3+4+5", epochs: 200}
    baseline: generalisation_base
  generalisation_base:
    path: "generalisation/base/{complexity}/{seed}"
    grid: {complexity: *six, seed: *new}
    config: {version: 2, techniques: "", epochs: 200}
"""
PLANTED = Truth(14.2, {1: 0.1, 2: 0.9, 3: -0.3, 5: 0.6, 7: 0.5, 9: 0.4, 10: -0.2}, {(2, 5): -0.7, (7, 9): 0.6}, 0.12)
MEAN = {"simple": 9.0, "multi_frequency": 16.6, "radial": 9.0, "interference": 6.2, "modulated": 8.5, "composite": 13.6}
RBF = {
    "simple": 14.9,
    "multi_frequency": 18.1,
    "radial": 11.0,
    "interference": 6.4,
    "modulated": 8.2,
    "composite": 15.3,
}
NOT_RUN: Callable[[str], bool] = lambda path: path.startswith("longer")  # noqa: E731


def round_text(name: str = "flow", seeds: Sequence[int] = (0,), only: Sequence[int] | None = None) -> str:
    """The round file, with all versions or those in `only`."""
    chosen = {version: sets for version, sets in versions().items() if only is None or version in only}
    text = ROUND.replace("NAME", name).replace("SEEDS", str(list(seeds)))
    names = ", ".join(f'"{"+".join(map(str, sets))}"' for sets in chosen.values())
    return text.replace("VERSIONS", ", ".join(map(str, chosen))).replace("TECHNIQUES", names)


def metrics_of(config: Mapping[str, Any], truth: Truth = PLANTED) -> dict[str, Any]:
    """metrics.json of a run with this config."""
    random = np.random.default_rng([zlib.crc32(str(one).encode()) for one in sorted(config.items())])
    family, noise = config["complexity"], truth.noise * random.standard_normal()
    techniques = tuple(int(one) for one in str(config.get("techniques", "")).split("+") if one)
    is_flow, is_near = config.get("method", "flow") == "flow", config["locality"] == "distance"
    psnr = truth.psnr(techniques) - truth.base + noise + 0.15 * np.log2(config["epochs"] / 100)
    psnr += RBF[family] - 0.6 if is_near else MEAN[family] + 0.02 - psnr
    psnr = psnr if is_flow else RBF[family] + 2 + noise
    gap = 1.6 if is_flow else 0.0
    span = config["epochs"]
    steps = 16.0 * span * (1.5 if 1 in techniques else 1.0)
    epochs = [{"epoch": n, "loss": 0.2 + 1 / n, "val_psnr": psnr - (psnr - MEAN[family]) * np.exp(-5 * n / span)}
              for n in range(span // 10, span + 1, span // 10)]  # fmt: skip
    final = {
        "chunked_psnr": psnr - 0.1,
        "test_psnr": psnr, "last_test_psnr": psnr - 0.05, "test_mean_psnr": psnr + gap, "mean_psnr": MEAN[family],
        "nearest_psnr": MEAN[family] + 0.8, "thin_plate_psnr": MEAN[family] + 2.4, "rbf_psnr": RBF[family],
        "rbf_oracle_psnr": RBF[family] + 0.2, "test_mse": 10 ** (-psnr / 10), "network_parameters": 1e6,
        "train_steps": steps,
        "sample_seconds": 0.2 * (1 + 0.02 * random.standard_normal()),
    }  # fmt: skip
    if is_flow:
        loss = 0.3 if 1 in techniques else 1.0
        final |= {f"euler{n}_psnr": psnr - loss * (4 / n - 0.5) for n in (1, 2, 4)} | {"straightness": 0.1 * loss}
    trained = 0.05 * steps * (1 + 0.3 * (6 in techniques)) * (1 + 0.02 * random.standard_normal())
    return {"version": 1, "metric": "val_psnr", "mode": "max", "best": {"val_psnr": psnr}, "final": final,
            "used": {"seconds": trained + 5, "train_seconds": trained}, "epochs": epochs}  # fmt: skip


def write_round(place: Folders, text: str, missing: Callable[[str], bool] = NOT_RUN, truth: Truth = PLANTED) -> None:
    """The records of a made-up round. `missing`: the paths of experiments that have not run."""
    place.rounds.mkdir(parents=True, exist_ok=True)
    name = text.partition("round:")[2].split()[0]
    (place.rounds / f"{name}.yaml").write_text(text)
    experiments = [one for one in load_round(name, place.rounds).experiments if not missing(one.path)]
    metrics = {one.path: metrics_of(one.config, truth) for one in experiments}
    record_runs(place, text, metrics)
    for number, (path, content) in enumerate(metrics.items()):
        _set_times(place.experiments / name / path, 1.7e9 + number // 8 * 400.0, content["used"]["seconds"])


def _set_times(directory: Path, start: float, seconds: float) -> None:
    """When the only attempt of a run started and ended: eight run at the same time."""
    for name, at in (("claim.json", start), ("result.json", start + seconds)):
        file = record.attempt_directory(directory, 1) / name
        file.write_text(json.dumps({**json.loads(file.read_text()), "at": at, "exit_code": 0}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    place = folders_in(parser.parse_args().folder)
    write_round(place, round_text())
    print(place.experiments / "flow")


if __name__ == "__main__":
    main()
