"""Calibration: whether a network's accuracy equals its confidence; from saved logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from analysis.fidelity import Array, Floats, log_probabilities, logits_and_labels, matrix
from roundhouse.errors import RoundhouseError

BINS = 15
COLDEST, HOTTEST = 0.01, 100.0  # the bounds of a fitted temperature


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram, one element per bin. Bin b contains the confidences in (lower[b], upper[b]]."""

    lower: Floats
    upper: Floats
    count: NDArray[np.int64]
    confidence: Floats  # mean, 0 to 1; NaN where the bin is empty
    accuracy: Floats  # share of correct predictions, 0 to 1; NaN where the bin is empty


def _confidence_and_correct(logits: Array, labels: Array) -> tuple[Floats, Floats]:
    """For each sample the probability of its prediction, and 1.0 if that is correct, else 0.0; (N,) each."""
    table, column = logits_and_labels(logits, labels)
    return np.exp(log_probabilities(table).max(axis=1)), (table.argmax(axis=1) == column).astype(np.float64)


def _edges(bins: int) -> Floats:
    if bins < 1:
        raise RoundhouseError(f"bins must be >= 1 (got {bins}; {BINS} is usual)")
    return np.arange(bins + 1) / bins


def _equal_width(confidence: Floats, bins: int) -> NDArray[np.intp]:
    """The bin of each confidence, (N,). A value on an edge belongs to the bin below, as in Guo's (lower, upper]."""
    return np.searchsorted(_edges(bins), confidence, side="left") - 1


def _gap(bin_of: NDArray[np.intp], confidence: Floats, right: Floats) -> float:
    """Mean over samples of |accuracy - confidence| of their bins."""
    return float(np.abs(np.bincount(bin_of, weights=right - confidence)).sum() / len(confidence))


def reliability(logits: Array, labels: Array, bins: int = BINS) -> Reliability:
    """The reliability diagram of logits (N, C) and labels (N,), in bins of equal width, top label (Guo et al. 2017).

    RoundhouseError: fewer than one bin, or see `fidelity.logits_and_labels`.
    """
    confidence, right = _confidence_and_correct(logits, labels)
    edges, bin_of = _edges(bins), _equal_width(confidence, bins)
    count = np.bincount(bin_of, minlength=bins)
    share = np.where(count == 0, np.nan, count)
    return Reliability(
        lower=edges[:-1],
        upper=edges[1:],
        count=count.astype(np.int64),
        confidence=np.bincount(bin_of, weights=confidence, minlength=bins) / share,
        accuracy=np.bincount(bin_of, weights=right, minlength=bins) / share,
    )


def ece(logits: Array, labels: Array, bins: int = BINS) -> float:
    """Expected calibration error, 0 to 1, of logits (N, C) and labels (N,): bins of equal width, top label.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3. It depends on `bins`, so report them with it;
    and it is above 0 even for a perfectly calibrated network: see `ece_floor`.
    RoundhouseError: fewer than one bin, or see `fidelity.logits_and_labels`.
    """
    confidence, right = _confidence_and_correct(logits, labels)
    return _gap(_equal_width(confidence, bins), confidence, right)


def adaptive_ece(logits: Array, labels: Array, bins: int = BINS) -> float:
    """The same, 0 to 1, in bins of equal mass (Nguyen & O'Connor 2015; Nixon et al. 2019), still of the top label.

    A sample's bin is floor(bins * r / N), where r of the N samples have a lower confidence. So bins differ by at most
    one sample where N is not divisible. Equal confidences, such as many of exactly 1, share a bin, the lowest that any
    of them would get, and those after it have fewer samples. The order of samples never matters.
    RoundhouseError: fewer than one bin, or see `fidelity.logits_and_labels`.
    """
    confidence, right = _confidence_and_correct(logits, labels)
    _edges(bins)
    lower = np.searchsorted(np.sort(confidence), confidence, side="left")
    return _gap(lower * bins // len(confidence), confidence, right)


def ece_floor(logits: Array, bins: int = BINS, seed: int = 0, draws: int = 100) -> float:
    """The expected `ece`, 0 to 1, of a perfectly calibrated network with the confidences of logits (N, C).

    Labels are drawn `draws` times from the softmax, so whether the top label is correct is a coin flip with the
    confidence as its probability; the mean over draws has a standard error of the draws' spread / sqrt(draws).
    Only the part of an ECE above this is miscalibration (bias at finite N: Kumar et al. 2019, "Verified Uncertainty
    Calibration"). RoundhouseError: fewer than one bin or draw, or see `fidelity.log_probabilities`.
    """
    if draws < 1:
        raise RoundhouseError(f"draws must be >= 1 (got {draws})")
    confidence = np.exp(log_probabilities(logits).max(axis=1))
    bin_of, generator = _equal_width(confidence, bins), np.random.default_rng(seed)
    found = [
        _gap(bin_of, confidence, (generator.random(len(confidence)) < confidence).astype(np.float64))
        for _ in range(draws)
    ]
    return float(np.mean(found))


def nll(logits: Array, labels: Array) -> float:
    """Mean negative log-likelihood of labels (N,) under logits (N, C), in nats, 0 or more.

    RoundhouseError: see `fidelity.logits_and_labels`.
    """
    table, column = logits_and_labels(logits, labels)
    return max(0.0, float(-log_probabilities(table)[np.arange(len(column)), column].mean()))


def brier(logits: Array, labels: Array) -> float:
    """Brier score: squared error of the probabilities, summed over classes, mean over samples; 0 to 2.

    Brier 1950, eq. 2; uniform predictions over C classes have 1 - 1 / C. Other code halves it or divides by C.
    logits (N, C), labels (N,). RoundhouseError: see `fidelity.logits_and_labels`.
    """
    table, column = logits_and_labels(logits, labels)
    error = np.exp(log_probabilities(table))
    error[np.arange(len(column)), column] -= 1.0
    return float((error**2).sum(axis=1).mean())


def scaled(logits: Array, temperature: float) -> Floats:
    """Logits (N, C) divided by a temperature, in float64, because rounding in float16 would create ties.

    RoundhouseError: a temperature that is not finite or not above 0, or logits that are no table of finite numbers.
    """
    if not 0 < temperature < np.inf:
        raise RoundhouseError(f"temperature must be above 0 and finite (got {temperature})")
    return matrix(logits, "logits") / temperature


def fit_temperature(validation_logits: Array, validation_labels: Array) -> float:
    """The temperature, 0.01 to 100, by which validation logits (M, C) have the smallest NLL (Guo et al. 2017, 4.2).

    Above 1, the network was over-confident. NLL has one minimum over T. If that is beyond a bound, the bound is
    returned: 0.01 if every prediction is correct (colder is always better), 100 if hotter is always better.
    If several temperatures are equally good and 1 is one of them, it is 1.
    RoundhouseError: no validation samples, or see `fidelity.logits_and_labels`.
    """
    if np.size(validation_logits) == 0:
        raise RoundhouseError(
            "no validation samples to fit a temperature; set validation_images above 0 in the experiment's config"
        )
    table, column = logits_and_labels(validation_logits, validation_labels)

    def mean_nll(temperature: float) -> float:
        return nll(table / temperature, column)

    found = minimize_scalar(
        lambda power: mean_nll(float(np.exp(power))),
        bounds=(np.log(COLDEST), np.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return min((1.0, COLDEST, HOTTEST, float(np.exp(found.x))), key=mean_nll)
