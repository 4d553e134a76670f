"""The table of results by setting: which metrics it shows first, and that it shortens no number, at any width."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import settings as run_with
from hypothesis import strategies as st
from rounds_for_tests import REPOSITORY, Rounds

from roundhouse.metrics import Declarations, Metric, declared_by
from roundhouse.views import results
from roundhouse.views.console import EscapingConsole
from roundhouse.views.results import SettingResults

FLOW = declared_by("flow_matching", REPOSITORY)
METRICS = ["best val_psnr", *(name for name in FLOW.metrics if name not in ("val_psnr", "flow_val_psnr", "loss"))]
ONE_WITH_BASELINE = Declarations({"val_a": Metric(main=True, final="result", baseline="chance")})


def of_settings(names: list[str], metrics: list[str], seeds: int = 3) -> list[SettingResults]:
    return [
        SettingResults(name, seeds, {metric: [10.0 * k + 0.4711 * seed for seed in range(seeds)]
                                     for k, metric in enumerate(metrics)})
        for name in names
    ]  # fmt: skip


def printed(settings: list[SettingResults], metrics: list[str], width: int) -> list[str]:
    out = io.StringIO()
    EscapingConsole(file=out, width=width, highlight=False).print(results.table(settings, metrics))
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("width", "least"), [(80, 2), (120, 4), (200, 8)])
def test_a_study_with_many_metrics_has_a_table_that_fits_the_terminal(width: int, least: int) -> None:
    settings = of_settings(["v2/*", "v42/*"], METRICS)
    names = results.ordered(settings, [FLOW])
    assert sorted(names) == sorted(METRICS)
    shown = results.fitting(settings, names, width)
    lines = printed(settings, shown, width)
    assert least <= len(shown) < len(names) and shown == names[: len(shown)]
    assert shown[:2] == ["test_psnr", "rbf_psnr"], "the main metric's final one, then its baseline"
    header = next(line for line in lines if "test_psnr" in line)
    assert header.split()[-len(shown) :] == " ".join(shown).split()[-len(shown) :]
    for setting in settings:
        row = next(line for line in lines if line.startswith(setting.name))
        assert re.split(r" {2,}", row.strip())[2:] == [setting.formatted(name) for name in shown]
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)


@run_with(max_examples=40, deadline=None)
@given(
    width=st.integers(60, 240),
    names=st.lists(st.text("abc/_*", min_size=1, max_size=120), min_size=1, max_size=4, unique=True),
    metrics=st.lists(st.text("klmn_", min_size=1, max_size=20), min_size=1, max_size=25, unique=True),
    seeds=st.integers(1, 3),
)
def test_no_number_and_no_name_of_a_metric_is_shortened(
    width: int, names: list[str], metrics: list[str], seeds: int
) -> None:
    settings = of_settings(names, metrics, seeds)
    shown = results.fitting(settings, metrics, width)
    text = "\n".join(printed(settings, shown, width))
    assert shown == metrics[: len(shown)] and shown
    assert all(text.count(setting.formatted(name)) >= len(names) for setting in settings for name in shown)
    assert all(name in text for name in shown) and "…" not in text
    assert all(name in text for name in names if len(name) <= width // 2), "a wrapped name"


def test_all_metrics_are_shown_if_they_fit() -> None:
    settings = of_settings(["a/*"], ["best val_a", "result"])
    assert results.fitting(settings, ["result", "best val_a"], 120) == ["result", "best val_a"]
    assert results.not_shown(0, "r") == []


def test_the_order_of_a_study_without_declarations_is_that_in_which_metrics_were_recorded() -> None:
    settings = of_settings(["a/*"], ["best val_a", "z", "chance", "result"])
    assert results.ordered(settings, []) == ["best val_a", "z", "chance", "result"]
    assert results.ordered(settings, [Declarations()]) == ["best val_a", "z", "chance", "result"]
    assert results.ordered(settings, [ONE_WITH_BASELINE]) == ["result", "chance", "best val_a", "z"]


def test_a_baseline_stands_beside_its_metric() -> None:
    settings = of_settings(["a/*"], ["a", "x", "b", "y"])
    declared = Declarations({"a": Metric(baseline="x"), "b": Metric(baseline="y"), "c": Metric(baseline=0.5)})
    assert results.ordered(settings, [declared]) == ["a", "x", "b", "y"]


def test_the_runner_says_how_many_metrics_it_does_not_show(rounds: Rounds) -> None:
    """The round file declares the main metric; the program of the experiment reports 22."""
    values = {f"number_{k}": k / 7 for k in range(20)} | {"chance": 1.5, "result": 2.5}
    reported = rounds.notes / "reported.json"
    reported.write_text(json.dumps({"epoch": 1, "epochs": 1, "started_epoch": 0, "final": values}))
    rounds.write({"e": {"path": "e", "command": ["cp", str(reported), "{directory}/progress.json"]}})
    file = rounds.rounds / "r.yaml"
    file.write_text(file.read_text() + "metrics: {val_a: {main: true, final: result, baseline: chance}}\n")
    done = rounds.call()
    assert done.returncode == 0, done.stderr
    header = next(line for line in done.stdout.splitlines() if "result" in line and "chance" in line)
    shown = re.findall(r"result|chance|number_\d+", header)
    assert shown[:3] == ["result", "chance", "number_0"]
    assert f"Not shown: {22 - len(shown)} more metrics." in done.stdout and "--round r`" in done.stdout
    assert "…" not in done.stdout
