"""Overviews of groups: their division into panels and figures, and what a reader must be able to distinguish."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from recorded_runs import folders_in, record_runs
from synthetic_rounds import unsynced

from analysis import figure_requests, plot_experiments, style
from analysis.curve_data import Band
from analysis.group_learning import learning
from analysis.group_panels import (
    FIGURES_AT_MOST,
    LINES_AT_MOST,
    PANELS_AT_MOST,
    ROWS_AT_MOST,
    ROWS_BETWEEN,
    ROWS_OF_PAGE,
    GroupPanels,
)
from analysis.group_results import results
from analysis.learning_curves import DrawnFigure, draw
from analysis.rounds import RoundEntry, RoundRecords, WithBaseline, read_round
from roundhouse.formatting import number
from roundhouse.metrics import Declarations
from roundhouse.model.attempt import Record
from roundhouse.model.experiment import Experiment
from roundhouse.model.plan import Action, Inputs, State, Verb
from roundhouse.model.status import ExperimentStatus

PAGE = 10.0  # inches of height

# ------------------------------------------------------------------------------------- division into panels and figures


def group_of(configs: Sequence[Mapping[str, Any]], apart: Sequence[str] = ()) -> GroupPanels:
    """A group of experiments with these configs, without records."""
    shown = []
    for index, config in enumerate(configs):
        experiment = Experiment("r", "g", str(index), None, dict(config))
        status = ExperimentStatus(experiment, Record(Path(), ()), Action(Verb.NOTHING, State.PENDING), Inputs({}))
        shown.append((RoundEntry(status, None, None, Declarations(apart=tuple(apart))), ()))
    return GroupPanels(shown)


keys = st.fixed_dictionaries({"data": st.integers(1, 4), "a": st.integers(1, 12), "b": st.integers(1, 9),
                              "seed": st.integers(1, 3)})  # fmt: skip


@settings(deadline=None)
@given(keys, st.randoms(use_true_random=False))
def test_each_setting_is_once_in_a_figure_of_each_kind_and_no_panel_mixes_data_sets(
    sizes: dict[str, int], random: Any
) -> None:
    configs = [
        {"data": data, "a": a, "b": b, "seed": seed}
        for data in range(sizes["data"])
        for a in range(sizes["a"])
        for b in range(sizes["b"])
        for seed in range(sizes["seed"])
    ]
    chosen = random.sample(configs, max(1, len(configs) * 3 // 4))
    group = group_of(chosen, ["data"])
    for figures in (group.results, group.learning):
        panels = [panel for figure in figures for panel in figure]
        assert sorted(one.path for panel in panels for one in panel.entries) == sorted(map(str, range(len(chosen))))
        assert all(len({one.config["data"] for one in panel.entries}) == 1 for panel in panels)
        assert all(
            len({one.setting for one in entries}) == 1 for panel in panels for entries in panel.settings.values()
        )
        order = [panel.data for panel in panels]
        assert order == sorted(order, key=list(dict.fromkeys(order)).index), "panels of a data set are side by side"
    assert all(len(panel.settings) <= LINES_AT_MOST for figure in group.learning for panel in figure)
    assert all(len(figure) <= PANELS_AT_MOST for figure in group.learning)
    assert all(len(panel.settings) <= ROWS_AT_MOST for figure in group.results for panel in figure)
    for figure in group.results:
        assert sum(len(panel.settings) + ROWS_BETWEEN for panel in figure) <= ROWS_OF_PAGE


def titles(group: GroupPanels) -> list[list[str]]:
    return [[panel.title for panel in figure] for figure in group.learning]


def test_settings_are_split_by_keys_rather_than_cut() -> None:
    grid = [{"method": method, "alpha": alpha} for method in "abcde" for alpha in (0.1, 0.5, 0.9)]
    assert titles(group_of(grid)) == [["alpha 0.1", "alpha 0.5", "alpha 0.9"]]
    many = [{"sampler": one, "width": width, "steps": n} for one in "ab" for width in (32, 64) for n in range(17)]
    first, *_ = titles(group_of(many))
    assert first[:4] == [f"a, width 32: settings {part} of 17" for part in ("1 to 5", "6 to 11", "12 to 17")] + [
        "a, width 64: settings 1 to 5 of 17"
    ]
    assert titles(group_of([{"arm": arm} for arm in range(15)])) == [
        [f"settings {part} of 15" for part in ("1 to 5", "6 to 10", "11 to 15")]
    ]
    assert titles(group_of([{"arm": arm} for arm in range(7)])) == [[""]]


# ------------------------------------------------------------------------------------------------------- whole figures


def run(key: str, mode: str, value: float, final: Mapping[str, float], *, epochs: int = 6) -> dict[str, Any]:
    """metrics.json of a run whose metric approaches a value."""
    rows = [{"epoch": one, key: value * (1 + 1 / one), "train_loss": 1 / one} for one in range(1, epochs + 1)]
    return {"metric": key, "mode": mode, "best": {"epoch": epochs, key: value}, "epochs": rows, "final": final}


def flow() -> tuple[str, dict[str, Any]]:
    """102 settings of one seed, PSNR."""
    steps = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128]
    text = f"""round: r
