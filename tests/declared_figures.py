"""What the tests of declared figures share: small rounds with given results and arrays, and the drawn figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from numpy.typing import NDArray
from recorded_runs import folders_in, record_runs

from analysis.declared.draw import draw
from analysis.learning_curves import DrawnFigure
from analysis.rounds import Folders, read_round
from analysis.style import rules
from roundhouse.config.round import load_round
from roundhouse.figures import Figure
from roundhouse.store import record

Config = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]


def drawn(place: Folders, name: str, figure: Figure | str) -> DrawnFigure:
    """A figure of a round, or the declared one of this name, laid out. It is checked that it can be printed.

    RoundhouseError: it cannot be drawn.
    """
    found = read_round(name, place)
    chosen = found.declared.figures[figure] if isinstance(figure, str) else figure
    with rules():
        made = draw("figure", chosen, [(one, tuple(found.baseline_of(one))) for one in found.entries])
        made.figure.draw_without_rendering()
        check_print(made)
    assert made.title and made.caption.count("..") == 0 and made.alt.endswith(".")
    return made


def check_print(made: DrawnFigure) -> None:
    """It fits on a page, all of it is inside the figure, and no text is below 6 points."""
    figure = made.figure
    width, height = figure.get_size_inches()
    assert width <= 7.01 and height <= 9.6
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    box = figure.get_tightbbox(canvas.get_renderer())  # in inches
    assert box.x0 > -0.1 and box.x1 < width + 0.1
    texts = [one for one in figure.findobj(Text) if isinstance(one, Text) and one.get_text() and one.get_visible()]
    assert min(one.get_fontsize() for one in texts) >= 6


def write(folder: Path, text: str, measure: Callable[[Config], Mapping[str, Any] | None]) -> Folders:
    """A round `r` with the declarations and groups of this text.

    `measure`: the final metrics of a run, and `seconds` that it has used; None: it has not run.
    """
    place = folders_in(folder)
    place.rounds.mkdir(parents=True, exist_ok=True)
    text = f"round: r\n{text}"
    (place.rounds / "r.yaml").write_text(text)
    runs = {}
    for one in load_round("r", place.rounds).experiments:
        final = measure(one.config)
        if final is not None:
            used = {"seconds": final["seconds"]} if "seconds" in final else {}
            finals = {name: value for name, value in final.items() if name != "seconds"}
            runs[one.path] = {"version": 1, "final": finals, "used": used, "epochs": []}
    record_runs(place, text, runs)
    return place


def texts_in(made: DrawnFigure) -> list[str]:
    """The texts in the first panel, without titles and ticks."""
    return [one.get_text() for one in made.figure.axes[0].texts]


def write_round(
    folder: Path,
    text: str,
    results: Callable[[Config], Mapping[str, Any]],
    arrays: Callable[[Config], Arrays] | None = None,
    file: str = "outputs.npz",
) -> Folders:
    """A round whose experiments have run. `results` of a config are its metrics.json, `arrays` are in `file`."""
    place = folders_in(folder)
    place.rounds.mkdir(parents=True, exist_ok=True)
    name = text.partition("round:")[2].split()[0]
    (place.rounds / f"{name}.yaml").write_text(text)
    experiments = load_round(name, place.rounds).experiments
    record_runs(place, text, {one.path: {"version": 1, "epochs": [], **results(one.config)} for one in experiments})
    for one in experiments if arrays else ():
        path = file_of(place, name, one.path, file)
        path.parent.mkdir(exist_ok=True)
        assert arrays
        np.savez(path, **arrays(one.config))  # type: ignore[arg-type]
    return place


def file_of(place: Folders, name: str, path: str, file: str = "outputs.npz") -> Path:
    return record.attempt_directory(place.experiments / name / path, 1) / file


def texts_of(made: DrawnFigure) -> str:
    """All text in a figure."""
    found = made.figure.findobj(Text)
    return "\n".join(one.get_text() for one in found if isinstance(one, Text) and one.get_visible())
