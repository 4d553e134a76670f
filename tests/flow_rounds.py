"""Made-up results of the study flow_matching: the document's versions, and rounds that were never trained.

    python tests/flow_rounds.py FOLDER [NAME]

writes FOLDER/experiments/flow and FOLDER/rounds/flow.yaml; then `python analysis/suite.py --round flow --experiments
FOLDER/experiments --rounds FOLDER/rounds --analysis FOLDER/analysis`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]


from studies.flow_matching.analysis.results import Run, Setting  # noqa: E402

Techniques = tuple[int, ...]
TEN = tuple(range(1, 11))


def versions() -> dict[int, Techniques]:
    """The document's versions v3 to v102, and v103 with all ten."""
    sets: list[Techniques] = [(one,) for one in TEN]
    sets += combinations(TEN, 2)
    sets += combinations(TEN[:5], 3)
    for first, second, others in (
        (1, 6, (2, 3, 4, 5, 7, 8, 9, 10)),
        (1, 7, (2, 3, 4, 5, 8, 9, 10)),
        (2, 6, (3, 4, 5, 7, 8, 9, 10)),
        (2, 7, (3, 4, 5)),
    ):
        sets += [tuple(sorted((first, second, other))) for other in others]
    sets += combinations(TEN[:5], 4)
    sets += [TEN[:5], (1, 2, 3, 4, 5, 7), TEN[:9], (*TEN[:8], 10), (*TEN[:7], 9, 10), TEN]
    return dict(enumerate(sets, 3))


@dataclass(frozen=True)
class Truth:
    """What is planted: dB of each technique and pair, and the noise between seeds."""

    base: float = 14.0
    single: Mapping[int, float] = field(default_factory=dict)
    pairs: Mapping[tuple[int, int], float] = field(default_factory=dict)
    noise: float = 0.15

    def psnr(self, techniques: Techniques) -> float:
        pairs = sum(gain for pair, gain in self.pairs.items() if {*pair} <= {*techniques})
        return self.base + sum(self.single.get(one, 0.0) for one in techniques) + pairs


def settings(
    truth: Truth, random: np.random.Generator, *, base_seeds: int = 5, seeds: int = 1, shared: float = 0.0,
    only: Sequence[int] | None = None,
) -> list[Setting]:  # fmt: skip
    """The base and the versions. `shared`: standard deviation of a shift that all runs of one seed have in common."""
    shift = shared * random.standard_normal(max(base_seeds, seeds))
    made = []
    for version, techniques in {2: (), **versions()}.items():
        if only is None or version == 2 or version in only:
            count = seeds if techniques else base_seeds
            values = truth.psnr(techniques) + truth.noise * random.standard_normal(count) + shift[:count]
            runs = tuple(Run(f"v{version}/{n}", n, {"test_psnr": float(one)}, 100.0, (), ())
                         for n, one in enumerate(values))  # fmt: skip
            made.append(Setting("versions" if techniques else "base", version, techniques, {}, runs, ()))
    return made
