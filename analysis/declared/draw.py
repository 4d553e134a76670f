"""Draws a declared figure: by its kind, in the module of that kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module

from analysis.declared.runs import FigureRuns
from analysis.learning_curves import DrawnFigure
from analysis.rounds import WithBaseline
from roundhouse.errors import RoundhouseError
from roundhouse.figures import Figure, unknown_keys


def draw(name: str, figure: Figure, round_runs: Sequence[WithBaseline]) -> DrawnFigure:
    """The figure `name` of a round, whose experiments are given with their baselines.

    RoundhouseError: no experiment has what it names; the message has the nearest name that exists.
    """
    known = dict.fromkeys(key for entry, _ in round_runs for key in entry.config)
    for where, message in unknown_keys(figure, known):
        raise RoundhouseError(f"{where}: {message}")
    runs = FigureRuns(figure, round_runs)
    if not runs.entries:
        raise RoundhouseError("no experiment has all config keys that it names")
    draw_kind: Callable[[FigureRuns], DrawnFigure] = import_module(f"analysis.declared.{figure.kind}").draw
    made = draw_kind(runs)
    title, caption = figure.title or made.title or name, f"{made.caption} {runs.states}"
    if caption.startswith((f"{title}.", f"{title}:", f"{title},", f"{title};")):
        caption = caption[len(title) + 1 :].strip()  # the report shows both
    return replace(made, title=title[:1].upper() + title[1:], caption=caption[:1].upper() + caption[1:])
