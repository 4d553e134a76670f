"""Which value of a metric is best: a command's results are ranked only if the round or a run declares it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from rounds_for_tests import REPOSITORY, Rounds

from analysis import report
from analysis.round_summary import rankings, summaries_of
from analysis.rounds import Folders, read_round
from analysis.table_rows import RoundResults
from roundhouse.errors import RoundhouseError
from roundhouse.store.metrics import RunMetrics, read_metrics

# A training script of a user's own: it reports a loss, which is lower for a higher rate.
SCRIPT = """\
import json, sys
from pathlib import Path
place, rate, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
progress, metrics = json.loads('PROGRESS'), json.loads('METRICS')
loss = 1 / rate + seed / 1000
shown = {"metric_name": "loss", "metric": loss, "best": loss} if progress is not None else {}
(place / "progress.json").write_text(json.dumps({"version": 1, "epoch": 1, "epochs": 1, **shown, **(progress or {})}))
(place / "metrics.json").write_text(json.dumps({"loss": loss, **metrics}))
"""
MIN = '{"mode": "min"}'
MAIN = '{"metric": "loss", "mode": "min"}'
SEEDS = 7  # so many that a difference can be shown


@dataclass
class Ran:
    """A finished round of the script, at the rates 1, 2 and 4."""

    place: Folders
    rounds: Rounds

    def ranked(self) -> list[tuple[str | None, list[str]]]:
        """Mode and labels of each ranking of the report."""
        found = read_round("r", self.place)
        made = rankings(found, summaries_of(found)[0])
        return [(one.mode, [setting.label for setting in one.settings]) for one in made]

    def sign(self) -> int:
        return RoundResults.of(read_round("r", self.place)).metric.sign

    def page(self) -> str:
        with mock.patch.object(report, "refresh", return_value=[]):
            return report.make_report("r", self.place)[0].read_text()

    def call(self, script: str, *options: str) -> str:
        words = [f"--{name}={getattr(self.rounds, name)}" for name in ("experiments", "rounds", "analysis")]
        done = subprocess.run(
            [sys.executable, REPOSITORY / script, *options, *words], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


def run(rounds: Rounds, progress: str = "{}", metrics: str = "{}", *, seeds: int = 1, more: Any = None) -> Ran:
    """Run the script. `progress` and `metrics`: what it adds to these files; progress `null`: no metric there."""
    script = rounds.folder / "train.py"
    script.write_text(SCRIPT.replace("PROGRESS", progress).replace("METRICS", metrics))
    group = {
        "path": "{rate}/{seed}",
        "grid": {"rate": [1, 2, 4], "seed": list(range(seeds))},
        "command": [sys.executable, str(script), "{directory}", "{rate}", "{seed}"],
    }
    rounds.write({"runs": group, **(more or {})})
    done = rounds.call()
    assert done.returncode == 0, done.stdout + done.stderr
    return Ran(Folders(rounds.experiments, rounds.rounds, rounds.analysis), rounds)


def test_without_a_declaration_nothing_is_ranked_anywhere(rounds: Rounds) -> None:
    ran = run(rounds)
    assert ran.ranked() == [(None, [])]
    assert ran.sign() == 0
    page = ran.page()
    assert "is not ranked: it is not known whether the lowest or the highest loss is best" in page
    assert "highest first" not in page and "lowest first" not in page
    assert "best loss" in page, "the table shows it as the runs reported it"
    ran.call("analysis/tables.py", "--round", "r")
    table = (rounds.analysis / "experiment_r/tables/table.tex").read_text()
    assert "Nothing is bold: it is unknown whether higher or lower is better." in table
    assert r"\textbf" not in table
    week = ran.call("toolbox/weekly_summary.py")
    assert "no best setting by loss: no run declares which value is best" in week
    assert "(n = " not in week


@pytest.mark.parametrize(("progress", "metrics"), [(MIN, "{}"), ("{}", MAIN), (MIN, MAIN), ("null", MAIN)])
def test_a_run_declares_the_direction_in_one_of_its_files(rounds: Rounds, progress: str, metrics: str) -> None:
    ran = run(rounds, progress, metrics)
    assert ran.ranked() == [("min", ["rate 4", "rate 2", "rate 1"])]
    assert ran.sign() == -1
    assert "(lowest first)" in ran.page()
    assert "loss 0.25 (n = 1) with rate 4, the best of 3 settings" in ran.call("toolbox/weekly_summary.py")


def test_the_round_declares_the_direction_where_it_selects(rounds: Rounds) -> None:
    chosen = {"path": "after", "select": {"from": "runs", "metric": "loss", "mode": "min"}, "command": ["true"]}
    ran = run(rounds, more={"chosen": chosen})
    assert ran.ranked() == [("min", ["rate 4", "rate 2", "rate 1"])]
    assert ran.sign() == -1


def test_a_known_direction_makes_the_lowest_loss_bold(rounds: Rounds) -> None:
    ran = run(rounds, MIN, seeds=SEEDS)
    ran.call("analysis/tables.py", "--round", "r")
    bold = [line for line in (rounds.analysis / "experiment_r/tables/table.tex").read_text().splitlines()
            if r"\textbf" in line]  # fmt: skip
    assert len(bold) == 1 and "rate 4" in bold[0]


def test_declarations_that_differ_rank_nothing(rounds: Rounds) -> None:
    chosen = {"path": "after", "select": {"from": "runs", "metric": "loss", "mode": "max"}, "command": ["true"]}
    ran = run(rounds, MIN, more={"chosen": chosen})
    assert ran.ranked() == [(None, [])]
    assert ran.sign() == 0


def test_a_declaration_survives_the_end_of_the_files(rounds: Rounds) -> None:
    """As in a pulled record without metrics.json, whose progress is in history.json."""
    ran = run(rounds, MIN)
    for path in rounds.experiments.rglob("metrics.json"):
        path.unlink()
    assert ran.ranked() == [("min", ["rate 4", "rate 2", "rate 1"])]


@pytest.mark.parametrize("mode", ["lowest", True, None, ["min"], {"min": 1}])
def test_a_mode_of_another_value_declares_nothing(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"loss": 0.5, "metric": "loss", "mode": mode}))
    assert read_metrics(path) == RunMetrics("loss", None, 0.5, final={"loss": 0.5})
    path.write_text(json.dumps({"loss": 0.5, "metric": 3.0, "mode": "min"}))
    assert read_metrics(path) == RunMetrics(final={"loss": 0.5, "metric": 3.0})
    path.write_text("[1]")
    with pytest.raises(RoundhouseError):
        read_metrics(path)
