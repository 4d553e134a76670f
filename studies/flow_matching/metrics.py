"""What the runs of this study report: the metrics and arrays, and the figures that every round of it has."""

from __future__ import annotations

from roundhouse.figures import Figure
from roundhouse.metrics import Metric


def _psnr(label: str, final: str | None = None, main: bool = False, panel: str = "") -> Metric:
    return Metric(label, mode="max", scale="db", baseline="rbf_psnr", final=final, main=main, panel=panel)


METRICS = {
    "val_psnr": _psnr("validation PSNR", final="test_psnr", main=True),
    "flow_val_psnr": _psnr("validation PSNR before reflow", panel="psnr"),
    "loss": Metric("training loss", mode="min", scale="log"),
    "test_psnr": _psnr("test PSNR, single samples"),
    "test_mean_psnr": _psnr("test PSNR, mean of the samples"),
    "last_test_psnr": _psnr("test PSNR, weights of the last epoch"),
    "chunked_psnr": _psnr("test PSNR, sampled in blocks as in training"),
    "euler1_psnr": _psnr("test PSNR, 1 Euler step"),
    "euler2_psnr": _psnr("test PSNR, 2 Euler steps"),
    "euler4_psnr": _psnr("test PSNR, 4 Euler steps"),
    "straightness": Metric("deviation of trajectories from the path", mode="min", scale="log"),
    "sample_spread": Metric("variance of samples / squared error of their mean", baseline=1.0),
    "consistency_loss": Metric(mode="min", scale="log"),
    "spectral_loss": Metric(mode="min", scale="log"),
    "test_mse": Metric("test MSE", mode="min", scale="log"),
    "test_mae": Metric("test MAE", mode="min"),
    "test_relative_l2": Metric("test relative L2 error", mode="min"),
    "test_correlation": Metric("test correlation", mode="max"),
    "test_spectral_error": Metric("test error of the spectrum", mode="min"),
    "mean_psnr": Metric("PSNR of the mean of the observations", scale="db"),
    "nearest_psnr": Metric("PSNR of the nearest observation", scale="db"),
    "thin_plate_psnr": Metric("PSNR of a thin-plate RBF", scale="db"),
    "rbf_psnr": Metric("Gaussian RBF", scale="db"),
    "rbf_oracle_psnr": Metric("Gaussian RBF, width chosen on the test fields", scale="db"),
    "train_steps": Metric("training steps", mode="min", curve=False),
    "accumulation": Metric("parts of a batch", curve=False),
    "sample_seconds": Metric("sampling a field", "s", mode="min", curve=False),
    "network_parameters": Metric("parameters", mode="min", curve=False),
}
ARRAYS = {
    "observed": "observed values of the first test fields, not a number elsewhere (N, size, size)",
    "truth": "the fields (N, size, size)",
    "sample": "one sample of each (N, size, size)",
    "sample_mean": "mean of the samples (N, size, size)",
    "error": "mean of the samples minus truth (N, size, size)",
    "rbf": "the Gaussian RBF's reconstruction (N, size, size)",
    "field_psnr": "PSNR of a single sample, for each test field (test_fields,)",
    "field_mean_psnr": "PSNR of the mean of the samples, for each test field (test_fields,)",
}
APART = ("complexity",)
COST = ("d_model", "num_layers")
FIGURES = {
    "reconstructions": Figure(
        "images", arrays=("observed", "truth", "sample", "sample_mean", "error"), diverging=("error",),
        title="Reconstructions of test fields",
    ),
    "interactions": Figure(
        "interaction", keys=("techniques",), separator="+", groups=("base", "versions"),
        title="Techniques and pairs of them",
    ),
    "accuracy_and_time": Figure("tradeoff", over="sample_seconds", by="techniques", title="Accuracy and sampling time"),
}  # fmt: skip
