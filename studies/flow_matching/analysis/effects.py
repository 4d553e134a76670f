"""Effects of techniques and of pairs of them, by least squares on all versions together, with their uncertainty.

Model: the PSNR of a run is b0 + sum of b_j over its techniques + sum of b_jk over its pairs of techniques + noise.
The *interaction* of j and k is b_jk. The *main effect* of j is what adding it changes, averaged over the versions that
have it: b_j + the mean over them of the sum of b_jk. The *single gain* of j is its version alone minus the base.

Most versions have one seed, so a bootstrap over seeds has nothing to draw from. Instead, the variance of a run is
estimated between seeds within settings, and from the residual of the model, which also has the lack of fit of the
settings' means, by noise or by interactions of three and more techniques. The larger one is used.

Tests and intervals take the noise as normal. Simulated without any effect, an effect is claimed in 5 % of rounds or
fewer, also if all runs of a seed have a shift in common. With heavy tails (Student's t with 3 degrees of freedom) it is
15 % with one seed for each version, where an outlier looks like an effect, and 4 % with three.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from analysis.comparison import LEAST_VALUES, SHOWN_BELOW, Interval, half_width, holm, mean_interval, student_p
from analysis.declared.settings import Noise, SettingResult, pooled_noise
from studies.flow_matching.analysis.results import PSNR, Setting

Floats = NDArray[np.float64]
Techniques = tuple[int, ...]
MAIN, PAIR, SINGLE = "main effect", "interaction", "single gain"
SEEDS, MISFIT, BOTH = "between seeds", "lack of fit", "between seeds and lack of fit"
SMALL = 1e-9  # relative: numbers below are 0 up to rounding


@dataclass(frozen=True)
class RunNoise(Noise):
    """The noise of a run, and which of its two estimates it is."""

    source: str


@dataclass(frozen=True)
class Effect:
    """A number with its 95 % interval, NaN where the noise is unknown. `n`: the settings that have the
    techniques; of a single gain, its runs.

    `p_holm`: corrected for all effects of the analysis; `shown`: it is below 0.05.
    """

    kind: str
    techniques: Techniques
    value: float
    interval: Interval
    n: int
    p: float
    p_holm: float = math.nan

    @property
    def shown(self) -> bool:
        return self.p_holm < SHOWN_BELOW


@dataclass(frozen=True)
class MatchedPair:
    """Two versions that differ in one technique, and the difference that it makes."""

    technique: int
    having: Setting
    lacking: Setting
    value: float


@dataclass(frozen=True)
class Effects:
    """All effects of a round. `not_estimable`: kind and techniques of those that these runs do not determine."""

    effects: tuple[Effect, ...]
    not_estimable: tuple[tuple[str, Techniques], ...]
    noise: RunNoise | None
    seed_noise: Noise | None
    misfit: Noise | None
    matched: tuple[MatchedPair, ...]

    def of(self, kind: str) -> dict[Techniques, Effect]:
        return {one.techniques: one for one in self.effects if one.kind == kind}

    def get(self, kind: str, *techniques: int) -> Effect | None:
        return self.of(kind).get(techniques)

    def matched_of(self, technique: int) -> list[MatchedPair]:
        return [one for one in self.matched if one.technique == technique]

    def matched_mean(self, technique: int) -> tuple[float, Interval]:
        """The mean difference of all matched pairs of a technique, with its interval; NaN without a pair."""
        pairs = self.matched_of(technique)
        if not pairs:
            return math.nan, UNKNOWN
        weights: dict[int, float] = {}
        counts: dict[int, int] = {}
        for one in pairs:
            for setting, sign in ((one.having, 1), (one.lacking, -1)):
                weights[id(setting)] = weights.get(id(setting), 0.0) + sign / len(pairs)
                counts[id(setting)] = len(setting.values())
        value = statistics.fmean(one.value for one in pairs)
        return value, around(value, sum(weight**2 / counts[key] for key, weight in weights.items()), self.noise)


UNKNOWN = Interval(math.nan, math.nan)


def around(value: float, share: float, noise: Noise | None, comparisons: int = 1) -> Interval:
    """The interval of a value whose variance is `share` times that of a run; unknown without noise."""
    if noise is None or not math.isfinite(value):
        return UNKNOWN
    half = half_width(noise.deviation * math.sqrt(share), noise.freedom, comparisons)
    return Interval(value - half, value + half)


def difference(
    one: Setting, other: Setting, noise: Noise | None, metric: str = PSNR, comparisons: int = 1
) -> tuple[float, Interval]:
    """The mean of a setting minus that of another, with its interval; NaN if one has no result."""
    return difference_of(one.values(metric), other.values(metric), noise, comparisons)


def difference_of(
    values: Sequence[float], others: Sequence[float], noise: Noise | None, comparisons: int = 1
) -> tuple[float, Interval]:
    """The mean of some values minus that of others, with its interval; NaN if there are none."""
    if not values or not others:
        return math.nan, UNKNOWN
    value = statistics.fmean(values) - statistics.fmean(others)
    return value, around(value, 1 / len(values) + 1 / len(others), noise, comparisons)


def own_interval(setting: Setting, noise: Noise | None, metric: str = PSNR) -> Interval:
    """The interval of a setting's mean: by its own seeds from three on, else by `noise`, which is that of PSNR."""
    values = setting.values(metric)
    if len(values) >= LEAST_VALUES:
        return mean_interval(values)
    return around(setting.mean(metric), 1 / len(values), noise) if values and metric == PSNR else UNKNOWN


