"""The losses again, from their equations: Python floats, nested lists, loops, without the study's code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Row = list[float]
Nested = Any  # floats in lists in lists, as many deep as the tensor has dimensions


def numbers(nested: Nested) -> Row:
    """All of them in order, flat."""
    return [nested] if isinstance(nested, float) else [one for part in nested for one in numbers(part)]


def gradient(loss: Callable[[], float], at: Nested, step: float = 1e-6) -> Nested:
    """Central differences of `loss` by each number in `at`, which `loss` reads, and which is changed and put back."""
    if not isinstance(at[0], float):
        return [gradient(loss, part, step) for part in at]
    found = []
    for index, value in enumerate(at):
        at[index] = value + step
        above = loss()
        at[index] = value - step
        below = loss()
        at[index] = value
        found.append((above - below) / (2 * step))
    return found


def _softmax(row: Row) -> Row:
    top = max(row)
    powers = [math.exp(one - top) for one in row]
    return [one / sum(powers) for one in powers]


def _divergence(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def _of_length_1(row: Row) -> Row:
    length = math.sqrt(sum(one * one for one in row))
    return [one / length for one in row]


def _smooth_l1(difference: float) -> float:
    return difference * difference / 2 if abs(difference) < 1 else abs(difference) - 0.5


def cross_entropy(logits: list[Row], labels: list[int], smoothing: float) -> float:
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        for index, share in enumerate(_softmax(row)):
            wanted = smoothing / len(row) + (1 - smoothing) * (index == label)
            total -= wanted * math.log(share)
    return total / len(logits)


def logit(student: list[Row], teacher: list[Row], temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total += _divergence(_softmax([one / temperature for one in t]), _softmax([one / temperature for one in s]))
    return temperature**2 * total / len(student)


def dkd(
    student: list[Row], teacher: list[Row], labels: list[int], temperature: float, a: float, b: float
) -> float:  # fmt: skip
    of_target = of_others = 0.0
    for s, t, label in zip(student, teacher, labels, strict=True):
        binary, among = [], []
        for row in (t, s):
            shares = _softmax([one / temperature for one in row])
            others = [share for index, share in enumerate(shares) if index != label]
            binary.append([shares[label], sum(others)])
            among.append(_softmax([one / temperature for index, one in enumerate(row) if index != label]))
        of_target += _divergence(binary[0], binary[1])
        of_others += _divergence(among[0], among[1])
    return temperature**2 * (a * of_target + b * of_others) / len(student)


def attention(student: Nested, teacher: Nested) -> float:
    """Of one stage."""
    return squared_difference(_attention_maps(student), _attention_maps(teacher))


def _attention_maps(batch: Nested) -> list[Row]:
    """For each sample the means over channels of squares, as one vector of length 1."""
    found = []
    for maps in batch:
        pixels = [(y, x) for y in range(len(maps[0])) for x in range(len(maps[0][0]))]
        found.append(_of_length_1([sum(channel[y][x] ** 2 for channel in maps) / len(maps) for y, x in pixels]))
    return found


def factor(student: Nested, teacher: Nested) -> float:
    mine, theirs = ([_of_length_1(numbers(sample)) for sample in batch] for batch in (student, teacher))
    return absolute_difference(mine, theirs)


def factor_map(student: Nested, teacher: Nested) -> float:
    """With the factor's channels reduced to one map."""
    return absolute_difference(_attention_maps(student), _attention_maps(teacher))


def nst(student: Nested, teacher: Nested) -> float:
    def mean_kernel(xs: list[Row], ys: list[Row]) -> float:
        return sum(sum(a * b for a, b in zip(x, y, strict=True)) ** 2 for x in xs for y in ys) / (len(xs) * len(ys))

    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        mine, theirs = ([_of_length_1(numbers(channel)) for channel in maps] for maps in (s, t))
        total += mean_kernel(theirs, theirs) + mean_kernel(mine, mine) - 2 * mean_kernel(mine, theirs)
    return total / len(student)


def sp(student: Nested, teacher: Nested) -> float:
    tables = []
    for features in (student, teacher):
        rows = [numbers(sample) for sample in features]
        tables.append([_of_length_1([sum(a * b for a, b in zip(x, y, strict=True)) for y in rows]) for x in rows])
    size = len(student)
    return sum((tables[0][i][j] - tables[1][i][j]) ** 2 for i in range(size) for j in range(size)) / size**2


def rkd(student: list[Row], teacher: list[Row], angle_weight: float) -> float:
    return _rkd_distances(student, teacher) + angle_weight * _rkd_angles(student, teacher)