metrics: {{val_psnr: {{label: PSNR, scale: db, mode: max, main: true}}}}
experiments:
  g: {{path: "{{sampler}}/{{width}}/{{steps}}/{{seed}}", command: "true",
      grid: {{sampler: [euler, heun, midpoint], width: [32, 64], steps: {steps}, seed: [0]}}}}
"""
    paths = [f"{one}/{width}/{n}/0" for one in ("euler", "heun", "midpoint") for width in (32, 64) for n in steps]
    return text, {path: run("val_psnr", "max", 20 + index / 9, {"test_psnr": 19 + index / 9})
                  for index, path in enumerate(paths)}  # fmt: skip


def flood() -> tuple[str, dict[str, Any]]:
    """Seven architectures, three data sets, three seeds, RAE over two decades, with a baseline; one is missing."""
    text = """round: r
apart: [river]
metrics: {val_rae: {label: relative absolute error, scale: log, mode: min, main: true, baseline: persistence}}
experiments:
  mean: {path: "mean/{river}/{seed}", grid: {river: [elbe, rhine, ems], seed: [0, 1, 2]}, command: "true"}
  g: {path: "{model}/{river}/{seed}", command: "true", baseline: mean,
      grid: {model: [a, b, c, d, e, f, g], river: [elbe, rhine, ems], seed: [0, 1, 2]}}
"""
    left = {}
    for model, river, seed in (
        (m, r, s) for m in ("mean", *"abcdefg") for r in ("elbe", "rhine", "ems") for s in (0, 1, 2)
    ):
        value = (1 + seed / 20) * 10 ** -(0 if model == "mean" else "abcdefg".index(model) / 3)
        left[f"{model}/{river}/{seed}"] = run("val_rae", "min", value, {"test_rae": value, "persistence": 1.0})
    del left["f/rhine/0"], left["f/rhine/1"], left["f/rhine/2"]
    return text, left


def growth() -> tuple[str, dict[str, Any]]:
    """Twelve densities over four decades, three seeds, accuracy, with a baseline."""
    densities = [0.5, 0.25, 0.1, 0.05, 0.025, 0.01, 0.005, 0.0025, 0.001, 0.0005, 0.00025, 0.0001]
    text = f"""round: r
metrics: {{val_accuracy: {{scale: percent, mode: max, main: true, baseline: 0.1}}}}
experiments:
  dense: {{path: "dense/{{seed}}", grid: {{seed: [0, 1, 2]}}, command: "true"}}
  g: {{path: "{{density}}/{{seed}}", grid: {{density: {densities}, seed: [0, 1, 2]}}, command: "true", baseline: dense}}
