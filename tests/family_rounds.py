"""Made-up rounds of four kinds of study, to try figures on: many settings, missing values, one seed, wide ranges.

    python tests/family_rounds.py FOLDER

writes FOLDER/experiments, FOLDER/rounds; then `python analysis/plot_experiments.py --experiments FOLDER/experiments
--rounds FOLDER/rounds --analysis FOLDER/analysis`. All runs are commands, and all metrics and figures are declared in
the round files.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from recorded_runs import folders_in, record_runs  # noqa: E402

from analysis.rounds import Folders  # noqa: E402
from roundhouse.config.round import load_round  # noqa: E402
from roundhouse.store import record  # noqa: E402

Array = NDArray[Any]
Config = Mapping[str, Any]

FLOW = """
round: flow
metrics:
  val_psnr: {label: validation PSNR, mode: max, scale: db, main: true}
  loss: {label: training loss, mode: min}
  parameters: {label: parameters}
experiments:
  base: {path: "base/{seed}", grid: {seed: [0, 1, 2, 3, 4]}, config: {techniques: "0", width: 128}, command: "true"}
  versions:
    path: "{techniques}-{width}-{seed}"
    grid:
      seed: [0]
      width: [128]
      techniques: [TECHNIQUES]
    command: "true"
    baseline: base
  capacity:
    path: "width{width}-{techniques}/{seed}"
    grid: {seed: [0, 1, 2], width: [16, 32, 64, 128, 256, 512], techniques: ["1", "2", "1+2"]}
    command: "true"
    baseline: base
figures:
  width: {kind: against, over: width, by: techniques, groups: [capacity]}
  cost: {kind: tradeoff, over: parameters, by: techniques, groups: [capacity]}
  techniques: {kind: interaction, keys: [techniques], separator: +, groups: [base, versions]}
  settings: {kind: parallel, keys: [width, techniques], groups: [capacity]}
"""
GROWTH = """
round: growth
metrics:
  val_accuracy: {label: validation accuracy, mode: max, scale: percent, main: true, baseline: chance}
  chance: {label: chance, scale: percent}
  connections: {label: connections}
  grown: {label: connections grown, curve: false}
experiments:
  dense: {path: "dense/{seed}", grid: {seed: [0, 1, 2]}, config: {width: 64, density: 1.0}, command: "true"}
  ladder:
    path: "{width}/{density}/{seed}"
    grid: {seed: [0, 1, 2], width: [16, 64, 256], density: [0.5, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001, 0.0000005]}
    command: "true"
    baseline: dense
figures:
  cliff: {kind: against, over: density, by: width}
  map: {kind: heatmap, keys: [width, density], groups: [ladder]}
  events: {kind: epochs, metrics: [val_accuracy, connections], events: [grown], groups: [ladder]}
  sizes: {kind: tradeoff, over: connections, by: width, groups: [ladder]}
  pairs: {kind: interaction, keys: [width, density], groups: [dense, ladder]}
"""
FLOOD = """
round: flood
apart: [set]
metrics:
  val_rae: {label: validation RAE, mode: min, main: true, baseline: 1.0, scale: log}
  rae: {label: RAE}
  seconds_per_map: {label: time of a map, unit: s, scale: log}
experiments:
  persistence: {path: "persistence/{set}", grid: {set: [small, big]}, config: {arch: persistence}, command: "true"}
  models:
    path: "{set}/{arch}/{seed}"
    grid:
      seed: [0, 1, 2]
      set: [small, big]
      arch: [Arch_01, Arch_02, Arch_03, Arch_04, Arch_05, Arch_06, Arch_07]
    command: "true"
    baseline: persistence
figures:
  rae_of_maps: {kind: box, array: rae, by: arch, threshold: 1.0}
  rae_of_runs: {kind: box, metric: val_rae, by: arch}
  maps: {kind: images, arrays: [truth, prediction, error], diverging: [error], groups: [models], samples: [0, 1, 2]}
  architectures: {kind: images, arrays: [prediction], rows: setting, columns: sample, groups: [models]}
  speed: {kind: tradeoff, over: seconds_per_map, by: arch}
  curves: {kind: epochs, metrics: [loss, val_rae], by: arch}
