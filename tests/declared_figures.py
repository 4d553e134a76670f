"""What the tests of declared figures share: small rounds with given results, and the drawn figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from recorded_runs import folders_in, record_runs

from analysis.declared.draw import draw
from analysis.learning_curves import DrawnFigure
from analysis.rounds import Folders, read_round
from analysis.style import rules
from roundhouse.config.round import load_round
from roundhouse.figures import Figure

Config = Mapping[str, Any]


def drawn(place: Folders, name: str, figure: Figure) -> DrawnFigure:
    """The figure of a round, laid out. It is checked that it can be printed."""
    found = read_round(name, place)
    with rules():
        made = draw("figure", figure, [(one, tuple(found.baseline_of(one))) for one in found.entries])
        made.figure.draw_without_rendering()
        check_print(made)
    assert made.caption.count("..") == 0 and made.alt.endswith(".")
    return made


def check_print(made: DrawnFigure) -> None:
    """At most 7 inches wide, all of it inside the figure, no text below 6 points."""
    figure = made.figure
    assert figure.get_figwidth() <= 7
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    box = figure.get_tightbbox(canvas.get_renderer())  # in inches
    assert box.x0 > -0.1 and box.x1 < figure.get_figwidth() + 0.1
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