def seed_noise(
    settings: Iterable[Setting], metric: str = PSNR, change: Callable[[float], float] = float
) -> Noise | None:
    """The noise between seeds, pooled over settings, of a metric or of a function of it; None if each has one run."""
    results = [tuple(change(value) for value in one.values(metric)) for one in settings]
    return pooled_noise(SettingResult("", (), values) for values in results if values)


def effects_of(settings: Sequence[Setting], replicated: Sequence[Setting] = ()) -> Effects:
    """All effects in the settings that have a result: the base and versions of one family of fields.

    `replicated`: the settings from whose seeds the noise is estimated; by default the same ones.
    """
    measured = [one for one in settings if one.is_measured]
    model = Model.of(measured)
    seeds, misfit = seed_noise(replicated or measured), model.misfit if model else None
    noise = _larger(seeds, misfit)
    base = next((one for one in measured if not one.techniques), None)
    found: list[Effect] = []
    missing: list[tuple[str, Techniques]] = []
    for kind, contrasts in model.contrasts.items() if model else ():
        for techniques, contrast in contrasts.items():
            solved = model.solve(contrast) if model else None
            if solved is None:
                missing.append((kind, techniques))
            else:
                n = sum({*techniques} <= {*one.techniques} for one in measured)
                found.append(_effect(kind, techniques, *solved, n, noise))
    for one in measured:
        if base and len(one.techniques) == 1:
            share = 1 / len(one.values()) + 1 / len(base.values())
            found.append(_effect(SINGLE, one.techniques, one.mean() - base.mean(), share, len(one.values()), noise))
    corrected = holm([one.p for one in found])
    effects = tuple(replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True))
    return Effects(effects, tuple(missing), noise, seeds, misfit, tuple(matched_pairs(measured)))


def matched_pairs(measured: Sequence[Setting]) -> list[MatchedPair]:
    """All pairs of versions, the base included, that differ in one technique."""
    by_set = {one.techniques: one for one in measured}
    made = []
    for having in by_set.values():
        for technique in having.techniques:
            lacking = by_set.get(tuple(other for other in having.techniques if other != technique))
            if lacking:
                made.append(MatchedPair(technique, having, lacking, having.mean() - lacking.mean()))
    return sorted(made, key=lambda one: one.technique)


def _larger(seeds: Noise | None, misfit: Noise | None) -> RunNoise | None:
    """The larger estimate of the noise of a run: both together, or that between seeds alone.

    Both together are the usual residual of least squares, whose test is exact if no more than pairs interact; a larger
    deviation with the same degrees of freedom is only stricter.
    """
    if seeds is None or misfit is None:
        one, source = (seeds, SEEDS) if seeds else (misfit, MISFIT)
        return RunNoise(one.deviation, one.freedom, source) if one else None
    freedom = seeds.freedom + misfit.freedom
    together = math.sqrt((seeds.freedom * seeds.deviation**2 + misfit.freedom * misfit.deviation**2) / freedom)
    if seeds.deviation > together:
        return RunNoise(seeds.deviation, freedom, SEEDS)
    return RunNoise(together, freedom, BOTH)


