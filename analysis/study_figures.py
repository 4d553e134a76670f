"""Draws the figures of a study's own analysis into a store, from functions by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from analysis.figure_store import FigureStore, StoredFigure, key_of, write_figure
from analysis.learning_curves import DrawnFigure
from analysis.style import rules
from roundhouse.errors import RoundhouseError


def draw_figures(
    makers: Mapping[str, Callable[[], DrawnFigure | None]], folder: Path, formats: tuple[str, ...]
) -> tuple[list[str], list[str]]:
    """Draw all figures for which there is data. Returns the names of the others, and a line for each failure."""
    store, without, problems = FigureStore(folder, {}), [], []
    for name, make in makers.items():
        try:
            with rules():
                made = make()
                if made is None:
                    without.append(name)
                    continue
                stored = StoredFigure(name, made.title, made.caption, key_of([]), formats, alt=made.alt)
                write_figure(folder, stored, made.figure, made.table)
        except (KeyError, ValueError, IndexError, TypeError, RoundhouseError) as error:
            problems.append(f"figure {name} cannot be drawn from this data: {type(error).__name__}: {error}")
            continue
        store.figures[name] = stored
    store.save()
    return without, problems
