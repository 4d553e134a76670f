"""Small rounds with given results, arrays and declared figures, and what is drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.text import Text
from numpy.typing import NDArray
from recorded_runs import folders_in, record_runs

from analysis.declared import draw as declared
from analysis.learning_curves import DrawnFigure
from analysis.rounds import Folders, read_round
from analysis.style import rules
from roundhouse.config.round import load_round
from roundhouse.store import record

Config = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]


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


def drawn(place: Folders, name: str, figure: str) -> DrawnFigure:
    """A declared figure of a round. RoundhouseError: it cannot be drawn."""
    found = read_round(name, place)
    assert not found.problems
    round_runs = [(one, tuple(found.baseline_of(one))) for one in found.entries]
    with rules():
        return declared.draw(figure, found.declared.figures[figure], round_runs)


def texts_of(made: DrawnFigure) -> str:
    """All text in a figure."""
    found = made.figure.findobj(Text)
    return "\n".join(one.get_text() for one in found if isinstance(one, Text) and one.get_visible())


def assert_readable(made: DrawnFigure) -> None:
    """It fits on a page, no text is smaller than 6 points, and it is explained in words."""
    width, height = made.figure.get_size_inches()
    assert width <= 7.01 and height <= 9.6
    sizes = [one.get_fontsize() for one in made.figure.findobj(Text) if isinstance(one, Text) and one.get_text()]
    assert min(sizes) >= 6
    assert made.caption and made.alt and made.title