def rkd_over_all(student: list[Row], teacher: list[Row], distance_weight: float, angle_weight: float) -> float:
    """As RepDistiller computes it: means over all B^2 pairs and B^3 triplets, also of samples with themselves."""
    every = range(len(student))
    relative, cosines = [], []
    for rows in (student, teacher):
        distances = [math.dist(one, other) for one in rows for other in rows]
        above_0 = [one for one in distances if one > 0]
        relative.append([one * len(above_0) / sum(above_0) for one in distances])
        cosines.append([_cosine(rows[j], rows[i], rows[k]) for j in every for i in every for k in every])
    terms = [sum(_smooth_l1(s - t) for s, t in zip(*both, strict=True)) / len(both[0]) for both in (relative, cosines)]
    return distance_weight * terms[0] + angle_weight * terms[1]


def _rkd_distances(student: list[Row], teacher: list[Row]) -> float:
    size = len(student)
    pairs = [(i, j) for i in range(size) for j in range(i)]
    relative = []
    for embeddings in (student, teacher):
        distances = [math.dist(embeddings[i], embeddings[j]) for i, j in pairs]
        mean = sum(distances) / len(distances)
        relative.append([one / mean for one in distances])
    return sum(_smooth_l1(s - t) for s, t in zip(relative[0], relative[1], strict=True)) / len(pairs)


def _cosine(corner: Row, one: Row, other: Row) -> float:
    a = [x - c for x, c in zip(one, corner, strict=True)]
    b = [x - c for x, c in zip(other, corner, strict=True)]
    if not any(a) or not any(b):  # two samples at one place: no angle
        return 0.0
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def _rkd_angles(student: list[Row], teacher: list[Row]) -> float:
    size, total, count = len(student), 0.0, 0
    for i in range(size):
        for j in range(size):
            for k in range(size):
                if len({i, j, k}) == 3:
                    mine = _cosine(student[j], student[i], student[k])
                    theirs = _cosine(teacher[j], teacher[i], teacher[k])
                    total += _smooth_l1(mine - theirs)
                    count += 1
    return total / count


def squared_difference(one: Nested, other: Nested) -> float:
    """Mean over all numbers; with `absolute_difference`, what hints and reconstructions are measured by."""
    pairs = list(zip(numbers(one), numbers(other), strict=True))
    return sum((a - b) ** 2 for a, b in pairs) / len(pairs)


def absolute_difference(one: Nested, other: Nested) -> float:
    pairs = list(zip(numbers(one), numbers(other), strict=True))
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


# Connectors


def pool(batch: Nested, size: int) -> Nested:
    """Means of size x size pixels."""
    return [
        [
            [
                [
                    sum(channel[y + dy][x + dx] for dy in range(size) for dx in range(size)) / size**2
                    for x in range(0, len(channel[0]), size)
                ]
                for y in range(0, len(channel), size)
            ]
            for channel in maps
        ]
        for maps in batch
    ]


def convolve(batch: Nested, kernels: Nested, biases: Row | None = None) -> Nested:
    """Kernels (out, in, k, k) of an odd k, over maps padded with zeros to keep their size; a bias for each kernel."""
    height, width, reach = len(batch[0][0]), len(batch[0][0][0]), len(kernels[0][0]) // 2

    def at(maps: Nested, kernel: Nested, y: int, x: int, total: float) -> float:
        for channel, weights in zip(maps, kernel, strict=True):
            for dy, line in enumerate(weights):
                for dx, weight in enumerate(line):
                    row, column = y + dy - reach, x + dx - reach
                    if 0 <= row < height and 0 <= column < width:
                        total += weight * channel[row][column]
        return total

    return [
        [
            [[at(maps, kernel, y, x, bias) for x in range(width)] for y in range(height)]
            for kernel, bias in zip(kernels, biases or [0.0] * len(kernels), strict=True)
        ]
        for maps in batch
    ]  # fmt: skip


def normalise(batch: Nested, running: list[tuple[float, float]] | None = None) -> Nested:
    """Batch normalisation, scale 1 and shift 0: by the batch's own moments, or by each channel's (mean, variance)."""
    scaled: Nested = [[] for _ in batch]
    for channel in range(len(batch[0])):
        values = [one for maps in batch for one in numbers(maps[channel])]
        mean = sum(values) / len(values)
        variance = sum((one - mean) ** 2 for one in values) / len(values)
        if running is not None:
            mean, variance = running[channel]
        for maps, result in zip(batch, scaled, strict=True):
            result.append([[(one - mean) / math.sqrt(variance + 1e-5) for one in line] for line in maps[channel]])
    return scaled


def rectify(nested: Nested, leak: float = 0.0) -> Nested:
    if isinstance(nested, float):
        return nested if nested > 0 else leak * nested
    return [rectify(part, leak) for part in nested]
