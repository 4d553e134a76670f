"""benchmarks/processes.py: all ways that it compares learn the same, and it prints a row for each network."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import processes


def test_all_ways_of_training_in_processes_are_timed_and_learn_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        ((name, turns),) = processes.run(argparse.Namespace(networks=["small"], rounds=2, steps=4))
    finally:
        torch.set_num_threads(threads)
    assert name == "small"
    first = turns[processes.ONE][0].weights
    assert not torch.equal(first[0], processes.Turn(processes.NETWORKS[name], 4).start()[0].state_dict()["0.weight"])
    for each in turns.values():
        assert len(each) == 2
        for turn in each:
            assert turn.seconds > 0
            assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(turn.weights, first, strict=True))
    cells = capsys.readouterr().out.strip().split(" | ")
    assert cells[0] == "| small" and len(cells) == 10
