"""Fidelity: accuracy of a network, and how closely a student follows its teacher; from saved logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from roundhouse.errors import RoundhouseError

Array = NDArray[Any]
Floats = NDArray[np.float64]


def matrix(values: Array, what: str) -> Floats:
    """`values` (N, columns) as float64. `what` names them in the RoundhouseError for invalid values.

    Invalid are other shapes, no rows or no columns, types other than real numbers, and values that are not finite.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "fiu" or found.ndim != 2 or 0 in found.shape:
        raise RoundhouseError(
            f"{what}: must be a table of numbers, one row per sample (got {found.dtype} of shape {found.shape})"
        )
    numbers = found.astype(np.float64)
    bad = numbers.size - np.count_nonzero(np.isfinite(numbers))
    if bad:
        raise RoundhouseError(
            f"{what}: {bad} of {numbers.size} values are NaN or infinite: the run diverged or float16 overflowed;"
            " leave it out"
        )
    return numbers


def label_column(labels: Array, samples: int) -> NDArray[np.int64]:
    """`labels` (samples,) as int64, all at least 0. RoundhouseError for anything else."""
    found = np.asarray(labels)
    if found.dtype.kind not in "iu" or found.shape != (samples,):
        raise RoundhouseError(
            f"labels: must be {samples} whole numbers, one per sample (got {found.dtype} of shape {found.shape})"
        )
    if found.min() < 0:
        raise RoundhouseError(f"labels: classes are numbered from 0 (got {found.min()})")
    return found.astype(np.int64)


def _table(logits: Array, what: str = "logits") -> Floats:
    table = matrix(logits, what)
    if table.shape[1] < 2:
        raise RoundhouseError(f"{what}: there must be at least two columns, one per class")
    return table


def logits_and_labels(logits: Array, labels: Array) -> tuple[Floats, NDArray[np.int64]]:
    """Logits (N, C) as float64 and labels (N,) as int64, 0 to C - 1. RoundhouseError if they do not match."""
    table = _table(logits)
    column = label_column(labels, len(table))
    if column.max() >= table.shape[1]:
        raise RoundhouseError(
            f"labels: class {column.max()} has no column in logits of {table.shape[1]} classes;"
            " check that they are from the same data set"
        )
    return table, column


def log_probabilities(logits: Array) -> Floats:
    """Natural logarithm of the softmax of each row: logits (N, C) to (N, C), float64, finite for any float16 input.

    RoundhouseError: logits that are not a table of finite numbers with at least two columns.
    """
    return np.asarray(log_softmax(_table(logits), axis=1), dtype=np.float64)


def correct(logits: Array, labels: Array) -> NDArray[np.bool_]:
    """Whether each sample's largest logit is that of its label: logits (N, C), labels (N,) to (N,).

    Among equal largest logits, which float16 makes possible, the lowest class is the prediction.
    RoundhouseError: see `logits_and_labels`.
    """
    table, column = logits_and_labels(logits, labels)
    return np.asarray(table.argmax(axis=1) == column)


def accuracy(logits: Array, labels: Array) -> float:
    """Top-1 accuracy, 0 to 1: the mean of `correct`. RoundhouseError: see `logits_and_labels`."""
    return float(correct(logits, labels).mean())


def _pair(student_logits: Array, teacher_logits: Array) -> tuple[Floats, Floats]:
    student, teacher = _table(student_logits, "student's logits"), _table(teacher_logits, "teacher's logits")
    if student.shape != teacher.shape:
        raise RoundhouseError(
            f"student's logits are {student.shape} and the teacher's {teacher.shape}: both must be of the same samples"
        )
    return student, teacher


def agreement(student_logits: Array, teacher_logits: Array) -> float:
    """Share of samples, 0 to 1, with the same prediction by both; logits (N, C) each, on the same samples.

    Top-1 agreement of Stanton et al. 2021, "Does Knowledge Distillation Really Work?", section 3. Ties as in `correct`.
    RoundhouseError: logits that are not finite, or of different shapes.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    return float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean())


def mean_kl(teacher_logits: Array, student_logits: Array) -> float:
    """Mean over samples of KL(teacher || student) in nats, 0 or more, at temperature 1; logits (N, C) each.

    Stanton et al. 2021, section 3. RoundhouseError: logits that are not finite, or of different shapes.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    wanted = log_probabilities(teacher)
    each = (np.exp(wanted) * (wanted - log_probabilities(student))).sum(axis=1)
    return max(0.0, float(each.mean()))
