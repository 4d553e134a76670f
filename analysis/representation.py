"""Representation: similarity of the features of two networks on the same samples, and their shape in one network.

Features are (N, p), one row per sample. All estimators are invariant to shifts, rotations and a common scale. None
returns NaN: if a value is undefined, they raise RoundhouseError. Always refused are values that are not
finite, fewer than 4 samples, the same features for every sample, and two networks with different numbers of samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fidelity import Array, Floats, label_column, matrix
from roundhouse.errors import RoundhouseError

FEWEST = 4  # samples: the unbiased HSIC divides by N - 3
NOTHING = 1e-12  # a share of the variance below this is zero but for rounding
PAIRS = 2_000_000  # distances in memory at once: 16 MB of float64, and a few times that for intermediates


@dataclass(frozen=True)
class ClassMeans:
    """The separation of classes: `variance_ratio` is 0 if each is a single point; `cosine` is at best -1 / (C - 1)."""

    variance_ratio: float
    cosine: float


def _standard(features: Array, what: str = "features") -> Floats:
    """Centred, and scaled to a Frobenius norm of 1."""
    found = matrix(features, what)
    if len(found) < FEWEST:
        raise RoundhouseError(f"{what}: {len(found)} samples are too few; at least {FEWEST} are needed")
    if (found == found[0]).all():
        raise RoundhouseError(f"{what}: the same for every sample: the network has collapsed; leave it out")
    found -= found.mean(axis=0)
    return np.asarray(found / np.linalg.norm(found), dtype=np.float64)


def _standard_pair(x: Array, y: Array) -> tuple[Floats, Floats]:
    first, second = _standard(x, "features x"), _standard(y, "features y")
    if len(first) != len(second):
        raise RoundhouseError(f"{len(first)} samples in x and {len(second)} in y: compare them on the same samples")
    return first, second


def _unbiased_hsic(x: Floats, y: Floats) -> float:
    """N (N - 3) times HSIC_1 of Song et al. 2012, eq. 5, with linear kernels, for centred x and y.

    Its kernels K = x x' and L = y y' have no diagonal. The rows of a centred K sum to 0, so without their diagonal k
    they sum to -k, and eq. 5 becomes: |x'y|^2 - k.l + sum k sum l / ((N - 1) (N - 2)) - 2 k.l / (N - 2).
    """
    samples = len(x)
    k, l = (x**2).sum(axis=1), (y**2).sum(axis=1)  # noqa: E741
    both = float(k @ l)
    return float(
        ((x.T @ y) ** 2).sum() - both * samples / (samples - 2) + k.sum() * l.sum() / ((samples - 1) * (samples - 2))
    )


def cka(x: Array, y: Array) -> float:
    """Linear CKA with the unbiased HSIC, of features x (N, p) and y (N, q): -1 to 1, near 0 if unrelated.

    Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", with the estimator of Song et al.
    2012 as in Nguyen et al. 2021; the usual, biased, one is near 1 for independent features of which p >> N. Adding
    f_i + f_j to a kernel leaves HSIC_1 as it is, so features are centred first, for the sake of rounding alone.
    Time is O(N p q); no N x N matrix is computed.
    RoundhouseError: see the module; also samples that are all equally far from each other.
    """
    x, y = _standard_pair(x, y)
    own = _unbiased_hsic(x, x), _unbiased_hsic(y, y)
    if min(own) < NOTHING:
        raise RoundhouseError("features: all samples are equally far from each other, so CKA is not defined")
    return float(np.clip(_unbiased_hsic(x, y) / np.sqrt(own[0] * own[1]), -1.0, 1.0))


def procrustes(x: Array, y: Array) -> float:
    """Squared orthogonal Procrustes dissimilarity, 0 to 2, of x (N, p) and y (N, q), centred and of Frobenius norm 1.

    min over orthogonal Q of |x - y Q|^2 = 2 - 2 |x'y|_* (nuclear norm): Schönemann 1966; Ding et al. 2021, "Grounding
    Representation Similarity with Statistical Testing"; Williams et al. 2021. The narrower is padded with zeros.
    RoundhouseError: see the module.
    """
    x, y = _standard_pair(x, y)
    return max(0.0, float(2.0 - 2.0 * np.linalg.norm(x.T @ y, ord="nuc")))


def _nearest(features: Floats, centred: Floats, rows: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """The k nearest other samples of each of `rows`. |a|^2 + |b|^2 - 2 ab finds candidates; differences decide.

    The former is fast, but rounds, for equal samples differently; `slack` bounds the error: no candidate is lost. The
    latter, of the original features, are exact for float16 and summed in one order: ties are the same on any machine.
    """
    squares = (centred**2).sum(axis=1)
    rough = squares[rows, None] + squares - 2.0 * (centred[rows] @ centred.T)
    rough[np.arange(len(rows)), rows] = np.inf
    slack = 8.0 * (centred.shape[1] + 4) * np.finfo(np.float64).eps * (squares[rows] + squares.max())
    row, other = np.nonzero(rough <= (np.partition(rough, k - 1, axis=1)[:, k - 1] + slack)[:, None])
    squared = np.zeros(len(row))
    for column in features.T:  # by feature: if many samples are equal, there are too many candidates for one array
        squared += (column[rows[row]] - column[other]) ** 2
    order = np.lexsort((squared, row))  # stable, and `other` ascends: ties go to the lower index
    first = np.searchsorted(row, np.arange(len(rows)))
    return np.asarray(other[order][first[:, None] + np.arange(k)])


def neighbours(x: Array, k: int = 10) -> NDArray[np.intp]:
    """Indices (N, k) of the k nearest other samples of x (N, p) in the Euclidean norm, nearest first.

    Of equally near samples the one with the lower index comes first, on any machine. (So two networks that both map
    many samples to one point share neighbours by that rule alone.) Memory stays below 200 MB at N = 10,000.
    RoundhouseError: see the module; also a k below 1 or above N - 1.
    """
    found = matrix(x, "features")
    centred = _standard(found)
    if not 1 <= k < len(found):
        raise RoundhouseError(f"{k} neighbours among {len(found)} samples: k must be 1 to {len(found) - 1}")
    parts = np.array_split(np.arange(len(found)), -(-(len(found) ** 2) // PAIRS))
    return np.concatenate([_nearest(found, centred, rows, k) for rows in parts])


def knn_overlap(neighbours_x: NDArray[np.intp], neighbours_y: NDArray[np.intp]) -> float:
    """Mean share, 0 to 1, of a sample's neighbours (N, k) that are the same in both; from `neighbours` of each.

    For unrelated features: `knn_chance`. RoundhouseError: arrays of different shapes.
    """
    if neighbours_x.shape != neighbours_y.shape or neighbours_x.ndim != 2 or neighbours_x.size == 0:
        raise RoundhouseError(
            f"neighbours of shapes {neighbours_x.shape} and {neighbours_y.shape}: use the same samples and k for both"
        )
    both = np.sort(np.hstack([neighbours_x, neighbours_y]), axis=1)
    return float(np.count_nonzero(both[:, 1:] == both[:, :-1]) / neighbours_x.size)


def knn_chance(n: int, k: int = 10) -> float:
    """The expected `knn_overlap` of unrelated features of n samples: k / (n - 1). RoundhouseError: k not 1 to n - 1."""
    if not 1 <= k < n:
        raise RoundhouseError(f"{k} neighbours among {n} samples: k must be 1 to {n - 1}")
    return k / (n - 1)


def participation_ratio(x: Array) -> float:
    """Effective rank of features x (N, p), 1 to min(N - 1, p): (sum l)^2 / sum l^2, l the covariance's eigenvalues.

    Gao et al. 2017. It is d for equal variance in d dimensions, a little less for few samples: about d N / (N + d).
    RoundhouseError: see the module.
    """
    found = _standard(x)
    return float(1.0 / ((found.T @ found) ** 2).sum())


def components_for(x: Array, share: float) -> int:
    """The fewest principal components of x (N, p) that hold `share` (above 0, up to 1) of the variance.

    RoundhouseError: another share, or see the module.
    """
    if not 0 < share <= 1:
        raise RoundhouseError(f"a share of {share} of the variance: it must be above 0 and at most 1")
    found = _standard(x)
    held = np.cumsum(np.linalg.eigvalsh(found.T @ found)[::-1])
    return int(np.count_nonzero(held[:-1] < share - NOTHING)) + 1


def class_means(x: Array, labels: Array) -> ClassMeans:
    """How x (N, p) is spread within and between the classes that `labels` (N,) have.

    `variance_ratio` is the trace of the within-class over that of the between-class covariance, each sample with the
    same weight; 0 or more. It is akin to NC1 of Papyan et al. 2020 (neural collapse), without the inverse.
    `cosine` is the mean over pairs of classes of the cosine between their means, seen from the mean of those means.
    RoundhouseError: fewer than two classes, the mean of a class that is that of all, or see the module.
    """
    found = _standard(x)
    classes, member, count = np.unique(label_column(labels, len(found)), return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise RoundhouseError("labels: one class only; at least two are needed")
    means = np.zeros((len(classes), found.shape[1]))
    np.add.at(means, member, found)
    means /= count[:, None]
    between = float(count @ (means**2).sum(axis=1))
    within = float(((found - means[member]) ** 2).sum())
    directions = means - means.mean(axis=0)
    lengths = np.linalg.norm(directions, axis=1)
    if between < NOTHING or lengths.min() ** 2 < NOTHING * (lengths**2).max():
        raise RoundhouseError("features: the mean of a class equals that of all samples, so it has no direction")
    total = (directions / lengths[:, None]).sum(axis=0)
    pairs = len(classes) * (len(classes) - 1)
    return ClassMeans(within / between, float((total @ total - len(classes)) / pairs))


def _principal(features: Floats, dimensions: int, what: str) -> Floats:
    left, size, _ = np.linalg.svd(features, full_matrices=False)
    rank = int(np.count_nonzero(size**2 > NOTHING))
    if not 1 <= dimensions <= rank:
        raise RoundhouseError(f"{what}: has {rank} dimensions; {dimensions} principal dimensions cannot be compared")
    return np.asarray(left[:, :dimensions])


def principal_angles(x: Array, y: Array, dimensions: int) -> Floats:
    """Angles (dimensions,) in radians, 0 to pi / 2, smallest first, between the principal subspaces of x and y.

    The subspaces are in sample space, spanned by the first `dimensions` left singular vectors of the centred x (N, p)
    and y (N, q), so widths may differ (Björck & Golub 1973). They are stable if the next singular value is smaller.
    Angles near 0 are taken from sines and those near pi / 2 from cosines, so small ones are exact to about 1e-15.
    RoundhouseError: more dimensions than either has, or see the module.
    """
    x, y = _standard_pair(x, y)
    first, second = _principal(x, dimensions, "features x"), _principal(y, dimensions, "features y")
    # Not scipy.linalg.subspace_angles: it gives 1.5e-8 for an angle of 1e-9 next to one of pi / 2.
    shared = first.T @ second
    cosines = np.linalg.svd(shared, compute_uv=False)
    sines = np.linalg.svd(second - first @ shared, compute_uv=False)
    return np.arctan2(sines[::-1], cosines)