"""
    values = {"dense": 0.93, **{str(one): 0.93 + 0.05 * math.log10(one) for one in densities}}
    return text, {
        f"{name}/{seed}": run(
            "val_accuracy", "max", value + seed / 99, {"test_accuracy": value, "test_loss": 1 - value}
        )
        for name, value in values.items()
        for seed in (0, 1, 2)
    }


def genegan() -> tuple[str, dict[str, Any]]:
    """Fifteen arms, FID by step, many losses; one arm has one seed, another none."""
    arms = [f"arm_{index}" for index in range(15)]
    text = f"""round: r
metrics: {{fid: {{label: FID, mode: min, main: true, final: fid_50k}}}}
experiments:
  g: {{path: "{{loss}}/{{seed}}", grid: {{loss: {arms}, seed: [0, 1]}}, command: "true"}}
"""
    left: dict[str, Any] = {}
    for index, arm in enumerate(arms):
        for seed in (0, 1):
            rows: list[dict[str, Any]] = [
                {"step": 1000 * n, **{f"loss_{one}": one / n for one in range(14)}} for n in range(1, 41)
            ]
            for row in rows[9::10]:
                row["fid"] = 20 + index + seed + 1e5 / row["step"]
            best = {"step": 40000, "fid": 22.5 + index + seed}
            final = {"fid_50k": 22 + index + seed}
            left[f"{arm}/{seed}"] = {"metric": "fid", "mode": "min", "best": best, "epochs": rows, "final": final}
    del left["arm_3/1"], left["arm_4/0"], left["arm_4/1"]
    return text, left


def one() -> tuple[str, dict[str, Any]]:
    """One setting, one seed, no test value."""
    text = "round: r\nexperiments: {g: {path: e, config: {seed: 0}, command: 'true'}}\n"
    return text, {"e": run("val_iou", "max", 0.5, {})}


KINDS = {made.__name__: made for made in (flow, flood, growth, genegan, one)}


@pytest.fixture(scope="module", params=KINDS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RoundRecords:
    place = folders_in(tmp_path_factory.mktemp(request.param))
    with unsynced():
        record_runs(place, *KINDS[request.param]())
    return read_round("r", place)


def shown_of(found: RoundRecords) -> list[WithBaseline]:
    return [(entry, tuple(found.baseline_of(entry))) for entry in found.groups["g"]]


def figures_of(found: RoundRecords) -> list[DrawnFigure]:
    """All overviews of the group g, and the curves of one experiment, as they are when they are saved."""
    shown, panels = shown_of(found), GroupPanels(shown_of(found))
    with style.rules():
        made = [results(shown, part) for part in range(len(panels.results))]
        made += [learning(shown, part) for part in range(len(panels.learning))]
        made.append(draw(*next((entry, baseline) for entry, baseline in shown if entry.metrics_file)))
        for one in made:
            one.figure.draw_without_rendering()
    return made


@pytest.fixture(scope="module")
def figures(found: RoundRecords) -> list[DrawnFigure]:
    return figures_of(found)


def texts_of(figure: Figure) -> list[Text]:
    return [one for one in figure.findobj(Text) if isinstance(one, Text) and one.get_visible() and one.get_text()]


def test_figures_fit_a_page_and_their_text_is_readable_there(figures: Sequence[DrawnFigure]) -> None:
    for made in figures:
        assert made.figure.get_figwidth() <= style.PRINT_WIDTH and made.figure.get_figheight() <= PAGE, made.title
        assert min(one.get_fontsize() for one in texts_of(made.figure)) >= 6, made.title


def test_nothing_is_drawn_outside_of_the_figure_and_no_legend_covers_a_panel(figures: Sequence[DrawnFigure]) -> None:
    for made in figures:
        renderer = made.figure.canvas.get_renderer()
        page = made.figure.bbox
        tight = made.figure.get_tightbbox(renderer)
        inches = [tight.x0, tight.y0, page.width / made.figure.dpi - tight.x1, page.height / made.figure.dpi - tight.y1]
        assert min(inches) > -0.06, (made.title, inches)
        legends = [*made.figure.legends, *(one.get_legend() for one in made.figure.axes)]
        boxes = [one.get_window_extent(renderer) for one in legends if one]
        for axes in made.figure.axes:
            for other in made.figure.axes:
                if other is not axes and (legend := axes.get_legend()):
                    own, box = other.get_tightbbox(renderer), legend.get_window_extent(renderer)
                    overlap = min(box.y1, own.y1) - max(box.y0, own.y0), min(box.x1, own.x1) - max(box.x0, own.x0)
                    assert min(overlap) < 3, (made.title, "a legend reaches into the next panel")
        for axes in made.figure.axes:
            own = axes.get_window_extent(renderer)
            assert own.height > 0.6 * made.figure.dpi, (made.title, "a legend must not take the place of a panel")
            for box in boxes:
                overlap = min(box.y1, own.y1) - max(box.y0, own.y0), min(box.x1, own.x1) - max(box.x0, own.x0)
                assert min(overlap) < 3, made.title


def lines_of(axes: Axes) -> list[Line2D]:
    return [
        one
        for one in axes.lines
        if not str(one.get_label()).startswith("_") and len(np.atleast_1d(one.get_xdata())) > 1
    ]


def test_lines_of_a_panel_differ_in_colour_and_in_line_style(figures: Sequence[DrawnFigure]) -> None:
    for made in figures:
        if "learning curves" not in made.title:
            continue
        for axes in made.figure.axes:
            lines = [one for one in lines_of(axes) if to_hex(one.get_color()) != style.BASELINE]
            assert len(lines) <= LINES_AT_MOST
            for looks in (Counter(to_hex(one.get_color()) for one in lines),
                          Counter(str(one._unscaled_dash_pattern) for one in lines)):  # fmt: skip
                assert not lines or max(looks.values()) == 1, made.title


def test_no_text_has_a_negative_zero_and_units_are_named(found: RoundRecords, figures: Sequence[DrawnFigure]) -> None:
    unit = {"val_psnr": "(dB)", "val_accuracy": "(%)"}.get(str(found.declared.main), "")
    for made in figures:
        texts = [one.get_text().replace("\u2212", "-") for one in texts_of(made.figure)]
        assert not [text for text in texts if text.startswith("-") and float(text or 1) == 0], made.title
        labels = [one.get_ylabel() if "curves" in made.title else one.get_xlabel() for one in made.figure.axes]
        assert any(unit in label for label in labels), made.title


def test_panels_with_the_same_data_have_equal_axes(found: RoundRecords, figures: Sequence[DrawnFigure]) -> None:
    panels = GroupPanels(shown_of(found))
    drawn = iter(figures)
    for kind, of_kind in (("results", panels.results), ("learning", panels.learning)):
        limits: dict[tuple[str, ...], set[Any]] = {}
        for figure in of_kind:
            axes = next(drawn).figure.axes
            columns = len(axes) // len(figure)
            for index, panel in enumerate(figure):
                place = axes[index * columns]
                own = place.get_xlim() if kind == "results" else (*place.get_xlim(), *place.get_ylim())
                limits.setdefault(panel.data, set()).add(own)
        assert all(len(one) == 1 for one in limits.values()), kind


def test_parts_are_figures_of_their_own_with_their_part_of_the_table(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    text, left = flow()
    some = {path: content for path, content in left.items() if path.startswith("euler/32/")}
    with unsynced():
        record_runs(place, text, some)
    requests = {one.name: one for one in figure_requests.figure_requests(read_round("r", place), tmp_path, ("png",))}
    names = [name for name in requests if name.startswith("overviews/")]
    assert names == ["overviews/g_results", "overviews/g_results_2", "overviews/g_results_3", "overviews/g_learning",
                     "overviews/g_learning_2", "overviews/g_learning_3"]  # fmt: skip
    assert plot_experiments.refresh("r", place, jobs=1) == []
    folder = place.results("r") / "plots/overviews"
    drawn = sorted(path.stem for path in folder.glob("*.png"))
    assert drawn == ["g_learning", "g_results"], "parts without any data are not drawn"
    assert "euler, width 32, steps 128" in (folder / "g_results.csv").read_text()


def test_settings_beyond_the_last_figure_are_in_its_table_and_the_caption_counts_them(tmp_path: Path) -> None:
    place, count = folders_in(tmp_path), FIGURES_AT_MOST * ROWS_AT_MOST + 5
    text = f"round: r\nexperiments: {{g: {{path: '{{n}}', grid: {{n: {list(range(count))}}}, command: 'true'}}}}\n"
    with unsynced():
        record_runs(place, text, {str(n): {"speed": n} for n in (0, count - 1)})
    found = read_round("r", place)
    requests = figure_requests.figure_requests(found, tmp_path, ("png",))
    assert sum(one.kind == figure_requests.RESULTS for one in requests) == FIGURES_AT_MOST
    shown = shown_of(found)
    panels = GroupPanels(shown).results
    left_out = sum(len(panel.settings) for figure in panels[FIGURES_AT_MOST:] for panel in figure)
    last = results(shown, FIGURES_AT_MOST - 1)
    assert left_out > 0 and f"{left_out} further settings are in the table of the last figure" in last.caption
    assert last.table[-1]["speed"] == count - 1
    assert results(shown, 0).table[0]["speed"] == 0 and len(results(shown, 0).table) <= ROWS_AT_MOST


def test_bars_and_the_band_of_the_baseline_are_standard_deviations_of_completed_runs(tmp_path: Path) -> None:
    place = folders_in(tmp_path)
    text = """round: r
