"""The list of figures: what each needs of a run, its caption, and the function that draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from studies.distillation.analysis import alpha_figures, run_figures
from studies.distillation.analysis.figure_data import FigureAndRows, FigureData

OUTPUTS, METRICS = "outputs.npz", "metrics.json"
_ANSWERS = (f"{OUTPUTS}: logits", f"{OUTPUTS}: labels")
_VALIDATION = (f"{OUTPUTS}: validation_logits", f"{OUTPUTS}: validation_labels")
_POOLED = (f"{OUTPUTS}: pooled",)
_BASE = "Grey: the undistilled student (cross entropy alone, no label smoothing), mean and standard deviation of seeds."
_BARS = (
    "Error bars: 95 % interval of the mean over seeds (Student's t; of two seeds, their range), cut off where "
    "they leave the panel."
)


@dataclass(frozen=True)
class FigureSpecification:
    """A figure: its file name, title, caption, the fields of a run's files that it needs, and its drawing function."""

    name: str
    title: str
    caption: str
    needs: tuple[str, ...]
    draw: Callable[[FigureData], FigureAndRows]


FIGURES = (
    FigureSpecification(
        "accuracy_gain", "Accuracy gained by distillation",
        "Difference in test accuracy to the undistilled student of the same data set and seed. Small dots: "
        "single seeds. "
        f"{_BARS} Last panel: all pairs, with 95 % intervals from resampled seeds and test images; filled markers are "
        "differences shown by a sign-flip test, p < 0.05 after Holm's correction over all methods and alphas.",
        _ANSWERS, alpha_figures.accuracy_gain,
    ),
    FigureSpecification(
        "accuracy_beside_control", "Accuracy next to a control with the same alpha",
        "As in the figure before, but against the control, whose cross entropy is scaled by 1 - alpha and which has no "
        "teacher: what "
        "remains is not due to the smaller gradient of the labels.",
        _ANSWERS, alpha_figures.accuracy_beside_control,
    ),
    FigureSpecification(
        "accuracy_fidelity", "Accuracy against fidelity",
        "Each marker is a run; a larger one has a larger alpha. + plain students, x control.",
        _ANSWERS, run_figures.accuracy_fidelity,
    ),
    FigureSpecification(
        "fidelity", "Fidelity against alpha",
        f"Share of test images with the teacher's answer, and mean KL(teacher ‖ student). {_BASE} {_BARS}",
        _ANSWERS, alpha_figures.fidelity,
    ),
    FigureSpecification(
        "calibration", "Calibration against alpha",
        "Expected calibration error with 15 equal-width bins, before and after temperature scaling fitted on "
        "validation "
        f"images; adaptive ECE; negative log-likelihood; Brier score; the temperature. {_BASE} {_BARS}",
        (*_ANSWERS, *_VALIDATION), alpha_figures.calibration,
    ),
    FigureSpecification(
        "reliability", "Reliability diagrams",
        "Accuracy against confidence in 15 equal-width bins, all seeds together, before temperature scaling.",
        _ANSWERS, run_figures.reliability,
    ),
    FigureSpecification(
        "layers", "Similarity to the teacher by layer",
        "Unbiased linear CKA of student and teacher, minus that of the undistilled student and the same teacher; mean "
        "over seeds. In brackets: within twice the standard error over seeds. sp and nst train something "
        "close to CKA: for them it is a check, not evidence.",
        (f"{OUTPUTS}: stage1", f"{OUTPUTS}: stage2", *_POOLED, f"{OUTPUTS}: logits"), run_figures.layers,
    ),
    FigureSpecification(
        "similarity", "Similarity to the teacher against alpha",
        "CKA, and what it may miss: orthogonal Procrustes distance, overlap of 10 nearest neighbours among "
        "the first 2,000 "
        f"test images, angles between the principal subspaces. {_BASE} {_BARS}",
        _POOLED, alpha_figures.similarity,
    ),
    FigureSpecification(
        "students", "Similarity between students",
        "Unbiased linear CKA of pooled features between students of equal seed, mean over seeds. Diagonal: "
        "between seeds of "
        "one setting, the noise floor. Two settings are similar if their CKA is not below it.",
        _POOLED, run_figures.students,
    ),
    FigureSpecification(
        "effective_rank", "Effective rank and class means",
        "Participation ratio of the covariance of pooled features, components for 90 and 95 % of variance, "
        "variance within "
        f"over between classes, cosine between class means. {_BASE} {_BARS}",
        (*_POOLED, f"{OUTPUTS}: labels"), alpha_figures.effective_rank,
    ),
    FigureSpecification(
        "gradient_ratio", "Gradients of the two terms",
        "For the first batch of each epoch, the norm of the distance's gradient as used in the step, over "
        "that of the "
        "cross entropy; mean over seeds. Far above 1, a method hardly learns from labels.",
        (f"{METRICS}: epochs.gradient_ratio",), run_figures.gradient_ratio,
    ),
    FigureSpecification(
        "profiles", "Performance profiles",
        "For each gain, the share of a method's runs, over all data sets, alphas and seeds, that reach it.",
        _ANSWERS, run_figures.profiles,
    ),
    FigureSpecification(
        "cost", "Time by method",
        "GPU-hours of a run with all its attempts; if no GPU was requested, seconds of training. | is the median.",
        (f"{METRICS}: used.seconds",), run_figures.cost,
    ),
)  # fmt: skip