def _effect(kind: str, techniques: Techniques, value: float, share: float, n: int, noise: Noise | None) -> Effect:
    p = student_p(value, noise.deviation * math.sqrt(share), noise.freedom) if noise else math.nan
    return Effect(kind, techniques, value, around(value, share, noise), n, p)


@dataclass(frozen=True)
class Model:
    """Least squares on the means of settings, weighted with their numbers of runs.

    `columns`: the terms, () for the base's mean; a pair that no setting has is no term.
    """

    columns: tuple[Techniques, ...]
    design: Floats  # (settings, terms): 1 if the setting has all techniques of the term
    means: Floats  # (settings,)
    counts: Floats  # (settings,)

    @classmethod
    def of(cls, measured: Sequence[Setting]) -> Model | None:
        """None without a setting that has techniques."""
        numbers = sorted({number for one in measured for number in one.techniques})
        if not numbers:
            return None
        pairs = [pair for pair in combinations(numbers, 2) if any({*pair} <= {*one.techniques} for one in measured)]
        columns: tuple[Techniques, ...] = ((), *((number,) for number in numbers), *pairs)
        one_hot = np.array([[float(number in one.techniques) for number in numbers] for one in measured])
        place = {number: one_hot[:, column] for column, number in enumerate(numbers)}
        design = np.stack(
            [np.prod([place[one] for one in term], axis=0) * np.ones(len(measured)) for term in columns], 1
        )
        means = np.array([one.mean() for one in measured])
        return cls(columns, design, means, np.array([float(len(one.values())) for one in measured]))

    @cached_property
    def _solution(self) -> tuple[Floats, Floats, int]:
        """Coefficients, their covariance in units of the variance of a run, and the rank."""
        weights = np.sqrt(self.counts)
        left, sizes, right = np.linalg.svd(self.design * weights[:, None], full_matrices=False)
        rank = int(np.sum(sizes > SMALL * sizes.max()))
        inverse = right[:rank].T / sizes[:rank]
        return inverse @ (left[:, :rank].T @ (self.means * weights)), inverse @ inverse.T, rank

    @cached_property
    def _row_space(self) -> Floats:
        sizes, right = np.linalg.svd(self.design, full_matrices=False)[1:]
        kept: Floats = right[sizes > SMALL * sizes.max()]
        return kept

    @property
    def misfit(self) -> Noise | None:
        """The variance that the settings' means leave unexplained; None if the model has a term for each setting."""
        coefficients, _, rank = self._solution
        freedom = len(self.means) - rank
        if freedom <= 0:
            return None
        squares = float(np.sum(self.counts * (self.means - self.design @ coefficients) ** 2))
        return Noise(math.sqrt(squares / freedom), freedom)

    @cached_property
    def contrasts(self) -> Mapping[str, Mapping[Techniques, Floats]]:
        """The main effects and interactions as sums of coefficients (terms,)."""
        place = {term: number for number, term in enumerate(self.columns)}
        mains: dict[Techniques, Floats] = {}
        for term in self.columns:
            if len(term) == 1:
                having = self.design[self.design[:, place[term]] > 0]
                involved = np.array([set(term) <= {*other} for other in self.columns])
                mains[term] = np.where(involved, having.mean(axis=0), 0.0)
        pairs: dict[Techniques, Floats] = {
            term: np.eye(len(place))[number] for term, number in place.items() if len(term) == 2
        }
        return {MAIN: mains, PAIR: pairs}

    def solve(self, contrast: Floats) -> tuple[float, float] | None:
        """The value of a sum of coefficients, and its variance in units of that of a run; None: not determined."""
        outside = contrast - self._row_space.T @ (self._row_space @ contrast)
        if np.linalg.norm(outside) > 1e-6 * np.linalg.norm(contrast):
            return None
        coefficients, covariance, _ = self._solution
        return float(contrast @ coefficients), float(contrast @ covariance @ contrast)
