"""Maps of the best, the median and the worst test sample of an architecture: state, truth, prediction and error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.learning_curves import DrawnFigure
from analysis.saved_arrays import Array, arrays_in
from studies.flood.analysis.names import architecture_name
from studies.flood.analysis.results import EVALUATION, TRAINING, FloodResults, Run, Setting

CASES = ("best", "median", "worst")
GIVEN = ("terrain", "depth", "truth", "prediction")
TITLES = {"terrain": "terrain (m)", "depth": "depth before (m)", "truth": "true change (m)",
          "prediction": "predicted change (m)", "error": "error (m)"}  # fmt: skip
MAPS = {"terrain": "gist_earth", "depth": "Blues"}


def runs_by_architecture(results: FloodResults) -> Mapping[str, tuple[Setting, Run]]:
    """The run that stands for each architecture: the first seed of stage D, else of the last stage that trains it."""
    found: dict[str, tuple[Setting, Run]] = {}
    ordered = [*results.of_task(EVALUATION), *reversed(results.of_task(TRAINING))]
    for setting in ordered:
        run = next((one for one in setting.completed if one.entry.outputs_file), None)
        if setting.architecture and run:
            found.setdefault(setting.architecture, (setting, run))
    return dict(sorted(found.items()))


def maps(setting: Setting, run: Run) -> DrawnFigure | None:
    """Rows: samples; columns: terrain, depth before, true and predicted change, error. None: the run has no maps."""
    assert run.entry.outputs_file is not None
    with arrays_in(run.entry.outputs_file, f"outputs.npz of {run.path}") as saved:
        if any(name not in saved for name in GIVEN):
            return None
        found: dict[str, Array] = {name: np.asarray(saved[name], dtype=np.float64) for name in GIVEN}
    for name, one in found.items():
        if one.ndim != 3 or len(one) != len(CASES):
            raise ValueError(f"{name} of {run.path} has the shape {one.shape}, not (3, height, width)")
    found["error"] = found["prediction"] - found["truth"]
    figure, places = style.panels(len(TITLES), len(CASES), width=style.PRINT_WIDTH / len(TITLES), height=1.25)
    rows: list[dict[str, Any]] = []
    for case, name in enumerate(CASES):
        own = places[case * len(TITLES) : (case + 1) * len(TITLES)]
        change = max(float(np.nanmax(np.abs(found[key][case]))) for key in ("truth", "prediction", "error")) or 1.0
        for axes, (key, title) in zip(own, TITLES.items(), strict=True):
            _draw(axes, found[key][case], key, change)
            if case == 0:
                axes.set_title(title, fontsize=7)
        rae = _rae(found["prediction"][case], found["truth"][case])
        own[0].set_ylabel(f"{name}\nRAE {rae:.3g}", fontsize=7)
        rows.append({"path": run.path, "sample": name, "rae": rae,
                     "mean_absolute_change": float(np.abs(found["truth"][case]).mean()),
                     "mean_absolute_error": float(np.abs(found["error"][case]).mean())})  # fmt: skip
    stage = "the big test set" if setting.task == EVALUATION else f"the test data of stage {setting.stage}"
    caption = (
        f"{run.path}, on {stage}: the samples with the lowest, the median and the highest RAE. The last three columns "
        "share a colour scale in each row; red is rising water. The error is prediction minus truth."
    )
    title = f"Predictions and errors: {architecture_name(setting.architecture)}"
    return DrawnFigure(figure, rows, title, caption)


def _draw(axes: Axes, values: Array, key: str, change: float) -> None:
    if key in MAPS:
        image = axes.imshow(values, cmap=MAPS[key])
    else:
        image = axes.imshow(values, cmap=style.DIVERGING, vmin=-change, vmax=change)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    figure = axes.figure
    assert figure
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.ax.yaxis.set_major_locator(MaxNLocator(3))
    bar.ax.tick_params(labelsize=5.5, length=2, pad=1)
    bar.outline.set_linewidth(0.4)


def _rae(prediction: Array, truth: Array) -> float:
    total = float(np.abs(truth).sum())
    return float(np.abs(prediction - truth).sum()) / total if total else float("nan")
