"""What the runs of this study report: the metrics and arrays, what makes results comparable, and its figures."""

from __future__ import annotations

from roundhouse.figures import Figure
from roundhouse.metrics import Metric

_SPLITS = {"test": "test", "validation": "validation", "train": "training"}  # in the order of tables
_SETS = ("big", "small")
_LEADS = (1, 2, 3)


def _relative(name: str, what: str) -> dict[str, Metric]:
    """Relative absolute errors of a set of samples: persistence has 1."""
    return {
        f"{name}_rae": Metric(f"{what} RAE, median", mode="min", baseline=1.0),
        f"{name}_rae_lower": Metric(f"{what} RAE, lower quartile", mode="min"),
        f"{name}_rae_upper": Metric(f"{what} RAE, upper quartile", mode="min"),
        f"{name}_rae_below": Metric(f"{what} samples better than persistence", mode="max", scale="percent"),
        f"{name}_rae_dropped": Metric(f"{what} samples in which nothing changes"),
    }


METRICS = {
    "val_loss": Metric("validation L1", "m", mode="min", scale="log", final="test_loss", baseline="dummy_loss",
                       main=True),
    "val_rae": Metric("validation RAE, median", mode="min", final="test_rae", baseline=1.0),
    "loss": Metric("training L1", "m", mode="min", scale="log"),
    "learning_rate": Metric("learning rate", scale="log"),
    "effective_batch": Metric("samples of a batch", curve=False),
    "accumulation": Metric("parts of a batch", curve=False),
    "test_loss": Metric("test L1", "m", mode="min", scale="log", baseline="dummy_loss"),
    **{name: metric for split, text in _SPLITS.items() for name, metric in _relative(split, text).items()},
    **{
        name: metric
        for part in _SETS for split, text in _SPLITS.items()
        for name, metric in _relative(f"{part}_{split}", f"{part} set, {text}").items()
    },
    "train_loss": Metric("training L1 of the best weights", "m", mode="min", scale="log"),
    "validation_loss": Metric("validation L1 of the best weights", "m", mode="min", scale="log"),
    "dummy_loss": Metric("persistence", "m", scale="log"),
    "dummy_val_loss": Metric("persistence, validation", "m", scale="log"),
    "dummy_train_loss": Metric("persistence, training", "m", scale="log"),
    "test_rmse": Metric("test RMSE of the depth", "m", mode="min"),
    **{f"test_csi_{depth}cm": Metric(f"critical success index, {depth} cm", mode="max") for depth in (5, 30, 100)},
    "test_mass_error": Metric("error of the volume", scale="percent"),
    "test_absolute_mass_error": Metric("error of the volume in a sample", mode="min", scale="percent"),
    "test_front_error": Metric("distance of the front from its place", "m", mode="min"),
    "test_front_states": Metric("cells near the front in the wrong state", mode="min", scale="percent"),
    **{f"rollout{lead}_rae": Metric(f"RAE after {lead} leads", mode="min", baseline=1.0) for lead in _LEADS},
    **{f"rollout{lead}_rmse": Metric(f"RMSE after {lead} leads", "m", mode="min") for lead in _LEADS},
    "network_parameters": Metric("parameters", mode="min", curve=False),
    "predict_seconds": Metric("time for a sample", "s", mode="min", scale="log", curve=False),
    "solver_seconds": Metric("time of the solver for a sample", "s", scale="log", curve=False),
    "time_ratio": Metric("time / that of the solver", mode="min", scale="log", curve=False),
    "simulated_hours": Metric("simulated time", "h"),
    "volume": Metric("water in the area", "m3"),
    "mass_error": Metric("error of the mass balance", mode="min", scale="log"),
    "smallest_depth": Metric("smallest depth", "m"),
    "deepest": Metric("greatest depth", "m"),
    "wet_share": Metric("wet cells", scale="percent"),
    "solver_steps": Metric("steps of the solver"),
    **{f"{split}_samples": Metric(f"{text} samples") for split, text in _SPLITS.items()},
    **{f"{split}_dropped": Metric(f"{text}: dry patches") for split, text in _SPLITS.items()},
    **{f"{split}_dummy_loss": Metric(f"{text}: persistence", "m", scale="log") for split, text in _SPLITS.items()},
    **{f"{split}_ring_rae": Metric(f"{text}: RAE of the ring alone, median") for split, text in _SPLITS.items()},
}  # fmt: skip
ARRAYS = {
    "depth": "of a simulation, at each snapshot (S, H, W); else of the best, median and worst test sample (3, 32, 32)",
    "bed": "bed of the cells (H, W)",
    "terrain": "bed of these samples (3, 32, 32)",
    "truth": "change of the depth over the lead (3, 32, 32)",
    "prediction": "predicted change (3, 32, 32)",
    **{f"{split}_rae": f"relative error of each {text} sample (N,)" for split, text in _SPLITS.items()},
    **{
        f"{part}_{split}_rae": f"relative error of each {text} sample of the {part} set (N,)"
        for part in _SETS for split, text in _SPLITS.items()
    },
}  # fmt: skip
APART = ("set", "task")
COST = ("architecture", "width")
FIGURES = {
    "predictions": Figure(
        "images", arrays=("terrain", "depth", "truth", "prediction"), diverging=("truth", "prediction"),
        title="Best, median and worst test sample",
    ),
}  # fmt: skip