"""
GENEGAN = """
round: genegan
metrics:
  fid: {label: FID, mode: min, main: true, final: fid_5k}
  loss_d: {label: loss of the discriminator, panel: losses}
  loss_g: {label: loss of the generator, panel: losses}
experiments:
  EXP00: {path: "EXP00/{seed}", grid: {seed: [0]}, config: {arm: baseline, scales: 1}, command: "true"}
  arms:
    path: "{arm}/{scales}/{seed}"
    grid: {seed: [0], arm: [block, block_both, multi, random, sbn, groupnorm, w1, ws2], scales: [1, 2]}
    command: "true"
    baseline: EXP00
figures:
  losses: {kind: epochs, metrics: [loss_d, loss_g], by: arm}
  faces: {kind: images, arrays: [faces], rows: setting, columns: sample, samples: [0, 1, 2, 3, 4]}
  arms: {kind: box, by: arm}
  scales: {kind: against, over: scales, by: arm, groups: [arms]}
  choice: {kind: parallel, keys: [arm, scales]}
"""


def _random(*words: object) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(str(word).encode()) for word in words])


def _measured(final: Config, epochs: list[dict[str, Any]], metric: str, mode: str, seconds: float) -> dict[str, Any]:
    known = [row[metric] for row in epochs if metric in row]
    best = (max if mode == "max" else min)(known, default=None)
    return {"version": 1, "metric": metric, "mode": mode, "best": {metric: best}, "final": dict(final),
            "used": {"seconds": seconds}, "epochs": epochs}  # fmt: skip


def flow_run(config: Config) -> dict[str, Any]:
    """PSNR: each technique adds 0.4 dB, 3 hurts, 1 and 2 interfere, more width helps less and less."""
    random, techniques = _random("flow", sorted(config.items())), str(config["techniques"]).split("+")
    gain = 0.4 * (len(techniques) - techniques.count("0") - 2 * techniques.count("3"))
    gain -= 0.5 * ("1" in techniques and "2" in techniques)
    psnr = 24 + gain + 1.5 * np.log10(config["width"] / 128) + 0.15 * random.standard_normal()
    epochs = [{"epoch": n, "loss": 2.0 / n, "val_psnr": psnr - 6 / n} for n in range(1, 21)]
    return _measured(
        {"test_psnr": psnr + 0.1, "parameters": 40.0 * config["width"] ** 2}, epochs, "val_psnr", "max", 60.0
    )


def growth_run(config: Config) -> dict[str, Any]:
    """Accuracy: falls to chance where fewer than about two connections are left for a unit."""
    random, density, width = _random("growth", sorted(config.items())), config["density"], config["width"]
    alive = 1 / (1 + np.exp(-2.5 * np.log(density * width / 0.5)))
    accuracy = float(0.1 + 0.85 * alive + 0.01 * random.standard_normal())
    size = 1000 * density * width
    epochs = [{"epoch": n, "val_accuracy": 0.1 + (accuracy - 0.1) * (1 - 0.8**n), "connections": size * n,
               "grown": 50 if n % 7 == 0 else 0} for n in range(1, 31)]  # fmt: skip
    final = {"test_accuracy": accuracy, "chance": 0.1, "connections": 30 * size}
    return _measured(final, epochs, "val_accuracy", "max", 10.0)


def flood_run(config: Config) -> dict[str, Any]:
    number = 0 if config["arch"] == "persistence" else int(config["arch"][-1])
    rae = float(np.nanmedian(flood_arrays(config)["rae"]))
    epochs = [{"epoch": n, "loss": 1.0 / n, "val_rae": rae * (1 + 3 / n)} for n in range(1, 16 if number else 1)]
    return _measured({"test_rae": rae, "seconds_per_map": 0.002 * 2.0**number}, epochs, "val_rae", "min", 30.0)


def flood_arrays(config: Config) -> dict[str, Array]:
    """Depth maps (N, 24, 32) of a wave, and the relative error of each example; some of them are undefined."""
    random = _random("flood", sorted(config.items()))
    number = 8 if config["arch"] == "persistence" else int(config["arch"][-1])
    x, y = np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 24))
    truth = np.stack([np.exp(-((x - 0.1 * n) ** 2 + (y - 0.5) ** 2) / 0.05) for n in range(6)])
    prediction = truth * (1 - 0.02 * number) + 0.03 * random.standard_normal(truth.shape)
    rae = 10 ** (-0.9 + 0.12 * number + 0.3 * random.standard_normal(60))
    rae[::20] = np.nan
    return {"truth": truth, "prediction": prediction, "error": prediction - truth, "rae": rae}


def genegan_run(config: Config) -> dict[str, Any]:
    random = _random("genegan", sorted(config.items()))
    fid = 60 + 40 * random.random()
    epochs: list[dict[str, Any]] = []
    for step in range(100, 3100, 100):
        row = {"step": step, "loss_d": 1 + np.exp(-step / 900), "loss_g": 2 + 0.3 * random.standard_normal()}
        epochs.append(row | ({"fid": fid * (1 + 500 / step)} if step % 1000 == 0 else {}))
    return _measured({} if config["arm"] == "sbn" else {"fid_5k": fid}, epochs, "fid", "min", 10800.0)


def genegan_arrays(config: Config) -> dict[str, Array]:
    random = _random("genegan faces", sorted(config.items()))
    x, y = np.meshgrid(np.linspace(-1, 1, 32), np.linspace(-1, 1, 32))
    faces = np.full((5, 3, 32, 32), 0.2) + 0.6 * (x**2 + y**2 < 0.7)
    return {"faces": np.clip(faces + 0.1 * random.standard_normal((5, 3, 1, 1)), 0, 1)}


def techniques() -> list[str]:
    """The base's ten techniques alone, all pairs, and 46 triples: 101 sets."""
    ones = [str(n) for n in range(1, 11)]
    pairs = [f"{a}+{b}" for n, a in enumerate(ones) for b in ones[n + 1 :]]
    triples = [
        f"{a}+{b}+{c}" for n, a in enumerate(ones) for m, b in enumerate(ones[n + 1 :], n + 1) for c in ones[m + 1 :]
    ]
    return [*ones, *pairs, *triples[:46]]


