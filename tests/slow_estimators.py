"""The estimators of the analysis again: from their definitions, by loops, N x N kernels or another algorithm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

Floats = NDArray[np.float64]
Array = NDArray[Any]
Row = list[float]


def softmax(row: Row) -> Row:
    top = max(row)
    powers = [math.exp(one - top) for one in row]
    return [one / math.fsum(powers) for one in powers]


def rows_of(values: Array) -> list[Row]:
    return [[float(one) for one in row] for row in values]


def predicted(row: Row) -> int:
    return row.index(max(row))


def accuracy(logits: Array, labels: Array) -> float:
    right = [predicted(row) == label for row, label in zip(rows_of(logits), labels.tolist(), strict=True)]
    return sum(right) / len(right)


def agreement(first: Array, second: Array) -> float:
    same = [predicted(a) == predicted(b) for a, b in zip(rows_of(first), rows_of(second), strict=True)]
    return sum(same) / len(same)


def mean_kl(teacher: Array, student: Array) -> float:
    each = [
        math.fsum(p * math.log(p / q) for p, q in zip(softmax(a), softmax(b), strict=True))
        for a, b in zip(rows_of(teacher), rows_of(student), strict=True)
    ]
    return math.fsum(each) / len(each)


def nll(logits: Array, labels: Array) -> float:
    each = [-math.log(softmax(row)[label]) for row, label in zip(rows_of(logits), labels.tolist(), strict=True)]
    return math.fsum(each) / len(each)


def brier(logits: Array, labels: Array) -> float:
    total = 0.0
    for row, label in zip(rows_of(logits), labels.tolist(), strict=True):
        for index, share in enumerate(softmax(row)):
            total += (share - (1 if index == label else 0)) ** 2
    return total / len(logits)


def _claims(logits: Array, labels: Array) -> list[tuple[float, bool]]:
    return [
        (max(softmax(row)), predicted(row) == label)
        for row, label in zip(rows_of(logits), labels.tolist(), strict=True)
    ]


def bins_of_equal_width(logits: Array, labels: Array, bins: int) -> list[list[tuple[float, bool]]]:
    claims = _claims(logits, labels)
    return [[one for one in claims if b / bins < one[0] <= (b + 1) / bins] for b in range(bins)]


def bins_of_equal_mass(logits: Array, labels: Array, bins: int) -> list[list[tuple[float, bool]]]:
    """Samples are assigned to bins in order of confidence; equal confidences go into the same bin."""
    found: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    before, place = -1.0, -1
    for rank, one in enumerate(sorted(_claims(logits, labels))):
        if one[0] != before:
            before, place = one[0], math.floor(bins * rank / len(logits))
        found[place].append(one)
    return found


def gap(bins: list[list[tuple[float, bool]]]) -> float:
    samples = sum(len(one) for one in bins)
    total = 0.0
    for members in bins:
        if members:
            confidence = math.fsum(one[0] for one in members) / len(members)
            total += len(members) / samples * abs(sum(one[1] for one in members) / len(members) - confidence)
    return total


def drawn_labels(logits: Array, generator: np.random.Generator) -> NDArray[np.int64]:
    """Labels drawn from the softmax of the logits."""
    return np.array([generator.choice(len(row), p=softmax(row)) for row in rows_of(logits)])


def temperature(logits: Array, labels: Array) -> float:
    """By bisection of the derivative of the NLL by 1 / T: the logit that is expected, less that of the label."""
    rows = rows_of(logits)
    low, high = 0.01, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        slope = 0.0
        for row, label in zip(rows, labels.tolist(), strict=True):
            shares = softmax([middle * one for one in row])
            slope += math.fsum(p * (z - row[label]) for p, z in zip(shares, row, strict=True))
        low, high = (middle, high) if slope <= 0 else (low, middle)
    return 2 / (low + high)


def kernel(x: Array) -> Floats:
    """Linear, N x N, of features as they are: not centred."""
    wide = x.astype(np.float64)
    return np.array([[math.fsum(a * b) for b in wide] for a in wide])


def hsic_of_song(k: Floats, l: Floats) -> float:  # noqa: E741
    """Song et al. 2012, eq. 5, letter by letter."""
    m = len(k)
    k, l = k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    one = np.ones(m)
    third = 2 / (m - 2) * (one @ k @ l @ one)
    return float((np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((m - 1) * (m - 2)) - third) / (m * (m - 3)))


def hsic_of_szekely(k: Floats, l: Floats) -> float:  # noqa: E741
    """The same as the inner product of U-centred matrices: Szekely & Rizzo 2014, eq. 2.3 and 2.5."""
    m = len(k)

    def centred(a: Floats) -> Floats:
        a = a - np.diag(np.diag(a))
        found = np.zeros_like(a)
        for i in range(m):
            for j in range(m):
                if i != j:
                    edges = (a[i].sum() + a[:, j].sum()) / (m - 2)
                    found[i, j] = a[i, j] - edges + a.sum() / ((m - 1) * (m - 2))
        return found

    return float((centred(k) * centred(l)).sum() / (m * (m - 3)))


def cka(x: Array, y: Array, hsic: Any = hsic_of_song) -> float:
    k, l = kernel(x), kernel(y)  # noqa: E741
    return float(hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l)))


def biased_cka(x: Array, y: Array) -> float:
    """As most print it: near 1 for independent features that are wider than there are samples."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    return float((k * l).sum() / math.sqrt((k * k).sum() * (l * l).sum()))


