"""The list of figures: what each needs of a run, its caption, and the function that draws it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from analysis.comparison import INTERVAL
from analysis.figure_store import file_name
from studies.distillation.analysis import alpha_figures, map_figures, run_figures
from studies.distillation.analysis.figure_data import FigureAndRows, FigureData
from studies.distillation.analysis.run_figures import LEAST_IN_BIN

OUTPUTS, METRICS = "outputs.npz", "metrics.json"
_ANSWERS = (f"{OUTPUTS}: logits", f"{OUTPUTS}: labels")
_VALIDATION = (f"{OUTPUTS}: validation_logits", f"{OUTPUTS}: validation_labels")
_POOLED = (f"{OUTPUTS}: pooled",)
_PAIRS = f"Small dots: single pairs. Larger markers: their mean. Bars: {INTERVAL}, over pairs."
_SEEDS = (
    "Small dots: single seeds. Larger markers: their mean. Grey: the undistilled student (cross entropy alone, no "
    f"label smoothing). Bars and the grey band: {INTERVAL}, over seeds; bars are cut off where they leave the panel."
)


@dataclass(frozen=True)
class Drawing:
    """A figure to draw: its file name, title and drawing function."""

    name: str
    title: str
    draw: Callable[[], FigureAndRows]


@dataclass(frozen=True)
class FigureSpecification:
    """A figure: its name, title, caption, the fields of a run's files that it needs, and its drawing function.

    `for_each_data_set`: it is drawn once for each data set, which the function gets too.
    """

    name: str
    title: str
    caption: str
    needs: tuple[str, ...]
    draw: Callable[..., FigureAndRows]
    for_each_data_set: bool = False

    def drawings(self, data: FigureData) -> Iterator[Drawing]:
        """The figures of this kind."""
        if not self.for_each_data_set:
            yield Drawing(self.name, self.title, lambda: self.draw(data))
            return
        for dataset in data.runs.datasets:
            yield Drawing(file_name(f"{self.name}_{dataset}"), f"{self.title}: {dataset}",
                          lambda dataset=dataset: self.draw(data, dataset))  # type: ignore[misc]  # fmt: skip


FIGURES = (
    FigureSpecification(
        "accuracy_gain", "Accuracy gained by distillation",
        "Test accuracy minus that of the undistilled student of the same data set and seed. "
        f"{_PAIRS} Last panel: the pairs of all data sets; filled markers are differences shown by a sign-flip test, "
        "p < 0.05 after Holm's correction over all methods and alphas.",
        _ANSWERS, alpha_figures.accuracy_gain,
    ),
    FigureSpecification(
        "accuracy_beside_control", "Accuracy next to a control with the same alpha",
        "As in the figure before, but minus that of the control, whose cross entropy is scaled by 1 - alpha and which "
        f"has no teacher: what remains is not due to the smaller gradient of the labels. {_PAIRS}",
        _ANSWERS, alpha_figures.accuracy_beside_control,
    ),
    FigureSpecification(
        "accuracy_fidelity", "Accuracy against fidelity",
        "Each marker is a run; a larger one has a larger alpha. Grey: students without a teacher.",
        _ANSWERS, run_figures.accuracy_fidelity,
    ),
    FigureSpecification(
        "fidelity", "Fidelity against alpha",
        f"Share of test images with the teacher's answer, and mean KL(teacher ‖ student). {_SEEDS}",
        _ANSWERS, alpha_figures.fidelity,
    ),
    FigureSpecification(
        "calibration", "Calibration against alpha",
        "Expected calibration error with 15 equal-width bins, before and after temperature scaling fitted on "
        "validation images; adaptive ECE; all three on one scale; negative log-likelihood; Brier score; the "
        f"temperature. {_SEEDS}",
        (*_ANSWERS, *_VALIDATION), alpha_figures.calibration, for_each_data_set=True,
    ),
    FigureSpecification(
        "reliability", "Reliability diagrams",
        "Above: accuracy against confidence in 15 equal-width bins, all seeds together, before temperature scaling. "
        "Below: the number of test images in each bin, logarithmic. Bins with fewer than "
        f"{LEAST_IN_BIN} images (dotted) are counted, but their accuracy is not drawn.",
        _ANSWERS, run_figures.reliability, for_each_data_set=True,
    ),
    FigureSpecification(
        "layers", "Similarity to the teacher by layer",
        "Unbiased linear CKA of student and teacher, minus that of the undistilled student of the same seed; mean over "
        f"seeds. In brackets: the interval contains 0, or there are too few seeds for one ({INTERVAL}). sp and nst "
        "train something close to CKA: for them it is a check, not evidence.",
        (f"{OUTPUTS}: stage1", f"{OUTPUTS}: stage2", *_POOLED, f"{OUTPUTS}: logits"), map_figures.layers,
        for_each_data_set=True,
    ),
    FigureSpecification(
        "similarity", "Similarity to the teacher against alpha",
        "CKA, and what it may miss: orthogonal Procrustes distance, overlap of 10 nearest neighbours among the first "
        f"2,000 test images, angles between the principal subspaces. {_SEEDS}",
        _POOLED, alpha_figures.similarity, for_each_data_set=True,
    ),
    FigureSpecification(
        "students", "Similarity between students",
        "Unbiased linear CKA of pooled features between students of equal seed, mean over seeds; one scale for all "
        "data sets. Diagonal: between seeds of one setting, the noise floor. Two settings are similar if their CKA is "
        "not below it.",
        _POOLED, map_figures.students, for_each_data_set=True,
    ),
    FigureSpecification(
        "effective_rank", "Effective rank and class means",
        "Participation ratio of the covariance of pooled features, components for 90 and 95 % of variance, variance "
        f"within over between classes, cosine between class means. {_SEEDS}",
        (*_POOLED, f"{OUTPUTS}: labels"), alpha_figures.effective_rank, for_each_data_set=True,
    ),
    FigureSpecification(
        "gradient_ratio", "Gradients of the two terms",
        "For the first batch of each epoch, the norm of the distance's gradient as used in the step, over that of the "
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
        "GPU-hours of a run with all its attempts; if no GPU was requested, seconds of training. Each marker is a run, "
        "| is the median. Each data set has its own scale.",
        (f"{METRICS}: used.seconds",), run_figures.cost,
    ),
)  # fmt: skip
