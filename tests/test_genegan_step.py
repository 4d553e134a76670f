"""benchmarks/genegan_step.py: the plain loop that the study is compared with trains the same."""

from __future__ import annotations

import re
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import genegan_step

from studies.genegan.images import Batch
from studies.genegan.networks import Critics, Generator
from studies.genegan.options import Options

OPTIONS = Options(
    sizes=(32, 48), width=4, batch_size=2, images=8, feed="device", norm="group", scale_weights="square", l2=0.1
)


@pytest.mark.parametrize("objective", ["wgan", "r1"])
def test_the_plain_loop_trains_the_same_as_the_study(objective: str) -> None:
    """With group norm: batch norm sees all images of a batch together in the study, and each kind apart here."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = Options(**{**vars(OPTIONS), "objective": objective})
    generator, critics = Generator(options), Critics(options)
    plain = genegan_step.Plain(options, deepcopy(generator), deepcopy(critics))
    study = genegan_step.Study(options, generator, critics)
    pairs = [{size: (torch.rand(2, 3, size, size), torch.rand(2, 3, size, size)) for size in (32, 48)} for _ in "ab"]
    rows = [Batch(*({size: pair[side] for size, pair in one.items()} for side in (0, 1))) for one in pairs]
    source = iter(pairs)
    plain.step(lambda: next(source))
    study.step(iter(rows))
    ours = study.players.generator_optimiser, study.players.critic_optimiser
    for one, two in zip(plain.optimisers, ours, strict=True):
        pairs_of_states = list(zip(averages(one), averages(two), strict=True))
        assert pairs_of_states and all(torch.allclose(x, y, rtol=1e-3, atol=1e-7) for x, y in pairs_of_states)
    for network, other in ((generator, plain.generator), (critics, plain.critics)):
        for x, y in zip(network.parameters(), other.parameters(), strict=True):
            assert torch.allclose(x, y, atol=2e-5)


def averages(optimiser: torch.optim.Optimizer) -> list[torch.Tensor]:
    """The optimiser's averages of gradients or of their squares: after one step they say what the gradients were."""
    return [one for state in optimiser.state.values() for one in state.values() if one.ndim]


def test_it_prints_both_speeds_and_their_ratio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(genegan_step, "Options", lambda **config: Options(**{**vars(OPTIONS), "norm": "switchable"}))
    monkeypatch.setattr(sys, "argv", ["genegan_step.py", "--rounds", "1", "--steps", "1", "--threads", "1", "--small"])
    genegan_step.main()
    assert re.search(r"wgan, images/s: plain \d+, study \d+, ratio [\d.]+$", capsys.readouterr().out.strip())