def procrustes(x: Array, y: Array) -> float:
    """|x - y Q|^2 for the best Q, of features filled with zeros to one width."""
    width = max(x.shape[1], y.shape[1])
    filled = []
    for one in (x, y):
        one = one.astype(np.float64)
        one = one - one.mean(axis=0)
        filled.append(np.pad(one / math.sqrt((one**2).sum()), ((0, 0), (0, width - one.shape[1]))))
    rotation, _ = orthogonal_procrustes(filled[1], filled[0])
    return float(((filled[0] - filled[1] @ rotation) ** 2).sum())


def neighbours(x: Array, k: int) -> list[list[int]]:
    points = rows_of(x)
    found = []
    for i, point in enumerate(points):
        others = [
            (math.fsum((a - b) ** 2 for a, b in zip(point, other, strict=True)), j)
            for j, other in enumerate(points)
            if j != i
        ]
        found.append([j for _, j in sorted(others)[:k]])
    return found


def knn_overlap(first: list[list[int]], second: list[list[int]]) -> float:
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(first, second, strict=True)]
    return sum(shares) / len(shares)


def variances(x: Array) -> Floats:
    """Of the principal components, from the largest, as shares of 1; by SVD."""
    x = x.astype(np.float64)
    size = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2
    return size / size.sum()


def participation_ratio(x: Array) -> float:
    return float(variances(x).sum() ** 2 / (variances(x) ** 2).sum())


def components_for(x: Array, share: float) -> int:
    held = 0.0
    for number, one in enumerate(variances(x), start=1):
        held += one
        if held > share - 1e-10:
            return number
    raise AssertionError("all components hold all of the variance")


def class_means(x: Array, labels: Array) -> tuple[float, float]:
    """Within over between-class variance, and the mean cosine between class means."""
    x = x.astype(np.float64)
    of_class = {label: x[labels == label].mean(axis=0) for label in set(labels.tolist())}
    within = between = 0.0
    for point, label in zip(x, labels.tolist(), strict=True):
        within += float(((point - of_class[label]) ** 2).sum())
        between += float(((of_class[label] - x.mean(axis=0)) ** 2).sum())
    centre = np.mean(list(of_class.values()), axis=0)
    cosines = [
        float((a - centre) @ (b - centre) / (np.linalg.norm(a - centre) * np.linalg.norm(b - centre)))
        for one, a in of_class.items()
        for other, b in of_class.items()
        if one != other
    ]
    return within / between, sum(cosines) / len(cosines)


def principal_angles(x: Array, y: Array, dimensions: int) -> Floats:
    """From the eigenvalues, squared cosines, of one projector seen through the other; both N x N."""
    projectors = []
    for one in (x, y):
        one = one.astype(np.float64)
        one = one - one.mean(axis=0)
        _, vectors = np.linalg.eigh(one @ one.T)
        top = vectors[:, -dimensions:]
        projectors.append(top @ top.T)
    squares = np.linalg.eigvalsh(projectors[0] @ projectors[1] @ projectors[0])[::-1][:dimensions]
    return np.arccos(np.sqrt(np.clip(squares, 0, 1)))
