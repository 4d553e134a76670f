"""benchmarks/flood_solver.py and flood_samples.py: what the study is compared with computes the same."""

from __future__ import annotations

import re
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import flood_samples
import flood_solver

from studies.flood.options import Options
from studies.flood.surrogates import new_surrogate


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("before", [0, 150])
def test_the_plain_solver_takes_the_steps_of_the_study(before: int) -> None:
    simulation, state = flood_solver.start(16, 2, torch.float64, before)
    plain = flood_solver.Plain(simulation, state)
    for _ in range(60):
        plain.step()
    end = simulation.advance(state, torch.inf, at_most=60)
    assert plain.time == pytest.approx(float(end.time[1]), rel=1e-12) and float(end.depth[1].max()) > 0.1
    for ours, theirs in ((end.depth, plain.h), (end.qx, plain.qx), (end.qy, plain.qy)):
        assert torch.allclose(ours[1], torch.from_numpy(theirs), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(end.depth, state.depth, atol=1e-3)


def test_the_plain_solver_stays_in_float32() -> None:
    plain = flood_solver.Plain(*flood_solver.start(8, 1, torch.float32, 20))
    plain.step()
    assert plain.h.dtype == plain.qx.dtype == plain.qy.dtype == "float32"


def test_the_solver_benchmark_prints_speeds_and_ratios(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["flood_solver.py", "--small", "--rounds", "1", "--steps", "2"])
    flood_solver.main()
    lines = capsys.readouterr().out.splitlines()[1:]
    form = r"64 x 64 cells, batch [18]: million cell-steps/s: study [\d.]+, numpy [\d.]+.*; study = [\d.]+ x numpy.*"
    assert len(lines) == 2 and all(re.fullmatch(form, line) for line in lines)


def test_the_plain_training_is_that_of_the_study() -> None:
    options = Options(architecture="02", width=0.1, lr=0.01)
    samples = flood_samples.made_up(1, 32, 3)
    torch.manual_seed(0)
    network = new_surrogate(options)
    start = deepcopy(network.state_dict())
    plain = flood_samples.Plain(options, flood_samples.cut_beforehand(samples), deepcopy(network))
    study = flood_samples.Study(options, samples, network)
    for chosen in (torch.tensor([3, 9, 12]), torch.tensor([15, 0, 1])):
        assert all(map(torch.equal, plain.batch(chosen), samples.batch(chosen)))
        plain.step(chosen)
        study.step(chosen)
    other = plain.network.state_dict()
    for name, value in network.state_dict().items():
        assert torch.allclose(value, other[name], atol=1e-6), name
    assert any(not torch.allclose(value, start[name], atol=1e-3) for name, value in other.items())


def test_the_samples_benchmark_prints_speeds_ratios_and_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flood_samples, "Options", lambda **config: Options(**{**config, "width": 0.1, "batch_size": 2}))
    monkeypatch.setattr(sys, "argv", ["flood_samples.py", "--small", "--rounds", "1", "--steps", "1", "--threads", "1"])
    flood_samples.main()
    _, sizes, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"128 samples, batch size 2, .*; memory: study 1.0 MB, plain 54.3 MB", sizes)
    form = r"{}, samples/s: plain \d+, study \d+, ratio [\d.]+"
    assert all(re.fullmatch(form.format(name), line) for name, line in zip(("batches", "steps"), lines, strict=True))
