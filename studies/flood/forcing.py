"""Water that enters a flood: an inflow hydrograph and rain, drawn from a seed and tabulated once a minute.

Inflow       Q(t) = Qb + (Qp - Qb) [ (t / tp) exp(1 - t / tp) ]^m                                            m3/s
             A gamma curve (Edson, Transactions AGU 32, 1951): Qb at t = 0, and its peak Qp at tp.
             Qp ~ U(10, 60) m3/s, Qb = .05 Qp, tp ~ U(60, 180) min in whole minutes, m ~ U(1, 4).
Rain         Mean intensity of a storm of return period T (years) and duration d (minutes), uniform in space:
             i = a T^b / (d + c)^e                                                                           mm/h
             a = 900, b = .2, c = 10, e = .8: 48 mm/h for T = 10 and d = 60, as in a temperate climate. ln T ~ U(ln 2,
             ln 100), and d is 15, 20, .. or 120 min. Over time it is a triangle (Yen and Chow, Journal of the
             Hydraulics Division 106, 1980) with its peak 2 i at .4 d; it begins at a whole minute, U(0, 60).
             Half of the floods have no rain. Nothing infiltrates.

The numbers of a seed do not depend on the hours: a longer table begins with the same values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from roundhouse.training import StudyError, derive_seed

PEAKS = (10.0, 60.0)
"""Least and largest peak of an inflow, m3/s."""
RAIN_A, RAIN_B, RAIN_C, RAIN_E = 900.0, 0.2, 10.0, 0.8
RETURN_PERIODS = (2.0, 100.0)
"""Least and largest, years."""
SHARE_WITH_RAIN = 0.5
INTERVAL = 60.0
"""Between the rows of a table, s."""

_BASE = 0.05  # Qb / Qp
_PEAK_OF_RAIN = 0.4  # share of the duration


@dataclass(frozen=True)
class Hydrograph:
    """The numbers of an inflow, as in the head of this file: m3/s, and minutes."""

    peak: float
    minutes_to_peak: int
    exponent: float

    def at(self, seconds: float) -> float:
        """Q in m3/s."""
        share = seconds / (60 * self.minutes_to_peak)
        base = _BASE * self.peak
        return base + (self.peak - base) * math.pow(share * math.exp(1 - share), self.exponent)


@dataclass(frozen=True)
class Storm:
    """The numbers of a rain: years, and minutes."""

    return_period: float
    duration: int
    start: int

    def at(self, seconds: float) -> float:
        """Rain in m/s."""
        share = (seconds / 60 - self.start) / self.duration
        triangle = max(0.0, min(share / _PEAK_OF_RAIN, (1 - share) / (1 - _PEAK_OF_RAIN)))
        return 2 * intensity(self.return_period, self.duration) * triangle


@dataclass(frozen=True, eq=False)
class ForcingTable:
    """Tables with the times as rows, float64 (T,); values are linear between the rows (`simulation.Forcing`)."""

    times: Tensor
    """From the start, s."""
    inflow: Tensor
    """m3/s."""
    rain: Tensor
    """m/s."""


def intensity(return_period: float, duration: float) -> float:
    """Mean rain of a storm, m/s: i = a T^b / (d + c)^e, with T in years and d in minutes."""
    return RAIN_A * math.pow(return_period, RAIN_B) / math.pow(duration + RAIN_C, RAIN_E) / 1000 / 3600


def draw_storm(seed: int) -> Storm | None:
    """The rain of a seed; None for a flood without rain."""
    falls, period, duration, start = _numbers(seed, "rain", 4)
    if falls >= SHARE_WITH_RAIN:
        return None
    low, high = map(math.log, RETURN_PERIODS)
    return Storm(math.exp(low + (high - low) * period), 5 * (3 + int(22 * duration)), int(61 * start))


def draw_hydrograph(seed: int) -> Hydrograph:
    """The inflow of a seed."""
    peak, time, exponent = _numbers(seed, "inflow", 3)
    low, high = PEAKS
    return Hydrograph(low + (high - low) * peak, 60 + int(121 * time), 1 + 3 * exponent)


def draw(seed: int, hours: float) -> ForcingTable:
    """The inflow and rain of a seed, for a flood of so many hours. StudyError: hours are not > 0."""
    if not 0 < hours < math.inf:
        raise StudyError(f"a flood needs hours > 0 (got {hours})")
    # Row by row: a vectorised exp rounds differently in the last rows of an array, so values would depend on the hours.
    times = [INTERVAL * row for row in range(math.ceil(3600 * hours / INTERVAL) + 1)]
    hydrograph, storm = draw_hydrograph(seed), draw_storm(seed)
    rain = [0.0 if storm is None else storm.at(time) for time in times]
    return ForcingTable(_table(times), _table([hydrograph.at(time) for time in times]), _table(rain))


def _table(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _numbers(seed: int, purpose: str, count: int) -> list[float]:
    """Uniform numbers in [0, 1)."""
    generator = torch.Generator().manual_seed(derive_seed("flood", "forcing", purpose, seed))
    numbers: list[float] = torch.rand(count, dtype=torch.float64, generator=generator).tolist()
    return numbers