FAMILIES: Mapping[str, tuple[str, Callable[[Config], dict[str, Any]], Callable[[Config], dict[str, Array]] | None]] = {
    "flow": (FLOW.replace("TECHNIQUES", ", ".join(f'"{one}"' for one in techniques())), flow_run, None),
    "growth": (GROWTH, growth_run, None),
    "flood": (FLOOD, flood_run, flood_arrays),
    "genegan": (GENEGAN, genegan_run, genegan_arrays),
}


def write_family(name: str, place: Folders, missing: Callable[[str], bool] = lambda path: False) -> None:
    """The records of one made-up round. `missing`: the paths of experiments that have not run."""
    text, measure, arrays = FAMILIES[name]
    place.rounds.mkdir(parents=True, exist_ok=True)
    (place.rounds / f"{name}.yaml").write_text(text)
    experiments = [one for one in load_round(name, place.rounds).experiments if not missing(one.path)]
    record_runs(place, text, {one.path: measure(one.config) for one in experiments})
    for one in experiments if arrays else ():
        own = record.attempt_directory(place.experiments / name / one.path, 1)
        assert arrays
        np.savez(own / "outputs.npz", **arrays(one.config))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    place = folders_in(parser.parse_args().folder)
    for name in FAMILIES:
        write_family(name, place)
        print(place.experiments / name)


if __name__ == "__main__":
    main()