metrics: {score: {mode: max, main: true}}
experiments:
  plain: {path: "plain/{seed}", grid: {seed: [0, 1, 2]}, command: "true"}
  g: {path: "{lr}/{seed}", grid: {lr: [1, 2], seed: [0, 1, 2]}, command: "true", baseline: plain}
"""
    values = {"plain": [1.0, 2.0, 6.0], "1": [4.0, 5.0, 9.0], "2": [3.0, 4.0, 100.0]}
    record_runs(place, text, {f"{name}/{seed}": {"metric": "score", "mode": "max", "score": value}
                              for name, of in values.items() for seed, value in enumerate(of)})  # fmt: skip
    (place.experiments / "r/2/2/attempts/1/result.json").unlink()
    found = read_round("r", place)
    made = results(shown_of(found))
    (axes,) = made.figure.axes
    segments = [bar.get_segments()[0] for one in axes.containers for bar in one.get_children()[-1:]
                if hasattr(bar, "get_segments") and bar.get_segments()]  # fmt: skip
    widths = [abs(float(segment[1][0] - segment[0][0])) / 2 for segment in segments]
    assert widths[:2] == pytest.approx([np.std([4, 5, 9], ddof=1), np.std([3, 4], ddof=1)])
    (band,) = [one for one in axes.patches if one.get_label() == "plain: standard deviation"]
    assert band.get_extents().transformed(axes.transData.inverted()).width / 2 == pytest.approx(
        np.std([1, 2, 6], ddof=1)
    )
    assert [one.get_text() for one in axes.texts if one.get_text() in "0123"] == ["3", "2"], "n completed experiments"
    assert "Grey: the baseline, group plain, its mean and standard deviation." in made.caption
    (open_dot,) = [one for one in axes.lines if one.get_markerfacecolor() == "white" and len(one.get_xdata())]
    assert list(open_dot.get_xdata()) == [100.0]


def test_a_bar_that_reaches_below_zero_does_not_prevent_a_logarithmic_axis(tmp_path: Path) -> None:
    text = """round: r
metrics: {time: {unit: ms, scale: log, main: true}}
experiments: {g: {path: "{seed}", grid: {seed: [0, 1, 2]}, command: "true"}}
"""
    record_runs(folders_in(tmp_path), text, {str(seed): {"time": 10.0**seed} for seed in (0, 1, 2)})
    (axes,) = results(shown_of(read_round("r", folders_in(tmp_path)))).figure.axes
    low, high = axes.get_xlim()
    assert axes.get_xscale() == "log" and 0.5 < low < 1 and 100 < high < 200


@pytest.mark.parametrize(("ahead", "minus"), [(0.02, True), (0.4, False)])
def test_curves_that_would_coincide_with_the_baseline_are_drawn_as_the_difference_to_it(
    tmp_path: Path, ahead: float, minus: bool
) -> None:
    place = folders_in(tmp_path)
    text = """round: r
metrics: {val_hits: {scale: percent, mode: max, main: true}}
experiments:
  plain: {path: "plain/{seed}", grid: {seed: [0, 1]}, command: "true"}
  g: {path: "{lr}/{seed}", grid: {lr: [1, 2], seed: [0, 1]}, command: "true", baseline: plain}
"""
    more = {"plain/0": 0.0, "plain/1": 0.01, "1/0": ahead, "1/1": ahead, "2/0": -ahead}
    epochs = range(1, 6)
    rows = {name: [{"epoch": one, "val_hits": one / 10 + by} for one in epochs] for name, by in more.items()}
    record_runs(place, text, {path: {"epochs": of, "final": {}} for path, of in rows.items()})
    made = learning(shown_of(read_round("r", place)))
    (axes,) = made.figure.axes
    assert ("minus plain\n(percentage points)" in axes.get_ylabel()) == minus == ("minus the baseline" in made.title)
    (line,) = [one for one in axes.lines if one.get_label() == "lr 1"]
    own = [10 * epoch + 100 * ahead for epoch in range(1, 6)]
    assert list(line.get_ydata()) == pytest.approx([100 * ahead - 0.5] * 5 if minus else own)
    first = next(row for row in made.table if row["setting"] == "lr 1")
    assert first["val_hits_mean"] == pytest.approx(0.1 + ahead), "the table has the values themselves"


def test_a_difference_of_bands_has_the_positions_of_both() -> None:
    band = Band(
        np.array([1.0, 2, 4]), np.array([1.0, 2, 3]), np.array([0.0, 1, 2]), np.array([3.0, 4, 5]), np.array([2, 2, 1])
    )
    other = Band(np.array([2.0, 3, 4]), np.array([10.0, 0, 20]), *[np.zeros(3)] * 2, np.array([1, 1, 1]))
    made = band.minus(other)
    assert [list(one) for one in (made.positions, made.mean, made.low, made.high, made.count)] == [
        [2, 4], [-8, -17], [-9, -18], [-6, -15], [2, 1]
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- style


def test_a_legend_with_too_many_entries_is_cut_and_says_so() -> None:
    with style.rules():
        figure, axes = style.panels(1)
        for index in range(200):
            axes[0].plot([0, 1], label=f"setting number {index}")
        style.legend_below(figure, axes)
    (legend,) = figure.legends
    texts = [one.get_text() for one in legend.get_texts()]
    assert len(texts) < 30 and texts[-1] == f"and {200 - len(texts) + 1} more, see the table"


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(1.2, 1e8))
def test_a_logarithmic_axis_has_labels_whatever_its_range(low: float, ratio: float) -> None:
    with style.rules():
        _, (axes,) = style.panels(1)
        axes.set_yscale("log")
        style.logarithmic(axes.yaxis, low, low * ratio)
        axes.set_ylim(low / 1.1, low * ratio * 1.1)
    inside = [one for one in axes.get_yticks() if low / 1.1 <= one <= low * ratio * 1.1]
    assert 2 <= len(inside) <= 9


@given(st.floats(-1e6, 1e6))
def test_a_number_that_is_rounded_to_zero_has_no_sign(value: float) -> None:
    text = number(value)
    assert not (text.startswith("-") and float(text) == 0)
